//! Where backups lie, as a manifest or the configuration says it.

use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use secrecy::SecretString;
use url::Url;

use super::StoreError;
use crate::manifest::{BucketLookup, S3Location};

/// The region when neither the location nor an AWS endpoint names one.
pub const DEFAULT_REGION: &str = "us-east-1";

/// Largest `endpointCA`, in bytes as written. A bundle of every public root is about 230 KiB.
const MAX_CA_BYTES: usize = 1024 * 1024;

/// Keys of one S3 account. Neither is ever printed: an access key alone names an account.
#[derive(Debug, Clone)]
pub struct S3Credentials {
    pub access_key: SecretString,
    pub secret_key: SecretString,
}

impl S3Credentials {
    /// From the values of a Secret's keys `accessKey` and `secretKey`. White space around them, such as the newline of
    /// a file that the Secret was made from, is not part of a key.
    ///
    /// # Errors
    ///
    /// `BadLocation` when one is absent, empty or not printable ASCII.
    pub fn from_secret(access_key: Option<&[u8]>, secret_key: Option<&[u8]>) -> Result<Self, StoreError> {
        Ok(Self {
            access_key: key_of_secret("accessKey", access_key)?,
            secret_key: key_of_secret("secretKey", secret_key)?,
        })
    }
}

fn key_of_secret(name: &'static str, value: Option<&[u8]>) -> Result<SecretString, StoreError> {
    let bad = |reason: &str| StoreError::BadLocation {
        field: "credentialSecretName",
        reason: format!("{reason} `{name}` in the Secret"),
    };
    let value = value.ok_or_else(|| bad("there is no key"))?.trim_ascii();
    let text = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic()));
    match text {
        Some("") => Err(bad("nothing is in the key")),
        Some(text) => Ok(SecretString::from(text)),
        None => Err(bad("something other than printable ASCII is in the key")),
    }
}

impl S3Location {
    /// Checks what can be checked without a network.
    ///
    /// # Errors
    ///
    /// `BadLocation`, `BadEndpoint` or `BadCertificate`, naming the field.
    pub fn validate(&self) -> Result<(), StoreError> {
        let Self {
            endpoint: _,
            endpoint_ca: _,
            insecure_tls_skip_verify: _,
            credential_secret_name,
            credential_secret_namespace,
            bucket_name,
            region,
            folder,
            client_config: _,
        } = self;
        check_bucket(bucket_name)?;
        self.endpoint()?;
        self.roots()?;
        check_secret(credential_secret_name.as_deref(), credential_secret_namespace.as_deref())?;
        check_plain("region", region.as_deref(), |c| c.is_ascii_alphanumeric() || c == '-' || c == '_')?;
        check_plain("folder", folder.as_deref(), |c| !c.is_control())?;
        if self.folder().split('/').any(|part| part == "." || part == "..") {
            return Err(bad_location("folder", "it has a part `.` or `..`".to_owned()));
        }
        Ok(())
    }

    /// The folder without slashes at its ends; empty for the root of the bucket.
    pub(super) fn folder(&self) -> &str {
        self.folder.as_deref().unwrap_or_default().trim_matches('/')
    }

    pub(super) fn key(&self, name: &str) -> String {
        match self.folder() {
            "" => name.to_owned(),
            folder => format!("{folder}/{name}"),
        }
    }

    pub(super) fn dual_stack(&self) -> bool {
        self.client_config.aws.dual_stack
    }

    fn lookup(&self) -> BucketLookup {
        self.client_config.bucket_lookup
    }

    pub(super) fn path_style(&self, endpoint: Option<&Endpoint>) -> bool {
        match self.lookup() {
            BucketLookup::Path => true,
            BucketLookup::Dns => false,
            BucketLookup::Auto => endpoint.is_some_and(|endpoint| !endpoint.names_buckets_in_dns()),
        }
    }

    pub(super) fn region_at(&self, endpoint: Option<&Endpoint>) -> String {
        let given = self.region.as_deref().map(str::trim).filter(|region| !region.is_empty());
        given.or_else(|| endpoint.and_then(Endpoint::aws_region)).unwrap_or(DEFAULT_REGION).to_owned()
    }

    pub(super) fn endpoint(&self) -> Result<Option<Endpoint>, StoreError> {
        match self.endpoint.as_deref().map(str::trim) {
            None | Some("") => Ok(None),
            Some(text) => Endpoint::parse(text).map(Some),
        }
    }

    /// The roots of `endpointCA` as PEM, each checked to be one; `None` when the system's are to be used.
    pub(super) fn roots(&self) -> Result<Option<Vec<u8>>, StoreError> {
        match self.endpoint_ca.as_deref().map(str::trim) {
            None | Some("") => Ok(None),
            Some(text) => roots(text).map(Some).map_err(|reason| StoreError::BadCertificate { reason }),
        }
    }
}

fn bad_location(field: &'static str, reason: String) -> StoreError {
    StoreError::BadLocation { field, reason }
}

/// Characters only: names in use on other servers than AWS break each of AWS' further rules.
fn check_bucket(name: &str) -> Result<(), StoreError> {
    if name.is_empty() {
        return Err(bad_location("bucketName", "it is required".to_owned()));
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    match name.chars().find(|c| !fits(*c)) {
        _ if name.len() > 255 => Err(bad_location("bucketName", "it is longer than 255 characters".to_owned())),
        Some(wrong) => Err(bad_location("bucketName", format!("{wrong:?} cannot be in the name of a bucket"))),
        None if name.contains("..") => Err(bad_location("bucketName", "it has two dots in a row".to_owned())),
        None => Ok(()),
    }
}

fn check_secret(name: Option<&str>, namespace: Option<&str>) -> Result<(), StoreError> {
    match (name, namespace) {
        (None | Some(""), Some(namespace)) if !namespace.is_empty() => {
            Err(bad_location("credentialSecretNamespace", "it is given without credentialSecretName".to_owned()))
        }
        _ => Ok(()),
    }
}

fn check_plain(field: &'static str, value: Option<&str>, fits: impl Fn(char) -> bool) -> Result<(), StoreError> {
    match value.unwrap_or_default().trim().chars().find(|c| !fits(*c)) {
        Some(wrong) => Err(bad_location(field, format!("{wrong:?} cannot be in it"))),
        None => Ok(()),
    }
}

/// Reads each certificate as the TLS client will, which would panic on a bad one.
fn roots(text: &str) -> Result<Vec<u8>, &'static str> {
    if text.len() > MAX_CA_BYTES {
        return Err("it is larger than 1 MiB");
    }
    let pem = if text.starts_with("-----BEGIN") {
        text.as_bytes().to_vec()
    } else {
        let packed: String = text.split_ascii_whitespace().collect();
        BASE64.decode(packed).map_err(|_| "it is neither PEM nor base64")?
    };
    let certificates = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|_| "what it holds is not PEM")?;
    if certificates.is_empty() {
        return Err("it holds no certificate");
    }
    let mut store = rustls::RootCertStore::empty();
    for certificate in certificates {
        store.add(certificate).map_err(|_| "one of its certificates cannot be a root")?;
    }
    Ok(pem)
}

/// Scheme, host and port of an S3 server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint(Url);

impl Endpoint {
    fn parse(text: &str) -> Result<Self, StoreError> {
        let bad = |reason: &'static str| StoreError::BadEndpoint { reason };
        let url = if text.contains("://") { Url::parse(text) } else { Url::parse(&format!("https://{text}")) };
        let url = url.map_err(|_| bad("it is no host, with or without `https://`, `http://` and a port"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad("its scheme is neither `https` nor `http`"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("it holds a user or a password; they belong into the Secret of credentialSecretName"));
        }
        if url.host().is_none() || !matches!(url.path(), "/" | "") || url.query().is_some() || url.fragment().is_some()
        {
            return Err(bad("it goes on behind the host; bucket and folder have fields of their own"));
        }
        Ok(Self(url))
    }

    pub(super) fn url(&self) -> String {
        self.0.as_str().trim_end_matches('/').to_owned()
    }

    pub(super) fn encrypted(&self) -> bool {
        self.0.scheme() == "https"
    }

    fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }

    fn is_address(&self) -> bool {
        self.host().trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
    }

    fn names_buckets_in_dns(&self) -> bool {
        !self.is_address() && (self.is_aws() || ends_in_domain(self.host(), "aliyuncs.com"))
    }

    fn is_aws(&self) -> bool {
        ["amazonaws.com", "amazonaws.com.cn"].iter().any(|domain| ends_in_domain(self.host(), domain))
    }

    /// The region of `s3.<region>.amazonaws.com`, and of the same behind `s3.dualstack.`.
    fn aws_region(&self) -> Option<&str> {
        let name = self.host().strip_prefix("s3.")?;
        let region = name.strip_suffix(".amazonaws.com").or_else(|| name.strip_suffix(".amazonaws.com.cn"))?;
        let region = region.strip_prefix("dualstack.").unwrap_or(region);
        (!region.contains('.')).then_some(region)
    }

    /// An endpoint that the SDK makes itself from the region, and then by region and dual stack as asked.
    pub(super) fn is_of_sdk(&self) -> bool {
        let plain = self.encrypted() && self.0.port().is_none();
        plain && (self.host() == "s3.amazonaws.com" || self.aws_region().is_some())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.host())?;
        self.0.port().map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

fn ends_in_domain(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::ClientConfig;

    fn at(endpoint: &str) -> S3Location {
        S3Location { endpoint: Some(endpoint.to_owned()), bucket_name: "b".to_owned(), ..S3Location::default() }
    }

    fn url(endpoint: &str) -> Option<String> {
        at(endpoint).endpoint().unwrap().map(|endpoint| endpoint.url())
    }

    fn path_style(endpoint: &str) -> bool {
        let location = at(endpoint);
        location.path_style(location.endpoint().unwrap().as_ref())
    }

    fn refusal(location: &S3Location) -> String {
        location.validate().unwrap_err().to_string()
    }

    #[test]
    fn an_endpoint_without_a_scheme_is_https() {
        assert_eq!(url("minio.example.org:9000/").as_deref(), Some("https://minio.example.org:9000"));
        assert_eq!(url("http://10.0.0.1:9000").as_deref(), Some("http://10.0.0.1:9000"));
        assert_eq!(url(" HTTPS://S3.Example.org/ ").as_deref(), Some("https://s3.example.org"));
        assert_eq!(url("[::1]:9000").as_deref(), Some("https://[::1]:9000"));
        assert_eq!(url(""), None);
    }

    #[test]
    fn a_bad_endpoint_is_refused_and_a_password_in_it_not_repeated() {
        insta::assert_snapshot!(refusal(&at("https://me:hunter2@s3.example.org")), @"endpoint of the S3 location: it holds a user or a password; they belong into the Secret of credentialSecretName");
        insta::assert_snapshot!(refusal(&at("s3.example.org/backups")), @"endpoint of the S3 location: it goes on behind the host; bucket and folder have fields of their own");
        insta::assert_snapshot!(refusal(&at("ftp://s3.example.org")), @"endpoint of the S3 location: its scheme is neither `https` nor `http`");
        insta::assert_snapshot!(refusal(&at("a b")), @"endpoint of the S3 location: it is no host, with or without `https://`, `http://` and a port");
    }

    #[test]
    fn a_bucket_is_required_and_its_name_is_one() {
        insta::assert_snapshot!(refusal(&S3Location::default()), @"bucketName of the S3 location: it is required");
        let location = S3Location { bucket_name: "a/b".to_owned(), ..S3Location::default() };
        insta::assert_snapshot!(refusal(&location), @"bucketName of the S3 location: '/' cannot be in the name of a bucket");
    }

    #[test]
    fn slashes_around_a_folder_mean_nothing() {
        for (folder, key) in [("", "n"), ("/", "n"), ("a", "a/n"), ("/a/", "a/n"), ("a/b//", "a/b/n")] {
            let location = S3Location { folder: Some(folder.to_owned()), ..S3Location::default() };
            assert_eq!(location.key("n"), key);
        }
    }

    #[test]
    fn buckets_are_looked_up_by_name_at_aws_and_by_path_elsewhere() {
        assert!(!path_style(""));
        assert!(!path_style("s3.eu-west-1.amazonaws.com"));
        assert!(!path_style("oss-cn-beijing.aliyuncs.com"));
        assert!(path_style("minio.example.org"));
        assert!(path_style("notamazonaws.com"));
        assert!(path_style("127.0.0.1:9000"));
        let config = ClientConfig { bucket_lookup: BucketLookup::Dns, ..ClientConfig::default() };
        let location = S3Location { client_config: config, ..at("minio.example.org") };
        assert!(!location.path_style(location.endpoint().unwrap().as_ref()));
    }

    #[test]
    fn the_region_is_the_given_one_or_that_of_the_endpoint_or_us_east_1() {
        let region = |location: &S3Location| location.region_at(location.endpoint().unwrap().as_ref());
        assert_eq!(region(&at("s3.eu-west-1.amazonaws.com")), "eu-west-1");
        assert_eq!(region(&at("s3.dualstack.us-west-2.amazonaws.com")), "us-west-2");
        assert_eq!(region(&at("s3.amazonaws.com")), "us-east-1");
        assert_eq!(region(&at("minio.example.org")), "us-east-1");
        assert_eq!(region(&S3Location { region: Some("x".to_owned()), ..at("s3.eu-west-1.amazonaws.com") }), "x");
    }

    #[test]
    fn every_field_of_upstream_is_read_and_an_unknown_one_refused() {
        let yaml = "endpoint: s3.example.org\nendpointCA: QQ==\ninsecureTLSSkipVerify: true\ncredentialSecretName: creds\n\
            credentialSecretNamespace: default\nbucketName: backups\nregion: eu-1\nfolder: /rancher/\n\
            clientConfig: {aws: {dualStack: true}, bucketLookup: path}\n";
        let location: S3Location = serde_yaml::from_str(yaml).unwrap();
        assert!(location.insecure_tls_skip_verify && location.dual_stack());
        assert_eq!(location.lookup(), BucketLookup::Path);
        let again: S3Location = serde_yaml::from_str(&serde_yaml::to_string(&location).unwrap()).unwrap();
        assert_eq!(again, location);
        assert!(serde_yaml::from_str::<S3Location>("bucketname: b").is_err());
    }

    #[test]
    fn a_ca_that_is_none_is_refused_with_what_is_wrong() {
        let refused = |ca: &str| refusal(&S3Location { endpoint_ca: Some(ca.to_owned()), ..at("h") });
        insta::assert_snapshot!(refused("%%%"), @"endpointCA of the S3 location: it is neither PEM nor base64");
        insta::assert_snapshot!(refused("aGVsbG8="), @"endpointCA of the S3 location: it holds no certificate");
        insta::assert_snapshot!(refused("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), @"endpointCA of the S3 location: one of its certificates cannot be a root");
        insta::assert_snapshot!(refused("-----BEGIN CERTIFICATE-----\nAAAA"), @"endpointCA of the S3 location: what it holds is not PEM");
    }

    #[test]
    fn keys_of_a_secret_lose_the_newline_of_their_file_and_are_never_printed() {
        use secrecy::ExposeSecret as _;
        let keys = S3Credentials::from_secret(Some(b"AKIA\n"), Some(b" s3cr3t\n")).unwrap();
        assert_eq!(keys.secret_key.expose_secret(), "s3cr3t");
        assert!(!format!("{keys:?}").contains("AKIA") && !format!("{keys:?}").contains("s3cr3t"));
        let refused = |access, secret| S3Credentials::from_secret(access, secret).unwrap_err().to_string();
        insta::assert_snapshot!(refused(None, Some(b"x")), @"credentialSecretName of the S3 location: there is no key `accessKey` in the Secret");
        insta::assert_snapshot!(refused(Some(b"x"), Some(b"\n")), @"credentialSecretName of the S3 location: nothing is in the key `secretKey` in the Secret");
        insta::assert_snapshot!(refused(Some(b"x"), Some(b"a\0b")), @"credentialSecretName of the S3 location: something other than printable ASCII is in the key `secretKey` in the Secret");
    }
}
