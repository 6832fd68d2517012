//! Looks at once when a file changed that a pass goes by; polling stays the truth.
//!
//! What a mount or a push changes is seen by inotify (or what the system has). A watch that cannot be set, or misses
//! something, costs at most the interval.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{debug, info};

use crate::config::Config;

/// A push or a mount writes several files: this long nothing more has to happen.
const QUIET: Duration = Duration::from_millis(200);
/// Something that never rests is looked at all the same.
const AT_MOST: Duration = Duration::from_secs(2);

/// A folder, and which of the files in it count.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Watch {
    folder: PathBuf,
    mode: RecursiveMode,
    files: Files,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Files {
    /// Kubernetes swaps a link beside the files of a Secret, so no name is told from another.
    All,
    Only(PathBuf),
}

impl Watch {
    fn counts(&self, path: &Path) -> bool {
        match &self.files {
            Files::All => path.starts_with(&self.folder),
            Files::Only(file) => path == file,
        }
    }
}

/// Watches until it is dropped.
pub struct Wake {
    woken: Arc<Notify>,
    _watcher: Option<RecommendedWatcher>,
}

impl Wake {
    /// Watches the folders of credentials, and the refs of a source on this machine.
    pub fn start(config: &Config) -> Self {
        let woken = Arc::new(Notify::new());
        let watches = watches(config);
        let watcher = match watch(watches, Arc::clone(&woken)) {
            Ok(watcher) => Some(watcher),
            Err(problem) => {
                info!("changes of files are seen at the next look only: {problem}");
                None
            }
        };
        Self { woken, _watcher: watcher }
    }

    /// Returns when something changed, and has come to rest.
    pub async fn woken(&self) {
        self.woken.notified().await;
        let latest = Instant::now() + AT_MOST;
        while Instant::now() < latest {
            if tokio::time::timeout(QUIET, self.woken.notified()).await.is_err() {
                break;
            }
        }
    }
}

fn watch(watches: Vec<Watch>, woken: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let counted = watches.clone();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        // Our own reading is an event, too.
        let Ok(event) = event else { return };
        let counts = |path: &PathBuf| counted.iter().any(|watch| watch.counts(path));
        if !event.kind.is_access() && event.paths.iter().any(counts) {
            woken.notify_one();
        }
    })?;
    for Watch { folder, mode, files: _ } in &watches {
        if let Err(problem) = watcher.watch(folder, *mode) {
            debug!("{} is not watched: {problem}", folder.display());
        }
    }
    Ok(watcher)
}

fn watches(config: &Config) -> Vec<Watch> {
    let secrets = [&config.source.secret_dir, &config.status.secret_dir];
    let secrets = secrets.into_iter().flatten().filter_map(|folder| {
        let folder = std::path::absolute(folder).ok()?;
        Some(Watch { folder, mode: RecursiveMode::NonRecursive, files: Files::All })
    });
    let source = (config.source.url.scheme() == "file").then(|| config.source.url.to_file_path().ok()).flatten();
    let refs = source.map(|source| refs(&source, &config.source.branch)).unwrap_or_default();
    secrets.chain(refs).collect()
}

/// A branch is a file of its own, or a line of `packed-refs`.
fn refs(repository: &Path, branch: &str) -> Vec<Watch> {
    let git = match repository.join(".git") {
        inner if inner.is_dir() => inner,
        _ => repository.to_owned(),
    };
    let heads = git.join("refs/heads");
    let loose = Files::Only(heads.join(branch));
    let packed = Files::Only(git.join("packed-refs"));
    vec![
        Watch { folder: heads, mode: RecursiveMode::Recursive, files: loose },
        Watch { folder: git, mode: RecursiveMode::NonRecursive, files: packed },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn is_woken(wake: &Wake, within: Duration) -> bool {
        tokio::time::timeout(within, wake.woken()).await.is_ok()
    }

    fn wake(watches: Vec<Watch>) -> Wake {
        let woken = Arc::new(Notify::new());
        let watcher = watch(watches, Arc::clone(&woken)).expect("the system watches files");
        Wake { woken, _watcher: Some(watcher) }
    }

    #[tokio::test]
    async fn the_watched_branch_wakes_and_another_does_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let heads = folder.path().join("refs/heads");
        std::fs::create_dir_all(heads.join("team")).expect("a folder");
        let wake = wake(refs(folder.path(), "team/main"));
        let put = |name: &str| {
            // As Git does: written beside, then renamed.
            let lock = heads.join(format!("{name}.lock"));
            std::fs::write(&lock, "0".repeat(40)).expect("writable");
            std::fs::rename(&lock, heads.join(name)).expect("renamed");
        };
        put("reinback");
        assert!(!is_woken(&wake, QUIET * 3).await);
        put("team/main");
        assert!(is_woken(&wake, AT_MOST * 2).await);
        assert!(!is_woken(&wake, QUIET * 3).await, "once for all of it");
        std::fs::write(folder.path().join("packed-refs"), "").expect("writable");
        assert!(is_woken(&wake, AT_MOST * 2).await);
    }

    #[tokio::test]
    async fn credentials_wake_when_they_change_and_not_when_they_are_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("password");
        std::fs::write(&file, "old").expect("writable");
        let all = Watch { folder: folder.path().to_owned(), mode: RecursiveMode::NonRecursive, files: Files::All };
        let missing = Watch { folder: folder.path().join("missing"), ..all.clone() };
        let wake = wake(vec![missing, all]);
        assert_eq!(std::fs::read(&file).expect("readable"), b"old");
        assert!(!is_woken(&wake, QUIET * 3).await);
        std::fs::write(&file, "new").expect("writable");
        assert!(is_woken(&wake, AT_MOST * 2).await);
    }
}
