//! Every gate that a Restore can raise, raised by the real world through the binary, and its remedy tried.
//!
//! `plan` only reads, so the cases of a test share one world: each changes it, looks, follows the remedy and looks again.

use std::path::Path;

use serde_json::{Value, json};

use crate::world::{Said, World};

mod cluster;
pub mod encryption;
mod held;
mod history;
mod objects;
mod prune;
mod rights;
mod source;
mod webhooks;

/// A manifest to be planned, in place of all that the repository had before.
#[derive(Clone)]
struct Asked<'w> {
    world: &'w World,
    backup: String,
    annotations: Vec<(String, String)>,
    /// Further lines of the spec.
    spec: Vec<String>,
    flags: Vec<String>,
}

/// The answer to it.
struct Planned {
    code: Option<i32>,
    plan: Value,
    said: Said,
}

impl<'w> Asked<'w> {
    fn of(world: &'w World) -> Self {
        let (annotations, spec, flags) = (Vec::new(), Vec::new(), Vec::new());
        Self { world, backup: world.backup.clone(), annotations, spec, flags }
    }

    fn backup(&self, name: &str) -> Self {
        Self { backup: name.to_owned(), ..self.clone() }
    }

    fn annotated(&self, name: &str, value: &str) -> Self {
        let mut asked = self.clone();
        asked.annotations.push((name.to_owned(), value.to_owned()));
        asked
    }

    fn spec(&self, line: &str) -> Self {
        let mut asked = self.clone();
        asked.spec.push(line.to_owned());
        asked
    }

    fn flag(&self, flag: &str) -> Self {
        let mut asked = self.clone();
        asked.flags.push(flag.to_owned());
        asked
    }

    fn manifest(&self) -> String {
        let annotations: String =
            self.annotations.iter().map(|(name, value)| format!("    {name}: \"{value}\"\n")).collect();
        let annotations = if annotations.is_empty() { annotations } else { format!("  annotations:\n{annotations}") };
        let spec: String = self.spec.iter().map(|line| format!("  {line}\n")).collect();
        format!(
            "apiVersion: resources.cattle.io/v1\nkind: Restore\nmetadata:\n  name: gate\n{annotations}spec:\n  backupFilename: {}\n{spec}",
            self.backup
        )
    }

    fn commit(&self) {
        self.world.work.write("clusters/test/gate.yaml", &self.manifest()).commit("Ask");
        self.world.work.push(&["origin", "HEAD:main"]);
    }

    async fn plan(&self) -> Planned {
        self.plan_as(self.world.cluster.kubeconfig()).await
    }

    async fn plan_as(&self, kubeconfig: &Path) -> Planned {
        self.commit();
        let flags = self.flags.iter().map(String::as_str);
        let args: Vec<&str> = ["plan", "-o", "json"].into_iter().chain(flags).collect();
        let said = self.world.reinback_as(kubeconfig, &args).await;
        let value: Value = serde_json::from_str(&said.stdout).unwrap_or_else(|_| panic!("{said:?}"));
        Planned { code: said.code, plan: value["plans"][0].clone(), said }
    }

    /// Held by this gate alone; with the line that its remedy gives, no longer.
    async fn is_accepted(&self, code: &str) -> Planned {
        let planned = self.plan().await;
        planned.assert_held_by(&[code]);
        let accepted = self.pasting(&planned, code).plan().await;
        accepted.assert_held_by(&[]);
        let taken = accepted.gates().find(|gate| gate["code"] == code).unwrap_or_else(|| panic!("{:#}", accepted.plan));
        assert_eq!(taken["accepted"], true);
        accepted
    }

    /// The same with the annotation that the gate's remedy gives in backticks.
    fn pasting(&self, planned: &Planned, code: &str) -> Self {
        let remedy = planned.remedy(code);
        let line = remedy.split('`').find(|text| text.starts_with("reinback.io/"));
        let line = line.unwrap_or_else(|| panic!("no line to paste in {remedy:?}"));
        let (name, value) = line.split_once(": ").expect("an annotation");
        let mut asked = self.clone();
        asked.annotations.retain(|(other, _)| other != name);
        asked.annotated(name, value)
    }
}

impl Planned {
    fn gates(&self) -> impl Iterator<Item = &Value> {
        self.plan["gates"].as_array().into_iter().flatten()
    }

    #[track_caller]
    fn assert_held_by(&self, codes: &[&str]) {
        let holding = self.gates().filter(|gate| gate["accepted"] == false);
        let mut holding: Vec<&str> = holding.filter_map(|gate| gate["code"].as_str()).collect();
        let mut codes = codes.to_vec();
        holding.sort_unstable();
        codes.sort_unstable();
        assert_eq!(holding, codes, "{:#}\n{}", self.plan["gates"], self.said.stderr);
        assert_eq!(self.code == Some(3), !codes.is_empty(), "exit {:?}", self.code);
    }

    #[track_caller]
    fn text(&self, code: &str, part: &str) -> String {
        let gate = self.gates().find(|gate| gate["code"] == code);
        let gate = gate.unwrap_or_else(|| panic!("no {code} in {:#}", self.plan["gates"]));
        gate[part].as_str().unwrap_or_default().to_owned()
    }

    #[track_caller]
    fn message(&self, code: &str) -> String {
        self.text(code, "message")
    }

    #[track_caller]
    fn remedy(&self, code: &str) -> String {
        self.text(code, "remedy")
    }

    fn count(&self, what: &str) -> u64 {
        self.plan["counts"][what].as_u64().unwrap_or_default()
    }
}

/// Sets the value of a Setting of the backup.
fn set(entries: &mut [(String, Value)], setting: &str, value: &str) {
    let path = format!("settings.management.cattle.io#v3/{setting}");
    let entry = entries.iter_mut().find(|(name, _)| *name == path).expect("the fixture has it");
    entry.1["value"] = json!(value);
}

fn kubectl(world: &World, args: &[&str]) {
    world.cluster.kubectl(args, "").unwrap_or_else(|error| panic!("kubectl {args:?}: {error:?}"));
}

pub fn apply(world: &World, yaml: &str) {
    let applied = world.cluster.kubectl(&["apply", "-f", "-"], yaml);
    applied.unwrap_or_else(|error| panic!("{error:?}\n{yaml}"));
}

/// A definition that takes anything, and is served when this returns.
pub fn define(world: &World, group: &str, version: &str, plural: &str, kind: &str, scope: &str) {
    apply(
        world,
        &format!(
            "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {{name: {plural}.{group}}}\n\
             spec:\n  group: {group}\n  scope: {scope}\n  names: {{plural: {plural}, singular: {}, kind: {kind}, listKind: {kind}List}}\n\
             \x20 versions:\n  - name: {version}\n    served: true\n    storage: true\n    schema:\n      openAPIV3Schema: {{type: object, x-kubernetes-preserve-unknown-fields: true}}\n",
            kind.to_lowercase()
        ),
    );
    let name = format!("crd/{plural}.{group}");
    kubectl(world, &["wait", "--for=condition=Established", "--timeout=60s", &name]);
}
