//! A webhook that nobody answers on the stage: a restore silences it while it writes, and gives it back however it ends.

use reinback::sim::Sim;
use serde_json::{Value, json};

const NAME: &str = "dead.example.org";

/// Its Service is in no cluster.
pub fn unsaved() -> Vec<Value> {
    let webhook = json!({"name": NAME, "failurePolicy": "Fail",
        "clientConfig": {"service": {"namespace": "cattle-system", "name": "gone"}},
        "rules": [{"operations": ["*"], "apiGroups": ["management.cattle.io"], "apiVersions": ["*"], "resources": ["settings"]}]});
    vec![json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "dead"}, "webhooks": [webhook]})]
}

/// It is on this stage.
pub fn is_there(sim: &Sim) -> bool {
    sim.object("validatingwebhookconfigurations.admissionregistration.k8s.io", None, "dead").is_some()
}

/// At any moment: what it had is never lost.
pub fn check(sim: &Sim) -> Option<String> {
    match state(sim) {
        (policy, None) if policy == "Fail" => None,
        (policy, Some(note)) if policy == "Ignore" && note == format!(r#"{{"{NAME}":"Fail"}}"#) => None,
        state => Some(format!("the policy of {NAME} and what it had: {state:?}")),
    }
}

/// The API server would ask it.
pub fn is_asked_about(effect: &str) -> bool {
    effect.contains("/management.cattle.io/v3/settings")
}

/// A run has not given it back.
pub fn is_silenced(sim: &Sim) -> bool {
    state(sim).0 == "Ignore"
}

/// Its policy, and what its annotation says.
fn state(sim: &Sim) -> (String, Option<String>) {
    let live = sim.object("validatingwebhookconfigurations.admissionregistration.k8s.io", None, "dead");
    let live = live.map(|live| (*live).clone()).unwrap_or_default();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let policy = text(&live["webhooks"][0]["failurePolicy"]).unwrap_or_default();
    (policy, text(&live["metadata"]["annotations"]["reinback.io/silenced"]))
}
