//! Webhooks that the API server asks, and whether anybody answers them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use super::facts::get;
use super::{ObserveError, visible};
use crate::cluster::{Catalog, ClusterReader, ListOptions};
use crate::object::Resource;
use crate::rancher::{SUDO_ACCOUNT, WEBHOOK_SECRETS, WEBHOOK_SERVICE};
use crate::webhook::silence;
use crate::webhook::{Admission, AdmissionWebhook, Answered, ConversionWebhook, NamespaceLabels, ServiceRef, Webhooks};

/// Names the Service of an EndpointSlice.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// A Service that answers webhooks.
pub struct Service {
    pub reference: ServiceRef,
    selector: Vec<(String, String)>,
    /// Secrets with its certificate, as far as it and they say themselves.
    pub secrets: Vec<String>,
}

impl Service {
    /// The Service leads to the pods of this workload.
    pub fn selects(&self, namespace: &str, workload: &Value) -> bool {
        let labels = workload.pointer("/spec/template/metadata/labels");
        let has = |(key, value): &(String, String)| {
            labels.and_then(|labels| labels.get(key)).and_then(Value::as_str) == Some(value)
        };
        self.reference.namespace == namespace && !self.selector.is_empty() && self.selector.iter().all(has)
    }
}

/// Who converts objects of definitions: as they are, and as the backup has them.
pub struct Converters<C> {
    pub live: Vec<ConversionWebhook>,
    /// Services that the backup's definitions name, once it is read.
    pub coming: C,
}

/// Reads who is asked, and follows each Service to its endpoints; beside it, the Services themselves.
pub async fn read(
    reader: &ClusterReader,
    catalog: &Catalog,
    converters: Converters<impl Future<Output = BTreeSet<ServiceRef>>>,
    namespaces: NamespaceLabels,
) -> Result<(Webhooks, Vec<Service>), ObserveError> {
    let mut admission = Vec::new();
    for of in Admission::ALL {
        let listed = reader
            .list(&of.resource(), ListOptions::default(), |raw| {
                let mut configuration: Value = serde_json::from_str(raw.get())?;
                silence::reveal(&of.resource(), &mut configuration);
                Ok(Some(AdmissionWebhook::read_all(of, &configuration)))
            })
            .await;
        admission.extend(visible(listed.map(|listed| listed.items))?.into_iter().flatten());
    }
    let of_admission = admission.iter().filter_map(|webhook: &AdmissionWebhook| webhook.service.clone());
    let Converters { live, coming } = converters;
    let of_conversion = live.iter().filter_map(|webhook| webhook.service.clone());
    let names: BTreeSet<ServiceRef> = of_admission.chain(of_conversion).chain(coming.await).collect();
    let mut services = Vec::new();
    let mut answered = BTreeMap::new();
    for reference in names {
        let (answer, service) = follow(reader, catalog, &reference).await?;
        answered.insert(reference, answer);
        services.extend(service);
    }
    find_certificates(reader, &mut services).await?;
    let (namespace, name) = SUDO_ACCOUNT;
    let accounts = Resource::new("", "v1", "serviceaccounts");
    let sudo = get(reader, &accounts, Some(namespace), name).await?.is_some();
    let webhooks =
        Webhooks { admission, conversion: live, services: answered, namespaces, sudo, ..Webhooks::default() };
    Ok((webhooks, services))
}

async fn follow(
    reader: &ClusterReader,
    catalog: &Catalog,
    reference: &ServiceRef,
) -> Result<(Answered, Option<Service>), ObserveError> {
    let resource = Resource::new("", "v1", "services");
    let Some(value) = get(reader, &resource, Some(&reference.namespace), &reference.name).await? else {
        return Ok((Answered::Missing, None));
    };
    let selector = value.pointer("/spec/selector").and_then(Value::as_object);
    let term = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
    let selector = selector.into_iter().flatten().filter_map(term).collect();
    let secrets = named_by(&value).chain(ranchers(reference)).collect();
    let service = Service { reference: reference.clone(), selector, secrets };
    let answered = answer_of(reader, catalog, reference, &value).await?;
    Ok((answered, Some(service)))
}

/// Whether a Service leads to somebody who answers.
pub(super) async fn answered_by(
    reader: &ClusterReader,
    catalog: &Catalog,
    reference: &ServiceRef,
) -> Result<Answered, ObserveError> {
    let resource = Resource::new("", "v1", "services");
    match get(reader, &resource, Some(&reference.namespace), &reference.name).await? {
        Some(service) => answer_of(reader, catalog, reference, &service).await,
        None => Ok(Answered::Missing),
    }
}

async fn answer_of(
    reader: &ClusterReader,
    catalog: &Catalog,
    reference: &ServiceRef,
    service: &Value,
) -> Result<Answered, ObserveError> {
    let slices = Resource::new("discovery.k8s.io", "v1", "endpointslices");
    let leads_out = service.pointer("/spec/type").is_some_and(|of| of == "ExternalName");
    Ok(match leads_out || catalog.find(&slices).is_none() {
        true => Answered::Unknown,
        false if has_endpoint(reader, &slices, reference).await? => Answered::Ready,
        false => Answered::NoEndpoint,
    })
}

/// By this a Service of Rancher's asks for a certificate (rancher/wrangler, `pkg/needacert`).
const NEEDS_CERTIFICATE: &str = "need-a-cert.cattle.io/secret-name";
/// Prefix of the annotations in which rancher/dynamiclistener writes the names of a certificate.
const LISTENER_NAME: &str = "listener.cattle.io/cn-";
/// In which cert-manager writes them, with commas between.
const ALT_NAMES: &str = "cert-manager.io/alt-names";

fn named_by(service: &Value) -> impl Iterator<Item = String> {
    let annotations = service.pointer("/metadata/annotations");
    annotations.and_then(|all| all.get(NEEDS_CERTIFICATE)).and_then(Value::as_str).map(str::to_owned).into_iter()
}

fn ranchers(reference: &ServiceRef) -> impl Iterator<Item = String> {
    let (namespace, name) = WEBHOOK_SERVICE;
    let is_it = reference.namespace == namespace && reference.name == name;
    WEBHOOK_SECRETS.iter().filter(move |_| is_it).map(|name| (*name).to_owned())
}

/// Adds the Secrets whose annotations say that their certificate is for a Service's name. Their content is not read.
async fn find_certificates(reader: &ClusterReader, services: &mut [Service]) -> Result<(), ObserveError> {
    let namespaces: BTreeSet<String> = services.iter().map(|service| service.reference.namespace.clone()).collect();
    let resource = Resource::new("", "v1", "secrets");
    for namespace in &namespaces {
        let options = ListOptions { namespace: Some(namespace), metadata_only: true, ..ListOptions::default() };
        let listed = reader
            .list(&resource, options, |raw| {
                let value: Value = serde_json::from_str(raw.get())?;
                let name = value.pointer("/metadata/name").and_then(Value::as_str).map(str::to_owned);
                Ok(name.map(|name| (name, certified_names(&value))))
            })
            .await;
        for (name, certified) in visible(listed.map(|listed| listed.items))? {
            let of_it = |service: &&mut Service| {
                let ServiceRef { namespace: of, name } = &service.reference;
                of == namespace && certified.contains(&format!("{name}.{of}.svc"))
            };
            services.iter_mut().filter(of_it).for_each(|service| service.secrets.push(name.clone()));
        }
    }
    Ok(())
}

fn certified_names(secret: &Value) -> BTreeSet<String> {
    let annotations = secret.pointer("/metadata/annotations").and_then(Value::as_object);
    let names = annotations.into_iter().flatten().filter_map(|(key, value)| {
        let value = value.as_str()?;
        (key == ALT_NAMES || key.starts_with(LISTENER_NAME))
            .then(|| value.split(',').map(|name| name.trim().to_owned()))
    });
    names.flatten().collect()
}

async fn has_endpoint(reader: &ClusterReader, slices: &Resource, reference: &ServiceRef) -> Result<bool, ObserveError> {
    let labels = format!("{SERVICE_NAME_LABEL}={}", reference.name);
    let options =
        ListOptions { namespace: Some(&reference.namespace), label_selector: &labels, ..ListOptions::default() };
    let listed = reader.list(slices, options, |raw| Ok(Some(is_ready(&serde_json::from_str(raw.get())?)))).await;
    Ok(visible(listed.map(|listed| listed.items))?.contains(&true))
}

#[derive(Deserialize)]
struct Slice {
    #[serde(default)]
    endpoints: Option<Vec<Endpoint>>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Endpoint {
    addresses: Vec<String>,
    conditions: Conditions,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
}

/// An endpoint that does not say counts as ready (`discovery.k8s.io/v1`, `EndpointConditions`).
fn is_ready(slice: &Slice) -> bool {
    let mut endpoints = slice.endpoints.iter().flatten();
    endpoints.any(|endpoint| !endpoint.addresses.is_empty() && endpoint.conditions.ready.unwrap_or(true))
}
