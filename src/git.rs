//! Git: the source that is watched, and the branch that status goes to.
//!
//! libgit2 keeps the objects and speaks Git's protocol; HTTP under it is ours (`git/http`), because libgit2's own has one set of
//! authorities and time-outs for the whole process, needs OpenSSL, and takes `Authorization` along when a server redirects to
//! another port. Ours reads `secretDir` at each connection, so that rotated passwords and authorities are taken; the authorities
//! of `ca.crt` are trusted beside the system's, for this remote alone.
//!
//! What holds:
//! - A clone is a cache (`git/cache`): bare, in a folder of one process (a lock file held by `flock`, which the kernel gives back
//!   whatever ends the process; a folder named after a pid would be cloned anew at every start and left behind after a crash).
//!   It may vanish or be half written at any time; what is wrong with it is answered by deleting it and cloning again.
//! - Nothing is checked out. Blobs are read from the object store, and symbolic links are never followed.
//! - A push is never forced: the server compares the branch's tip with the parent of what is pushed.
//! - No credential is in an error, a log or a URL. What a server says is cut, cleaned and searched for the secrets first.
//!
//! Everything here blocks. Async callers go through [`blocking`].

mod auth;
mod branch;
mod cache;
mod commit;
mod error;
mod fetch;
mod history;
mod http;
mod id;
mod process;
mod remote;
mod revision;
mod tree;

pub use branch::{Edit, ReadBranch, TipFiles, WriteBranch};
pub use commit::{Author, FileEdit, Published, StatusBranch, StatusTree};
pub use error::GitError;
pub use fetch::{Fetched, Mirror};
pub use history::{Change, CommitInfo, Completeness, FileChange, FileVersion};
pub use id::{BlobId, CommitId, InvalidId, TreeId};
pub use process::{blocking, init_process, offload};
pub use remote::{Remote, Timeouts};
pub use tree::{FileAt, Skipped, SkippedReason, Snapshot, SourceFile, TreeLimits};
