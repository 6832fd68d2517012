//! What can go wrong with a remote or with its cache.

use std::io;
use std::path::PathBuf;

/// Why Git work failed.
///
/// URLs in it carry no user information, and `detail`, which is what a server or libgit2 said, is cut to 400 characters on one line,
/// with secrets taken out.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    #[error("git is not set up: call git::init_process first")]
    NotStarted,
    #[error("the Git URL {url} {problem}")]
    Url { url: String, problem: String },
    #[error("the branch name {branch:?} is not valid in Git")]
    BranchName { branch: String },
    #[error("the path {path:?} {problem}")]
    Path { path: String, problem: String },
    #[error(
        "commits cannot be made as {name:?} <{email}>: a name and an address without <, > and line ends are needed"
    )]
    Author { name: String, email: String },
    #[error("cannot use the Git credentials in {}: {problem}", path.display())]
    Secret { path: PathBuf, problem: String },
    #[error("{url} refuses the credentials ({detail}); {remedy}")]
    Auth { url: String, detail: String, remedy: &'static str },
    #[error(
        "{url} is not a Git repository that can be read ({detail}); check the URL, and that the credentials may see it"
    )]
    NotFound { url: String, detail: String },
    #[error("{url} has no branch {branch:?}")]
    BranchMissing { url: String, branch: String },
    #[error("{revision:?} {problem}")]
    Revision { revision: String, problem: &'static str },
    #[error("branch {branch:?} of {url} does not lead to the commit {commit}")]
    CommitMissing { url: String, branch: String, commit: String },
    #[error("{url} cannot be reached: {detail}")]
    Unreachable { url: String, detail: String },
    #[error("no safe connection to {url}: {detail}")]
    Tls { url: String, detail: String },
    #[error(
        "{url} redirects to {to}, and credentials do not follow to another server; write that URL in the configuration"
    )]
    Redirect { url: String, to: String },
    #[error("{url} does not take the push to {branch}: {detail}")]
    Rejected { url: String, branch: String, detail: String },
    #[error("someone else was faster {tries} times at pushing to {branch} of {url}; last answer: {detail}")]
    Contended { url: String, branch: String, tries: u32, detail: String },
    #[error("the history of {url} was rewritten while it was read; fetch again")]
    Moved { url: String },
    #[error("{what} is larger than the limit of {limit}")]
    TooLarge { what: String, limit: String },
    #[error("the cache {} is in use by another process; give each process a folder of its own", dir.display())]
    Busy { dir: PathBuf },
    #[error("the cache {} is damaged ({detail}) and will be cloned anew", dir.display())]
    Cache { dir: PathBuf, detail: String },
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

impl GitError {
    /// Whether the same call may work later although nobody changed anything.
    pub fn transient(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Contended { .. }
            | Self::Moved { .. }
            | Self::Busy { .. }
            | Self::Cache { .. }
            | Self::Io { .. } => true,
            Self::NotStarted
            | Self::Url { .. }
            | Self::BranchName { .. }
            | Self::Path { .. }
            | Self::Author { .. }
            | Self::Secret { .. }
            | Self::Auth { .. }
            | Self::NotFound { .. }
            | Self::BranchMissing { .. }
            | Self::Revision { .. }
            | Self::CommitMissing { .. }
            | Self::Tls { .. }
            | Self::Redirect { .. }
            | Self::Rejected { .. }
            | Self::TooLarge { .. } => false,
        }
    }

    /// A fixed word for each kind, for metrics and events.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotStarted => "GitNotStarted",
            Self::Url { .. } => "GitUrlInvalid",
            Self::BranchName { .. } => "GitBranchInvalid",
            Self::Path { .. } => "GitPathInvalid",
            Self::Author { .. } => "GitAuthorInvalid",
            Self::Secret { .. } => "GitCredentialsUnreadable",
            Self::Auth { .. } => "GitAuthFailed",
            Self::NotFound { .. } => "GitRepositoryNotFound",
            Self::BranchMissing { .. } => "GitBranchMissing",
            Self::Revision { .. } => "GitRevisionUnknown",
            Self::CommitMissing { .. } => "GitCommitMissing",
            Self::Unreachable { .. } => "GitUnreachable",
            Self::Tls { .. } => "GitTlsFailed",
            Self::Redirect { .. } => "GitRedirected",
            Self::Rejected { .. } => "GitPushRejected",
            Self::Contended { .. } => "GitPushContended",
            Self::Moved { .. } => "GitHistoryMoved",
            Self::TooLarge { .. } => "GitTooLarge",
            Self::Busy { .. } => "GitCacheBusy",
            Self::Cache { .. } => "GitCacheDamaged",
            Self::Io { .. } => "GitIo",
        }
    }
}

/// An error inside this room: the remote's part is final, the cache's part is answered by cloning anew.
#[derive(Debug)]
pub(super) enum Fault {
    Told(GitError),
    Local(git2::Error),
}

impl From<GitError> for Fault {
    fn from(error: GitError) -> Self {
        Self::Told(error)
    }
}

impl From<git2::Error> for Fault {
    fn from(error: git2::Error) -> Self {
        Self::Local(error)
    }
}
