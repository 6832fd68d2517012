//! Writing to stores: whole or not at all, never over anything, on a directory and on a real S3 server.

use std::io::Write as _;
use std::path::Path;

use reinback::store::{
    Location, Patience, S3Credentials, S3Location, Spool, SpoolDraft, SpoolLimits, Store, StoreError, put_verified,
};

use crate::harness::skip;
use crate::s3_server::{S3Server, at};
use crate::store::SmallDisk;

const MIB: usize = 1 << 20;
const NAME: &str = "reinback-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-23T05-58-54Z.tar.gz";

/// A backup of so many bytes, no two parts of which are alike.
fn backup(bytes: usize) -> Spool {
    let mut draft = SpoolDraft::create(&std::env::temp_dir()).expect("the folder is writable");
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    })
    .take(bytes)
    .collect();
    draft.write_all(&noise).expect("there is room");
    draft.finish().expect("there is room")
}

async fn directory(path: &Path) -> Store {
    Store::open(&Location::Directory(path.to_owned())).await.expect("a directory")
}

async fn bucket(location: S3Location) -> Store {
    Store::open_with(&at(location), Patience::default()).await.expect("a bucket")
}

async fn store_and_read_back(store: &Store, bytes: usize) {
    let backup = backup(bytes);
    let name = format!("{bytes}-{NAME}");
    put_verified(store, &name, &backup, &std::env::temp_dir()).await.expect("it is stored");
    assert_eq!(store.stat(&name).await.expect("it answers").expect("it is there").size, bytes as u64);
    let again = store.put(&name, &backup).await.expect_err("it is there already");
    assert!(matches!(again, StoreError::Exists { .. }), "{again:?}");
    store.delete(&name).await.expect("it goes");
    store.delete(&name).await.expect("what is gone is as good");
    assert_eq!(store.stat(&name).await.expect("it answers"), None);
}

#[tokio::test]
async fn what_is_written_to_a_directory_is_there_whole_and_nothing_else_is() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = directory(dir.path()).await;
    store.probe().await.expect("it is writable");
    for bytes in [0, 1, 3 * MIB + 17] {
        store_and_read_back(&store, bytes).await;
    }
    assert_eq!(std::fs::read_dir(dir.path()).expect("it is there").count(), 0);
    store.put(NAME, &backup(10)).await.expect("it is stored");
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(dir.path().join(NAME)).expect("it is there").permissions(),
    );
    assert_eq!(mode & 0o777, 0o640);
}

#[tokio::test]
async fn what_is_written_to_a_bucket_is_there_whole_by_one_request_or_in_parts() {
    let server = S3Server::plain();
    let store = bucket(S3Location { folder: Some("a/b".to_owned()), ..server.bucket("written") }).await;
    store.probe().await.expect("it is writable");
    for bytes in [1, 8 * MIB, 8 * MIB + 1, 17 * MIB + 5] {
        store_and_read_back(&store, bytes).await;
    }
    assert_eq!(store.list().await.expect("it answers"), []);
    assert_eq!(server.uploads("written").await, 0, "no upload is left half done");
}

#[tokio::test]
async fn a_store_that_takes_nothing_says_so_by_its_probe() {
    let server = S3Server::plain();
    let location = server.bucket("readonly");
    let credentials: S3Credentials = server.reader("readonly").await;
    let place = Location::S3 { location, credentials: Some(credentials) };
    let store = Store::open(&place).await.expect("a bucket");
    let error = store.probe().await.expect_err("only reading is granted");
    assert!(matches!(error, StoreError::AccessDenied { .. }), "{error:?}");
    let gone = tempfile::tempdir().expect("a folder");
    let store = directory(gone.path()).await;
    drop(gone);
    assert!(matches!(store.probe().await, Err(StoreError::Directory { .. })));
}

#[tokio::test]
async fn a_full_store_is_said_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(disk) = SmallDisk::mount(dir.path()) else {
        return skip("stored: a full store", "it takes a tmpfs and so root");
    };
    let store = directory(dir.path()).await;
    let error = store.put(NAME, &backup(5 * MIB)).await.expect_err("it does not fit");
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert_eq!(std::fs::read_dir(dir.path()).expect("it is there").count(), 0);
    store.put(NAME, &backup(2 * MIB)).await.expect("it fits");
    let back = store.spool(NAME, &std::env::temp_dir(), SpoolLimits { max_bytes: 9 << 20 }, &|_, _| {}).await;
    assert_eq!(back.expect("it is there").size(), 2 << 20);
    drop(disk);
}
