//! The manifest of a revision: which objects it consists of.

use crate::manifest::yaml::{self, Bounds, Node, Value};

/// Longest manifest that is read, in bytes. Rancher's is some 50 KiB; the largest charts have a few MiB.
const MAX_BYTES: usize = 8 << 20;
const BOUNDS: Bounds = Bounds { documents: 4096, depth: 100, alias_bytes: 1 << 20 };
/// Most objects of a manifest, those inside of lists counted.
const MAX_OBJECTS: usize = 8192;
/// Helm leaves such an object where it is when it goes from the chart (`pkg/kube/resource_policy.go`).
const RESOURCE_POLICY: &str = "helm.sh/resource-policy";

/// An object of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseObject {
    pub api_version: String,
    pub kind: String,
    /// As written. Without one, an object of a type that has namespaces lies in the namespace of the release.
    pub namespace: Option<String>,
    pub name: String,
    /// The chart says that Helm shall not delete it (`helm.sh/resource-policy: keep`).
    pub keep: bool,
}

impl ReleaseObject {
    /// Empty for the core group.
    pub fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }
}

/// What a manifest says of one Deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeploymentShape {
    pub namespace: Option<String>,
    pub name: String,
    pub replicas: Option<i64>,
    /// Of the first container.
    pub image: Option<String>,
}

#[derive(Debug, Default)]
pub(super) struct Manifest {
    pub objects: Vec<ReleaseObject>,
    pub deployments: Vec<DeploymentShape>,
}

pub(super) fn read(text: &str) -> Result<Manifest, &'static str> {
    if text.len() > MAX_BYTES {
        return Err("its manifest has more than 8 MiB");
    }
    let trees = yaml::read(text, &BOUNDS).map_err(|_quotes_it| "its manifest is not YAML, or too much of it")?;
    let mut manifest = Manifest::default();
    // What is defective in a document (a key that stands twice) Helm takes: it is in the cluster already.
    for tree in &trees {
        manifest.add(&tree.root)?;
    }
    Ok(manifest)
}

impl Manifest {
    fn add(&mut self, root: &Node) -> Result<(), &'static str> {
        if root.is_null() {
            return Ok(());
        }
        let word = |node: Option<&Node>| node.and_then(Node::word).unwrap_or_default().to_owned();
        let kind = word(root.get("kind"));
        // As kubectl's builder takes a list apart.
        if let (true, Some(Value::List(items))) = (kind.ends_with("List"), root.get("items").map(|items| &items.value))
        {
            return items.iter().try_for_each(|item| self.add(item));
        }
        let api_version = word(root.get("apiVersion"));
        let metadata = root.get("metadata");
        let of = |field: &str| metadata.and_then(|metadata| metadata.get(field));
        let name = word(of("name"));
        let namespace = Some(word(of("namespace"))).filter(|namespace| !namespace.is_empty());
        if kind.is_empty() || api_version.is_empty() || name.is_empty() {
            return Err("its manifest holds something without kind, apiVersion or name");
        }
        if self.objects.len() == MAX_OBJECTS {
            return Err("its manifest holds more than 8192 objects");
        }
        if kind == "Deployment" && api_version.starts_with("apps/") {
            self.deployments.push(shape(root, namespace.clone(), name.clone()));
        }
        let keep = says_keep(&word(of("annotations").and_then(|all| all.get(RESOURCE_POLICY))));
        self.objects.push(ReleaseObject { api_version, kind, namespace, name, keep });
        Ok(())
    }
}

/// Whether the value of the annotation keeps an object. Helm compares it without case and spaces.
pub fn says_keep(policy: &str) -> bool {
    policy.trim().eq_ignore_ascii_case("keep")
}

fn shape(root: &Node, namespace: Option<String>, name: String) -> DeploymentShape {
    let spec = root.get("spec");
    let replicas = spec.and_then(|spec| spec.get("replicas")).and_then(Node::word);
    let pod = spec.and_then(|spec| spec.get("template")).and_then(|template| template.get("spec"));
    let container = match pod.and_then(|pod| pod.get("containers")).map(|containers| &containers.value) {
        Some(Value::List(containers)) => containers.first(),
        _ => None,
    };
    let image = container.and_then(|container| container.get("image")).and_then(Node::word);
    DeploymentShape {
        namespace,
        name,
        replicas: replicas.and_then(|replicas| replicas.parse().ok()),
        image: image.map(str::to_owned),
    }
}
