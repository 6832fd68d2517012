//! What an object says of a downstream cluster that Rancher, or Cluster API, would carry out.
//!
//! Versions of Kubernetes, and names and sizes of pools: these alone are shown to a person, for they cannot be secret.
//! Fields as Rancher 59bd052e (2026-08) and Cluster API v1beta1 and v1beta2 have them.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::Resource;

/// Labels that name the cluster of an object, of `rke.cattle.io` Secrets and of Cluster API's objects.
const CLUSTER_LABELS: [&str; 2] = ["cluster.x-k8s.io/cluster-name", "rke.cattle.io/cluster-name"];
/// The plan that an agent carries out on its machine.
const MACHINE_PLAN: &str = "rke.cattle.io/machine-plan";
/// Parts of a management cluster's spec that hold a version, pools or both.
const PROVIDERS: [&str; 7] =
    ["aksConfig", "aliConfig", "eksConfig", "gkeConfig", "k3sConfig", "rancherKubernetesEngineConfig", "rke2Config"];

/// Which part of a cluster an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    Cluster,
    /// A MachineDeployment, MachineSet or MachinePool.
    Pool,
    Machine,
    /// What an agent is to do on a machine.
    Plan,
}

/// What is kept of an object of a downstream cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Downstream {
    pub part: Part,
    /// Name of the cluster, in the object's namespace.
    pub cluster: Box<str>,
    pub kubernetes: Option<Box<str>>,
    /// By name; `None` where it does not say how many.
    pub pools: BTreeMap<Box<str>, Option<i64>>,
}

impl Downstream {
    /// `None` for an object that is no part of a downstream cluster.
    pub fn read(resource: &Resource, object: &Map<String, Value>) -> Option<Box<Self>> {
        let part = match (resource.group.as_str(), resource.plural.as_str()) {
            ("management.cattle.io" | "provisioning.cattle.io" | "cluster.x-k8s.io", "clusters") => Part::Cluster,
            ("cluster.x-k8s.io", "machinedeployments" | "machinesets" | "machinepools") => Part::Pool,
            ("cluster.x-k8s.io", "machines") => Part::Machine,
            ("", "secrets") if object.get("type").is_some_and(|of| of == MACHINE_PLAN) => Part::Plan,
            _ => return None,
        };
        let object = Fields(object);
        let own = object.text("/metadata/name")?;
        let (cluster, kubernetes, pools) = match part {
            Part::Cluster => (Some(own), object.version(), object.pools()),
            Part::Pool => {
                (object.cluster(), object.version(), BTreeMap::from([(own.into(), object.number("/spec/replicas"))]))
            }
            Part::Machine => (object.cluster(), object.version(), BTreeMap::new()),
            Part::Plan => (object.cluster(), None, BTreeMap::new()),
        };
        let kubernetes = kubernetes.map(Box::from);
        Some(Box::new(Self { part, cluster: cluster.unwrap_or_default().into(), kubernetes, pools }))
    }
}

struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    fn get(&self, pointer: &str) -> Option<&'a Value> {
        let mut parts = pointer.strip_prefix('/')?.splitn(2, '/');
        let first = self.0.get(parts.next()?)?;
        match parts.next() {
            Some(rest) => first.pointer(&format!("/{rest}")),
            None => Some(first),
        }
    }

    fn text(&self, pointer: &str) -> Option<&'a str> {
        self.get(pointer).and_then(Value::as_str).filter(|text| !text.is_empty())
    }

    fn number(&self, pointer: &str) -> Option<i64> {
        self.get(pointer).and_then(Value::as_i64)
    }

    fn cluster(&self) -> Option<&'a str> {
        let labels = self.get("/metadata/labels");
        let label = || CLUSTER_LABELS.iter().find_map(|name| labels?.get(*name)?.as_str());
        self.text("/spec/clusterName").or_else(label)
    }

    fn version(&self) -> Option<&'a str> {
        let own = ["/spec/kubernetesVersion", "/spec/version", "/spec/topology/version", "/spec/template/spec/version"];
        let of_provider =
            || PROVIDERS.iter().find_map(|provider| self.text(&format!("/spec/{provider}/kubernetesVersion")));
        own.iter().find_map(|pointer| self.text(pointer)).or_else(of_provider)
    }

    fn pools(&self) -> BTreeMap<Box<str>, Option<i64>> {
        let lists = [
            ("/spec/rkeConfig/machinePools", "name", "quantity"),
            ("/spec/topology/workers/machineDeployments", "name", "replicas"),
            ("/spec/topology/workers/machinePools", "name", "replicas"),
            ("/spec/aksConfig/nodePools", "name", "count"),
            ("/spec/aliConfig/nodePools", "name", "desiredSize"),
            ("/spec/eksConfig/nodeGroups", "nodegroupName", "desiredSize"),
            ("/spec/gkeConfig/nodePools", "name", "initialNodeCount"),
        ];
        let pools = lists.iter().flat_map(|(pointer, name, size)| {
            let list = self.get(pointer).and_then(Value::as_array).into_iter().flatten();
            list.filter_map(|pool| Some((pool.get(*name)?.as_str()?.into(), pool.get(*size).and_then(Value::as_i64))))
        });
        pools.collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(folder: (&str, &str, &str), object: Value) -> Option<Downstream> {
        let resource = Resource::new(folder.0, folder.1, folder.2);
        Downstream::read(&resource, object.as_object().expect("an object")).map(|found| *found)
    }

    #[test]
    fn a_cluster_says_its_version_and_its_pools() {
        let object = json!({"metadata": {"name": "prod"}, "spec": {"kubernetesVersion": "v1.30.4+rke2r1",
            "rkeConfig": {"machinePools": [{"name": "workers", "quantity": 5}, {"name": "auto"}]}}});
        let prod = read(("provisioning.cattle.io", "v1", "clusters"), object).unwrap();
        assert_eq!(
            (prod.part, &*prod.cluster, prod.kubernetes.as_deref()),
            (Part::Cluster, "prod", Some("v1.30.4+rke2r1"))
        );
        assert_eq!(prod.pools, BTreeMap::from([("workers".into(), Some(5)), ("auto".into(), None)]));
        let hosted = json!({"metadata": {"name": "c-x"}, "spec": {"eksConfig": {"kubernetesVersion": "1.30",
            "nodeGroups": [{"nodegroupName": "g", "desiredSize": 2}]}}});
        let hosted = read(("management.cattle.io", "v3", "clusters"), hosted).unwrap();
        assert_eq!((hosted.kubernetes.as_deref(), hosted.pools["g"]), (Some("1.30"), Some(2)));
    }

    #[test]
    fn machines_pools_and_plans_name_their_cluster() {
        let machine = json!({"metadata": {"name": "m"}, "spec": {"clusterName": "prod", "version": "v1.30.4"}});
        let machine = read(("cluster.x-k8s.io", "v1beta2", "machines"), machine).unwrap();
        assert_eq!(
            (machine.part, &*machine.cluster, machine.kubernetes.as_deref()),
            (Part::Machine, "prod", Some("v1.30.4"))
        );
        let pool = json!({"metadata": {"name": "prod-w"}, "spec": {"clusterName": "prod", "replicas": 3,
            "template": {"spec": {"version": "v1.30.4"}}}});
        let pool = read(("cluster.x-k8s.io", "v1beta1", "machinedeployments"), pool).unwrap();
        assert_eq!((pool.pools["prod-w"], pool.kubernetes.as_deref()), (Some(3), Some("v1.30.4")));
        let plan = json!({"metadata": {"name": "x-machine-plan", "labels": {"rke.cattle.io/cluster-name": "prod"}},
            "type": "rke.cattle.io/machine-plan", "data": {"plan": "c2VjcmV0"}});
        let plan = read(("", "v1", "secrets"), plan).unwrap();
        assert_eq!((plan.part, &*plan.cluster), (Part::Plan, "prod"));
        assert!(!format!("{plan:?}").contains("c2VjcmV0"));
        assert_eq!(read(("", "v1", "secrets"), json!({"metadata": {"name": "x"}, "type": "Opaque"})), None);
    }
}
