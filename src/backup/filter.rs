//! The ResourceSet of a backup: which objects it was made of, and so which live ones a prune may judge.
//!
//! Field by field as the operator's collector does it; where its behaviour surprises, the surprise is kept and said, for a prune
//! that selects more or less than the backup did deletes what it must not.

mod go_regex;
mod labels;
mod select;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

pub use labels::{LabelExpression, LabelSelector, Labels};
pub use select::{SelectorQuery, Selectors};

use super::error::shown;

/// Most selectors of a set. Rancher's own full set has 81.
const MAX_SELECTORS: usize = 1000;

/// `filters/filters.json`. Fields that we do not know are passed over, for other versions of the operator write them;
/// those of a selector are kept by name in [`ResourceSelector::unknown_fields`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceSet {
    #[serde(deserialize_with = "null_is_empty")]
    pub resource_selectors: Vec<ResourceSelector>,
    #[serde(deserialize_with = "null_is_empty")]
    pub controller_references: Vec<ControllerReference>,
    /// All of it, as it was written: fields that we do not know, name and annotations among them.
    #[serde(skip)]
    pub whole: Arc<Value>,
}

/// Selects objects of one group and version. Its four parts are joined by *and*: kind, name, namespace, labels and fields.
/// Within a part, a list and a regular expression (Go's dialect, not anchored) are joined by *or*. A part that says nothing selects all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceSelector {
    pub api_version: String,
    /// Kinds or plurals, as they are written: `Secret` or `secrets`.
    #[serde(deserialize_with = "null_is_empty")]
    pub kinds: Vec<String>,
    pub kinds_regexp: String,
    /// Takes away from what `kinds_regexp` found; not from `kinds`, and not from all when both are empty.
    #[serde(deserialize_with = "null_is_empty")]
    pub exclude_kinds: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub resource_names: Vec<String>,
    pub resource_name_regexp: String,
    /// Takes away from what `resource_name_regexp` found, or from all names when that is empty, even beside `resource_names`.
    pub exclude_resource_name_regexp: String,
    /// Does not touch cluster-scoped objects, nor does `namespace_regexp`.
    #[serde(deserialize_with = "null_is_empty")]
    pub namespaces: Vec<String>,
    pub namespace_regexp: String,
    /// An empty selector selects all.
    pub label_selectors: Option<LabelSelector>,
    /// Paths of fields, all of which must have the value. What the API server can select by differs from type to type.
    #[serde(deserialize_with = "null_is_empty")]
    pub field_selectors: BTreeMap<String, String>,
    /// Names of fields that this program does not know. They may narrow the selection, so that a prune could delete too much.
    #[serde(skip)]
    pub unknown_fields: Vec<String>,
}

/// A controller that must not run during a restore.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ControllerReference {
    pub api_version: String,
    /// Plural, such as `deployments`.
    pub resource: String,
    pub namespace: String,
    pub name: String,
}

/// Why the filters of a backup cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    #[error("the filters are not a ResourceSet: {0}")]
    Shape(String),
    #[error("the filters have {0} selectors, more than {MAX_SELECTORS}")]
    TooMany(usize),
    /// `number` counts from one.
    #[error("resourceSelectors[{}] (apiVersion `{api_version}`) has a bad {field}: {reason}", .number - 1)]
    Selector { number: usize, api_version: String, field: &'static str, reason: String },
}

impl ResourceSet {
    /// Takes a parsed `filters.json`, or a ResourceSet of a cluster, and checks that it can be compiled.
    ///
    /// # Errors
    ///
    /// When it is no ResourceSet, or a selector is none that the operator would take.
    pub fn from_value(value: Value) -> Result<Self, FilterError> {
        let unknown: Vec<Vec<String>> = selectors_in(&value).iter().map(unknown_fields).collect();
        if !value.is_object() {
            return Err(FilterError::Shape("its JSON is no map".to_owned()));
        }
        let mut set: Self =
            serde_json::from_value(value.clone()).map_err(|error| FilterError::Shape(shown(&error.to_string())))?;
        for (selector, unknown_fields) in set.resource_selectors.iter_mut().zip(unknown) {
            selector.unknown_fields = unknown_fields;
        }
        set.compile()?;
        set.whole = Arc::new(value);
        Ok(set)
    }

    /// # Errors
    ///
    /// When a selector has a regular expression or a label selector that the operator would not take.
    pub fn compile(&self) -> Result<Selectors, FilterError> {
        if self.resource_selectors.len() > MAX_SELECTORS {
            return Err(FilterError::TooMany(self.resource_selectors.len()));
        }
        Selectors::compile(&self.resource_selectors)
    }
}

fn selectors_in(value: &Value) -> &[Value] {
    value.get("resourceSelectors").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn unknown_fields(selector: &Value) -> Vec<String> {
    const KNOWN: [&str; 11] = [
        "apiVersion",
        "kinds",
        "kindsRegexp",
        "excludeKinds",
        "resourceNames",
        "resourceNameRegexp",
        "excludeResourceNameRegexp",
        "namespaces",
        "namespaceRegexp",
        "labelSelectors",
        "fieldSelectors",
    ];
    let fields = selector.as_object().into_iter().flat_map(|fields| fields.keys());
    fields.filter(|field| !KNOWN.contains(&field.as_str())).map(|field| shown(field)).collect()
}

/// Go writes an empty list that was never made as `null`.
fn null_is_empty<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(selectors: Value) -> ResourceSet {
        ResourceSet::from_value(json!({"resourceSelectors": selectors})).unwrap()
    }

    #[test]
    fn a_whole_resource_set_is_read_and_what_is_new_in_it_is_named() {
        let set = ResourceSet::from_value(json!({
            "kind": "ResourceSet", "apiVersion": "resources.cattle.io/v1", "metadata": {"name": "x"}, "later": 1,
            "resourceSelectors": [
                {"apiVersion": "v1", "kinds": null, "excludeNamespaces": ["x"], "labelSelectors": null, "fieldSelectors": null},
            ],
            "controllerReferences": [
                {"apiVersion": "apps/v1", "resource": "deployments", "namespace": "cattle-system", "name": "rancher", "replicas": 3},
            ],
        }))
        .unwrap();
        assert_eq!(set.resource_selectors[0].unknown_fields, ["excludeNamespaces"]);
        assert_eq!(set.controller_references[0].name, "rancher");
        let empty = ResourceSet::from_value(json!({"resourceSelectors": null, "controllerReferences": null})).unwrap();
        assert_eq!((empty.resource_selectors, empty.controller_references), (Vec::new(), Vec::new()));
    }

    #[test]
    fn filters_that_cannot_be_used_say_where() {
        let selector = |fields: Value| {
            let mut selector = json!({"apiVersion": "v1"});
            selector.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            json!({"resourceSelectors": [{"apiVersion": "apps/v1"}, selector]})
        };
        let said: Vec<String> = [
            json!([]),
            json!({"resourceSelectors": "all\u{1b}[2J"}),
            json!({"resourceSelectors": vec![json!({"apiVersion": "v1"}); 1001]}),
            selector(json!({"kindsRegexp": "("})),
            selector(json!({"resourceNameRegexp": "["})),
            selector(json!({"excludeResourceNameRegexp": "*"})),
            selector(json!({"namespaceRegexp": "(?x)"})),
            selector(json!({"labelSelectors": {"matchExpressions": [{"key": "a", "operator": "Is"}]}})),
            selector(json!({"apiVersion": ""})),
            selector(json!({"apiVersion": "a/b/c"})),
        ]
        .into_iter()
        .map(|value| ResourceSet::from_value(value).unwrap_err().to_string())
        .collect();
        insta::assert_snapshot!(said.join("\n"), @r#"
        the filters are not a ResourceSet: its JSON is no map
        the filters are not a ResourceSet: invalid type: string "all\u{1b}[2J", expected a sequence
        the filters have 1001 selectors, more than 1000
        resourceSelectors[1] (apiVersion `v1`) has a bad kindsRegexp: `(`: unclosed group
        resourceSelectors[1] (apiVersion `v1`) has a bad resourceNameRegexp: `[`: a class without its end
        resourceSelectors[1] (apiVersion `v1`) has a bad excludeResourceNameRegexp: `*`: repetition operator missing expression
        resourceSelectors[1] (apiVersion `v1`) has a bad namespaceRegexp: `(?x)`: a flag that Go does not have
        resourceSelectors[1] (apiVersion `v1`) has a bad labelSelectors: the operator `Is` is not one
        resourceSelectors[1] (apiVersion ``) has a bad apiVersion: it is neither `<version>` nor `<group>/<version>`
        resourceSelectors[1] (apiVersion `a/b/c`) has a bad apiVersion: it is neither `<version>` nor `<group>/<version>`
        "#);
    }

    #[test]
    fn compiled_selectors_want_and_match() {
        let selectors = set(json!([
            {"apiVersion": "v1", "kindsRegexp": "^secrets$", "namespaceRegexp": "^cattle-",
             "labelSelectors": {"matchExpressions": [{"key": "owner", "operator": "NotIn", "values": ["helm"]}]}},
            {"apiVersion": "v1", "kinds": ["Secret"], "fieldSelectors": {"type": "a=b,c", "metadata.name": "x"}},
        ]))
        .compile()
        .unwrap();
        let queries = selectors.wants_resource("v1", "Secret", "secrets");
        insta::assert_debug_snapshot!(queries, @r#"
        [
            SelectorQuery {
                index: 0,
                label_selector: Some(
                    "owner notin (helm)",
                ),
                field_selector: None,
                needs_own_list: false,
            },
            SelectorQuery {
                index: 1,
                label_selector: None,
                field_selector: Some(
                    "metadata.name=x,type=a\\=b\\,c",
                ),
                needs_own_list: true,
            },
        ]
        "#);
        assert!(selectors.matches(0, Some("cattle-system"), "tls", |_| None));
        assert!(!selectors.matches(0, Some("cattle-system"), "sh.helm", |key| (key == "owner").then_some("helm")));
        assert!(!selectors.matches(0, Some("default"), "tls", |_| None));
        assert!(selectors.matches(1, Some("default"), "x", |_| None));
        assert!(!selectors.matches(1, Some("default"), "y", |_| None));
        assert!(!selectors.matches(2, None, "x", |_| None));
        assert!(selectors.wants_resource("v1", "Pod", "pods").is_empty());
        assert!(selectors.wants_resource("v2", "Secret", "secrets").is_empty());
        assert_eq!(selectors.unserved(|version| version == "v2"), ["v1"]);
    }
}
