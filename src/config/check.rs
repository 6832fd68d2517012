//! Checks of single values; an error continues a sentence that begins with the key.

use std::path::PathBuf;

use url::Url;

use crate::manifest::quoted;

/// A label of RFC 1123: what names of namespaces and Deployments are.
pub(super) fn label(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let valid = (1..=63).contains(&text.len())
        && text.starts_with(plain)
        && text.ends_with(plain)
        && text.chars().all(|c| plain(c) || c == '-');
    if valid {
        return Ok(text.to_owned());
    }
    Err(format!(
        "is not a name: {}; write lower-case letters, digits and `-`, at most 63, beginning and ending with a letter or digit",
        quoted(text)
    ))
}

/// Usable in a branch, a label and the name of an object.
pub(super) fn cluster(text: &str) -> Result<String, String> {
    label(text)
}

/// A URL of a Git repository. What may be a credential is refused and not repeated.
pub(super) fn git_url(text: &str) -> Result<Url, String> {
    const SCHEMES: &str = "write it as https://…, http://…, ssh://… or file:///…";
    let Ok(url) = Url::parse(text) else {
        // `git@host:path` of scp, which carries no secret.
        let remedy = match text.split_once(':') {
            Some((host, path)) if host.starts_with("git@") && !path.starts_with('/') && !path.contains('@') => {
                format!("write {}", quoted(&format!("ssh://{host}/{path}")))
            }
            _ => SCHEMES.to_owned(),
        };
        return Err(format!("is not a URL: {remedy}"));
    };
    let secret = url.password().is_some() || (matches!(url.scheme(), "http" | "https") && !url.username().is_empty());
    if secret {
        return Err(
            "holds credentials: put them into the files of `secretDir`, and remove them from the URL".to_owned()
        );
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must not have a query or a fragment (`?` or `#`)".to_owned());
    }
    let complete = match url.scheme() {
        "https" | "http" | "ssh" => url.host_str().is_some_and(|host| !host.is_empty()) && url.path().len() > 1,
        "file" => url.host_str().is_none() && url.path().len() > 1,
        other => return Err(format!("has the scheme {}: {SCHEMES}", quoted(other))),
    };
    if complete { Ok(url) } else { Err("names no repository: write host and path".to_owned()) }
}

pub(super) fn web_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|_| "is not a URL: write it as https://…".to_owned())?;
    let plain =
        url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    match (url.scheme(), plain) {
        ("http" | "https", true) => Ok(url),
        ("http" | "https", false) => Err("must be host and path only, without credentials or a query".to_owned()),
        (other, _) => Err(format!("has the scheme {}: write https://…", quoted(other))),
    }
}

/// The rules of `git check-ref-format --branch`.
pub(super) fn branch(text: &str) -> Result<String, String> {
    let bad_char = |c: char| c.is_control() || matches!(c, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\');
    let bad_part = |part: &str| part.is_empty() || part.starts_with('.') || part.ends_with(".lock");
    let bad = text.is_empty()
        || text.len() > 200
        || text == "@"
        || text == "HEAD"
        || text.starts_with('-')
        || text.ends_with('.')
        || text.contains("..")
        || text.contains("@{")
        || text.contains(bad_char)
        || text.split('/').any(bad_part);
    if bad { Err(format!("is not a name of a branch: {}", quoted(text))) } else { Ok(text.to_owned()) }
}

/// A folder of the repository, without slashes at its ends; `.` and `/` are the whole of it.
pub(super) fn tree_path(text: &str) -> Result<String, String> {
    let parts: Vec<_> = text.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.iter().any(|part| matches!(*part, ".." | ".git"))
        || text.contains('\\')
        || text.chars().any(char::is_control)
    {
        return Err(format!("must be a folder of the repository: {}", quoted(text)));
    }
    Ok(parts.join("/"))
}

pub(super) fn directory(text: &str) -> Result<PathBuf, String> {
    if text.trim().is_empty() || text.contains('\0') {
        return Err("is empty: name a folder or remove it".to_owned());
    }
    Ok(PathBuf::from(text))
}

/// Absolute: the agent's working folder differs between a shell and a pod.
pub(super) fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = directory(text)?;
    if path.is_absolute() { Ok(path) } else { Err(format!("must be an absolute path, not {}", quoted(text))) }
}

/// Git writes the author on one line, with the address in angle brackets.
pub(super) fn author(text: &str) -> Result<String, String> {
    let plain = !text.trim().is_empty() && !text.chars().any(|c| c.is_control() || matches!(c, '<' | '>'));
    if plain { Ok(text.to_owned()) } else { Err(format!("is not a name that Git takes: {}", quoted(text))) }
}

pub(super) fn email(text: &str) -> Result<String, String> {
    let address = text.split_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty());
    let plain = !text.chars().any(|c| c.is_control() || c.is_whitespace() || matches!(c, '<' | '>'));
    if address && plain { Ok(text.to_owned()) } else { Err(format!("is not an address: {}", quoted(text))) }
}
