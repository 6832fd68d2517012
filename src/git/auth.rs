//! Credentials, read from `secretDir` at each connection, and kept out of every text.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::HeaderValue;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use secrecy::{ExposeSecret as _, SecretString};

use super::error::GitError;

/// Largest file in `secretDir`, in bytes: a Secret of Kubernetes holds at most 1 MiB.
const FILE_BYTES: u64 = 1024 * 1024;
/// Longest text of a server that is passed on, in characters.
const DETAIL_CHARS: usize = 400;

/// What one connection needs.
#[derive(Default)]
pub(super) struct Credentials {
    /// Marked sensitive: HTTP libraries do not show it.
    pub(super) authorization: Option<HeaderValue>,
    pub(super) authorities: Vec<CertificateDer<'static>>,
    pub(super) scrubber: Scrubber,
}

/// Reads the keys that Flux uses. A missing key is fine; a missing folder is not.
pub(super) fn read(dir: Option<&Path>) -> Result<Credentials, GitError> {
    let Some(dir) = dir else { return Ok(Credentials::default()) };
    let refuse = |problem: &str| GitError::Secret { path: dir.to_owned(), problem: problem.to_owned() };
    if !dir.is_dir() {
        return Err(refuse("there is no such folder"));
    }
    let username = read_text(dir, "username")?;
    let password = read_text(dir, "password")?;
    let token = read_text(dir, "bearerToken")?;
    let mut scrubber = Scrubber::default();
    let authorization = match (username, password, token) {
        (None, None, None) => None,
        (None, None, Some(token)) => {
            scrubber.hide(&token);
            Some(header("Bearer ", token.expose_secret()))
        }
        (Some(user), Some(password), None) => {
            let pair = SecretString::from(format!("{}:{}", user.expose_secret(), password.expose_secret()));
            scrubber.hide(&password);
            scrubber.hide(&pair);
            Some(header("Basic ", &BASE64_STANDARD.encode(pair.expose_secret())))
        }
        (_, _, Some(_)) => return Err(refuse("it holds bearerToken beside username or password; keep one of the two")),
        (Some(_), None, None) => return Err(refuse("it holds username without password")),
        (None, Some(_), None) => return Err(refuse("it holds password without username")),
    };
    let authorization =
        authorization.transpose().map_err(|()| refuse("a value has characters that no HTTP header takes"))?;
    Ok(Credentials { authorization, authorities: read_authorities(dir)?, scrubber })
}

fn header(scheme: &str, secret: &str) -> Result<HeaderValue, ()> {
    let text = SecretString::from(format!("{scheme}{secret}"));
    let mut value = HeaderValue::from_str(text.expose_secret()).map_err(|_| ())?;
    value.set_sensitive(true);
    Ok(value)
}

fn read_text(dir: &Path, key: &str) -> Result<Option<SecretString>, GitError> {
    let Some(bytes) = read_key(dir, key)? else { return Ok(None) };
    let text = String::from_utf8(bytes)
        .map_err(|_| GitError::Secret { path: dir.join(key), problem: "it is not UTF-8".to_owned() })?;
    // Editors and `echo` end a file with a line end; a Secret made from it would never fit.
    let trimmed = text.trim_end_matches(['\r', '\n']);
    Ok((!trimmed.is_empty()).then(|| SecretString::from(trimmed)))
}

fn read_authorities(dir: &Path) -> Result<Vec<CertificateDer<'static>>, GitError> {
    let Some(pem) = read_key(dir, "ca.crt")? else { return Ok(Vec::new()) };
    let refuse = || GitError::Secret { path: dir.join("ca.crt"), problem: "it holds no certificate in PEM".to_owned() };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(authorities) if !authorities.is_empty() => Ok(authorities),
        Ok(_) | Err(_) => Err(refuse()),
    }
}

fn read_key(dir: &Path, key: &str) -> Result<Option<Vec<u8>>, GitError> {
    let path = dir.join(key);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(GitError::Io { action: "open", path, source }),
    };
    let mut bytes = Vec::new();
    match file.take(FILE_BYTES + 1).read_to_end(&mut bytes) {
        Ok(_) if bytes.len() as u64 <= FILE_BYTES => Ok(Some(bytes)),
        Ok(_) => Err(GitError::Secret { path, problem: format!("it is larger than {FILE_BYTES} bytes") }),
        Err(source) => Err(GitError::Io { action: "read", path, source }),
    }
}

/// Takes secrets out of texts that others wrote: raw, percent-encoded and in base64.
#[derive(Default, Clone)]
pub(super) struct Scrubber {
    needles: Vec<SecretString>,
}

impl Scrubber {
    fn hide(&mut self, secret: &SecretString) {
        let raw = secret.expose_secret();
        let form: String = url::form_urlencoded::byte_serialize(raw.as_bytes()).collect();
        let path = percent_encoded(raw);
        let mut forms = vec![raw.to_owned(), form.replace('+', "%20"), path.to_lowercase(), path, form];
        forms.extend((0..3).flat_map(|before| base64_forms(raw, before)).flatten());
        self.needles.extend(forms.into_iter().map(SecretString::from));
        // A longer form goes first, or its head would be taken out and its tail left.
        self.needles.sort_by_key(|needle| std::cmp::Reverse(needle.expose_secret().len()));
    }

    /// One line of at most 400 characters without secrets and control characters; never empty.
    pub(super) fn clean(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for needle in &self.needles {
            text = text.replace(needle.expose_secret(), "***");
        }
        let lines = text.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty());
        let line = lines.collect::<Vec<_>>().join("; ");
        let mut clean: String = line.chars().filter(|c| !c.is_control()).take(DETAIL_CHARS).collect();
        if clean.is_empty() {
            clean.push_str("no reason given");
        }
        clean
    }
}

/// What a secret looks like in any base64 text in which it stands after `before` bytes (modulo 3), as a password stands after the
/// user's name: at its end, with and without padding, and in its middle. Fewer than four characters would be found everywhere.
fn base64_forms(raw: &str, before: usize) -> [Option<String>; 3] {
    let mut bytes = vec![0; before];
    bytes.extend_from_slice(raw.as_bytes());
    let start = (before * 8).div_ceil(6);
    let inside = bytes.len() * 8 / 6;
    let padded = BASE64_STANDARD.encode(&bytes);
    let bare = padded.trim_end_matches('=');
    [padded.get(start..), bare.get(start..), bare.get(start..inside)]
        .map(|form| form.filter(|form| form.len() >= 4).map(str::to_owned))
}

fn percent_encoded(raw: &str) -> String {
    let unreserved = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    raw.bytes()
        .map(|byte| if unreserved(&byte) { (byte as char).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_is_passed_on_without_secrets_in_any_spelling() {
        let mut scrubber = Scrubber::default();
        scrubber.hide(&SecretString::from("p@ss wörd/1"));
        let base64 = BASE64_STANDARD.encode("deploy:p@ss wörd/1");
        let said = format!(
            "denied p@ss wörd/1\r\nand p%40ss%20w%C3%B6rd%2F1, p%40ss+w%C3%B6rd%2F1, p%40ss%20w%c3%b6rd%2f1\n\n{base64}\u{1b}[31m"
        );
        insta::assert_snapshot!(scrubber.clean(&said), @"denied ***; and ***, ***, ***; ZGVwbG95On***[31m");
    }

    #[test]
    fn an_empty_answer_still_says_something_and_a_long_one_is_cut() {
        let scrubber = Scrubber::default();
        assert_eq!(scrubber.clean("\n \n"), "no reason given");
        assert_eq!(scrubber.clean(&"x".repeat(10_000)).len(), DETAIL_CHARS);
    }

    fn secret_dir(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        dir
    }

    #[test]
    fn a_value_may_end_with_a_line_end() {
        let dir = secret_dir(&[("username", "ops\n"), ("password", "hunter2\r\n")]);
        let credentials = read(Some(dir.path())).unwrap();
        assert_eq!(credentials.authorization.unwrap().to_str().unwrap(), "Basic b3BzOmh1bnRlcjI=");
    }

    #[test]
    fn half_and_double_credentials_are_refused() {
        for files in [
            &[("username", "ops")][..],
            &[("password", "hunter2")],
            &[("username", "ops"), ("password", "hunter2"), ("bearerToken", "t")],
            &[("ca.crt", "not a certificate")],
            &[("bearerToken", "two\nlines")],
        ] {
            let dir = secret_dir(files);
            let error = read(Some(dir.path())).err().expect("refused");
            assert!(!error.transient());
            assert!(!format!("{error:?}").contains("hunter2"));
        }
        let missing = Path::new("/nonexistent/secret");
        insta::assert_snapshot!(read(Some(missing)).err().unwrap(), @"cannot use the Git credentials in /nonexistent/secret: there is no such folder");
    }
}
