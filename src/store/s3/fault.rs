//! Errors of the SDK, told apart.
//!
//! Of an answer only its status and code are kept: messages and bodies quote requests, access keys included.

use std::error::Error;
use std::io;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::super::{Cause, StoreError};

/// Longest code that is taken from an answer. S3's own end at 50 characters.
const MAX_CODE_CHARS: usize = 64;

/// Deepest cause that is looked at.
const MAX_CAUSES: usize = 32;

const NO_LIST: &str = "a text that is not a list";

/// What a server that refuses says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) code: Option<String>,
}

impl Answer {
    /// `None` when there was no answer, or none that refuses.
    pub(super) fn of<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Option<Self> {
        let SdkError::ServiceError(refused) = error else { return None };
        let code = refused.err().code().filter(|code| is_code(code)).map(str::to_owned);
        Some(Self { status: refused.raw().status().as_u16(), code })
    }

    /// Whether bucket and keys are right and the object is not there. Some servers answer 404 to an unknown key, too.
    pub(super) fn is_missing_object(&self) -> bool {
        self.status == 404 && matches!(self.code.as_deref(), None | Some("NoSuchKey"))
    }
}

fn is_code(code: &str) -> bool {
    // For an answer without a body the SDK makes a code of its own.
    (1..=MAX_CODE_CHARS).contains(&code.len())
        && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.')
        && code != "NotFound"
}

pub(super) fn store_error<E>(place: &str, error: &SdkError<E, HttpResponse>) -> StoreError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let place = place.to_owned();
    let unreachable = |place, text: &str| StoreError::Unreachable { place, source: text.into() };
    match error {
        SdkError::ServiceError(refused) => {
            let region = refused.raw().headers().get("x-amz-bucket-region").filter(|region| is_region(region));
            let status = refused.raw().status().as_u16();
            refusal(place, Answer::of(error).unwrap_or(Answer { status, code: None }), region)
        }
        SdkError::TimeoutError(_) => unreachable(place, "no answer in time"),
        SdkError::ResponseError(_) => not_read(place, error),
        SdkError::DispatchFailure(_) | SdkError::ConstructionFailure(_) => not_sent(place, error),
        _ => unreachable(place, "the request was not sent"),
    }
}

fn refusal(place: String, answer: Answer, region: Option<&str>) -> StoreError {
    let Answer { status, code } = answer;
    match (code.as_deref(), status) {
        (Some("NoSuchBucket"), _) => StoreError::NoBucket { place },
        (Some("AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException"), _)
        | (_, 301 | 307) => StoreError::WrongRegion { place, region: region.map(str::to_owned) },
        (Some("AccessDenied" | "InvalidAccessKeyId" | "SignatureDoesNotMatch"), _)
        | (Some("ExpiredToken" | "InvalidToken" | "RequestTimeTooSkewed"), _)
        | (_, 401 | 403) => StoreError::AccessDenied { place, code },
        (_, 200..=299) => StoreError::NotS3 { place, reason: NO_LIST },
        _ => StoreError::Refused { place, status, code },
    }
}

fn is_region(text: &str) -> bool {
    text.len() <= MAX_CODE_CHARS && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// An answer that broke off, or one that S3 does not give.
fn not_read(place: String, error: &(dyn Error + 'static)) -> StoreError {
    if causes(error).any(|cause| cause.is::<http_body_util::LengthLimitError>()) {
        return StoreError::NotS3 { place, reason: "more than 8 MiB for a page of a list or an error" };
    }
    match causes(error).find_map(|cause| cause.downcast_ref::<io::Error>()) {
        Some(broken) => StoreError::Unreachable { place, source: broken.to_string().into() },
        None => StoreError::NotS3 { place, reason: NO_LIST },
    }
}

/// The SDK nests what went wrong six deep, and calls by one name what a user can and cannot mend.
fn not_sent(place: String, error: &(dyn Error + 'static)) -> StoreError {
    let causes: Vec<_> = causes(error).collect();
    let found = |is: fn(&(dyn Error + 'static)) -> bool| causes.iter().any(|cause| is(*cause));
    if let Some(tls) = causes.iter().find_map(|cause| cause.downcast_ref::<rustls::Error>()) {
        return StoreError::Tls { place, source: Box::new(tls.clone()) };
    }
    if found(|cause| cause.is::<aws_credential_types::provider::error::CredentialsError>()) {
        return StoreError::NoCredentials { place };
    }
    let source: Cause = match causes.last() {
        Some(last) => last.to_string().into(),
        None => "the request was not sent".into(),
    };
    StoreError::Unreachable { place, source }
}

/// `error` and what it comes from. An [`io::Error`] hides its payload from `source`.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| cause(*error)).take(MAX_CAUSES)
}

fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(payload) => Some(payload),
        None => error.source(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, code: &str, region: Option<&str>) -> String {
        let code = Some(code.to_owned()).filter(|code| !code.is_empty());
        refusal("s3 bucket b at h".to_owned(), Answer { status, code }, region).to_string()
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        insta::assert_snapshot!(refused(403, "InvalidAccessKeyId", None), @"s3 bucket b at h denies access (InvalidAccessKeyId): it does not know the accessKey");
        assert_eq!(refused(404, "InvalidAccessKeyId", None), refused(403, "InvalidAccessKeyId", None));
        insta::assert_snapshot!(refused(403, "SignatureDoesNotMatch", None), @"s3 bucket b at h denies access (SignatureDoesNotMatch): the secretKey does not fit the accessKey, or region is wrong");
        insta::assert_snapshot!(refused(403, "AccessDenied", None), @"s3 bucket b at h denies access (AccessDenied): see the permissions of the credentials. S3 also answers 403 for a missing object where s3:ListBucket is not granted");
        insta::assert_snapshot!(refused(403, "RequestTimeTooSkewed", None), @"s3 bucket b at h denies access (RequestTimeTooSkewed): the clocks of this machine and of the server differ by more than 15 minutes");
        insta::assert_snapshot!(refused(404, "NoSuchBucket", None), @"there is no such bucket: s3 bucket b at h");
        insta::assert_snapshot!(refused(301, "", Some("eu-west-1")), @"s3 bucket b at h is in another region: set region to eu-west-1");
        insta::assert_snapshot!(refused(400, "AuthorizationHeaderMalformed", None), @"s3 bucket b at h is in another region");
        insta::assert_snapshot!(refused(503, "SlowDown", None), @"s3 bucket b at h answered 503 (SlowDown)");
    }

    #[test]
    fn a_server_that_is_busy_is_asked_again_and_one_that_denies_is_not() {
        let transient = |status, code: &str| {
            refusal(String::new(), Answer { status, code: Some(code.to_owned()) }, None).transient()
        };
        assert!(
            transient(503, "SlowDown") && transient(500, "InternalError") && transient(403, "RequestTimeTooSkewed")
        );
        assert!(!transient(403, "AccessDenied") && !transient(404, "NoSuchBucket") && !transient(400, "BadRequest"));
    }

    #[test]
    fn a_code_that_is_none_is_not_repeated() {
        assert!(is_code("SlowDown") && !is_code("") && !is_code("a b") && !is_code("<x>") && !is_code(&"a".repeat(65)));
    }
}
