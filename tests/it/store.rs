//! Stores: a directory, and a real S3 server over HTTP, HTTPS and broken connections.

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use reinback::store::{
    Location, Patience, S3Credentials, S3Location, Sha256, Spool, SpoolLimits, Store, StoreError, may_be_logged,
};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::proxy::{Fault, Proxy};
use crate::s3_server::{ACCESS_KEY, Authority, S3Server, SECRET_KEY, at, credentials, free_address};

const LIMITS: SpoolLimits = SpoolLimits { max_bytes: 1 << 30 };
const MIB: usize = 1024 * 1024;

/// Waits that a busy machine does not use up.
const CALM: Patience = Patience { connect: Duration::from_secs(10), read: Duration::from_secs(10), ..HASTY };

/// Short waits, so that a test of what never answers takes a second.
const HASTY: Patience = Patience {
    connect: Duration::from_millis(500),
    read: Duration::from_millis(500),
    tries: 3,
    backoff: Duration::from_millis(10),
    max_backoff: Duration::from_millis(50),
};

async fn open(location: S3Location) -> Store {
    Store::open_with(&at(location), CALM).await.unwrap()
}

async fn directory(path: &Path) -> Store {
    Store::open(&Location::Directory(path.to_owned())).await.unwrap()
}

async fn fetch(store: &Store, name: &str) -> Result<Spool, StoreError> {
    watch(store, name, |_, _| {}).await
}

/// [`fetch`] with something that happens meanwhile.
async fn watch(store: &Store, name: &str, progress: impl Fn(u64, u64) + Send + Sync) -> Result<Spool, StoreError> {
    store.spool(name, &std::env::temp_dir(), LIMITS, &progress).await
}

fn content(spool: &Spool) -> Vec<u8> {
    let mut bytes = Vec::new();
    spool.reader().read_to_end(&mut bytes).unwrap();
    bytes
}

/// Bytes in which no part is like another, so that a piece at the wrong place is noticed.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = vec![0; bytes];
    for word in noise.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
    }
    noise
}

/// The error and its causes, as a log prints them; the address, which differs by run, is `HOST`.
fn chain(error: &StoreError, server: &S3Server) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text.replace(&server.address.to_string(), "HOST")
}

fn says_skipped(what: &str) {
    eprintln!("skipped: {what}");
    if let Some(file) = std::env::var_os("REINBACK_SKIPS") {
        let mut file = std::fs::File::options().append(true).create(true).open(file).unwrap();
        writeln!(file, "{what}").unwrap();
    }
}

#[tokio::test]
async fn a_backup_in_a_bucket_is_looked_at_listed_and_spooled() {
    let server = S3Server::plain();
    let location = server.bucket("whole");
    let backup = noise(3 * MIB + 17);
    server.put("whole", "monday.tar.gz", &backup).await;
    let store = open(location).await;

    let stat = store.stat("monday.tar.gz").await.unwrap().unwrap();
    assert_eq!(stat.size, backup.len() as u64);
    assert!(stat.etag.is_some() && stat.modified.is_some());
    assert_eq!(store.list().await.unwrap(), [("monday.tar.gz".to_owned(), stat)]);

    let done = AtomicU64::new(0);
    let spool = watch(&store, "monday.tar.gz", |bytes, all| {
        assert_eq!(all, backup.len() as u64);
        assert!(bytes > done.swap(bytes, Ordering::SeqCst));
    });
    let spool = spool.await.unwrap();
    assert_eq!(done.into_inner(), backup.len() as u64);
    assert_eq!(*spool.sha256(), Sha256::of(&backup));
    assert!(content(&spool) == backup);
}

#[tokio::test]
async fn a_list_of_more_than_a_page_is_read_to_its_end() {
    let server = S3Server::plain();
    let location = S3Location { folder: Some("many".to_owned()), ..server.bucket("pages") };
    for n in 0..2345 {
        server.place("pages", &format!("many/b-{n:04}.tar.gz"), b"x");
    }
    server.place("pages", "many/deeper/no.tar.gz", b"x");
    server.place("pages", "many/notes.txt", b"x");
    server.place("pages", "many-others.tar.gz", b"x");
    server.place("pages", "many/a b+c&d=é%20.tar.gz.enc", b"xyz");
    let listed = open(location).await.list().await.unwrap();
    assert_eq!(listed.len(), 2346);
    assert_eq!((listed[0].0.as_str(), listed[0].1.size), ("a b+c&d=é%20.tar.gz.enc", 3));
    assert_eq!(listed[2345].0, "b-2344.tar.gz");
}

#[tokio::test]
async fn a_folder_is_found_however_its_slashes_are_written() {
    let server = S3Server::plain();
    let location = server.bucket("folders");
    server.place("folders", "a/b/monday.tar.gz", b"nested");
    server.place("folders", "monday.tar.gz", b"top");
    for (folder, expected) in
        [("a/b", "nested"), ("/a/b", "nested"), ("a/b/", "nested"), ("/a/b//", "nested"), ("/", "top")]
    {
        let store = open(S3Location { folder: Some(folder.to_owned()), ..location.clone() }).await;
        let spool = fetch(&store, "monday.tar.gz").await.unwrap();
        assert_eq!(content(&spool), expected.as_bytes(), "{folder}");
        assert_eq!(store.list().await.unwrap().len(), 1, "{folder}");
    }
}

#[tokio::test]
async fn a_name_with_all_sorts_of_characters_is_fetched_as_it_is() {
    let server = S3Server::plain();
    let location = server.bucket("names");
    let name = "a b+c&d=é%20#?.tar.gz";
    server.put("names", name, b"odd").await;
    assert_eq!(content(&fetch(&open(location).await, name).await.unwrap()), b"odd");
}

#[tokio::test]
async fn an_empty_backup_is_spooled_as_it_is() {
    let server = S3Server::plain();
    let location = server.bucket("empty");
    server.put("empty", "monday.tar.gz", b"").await;
    let spool = fetch(&open(location).await, "monday.tar.gz").await.unwrap();
    assert_eq!((spool.size(), *spool.sha256()), (0, Sha256::of(b"")));
}

#[tokio::test]
async fn a_backup_that_is_missing_is_told_from_a_bucket_that_is() {
    let server = S3Server::plain();
    let location = server.bucket("missing");
    let store = open(location.clone()).await;
    assert_eq!(store.stat("monday.tar.gz").await.unwrap(), None);
    let error = fetch(&store, "monday.tar.gz").await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound { .. }) && !error.transient());
    insta::assert_snapshot!(chain(&error, server), @"backup monday.tar.gz is not in s3 bucket missing at HOST: see backupFilename and the storage location");

    let store = open(S3Location { bucket_name: "nowhere".to_owned(), ..location }).await;
    for error in [store.stat("monday.tar.gz").await.unwrap_err(), store.list().await.unwrap_err()] {
        assert!(matches!(error, StoreError::NoBucket { .. }) && !error.transient(), "{error:?}");
        assert_eq!(chain(&error, server), "there is no such bucket: s3 bucket nowhere at HOST");
    }
}

#[tokio::test]
async fn wrong_keys_are_told_apart() {
    let server = S3Server::plain();
    let location = server.bucket("keys");
    server.place("keys", "monday.tar.gz", b"x");
    let with = |access: &str, secret: &str| Location::S3 {
        location: location.clone(),
        credentials: Some(S3Credentials { access_key: access.into(), secret_key: secret.into() }),
    };
    let store = Store::open_with(&with("AKNOBODY", SECRET_KEY), CALM).await.unwrap();
    let unknown = fetch(&store, "monday.tar.gz").await.unwrap_err();
    insta::assert_snapshot!(chain(&unknown, server), @"s3 bucket keys at HOST denies access (InvalidAccessKeyId): it does not know the accessKey");
    let store = Store::open_with(&with(ACCESS_KEY, "wr0ng"), CALM).await.unwrap();
    let unsigned = fetch(&store, "monday.tar.gz").await.unwrap_err();
    insta::assert_snapshot!(chain(&unsigned, server), @"s3 bucket keys at HOST denies access (SignatureDoesNotMatch): the secretKey does not fit the accessKey, or region is wrong");
    for error in [unknown, unsigned, store.list().await.unwrap_err()] {
        assert!(matches!(error, StoreError::AccessDenied { .. }) && !error.transient());
        let text = format!("{error:?} {}", chain(&error, server));
        assert!(!["AKNOBODY", ACCESS_KEY, SECRET_KEY, "wr0ng"].iter().any(|secret| text.contains(secret)), "{text}");
    }
}

#[tokio::test]
async fn reading_objects_is_the_only_permission_that_a_spool_needs() {
    let server = S3Server::plain();
    let location = server.bucket("reader");
    server.put("reader", "monday.tar.gz", b"x").await;
    let reader = Location::S3 { location, credentials: Some(server.reader("reader").await) };
    let store = Store::open_with(&reader, CALM).await.unwrap();
    assert_eq!(content(&fetch(&store, "monday.tar.gz").await.unwrap()), b"x");
    let error = store.list().await.unwrap_err();
    insta::assert_snapshot!(chain(&error, server), @"s3 bucket reader at HOST denies access (AccessDenied): see the permissions of the credentials. S3 also answers 403 for a missing object where s3:ListBucket is not granted");
}

#[tokio::test]
async fn a_server_of_an_own_authority_is_trusted_by_its_root_alone() {
    let server = S3Server::tls();
    let location = server.bucket("roots");
    server.place("roots", "monday.tar.gz", b"tls");
    let with = |ca: &str| S3Location { endpoint_ca: Some(ca.to_owned()), ..location.clone() };
    let base64 = base64::engine::general_purpose::STANDARD.encode(server.ca());
    let folded: String =
        base64.as_bytes().chunks(76).map(|line| format!("{}\n", str::from_utf8(line).unwrap())).collect();
    for ca in [server.ca(), &base64, &folded] {
        let spool = fetch(&open(with(ca)).await, "monday.tar.gz").await.unwrap();
        assert_eq!(content(&spool), b"tls");
    }
    for untrusted in [location.clone(), with(&Authority::new().pem)] {
        let error = fetch(&open(untrusted).await, "monday.tar.gz").await.unwrap_err();
        assert!(matches!(error, StoreError::Tls { .. }) && !error.transient(), "{error:?}");
        assert_eq!(
            chain(&error, server),
            "no trusted connection to s3 bucket roots at HOST: see endpointCA and the scheme of endpoint: \
             invalid peer certificate: UnknownIssuer"
        );
    }
}

#[tokio::test]
async fn skipped_verification_holds_for_its_location_alone() {
    let server = S3Server::tls();
    let verified = server.bucket("skip");
    server.place("skip", "monday.tar.gz", &noise(8 * MIB));
    let skipping = S3Location { insecure_tls_skip_verify: true, ..verified.clone() };
    let (skipping, verified) = (open(skipping).await, open(verified).await);
    let spool = fetch(&skipping, "monday.tar.gz").await.unwrap();
    assert_eq!(*spool.sha256(), Sha256::of(&noise(8 * MIB)));
    assert_eq!(skipping.list().await.unwrap().len(), 1);
    assert!(matches!(fetch(&verified, "monday.tar.gz").await, Err(StoreError::Tls { .. })));
}

#[tokio::test]
async fn an_endpoint_without_a_scheme_is_spoken_to_over_tls() {
    let server = S3Server::tls();
    let location = S3Location { endpoint_ca: Some(server.ca().to_owned()), ..server.bucket("scheme") };
    server.place("scheme", "monday.tar.gz", b"tls");
    for endpoint in [server.address.to_string(), format!("localhost:{}/", server.address.port())] {
        let store = open(S3Location { endpoint: Some(endpoint), ..location.clone() }).await;
        assert_eq!(content(&fetch(&store, "monday.tar.gz").await.unwrap()), b"tls");
    }
}

#[tokio::test]
async fn the_wrong_scheme_is_said_to_be_a_matter_of_the_scheme() {
    let (plain, tls) = (S3Server::plain(), S3Server::tls());
    let location = S3Location { endpoint: Some(plain.address.to_string()), ..plain.bucket("plain") };
    let error = open(location).await.stat("monday.tar.gz").await.unwrap_err();
    insta::assert_snapshot!(chain(&error, plain), @"no trusted connection to s3 bucket plain at HOST: see endpointCA and the scheme of endpoint: received corrupt message of type InvalidContentType");
    let location = S3Location { endpoint: Some(format!("http://{}", tls.address)), ..tls.bucket("tls") };
    let error = open(location).await.stat("monday.tar.gz").await.unwrap_err();
    // Go's server may answer in plain text that this is TLS, or just end the connection.
    assert!(matches!(error, StoreError::Unreachable { .. } | StoreError::Refused { status: 400, .. }), "{error:?}");
}

/// A store that reaches `bucket` of the plain server through `proxy`.
async fn behind(proxy: &Proxy, bucket: &str, patience: Patience) -> Store {
    let endpoint = Some(format!("http://{}", proxy.address));
    let location = S3Location { endpoint, ..S3Server::plain().bucket(bucket) };
    Store::open_with(&at(location), patience).await.unwrap()
}

#[tokio::test]
async fn a_download_that_breaks_again_and_again_goes_on_where_it_broke() {
    let server = S3Server::plain();
    server.bucket("broken");
    let backup = noise(30 * MIB);
    server.put("broken", "monday.tar.gz", &backup).await;
    let proxy = Proxy::start(server.address, [], Fault::CutAfter(4 * MIB as u64));
    let sent = Mutex::new(Vec::new());
    let store = behind(&proxy, "broken", CALM).await;
    let spool = watch(&store, "monday.tar.gz", |bytes, _| sent.lock().unwrap().push(bytes));
    let spool = spool.await.unwrap();
    assert_eq!(*spool.sha256(), Sha256::of(&backup));
    assert!(content(&spool) == backup);
    assert!(sent.lock().unwrap().is_sorted(), "progress never goes back");
    let connections = proxy.connections();
    assert!((8..=12).contains(&connections), "30 MiB in pieces of 4 MiB took {connections} connections");
}

#[tokio::test]
async fn a_download_that_stalls_is_taken_up_on_a_new_connection() {
    let server = S3Server::plain();
    server.bucket("stalled");
    let backup = noise(2 * MIB);
    server.put("stalled", "monday.tar.gz", &backup).await;
    let proxy = Proxy::start(server.address, [Fault::StallAfter(MIB as u64)], Fault::None);
    let spool = fetch(&behind(&proxy, "stalled", HASTY).await, "monday.tar.gz").await.unwrap();
    assert_eq!(*spool.sha256(), Sha256::of(&backup));
}

#[tokio::test]
async fn a_slow_download_is_not_taken_for_a_stalled_one() {
    let server = S3Server::plain();
    server.bucket("slow");
    let backup = noise(MIB);
    server.put("slow", "monday.tar.gz", &backup).await;
    let proxy = Proxy::start(server.address, [], Fault::Delay(Duration::from_millis(60)));
    let spool = fetch(&behind(&proxy, "slow", HASTY).await, "monday.tar.gz").await.unwrap();
    assert_eq!(*spool.sha256(), Sha256::of(&backup));
    assert!(proxy.connections() <= 2);
}

#[tokio::test]
async fn a_connection_that_is_lost_for_good_ends_with_what_was_received() {
    let server = S3Server::plain();
    server.bucket("lost");
    server.put("lost", "monday.tar.gz", &noise(4 * MIB)).await;
    let proxy = Proxy::start(server.address, [], Fault::CutAfter(MIB as u64));
    let store = behind(&proxy, "lost", CALM).await;
    let started = Instant::now();
    let error = watch(&store, "monday.tar.gz", |_, _| proxy.set_rest(Fault::Refuse));
    let error = error.await.unwrap_err();
    assert!(error.transient() && started.elapsed() < Duration::from_secs(20));
    let StoreError::Interrupted { received, size, .. } = error else { panic!("{error:?}") };
    assert!(received > 0 && received < size, "{received} of {size}");
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up_after_bounded_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap(); // the kernel takes connections, nobody reads them
    let endpoint = Some(format!("http://{}", listener.local_addr().unwrap()));
    let location = S3Location { endpoint, bucket_name: "b".to_owned(), ..S3Location::default() };
    for location in [
        location.clone(),
        S3Location {
            insecure_tls_skip_verify: true,
            endpoint: location.endpoint.map(|e| e.replace("http:", "https:")),
            ..location
        },
    ] {
        let started = Instant::now();
        let store = Store::open_with(&at(location), HASTY).await.unwrap();
        let error = store.stat("monday.tar.gz").await.unwrap_err();
        assert!(matches!(error, StoreError::Unreachable { .. }) && error.transient(), "{error:?}");
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unreachable() {
    let server = S3Server::plain();
    let nobody = free_address();
    for endpoint in [format!("http://{nobody}"), "http://no-such-host.invalid".to_owned()] {
        let store = open(S3Location { endpoint: Some(endpoint), ..server.bucket("gone") }).await;
        let error = store.list().await.unwrap_err();
        assert!(matches!(error, StoreError::Unreachable { .. }) && error.transient(), "{error:?}");
        let text = chain(&error, server);
        assert!(text.contains("Connection refused") || text.contains("failed to lookup address"), "{text}");
    }
}

#[tokio::test]
async fn a_list_that_breaks_off_is_asked_for_again() {
    let server = S3Server::plain();
    server.bucket("listed");
    for n in 0..100 {
        server.place("listed", &format!("b-{n}.tar.gz"), b"x");
    }
    let proxy = Proxy::start(server.address, [Fault::CutAfter(4000)], Fault::None);
    assert_eq!(behind(&proxy, "listed", CALM).await.list().await.unwrap().len(), 100);
    proxy.set_rest(Fault::CutAfter(4000));
    let error = behind(&proxy, "listed", CALM).await.list().await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }) && error.transient(), "{error:?}");
}

/// A server that answers every request with `head`, and then with spaces without end.
fn endless(head: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let _ = client.read(&mut [0; 4096]);
                let _ = client.write_all(head.as_bytes());
                while client.write_all(&[b' '; 4096]).is_ok() {}
            });
        }
    });
    endpoint
}

#[tokio::test]
async fn an_answer_without_end_is_not_read_to_its_end() {
    for head in ["HTTP/1.1 200 OK\r\n\r\n<?xml version=\"1.0\"?>", "HTTP/1.1 400 Bad Request\r\n\r\n<Error>"] {
        let location = S3Location { endpoint: Some(endless(head)), ..S3Server::plain().bucket("endless") };
        let error = open(location).await.list().await.unwrap_err();
        assert!(matches!(error, StoreError::NotS3 { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_s3_is_said_to_be_none() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = Some(format!("http://{}", listener.local_addr().unwrap()));
    std::thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let _ = client.read(&mut [0; 4096]);
            let _ = client
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\nconnection: close\r\n\r\n<html>Welcome</html>");
        }
    });
    let store = open(S3Location { endpoint, ..S3Server::plain().bucket("html") }).await;
    let error = store.list().await.unwrap_err();
    assert!(matches!(error, StoreError::NotS3 { .. }) && !error.transient(), "{error:?}");
}

/// The environment is that of a process: the test runs itself in one of its own.
#[tokio::test]
async fn keys_of_the_environment_are_taken_when_no_secret_is_named() {
    const ENDPOINT: &str = "REINBACK_TEST_ENDPOINT";
    if let Ok(endpoint) = std::env::var(ENDPOINT) {
        let location =
            S3Location { endpoint: Some(endpoint), bucket_name: "environment".to_owned(), ..S3Location::default() };
        let store = Store::open_with(&Location::S3 { location, credentials: None }, CALM).await.unwrap();
        let work = async { assert_eq!(content(&fetch(&store, "monday.tar.gz").await.unwrap()), b"x") };
        let log = Log::of(may_be_logged, work).await;
        return assert!(!log.contains(ACCESS_KEY) && !log.contains(SECRET_KEY), "{log}");
    }
    let server = S3Server::plain();
    let location = server.bucket("environment");
    server.put("environment", "monday.tar.gz", b"x").await;
    let mut itself = std::process::Command::new(std::env::current_exe().unwrap());
    itself.args(["--exact", "store::keys_of_the_environment_are_taken_when_no_secret_is_named"]);
    itself.env(ENDPOINT, location.endpoint.unwrap());
    itself
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        .env_remove("AWS_SESSION_TOKEN");
    let output = itself.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test]
async fn without_credentials_the_default_chain_is_asked() {
    let location = S3Server::plain().bucket("chain");
    let store = Store::open_with(&Location::S3 { location, credentials: None }, CALM).await.unwrap();
    if std::env::var_os("AWS_ACCESS_KEY_ID").is_some() {
        return says_skipped("store: no credentials at all, for AWS_ACCESS_KEY_ID is set");
    }
    let error = store.list().await.unwrap_err();
    insta::assert_snapshot!(chain(&error, S3Server::plain()), @"no credentials for s3 bucket chain at HOST: set credentialSecretName, or give the agent's environment or identity some");
}

#[tokio::test]
async fn a_backup_that_is_replaced_between_two_pieces_is_noticed() {
    let server = S3Server::plain();
    server.bucket("replaced");
    server.put("replaced", "monday.tar.gz", &noise(4 * MIB)).await;
    let proxy = Proxy::start(server.address, [], Fault::CutAfter(MIB as u64));
    let store = behind(&proxy, "replaced", CALM).await;
    let replaced = std::sync::Once::new();
    let error = watch(&store, "monday.tar.gz", |_, _| {
        replaced.call_once(|| {
            let mut other = noise(4 * MIB);
            other.reverse();
            let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| runtime().block_on(server.put("replaced", "monday.tar.gz", &other)));
            });
        });
    });
    let error = error.await.unwrap_err();
    assert!(error.transient());
    insta::assert_snapshot!(chain(&error, server).replace(&proxy.address.to_string(), "HOST"), @"backup monday.tar.gz in s3 bucket replaced at HOST was replaced while it was read");
}

#[tokio::test]
async fn a_backup_above_the_limit_is_not_fetched() {
    let server = S3Server::plain();
    let location = server.bucket("large");
    server.place("large", "monday.tar.gz", &noise(100));
    let limits = SpoolLimits { max_bytes: 99 };
    let unasked = |_, _| panic!("a byte was fetched");
    let error = open(location).await.spool("monday.tar.gz", &std::env::temp_dir(), limits, &unasked).await.unwrap_err();
    insta::assert_snapshot!(chain(&error, server), @"backup monday.tar.gz has 100 bytes, more than the limit of 99");
}

#[tokio::test]
async fn a_full_disk_is_said_before_or_while_the_spool_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(dir.path()) else {
        return says_skipped("store: a full disk, which takes a tmpfs and so root");
    };
    let server = S3Server::plain();
    let location = server.bucket("disk");
    server.put("disk", "fits.tar.gz", &noise(3 * MIB)).await;
    server.put("disk", "large.tar.gz", &noise(5 * MIB)).await;
    let store = open(location).await;

    let unasked = |_, _| panic!("a byte was fetched");
    let error = store.spool("large.tar.gz", disk.0, LIMITS, &unasked).await.unwrap_err();
    assert!(matches!(error, StoreError::NoSpace { available: Some(_), .. }), "{error:?}");

    let fill = std::sync::Once::new();
    let filler = disk.0.join("filler");
    let full = |_, _| fill.call_once(|| std::fs::write(&filler, noise(2 * MIB)).unwrap());
    let error = store.spool("fits.tar.gz", disk.0, LIMITS, &full).await.unwrap_err();
    assert!(matches!(error, StoreError::NoSpace { available: None, .. }) && error.transient(), "{error:?}");

    std::fs::remove_file(filler).unwrap();
    assert_eq!(std::fs::read_dir(disk.0).unwrap().count(), 0);
    let spool = store.spool("fits.tar.gz", disk.0, LIMITS, &|_, _| {}).await.unwrap();
    assert_eq!(*spool.sha256(), Sha256::of(&noise(3 * MIB)));
}

/// A file system of 4 MiB, until dropped.
pub struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    pub fn mount(at: &'a Path) -> Option<Self> {
        let mut command = std::process::Command::new("mount");
        command.args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(at);
        command.output().is_ok_and(|output| output.status.success()).then_some(Self(at))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// All that `work` logs on this thread at the most verbose level, as far as `may` lets it.
    async fn of(may: fn(&tracing::Metadata<'_>) -> bool, work: impl Future<Output = ()>) -> String {
        let log = Self::default();
        let writer = log.clone();
        let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
        let wished = EnvFilter::new("trace,aws_smithy_runtime=trace,aws_sigv4::http_request=trace");
        let subscriber = tracing_subscriber::registry().with(layer).with(wished).with(filter_fn(may));
        let guard = tracing::subscriber::set_default(subscriber);
        work.await;
        drop(guard);
        String::from_utf8(log.0.lock().unwrap().clone()).unwrap()
    }
}

/// Everything that a store does, well and badly.
async fn all_sorts(location: S3Location) {
    let store = open(location.clone()).await;
    store.list().await.unwrap();
    fetch(&store, "monday.tar.gz").await.unwrap();
    fetch(&store, "tuesday.tar.gz").await.unwrap_err();
    let wrong = S3Credentials { access_key: ACCESS_KEY.into(), secret_key: "wr0ng".into() };
    let store = Store::open_with(&Location::S3 { location, credentials: Some(wrong) }, CALM).await.unwrap();
    fetch(&store, "monday.tar.gz").await.unwrap_err();
}

#[tokio::test]
async fn no_key_and_no_signature_is_logged_at_the_most_verbose_level() {
    let server = S3Server::plain();
    let location = server.bucket("logged");
    server.put("logged", "monday.tar.gz", b"x").await;

    let log = Log::of(may_be_logged, all_sorts(location.clone())).await;
    for secret in [SECRET_KEY, ACCESS_KEY, "wr0ng", "AWS4-HMAC-SHA256", "Signature="] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
    let unfiltered = Log::of(|_| true, all_sorts(location.clone())).await;
    assert!(unfiltered.contains(ACCESS_KEY), "the filter is no longer needed, or nothing was heard");
    assert!(!unfiltered.contains(SECRET_KEY) && !unfiltered.contains("wr0ng"));
    assert!(!format!("{:?}", at(location.clone())).contains(SECRET_KEY));
    assert!(!format!("{:?} {:?}", credentials(), open(location).await).contains(SECRET_KEY));
}

#[tokio::test]
async fn a_directory_gives_its_backups_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::NamedTempFile::new().unwrap();
    let backup = noise(3 * MIB + 1);
    std::fs::create_dir(dir.path().join("..data")).unwrap();
    std::fs::create_dir(dir.path().join("folder.tar.gz")).unwrap();
    std::fs::write(dir.path().join("..data/a.tar.gz"), &backup).unwrap();
    std::fs::write(dir.path().join("notes.txt"), b"x").unwrap();
    std::os::unix::fs::symlink("..data/a.tar.gz", dir.path().join("a.tar.gz")).unwrap();
    std::os::unix::fs::symlink(outside.path(), dir.path().join("out.tar.gz")).unwrap();
    std::os::unix::fs::symlink("nowhere", dir.path().join("dangling.tar.gz")).unwrap();
    let pipe = std::process::Command::new("mkfifo").arg(dir.path().join("pipe.tar.gz")).status().unwrap();
    assert!(pipe.success());

    let store = directory(dir.path()).await;
    let listed = store.list().await.unwrap();
    assert_eq!(listed.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a.tar.gz"]);
    assert_eq!(store.stat("a.tar.gz").await.unwrap().as_ref(), Some(&listed[0].1));
    assert_eq!(*fetch(&store, "a.tar.gz").await.unwrap().sha256(), Sha256::of(&backup));
    for name in ["out.tar.gz", "pipe.tar.gz", "folder.tar.gz"] {
        let error = fetch(&store, name).await.unwrap_err();
        assert!(matches!(error, StoreError::NoFile { .. }), "{name}: {error:?}");
    }
    for name in ["b.tar.gz", "dangling.tar.gz"] {
        assert!(matches!(fetch(&store, name).await, Err(StoreError::NotFound { .. })), "{name}");
        assert_eq!(store.stat(name).await.unwrap(), None);
    }
    for name in ["../a.tar.gz", "..data/a.tar.gz", "/etc/hostname"] {
        assert!(matches!(store.stat(name).await, Err(StoreError::BadName { .. })), "{name}");
    }
}

#[tokio::test]
async fn a_file_that_is_written_or_replaced_while_it_is_read_is_noticed() {
    let grown = |path: &Path| std::fs::File::options().append(true).open(path).unwrap().write_all(b"more").unwrap();
    let cut = |path: &Path| std::fs::File::options().write(true).open(path).unwrap().set_len(10).unwrap();
    let replaced = |path: &Path| {
        let other = path.with_extension("new");
        std::fs::write(&other, noise(8 * MIB)).unwrap();
        std::fs::rename(other, path).unwrap();
    };
    let removed = |path: &Path| std::fs::remove_file(path).unwrap();
    for change in [&grown as &(dyn Fn(&Path) + Sync), &cut, &replaced, &removed] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("monday.tar.gz");
        std::fs::write(&path, noise(8 * MIB)).unwrap();
        let store = directory(dir.path()).await;
        let once = std::sync::Once::new();
        let spooled = watch(&store, "monday.tar.gz", |_, _| once.call_once(|| change(&path)));
        let error = spooled.await.unwrap_err();
        assert!(matches!(error, StoreError::Changed { .. }) && error.transient(), "{error:?}");
    }
}

#[tokio::test]
async fn a_directory_that_is_none_is_refused_when_it_is_opened() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for path in [file.path(), Path::new("/no/such/directory")] {
        let error = Store::open(&Location::Directory(path.to_owned())).await.unwrap_err();
        assert!(matches!(error, StoreError::Directory { .. }), "{error:?}");
    }
    let error = Store::open(&Location::Directory("/no/such/directory".into())).await.unwrap_err();
    insta::assert_snapshot!(error, @"cannot read /no/such/directory");
}

#[tokio::test]
async fn a_spool_that_is_given_up_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("monday.tar.gz"), noise(8 * MIB)).unwrap();
    let store = directory(dir.path()).await;
    let spools = tempfile::tempdir().unwrap();
    let started = Arc::new(tokio::sync::Notify::new());
    let told = Arc::clone(&started);
    let progress = move |_, _| told.notify_one();
    let spool = store.spool("monday.tar.gz", spools.path(), LIMITS, &progress);
    tokio::select! {
        biased;
        () = started.notified() => {}
        _ = spool => panic!("the spool was whole before it was given up"),
    }
    assert_eq!(std::fs::read_dir(spools.path()).unwrap().count(), 0);
}
