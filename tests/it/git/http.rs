//! Credentials, authorities, redirects and servers that misbehave.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use reinback::git::{GitError, Mirror, Remote, Timeouts};

use super::cache::child;
use super::{patient, room, secret_dir};
use crate::git_server::{Authority, Fault, GitServer, Options, Work};

fn with_commit(server: &GitServer) {
    let work = Work::clone(&server.bare("remote.git"));
    work.write("a.yaml", "a: 1\n").commit("one");
    work.push(&["origin", "main"]);
}

fn fetch(room: &Path, remote: Remote) -> Result<String, GitError> {
    let dir = tempfile::tempdir_in(room).unwrap();
    Mirror::open(dir.path(), remote, "main")?.fetch().map(|fetched| fetched.tip.to_string())
}

fn basic(user: &str, password: &str) -> Options {
    Options { basic: Some((user.to_owned(), password.to_owned())), ..Options::default() }
}

/// The port differs from run to run.
fn shown(error: &GitError) -> String {
    regex::Regex::new(r"localhost:\d+").unwrap().replace_all(&error.to_string(), "localhost:PORT").into_owned()
}

#[test]
fn a_password_is_read_again_at_each_connection() {
    let room = room();
    let server = GitServer::start(basic("ops", "hunter2"));
    with_commit(&server);
    let dir = secret_dir(room.path(), &[("username", "ops"), ("password", "hunter1")]);
    let mut mirror =
        Mirror::open(&room.path().join("cache"), patient(server.url("remote.git"), Some(dir)), "main").unwrap();
    let error = mirror.fetch().unwrap_err();
    insta::assert_snapshot!(shown(&error), @"http://localhost:PORT/remote.git refuses the credentials (HTTP 401 Unauthorized wrong credentials: Basic ***); renew what is in secretDir: username and password, or bearerToken");
    assert!(matches!(error, GitError::Auth { .. }) && !error.transient());
    assert_eq!(server.take_seen().len(), 1, "a wrong password is tried once");
    secret_dir(room.path(), &[("password", "hunter2\n")]);
    mirror.fetch().unwrap();
}

#[test]
fn a_bearer_token_opens_and_a_wrong_or_missing_one_does_not() {
    let room = room();
    let server = GitServer::start(Options { bearer: Some("s3cr3t-token".to_owned()), ..Options::default() });
    with_commit(&server);
    let url = server.url("remote.git");
    let error = fetch(room.path(), patient(url.clone(), None)).unwrap_err();
    insta::assert_snapshot!(shown(&error), @"http://localhost:PORT/remote.git refuses the credentials (HTTP 401 Unauthorized wrong credentials:); give credentials in secretDir: username and password, or bearerToken");
    let dir = secret_dir(room.path(), &[("bearerToken", "wrong-token")]);
    let error = fetch(room.path(), patient(url.clone(), Some(dir.clone()))).unwrap_err();
    assert!(matches!(error, GitError::Auth { .. }), "{error}");
    secret_dir(room.path(), &[("bearerToken", "s3cr3t-token")]);
    fetch(room.path(), patient(url, Some(dir))).unwrap();
}

#[test]
fn a_redirect_to_another_port_is_refused_and_the_token_stays_here() {
    let room = room();
    let there = GitServer::start(Options::default());
    with_commit(&there);
    let here = GitServer::start(Options::default());
    here.fault(Fault::Redirect(there.url("").trim_end_matches('/').to_owned()));
    for files in [&[("bearerToken", "s3cr3t-token")][..], &[("username", "ops"), ("password", "hunter2")]] {
        let dir = room.path().join("secret");
        std::fs::remove_dir_all(&dir).ok();
        secret_dir(room.path(), files);
        let error = fetch(room.path(), patient(here.url("remote.git"), Some(dir))).unwrap_err();
        assert!(matches!(&error, GitError::Redirect { to, .. } if *to == there.url("remote.git")), "{error}");
        insta::allow_duplicates! {
            insta::assert_snapshot!(shown(&error), @"http://localhost:PORT/remote.git redirects to http://localhost:PORT/remote.git, and credentials do not follow to another server; write that URL in the configuration");
        }
    }
    assert!(there.take_seen().is_empty(), "the other server was never spoken to");
    assert!(here.take_seen().iter().all(|seen| seen.headers.contains(&"authorization".to_owned())));
}

#[test]
fn a_redirect_on_the_same_server_is_followed_and_a_loop_ends() {
    let room = room();
    let server = GitServer::start(Options::default());
    with_commit(&server);
    let work = Work::clone(&server.bare("moved/remote.git"));
    let tip = work.commit("moved here");
    work.push(&["origin", "main"]);
    // Renamed repositories answer so: only what is not under the new name is redirected.
    server.fault(Fault::Redirect(server.url("moved")));
    let error = fetch(room.path(), patient(server.url("remote.git"), None)).unwrap_err();
    assert!(matches!(error, GitError::Unreachable { .. }), "{error}");
    assert!(server.take_seen().len() <= 6);
    server.fault(Fault::RedirectOutside("/moved".to_owned()));
    assert_eq!(fetch(room.path(), patient(server.url("remote.git"), None)).unwrap(), tip);
}

#[test]
fn a_custom_authority_is_trusted_and_every_other_is_not() {
    let room = room();
    let (ours, theirs) = (Authority::new(), Authority::new());
    let start = |identity| {
        let server = GitServer::start(Options { tls: Some(identity), ..Options::default() });
        with_commit(&server);
        server
    };
    let dir = secret_dir(room.path(), &[("ca.crt", &ours.pem())]);
    let fetch_from = |server: &GitServer| fetch(room.path(), patient(server.url("remote.git"), Some(dir.clone())));
    let good = start(ours.issue("localhost", 2090));
    fetch_from(&good).unwrap();
    let text = |identity| {
        let error = fetch_from(&start(identity)).unwrap_err();
        assert!(matches!(error, GitError::Tls { .. }) && !error.transient(), "{error}");
        shown(&error)
    };
    insta::assert_snapshot!(text(theirs.issue("localhost", 2090)), @"no safe connection to https://localhost:PORT/remote.git: its certificate is signed by an authority that is not known here; put the authority's certificate into secretDir as ca.crt");
    insta::assert_snapshot!(text(ours.issue("localhost", 2020)), @"no safe connection to https://localhost:PORT/remote.git: its certificate has expired; renew it on the server");
    insta::assert_snapshot!(text(ours.issue("git.example.org", 2090)), @"no safe connection to https://localhost:PORT/remote.git: its certificate is for another host name; use the name it was made for");
    // The other remote's authority is not trusted here, and a renewed ca.crt is, without a restart.
    let other = start(theirs.issue("localhost", 2090));
    assert!(matches!(fetch_from(&other).unwrap_err(), GitError::Tls { .. }));
    secret_dir(room.path(), &[("ca.crt", &(ours.pem() + &theirs.pem()))]);
    fetch_from(&other).unwrap();
    fetch_from(&good).unwrap();
}

#[test]
fn a_server_that_says_nothing_is_left_in_time() {
    let room = room();
    let server = GitServer::start(Options::default());
    with_commit(&server);
    let timeouts =
        Timeouts { connect: Duration::from_secs(5), data: Duration::from_millis(700), ..Timeouts::default() };
    for fault in [Fault::Hang, Fault::Stall(40)] {
        server.fault(fault.clone());
        let start = Instant::now();
        let error = fetch(room.path(), Remote { timeouts, ..Remote::new(server.url("remote.git"), None) }).unwrap_err();
        insta::allow_duplicates! {
            insta::assert_snapshot!(shown(&error), @"http://localhost:PORT/remote.git cannot be reached: it sent nothing for 0.7 s");
        }
        assert!(error.transient() && start.elapsed() < Duration::from_secs(10), "{fault:?}");
    }
}

#[test]
fn a_server_that_is_never_done_is_left_in_time() {
    let room = room();
    let server = GitServer::start(Options::default());
    with_commit(&server);
    server.fault(Fault::Stall(40));
    let timeouts = Timeouts { total: Duration::from_millis(900), ..Timeouts::default() };
    let error = fetch(room.path(), Remote { timeouts, ..Remote::new(server.url("remote.git"), None) }).unwrap_err();
    insta::assert_snapshot!(shown(&error), @"http://localhost:PORT/remote.git cannot be reached: it was not done after 0.9 s");
}

#[test]
fn a_port_where_nobody_listens_is_unreachable() {
    let room = room();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = fetch(room.path(), patient(format!("http://127.0.0.1:{port}/remote.git"), None)).unwrap_err();
    assert!(
        matches!(&error, GitError::Unreachable { detail, .. } if detail.contains("refused")) && error.transient(),
        "{error}"
    );
}

#[test]
fn a_connection_cut_anywhere_is_no_damage() {
    let room = room();
    let server = GitServer::start(Options::default());
    let work = Work::clone(&server.bare("remote.git"));
    for number in 0..20 {
        work.write(&format!("{number}.yaml"), &"line\n".repeat(number * 50)).commit("more");
    }
    let tip = work.git(&["rev-parse", "HEAD"]);
    work.push(&["origin", "main"]);
    let mut mirror = Mirror::open(&room.path().join("cache"), patient(server.url("remote.git"), None), "main").unwrap();
    for length in [0, 1, 10, 60, 100, 200, 400, 800] {
        server.fault(Fault::Cut(length));
        match mirror.fetch() {
            Err(error) => assert!(error.transient(), "cut after {length}: {error}"),
            // Longer than every answer of this repository.
            Ok(fetched) => assert_eq!(fetched.tip.to_string(), tip),
        }
    }
    server.fault(Fault::None);
    let fetched = mirror.fetch().unwrap();
    assert_eq!((fetched.tip.to_string(), fetched.rewritten), (tip, false));
    assert_eq!(mirror.snapshot(&fetched.tip, "", &Default::default()).unwrap().files.len(), 20);
}

#[test]
fn what_a_server_answers_has_its_name() {
    let room = room();
    let server = GitServer::start(Options::default());
    with_commit(&server);
    let dir = secret_dir(room.path(), &[("bearerToken", "s3cr3t-token")]);
    let text = |status: u16, page: &str| {
        server.fault(Fault::Status(status, page.to_owned()));
        let error = fetch(room.path(), patient(server.url("remote.git"), Some(dir.clone()))).unwrap_err();
        format!("{} transient={}", shown(&error), error.transient())
    };
    insta::assert_snapshot!(text(403, "no access"), @"http://localhost:PORT/remote.git refuses the credentials (HTTP 403 Forbidden no access); give them the right to read this repository transient=false");
    insta::assert_snapshot!(text(404, ""), @"http://localhost:PORT/remote.git is not a Git repository that can be read (HTTP 404 Not Found); check the URL, and that the credentials may see it transient=false");
    insta::assert_snapshot!(text(503, "down for s3cr3t-token maintenance\nback soon"), @"http://localhost:PORT/remote.git cannot be reached: HTTP 503 Service Unavailable down for *** maintenance; back soon transient=true");
    insta::assert_snapshot!(text(200, "Please log in"), @r#"http://localhost:PORT/remote.git is not a Git repository that can be read (its answer is of type "text/plain", not Git's); check the URL, and that the credentials may see it transient=false"#);
}

#[test]
fn an_unmoved_tip_costs_one_request() {
    let room = room();
    let server = GitServer::start(Options::default());
    with_commit(&server);
    let mut mirror = Mirror::open(&room.path().join("cache"), patient(server.url("remote.git"), None), "main").unwrap();
    mirror.fetch().unwrap();
    server.take_seen();
    for _ in 0..3 {
        mirror.fetch().unwrap();
        let seen = server.take_seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert_eq!(
            (seen[0].method.as_str(), seen[0].path.as_str()),
            ("GET", "/remote.git/info/refs?service=git-upload-pack")
        );
    }
}

/// A proxy for `CONNECT` that leads everything to one port, and says what it was asked for.
fn connect_proxy(to: u16) -> (u16, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // Ends with the test binary.
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                client.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            sender.send(String::from_utf8(head).unwrap()).ok();
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
            let server = TcpStream::connect(("127.0.0.1", to)).unwrap();
            let (mut up, mut down) = ((client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client));
            std::thread::spawn(move || std::io::copy(&mut up.0, &mut up.1));
            std::thread::spawn(move || std::io::copy(&mut down.0, &mut down.1));
        }
    });
    (port, receiver)
}

#[test]
fn the_proxy_of_the_environment_is_used_and_sees_no_token() {
    let room = room();
    let authority = Authority::new();
    let bearer = Some("s3cr3t-token".to_owned());
    let server =
        GitServer::start(Options { tls: Some(authority.issue("git.invalid", 2090)), bearer, ..Options::default() });
    with_commit(&server);
    let port = url::Url::parse(&server.url("")).unwrap().port().unwrap();
    let (proxy, asked) = connect_proxy(port);
    let dir = secret_dir(room.path(), &[("bearerToken", "s3cr3t-token"), ("ca.crt", &authority.pem())]);
    let output = child("https://git.invalid/remote.git", &room.path().join("cache"))
        .env("CHILD_SECRET", dir)
        .env("HTTPS_PROXY", format!("http://me:pass@127.0.0.1:{proxy}"))
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("fetched "), "{output:?}");
    let asked = asked.recv().unwrap();
    assert!(asked.starts_with("CONNECT git.invalid:443 HTTP/1.1\r\n"), "{asked}");
    assert!(asked.to_lowercase().contains("proxy-authorization: basic") && !asked.contains("Bearer"), "{asked}");

    // Plain HTTP is sent on by the proxy itself, which here is the server.
    let server = GitServer::start(Options::default());
    with_commit(&server);
    let output = child("http://git.invalid/remote.git", &room.path().join("cache-plain"))
        .env("http_proxy", server.url(""))
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("fetched "), "{output:?}");
    assert!(server.take_seen().iter().all(|seen| seen.path.starts_with("http://git.invalid/remote.git/")));
}
