//! Backups on their way into a bucket: whole, or not at all.

use std::io::Read as _;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use tracing::warn;

use super::super::spool::{SpoolReader, blocking};
use super::super::{Spool, StoreError};
use super::Bucket;
use super::fault::{self, Answer};

/// Bytes of one part, and the largest object that goes by one request. The least that S3 takes is 5 MiB (Amazon S3 User Guide,
/// "multipart upload limits"); a part is in memory while it is sent.
const PART_BYTES: u64 = 8 << 20;
/// Most parts of an upload (as above).
const MAX_PARTS: u64 = 10_000;
/// The object that looks whether the bucket takes objects. One name, so that a bucket that never lets go holds one of them.
const PROBE: &str = ".reinback-probe";
/// Only where there is none yet. AWS knows it for writes since 2024, and MinIO; others pass over it, or say that they do not know it.
const NEW_ONLY: &str = "*";

impl Bucket {
    pub(in crate::store) async fn probe(&self) -> Result<(), StoreError> {
        let body = Bytes::from_static(b"reinback looks whether this store takes backups");
        self.put_once(PROBE, body, None).await.map_err(|error| fault::store_error(&self.place, &error))?;
        if let Err(error) = self.delete(PROBE).await {
            // Safety backups will stay for ever, which costs room and nothing else.
            warn!("backups can be added and not removed: {error}");
        }
        Ok(())
    }

    pub(in crate::store) async fn delete(&self, name: &str) -> Result<(), StoreError> {
        let asked = self.client.delete_object().bucket(&self.location.bucket_name).key(self.location.key(name));
        match asked.send().await {
            Ok(_) => Ok(()),
            Err(error) if Answer::of(&error).is_some_and(|answer| answer.is_missing_object()) => Ok(()),
            Err(error) => Err(fault::store_error(&self.place, &error)),
        }
    }

    /// A server that knows no conditions is asked before; between the two somebody could still write the same name.
    pub(in crate::store) async fn put(&self, name: &str, backup: &Spool) -> Result<(), StoreError> {
        if self.stat(name).await?.is_some() {
            return Err(self.exists(name));
        }
        match backup.size() <= PART_BYTES {
            true => self.put_whole(name, backup).await,
            false => self.put_in_parts(name, backup).await,
        }
    }

    fn exists(&self, name: &str) -> StoreError {
        StoreError::Exists { place: self.place.clone(), name: name.to_owned() }
    }

    async fn put_whole(&self, name: &str, backup: &Spool) -> Result<(), StoreError> {
        let body = chunk(backup.reader(), backup.size()).await?.1;
        match self.put_once(name, body.clone(), Some(NEW_ONLY)).await {
            Err(error) if knows_no_condition(&error) => {
                self.put_once(name, body, None).await.map_err(|error| fault::store_error(&self.place, &error))
            }
            Err(error) => Err(self.refused(name, &error)),
            Ok(()) => Ok(()),
        }
    }

    async fn put_once(
        &self,
        name: &str,
        body: Bytes,
        if_none_match: Option<&str>,
    ) -> Result<(), SdkError<aws_sdk_s3::operation::put_object::PutObjectError, HttpResponse>> {
        let asked = self.client.put_object().bucket(&self.location.bucket_name).key(self.location.key(name));
        let asked = asked.set_if_none_match(if_none_match.map(str::to_owned)).body(body.into());
        asked.send().await.map(drop)
    }

    /// Somebody else wrote the name meanwhile.
    fn refused<E>(&self, name: &str, error: &SdkError<E, HttpResponse>) -> StoreError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        match Answer::of(error) {
            Some(answer) if answer.status == 412 => self.exists(name),
            _ => fault::store_error(&self.place, error),
        }
    }

    async fn put_in_parts(&self, name: &str, backup: &Spool) -> Result<(), StoreError> {
        let asked = self.client.create_multipart_upload().bucket(&self.location.bucket_name);
        let begun = asked.key(self.location.key(name)).send().await;
        let begun = begun.map_err(|error| fault::store_error(&self.place, &error))?;
        let id = begun.upload_id().ok_or_else(|| self.not_s3("an upload without an id"))?;
        let sent = match self.send_parts(name, id, backup).await {
            Ok(parts) => self.complete(name, id, parts).await,
            Err(error) => Err(error),
        };
        if sent.is_err() {
            let asked = self.client.abort_multipart_upload().bucket(&self.location.bucket_name);
            if let Err(error) = asked.key(self.location.key(name)).upload_id(id).send().await {
                let error = fault::store_error(&self.place, &error);
                warn!("the parts of {name} stay in the bucket, unseen: {error}");
            }
        }
        sent
    }

    async fn send_parts(&self, name: &str, id: &str, backup: &Spool) -> Result<Vec<CompletedPart>, StoreError> {
        let size = PART_BYTES.max(backup.size().div_ceil(MAX_PARTS));
        let (mut reader, mut left, mut number, mut parts) = (backup.reader(), backup.size(), 0, Vec::new());
        while left > 0 {
            let (next, body) = chunk(reader, left.min(size)).await?;
            reader = next;
            left -= (body.len() as u64).min(left);
            number += 1;
            let asked = self.client.upload_part().bucket(&self.location.bucket_name).key(self.location.key(name));
            let sent = asked.upload_id(id).part_number(number).body(body.into()).send().await;
            let sent = sent.map_err(|error| fault::store_error(&self.place, &error))?;
            parts.push(CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag).build());
        }
        Ok(parts)
    }

    async fn complete(&self, name: &str, id: &str, parts: Vec<CompletedPart>) -> Result<(), StoreError> {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let ask = |condition: Option<&str>| {
            let asked = self.client.complete_multipart_upload().bucket(&self.location.bucket_name);
            let asked = asked.key(self.location.key(name)).upload_id(id).multipart_upload(parts.clone());
            asked.set_if_none_match(condition.map(str::to_owned)).send()
        };
        match ask(Some(NEW_ONLY)).await {
            Ok(_) => Ok(()),
            Err(error) if knows_no_condition(&error) => {
                ask(None).await.map(drop).map_err(|error| fault::store_error(&self.place, &error))
            }
            Err(error) => Err(self.refused(name, &error)),
        }
    }
}

fn knows_no_condition<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    Answer::of(error).is_some_and(|answer| answer.status == 501 || answer.code.as_deref() == Some("NotImplemented"))
}

/// The next bytes of a spool, read on a thread that may block.
async fn chunk(mut reader: SpoolReader, bytes: u64) -> Result<(SpoolReader, Bytes), StoreError> {
    blocking(move || {
        let mut content = Vec::with_capacity(usize::try_from(bytes).unwrap_or_default());
        let read = reader.by_ref().take(bytes).read_to_end(&mut content);
        match read {
            Ok(read) if read as u64 == bytes => Ok((reader, Bytes::from(content))),
            Ok(_) => Err(unread(std::io::ErrorKind::UnexpectedEof.into())),
            Err(error) => Err(unread(error)),
        }
    })
    .await?
}

fn unread(source: std::io::Error) -> StoreError {
    StoreError::Unread { source }
}
