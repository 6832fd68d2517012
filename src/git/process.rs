//! What holds for the whole process: libgit2's options, and the way from async code to here.

use std::sync::{Mutex, OnceLock, PoisonError};

use tracing::Span;

use super::error::GitError;
use super::http;

static STARTED: OnceLock<()> = OnceLock::new();
static STARTING: Mutex<()> = Mutex::new(());

/// Sets libgit2's process-wide options; later calls do nothing.
///
/// No configuration of the machine or the user is read (`insteadOf`, author, proxies of someone else); a repository may belong to
/// another user (volumes of pods do); our HTTP is the transport of `http::SCHEME`.
///
/// # Errors
///
/// [`GitError::NotStarted`] when libgit2 refuses an option, which no version we build does.
pub fn init_process() -> Result<(), GitError> {
    let _one_at_a_time = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if STARTED.get().is_none() {
        set_options().map_err(|_| GitError::NotStarted)?;
        STARTED.get_or_init(|| ());
    }
    Ok(())
}

#[expect(unsafe_code, reason = "libgit2 keeps its options and transports in globals without a lock")]
fn set_options() -> Result<(), git2::Error> {
    use git2::ConfigLevel::{Global, ProgramData, System, XDG};
    // SAFETY: these calls write globals that libgit2 reads without a lock, so no other thread may be in libgit2 meanwhile.
    // All of libgit2 in this crate is reached through `Cache::open`, which refuses until `STARTED` is set, and through
    // `demo::repository`, which calls `init_process` first; `STARTED` is set after this function, which runs under `STARTING`,
    // and the `OnceLock` makes its writes visible to whoever sees it set.
    unsafe {
        for level in [System, Global, XDG, ProgramData] {
            git2::opts::set_search_path(level, "")?;
        }
        git2::opts::set_verify_owner_validation(false)?;
        git2::transport::register(http::SCHEME, http::transport)
    }
}

/// Refuses until [`init_process`] has returned.
pub(super) fn started() -> Result<(), GitError> {
    STARTED.get().copied().ok_or(GitError::NotStarted)
}

/// [`blocking`] for what blocks; what does not is done at once.
pub async fn offload<T: Send + 'static>(blocks: bool, work: impl FnOnce() -> T + Send + 'static) -> T {
    match blocks {
        true => blocking(work).await,
        false => work(),
    }
}

/// Runs blocking Git work away from the async threads, inside the caller's span.
///
/// A panic of `work` goes on in the caller. When the runtime shuts down first, this never returns, like all else on it.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let span = Span::current();
    match tokio::task::spawn_blocking(move || span.in_scope(work)).await {
        Ok(value) => value,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => std::future::pending().await,
    }
}
