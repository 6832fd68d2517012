//! A bar across the way of writes: whoever sent the one that a test waits for can be killed before it is carried out.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::{Cluster, WebhookServer, eventually};

const PATIENCE: Duration = Duration::from_secs(150);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waits,
    Stopped,
    Dropped,
    Passed,
}

struct Wanted {
    is: Box<dyn Fn(&Value) -> bool + Send>,
    state: watch::Sender<State>,
}

/// A webhook that the API server asks about every write in the namespaces of Rancher and of reinback, and about deletions of APIServices.
pub struct Bar {
    wanted: Arc<Mutex<Option<Wanted>>>,
    _server: WebhookServer,
}

/// The write that is waited for.
pub struct Stop(watch::Sender<State>);

impl Bar {
    /// It holds from when this returns.
    pub async fn install(cluster: &Cluster) -> Self {
        let wanted: Arc<Mutex<Option<Wanted>>> = Arc::default();
        let asked_for = Arc::clone(&wanted);
        let server = WebhookServer::start("127.0.0.1", move |request| {
            let taken = {
                let mut wanted = asked_for.lock().unwrap_or_else(PoisonError::into_inner);
                if wanted.as_ref().is_some_and(|wanted| (wanted.is)(request)) { wanted.take() } else { None }
            };
            let Some(Wanted { state, is: _ }) = taken else { return json!({"allowed": true}) };
            state.send_replace(State::Stopped);
            let mut opened = state.subscribe();
            // The test has the other one: where it fails, it opens the bar.
            drop(state);
            let allowed = tokio::task::block_in_place(|| {
                let opened = opened.wait_for(|state| matches!(state, State::Dropped | State::Passed));
                let opened = tokio::runtime::Handle::current().block_on(opened);
                opened.is_ok_and(|state| *state == State::Passed)
            });
            json!({"allowed": allowed})
        })
        .await;
        let configuration = configuration(&server).to_string();
        cluster.kubectl(&["apply", "-f", "-"], &configuration).expect("it is taken");
        server.take_asked();
        eventually(PATIENCE, || async {
            let tried = ["annotate", "-n", "cattle-system", "deployment/rancher", "try=it", "--dry-run=server"];
            cluster.kubectl(&tried, "")?;
            anyhow::ensure!(!server.take_asked().is_empty(), "it is not asked yet");
            Ok(())
        })
        .await;
        Self { wanted, _server: server }
    }

    /// The next request of which `is` holds stops. It is given what a review says of it.
    pub fn before(&self, is: impl Fn(&Value) -> bool + Send + 'static) -> Stop {
        let (state, _) = watch::channel(State::Waits);
        let wanted = Wanted { is: Box::new(is), state: state.clone() };
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = Some(wanted);
        Stop(state)
    }
}

impl Stop {
    /// Waits until it has come; false where it has not in time.
    pub async fn reached(&self) -> bool {
        let mut state = self.0.subscribe();
        let reached = state.wait_for(|state| *state == State::Stopped);
        tokio::time::timeout(PATIENCE, reached).await.is_ok_and(|reached| reached.is_ok())
    }

    /// The request is refused: nobody hears of it any more.
    pub fn drop_it(self) {
        self.0.send_replace(State::Dropped);
    }

    /// The request goes on, however late.
    pub fn pass_it(self) {
        self.0.send_replace(State::Passed);
    }
}

fn configuration(server: &WebhookServer) -> Value {
    let of = |name: &str, rules: Value| {
        json!({
            "name": name, "failurePolicy": "Fail", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "timeoutSeconds": 30, "rules": rules,
            "clientConfig": {"url": format!("https://127.0.0.1:{}/", server.port), "caBundle": server.ca_bundle},
        })
    };
    let rule = |group: &str, resource: &str| json!({"operations": ["CREATE", "UPDATE", "DELETE"], "apiGroups": [group], "apiVersions": ["*"], "resources": [resource]});
    let namespaced = [
        rule("", "configmaps"),
        rule("", "secrets"),
        rule("", "services"),
        rule("apps", "deployments"),
        rule("reinback.io", "runs/status"),
        rule("coordination.k8s.io", "leases"),
    ];
    let mut in_namespaces = of("namespaced.bar.example.org", json!(namespaced));
    in_namespaces["namespaceSelector"] = json!({"matchExpressions": [
        {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["cattle-system", "reinback-system"]},
    ]});
    let of_cluster = of("cluster.bar.example.org", json!([rule("apiregistration.k8s.io", "apiservices")]));
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "bar"}, "webhooks": [in_namespaces, of_cluster],
    })
}
