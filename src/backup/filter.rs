//! The ResourceSet of a backup: which objects it was made of, and so which live ones a prune may judge.
//!
//! Field by field as the operator's collector does it; where its behaviour surprises, the surprise is kept and said, for a prune
//! that selects more or less than the backup did deletes what it must not.

mod go_regex;
mod labels;
mod select;

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

pub use labels::{LabelExpression, LabelSelector};
pub use select::{SelectorQuery, Selectors};

use super::error::shown;

/// Most selectors of a set. Rancher's own full set has 81.
const MAX_SELECTORS: usize = 2000;

/// `filters/filters.json`. Fields that we do not know are passed over, for other versions of the operator write them;
/// those of a selector are kept by name in [`ResourceSelector::unknown_fields`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceSet {
    #[serde(deserialize_with = "null_is_empty")]
    pub resource_selectors: Vec<ResourceSelector>,
    #[serde(deserialize_with = "null_is_empty")]
    pub controller_references: Vec<ControllerReference>,
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
    /// Takes a parsed `filters.json`, and checks that it can be compiled.
    pub(super) fn from_value(value: Value) -> Result<Self, FilterError> {
        let unknown: Vec<Vec<String>> = selectors_in(&value).iter().map(unknown_fields).collect();
        if !value.is_object() {
            return Err(FilterError::Shape("its JSON is no map".to_owned()));
        }
        let mut set: Self =
            serde_json::from_value(value).map_err(|error| FilterError::Shape(shown(&error.to_string())))?;
        for (selector, unknown_fields) in set.resource_selectors.iter_mut().zip(unknown) {
            selector.unknown_fields = unknown_fields;
        }
        set.compile()?;
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
