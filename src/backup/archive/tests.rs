use std::convert::Infallible;
use std::io;

use flate2::read::GzDecoder;
use tar::{EntryType, Header};

use super::super::testing::{Tar, gzip, secret};
use super::super::{BackupName, Facts};
use super::*;

const PLAIN: &[u8] = include_bytes!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/fixtures/plain-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-23T05-58-54Z.tar.gz"
));
const LARGE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/fixtures/large-56488071-5e68-44dd-b5a1-2f0f8091f490-2026-11-23T05-59-47Z.tar.gz"
);

fn entries_within(backup: &[u8], limits: &Limits) -> Result<(Vec<Entry>, Summary), ReadError<Infallible>> {
    let mut entries = Vec::new();
    let visit = |entry| {
        entries.push(entry);
        Ok(())
    };
    let summary = read(backup, backup.len() as u64, limits, None, visit)?;
    Ok((entries, summary))
}

fn entries(backup: &[u8]) -> Result<(Vec<Entry>, Summary), ReadError<Infallible>> {
    entries_within(backup, &Limits::default())
}

fn keys(backup: &[u8]) -> Vec<String> {
    let (entries, _) = entries(backup).unwrap();
    let key = |entry: &Entry| match entry {
        Entry::Object { key, .. } | Entry::Encrypted { key, .. } => key.to_string(),
        Entry::Filters(_) => "filters".to_owned(),
    };
    entries.iter().map(key).collect()
}

/// The error with its causes.
fn refused(backup: &[u8]) -> String {
    match entries(backup) {
        Ok((entries, _)) => format!("taken: {entries:?}"),
        Err(ReadError::Corrupt(error)) => {
            let source = std::error::Error::source(&error);
            source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
        }
        Err(other) => format!("not judged: {other:?}"),
    }
}

fn one(path: &str, content: &str) -> Vec<u8> {
    Tar::default().file(path, content).end()
}

/// A pass over the names, and what it found.
fn named(backup: &[u8]) -> Result<Names, ReadError<Infallible>> {
    names(backup, backup.len() as u64, &Limits::default())
}

#[test]
fn a_pass_over_the_names_finds_every_object_in_its_place_and_the_filters() {
    let found = named(PLAIN).unwrap();
    let (entries, summary) = entries(PLAIN).unwrap();
    let whole = entries.iter().filter_map(|entry| match entry {
        Entry::Object { key, .. } | Entry::Encrypted { key, .. } => Some(key),
        Entry::Filters(_) => None,
    });
    assert_eq!(found.keys.iter().collect::<Vec<_>>(), whole.collect::<Vec<_>>());
    assert_eq!(found.keys.len() as u64, summary.objects);
    assert!(found.filters.is_some());
    // Content is not looked at, and the archive is.
    assert_eq!(named(&one("secrets.#v1/a/s.json", "nothing")).unwrap().keys.len(), 1);
    named(&PLAIN[..PLAIN.len() / 2]).unwrap_err();
    named(&one("secrets.#v1/../s.json", "{}")).unwrap_err();
}

#[test]
fn a_backup_of_the_operator_is_read_whole() {
    let (entries, summary) = entries(PLAIN).unwrap();
    assert_eq!((summary.objects, summary.encrypted, summary.has_filters), (464, 0, true));
    let mut facts = Facts::default();
    let mut filters = None;
    for entry in entries {
        match entry {
            Entry::Object { key, value, encrypted: _ } => facts.note(&key, &value),
            Entry::Filters(set) => filters = Some(set),
            Entry::Encrypted { key, .. } => panic!("{key}"),
        }
    }
    assert_eq!(facts.rancher_version.as_deref(), Some("v2.9.3"));
    let filters = filters.unwrap();
    assert_eq!((filters.resource_selectors.len(), filters.controller_references.len()), (14, 1));
    assert_eq!(filters.controller_references[0].name, "rancher");
}

#[test]
fn every_object_of_a_backup_is_selected_by_its_own_filters() {
    let (entries, _) = entries(PLAIN).unwrap();
    let selectors = entries
        .iter()
        .find_map(|entry| match entry {
            Entry::Filters(set) => Some(set.compile().unwrap()),
            Entry::Object { .. } | Entry::Encrypted { .. } => None,
        })
        .unwrap();
    for entry in &entries {
        let Entry::Object { key, value, encrypted: _ } = entry else { continue };
        let kind = value["kind"].as_str().unwrap();
        let queries = selectors.wants_resource(&key.resource.api_version(), kind, &key.resource.plural);
        let label = |name: &str| value["metadata"]["labels"].get(name).and_then(Value::as_str);
        let selected =
            queries.iter().any(|query| selectors.matches(query.index, key.namespace.as_deref(), &key.name, label));
        assert!(selected, "{key}");
    }
}

#[test]
fn a_large_backup_is_read_in_a_pass() {
    let backup = std::fs::read(LARGE).unwrap();
    let started = std::time::Instant::now();
    let summary =
        read(&backup[..], backup.len() as u64, &Limits::default(), None, |_| Ok::<_, Infallible>(())).unwrap();
    println!("large backup: {} objects, {} bytes, {:?}", summary.objects, summary.unpacked_bytes, started.elapsed());
    assert_eq!(summary.objects, 8686);
    let name = BackupName::new(LARGE.rsplit_once('/').unwrap().1).unwrap();
    assert_eq!(name.parts().unwrap().taken_at.to_string(), "2026-11-23T05:59:47Z");
}

#[test]
fn paths_may_start_with_a_dot_and_folders_may_end_in_a_slash() {
    let archive = Tar::default()
        .directory("./")
        .directory("./secrets.#v1/")
        .directory("secrets.#v1/ns")
        .member(EntryType::Regular, b"old-folder/", b"")
        .file("./secrets.#v1/ns/a.json", &secret("a"))
        .file("filters/statussubresource.json", "[]")
        .file("./filters/filters.json", r#"{"resourceSelectors":[]}"#)
        .secret("my-filters");
    assert_eq!(keys(&archive.end()), ["secrets.#v1/ns/a", "filters", "secrets.#v1/ns/my-filters"]);
}

#[test]
fn long_paths_come_by_pax_by_gnu_and_by_prefix() {
    let name = "n".repeat(200);
    let path = format!("secrets.#v1/ns/{name}.json");
    let by_pax = Tar::default().pax(&[("mtime", "1.5"), ("path", &path)]).file("short", &secret(&name)).end();
    let long_name = format!("{path}\0");
    let by_gnu = Tar::default()
        .member(EntryType::GNULongName, b"././@LongLink", long_name.as_bytes())
        .file("short", &secret(&name))
        .end();
    assert_eq!(keys(&by_pax), [format!("secrets.#v1/ns/{name}")]);
    assert_eq!(keys(&by_gnu), keys(&by_pax));
    let mut header = Header::new_ustar();
    header.set_path(format!("secrets.#v1/ns/{}.json", "p".repeat(85))).unwrap();
    header.set_size(secret(&"p".repeat(85)).len() as u64);
    let padded = format!("{:\0<512}", secret(&"p".repeat(85)));
    let by_prefix = Tar::default().header(header).raw(padded.as_bytes()).end();
    assert_eq!(keys(&by_prefix), [format!("secrets.#v1/ns/{}", "p".repeat(85))]);
}

/// Written by Go 1.26: `filepath.Walk`, `tar.FileInfoHeader`, as the operator does.
#[test]
fn long_and_foreign_names_come_as_go_writes_them() {
    let backup = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/names-by-go.tar.gz"));
    let things = "verylongpluralnamesofthings.some.very.long.group.of.an.api.example.org#v1alpha1";
    let roles = "clusterroles.rbac.authorization.k8s.io#v1";
    assert_eq!(
        keys(backup),
        [
            format!("{roles}/rôle ü 日本"),
            format!("{roles}/system:node"),
            format!("{roles}/{}", "x".repeat(240)),
            "filters".to_owned(),
            format!("{things}/{}/{}", "n".repeat(63), "y".repeat(200)),
        ]
    );
}

#[test]
fn several_gzip_members_are_one_stream() {
    let tar = Tar::default().secret("a").secret("b").raw(&[0; 1024]).0;
    let members: Vec<u8> = tar.chunks(700).flat_map(gzip).collect();
    assert_eq!(keys(&members), ["secrets.#v1/ns/a", "secrets.#v1/ns/b"]);
}

#[test]
fn numbers_of_an_object_keep_their_digits() {
    let content = r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a","namespace":"ns"},"n":[9007199254740993,0.1,18446744073709551615]}"#;
    let (entries, _) = entries(&one("secrets.#v1/ns/a.json", content)).unwrap();
    let Entry::Object { value, .. } = &entries[0] else { panic!("{entries:?}") };
    assert_eq!(value["n"].to_string(), "[9007199254740993,0.1,18446744073709551615]");
}

#[test]
fn encrypted_entries_are_known_by_their_content() {
    let encrypted = |plain: &str| format!("\"{}\"", BASE64.encode(plain));
    let (entries, summary) =
        entries(&one("secrets.#v1/ns/a.json", &encrypted("k8s:enc:secretbox:v1:key1:\0\x01"))).unwrap();
    assert!(matches!(&entries[0], Entry::Encrypted { provider, .. } if provider == "secretbox"), "{entries:?}");
    assert_eq!((summary.objects, summary.encrypted), (0, 1));
    for other in ["k8s:enc:", "k8s:enc:secretbox", "k8s:enc::v1:", "k8s:enc:a\x1bb:v1:", "plain text"] {
        insta::allow_duplicates! {
            insta::assert_snapshot!(refused(&one("secrets.#v1/ns/a.json", &encrypted(other))), @"entry secrets.#v1/ns/a.json is neither an object nor encrypted by a provider of Kubernetes");
        }
    }
    let filters = Tar::default().secret("a").file("filters/filters.json", &encrypted("k8s:enc:aesgcm:v1:k:x")).end();
    insta::assert_snapshot!(refused(&filters), @"entry filters/filters.json holds filters that cannot be used: the filters are not a ResourceSet: its JSON is no map");
}

#[test]
fn path_and_content_must_say_the_same_object() {
    let content = |version: &str, kind: &str, metadata: &str| {
        format!(r#"{{"apiVersion":{version},"kind":{kind},"metadata":{metadata}}}"#)
    };
    let said: Vec<String> = [
        content(r#""v2""#, r#""Secret""#, r#"{"name":"a","namespace":"ns"}"#),
        content(r#""apps/v1""#, r#""Secret""#, r#"{"name":"a","namespace":"ns"}"#),
        content(r#""v1""#, r#""Secret""#, r#"{"name":"b\u001b[2J","namespace":"ns"}"#),
        content(r#""v1""#, r#""Secret""#, r#"{"name":"a","namespace":"other"}"#),
        content(r#""v1""#, r#""Secret""#, r#"{"name":"a"}"#),
        content(r#""v1""#, r#""""#, r#"{"name":"a","namespace":"ns"}"#),
        content("1", r#""Secret""#, r#"{"name":"a","namespace":"ns"}"#),
        content(r#""v1""#, r#""Secret""#, r#"{"name":"a","namespace":["ns"]}"#),
        content(r#""v1""#, r#""Secret""#, "null"),
        "[]".to_owned(),
        "null".to_owned(),
        r#"{"a":1,"a":2}"#.to_owned(),
        "{".to_owned(),
        "[".repeat(10_000),
        "\u{feff}{}".to_owned(),
    ]
    .iter()
    .map(|content| refused(&one("secrets.#v1/ns/a.json", content)))
    .collect();
    insta::assert_snapshot!(said.join("\n"), @r"
    entry secrets.#v1/ns/a.json says the version `v2` where its path says `v1`
    entry secrets.#v1/ns/a.json says the group `apps` where its path says ``
    entry secrets.#v1/ns/a.json says the name `b\u{1b}[2J` where its path says `a`
    entry secrets.#v1/ns/a.json says the namespace `other` where its path says `ns`
    entry secrets.#v1/ns/a.json says the namespace `` where its path says `ns`
    entry secrets.#v1/ns/a.json has no kind
    entry secrets.#v1/ns/a.json has something other than text as its apiVersion
    entry secrets.#v1/ns/a.json has something other than text as its metadata.namespace
    entry secrets.#v1/ns/a.json says the name `` where its path says `a`
    entry secrets.#v1/ns/a.json is not an object: its JSON is no map
    entry secrets.#v1/ns/a.json is not an object: its JSON is no map
    entry secrets.#v1/ns/a.json is not JSON: the key `a` is there twice at line 1 column 10
    entry secrets.#v1/ns/a.json is not JSON: EOF while parsing an object at line 1 column 1
    entry secrets.#v1/ns/a.json is not JSON: recursion limit exceeded at line 1 column 128
    entry secrets.#v1/ns/a.json is not JSON: expected value at line 1 column 1
    ");
    let cluster_scoped = content(r#""v1""#, r#""Namespace""#, r#"{"name":"a","namespace":"ns"}"#);
    insta::assert_snapshot!(refused(&one("namespaces.#v1/a.json", &cluster_scoped)), @"entry namespaces.#v1/a.json says the namespace `ns` where its path says ``");
}

#[test]
fn an_object_may_come_once_however_it_is_spelt() {
    let twice = [
        Tar::default().secret("a").secret("a").end(),
        Tar::default().secret("a").file("./secrets.#v1/ns/a.json", &secret("a")).end(),
        Tar::default().secret("a").file("secrets.#v2/ns/a.json", &secret("a").replace("v1", "v2")).end(),
        Tar::default().file("filters/filters.json", "{}").file("./filters/filters.json", "{}").end(),
    ];
    let said: Vec<String> = twice.iter().map(|backup| refused(backup)).collect();
    insta::assert_snapshot!(said.join("\n"), @"
    entry secrets.#v1/ns/a.json is an object that came before, maybe at another version of its resource or by another spelling
    entry ./secrets.#v1/ns/a.json is an object that came before, maybe at another version of its resource or by another spelling
    entry secrets.#v2/ns/a.json is an object that came before, maybe at another version of its resource or by another spelling
    entry ./filters/filters.json is there twice
    ");
}

#[test]
fn only_plain_files_are_taken() {
    let kinds = [
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Char,
        EntryType::Block,
        EntryType::Fifo,
        EntryType::Continuous,
        EntryType::GNUSparse,
        EntryType::GNULongLink,
        EntryType::new(b'\x1b'),
    ];
    let member = |kind| Tar::default().member(kind, b"secrets.#v1/ns/a.json", b"").end();
    let said: Vec<String> = kinds.into_iter().map(|kind| refused(&member(kind))).collect();
    insta::assert_snapshot!(said.join("\n"), @r"
    entry secrets.#v1/ns/a.json is a symbolic link; a backup holds plain files only
    entry secrets.#v1/ns/a.json is a hard link; a backup holds plain files only
    entry secrets.#v1/ns/a.json is a device; a backup holds plain files only
    entry secrets.#v1/ns/a.json is a device; a backup holds plain files only
    entry secrets.#v1/ns/a.json is a named pipe; a backup holds plain files only
    entry secrets.#v1/ns/a.json is of the unknown type `7`; a backup holds plain files only
    entry secrets.#v1/ns/a.json is a sparse file; a backup holds plain files only
    entry secrets.#v1/ns/a.json is a symbolic link; a backup holds plain files only
    entry secrets.#v1/ns/a.json is of the unknown type `\u{1b}`; a backup holds plain files only
    ");
}

#[test]
fn what_is_not_an_object_is_refused_by_name() {
    let said: Vec<String> = [
        one("readme.txt", "x"),
        one("secrets.#v1/ns/a.json", ""),
        one("secrets.#v1/../a.json", "x"),
        one("secrets.#v1/ns/a\u{1b}.json", "x"),
        Tar::default().directory("../x").secret("a").end(),
        Tar::default().member(EntryType::Directory, b"secrets.#v1", &[0; 512]).secret("a").end(),
        Tar::default().end(),
        Tar::default()
            .file("filters/filters.json", r#"{"resourceSelectors":[{"apiVersion":"v1","kindsRegexp":"("}]}"#)
            .end(),
    ]
    .iter()
    .map(|backup| refused(backup))
    .collect();
    insta::assert_snapshot!(said.join("\n"), @r"
    entry readme.txt is not an object: its name does not end in `.json`
    entry secrets.#v1/ns/a.json is an empty file
    entry secrets.#v1/../a.json has `.` or `..` in its path
    entry secrets.#v1/ns/a\u{1b}.json has control characters in its path
    entry ../x has `.` or `..` in its path
    entry secrets.#v1 is a directory of 512 bytes
    the backup holds no object at all
    entry filters/filters.json holds filters that cannot be used: resourceSelectors[0] (apiVersion `v1`) has a bad kindsRegexp: `(`: unclosed group
    ");
}

#[test]
fn extension_headers_cannot_show_two_archives() {
    let hidden = secret("a").len().to_string();
    let many = "x".repeat(70_000);
    let said: Vec<String> = [
        Tar::default().pax(&[("size", "0")]).secret("a"),
        Tar::default().pax(&[("size", "-1")]).secret("a"),
        Tar::default().pax(&[("size", &hidden), ("size", &hidden)]).secret("a"),
        Tar::default().pax(&[("path", "a"), ("path", "b")]).secret("a"),
        Tar::default().pax(&[("path", "../../etc/passwd")]).secret("a"),
        Tar::default().pax(&[("path", "secrets.#v1/ns/a\nb.json")]).secret("a"),
        Tar::default().pax(&[("path", "")]).secret("a"),
        Tar::default().pax(&[("GNU.sparse.major", "1")]).secret("a"),
        Tar::default().pax(&[("comment", &many)]).secret("a"),
        Tar::default().pax(&[("mtime", "1")]).pax(&[("mtime", "1")]).secret("a"),
        Tar::default().secret("a").pax(&[("mtime", "1")]),
        Tar::default().member(EntryType::XHeader, b"x", b"99 path=x\n").secret("a"),
        Tar::default().member(EntryType::XHeader, b"x", b"0 path=x\n").secret("a"),
        Tar::default().member(EntryType::XGlobalHeader, b"g", b"10 path=x\n").secret("a"),
        Tar::default().member(EntryType::GNULongName, b"L", many.as_bytes()).secret("a"),
    ]
    .into_iter()
    .map(|tar| refused(&tar.end()))
    .collect();
    insta::assert_snapshot!(said.join("\n"), @r"
    entry secrets.#v1/ns/a.json has two sizes: 76 in its header, 0 in PAX
    entry PaxHeaders.0/x has a PAX size that is not a number
    entry PaxHeaders.0/x has two PAX records for a size
    entry PaxHeaders.0/x has two PAX records for a path
    entry ../../etc/passwd has `.` or `..` in its path
    entry secrets.#v1/ns/a\nb.json has control characters in its path
    entry (without a name) has an empty part in its path
    entry PaxHeaders.0/x describes a sparse file
    entry PaxHeaders.0/x is an extension header of 70015 bytes, which is more than 65536
    entry PaxHeaders.0/x is a second extension header for one member
    the tar block at unpacked byte 2048 ends the archive after an extension header without its member
    entry x has a PAX record that is not one
    entry x has a PAX record that is not one
    entry g sets a path or a size for the whole archive
    entry L is an extension header of 70000 bytes, which is more than 65536
    ");
    let harmless = Tar::default().pax(&[("size", &hidden)]).secret("a").end();
    assert_eq!(keys(&harmless), ["secrets.#v1/ns/a"]);
}

#[test]
fn an_archive_that_does_not_end_is_refused() {
    let tar = Tar::default().secret("a").0;
    let whole = Tar::default().secret("a").end();
    let mut wrong_sum = whole.clone();
    let sum_at = wrong_sum.len() - 8;
    wrong_sum[sum_at] ^= 1;
    let said: Vec<String> = [
        Vec::new(),
        b"not a backup at all".to_vec(),
        whole[..whole.len() - 1].to_vec(),
        whole[..whole.len() / 2].to_vec(),
        wrong_sum,
        [&whole[..], b"garbage"].concat(),
        [&whole[..], &[0; 16]].concat(),
        gzip(&tar),
        gzip(&tar[..700]),
        gzip(&[&tar[..], &[0; 512]].concat()),
        gzip(&[&tar[..], &[0; 512], &tar[..]].concat()),
        gzip(&[&tar[..], &[0; 1024], &tar[..]].concat()),
        gzip(&[&tar[..], &[7; 512]].concat()),
    ]
    .iter()
    .map(|backup| refused(backup))
    .collect();
    insta::assert_snapshot!(said.join("\n"), @"
    the backup ends early, after 0 unpacked bytes
    the gzip stream is broken after 0 unpacked bytes: invalid gzip header
    the backup ends early, after 2048 unpacked bytes
    the backup ends early, after 0 unpacked bytes
    the gzip stream is broken after 2048 unpacked bytes: corrupt gzip stream does not have a matching checksum
    the backup ends early, after 2048 unpacked bytes
    the gzip stream is broken after 2048 unpacked bytes: invalid gzip header
    the backup ends early, after 1024 unpacked bytes
    the backup ends early, after 588 unpacked bytes, in entry secrets.#v1/ns/a.json
    the backup ends early, after 1536 unpacked bytes
    the tar block at unpacked byte 1536 comes after the end of the archive
    the tar block at unpacked byte 2048 comes after the end of the archive
    the tar block at unpacked byte 1024 has a checksum that is not a number
    ");
    assert_eq!(keys(&gzip(&[&tar[..], &[0; 10_240]].concat())).len(), 1, "padding to a tape record is fine");
}

#[test]
fn limits_hold_by_what_is_read() {
    let backup = Tar::default().secret("a").secret("b").end();
    let within = |limits: Limits| entries_within(&backup, &limits).map(|_| ()).unwrap_err().to_string();
    let said = [
        within(Limits { max_entry_bytes: 70, ..Limits::default() }),
        within(Limits { max_entries: 1, ..Limits::default() }),
        within(Limits { max_total_bytes: 1000, ..Limits::default() }),
    ];
    insta::assert_snapshot!(said.join("\n"), @"
    the backup is too large: 76 bytes in one entry, more than 70, in entry secrets.#v1/ns/a.json
    the backup is too large: more than 1 entries, in entry secrets.#v1/ns/b.json
    the backup is too large: more than 1000 unpacked bytes, in entry secrets.#v1/ns/a.json
    ");
    let mut header = Header::new_ustar();
    header.set_path("secrets.#v1/ns/a.json").unwrap();
    header.set_size(15 << 20);
    insta::assert_snapshot!(refused(&Tar::default().header(header).raw(b"{}").end()), @"the backup ends early, after 1538 unpacked bytes, in entry secrets.#v1/ns/a.json");
}

#[test]
fn a_bomb_of_zeros_is_stopped_by_its_ratio() {
    let zeros = vec![0; 40 << 20];
    let bomb = gzip(&[&Tar::default().secret("a").0[..], &zeros].concat());
    assert!((bomb.len() as u64) < 50_000);
    insta::assert_snapshot!(refused(&bomb), @"the backup is too large: more than 1000 times the bytes of its file");
}

#[test]
fn a_source_that_fails_is_not_a_corrupt_backup() {
    struct Failing(usize);
    impl Read for Failing {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let rest = &PLAIN[self.0..];
            if self.0 > 20_000 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the disk is gone"));
            }
            let n = rest.len().min(buf.len()).min(4096);
            buf[..n].copy_from_slice(&rest[..n]);
            self.0 += n;
            Ok(n)
        }
    }
    let error =
        read(Failing(0), PLAIN.len() as u64, &Limits::default(), None, |_| Ok::<_, Infallible>(())).unwrap_err();
    assert!(matches!(&error, ReadError::Source(source) if source.to_string() == "the disk is gone"), "{error:?}");
}

#[test]
fn the_visitor_can_end_the_pass() {
    let mut seen = 0;
    let error = read(PLAIN, PLAIN.len() as u64, &Limits::default(), None, |_| {
        seen += 1;
        if seen == 3 { Err(io::Error::other("enough")) } else { Ok(()) }
    })
    .unwrap_err();
    assert!(matches!(error, ReadError::Visit(_)), "{error:?}");
    assert_eq!(seen, 3);
}

/// Every cut of a backup is refused, and refused as one that ends early.
#[test]
fn every_cut_is_noticed() {
    let whole = Tar::default().secret("a").pax(&[("mtime", "1")]).secret("b").file("filters/filters.json", "{}").end();
    for end in 0..whole.len() {
        let error = entries(&whole[..end]).unwrap_err();
        assert!(matches!(error, ReadError::Corrupt(BackupError::Truncated { .. })), "{end}: {error:?}");
    }
    for end in (0..PLAIN.len()).step_by(PLAIN.len() / 40) {
        assert!(matches!(entries(&PLAIN[..end]), Err(ReadError::Corrupt(_))), "{end}");
    }
}

/// Gzip's checksum would hide the parser from broken bytes, so the archive inside is broken, and packed anew.
#[test]
fn broken_archives_are_refused_or_read_and_nothing_else() {
    let tar = Tar::default()
        .directory("secrets.#v1")
        .secret("a")
        .pax(&[("mtime", "1"), ("path", "secrets.#v1/ns/b.json")])
        .secret("b")
        .file("filters/filters.json", r#"{"resourceSelectors":[{"apiVersion":"v1","kindsRegexp":"^s[a-z]+$"}]}"#)
        .raw(&[0; 1024])
        .0;
    let mut random = Random(0x5eed);
    for _ in 0..6000 {
        let mut broken = tar.clone();
        for _ in 0..=random.below(3) {
            random.damage(&mut broken);
        }
        match entries(&gzip(&broken)) {
            Ok((entries, _)) => assert!(entries.len() <= 8),
            Err(ReadError::Corrupt(error)) => {
                let text = error.to_string();
                assert!(text.len() < 2000 && !text.chars().any(char::is_control), "{text:?}");
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    let packed = gzip(&tar);
    for at in 0..packed.len() {
        let mut broken = packed.clone();
        broken[at] ^= 1 << random.below(8);
        assert!(!matches!(entries(&broken), Err(ReadError::Source(_))), "{at}");
    }
}

/// xorshift64*, so that a failure comes again.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }

    /// Flips, cuts, doubles or overwrites something, mostly in headers, whose checksum is set right again in half of the cases.
    fn damage(&mut self, tar: &mut Vec<u8>) {
        if tar.len() < 1024 {
            return;
        }
        let block = self.below(tar.len() / 512) * 512;
        match self.below(7) {
            0 => tar.truncate(self.below(tar.len())),
            1 => drop(tar.drain(block..block + 512)),
            2 => {
                let copy = tar[block..block + 512].to_vec();
                let at = self.below(tar.len() / 512) * 512;
                tar.splice(at..at, copy);
            }
            3 => tar[block + 156] = b"0123457LKxgSVMD\0"[self.below(16)],
            4 => {
                let sizes: [&[u8]; 5] = [
                    b"77777777777\0",
                    b"00000000000\0",
                    b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff",
                    b"-1\0\0\0\0\0\0\0\0\0\0",
                    b"00000001000\0",
                ];
                tar[block + 124..block + 136].copy_from_slice(sizes[self.below(sizes.len())]);
            }
            _ => {
                let at = self.below(tar.len());
                tar[at] ^= 1 << self.below(8);
            }
        }
        if self.below(2) == 0 && block + 512 <= tar.len() {
            let mut header = Header::from_byte_slice(&tar[block..block + 512]).clone();
            header.set_cksum();
            tar[block..block + 512].copy_from_slice(header.as_bytes());
        }
    }
}

#[test]
fn broken_entries_of_a_real_backup_are_refused_or_read() {
    let mut tar = Vec::new();
    GzDecoder::new(PLAIN).read_to_end(&mut tar).unwrap();
    let mut random = Random(7);
    for _ in 0..30 {
        let mut broken = tar.clone();
        random.damage(&mut broken);
        assert!(!matches!(entries(&gzip(&broken)), Err(ReadError::Source(_))));
    }
}

#[test]
fn broken_filters_are_refused_or_read() {
    let mut archive = tar::Archive::new(GzDecoder::new(PLAIN));
    let is_filters = |entry: &tar::Entry<'_, _>| &*entry.path_bytes() == b"filters/filters.json";
    let mut filters = Vec::new();
    archive.entries().unwrap().map(Result::unwrap).find(is_filters).unwrap().read_to_end(&mut filters).unwrap();
    let mut random = Random(11);
    for _ in 0..400 {
        let mut broken = filters.clone();
        for _ in 0..=random.below(4) {
            let at = random.below(broken.len());
            match random.below(4) {
                0 => broken[at] ^= 1 << random.below(7),
                1 => broken.truncate(at + 1),
                2 => broken[at] = b"\\\"[](){}^$*+?|-&:"[random.below(17)],
                _ => drop(broken.splice(at..at, *b"(?")),
            }
        }
        let archive = Tar::default().secret("a").member(EntryType::Regular, b"filters/filters.json", &broken);
        let outcome = entries(&archive.end());
        assert!(matches!(outcome, Ok(_) | Err(ReadError::Corrupt(_))), "{outcome:?}");
    }
}
