//! Whether Rancher is well, asked of a real API server and of a small HTTP server in Rancher's place.

use std::net::IpAddr;
use std::path::PathBuf;

use reinback::cluster::ClusterReader;
use reinback::health::{Judged, Outcome};
use reinback::observe::{Doctor, Places};
use serde_json::{Value, json};
use url::Url;

use crate::cluster::{admin, connect, limits};
use crate::harness::{Asked, Cluster, Options, Page, WebServer, own_address, skip};

const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
const VERSION: &str = "v2.9.3";

fn places() -> Places {
    Places {
        rancher_namespace: "cattle-system".to_owned(),
        rancher_deployment: "rancher".to_owned(),
        operator_namespace: "cattle-resources-system".to_owned(),
        spool_dir: PathBuf::new(),
    }
}

/// Rancher as it should be.
fn well(asked: &Asked) -> Page {
    match asked.path.as_str() {
        "/healthz" => Page::ok("ok"),
        "/ping" => Page::ok("pong"),
        "/rancherversion" => Page::ok(r#"{"Version":"v2.9.3","GitCommit":"abc","RancherPrime":"false"}"#),
        other => Page::Say(404, format!("no {other}")),
    }
}

/// A Rancher that is well, but for one path.
fn well_but(path: &'static str, page: Page) -> impl Fn(&Asked) -> Page + Send + Sync {
    move |asked| if asked.path == path { page.clone() } else { well(asked) }
}

fn told((health, version): &(Judged, Judged)) -> String {
    [("health", health), ("version", version)]
        .map(|(name, judged)| format!("{name} {}: {}\n", judged.outcome.words(), judged.message))
        .concat()
}

/// An API server alone: objects stay as they are written.
struct Place {
    cluster: Cluster,
    reader: ClusterReader,
}

impl Place {
    async fn start() -> Self {
        let options = Options { controllers: false, audit: false, ..Options::default() };
        let cluster = tokio::task::spawn_blocking(|| Cluster::start(options)).await.expect("it starts");
        let reader = admin(&cluster).await.reader();
        let place = Self { cluster, reader };
        place.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "cattle-system"}}));
        place
    }

    fn apply(&self, object: &Value) {
        self.cluster.kubectl(&["apply", "-f", "-"], &object.to_string()).expect("it is taken");
    }

    /// Writes the status of an object that is there.
    fn status(&self, resource: &str, name: &str, status: &Value) {
        let patch = json!({"status": status}).to_string();
        let args =
            ["-n", "cattle-system", "patch", resource, name, "--subresource=status", "--type=merge", "-p", &patch];
        self.cluster.kubectl(&args, "").expect("it is taken");
    }

    /// A type of Rancher's, with any fields.
    fn define(&self, plural: &str, kind: &str) {
        let group = "management.cattle.io";
        let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        self.apply(&json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.{group}")},
            "spec": {"group": group, "scope": "Cluster", "names": {"plural": plural, "kind": kind},
                "versions": [{"name": "v3", "served": true, "storage": true, "schema": {"openAPIV3Schema": any}}]}}));
        let args = ["wait", "--for=condition=Established", "crd", &format!("{plural}.{group}"), "--timeout=30s"];
        self.cluster.kubectl(&args, "").expect("it is served");
    }

    fn setting(&self, name: &str, value: &str) {
        self.apply(&json!({"apiVersion": "management.cattle.io/v3", "kind": "Setting", "metadata": {"name": name},
            "value": value, "default": "", "source": "", "customized": false}));
    }

    fn rancher(&self, image: &str) {
        let labels = json!({"app": "rancher"});
        let containers = json!([{"name": "rancher", "image": image}]);
        self.apply(&json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "rancher", "namespace": "cattle-system"},
            "spec": {"replicas": 1, "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}}}}));
    }

    async fn of_itself(&self, url: Option<&str>) -> (Judged, Judged) {
        self.of_itself_as(&self.reader, url).await
    }

    async fn of_itself_as(&self, reader: &ClusterReader, url: Option<&str>) -> (Judged, Judged) {
        let url = url.map(|url| url.parse::<Url>().expect("a URL"));
        let (places, url) = (places(), url.as_ref());
        Doctor { reader, places: &places, url, version: VERSION }.of_itself().await.expect("the API server answers")
    }
}

#[tokio::test]
async fn rancher_says_by_its_url_whether_it_is_well_and_which_it_is() {
    let place = Place::start().await;
    place.define("settings", "Setting");
    place.setting("server-version", "v2.10.1");
    let ask = async |pages: Box<dyn Fn(&Asked) -> Page + Send + Sync>| {
        let server = WebServer::start(LOOPBACK, pages).await;
        let base = format!("http://127.0.0.1:{}/", server.port);
        let judged = place.of_itself(Some(&base)).await;
        (judged, server)
    };
    let (judged, server) = ask(Box::new(well)).await;
    insta::assert_snapshot!(told(&judged), @"
    health passed: /healthz answers 200 and /ping says pong
    version passed: /rancherversion says v2.9.3
    ");
    assert_eq!(judged.1.lines, ["the setting server-version says v2.10.1"]);
    let asked = server.take_asked();
    assert_eq!(asked.len(), 3, "{asked:?}");
    assert!(asked.iter().all(|asked| asked.host == format!("127.0.0.1:{}", server.port)), "{asked:?}");

    let other = Page::ok(r#"{"Version":"v2.10.1"}"#);
    insta::assert_snapshot!(told(&ask(Box::new(well_but("/rancherversion", other))).await.0), @"
    health passed: /healthz answers 200 and /ping says pong
    version failed: /rancherversion says v2.10.1, and not v2.9.3
    ");
    insta::assert_snapshot!(told(&ask(Box::new(well_but("/healthz", Page::Say(500, "secret".into())))).await.0), @"
    health failed: /healthz answers 500
    version passed: /rancherversion says v2.9.3
    ");
    insta::assert_snapshot!(told(&ask(Box::new(well_but("/ping", Page::Large(1 << 20)))).await.0), @"
    health failed: /ping: the answer is larger than 65536 bytes
    version passed: /rancherversion says v2.9.3
    ");
    insta::assert_snapshot!(told(&ask(Box::new(well_but("/rancherversion", Page::Hang))).await.0), @"
    health passed: /healthz answers 200 and /ping says pong
    version failed: /rancherversion: no whole answer within 10 s
    ");
    insta::assert_snapshot!(told(&ask(Box::new(|_| Page::Redirect("https://login.example.org/?next=x".into()))).await.0), @"
    health failed: /healthz: it redirects to https://login.example.org, which is not asked
    version failed: /rancherversion: it redirects to https://login.example.org, which is not asked
    ");
    insta::assert_snapshot!(told(&ask(Box::new(|asked| Page::Redirect(asked.path.clone()))).await.0), @"
    health failed: /healthz: it redirects more than 3 times
    version failed: /rancherversion: it redirects more than 3 times
    ");
    // One that knows its own address only as a path.
    let moved = |asked: &Asked| match asked.path.strip_prefix("/dashboard") {
        Some(path) => well(&Asked { path: path.to_owned(), ..asked.clone() }),
        None => Page::Redirect(format!("/dashboard{}", asked.path)),
    };
    let judged = ask(Box::new(moved)).await.0;
    assert!(judged.0.is_passed() && judged.1.is_passed(), "{judged:?}");
    // Nobody listens there.
    let judged = place.of_itself(Some("http://127.0.0.1:1/")).await;
    assert_eq!((judged.0.outcome, judged.1.outcome), (Outcome::NotAsked, Outcome::NotAsked), "{judged:?}");
    assert!(judged.0.message.starts_with("http://127.0.0.1:1: "), "{judged:?}");
}

#[tokio::test]
async fn ranchers_certificate_is_trusted_by_its_own_setting_cacerts() {
    let place = Place::start().await;
    let server = WebServer::start_tls("localhost", well).await;
    let certificate = server.certificate.clone().expect("it has one");
    let base = format!("https://localhost:{}", server.port);
    // There are no settings, and then none of use.
    let before = place.of_itself(Some(&base)).await;
    insta::assert_snapshot!(told(&before).replace(&base, "https://localhost"), @"
    health not asked: https://localhost: its certificate is signed by an authority that is not known here; it is neither of the system's authorities nor of those in Rancher's setting cacerts
    version not asked: https://localhost: its certificate is signed by an authority that is not known here; it is neither of the system's authorities nor of those in Rancher's setting cacerts
    ");
    place.define("settings", "Setting");
    place.setting("cacerts", "-----BEGIN CERTIFICATE-----");
    let broken = place.of_itself(Some(&base)).await;
    assert_eq!(broken, before);
    place.setting("cacerts", &certificate);
    insta::assert_snapshot!(told(&place.of_itself(Some(&base)).await), @"
    health passed: /healthz answers 200 and /ping says pong
    version passed: /rancherversion says v2.9.3
    ");
    // Known, and for another name.
    let by_address = place.of_itself(Some(&format!("https://127.0.0.1:{}", server.port))).await;
    insta::assert_snapshot!(by_address.0.message.replace(&server.port.to_string(), "PORT"), @"https://127.0.0.1:PORT: its certificate is for another host name");
    assert_eq!(by_address.0.outcome, Outcome::NotAsked);
}

#[tokio::test]
async fn without_a_url_rancher_is_asked_through_the_api_server() {
    let place = Place::start().await;
    insta::assert_snapshot!(told(&place.of_itself(None).await), @"
    health not asked: no Service of cattle-system that we may see leads to Rancher's pods; set rancher.url
    version not asked: no Service of cattle-system that we may see leads to Rancher's pods; set rancher.url
    ");
    place.rancher("rancher/rancher:v2.9.3");
    place.apply(&json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "rancher", "namespace": "cattle-system"},
        "spec": {"selector": {"app": "rancher"}, "ports": [{"name": "http", "port": 80}, {"name": "https", "port": 443}]}}));
    insta::assert_snapshot!(told(&place.of_itself(None).await), @"
    health not asked: the Service cattle-system/rancher:80 has no endpoint
    version not asked: the Service cattle-system/rancher:80 has no endpoint
    ");
    // One who may read Services and not ask them.
    let user = place.cluster.user("looks-only");
    let role = ["create", "clusterrole", "looks-only", "--verb=get,list", "--resource=services,deployments.apps"];
    place.cluster.kubectl(&role, "").expect("it is made");
    let binding = ["create", "clusterrolebinding", "looks-only", "--clusterrole=looks-only", "--user=looks-only"];
    place.cluster.kubectl(&binding, "").expect("it is made");
    let reader = connect(&user.kubeconfig, limits()).await.reader();
    insta::assert_snapshot!(told(&place.of_itself_as(&reader, None).await), @"
    health not asked: we may not ask the Service cattle-system/rancher:80 through the API server (get services/proxy)
    version not asked: we may not ask the Service cattle-system/rancher:80 through the API server (get services/proxy)
    ");

    // An API server does not hand on to loopback addresses.
    let Some(address) = own_address() else {
        skip("health, through the API server to a pod", "this machine has no address but its loopback");
        return;
    };
    // Rancher at its http port: those who did not come by https are sent there.
    let server =
        WebServer::start(address, |asked: &Asked| match (asked.path.as_str(), asked.forwarded_proto.as_str()) {
            ("/healthz" | "/ping", _) | (_, "https") => well(asked),
            _ => Page::Redirect(format!("https://{}{}", asked.host, asked.path)),
        })
        .await;
    place.endpoint(address, server.port);
    insta::assert_snapshot!(told(&place.of_itself(None).await), @"
    health passed: /healthz answers 200 and /ping says pong
    version passed: /rancherversion says v2.9.3
    ");
    assert_eq!(server.take_asked().len(), 3);
    // What is wrong with Rancher is told apart from what is wrong on the way.
    let ill = WebServer::start(address, well_but("/healthz", Page::Say(503, "starting".into()))).await;
    place.endpoint(address, ill.port);
    insta::assert_snapshot!(told(&place.of_itself(None).await), @"
    health failed: /healthz answers 503
    version passed: /rancherversion says v2.9.3
    ");
    let large = WebServer::start(address, well_but("/rancherversion", Page::Large(1 << 20))).await;
    place.endpoint(address, large.port);
    insta::assert_snapshot!(told(&place.of_itself(None).await), @"
    health passed: /healthz answers 200 and /ping says pong
    version failed: /rancherversion: the answer is larger than 65536 bytes
    ");
    // Nobody listens there any more.
    place.endpoint(address, 1);
    insta::assert_snapshot!(told(&place.of_itself(None).await), @"
    health not asked: the API server does not reach the Service cattle-system/rancher:80 (the API server refused it (ServiceUnavailable, code 503)); set rancher.url
    version not asked: the API server does not reach the Service cattle-system/rancher:80 (the API server refused it (ServiceUnavailable, code 503)); set rancher.url
    ");
}

impl Place {
    /// A pod of Rancher at this address, to which its Service leads. The API server hands on to addresses of pods only.
    fn endpoint(&self, address: IpAddr, port: u16) {
        let labels = json!({"app": "rancher", "kubernetes.io/service-name": "rancher"});
        let metadata = json!({"name": "rancher", "namespace": "cattle-system", "labels": labels});
        let containers = json!([{"name": "rancher", "image": "rancher/rancher:v2.9.3"}]);
        self.apply(
            &json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": containers}}),
        );
        self.status("pod", "rancher", &json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}));
        let ports = json!([{"name": "http", "port": port}]);
        let pod = json!({"kind": "Pod", "namespace": "cattle-system", "name": "rancher"});
        self.apply(&json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata,
            "subsets": [{"addresses": [{"ip": address, "targetRef": pod}], "ports": ports}]}));
        self.apply(&json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata,
            "addressType": "IPv4", "ports": ports,
            "endpoints": [{"addresses": [address], "conditions": {"ready": true}, "targetRef": pod}]}));
    }
}
