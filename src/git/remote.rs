//! Where a repository is, read once into what cannot be wrong.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::error::GitError;

/// A repository that somebody else keeps, and the folder with the credentials for it.
#[derive(Clone, Debug)]
pub struct Remote {
    /// `https://`, `http://` or `file://`, without user information.
    pub url: String,
    /// Keys as Flux names them: `username` and `password`, or `bearerToken`; `ca.crt` in PEM, trusted beside the system's.
    pub secret_dir: Option<PathBuf>,
    pub timeouts: Timeouts,
}

/// How long a server may keep us waiting.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// For the next bytes of an answer.
    pub data: Duration,
    /// For everything over one connection, against a server that sends a byte now and then.
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(30), data: Duration::from_secs(30), total: Duration::from_secs(15 * 60) }
    }
}

impl Remote {
    pub fn new(url: impl Into<String>, secret_dir: Option<PathBuf>) -> Self {
        Self { url: url.into(), secret_dir, timeouts: Timeouts::default() }
    }

    /// # Errors
    ///
    /// [`GitError::Url`] for what is not a repository's address, carries credentials, or is not built yet (ssh).
    pub(super) fn location(&self) -> Result<Location, GitError> {
        let refuse = |url: String, problem: &str| Err(GitError::Url { url, problem: problem.to_owned() });
        let scp_like = !self.url.contains("://") && self.url.contains(':');
        let Ok(url) = Url::parse(&self.url) else {
            let problem = if scp_like { SSH } else { "cannot be read; expected https://, http:// or file://" };
            return refuse("of the configuration".to_owned(), problem);
        };
        let shown = shown(&url);
        match url.scheme() {
            "ssh" | "git+ssh" => refuse(shown, SSH),
            _ if scp_like => refuse("of the configuration".to_owned(), SSH),
            "http" | "https" if !url.username().is_empty() || url.password().is_some() => refuse(
                shown,
                "carries a user or password; put them into secretDir, as the files username and password, or bearerToken",
            ),
            "http" | "https" if url.query().is_some() || url.fragment().is_some() => {
                refuse(shown, "carries a query or fragment; a token belongs into secretDir, as the file bearerToken")
            }
            "http" | "https" => Ok(Location::Http(url)),
            "file" => match url.to_file_path() {
                Ok(path) if path.to_str().is_some() => Ok(Location::File(path)),
                Ok(_) | Err(()) => refuse(shown, "is not an absolute path in UTF-8 on this machine"),
            },
            _ => refuse(shown, "has a scheme that is not supported; expected https, http or file"),
        }
    }
}

const SSH: &str = "is for ssh, which is not built yet; use https";

/// A remote's address after it was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Location {
    Http(Url),
    File(PathBuf),
}

impl Location {
    /// The address as people may see it.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Http(url) => shown(url),
            Self::File(path) => format!("file://{}", path.display()),
        }
    }
}

/// A URL without user information, query and fragment.
pub(super) fn shown(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{host}{port}{}", url.scheme(), url.path())
}

/// Checks a branch's short name (`main`, `reinback/prod`) by Git's own rules.
pub(super) fn checked_branch(branch: &str) -> Result<String, GitError> {
    let name = format!("refs/heads/{branch}");
    let valid = git2::Reference::is_valid_name(&name) && !branch.starts_with('-') && !branch.contains(['*', ':']);
    if valid { Ok(branch.to_owned()) } else { Err(GitError::BranchName { branch: branch.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        Remote::new(url, None).location().expect_err(url).to_string()
    }

    #[test]
    fn a_url_with_credentials_is_refused_without_showing_them() {
        let text = refused("https://ops:hunter2@git.example.org:8443/ops/rancher.git?private_token=hunter3");
        insta::assert_snapshot!(text, @"the Git URL https://git.example.org:8443/ops/rancher.git carries a user or password; put them into secretDir, as the files username and password, or bearerToken");
        insta::assert_snapshot!(refused("https://hunter2@git.example.org/ops.git"), @"the Git URL https://git.example.org/ops.git carries a user or password; put them into secretDir, as the files username and password, or bearerToken");
        insta::assert_snapshot!(refused("https://git.example.org/ops.git?private_token=hunter3"), @"the Git URL https://git.example.org/ops.git carries a query or fragment; a token belongs into secretDir, as the file bearerToken");
    }

    #[test]
    fn ssh_is_refused_as_not_built_yet() {
        insta::assert_snapshot!(refused("ssh://git@git.example.org/ops.git"), @"the Git URL ssh://git.example.org/ops.git is for ssh, which is not built yet; use https");
        insta::assert_snapshot!(refused("git@git.example.org:ops/rancher.git"), @"the Git URL of the configuration is for ssh, which is not built yet; use https");
    }

    #[test]
    fn other_schemes_and_nonsense_are_refused() {
        insta::assert_snapshot!(refused("ext::sh -c whoami"), @"the Git URL of the configuration is for ssh, which is not built yet; use https");
        insta::assert_snapshot!(refused("git://git.example.org/ops.git"), @"the Git URL git://git.example.org/ops.git has a scheme that is not supported; expected https, http or file");
        insta::assert_snapshot!(refused("ops/rancher.git"), @"the Git URL of the configuration cannot be read; expected https://, http:// or file://");
    }

    #[test]
    fn branch_names_follow_the_rules_of_git() {
        for good in ["main", "reinback/prod"] {
            assert!(checked_branch(good).is_ok(), "{good}");
        }
        for bad in ["", "a..b", "a b", "-x", "a*", "a:b", "/a", "a.lock", "a\nb"] {
            assert!(checked_branch(bad).is_err(), "{bad}");
        }
    }
}
