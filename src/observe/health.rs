//! What is read to judge whether Rancher is well.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::Value;
use url::Url;

use super::ask::Asker;
use super::facts::{all, get};
use super::webhooks::answered_by;
use super::{ObserveError, Opening, Places, is_forbidden};
use crate::cluster::{Catalog, ClusterError, ClusterReader, ListOptions, selector_text};
use crate::health::{self, ClusterNow, Judged, Serving, Setting};
use crate::object::Resource;
use crate::observed::Backup;
use crate::rancher::{SYSTEM_CHARTS, WEBHOOK_DEPLOYMENT, WEBHOOK_SERVICE};
use crate::store::Spool;
use crate::webhook::{Admission, AdmissionWebhook, ServiceRef};

/// Names of clusters that are recorded, and their bytes together: they stand in the `Run`, which is written often.
const CLUSTERS_RECORDED: usize = 5_000;
const RECORDED_BYTES: usize = 64 << 10;

/// Looks at Rancher. Each look asks anew.
pub struct Doctor<'a> {
    pub reader: &'a ClusterReader,
    pub places: &'a Places,
    /// By which Rancher is asked; `None`: through the API server.
    pub url: Option<&'a Url>,
    /// The version that is wanted, such as `v2.9.3`.
    pub version: &'a str,
}

impl Doctor<'_> {
    /// # Errors
    ///
    /// As all of these: when the API server does not answer. What it refuses is data.
    pub async fn rollout(&self) -> Result<Judged, ObserveError> {
        let namespace = Some(self.places.rancher_namespace.as_str());
        let deployments = Resource::new("apps", "v1", "deployments");
        let rancher = get(self.reader, &deployments, namespace, &self.places.rancher_deployment).await?;
        let labels = rancher.as_ref().and_then(selector_text);
        let pods = match &labels {
            Some(labels) => {
                let options = ListOptions { namespace, label_selector: labels, ..ListOptions::default() };
                let pods = Resource::new("", "v1", "pods");
                seen(self.reader.list(&pods, options, |raw| Ok(Some(serde_json::from_str::<Value>(raw.get())?))).await)?
            }
            None => None,
        };
        Ok(health::rollout(rancher.as_ref(), pods.as_ref().map(|listed| listed.items.as_slice()), self.version))
    }

    /// What Rancher says of itself: health, and version. Where it cannot be asked for the one, it is not asked for the other.
    pub async fn of_itself(&self) -> Result<(Judged, Judged), ObserveError> {
        let asker = Asker::new(self.reader, self.places, self.url).await?;
        let healthz = asker.ask("/healthz").await?;
        if let health::Reply::NotAsked(why) = &healthz {
            return Ok((Judged::not_asked(why), Judged::not_asked(why)));
        }
        let (ping, version) = tokio::try_join!(asker.ask("/ping"), asker.ask("/rancherversion"))?;
        let settings = self.live_settings().await?.unwrap_or_default();
        let said = settings.iter().find(|setting| setting.name == "server-version").and_then(Setting::version);
        Ok((health::health(&healthz, &ping), health::version(&version, self.version, said)))
    }

    /// `None` where they may not be seen.
    async fn live_settings(&self) -> Result<Option<Vec<Setting>>, ObserveError> {
        let settings = Resource::new("management.cattle.io", "v3", "settings");
        let read = |raw: &serde_json::value::RawValue| Ok(Setting::read(&serde_json::from_str(raw.get())?));
        Ok(seen(self.reader.list(&settings, ListOptions::default(), read).await)?.map(|listed| listed.items))
    }

    pub async fn settings(&self, backup: &[Setting]) -> Result<Judged, ObserveError> {
        Ok(match self.live_settings().await? {
            Some(live) => health::settings(backup, &live),
            None => Judged::not_asked("settings may not be listed, or are not served"),
        })
    }

    pub async fn webhook(&self, catalog: &Catalog) -> Result<Judged, ObserveError> {
        let mut named: BTreeSet<(String, ServiceRef)> = BTreeSet::new();
        for of in Admission::ALL {
            let resource = of.resource();
            let read = |raw: &serde_json::value::RawValue| {
                Ok(Some(AdmissionWebhook::read_all(of, &serde_json::from_str(raw.get())?)))
            };
            let Some(listed) = seen(self.reader.list(&resource, ListOptions::default(), read).await)? else {
                return Ok(Judged::not_asked("webhook configurations may not be listed"));
            };
            let webhooks = listed.items.into_iter().flatten();
            named.extend(webhooks.filter_map(|webhook| {
                Some((format!("{}/{}", resource.plural, webhook.configuration), webhook.service?))
            }));
        }
        let mut served = Vec::new();
        for (configuration, service) in named {
            let answered = answered_by(self.reader, catalog, &service).await?;
            served.push(Serving { configuration, service, answered });
        }
        let deployments = Resource::new("apps", "v1", "deployments");
        let deployment = get(self.reader, &deployments, Some(WEBHOOK_SERVICE.0), WEBHOOK_DEPLOYMENT).await?;
        Ok(health::webhook(deployment.as_ref(), &served))
    }

    pub async fn api_services(&self) -> Result<Judged, ObserveError> {
        let resource = Resource::new("apiregistration.k8s.io", "v1", "apiservices");
        let read = |raw: &serde_json::value::RawValue| Ok(Some(serde_json::from_str::<Value>(raw.get())?));
        Ok(match seen(self.reader.list(&resource, ListOptions::default(), read).await)? {
            Some(listed) => health::api_services(&listed.items),
            None => Judged::not_asked("APIServices may not be listed"),
        })
    }

    pub async fn system_charts(&self, catalog: &Catalog) -> Result<Judged, ObserveError> {
        let settings = Resource::new("management.cattle.io", "v3", "settings");
        let mut named = BTreeMap::new();
        for (setting, _) in SYSTEM_CHARTS {
            if let Some(version) = super::facts::setting(self.reader, &settings, setting).await? {
                named.insert((*setting).to_owned(), version);
            }
        }
        let apps = all(self.reader, catalog, "catalog.cattle.io", "apps").await?;
        Ok(health::system_charts(&named, &apps))
    }

    /// `since` and `settled` as [`health::clusters`] has them.
    pub async fn clusters(
        &self,
        before: Option<&[String]>,
        since: Timestamp,
        settled: bool,
    ) -> Result<Judged, ObserveError> {
        Ok(match clusters(self.reader).await? {
            Some(now) => health::clusters(before, &now, since, settled),
            None => Judged::not_asked("clusters may not be listed, or are not served"),
        })
    }
}

/// Names of the clusters that are connected now, sorted; `None` where they may not be seen, or there are too many to record.
///
/// # Errors
///
/// When the API server does not answer.
pub async fn connected_clusters(reader: &ClusterReader) -> Result<Option<Vec<String>>, ObserveError> {
    let Some(now) = clusters(reader).await? else { return Ok(None) };
    let mut names: Vec<String> =
        now.into_iter().filter(|cluster| cluster.connected).map(|cluster| cluster.name).collect();
    names.sort();
    let fits = names.len() <= CLUSTERS_RECORDED && names.iter().map(String::len).sum::<usize>() <= RECORDED_BYTES;
    Ok(fits.then_some(names))
}

async fn clusters(reader: &ClusterReader) -> Result<Option<Vec<ClusterNow>>, ObserveError> {
    let resource = Resource::new("management.cattle.io", "v3", "clusters");
    let read = |raw: &serde_json::value::RawValue| Ok(ClusterNow::read(&serde_json::from_str(raw.get())?));
    Ok(seen(reader.list(&resource, ListOptions::default(), read).await)?.map(|listed| listed.items))
}

/// The settings that a backup holds, by one more pass over it.
///
/// # Errors
///
/// When the spooled backup cannot be read again.
pub async fn settings_of_backup(
    spool: &Spool,
    opening: &Opening,
    backup: &Backup,
) -> Result<Vec<Setting>, ObserveError> {
    let is_setting = |key: &crate::object::ObjectKey| key.resource.is("management.cattle.io", "settings");
    let places = (0..).zip(&backup.objects).filter(|(_, object)| is_setting(&object.key)).map(|(place, _)| place);
    let (mut objects, reading) = super::pass(spool, opening.encryption().cloned(), places.collect());
    let mut settings = Vec::new();
    while let Some(brought) = objects.recv().await {
        settings.extend(Setting::read(&brought.value));
    }
    reading.await.map_err(|_| ObserveError::Interrupted)??;
    Ok(settings)
}

/// `None` for what is not served, or not ours to see: it is told, and not taken for nothing.
fn seen<T>(read: Result<T, ClusterError>) -> Result<Option<T>, ObserveError> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(ClusterError::NotServed { .. }) => Ok(None),
        Err(error) if is_forbidden(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
