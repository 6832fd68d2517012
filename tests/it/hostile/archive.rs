//! From members to bytes, by way of tar and gzip, with what somebody can do on the way.

use std::io::Write as _;

use fastrand::Rng;
use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use tar::{EntryType, Header};

use super::members::Member;

const BLOCK: usize = 512;

/// Does something to an archive before it is packed; says what.
pub fn trick(rng: &mut Rng, members: &mut Vec<Member>) -> String {
    let at = rng.usize(..members.len());
    let what = if rng.u8(..3) < 2 { extend(rng, members, at) } else { disguise(rng, members, at) };
    format!("before or in member {at}: {what}")
}

/// Puts a header before a member that says something of it, or of itself, that is not so.
fn extend(rng: &mut Rng, members: &mut Vec<Member>, at: usize) -> String {
    let size = members[at].content.len();
    let pax = |records: &[(&str, &str)]| records.iter().map(|(key, value)| record(key, value)).collect::<String>();
    let mut before = |kind: u8, content: Vec<u8>| members.insert(at, Member::of_kind(kind, "PaxHeaders.0/x", content));
    match rng.u8(..15) {
        0 => {
            let path =
                *rng.choice(&["../../etc/passwd", "/etc/passwd", "", "a\nb", "secrets.#v1/ns/a.json"]).expect("some");
            before(b'x', pax(&[("path", path)]).into_bytes());
            format!("a PAX path {path:?}")
        }
        1 => {
            let other = [0, 1, size + 1, size + BLOCK, 1 << 40][rng.usize(..5)].to_string();
            before(b'x', pax(&[("size", &other)]).into_bytes());
            format!("a PAX size {other}")
        }
        2 => {
            let text = *rng.choice(&["-1", "+1", "1e3", "0x10", "", "99999999999999999999999"]).expect("some");
            before(b'x', pax(&[("size", text)]).into_bytes());
            format!("a PAX size {text:?}")
        }
        3 => {
            before(b'x', pax(&[("comment", &"x".repeat(rng.usize(60_000..80_000)))]).into_bytes());
            "a PAX header of some 70,000 bytes".to_owned()
        }
        4 => {
            let records = *rng
                .choice(&[
                    "99 path=x\n",
                    "0 path=x\n",
                    "9 path=x",
                    "path=x\n",
                    "11 path=x\n",
                    "18446744073709551615 a=b\n",
                ])
                .expect("some");
            before(b'x', records.as_bytes().to_vec());
            format!("PAX records {records:?}")
        }
        5 => {
            before(b'g', pax(&[("path", "secrets.#v1/ns/a.json"), ("size", "0")]).into_bytes());
            "a global PAX header with path and size".to_owned()
        }
        6 => {
            before(b'g', pax(&[("comment", "harmless")]).into_bytes());
            "a harmless global PAX header".to_owned()
        }
        7 => {
            before(b'x', pax(&[("GNU.sparse.major", "1"), ("GNU.sparse.realsize", "1099511627776")]).into_bytes());
            "a sparse file by PAX".to_owned()
        }
        8 => {
            before(b'x', pax(&[("mtime", "1")]).into_bytes());
            before(b'x', pax(&[("path", "secrets.#v1/ns/a.json")]).into_bytes());
            "two PAX headers".to_owned()
        }
        9 => {
            before(b'L', [b"../".repeat(100), b"x\0".to_vec()].concat());
            "a GNU name that leads elsewhere".to_owned()
        }
        10 => {
            before(b'L', b"x".repeat(100_000));
            "a GNU name of 100,000 bytes".to_owned()
        }
        11 => {
            let header =
                Member { size: Some(b"77777777777\0".to_vec()), ..Member::of_kind(b'x', "x", pax(&[("a", "b")])) };
            members.insert(at, header);
            "a PAX header that promises 8 GiB".to_owned()
        }
        12 => {
            members.push(Member::of_kind(b'x', "x", pax(&[("path", "a")])));
            "a PAX header at the end".to_owned()
        }
        13 => {
            before(b'x', pax(&[("path", "a"), ("path", "b")]).into_bytes());
            "two PAX paths".to_owned()
        }
        _ => {
            before(b'K', b"target\0".to_vec());
            "a GNU link name".to_owned()
        }
    }
}

/// Makes something else of a member, or puts one beside it that is no file.
fn disguise(rng: &mut Rng, members: &mut Vec<Member>, at: usize) -> String {
    match rng.u8(..7) {
        0 => {
            members[at].kind = *rng.choice(b"123456789gxLKSVDMNAX\0\x1b\xff").expect("some");
            format!("of the kind {:?}", char::from(members[at].kind))
        }
        1 => {
            members[at].size = Some(
                [b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"]
                    [rng.usize(..2)]
                .to_vec(),
            );
            "a size in base 256".to_owned()
        }
        2 => {
            let fields: [&[u8; 12]; 6] = [
                b"77777777777\0",
                b"-1\0\0\0\0\0\0\0\0\0\0",
                b"00000000000\0",
                b"            ",
                b"9999\0\0\0\0\0\0\0\0",
                b"00000001000\0",
            ];
            let field = fields[rng.usize(..fields.len())];
            members[at].size = Some(field.to_vec());
            format!("a size field {}", field.escape_ascii())
        }
        3 => {
            members.insert(at, Member::of_kind(b'5', "secrets.#v1", vec![0; BLOCK]));
            "a folder with content".to_owned()
        }
        4 => {
            let path = *rng.choice(&["..", "/", "a/../../b", "a\x1b"]).expect("some");
            members.insert(at, Member::of_kind(b'5', path, Vec::new()));
            format!("a folder {path:?}")
        }
        5 => {
            members[at].content.resize(17 << 20, b' ');
            "a file of 17 MiB".to_owned()
        }
        _ => {
            for _ in 0..20_000 {
                members.insert(at, Member::of_kind(b'5', "secrets.#v1", Vec::new()));
            }
            "20,000 folders".to_owned()
        }
    }
}

pub fn tar(members: &[Member]) -> Vec<u8> {
    let mut archive = Vec::new();
    for member in members {
        let Member { kind, path, content, size } = member;
        if path.len() > 100 {
            let name = Member::of_kind(b'L', "././@LongLink", [&path[..], b"\0"].concat());
            archive.extend(tar(&[name]));
        }
        let mut header = Header::new_gnu();
        let short = &path[..path.len().min(100)];
        header.as_old_mut().name[..short.len()].copy_from_slice(short);
        header.set_entry_type(EntryType::new(*kind));
        header.set_mode(0o600);
        header.set_size(content.len() as u64);
        if let Some(size) = size {
            header.as_old_mut().size.copy_from_slice(size);
        }
        header.set_cksum();
        archive.extend_from_slice(header.as_bytes());
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(BLOCK), 0);
    }
    archive
}

/// Packs an archive, with its end or in some other way; says how.
pub fn gzip(rng: &mut Rng, archive: Vec<u8>) -> (String, Vec<u8>) {
    match archive.is_empty() || rng.bool() {
        true => repacked(rng, &whole(&archive)),
        false => rewritten(rng, archive),
    }
}

/// Well packed, of blocks that are not what they were.
fn rewritten(rng: &mut Rng, mut archive: Vec<u8>) -> (String, Vec<u8>) {
    let packed = |bytes: &[u8]| pack(bytes, Compression::fast());
    let block = rng.usize(..archive.len() / BLOCK) * BLOCK;
    match rng.u8(..12) {
        0 => ("without an end".to_owned(), packed(&archive)),
        1 => ("with half an end".to_owned(), packed(&[&archive[..], &[0; BLOCK]].concat())),
        2 => ("with a second archive behind".to_owned(), packed(&[whole(&archive), whole(&archive)].concat())),
        3 => ("with a letter behind its end".to_owned(), packed(&[&whole(&archive)[..], b"x"].concat())),
        4 => {
            archive.truncate(rng.usize(..archive.len()));
            ("cut".to_owned(), packed(&archive))
        }
        5 => {
            archive[block..block + BLOCK].fill(0);
            (format!("zeros at {block}"), packed(&whole(&archive)))
        }
        6 => {
            archive[block..block + BLOCK].fill(0);
            let next = (block + BLOCK).min(archive.len() - BLOCK);
            archive[next..next + BLOCK].fill(0);
            (format!("an end at {block}"), packed(&whole(&archive)))
        }
        7 => {
            archive.drain(block..block + BLOCK);
            (format!("without the block at {block}"), packed(&whole(&archive)))
        }
        8 => {
            let copy = archive[block..block + BLOCK].to_vec();
            archive.splice(block..block, copy);
            (format!("with the block at {block} twice"), packed(&whole(&archive)))
        }
        9 => {
            let at = block + rng.usize(..BLOCK);
            archive[at] ^= 1 << rng.u8(..8);
            (format!("with a bit flipped at {at}"), packed(&whole(&archive)))
        }
        10 => ("40 MiB of zeros behind".to_owned(), packed(&[whole(&archive), vec![0; 40 << 20]].concat())),
        _ => {
            let bomb =
                Member { size: Some(b"00377777777\0".to_vec()), ..Member::file("secrets.#v1/ns/a.json", Vec::new()) };
            ("a bomb of 40 MiB in a file".to_owned(), packed(&[tar(&[bomb]), vec![0; 40 << 20]].concat()))
        }
    }
}

/// A whole archive, packed as nobody does.
fn repacked(rng: &mut Rng, whole: &[u8]) -> (String, Vec<u8>) {
    let packed = |bytes: &[u8]| pack(bytes, Compression::fast());
    match rng.u8(..10) {
        0 => {
            let bytes = packed(whole);
            let end = rng.usize(..bytes.len());
            (format!("packed, then cut at {end}"), bytes[..end].to_vec())
        }
        1 => {
            let mut bytes = packed(whole);
            let at = rng.usize(..bytes.len());
            bytes[at] ^= 1 << rng.u8(..8);
            (format!("packed, then a bit flipped at {at}"), bytes)
        }
        2 => {
            let mut bytes = packed(whole);
            let at = bytes.len() - 1 - rng.usize(..8);
            bytes[at] ^= 0x55;
            ("with a wrong sum or length".to_owned(), bytes)
        }
        3 => {
            let members = whole.chunks(rng.usize(100..5000)).flat_map(packed);
            ("in many gzip members".to_owned(), members.collect())
        }
        4 => {
            let empty = packed(&[]);
            ("behind 20,000 empty gzip members".to_owned(), [empty.repeat(20_000), packed(whole)].concat())
        }
        5 => ("with garbage behind".to_owned(), [&packed(whole)[..], b"garbage"].concat()),
        6 => ("stored, not packed".to_owned(), pack(whole, Compression::none())),
        7 => ("with 60,000 bytes in gzip's header".to_owned(), {
            let mut encoder = GzBuilder::new()
                .extra(vec![7; 60_000])
                .filename("x".repeat(60_000))
                .comment("y".repeat(60_000))
                .write(Vec::new(), Compression::fast());
            encoder.write_all(whole).expect("memory takes everything");
            encoder.finish().expect("memory takes everything")
        }),
        8 => ("not packed at all".to_owned(), whole.to_vec()),
        _ => ("packed twice".to_owned(), packed(&packed(whole))),
    }
}

/// Packed as it should be.
pub fn well_packed(archive: &[u8]) -> Vec<u8> {
    pack(&whole(archive), Compression::fast())
}

fn whole(archive: &[u8]) -> Vec<u8> {
    [archive, &[0; 2 * BLOCK]].concat()
}

fn pack(bytes: &[u8], level: Compression) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), level);
    encoder.write_all(bytes).expect("memory takes everything");
    encoder.finish().expect("memory takes everything")
}

fn record(key: &str, value: &str) -> String {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len() + 1;
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    format!("{length}{rest}")
}
