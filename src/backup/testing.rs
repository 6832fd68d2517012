//! Archives for tests, well made or not.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{EntryType, Header};

/// A tar archive in the making. Each call appends; [`Self::end`] closes it as Go's writer does.
#[derive(Default)]
pub(super) struct Tar(pub Vec<u8>);

impl Tar {
    pub fn file(self, path: &str, content: &str) -> Self {
        self.member(EntryType::Regular, path.as_bytes(), content.as_bytes())
    }

    pub fn directory(self, path: &str) -> Self {
        self.member(EntryType::Directory, path.as_bytes(), b"")
    }

    pub fn secret(self, name: &str) -> Self {
        self.file(&format!("secrets.#v1/ns/{name}.json"), &secret(name))
    }

    /// A PAX header with these records before the next member.
    pub fn pax(self, records: &[(&str, &str)]) -> Self {
        let content: String = records.iter().map(|(key, value)| pax_record(key, value)).collect();
        self.member(EntryType::XHeader, b"PaxHeaders.0/x", content.as_bytes())
    }

    pub fn member(self, kind: EntryType, path: &[u8], content: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..path.len()].copy_from_slice(path);
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        self.header(header).raw(content).pad()
    }

    pub fn header(self, mut header: Header) -> Self {
        header.set_cksum();
        self.raw(header.as_bytes())
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn pad(mut self) -> Self {
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn end(self) -> Vec<u8> {
        gzip(&self.raw(&[0; 1024]).0)
    }
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn secret(name: &str) -> String {
    format!(r#"{{"apiVersion":"v1","kind":"Secret","metadata":{{"name":"{name}","namespace":"ns"}}}}"#)
}

fn pax_record(key: &str, value: &str) -> String {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len() + 1;
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    format!("{length}{rest}")
}
