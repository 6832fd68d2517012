//! What of the operator's own words may be told on: what names objects, and why, and no value (invariant 7).
//!
//! Its messages hold those of the API server, which quote what they dislike, and those of S3 and of the parsers of
//! encryption configurations. So nothing of them is passed on but what has one of the forms below.

use std::sync::LazyLock;

use regex::Regex;

use crate::run::cut_message;

/// Forms that are told on. Names are those of objects and types.
const FORMS: &[&str] = &[
    r#"\b[a-z][a-z0-9.-]* "NAME" (?:not found|already exists|is forbidden)"#,
    r#"\b[A-Za-z][A-Za-z0-9.-]* "NAME" is invalid(?:: [a-z][A-Za-z0-9.\[\]-]*: (?:Invalid value|Forbidden|Required value|Unsupported value|Duplicate value|Too long))?"#,
    r#"Operation cannot be fulfilled on [a-z][a-z0-9.-]* "NAME""#,
    r#"(?i:error restoring) NAME of type TYPE"#,
    r#"Could not restore NAME of type TYPE"#,
    r#"Could not find ownerRef for resource NAME"#,
    r#"Resource NAME will be restored without ownerReferences"#,
    r#"[Rr]esource NAME of type TYPE has invalid ownerRefs"#,
    r#"skipping setting NAME due to webhook admission restriction"#,
    r#"admission webhook "NAME" denied the request"#,
    r#"failed calling webhook "NAME""#,
    r#"(?i:error scaling) (?:up|down) [A-Za-z0-9./-]+"#,
    r#"(?i:error (?:unmarshaling|decrypting)) encrypted (?:data for )?resource \[[a-z0-9.-]+\]"#,
    r#"no matches for kind "[A-Za-z]+" in version "[a-z0-9./-]+""#,
    r#"the server could not find the requested resource"#,
    r#"restore NAME is in progress"#,
    r#"open /var/lib/backups/NAME: no such file or directory"#,
    r#"(?:error )?(?:restoring|pruning) (?:CRDs|[a-z-]+ resources|during restore)"#,
    r#"check logs for exact error"#,
    r#"backup location not specified on the restore CR, and not configured at the operator level"#,
    r#"no backup files found with prefix"#,
    r#"no encryptionConfig provided"#,
    r#"no encryption config provided"#,
    r#"provide same encryption config as used for backup"#,
    r#"secret is not of the expected length"#,
    r#"cannot unmarshal string into Go value"#,
    r#"gzip: invalid (?:header|checksum)"#,
    r#"unexpected EOF"#,
    r#"no such file or directory"#,
    r#"no space left on device"#,
    r#"permission denied"#,
    r#"connection refused"#,
    r#"connection reset by peer"#,
    r#"no such host"#,
    r#"i/o timeout"#,
    r#"context deadline exceeded"#,
    r#"certificate signed by unknown authority"#,
    r#"Access Denied"#,
    r#"The specified bucket does not exist"#,
    r#"The Access Key Id you provided does not exist in our records"#,
    r#"The request signature we calculated does not match the signature you provided"#,
];

/// Names of objects, with those that RBAC has besides, and files of backups.
const NAME: &str = "[A-Za-z0-9][A-Za-z0-9._:-]{0,252}";
/// As Go prints the type of a resource.
const TYPE: &str = "[a-z0-9./-]*, Resource=[a-z0-9]+";
/// Lines of a log that are told on.
const LINES_TOLD: usize = 10;

static FORM: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let forms: Vec<String> =
        FORMS.iter().map(|form| format!("(?:{})", form.replace("NAME", NAME).replace("TYPE", TYPE))).collect();
    Regex::new(&forms.join("|")).ok()
});

/// What of a message of the operator may be told on; `None` where nothing of it has a form that is known.
pub fn told(message: &str) -> Option<String> {
    let form = FORM.as_ref()?;
    let mut parts: Vec<&str> = Vec::new();
    for found in form.find_iter(message) {
        if !parts.contains(&found.as_str()) {
            parts.push(found.as_str());
        }
    }
    (!parts.is_empty()).then(|| cut_message(&parts.join(", ")))
}

/// Of a log, errors and warnings that name objects: the last few, each once, oldest first.
pub fn log_lines(log: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let bad = |line: &&str| {
        ["level=error", "level=warning", "level=fatal", "ERRO[", "WARN[", "FATA["]
            .iter()
            .any(|mark| line.contains(mark))
    };
    for line in log.lines().rev().filter(bad) {
        if lines.len() >= LINES_TOLD {
            break;
        }
        // logrus quotes a message that has quotes.
        let Some(told) = told(&line.replace(r#"\""#, "\"")) else { continue };
        if !lines.contains(&told) {
            lines.push(told);
        }
    }
    lines.reverse();
    lines
}
