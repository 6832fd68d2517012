//! A folder of a bucket, on AWS or on any server that speaks its protocol.

mod client;
mod fault;
mod upload;

use std::path::Path;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::get_object::{GetObjectError, GetObjectOutput};
use aws_sdk_s3::operation::head_object::HeadObjectError;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{EncodingType, Object};
use bytes::Bytes;
use jiff::Timestamp;

use super::spool::SpoolWriter;
use super::{MAX_ENTRIES, Patience, S3Credentials, S3Location, Spool, SpoolLimits, Stat, StoreError, is_backup};
use fault::Answer;

/// Most times that one download goes on after a break: a link that carries 1 MiB at a time still carries 100 MiB.
const MAX_RESUMES: u32 = 100;

/// Most pages of one list without an entry. Servers that filter as they go send some.
const MAX_EMPTY_PAGES: u32 = 100;

#[derive(Debug)]
pub(super) struct Bucket {
    client: Client,
    location: S3Location,
    place: String,
    patience: Patience,
}

impl Bucket {
    pub(super) async fn open(
        location: &S3Location,
        credentials: Option<&S3Credentials>,
        patience: Patience,
    ) -> Result<Self, StoreError> {
        location.validate()?;
        let client = client::build(location, credentials, patience).await?;
        Ok(Self { client, place: describe(location)?, location: location.clone(), patience })
    }

    pub(super) fn describe(&self) -> String {
        self.place.clone()
    }

    pub(super) async fn stat(&self, name: &str) -> Result<Option<Stat>, StoreError> {
        let asked = self.client.head_object().bucket(&self.location.bucket_name).key(self.location.key(name));
        match asked.send().await {
            Ok(head) => {
                let size = size(head.content_length()).ok_or_else(|| self.not_s3("an object without a size"))?;
                Ok(Some(Stat { size, modified: head.last_modified().and_then(timestamp), etag: head.e_tag }))
            }
            Err(error) => self.missing(name, error).await,
        }
    }

    /// Tells a missing object from all that a failed HEAD may mean. An answer to HEAD has no body and so no code; one
    /// byte is asked for instead.
    async fn missing(&self, name: &str, error: SdkError<HeadObjectError>) -> Result<Option<Stat>, StoreError> {
        let answer = Answer::of(&error);
        if answer.as_ref().is_none_or(|answer| answer.status >= 500) {
            return Err(fault::store_error(&self.place, &error));
        }
        let asked = self.client.get_object().bucket(&self.location.bucket_name).key(self.location.key(name));
        let told = match asked.range("bytes=0-0").send().await {
            Ok(_) => None,
            Err(error) => Some((Answer::of(&error), fault::store_error(&self.place, &error))),
        };
        match told {
            Some((Some(answer), _)) if answer.is_missing_object() => Ok(None),
            Some((_, error)) => Err(error),
            None if answer.is_some_and(|answer| answer.is_missing_object()) => Ok(None),
            None => Err(fault::store_error(&self.place, &error)),
        }
    }

    fn not_s3(&self, reason: &'static str) -> StoreError {
        StoreError::NotS3 { place: self.place.clone(), reason }
    }

    pub(super) async fn list(&self) -> Result<Vec<(String, Stat)>, StoreError> {
        let mut backups = Vec::new();
        let (mut seen, mut empty, mut token) = (0, 0, None);
        loop {
            let page = self.page(token.take()).await?;
            let entries = page.contents().len() + page.common_prefixes().len();
            seen += entries;
            empty += u32::from(entries == 0);
            if seen > MAX_ENTRIES {
                return Err(StoreError::TooManyEntries { place: self.place.clone(), limit: MAX_ENTRIES });
            }
            let encoded = page.encoding_type() == Some(&EncodingType::Url);
            backups.extend(page.contents().iter().filter_map(|object| self.backup(object, encoded)));
            match (page.is_truncated(), page.next_continuation_token) {
                (Some(true), Some(next)) if empty < MAX_EMPTY_PAGES => token = Some(next),
                (Some(true), _) => return Err(self.not_s3("a list that does not end")),
                (Some(false) | None, _) => return Ok(backups),
            }
        }
    }

    async fn page(&self, token: Option<String>) -> Result<ListObjectsV2Output, StoreError> {
        // Without an encoding, one key with a control character makes the whole page unreadable.
        let asked = self.client.list_objects_v2().bucket(&self.location.bucket_name).encoding_type(EncodingType::Url);
        let asked = asked.prefix(self.location.key("")).delimiter("/").set_continuation_token(token);
        asked.send().await.map_err(|error| fault::store_error(&self.place, &error))
    }

    fn backup(&self, object: &Object, encoded: bool) -> Option<(String, Stat)> {
        let key = object.key()?;
        let key = if encoded { decoded(key) } else { key.to_owned() };
        let name = key.strip_prefix(&self.location.key(""))?.to_owned();
        let size = size(object.size())?;
        let stat = Stat { size, modified: object.last_modified().and_then(timestamp), etag: object.e_tag.clone() };
        is_backup(&name).then_some((name, stat))
    }

    pub(super) async fn spool(
        &self,
        name: &str,
        spool_dir: &Path,
        limits: SpoolLimits,
        progress: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> Result<Spool, StoreError> {
        let found = self.stat(name).await?;
        let stat = found.ok_or_else(|| StoreError::NotFound { place: self.place.clone(), name: name.to_owned() })?;
        limits.admit(name, stat.size)?;
        let writer = SpoolWriter::create(spool_dir, stat.size).await?;
        let mut download = Download { bucket: self, name, stat: &stat, progress, writer, received: 0 };
        download.whole().await?;
        download.writer.finish().await
    }
}

/// One object on its way into a spool.
struct Download<'a> {
    bucket: &'a Bucket,
    name: &'a str,
    stat: &'a Stat,
    progress: &'a (dyn Fn(u64, u64) + Send + Sync),
    writer: SpoolWriter,
    /// Bytes that are in the spool.
    received: u64,
}

impl Download<'_> {
    /// Reads to the end, going on after each break, until the tries in a row that bring nothing are used up.
    async fn whole(&mut self) -> Result<(), StoreError> {
        let (mut idle, mut resumes) = (0, 0);
        while self.received < self.stat.size {
            let before = self.received;
            let broken = match self.part().await {
                Ok(()) if self.received == self.stat.size => return Ok(()),
                Ok(()) => "the answer ended early".into(),
                Err(error) if goes_on(&error) => Box::new(error).into(),
                Err(error) => return Err(error),
            };
            idle = if self.received > before { 1 } else { idle + 1 };
            resumes += 1;
            if idle >= self.bucket.patience.tries || resumes > MAX_RESUMES {
                return Err(self.given_up(broken));
            }
            tracing::debug!(
                backup.name = self.name,
                received_bytes = self.received,
                "download of {} broke off",
                self.name
            );
            tokio::time::sleep(wait(self.bucket.patience, idle)).await;
        }
        Ok(())
    }

    fn given_up(&self, source: super::Cause) -> StoreError {
        let (place, name) = (self.bucket.place.clone(), self.name.to_owned());
        StoreError::Interrupted { place, name, received: self.received, size: self.stat.size, source }
    }

    /// One request, from the last byte received to the end of its answer.
    async fn part(&mut self) -> Result<(), StoreError> {
        let bucket = self.bucket;
        let asked = bucket.client.get_object().bucket(&bucket.location.bucket_name);
        let asked = asked.key(bucket.location.key(self.name)).set_if_match(self.stat.etag.clone());
        let range = (self.received > 0).then(|| format!("bytes={}-", self.received));
        let answer = asked.set_range(range).send().await.map_err(|error| self.refused(&error))?;
        let skipped = skipped(&answer, self.stat, self.received).ok_or_else(|| self.changed())?;
        self.body(answer.body, skipped).await
    }

    fn changed(&self) -> StoreError {
        StoreError::Changed { place: self.bucket.place.clone(), name: self.name.to_owned() }
    }

    /// Gone, or no longer what was looked at: both are a backup that was replaced.
    fn refused(&self, error: &SdkError<GetObjectError>) -> StoreError {
        let replaced = |answer: Answer| answer.is_missing_object() || matches!(answer.status, 412 | 416);
        if Answer::of(error).is_some_and(replaced) {
            return self.changed();
        }
        fault::store_error(&self.bucket.place, error)
    }

    /// Spools the answer's bytes, but for the first `skipped`, which are in the spool.
    async fn body(&mut self, mut body: ByteStream, mut skipped: u64) -> Result<(), StoreError> {
        let place = &self.bucket.place;
        let unreachable = |source: super::Cause| StoreError::Unreachable { place: place.clone(), source };
        loop {
            let next = tokio::time::timeout(self.bucket.patience.read, body.next()).await;
            let chunk = match next.map_err(|elapsed| unreachable(Box::new(elapsed)))? {
                Some(chunk) => chunk.map_err(|error| unreachable(Box::new(error)))?,
                None => return Ok(()),
            };
            let chunk = unseen(chunk, &mut skipped);
            if chunk.len() as u64 > self.stat.size - self.received {
                return Err(self.changed());
            }
            let bytes = chunk.len() as u64;
            self.writer.write(chunk).await?;
            self.received += bytes;
            (self.progress)(self.received, self.stat.size);
        }
    }
}

/// Takes away what is still to be skipped.
fn unseen(mut chunk: Bytes, skipped: &mut u64) -> Bytes {
    let cut = usize::try_from(*skipped).unwrap_or(usize::MAX).min(chunk.len());
    *skipped -= cut as u64;
    chunk.split_off(cut)
}

/// Bytes at the start of `answer` that were received before, or `None` when it is not of the object of `stat`.
///
/// A server that knows no ranges, or a proxy before it, answers from the start.
fn skipped(answer: &GetObjectOutput, stat: &Stat, received: u64) -> Option<u64> {
    let other = |etag: &String| answer.e_tag().is_some_and(|theirs| theirs != etag);
    if stat.etag.as_ref().is_some_and(other) {
        return None;
    }
    match answer.content_range() {
        Some(range) => (range == format!("bytes {received}-{}/{}", stat.size - 1, stat.size)).then_some(0),
        None => (size(answer.content_length()) == Some(stat.size)).then_some(received),
    }
}

/// Whether the connection broke, and nothing else.
fn goes_on(error: &StoreError) -> bool {
    matches!(error, StoreError::Unreachable { .. } | StoreError::Refused { .. }) && error.transient()
}

fn wait(patience: Patience, tries: u32) -> Duration {
    let doubled = patience.backoff.saturating_mul(2_u32.saturating_pow(tries.saturating_sub(1)));
    doubled.min(patience.max_backoff).mul_f64(0.5 + fastrand::f64() / 2.0)
}

fn describe(location: &S3Location) -> Result<String, StoreError> {
    let endpoint = location.endpoint()?;
    let folder = location.folder();
    let folder = if folder.is_empty() { String::new() } else { format!(", folder {folder},") };
    let host = match &endpoint {
        Some(endpoint) => endpoint.to_string(),
        None => format!("AWS {}", location.region_at(None)),
    };
    Ok(format!("s3 bucket {}{folder} at {host}", location.bucket_name))
}

fn size(length: Option<i64>) -> Option<u64> {
    length.and_then(|length| u64::try_from(length).ok())
}

fn timestamp(time: &DateTime) -> Option<Timestamp> {
    Timestamp::new(time.secs(), i32::try_from(time.subsec_nanos()).ok()?).ok()
}

/// A key as `encoding-type=url` writes it: as in a form, so that `+` is a space.
fn decoded(key: &str) -> String {
    let form = key.replace('&', "%26").replace('=', "%3D");
    url::form_urlencoded::parse(form.as_bytes()).map(|(key, _)| key.into_owned()).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat() -> Stat {
        Stat { size: 10, modified: None, etag: Some("\"a\"".to_owned()) }
    }

    fn answer(etag: &str, range: Option<&str>, length: i64) -> GetObjectOutput {
        let answer = GetObjectOutput::builder().e_tag(etag).content_length(length);
        answer.set_content_range(range.map(str::to_owned)).build()
    }

    #[test]
    fn only_the_rest_of_the_same_object_is_taken_after_a_break() {
        assert_eq!(skipped(&answer("\"a\"", Some("bytes 4-9/10"), 6), &stat(), 4), Some(0));
        assert_eq!(skipped(&answer("\"a\"", Some("bytes 5-9/10"), 5), &stat(), 4), None);
        assert_eq!(skipped(&answer("\"a\"", Some("bytes 4-19/20"), 16), &stat(), 4), None);
        assert_eq!(skipped(&answer("\"b\"", Some("bytes 4-9/10"), 6), &stat(), 4), None);
    }

    #[test]
    fn an_answer_from_the_start_is_skipped_to_where_it_broke() {
        assert_eq!(skipped(&answer("\"a\"", None, 10), &stat(), 4), Some(4));
        assert_eq!(skipped(&answer("\"a\"", None, 6), &stat(), 4), None);
        let mut left = 4;
        assert_eq!(unseen(Bytes::from_static(b"abc"), &mut left), "");
        assert_eq!(unseen(Bytes::from_static(b"def"), &mut left), "ef");
        assert_eq!(left, 0);
    }

    #[test]
    fn an_encoded_key_is_read_back() {
        assert_eq!(decoded("a/b%20c+d%2Be=f%26g%C3%A9.tar.gz"), "a/b c d+e=f&gé.tar.gz");
        assert_eq!(decoded(""), "");
    }

    #[test]
    fn waits_grow_up_to_their_limit() {
        let patience = Patience::default();
        assert!(wait(patience, 1) <= Duration::from_millis(500));
        assert!(wait(patience, 3) >= Duration::from_secs(1));
        assert!(wait(patience, u32::MAX) <= patience.max_backoff);
    }

    #[test]
    fn a_bucket_is_described_without_secrets() {
        let location = S3Location {
            bucket_name: "b".to_owned(),
            endpoint: Some("http://minio.example.org:9000/".to_owned()),
            folder: Some("/f/g/".to_owned()),
            ..S3Location::default()
        };
        insta::assert_snapshot!(describe(&location).unwrap(), @"s3 bucket b, folder f/g, at minio.example.org:9000");
        let aws = S3Location { endpoint: None, folder: None, ..location };
        insta::assert_snapshot!(describe(&aws).unwrap(), @"s3 bucket b at AWS us-east-1");
    }
}
