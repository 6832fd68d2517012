//! gzip and tar, down to the members of the archive.
//!
//! Why not `tar::Archive`: it keeps extension headers of any length in memory, takes an archive without an end for a whole
//! one, and stops before the gzip checksum. Its [`tar::Header`] does the fields.

use std::borrow::Cow;
use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use tar::{EntryType, Header};

use super::error::{BackupError, EntryName, ReadError, shown};

const BLOCK_BYTES: usize = 512;
/// Longest extension header (a PAX record set or a GNU long name). A path of ours has 600 bytes at most.
const MAX_EXTENSION_BYTES: u64 = 64 * 1024;
/// Unpacked size below which the ratio of unpacked to packed bytes is not judged.
const RATIO_JUDGED_FROM_BYTES: u64 = 32 * 1024 * 1024;
const BUFFER_BYTES: usize = 64 * 1024;

/// What [`Unpack`] can fail with; the visitor's error comes in above.
pub(super) type Failure = ReadError<std::convert::Infallible>;

/// A member of the archive that holds a file.
pub(super) struct Member {
    /// As the archive has it.
    pub path: Vec<u8>,
    pub size: u64,
}

/// How much may come out of one backup.
pub(super) struct Bounds {
    pub max_unpacked_bytes: u64,
    pub packed_bytes: u64,
    pub max_ratio: u64,
}

pub(super) struct Unpack<R: Read> {
    stream: BufReader<MultiGzDecoder<BufReader<Watched<R>>>>,
    bounds: Bounds,
    unpacked_bytes: u64,
    /// The member that is being read, for messages.
    current: Option<EntryName>,
}

impl<R: Read> Unpack<R> {
    pub fn new(reader: R, bounds: Bounds) -> Self {
        let packed = BufReader::with_capacity(BUFFER_BYTES, Watched(reader));
        let stream = BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(packed));
        Self { stream, bounds, unpacked_bytes: 0, current: None }
    }

    pub fn unpacked_bytes(&self) -> u64 {
        self.unpacked_bytes
    }

    /// The next file. `None` once the end of the archive, and of the gzip stream with its checksum, has been seen.
    ///
    /// The content of the member before must have been read.
    pub fn next_file(&mut self) -> Result<Option<Member>, Failure> {
        let mut extensions = Extensions::default();
        loop {
            self.current = None;
            let at_byte = self.unpacked_bytes;
            let mut block = [0; BLOCK_BYTES];
            self.fill(&mut block)?;
            if block.iter().all(|byte| *byte == 0) {
                extensions.none_pending(at_byte)?;
                self.end()?;
                return Ok(None);
            }
            let header = checked(&block, at_byte)?;
            let size = header.entry_size().map_err(|_| at(at_byte, "has a size that is not a number"))?;
            match header.entry_type() {
                EntryType::XHeader => extensions.add_pax(&self.extension(header, size)?, header)?,
                EntryType::GNULongName => extensions.add_gnu(&self.extension(header, size)?, header)?,
                EntryType::XGlobalHeader => Extensions::default().add_pax(&self.extension(header, size)?, header)?,
                kind => {
                    let path = std::mem::take(&mut extensions).path_of(header, size)?;
                    self.current = Some(EntryName::new(&path));
                    if is_file(kind, &path, size)? {
                        return Ok(Some(Member { path, size }));
                    }
                    directory(&path, size)?;
                }
            }
        }
    }

    /// Reads the content of the member that was just returned.
    ///
    /// `into` grows with what is read, not with what a header promises.
    pub fn content(&mut self, size: u64, into: &mut Vec<u8>) -> Result<(), Failure> {
        into.clear();
        let read = (&mut self.stream).take(size).read_to_end(into);
        self.account(into.len())?;
        read.map_err(|error| self.failure(error))?;
        if (into.len() as u64) < size {
            return Err(self.truncated());
        }
        let padding = (BLOCK_BYTES - into.len() % BLOCK_BYTES) % BLOCK_BYTES;
        self.fill(&mut [0; BLOCK_BYTES][..padding])
    }

    fn extension(&mut self, header: &Header, size: u64) -> Result<Vec<u8>, Failure> {
        let path = header.path_bytes();
        self.current = Some(EntryName::new(&path));
        if size > MAX_EXTENSION_BYTES {
            return Err(fault(
                &path,
                format!("is an extension header of {size} bytes, which is more than {MAX_EXTENSION_BYTES}"),
            ));
        }
        let mut content = Vec::new();
        self.content(size, &mut content)?;
        Ok(content)
    }

    /// After the first of the two zero blocks: the second, then nothing but padding until gzip has checked its sums.
    fn end(&mut self) -> Result<(), Failure> {
        let mut block = [0; BLOCK_BYTES];
        let mut at_byte = self.unpacked_bytes;
        self.fill(&mut block)?;
        let mut rest = block.to_vec();
        loop {
            if rest.iter().any(|byte| *byte != 0) {
                return Err(at(at_byte, "comes after the end of the archive"));
            }
            at_byte = self.unpacked_bytes;
            rest.clear();
            let read = (&mut self.stream).take(BUFFER_BYTES as u64).read_to_end(&mut rest);
            self.account(rest.len())?;
            if read.map_err(|error| self.failure(error))? == 0 {
                return Ok(());
            }
        }
    }

    fn fill(&mut self, block: &mut [u8]) -> Result<(), Failure> {
        self.stream.read_exact(block).map_err(|error| self.failure(error))?;
        self.account(block.len())
    }

    fn account(&mut self, bytes: usize) -> Result<(), Failure> {
        let Bounds { max_unpacked_bytes, packed_bytes, max_ratio } = self.bounds;
        self.unpacked_bytes += bytes as u64;
        if self.unpacked_bytes > max_unpacked_bytes {
            return Err(self.too_large(format!("more than {max_unpacked_bytes} unpacked bytes")));
        }
        let largest = packed_bytes.saturating_mul(max_ratio).max(RATIO_JUDGED_FROM_BYTES);
        if self.unpacked_bytes > largest {
            return Err(self.too_large(format!("more than {max_ratio} times the bytes of its file")));
        }
        Ok(())
    }

    fn too_large(&self, what: String) -> Failure {
        BackupError::TooLarge { entry: self.current.clone(), what }.into()
    }

    fn truncated(&self) -> Failure {
        BackupError::Truncated { entry: self.current.clone(), unpacked_bytes: self.unpacked_bytes }.into()
    }

    /// Tells a source that fails from bytes that are wrong.
    fn failure(&self, error: io::Error) -> Failure {
        let kind = error.kind();
        match error.downcast::<SourceFailed>() {
            Ok(SourceFailed(source)) => ReadError::Source(source),
            Err(_) if kind == io::ErrorKind::UnexpectedEof => self.truncated(),
            Err(source) => {
                let Self { current, unpacked_bytes, .. } = self;
                BackupError::Gzip { entry: current.clone(), unpacked_bytes: *unpacked_bytes, source }.into()
            }
        }
    }
}

/// Marks the errors of the source, so that they are told from those of gzip after they came up through it.
struct Watched<R>(R);

#[derive(Debug, thiserror::Error)]
#[error("the source of the backup failed")]
struct SourceFailed(#[source] io::Error);

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buf) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map_err(|error| io::Error::other(SourceFailed(error))),
            }
        }
    }
}

/// What extension headers say about the member after them.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    size: Option<u64>,
    seen: bool,
}

impl Extensions {
    /// Takes PAX records: `<length> <key>=<value>\n`, the length in bytes and counting itself.
    fn add_pax(&mut self, mut records: &[u8], header: &Header) -> Result<(), Failure> {
        let of = header.path_bytes();
        self.only_one(&of)?;
        let global = header.entry_type() == EntryType::XGlobalHeader;
        while !records.is_empty() {
            let (key, value, rest) =
                pax_record(records).ok_or_else(|| fault(&of, "has a PAX record that is not one"))?;
            records = rest;
            match key {
                b"path" | b"size" if global => return Err(fault(&of, "sets a path or a size for the whole archive")),
                b"path" if self.path.is_some() => return Err(fault(&of, "has two PAX records for a path")),
                b"path" => self.path = Some(value.to_vec()),
                b"size" if self.size.is_some() => return Err(fault(&of, "has two PAX records for a size")),
                b"size" => {
                    self.size = Some(decimal(value).ok_or_else(|| fault(&of, "has a PAX size that is not a number"))?)
                }
                key if key.starts_with(b"GNU.sparse.") => return Err(fault(&of, "describes a sparse file")),
                _ => {} // times, owners and comments say nothing about an object
            }
        }
        Ok(())
    }

    fn add_gnu(&mut self, name: &[u8], header: &Header) -> Result<(), Failure> {
        self.only_one(&header.path_bytes())?;
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        self.path = Some(name[..end].to_vec());
        Ok(())
    }

    /// Programs differ in which of several extension headers counts, so that an archive could show two faces.
    fn only_one(&mut self, of: &[u8]) -> Result<(), Failure> {
        match std::mem::replace(&mut self.seen, true) {
            true => Err(fault(of, "is a second extension header for one member")),
            false => Ok(()),
        }
    }

    fn none_pending(&self, at_byte: u64) -> Result<(), Failure> {
        match self.seen {
            true => Err(at(at_byte, "ends the archive after an extension header without its member")),
            false => Ok(()),
        }
    }

    /// The path of the member, whose size must be the one of its own header.
    ///
    /// A PAX size is for members above 8 GiB. Where it differs, programs differ in where the next header lies.
    fn path_of(self, header: &Header, size: u64) -> Result<Vec<u8>, Failure> {
        let Self { path, size: pax_size, seen: _ } = self;
        let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
        match pax_size {
            Some(other) if other != size => {
                Err(fault(&path, format!("has two sizes: {size} in its header, {other} in PAX")))
            }
            _ => Ok(path),
        }
    }
}

fn pax_record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&records[..space])?).ok()?;
    let (record, rest) = records.split_at_checked(length)?;
    let (&newline, pair) = record.get(space + 1..)?.split_last()?;
    let equals = pair.iter().position(|byte| *byte == b'=')?;
    (newline == b'\n').then_some((&pair[..equals], &pair[equals + 1..], rest))
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None; // `parse` would take a sign
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The header in `block`, if its checksum holds.
fn checked(block: &[u8; BLOCK_BYTES], at_byte: u64) -> Result<&Header, Failure> {
    /// Where the checksum lies; it counts as spaces in its own sum (POSIX.1-2017, pax, "ustar Interchange Format").
    const CHECKSUM: std::ops::Range<usize> = 148..156;
    let header = Header::from_byte_slice(block);
    let said = header.cksum().map_err(|_| at(at_byte, "has a checksum that is not a number"))?;
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    let spaces = CHECKSUM.len() as u32 * u32::from(b' ');
    if said != sum(&block[..CHECKSUM.start]) + spaces + sum(&block[CHECKSUM.end..]) {
        return Err(at(at_byte, "has a wrong checksum"));
    }
    Ok(header)
}

/// Whether the member is a file; a directory is not, and all else is refused.
fn is_file(kind: EntryType, path: &[u8], size: u64) -> Result<bool, Failure> {
    let what = match kind {
        EntryType::Directory => return Ok(false),
        // Before POSIX a directory was a file whose name ends in a slash.
        EntryType::Regular => return Ok(!(size == 0 && path.ends_with(b"/"))),
        EntryType::Symlink | EntryType::GNULongLink => "a symbolic link",
        EntryType::Link => "a hard link",
        EntryType::Char | EntryType::Block => "a device",
        EntryType::Fifo => "a named pipe",
        EntryType::GNUSparse => "a sparse file",
        other => {
            let letter = shown(&char::from(other.as_byte()).to_string());
            return Err(fault(path, format!("is of the unknown type `{letter}`; a backup holds plain files only")));
        }
    };
    Err(fault(path, format!("is {what}; a backup holds plain files only")))
}

fn directory(path: &[u8], size: u64) -> Result<(), Failure> {
    if size > 0 {
        // Some programs would skip these bytes and some would read headers from them.
        return Err(fault(path, format!("is a directory of {size} bytes")));
    }
    super::path::directory(path).map_err(|reason| fault(path, reason))
}

pub(super) fn fault(path: &[u8], fault: impl Into<Cow<'static, str>>) -> Failure {
    BackupError::Entry { entry: EntryName::new(path), fault: fault.into() }.into()
}

fn at(at_byte: u64, fault: impl Into<Cow<'static, str>>) -> Failure {
    BackupError::Block { at_byte, fault: fault.into() }.into()
}
