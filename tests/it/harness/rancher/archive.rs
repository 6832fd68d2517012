//! A plain backup, read whole: written without the library's reader, so that it can judge it.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use flate2::read::GzDecoder;
use serde_json::Value;

/// Where an object lives, as its entry in the backup says: `<plural>.<group>#<version>/[<namespace>/]<name>.json`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Empty for the core group.
    pub group: String,
    pub version: String,
    pub plural: String,
    pub namespace: Option<String>,
    pub name: String,
}

/// An object of a backup.
#[derive(Debug, Clone)]
pub struct Item {
    pub place: Place,
    pub object: Value,
}

impl Place {
    pub fn new(resource: (&str, &str, &str), namespace: Option<&str>, name: &str) -> Self {
        let (group, version, plural) = resource;
        Self {
            group: group.to_owned(),
            version: version.to_owned(),
            plural: plural.to_owned(),
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
        }
    }

    fn parse(entry: &str) -> Option<Self> {
        let mut parts = entry.strip_suffix(".json")?.splitn(3, '/');
        let (resource, second, third) = (parts.next()?, parts.next()?, parts.next());
        let (plural, rest) = resource.split_once('.')?;
        let (group, version) = rest.split_once('#')?;
        let (namespace, name) = third.map_or((None, second), |name| (Some(second), name));
        Some(Self::new((group, version, plural), namespace, name))
    }

    /// The path of the object in the API.
    pub fn url(&self) -> String {
        format!("{}/{}", self.collection(), self.name)
    }

    /// The path of the list it is created in.
    pub fn collection(&self) -> String {
        let namespace = self.namespace.as_ref().map(|name| format!("namespaces/{name}/")).unwrap_or_default();
        format!("{}/{namespace}{}", self.api(), self.plural)
    }

    /// The path of the list of all namespaces.
    pub fn everywhere(&self) -> String {
        format!("{}/{}", self.api(), self.plural)
    }

    fn api(&self) -> String {
        match self.group.as_str() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        }
    }

    /// Whether it is of this resource, in any version.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }

    pub fn is_crd(&self) -> bool {
        self.is("apiextensions.k8s.io", "customresourcedefinitions")
    }

    pub fn is_namespace(&self) -> bool {
        self.is("", "namespaces")
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { group, version, plural, namespace, name } = self;
        write!(f, "{plural}.{group}#{version}/")?;
        if let Some(namespace) = namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(name)
    }
}

/// Every object of a plain backup, in the order of its entries.
pub fn read(path: &Path) -> Result<Vec<Item>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut items = Vec::new();
    for entry in tar::Archive::new(GzDecoder::new(file)).entries()? {
        let mut entry = entry?;
        let name = entry.path()?.to_string_lossy().into_owned();
        if !entry.header().entry_type().is_file() || name == "filters/filters.json" {
            continue;
        }
        let place = Place::parse(&name).with_context(|| format!("{name} is no object's entry"))?;
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        items.push(Item { place, object: serde_json::from_slice(&content).context(name)? });
    }
    Ok(items)
}
