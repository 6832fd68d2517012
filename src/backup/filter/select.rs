//! Selectors, compiled.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use regex::Regex;

use super::super::error::shown;
use super::go_regex::Compiler;
use super::labels::Labels;
use super::{FilterError, LabelSelector, ResourceSelector};

/// Selects everything by kind or by namespace, though no regular expression was asked: the operator knows this one by heart.
const ALL: &str = ".";

/// The selectors of a [`super::ResourceSet`], in its order; an index is a place in it. Clones share them: what an expression works in
/// (some 20 KiB) is made anew for each clone of it.
#[derive(Debug, Clone)]
pub struct Selectors(Arc<[Selector]>);

/// A list that a selector asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectorQuery {
    /// To be handed to [`Selectors::matches`] with what the list returns.
    pub index: usize,
    /// The parameter of that name, or `None` when the selector has no such terms. [`Selectors::matches`] judges labels, too, so that
    /// one list without it can serve several selectors.
    pub label_selector: Option<String>,
    /// The parameter of that name. [`Selectors::matches`] judges only `metadata.name` and `metadata.namespace`.
    pub field_selector: Option<String>,
    /// Whether `field_selector` has terms that only the API server can judge: then this selector needs a list of its own.
    pub needs_own_list: bool,
}

#[derive(Debug, Clone)]
struct Selector {
    api_version: String,
    kinds: Kinds,
    names: Option<Names>,
    namespaces: Option<Terms>,
    labels: Labels,
    fields: Vec<(String, String)>,
}

#[derive(Debug, Clone)]
enum Kinds {
    All,
    These { terms: Terms, excluded: HashSet<String> },
}

#[derive(Debug, Clone)]
struct Names {
    listed: HashSet<String>,
    /// What is found beside the listed names; `None` when nothing is.
    found: Option<Found>,
}

#[derive(Debug, Clone)]
struct Found {
    by: Option<Regex>,
    but: Option<Regex>,
}

/// A list or a regular expression.
#[derive(Debug, Clone)]
struct Terms {
    listed: HashSet<String>,
    regexp: Option<Pattern>,
}

#[derive(Debug, Clone)]
enum Pattern {
    All,
    Regexp(Regex),
}

impl Selectors {
    pub(super) fn compile(selectors: &[ResourceSelector]) -> Result<Self, FilterError> {
        let compiler = Compiler::new();
        let compile = |(index, selector)| {
            Selector::compile(selector, &compiler).map_err(|(field, reason)| FilterError::Selector {
                number: index + 1,
                api_version: shown(&selector.api_version),
                field,
                reason,
            })
        };
        selectors.iter().enumerate().map(compile).collect::<Result<_, _>>().map(Self)
    }

    /// The lists that the selectors ask of one resource of the API; none when no selector wants it.
    ///
    /// `kind` and `plural` as discovery has them. Subresources (`pods/log`) are never wanted. Several selectors may want one resource;
    /// an object is selected when one of them matches.
    ///
    /// Of a resource that can be read but not listed the operator takes what is named one by one ([`Selectors::by_name`]).
    pub fn wants_resource(&self, api_version: &str, kind: &str, plural: &str) -> Vec<SelectorQuery> {
        let wants = |selector: &Selector| {
            selector.api_version == api_version && !plural.contains('/') && selector.kinds.hold(kind, plural)
        };
        let wanting = self.0.iter().enumerate().filter(|(_, selector)| wants(selector));
        wanting.map(|(index, selector)| selector.query(index)).collect()
    }

    /// Whether an object is selected by the selector at `index`, which is known to want its resource.
    ///
    /// `namespace` is `None` for an object of a cluster-scoped resource, which terms for namespaces do not touch. `label`
    /// looks up a label of the object. An index that is none selects nothing.
    pub fn matches<'l>(
        &self,
        index: usize,
        namespace: Option<&str>,
        name: &str,
        label: impl Fn(&str) -> Option<&'l str>,
    ) -> bool {
        let Some(Selector { api_version: _, kinds: _, names, namespaces, labels, fields }) = self.0.get(index) else {
            return false;
        };
        let field_holds = |(field, value): &(String, String)| match field.as_str() {
            "metadata.name" => name == value,
            "metadata.namespace" => namespace.unwrap_or_default() == value,
            _ => true, // the API server has judged it
        };
        names.as_ref().is_none_or(|names| names.hold(name))
            && namespace.is_none_or(|namespace| namespaces.as_ref().is_none_or(|terms| terms.hold(namespace)))
            && fields.iter().all(field_holds)
            && labels.hold(label)
    }

    /// Namespaces and names that the selector at `index` lists one by one: of a resource that can be read and not listed, these are
    /// all that can be had. No namespace for a selector without any, which then reaches cluster-scoped objects alone.
    pub fn by_name(&self, index: usize) -> Vec<(Option<&str>, &str)> {
        let Some(Selector { names: Some(names), namespaces, .. }) = self.0.get(index) else { return Vec::new() };
        let names = || names.listed.iter().map(String::as_str);
        match namespaces.as_ref().map(|terms| &terms.listed).filter(|listed| !listed.is_empty()) {
            Some(all) => {
                all.iter().flat_map(|namespace| names().map(|name| (Some(namespace.as_str()), name))).collect()
            }
            None => names().map(|name| (None, name)).collect(),
        }
    }

    /// The `apiVersion`s that selectors ask for and the API does not serve, in order and once each. What they selected in the
    /// backup cannot be listed, and so not pruned.
    pub fn unserved(&self, is_served: impl Fn(&str) -> bool) -> Vec<&str> {
        let mut unserved: Vec<&str> =
            self.0.iter().map(|selector| selector.api_version.as_str()).filter(|version| !is_served(version)).collect();
        unserved.sort_unstable();
        unserved.dedup();
        unserved
    }

    /// The kinds and plurals that selectors list by name, each with the `apiVersion` at which it is asked for.
    pub fn listed_kinds(&self) -> BTreeSet<(&str, &str)> {
        let listed = self.0.iter().flat_map(|selector| match &selector.kinds {
            Kinds::All => Vec::new(),
            Kinds::These { terms, excluded: _ } => {
                terms.listed.iter().map(|kind| (selector.api_version.as_str(), kind.as_str())).collect()
            }
        });
        listed.collect()
    }
}

type Fault = (&'static str, String);

impl Selector {
    fn compile(selector: &ResourceSelector, compiler: &Compiler) -> Result<Self, Fault> {
        let ResourceSelector {
            api_version,
            kinds,
            kinds_regexp,
            exclude_kinds,
            resource_names,
            resource_name_regexp,
            exclude_resource_name_regexp,
            namespaces,
            namespace_regexp,
            label_selectors,
            field_selectors,
            unknown_fields: _,
        } = selector;
        if api_version.is_empty() || api_version.split('/').count() > 2 {
            return Err(("apiVersion", "it is neither `<version>` nor `<group>/<version>`".to_owned()));
        }
        let labels = Labels::new(label_selectors.as_ref().unwrap_or(&LabelSelector::default()));
        Ok(Self {
            api_version: api_version.clone(),
            kinds: match Terms::new(compiler, kinds, "kindsRegexp", kinds_regexp)? {
                None => Kinds::All,
                Some(terms) => Kinds::These { terms, excluded: exclude_kinds.iter().cloned().collect() },
            },
            names: Names::new(compiler, resource_names, resource_name_regexp, exclude_resource_name_regexp)?,
            namespaces: Terms::new(compiler, namespaces, "namespaceRegexp", namespace_regexp)?,
            labels: labels.map_err(|reason| ("labelSelectors", reason))?,
            fields: field_selectors.iter().map(|(field, value)| (field.clone(), value.clone())).collect(),
        })
    }

    fn query(&self, index: usize) -> SelectorQuery {
        let term = |(field, value): &(String, String)| format!("{field}={}", escaped(value));
        let terms: Vec<String> = self.fields.iter().map(term).collect();
        let is_ours = |field: &str| matches!(field, "metadata.name" | "metadata.namespace");
        SelectorQuery {
            index,
            label_selector: self.labels.query(),
            field_selector: (!terms.is_empty()).then(|| terms.join(",")),
            needs_own_list: self.fields.iter().any(|(field, _)| !is_ours(field)),
        }
    }
}

/// The value of a field selector, with what would end it escaped as Kubernetes does.
fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace(',', r"\,").replace('=', r"\=")
}

impl Kinds {
    fn hold(&self, kind: &str, plural: &str) -> bool {
        let Self::These { terms: Terms { listed, regexp }, excluded } = self else { return true };
        let is_in = |set: &HashSet<String>| set.contains(kind) || set.contains(plural);
        let found = |pattern: &Pattern| pattern.finds(kind) || pattern.finds(plural);
        is_in(listed) || (regexp.as_ref().is_some_and(found) && !is_in(excluded))
    }
}

impl Names {
    fn new(compiler: &Compiler, listed: &[String], regexp: &str, excluded: &str) -> Result<Option<Self>, Fault> {
        let (by, but) =
            (regex(compiler, "resourceNameRegexp", regexp)?, regex(compiler, "excludeResourceNameRegexp", excluded)?);
        let found = (by.is_some() || but.is_some()).then_some(Found { by, but });
        Ok((!listed.is_empty() || found.is_some()).then(|| Self { listed: listed.iter().cloned().collect(), found }))
    }

    fn hold(&self, name: &str) -> bool {
        let Self { listed, found } = self;
        let is_found = |Found { by, but }: &Found| {
            by.as_ref().is_none_or(|by| by.is_match(name)) && !but.as_ref().is_some_and(|but| but.is_match(name))
        };
        listed.contains(name) || found.as_ref().is_some_and(is_found)
    }
}

impl Terms {
    /// `None` when they say nothing.
    fn new(compiler: &Compiler, listed: &[String], field: &'static str, regexp: &str) -> Result<Option<Self>, Fault> {
        let regexp = match regexp {
            ALL => Some(Pattern::All),
            other => regex(compiler, field, other)?.map(Pattern::Regexp),
        };
        Ok((!listed.is_empty() || regexp.is_some()).then(|| Self { listed: listed.iter().cloned().collect(), regexp }))
    }

    fn hold(&self, text: &str) -> bool {
        let Self { listed, regexp } = self;
        listed.contains(text) || regexp.as_ref().is_some_and(|pattern| pattern.finds(text))
    }
}

impl Pattern {
    fn finds(&self, text: &str) -> bool {
        match self {
            Self::All => true,
            Self::Regexp(regexp) => regexp.is_match(text),
        }
    }
}

fn regex(compiler: &Compiler, field: &'static str, pattern: &str) -> Result<Option<Regex>, Fault> {
    if pattern.is_empty() {
        return Ok(None);
    }
    compiler.compile(pattern).map(Some).map_err(|reason| (field, reason))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::ResourceSet;
    use super::*;

    fn compiled(mut selector: Value) -> Selectors {
        selector["apiVersion"] = json!("v1");
        ResourceSet::from_value(json!({"resourceSelectors": [selector]})).unwrap().compile().unwrap()
    }

    fn wanted(selector: Value) -> Vec<&'static str> {
        let selectors = compiled(selector);
        let resources =
            [("Secret", "secrets"), ("Token", "tokens"), ("PodLog", "pods/log"), ("NetworkPolicy", "networkpolicies")];
        let wants = |(kind, plural): &(&str, &str)| !selectors.wants_resource("v1", kind, plural).is_empty();
        resources.iter().filter(|resource| wants(resource)).map(|(_, plural)| *plural).collect()
    }

    fn named(selector: Value) -> Vec<&'static str> {
        let selectors = compiled(selector);
        ["a", "ab", "b", "c"].into_iter().filter(|name| selectors.matches(0, Some("ns"), name, |_| None)).collect()
    }

    fn in_namespaces(selector: Value) -> Vec<Option<&'static str>> {
        let selectors = compiled(selector);
        let namespaces = [None, Some("cattle-system"), Some("default")];
        namespaces.into_iter().filter(|namespace| selectors.matches(0, *namespace, "x", |_| None)).collect()
    }

    #[test]
    fn kinds_are_listed_or_found_by_kind_or_plural() {
        assert_eq!(wanted(json!({})), ["secrets", "tokens", "networkpolicies"]);
        assert_eq!(wanted(json!({"kindsRegexp": "."})), ["secrets", "tokens", "networkpolicies"]);
        assert_eq!(wanted(json!({"kinds": ["Secret", "tokens"]})), ["secrets", "tokens"]);
        assert_eq!(wanted(json!({"kindsRegexp": "^Secret$|^tokens$"})), ["secrets", "tokens"]);
        assert_eq!(wanted(json!({"kinds": ["secret"]})), [] as [&str; 0]);
        assert_eq!(wanted(json!({"kinds": ["tokens"], "kindsRegexp": "ies$"})), ["tokens", "networkpolicies"]);
        assert_eq!(wanted(json!({"kinds": ["pods/log"]})), [] as [&str; 0]);
    }

    #[test]
    fn excluded_kinds_take_away_only_what_the_expression_found() {
        assert_eq!(wanted(json!({"kindsRegexp": ".", "excludeKinds": ["tokens"]})), ["secrets", "networkpolicies"]);
        assert_eq!(wanted(json!({"kindsRegexp": "s$", "excludeKinds": ["Token"]})), ["secrets", "networkpolicies"]);
        assert_eq!(
            wanted(json!({"kinds": ["tokens"], "kindsRegexp": ".", "excludeKinds": ["tokens", "secrets"]})),
            ["tokens", "networkpolicies"]
        );
        assert_eq!(wanted(json!({"excludeKinds": ["tokens"]})), ["secrets", "tokens", "networkpolicies"]);
    }

    #[test]
    fn names_are_listed_or_found_and_exclusion_does_not_touch_the_list() {
        assert_eq!(named(json!({})), ["a", "ab", "b", "c"]);
        assert_eq!(named(json!({"resourceNames": ["a"]})), ["a"]);
        assert_eq!(named(json!({"resourceNameRegexp": "b"})), ["ab", "b"]);
        assert_eq!(named(json!({"resourceNames": ["a"], "resourceNameRegexp": "b"})), ["a", "ab", "b"]);
        assert_eq!(named(json!({"resourceNameRegexp": "b", "excludeResourceNameRegexp": "^a"})), ["b"]);
        assert_eq!(
            named(json!({"resourceNames": ["ab"], "resourceNameRegexp": "b", "excludeResourceNameRegexp": "^a"})),
            ["ab", "b"]
        );
        assert_eq!(named(json!({"excludeResourceNameRegexp": "^a"})), ["b", "c"]);
    }

    #[test]
    fn an_exclusion_beside_listed_names_selects_all_others_as_in_the_operator() {
        assert_eq!(named(json!({"resourceNames": ["ab"], "excludeResourceNameRegexp": "^a"})), ["ab", "b", "c"]);
    }

    #[test]
    fn namespaces_do_not_touch_what_has_none() {
        assert_eq!(in_namespaces(json!({"namespaces": ["default"]})), [None, Some("default")]);
        assert_eq!(in_namespaces(json!({"namespaceRegexp": "^cattle-"})), [None, Some("cattle-system")]);
        assert_eq!(in_namespaces(json!({"namespaces": ["default"], "namespaceRegexp": "^cattle-"})).len(), 3);
        assert_eq!(in_namespaces(json!({"namespaceRegexp": "."})).len(), 3);
    }

    #[test]
    fn fields_that_are_not_names_need_a_list_of_their_own() {
        let query = |fields: Value| {
            compiled(json!({"fieldSelectors": fields})).wants_resource("v1", "Secret", "secrets").remove(0)
        };
        let names = query(json!({"metadata.namespace": "ns", "metadata.name": "x"}));
        assert_eq!(
            (names.field_selector.as_deref(), names.needs_own_list),
            (Some("metadata.name=x,metadata.namespace=ns"), false)
        );
        let odd = query(json!({"type": r"a=b,c\d"}));
        assert_eq!((odd.field_selector.as_deref(), odd.needs_own_list), (Some(r"type=a\=b\,c\\d"), true));
        let none = query(json!({}));
        assert_eq!((none.field_selector, none.label_selector, none.needs_own_list), (None, None, false));
    }
}
