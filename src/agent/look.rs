//! From a manifest to its plan: the store opened, the backup fetched, the cluster looked at.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use super::begin::chain;
use super::source::Source;
use crate::backup::BackupName;
use crate::cluster::{ClusterReader, Target};
use crate::config::{ApprovalFor, Config};
use crate::desired::{Placed, StoreDefault};
use crate::execute::Helm;
use crate::git::GitError;
use crate::journal::OnFailure;
use crate::manifest::{Body, Engine, Manifest, RestoreSpec, RollbackSpec, S3Location};
use crate::object::Resource;
use crate::object::protect::SecretRef;
use crate::observe::{self, Found, Glance, Known, ObserveError, Opened, Opening, Places, Sight};
use crate::observed::{BackupSeen, LedgerFacts, Observed};
use crate::operator;
use crate::plan::version::VersionRequest;
use crate::plan::{self, Plan, Request};
use crate::store::{Location, OpenStore, S3Credentials, Spool, StoreError};

/// What looking came to.
pub struct Looked {
    pub plan: Plan,
    pub observed: Observed,
    pub spool: Option<Spool>,
    pub known: Known,
    /// Where the backup lies, and the safety backup goes; `None` where only the operator knows.
    pub location: Option<Location>,
}

/// What of a manifest and the configuration a plan needs.
pub struct Asked {
    pub request: Request,
    /// `None` for a Rollback that sets the version only.
    pub backup_name: Option<BackupName>,
    pub location: Result<Location, StoreError>,
    pub known: Known,
}

/// Where things are in this cluster.
pub fn places(config: &Config) -> Places {
    Places {
        rancher_namespace: config.rancher.namespace.clone(),
        rancher_deployment: config.rancher.deployment.clone(),
        operator_namespace: config.operator_namespace.clone(),
        spool_dir: config.data_dir.join("spool"),
    }
}

/// What a manifest asks for, in the words of a plan.
pub fn request(config: &Config, placed: &Placed) -> Request {
    let manifest = &placed.manifest;
    let options = &manifest.options;
    let restore = manifest.body.restore();
    Request {
        kind: manifest.id.kind.as_str().to_owned(),
        name: manifest.id.name.clone(),
        key: placed.key.to_string(),
        engine: engine_word(options.engine).to_owned(),
        prune: restore.is_some_and(|restore| restore.prune),
        backup_digest: options.backup_digest.as_ref().map(ToString::to_string),
        accept: options.accept.clone(),
        approved_plan: options.approved_plan.as_ref().map(ToString::to_string),
        approval_required: approval_required(config, manifest),
        max_prune_share_percent: config.policy.max_prune_share,
        rancher_url: config.rancher.url.as_ref().map(ToString::to_string),
        undoes: placed.undoes,
        version: version(manifest),
        not_supported: not_supported(config, manifest),
        resuming: false,
        prunes_as_begun: None,
        backup_name: restore.map(|restore| restore.backup_filename.clone()).unwrap_or_default(),
        operator_spec: restore
            .map(|restore| operator::spec(restore, config.store.as_ref(), &config.operator_namespace))
            .unwrap_or_default(),
        repair: config.policy.repair,
    }
}

fn engine_word(engine: Engine) -> &'static str {
    match engine {
        Engine::Auto => "auto",
        Engine::Native => "native",
        Engine::Operator => "operator",
    }
}

fn approval_required(config: &Config, manifest: &Manifest) -> bool {
    config.policy.require_approval.iter().any(|what| match (what, &manifest.body) {
        (ApprovalFor::Restore, Body::Restore(_)) | (ApprovalFor::Rollback, Body::Rollback(_)) => true,
        (ApprovalFor::Prune, body) => body.restore().is_some_and(|restore| restore.prune),
        (ApprovalFor::Restore, Body::Rollback(_)) | (ApprovalFor::Rollback, Body::Restore(_)) => false,
    })
}

/// The version that a Rollback declares.
fn version(manifest: &Manifest) -> Option<VersionRequest> {
    let Body::Rollback(rollback) = &manifest.body else { return None };
    let RollbackSpec { to_version, restore: _, version_method, revision, chart } = rollback;
    Some(VersionRequest {
        to: to_version.clone(),
        method: *version_method,
        revision: revision.map(u64::from),
        chart: chart.clone(),
    })
}

/// What is asked for and this version cannot do.
fn not_supported(config: &Config, manifest: &Manifest) -> Vec<String> {
    let on_failure = manifest.options.on_failure.unwrap_or(config.policy.on_failure);
    let without = on_failure == OnFailure::Undo && !config.policy.safety_backup && manifest.body.restore().is_some();
    let undo = "on-failure Undo goes back by a safety backup, and policy.safetyBackup is off";
    without.then(|| undo.to_owned()).into_iter().collect()
}

/// Where the backup of a manifest lies, with the credentials for it, and what opens it.
///
/// # Errors
///
/// When the API server does not answer. The inner error when the place is not one or its Secret is not as it must be: it goes away by a changed manifest,
/// Secret or configuration.
pub async fn ask(
    config: &Config,
    reader: &ClusterReader,
    placed: &Placed,
    ledger: LedgerFacts,
) -> Result<Asked, ObserveError> {
    let restore = placed.manifest.body.restore();
    let backup_name = restore.map(|restore| BackupName::new(&restore.backup_filename)).transpose();
    let backup_name = backup_name.map_err(|error| bad_location("backupFilename", error.to_string()))?;
    let location = location(config, reader, restore).await;
    let own_secrets = own_secrets(config, restore);
    let opening = match restore.and_then(|restore| restore.encryption_config_secret_name.as_deref()) {
        Some(name) => Opening::read(reader, &config.operator_namespace, name).await?,
        None => Opening::None,
    };
    Ok(Asked {
        request: request(config, placed),
        backup_name,
        location,
        known: Known {
            ledger,
            unfinished_runs: Vec::new(),
            own_secrets,
            other_cluster_as_begun: None,
            opening,
            helm: None,
            chart: None,
        },
    })
}

/// Secrets that this manifest is carried out with.
fn own_secrets(config: &Config, restore: Option<&RestoreSpec>) -> Vec<SecretRef> {
    let operator = config.operator_namespace.as_str();
    let secret = |namespace: &str, name: &str| SecretRef { namespace: namespace.to_owned(), name: name.to_owned() };
    let of_store = |s3: &S3Location| {
        let namespace = s3.credential_secret_namespace.as_deref().unwrap_or(operator);
        s3.credential_secret_name.as_deref().map(|name| secret(namespace, name))
    };
    let default = match &config.store {
        Some(StoreDefault::S3(s3)) => of_store(s3),
        Some(StoreDefault::Directory(_)) | None => None,
    };
    let named = restore.and_then(|restore| restore.storage_location.as_ref()).and_then(of_store);
    let key = restore.and_then(|restore| restore.encryption_config_secret_name.as_deref());
    default.into_iter().chain(named).chain(key.map(|name| secret(operator, name))).collect()
}

async fn location(
    config: &Config,
    reader: &ClusterReader,
    restore: Option<&RestoreSpec>,
) -> Result<Location, StoreError> {
    let s3 = match (restore.and_then(|restore| restore.storage_location.as_ref()), &config.store) {
        (Some(s3), _) => s3,
        (None, Some(StoreDefault::S3(s3))) => s3,
        (None, Some(StoreDefault::Directory(directory))) => return Ok(Location::Directory(directory.clone())),
        (None, None) => {
            let reason = "neither the manifest nor the configuration says where backups lie; add `storageLocation` to \
                          the manifest, or `store` to the configuration";
            return Err(StoreError::BadLocation { field: "storageLocation", reason: reason.to_owned() });
        }
    };
    let credentials = credentials(&config.operator_namespace, reader, s3).await?;
    Ok(Location::S3 { location: s3.clone(), credentials })
}

/// The credentials for a bucket, from the Secret that it names; `None` when it names none.
///
/// # Errors
///
/// When there is no such Secret, it cannot be read, or it is not as it must be.
pub async fn credentials(
    operator_namespace: &str,
    reader: &ClusterReader,
    s3: &S3Location,
) -> Result<Option<S3Credentials>, StoreError> {
    let Some(name) = &s3.credential_secret_name else { return Ok(None) };
    let namespace = s3.credential_secret_namespace.as_deref().unwrap_or(operator_namespace);
    let bad = |reason: String| StoreError::BadLocation { field: "credentialSecretName", reason };
    let secrets = Resource::new("", "v1", "secrets");
    let answer = reader.get(&Target::new(&secrets, Some(namespace), name)).await;
    let answer = answer.map_err(|error| bad(format!("Secret {namespace}/{name}: {error}")))?;
    let Some(answer) = answer else { return Err(bad(format!("there is no Secret {namespace}/{name}"))) };
    let secret = answer.value().unwrap_or(Value::Null);
    let key = |name: &str| secret["data"][name].as_str().and_then(|text| BASE64.decode(text).ok());
    S3Credentials::from_secret(key("accessKey").as_deref(), key("secretKey").as_deref()).map(Some)
}

fn bad_location(field: &'static str, reason: String) -> ObserveError {
    ObserveError::Store(StoreError::BadLocation { field, reason })
}

impl Asked {
    /// Asks for the helm program where a version is to be set.
    pub async fn ask_helm(&mut self, helm: &dyn Helm) {
        if self.request.version.is_some() {
            self.known.helm = Some(helm.version().await.map_err(|why| why.to_string()));
        }
    }

    /// Reads the chart that a Rollback names, at the commit that its run names; at the tip for one that is not from Git.
    ///
    /// # Errors
    ///
    /// As [`Source::chart`].
    pub async fn ask_chart(&mut self, source: &Source, commit: &str) -> Result<(), GitError> {
        if let Some(path) = self.request.version.as_ref().and_then(VersionRequest::chart) {
            self.known.chart = Some(source.chart(commit, path).await?);
        }
        Ok(())
    }

    /// Fetches the backup.
    ///
    /// # Errors
    ///
    /// When the store does not answer, refuses us, or is none.
    pub async fn fetch(&mut self, stores: &dyn OpenStore, places: &Places) -> Result<Found, ObserveError> {
        self.open(stores, places).await?.whole().await
    }

    /// Fetches the backup, and begins to read it.
    async fn open(&mut self, stores: &dyn OpenStore, places: &Places) -> Result<Opened, ObserveError> {
        let Some(backup_name) = self.backup_name.clone() else {
            return Ok(Opened::known(BackupSeen::NotNamed));
        };
        let location = std::mem::replace(&mut self.location, Err(StoreError::Stopped))?;
        make_spool_dir(places).await?;
        let opened = stores.open(&location).await;
        self.location = Ok(location);
        let store = opened?;
        observe::open_backup(store.as_ref(), &backup_name, &self.known.opening, places).await
    }

    /// Looks at backup and cluster, and makes the plan.
    ///
    /// # Errors
    ///
    /// As [`Asked::fetch`], and when the API server does not answer.
    pub async fn look(
        self,
        reader: &ClusterReader,
        stores: &dyn OpenStore,
        places: &Places,
    ) -> Result<Looked, ObserveError> {
        self.look_from(observe::glance(reader), reader, stores, places).await
    }

    /// The same, with a glance that may have been begun before.
    ///
    /// # Errors
    ///
    /// As [`Asked::look`].
    pub async fn look_from(
        mut self,
        glance: impl Future<Output = Result<Glance, ObserveError>>,
        reader: &ClusterReader,
        stores: &dyn OpenStore,
        places: &Places,
    ) -> Result<Looked, ObserveError> {
        let (opened, glance) = tokio::join!(self.open(stores, places), glance);
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => Opened::known(self.left_to_the_operator(reader, places, error).await?),
        };
        let now = reader.clock().now();
        let known = self.known.clone();
        let seen = observe::observe(reader, glance?, opened, &self.request, places, known, now).await?;
        let Sight { observed, outline, spool } = seen;
        let plan = plan::judge(outline, &observed);
        Ok(Looked { plan, observed, spool, known: self.known, location: self.location.ok() })
    }

    /// Where we have no place or no right to look, the operator may: then that is no error.
    async fn left_to_the_operator(
        &self,
        reader: &ClusterReader,
        places: &Places,
        error: ObserveError,
    ) -> Result<BackupSeen, ObserveError> {
        let ObserveError::Store(problem) = &error else { return Err(error) };
        let is_left = match self.request.engine.as_str() {
            _ if !is_out_of_reach(problem) => false,
            "operator" => true,
            "auto" => observe::operator_is_installed(reader, places).await?,
            _ => false,
        };
        match is_left {
            true => Ok(BackupSeen::Unreadable { reason: chain(problem) }),
            false => Err(error),
        }
    }
}

/// It is for want of a place or of rights that the backup cannot be read. A store that is away comes back, and what is not in it
/// or not whole is so for the operator, too.
fn is_out_of_reach(problem: &StoreError) -> bool {
    match problem {
        StoreError::BadLocation { field, .. } => matches!(*field, "storageLocation" | "credentialSecretName"),
        StoreError::AccessDenied { .. } => !problem.transient(),
        StoreError::NoCredentials { .. } => true,
        _ => false,
    }
}

async fn make_spool_dir(places: &Places) -> Result<(), ObserveError> {
    tokio::fs::create_dir_all(&places.spool_dir).await.map_err(ObserveError::Spool)
}
