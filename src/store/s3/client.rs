//! The SDK's client for one location: nothing of it is shared with another's.

use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Config, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    SharedCredentialsProvider, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, Connector};
use secrecy::ExposeSecret;

use super::super::location::Endpoint;
use super::super::{Patience, S3Credentials, S3Location, StoreError};

mod limit;
mod unverified;

/// Whole of one request but for an object's bytes: a page of a list has 1,000 entries, some 300 KiB.
const ATTEMPT: Duration = Duration::from_secs(60);

/// # Errors
///
/// `BadEndpoint` and `BadCertificate`; credentials of the default chain are first looked for when they are needed.
pub(super) async fn build(
    location: &S3Location,
    credentials: Option<&S3Credentials>,
    patience: Patience,
) -> Result<Client, StoreError> {
    let endpoint = location.endpoint()?;
    let region = Region::new(location.region_at(endpoint.as_ref()));
    let own_endpoint = endpoint.as_ref().filter(|endpoint| !endpoint.is_of_sdk());
    let mut config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(http_client(location, endpoint.as_ref(), patience)?)
        .credentials_provider(provider(credentials, &region).await)
        .region(region)
        .force_path_style(location.path_style(endpoint.as_ref()))
        // Only AWS knows the newer checksums. A spool has its own digest, and a backup its CRC.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        // A stalled download is noticed, and resumed, by the one who reads it.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .interceptor(limit::AnswerLimit)
        .timeout_config(timeouts(patience))
        .retry_config(retries(patience));
    match own_endpoint {
        Some(endpoint) => config.set_endpoint_url(Some(endpoint.url())),
        None => config.set_use_dual_stack(Some(location.dual_stack())),
    };
    Ok(Client::from_conf(config.build()))
}

fn timeouts(patience: Patience) -> TimeoutConfig {
    let Patience { connect, read, tries: _, backoff: _, max_backoff: _ } = patience;
    let attempt = ATTEMPT.max(connect + read);
    TimeoutConfig::builder().connect_timeout(connect).read_timeout(read).operation_attempt_timeout(attempt).build()
}

fn retries(patience: Patience) -> RetryConfig {
    let Patience { connect: _, read: _, tries, backoff, max_backoff } = patience;
    RetryConfig::standard().with_max_attempts(tries.max(1)).with_initial_backoff(backoff).with_max_backoff(max_backoff)
}

/// The default chain speaks to AWS' own services, so with clients of its own: a location's roots do not reach it.
async fn provider(credentials: Option<&S3Credentials>, region: &Region) -> SharedCredentialsProvider {
    if let Some(S3Credentials { access_key, secret_key }) = credentials {
        let (access_key, secret_key) = (access_key.expose_secret(), secret_key.expose_secret());
        return SharedCredentialsProvider::new(Credentials::new(access_key, secret_key, None, None, "secret"));
    }
    let chain = aws_config::default_provider::credentials::DefaultCredentialsChain::builder().region(region.clone());
    SharedCredentialsProvider::new(chain.build().await)
}

fn http_client(
    location: &S3Location,
    endpoint: Option<&Endpoint>,
    patience: Patience,
) -> Result<SharedHttpClient, StoreError> {
    let encrypted = endpoint.is_none_or(Endpoint::encrypted);
    let roots = match location.roots()? {
        _ if !encrypted => TrustStore::empty(),
        _ if location.insecure_tls_skip_verify => return Ok(unverified::http_client(patience)),
        Some(pem) => TrustStore::empty().with_pem_certificate(pem),
        None => TrustStore::default(),
    };
    let context = TlsContext::builder().with_trust_store(roots).build();
    let context = context.map_err(|_| StoreError::BadCertificate { reason: "the TLS library does not take it" })?;
    Ok(Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder()
            .tls_provider(Provider::rustls(CryptoMode::AwsLc))
            .tls_context(context.clone())
            .proxy_config(ProxyConfig::from_env());
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(|components| components.sleep_impl()));
        connector.build()
    }))
}
