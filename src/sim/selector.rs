//! Label and field selectors, as a list and a watch are asked with.

use std::iter;

use serde_json::Value;

use super::failure::Failure;
use super::kinds::Kind;
use super::meta::text;

/// Which objects of a kind are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<FieldTerm>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct FieldTerm {
    pointer: String,
    value: String,
    equal: bool,
}

impl Selector {
    /// `labels` and `fields` as they stand in the query; both may be empty.
    pub fn parse(kind: &Kind, labels: &str, fields: &str) -> Result<Self, Failure> {
        let requirement = |term: &str| {
            Requirement::parse(term)
                .ok_or_else(|| Failure::bad_request(&format!("unable to parse requirement: {term}")))
        };
        let labels = split(labels).into_iter().map(requirement).collect::<Result<_, _>>()?;
        let fields =
            field_terms(fields).into_iter().map(|term| FieldTerm::parse(kind, term)).collect::<Result<_, _>>()?;
        Ok(Self { labels, fields })
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub fn matches(&self, object: &Value) -> bool {
        self.labels.iter().all(|requirement| requirement.matches(object))
            && self.fields.iter().all(|term| (text(object, &term.pointer) == term.value) == term.equal)
    }
}

/// The terms between commas that stand in no brackets.
fn split(labels: &str) -> Vec<&str> {
    let mut depth = 0;
    let mut terms: Vec<&str> = labels
        .split(|c: char| {
            match c {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            c == ',' && depth == 0
        })
        .map(str::trim)
        .collect();
    terms.retain(|term| !term.is_empty());
    terms
}

impl Requirement {
    fn parse(term: &str) -> Option<Self> {
        if let Some(key) = term.strip_prefix('!') {
            return Self::new(key, Operator::DoesNotExist, vec![]);
        }
        let equal = term.split_once("==").or_else(|| term.split_once('='));
        let equal = equal.map(|(key, value)| (key, Operator::In, value));
        let unequal = term.split_once("!=").map(|(key, value)| (key, Operator::NotIn, value));
        if let Some((key, operator, value)) = unequal.or(equal) {
            let value = value.trim();
            return is_word(value).then(|| Self::new(key, operator, vec![value.to_owned()])).flatten();
        }
        let Some((key, rest)) = term.split_once(char::is_whitespace) else {
            return Self::new(term, Operator::Exists, vec![]);
        };
        let (operator, values) = rest.trim().split_once('(')?;
        let operator = match operator.trim() {
            "in" => Operator::In,
            "notin" => Operator::NotIn,
            _ => return None,
        };
        let values = values.strip_suffix(')')?.split(',').map(|value| value.trim().to_owned()).collect();
        Self::new(key, operator, values)
    }

    fn new(key: &str, operator: Operator, values: Vec<String>) -> Option<Self> {
        let key = key.trim();
        (!key.is_empty() && is_word(key)).then(|| Self { key: key.to_owned(), operator, values })
    }

    fn matches(&self, object: &Value) -> bool {
        let label = object.pointer("/metadata/labels").and_then(|labels| labels.get(&self.key)).and_then(Value::as_str);
        let among = || label.is_some_and(|label| self.values.iter().any(|value| value == label));
        match self.operator {
            Operator::In => among(),
            Operator::NotIn => !among(),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
        }
    }
}

fn is_word(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b))
}

/// The terms between commas; a backslash takes the meaning from the sign after it.
fn field_terms(fields: &str) -> Vec<&str> {
    let mut escaped = false;
    let between = |c: char| {
        let splits = c == ',' && !escaped;
        escaped = c == '\\' && !escaped;
        splits
    };
    fields.split(between).filter(|term| !term.is_empty()).collect()
}

impl FieldTerm {
    fn parse(kind: &Kind, term: &str) -> Result<Self, Failure> {
        let invalid = || Failure::bad_request(&format!("invalid selector: '{term}'; can't understand '{term}'"));
        let (field, value, equal) = term
            .split_once("!=")
            .map(|(field, value)| (field, value, false))
            .or_else(|| term.split_once("==").map(|(field, value)| (field, value, true)))
            .or_else(|| term.split_once('=').map(|(field, value)| (field, value, true)))
            .ok_or_else(invalid)?;
        if !fields_of(kind).any(|known| known == field) {
            return Err(unknown_field(kind, field));
        }
        let pointer: String = field.split('.').map(|part| format!("/{part}")).collect();
        Ok(Self { pointer, value: unescaped(value), equal })
    }
}

fn unescaped(value: &str) -> String {
    let mut chars = value.chars();
    iter::from_fn(|| match chars.next()? {
        '\\' => chars.next(),
        c => Some(c),
    })
    .collect()
}

/// The fields by which a kind can be selected.
fn fields_of(kind: &Kind) -> impl Iterator<Item = &'static str> {
    let own: &[&str] = match &*kind.stored {
        "secrets" => &["type"],
        "namespaces" => &["status.phase"],
        "pods" => {
            &["spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "status.phase"]
        }
        "replicasets.apps" => &["status.replicas"],
        "services" => &["spec.clusterIP", "spec.type"],
        "events" => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "reason",
            "type",
        ],
        _ => &[],
    };
    ["metadata.name", "metadata.namespace"].into_iter().chain(own.iter().copied())
}

fn unknown_field(kind: &Kind, field: &str) -> Failure {
    let has_own = fields_of(kind).count() > 2;
    if kind.rules.custom || has_own {
        return Failure::bad_request(&format!("field label not supported: {field}"));
    }
    let known = r#"is not a known field selector: only "metadata.name", "metadata.namespace""#;
    Failure::bad_request(&format!("{} {known}", Value::from(field)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::sim::kinds::Kinds;

    fn selects(labels: &str, fields: &str, object: &Value) -> bool {
        let kinds = Kinds::built_in();
        Selector::parse(kinds.find("", "secrets").unwrap(), labels, fields).unwrap().matches(object)
    }

    #[test]
    fn labels_are_selected_by_every_form() {
        let object = json!({"metadata": {"labels": {"app": "rancher", "tier": "b"}}});
        for yes in
            ["", "app=rancher", "app==rancher,tier in (a,b)", "app!=x", "none!=x", "app", "!none", "tier notin (c, d)"]
        {
            assert!(selects(yes, "", &object), "{yes}");
        }
        for no in ["app=x", "tier in (a)", "app,!tier", "none", "tier notin (b)", "app!=rancher"] {
            assert!(!selects(no, "", &object), "{no}");
        }
    }

    #[test]
    fn fields_are_selected_and_signs_in_them_escaped() {
        let object = json!({"metadata": {"name": "n"}, "type": "a=b,c\\d"});
        assert!(selects("", r"type=a\=b\,c\\d,metadata.name=n", &object));
        assert!(!selects("", "metadata.name!=n", &object));
    }

    #[test]
    fn a_field_that_is_not_known_is_refused() {
        let kinds = Kinds::built_in();
        let refused = Selector::parse(kinds.find("", "configmaps").unwrap(), "", "data.x=1").unwrap_err();
        let message = refused.into_value()["message"].as_str().unwrap().to_owned();
        insta::assert_snapshot!(message, @r#""data.x" is not a known field selector: only "metadata.name", "metadata.namespace""#);
    }
}
