//! Label selectors (`metav1.LabelSelector`), judged here and written for the API server.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::super::error::shown;
use super::null_is_empty;

/// All of its terms must hold; without terms it selects all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    #[serde(deserialize_with = "null_is_empty")]
    pub match_labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub match_expressions: Vec<LabelExpression>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelExpression {
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub values: Vec<String>,
}

/// A checked selector.
#[derive(Debug, Clone)]
pub struct Labels(Vec<Term>);

#[derive(Debug, Clone)]
struct Term {
    key: String,
    test: Test,
}

#[derive(Debug, Clone)]
enum Test {
    Equals(String),
    In(Vec<String>),
    /// Holds for an object without the label, too.
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
}

impl Labels {
    /// # Errors
    ///
    /// What an API server would refuse: an operator that is not one, values too many or too few, and characters that labels cannot have.
    pub fn new(selector: &LabelSelector) -> Result<Self, String> {
        let LabelSelector { match_labels, match_expressions } = selector;
        let equal = match_labels.iter().map(|(key, value)| {
            let test = Test::Equals(valid_value(value)?.to_owned());
            Ok(Term { key: valid_key(key)?.to_owned(), test })
        });
        let mut terms: Vec<Term> =
            equal.chain(match_expressions.iter().map(Term::new)).collect::<Result<_, String>>()?;
        terms.sort_by(|a, b| a.key.cmp(&b.key)); // as Kubernetes writes it
        Ok(Self(terms))
    }

    /// Whether an object with these labels is selected.
    pub fn hold<'l>(&self, label: impl Fn(&str) -> Option<&'l str>) -> bool {
        self.0.iter().all(|Term { key, test }| {
            let value = label(key);
            let is_one_of = |values: &[String]| value.is_some_and(|value| values.iter().any(|one| one == value));
            match test {
                Test::Equals(wanted) => value == Some(wanted),
                Test::In(values) => is_one_of(values),
                Test::NotIn(values) => !is_one_of(values),
                Test::Exists => value.is_some(),
                Test::DoesNotExist => value.is_none(),
            }
        })
    }

    /// The parameter `labelSelector` of a list; `None` when it selects all.
    pub fn query(&self) -> Option<String> {
        let terms: Vec<String> = self.0.iter().map(Term::query).collect();
        (!terms.is_empty()).then(|| terms.join(","))
    }
}

impl Term {
    fn new(expression: &LabelExpression) -> Result<Self, String> {
        let LabelExpression { key, operator, values } = expression;
        let key = valid_key(key)?.to_owned();
        let mut sorted: Vec<String> =
            values.iter().map(|value| valid_value(value).map(str::to_owned)).collect::<Result<_, _>>()?;
        sorted.sort_unstable();
        sorted.dedup();
        let test = match (operator.as_str(), sorted.is_empty()) {
            ("In", false) => Test::In(sorted),
            ("NotIn", false) => Test::NotIn(sorted),
            ("Exists", true) => Test::Exists,
            ("DoesNotExist", true) => Test::DoesNotExist,
            ("In" | "NotIn", true) => return Err(format!("`{operator}` without values")),
            ("Exists" | "DoesNotExist", false) => return Err(format!("`{operator}` with values")),
            (other, _) => return Err(format!("the operator `{}` is not one", shown(other))),
        };
        Ok(Self { key, test })
    }

    fn query(&self) -> String {
        let Self { key, test } = self;
        match test {
            Test::Equals(value) => format!("{key}={value}"),
            Test::In(values) => format!("{key} in ({})", values.join(",")),
            Test::NotIn(values) => format!("{key} notin ({})", values.join(",")),
            Test::Exists => key.clone(),
            Test::DoesNotExist => format!("!{key}"),
        }
    }
}

/// `[prefix/]name`: a DNS subdomain, and up to 63 characters.
fn valid_key(key: &str) -> Result<&str, String> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let is_dns = |prefix: &str| {
        let bytes = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
        (1..=253).contains(&prefix.len()) && prefix.bytes().all(bytes)
    };
    if !name.is_empty() && is_name(name) && prefix.is_none_or(is_dns) {
        return Ok(key);
    }
    Err(format!("`{}` is not the key of a label", shown(key)))
}

fn valid_value(value: &str) -> Result<&str, String> {
    if is_name(value) {
        return Ok(value);
    }
    Err(format!("`{}` is not the value of a label", shown(value)))
}

/// Up to 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends. Empty is one.
fn is_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let outer = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63 && bytes.iter().copied().all(inner) && outer(bytes.first()) && outer(bytes.last())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn selector(value: Value) -> LabelSelector {
        serde_json::from_value(value).unwrap()
    }

    fn holds(selector_value: Value, labels: &[(&str, &str)]) -> bool {
        let labels: BTreeMap<&str, &str> = labels.iter().copied().collect();
        Labels::new(&selector(selector_value)).unwrap().hold(|key| labels.get(key).copied())
    }

    fn expression(operator: &str, values: &[&str]) -> Value {
        json!({"matchExpressions": [{"key": "owner", "operator": operator, "values": values}]})
    }

    #[test]
    fn each_operator_is_judged_as_the_api_server_does() {
        for (operator, values, without, helm, other) in [
            ("In", &["helm"][..], false, true, false),
            ("NotIn", &["helm"][..], true, false, true),
            ("Exists", &[][..], false, true, true),
            ("DoesNotExist", &[][..], true, false, false),
        ] {
            assert_eq!(holds(expression(operator, values), &[("x", "helm")]), without, "{operator}, without");
            assert_eq!(holds(expression(operator, values), &[("owner", "helm")]), helm, "{operator} helm");
            assert_eq!(holds(expression(operator, values), &[("owner", "other")]), other, "{operator} other");
        }
        let both = json!({"matchLabels": {"a": "1", "b": ""}, "matchExpressions": null});
        assert!(holds(both.clone(), &[("a", "1"), ("b", "")]));
        assert!(!holds(both, &[("a", "1")]));
        assert!(holds(json!({}), &[]));
    }

    #[test]
    fn the_query_is_what_kubernetes_writes() {
        let all = selector(json!({
            "matchLabels": {"app": "rancher"},
            "matchExpressions": [
                {"key": "owner", "operator": "NotIn", "values": ["helm"]},
                {"key": "fleet.cattle.io/managed", "operator": "In", "values": ["true", "false"]},
                {"key": "z", "operator": "Exists"},
                {"key": "y", "operator": "DoesNotExist"},
            ],
        }));
        insta::assert_snapshot!(Labels::new(&all).unwrap().query().unwrap(), @"app=rancher,fleet.cattle.io/managed in (false,true),owner notin (helm),!y,z");
        assert_eq!(Labels::new(&LabelSelector::default()).unwrap().query(), None);
    }

    #[test]
    fn what_an_api_server_would_refuse_is_refused() {
        let said: Vec<String> = [
            expression("In", &[]),
            expression("Exists", &["x"]),
            expression("Gt", &["1"]),
            expression("In", &["a,b"]),
            json!({"matchLabels": {"a=b,c": "x"}}),
            json!({"matchLabels": {"UPPER.io/x": "x"}}),
            json!({"matchLabels": {"": "x"}}),
        ]
        .map(|value| Labels::new(&selector(value)).unwrap_err())
        .to_vec();
        insta::assert_snapshot!(said.join("\n"), @"
        `In` without values
        `Exists` with values
        the operator `Gt` is not one
        `a,b` is not the value of a label
        `a=b,c` is not the key of a label
        `UPPER.io/x` is not the key of a label
        `` is not the key of a label
        ");
    }
}
