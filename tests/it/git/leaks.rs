//! No credential in any text: errors, their debug form, logs at the most verbose level, and what lies in the caches.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use reinback::git::{Author, FileEdit, GitError, Mirror, StatusBranch};

use super::{patient, room, secret_dir};
use crate::git_server::{Authority, Fault, GitServer, Options, Work};

const PASSWORD: &str = "hunter2+/ ü&=%";
const TOKEN: &str = "t0ken+/=secret";

#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The secret as others would write it.
fn spellings(secret: &str) -> Vec<String> {
    let form: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let base64 = BASE64_STANDARD.encode(secret);
    let pair = BASE64_STANDARD.encode(format!("ops:{secret}"));
    let percent = form.replace('+', "%20");
    vec![
        secret.to_owned(),
        form,
        percent.to_lowercase(),
        percent,
        base64.trim_end_matches('=').to_owned(),
        pair.trim_end_matches('=').to_owned(),
    ]
}

fn read_all(folder: &Path, texts: &mut Vec<u8>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { read_all(&path, texts) } else { texts.extend(std::fs::read(&path).unwrap()) }
    }
}

/// Everything that happens on the way: success, refusal, hooks that repeat the secret, servers that echo it.
fn live(room: &Path, server: &GitServer, secret: &Path, said: &str) -> Vec<GitError> {
    let url = server.url("remote.git");
    let bare = server.bare("remote.git");
    let work = Work::clone(&bare);
    work.write("a.yaml", "a: 1\n").commit("one");
    work.push(&["origin", "main"]);
    let mut errors = Vec::new();
    let remote = || patient(url.clone(), Some(secret.to_owned()));
    let mut mirror = Mirror::open(&room.join("mirror"), remote(), "main").unwrap();
    let author = Author { name: "reinback".to_owned(), email: "reinback@localhost".to_owned() };
    let mut branch = StatusBranch::open(&room.join("status"), remote(), "reinback/prod", author).unwrap();
    let mut publish = |content: &str| {
        let edit = FileEdit { path: "runs/a.yaml".to_owned(), content: Some(content.as_bytes().to_vec()) };
        branch.publish("status", Timestamp::UNIX_EPOCH, &mut |_| Ok(vec![edit.clone()]))
    };
    mirror.fetch().unwrap();
    publish("1").unwrap();
    let hook = bare.join("hooks/pre-receive");
    std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
    std::fs::write(&hook, format!("#!/bin/sh\ncat <<'END' >&2\n{said}\nEND\nexit 1\n")).unwrap();
    std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    errors.push(publish("2").unwrap_err());
    for status in [400, 401, 403, 404, 500, 200] {
        server.fault(Fault::Status(status, said.to_owned()));
        errors.push(mirror.fetch().unwrap_err());
        errors.push(publish("3").unwrap_err());
    }
    for to in [
        format!("http://other.example.org/{}", said.replace(['\n', ' '], "/")),
        "http://ops:hunter2@other.example.org".to_owned(),
    ] {
        if to.parse::<http::HeaderValue>().is_ok_and(|value| value.to_str().is_ok()) {
            server.fault(Fault::Redirect(to));
            errors.push(mirror.fetch().unwrap_err());
        }
    }
    server.fault(Fault::Cut(20));
    errors.push(mirror.fetch().unwrap_err());
    errors
}

fn check(options: Options, files: &[(&str, &str)], secret: &str) {
    let room = room();
    let dir = secret_dir(room.path(), files);
    let caches = room.path().join("caches");
    let server = GitServer::start(options);
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone()).finish();
    let said = spellings(secret).join("\n");
    let errors = tracing::subscriber::with_default(subscriber, || live(&caches, &server, &dir, &said));

    let mut texts = log.text().into_bytes();
    assert!(log.text().contains("pushed status"), "the log was captured");
    for error in &errors {
        texts.extend(format!("{error}\n{error:?}\n").bytes());
        let mut cause = std::error::Error::source(error);
        while let Some(inner) = cause {
            texts.extend(format!("{inner}\n{inner:?}\n").bytes());
            cause = inner.source();
        }
    }
    let visible = String::from_utf8_lossy(&texts).into_owned();
    read_all(&caches, &mut texts);
    let texts = String::from_utf8_lossy(&texts);
    for spelling in spellings(secret) {
        assert!(!texts.contains(&spelling), "{spelling:?} is in:\n{visible}");
    }
    assert!(!visible.contains("ops:"), "{visible}");
}

#[test]
fn a_password_is_in_no_text() {
    let basic = Some(("ops".to_owned(), PASSWORD.to_owned()));
    check(Options { basic, ..Options::default() }, &[("username", "ops"), ("password", PASSWORD)], PASSWORD);
}

#[test]
fn a_token_is_in_no_text_over_tls_either() {
    let authority = Authority::new();
    let options =
        Options { tls: Some(authority.issue("localhost", 2090)), bearer: Some(TOKEN.to_owned()), ..Options::default() };
    check(options, &[("bearerToken", TOKEN), ("ca.crt", &authority.pem())], TOKEN);
}
