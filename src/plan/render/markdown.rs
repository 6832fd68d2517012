//! The plan as a comment on a pull request.

use std::fmt::{self, Write as _};

use super::{COLUMNS, DELETIONS_SHOWN, Plan, Report, Row, Verbosity, class};
use crate::observed::Observed;
use crate::plan::gate::Gate;

/// The plan as GitHub-flavoured Markdown.
pub fn markdown(plan: &Plan, observed: &Observed, verbosity: Verbosity) -> String {
    let report = Report::new(plan, observed, verbosity);
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_markdown(&mut out, &report);
    out
}

fn write_markdown(out: &mut String, report: &Report<'_>) -> fmt::Result {
    let Report {
        title,
        outcome,
        facts,
        gates,
        rows,
        deletions,
        protected,
        quiesce,
        stays_up,
        silences,
        warnings,
        objects,
        digest,
    } = report;
    writeln!(out, "### {}\n\n{}\n\n| | |\n|---|---|", escaped(title), escaped(outcome))?;
    facts.iter().try_for_each(|(label, fact)| writeln!(out, "| {label} | {} |", code(fact)))?;
    write_gates(out, gates)?;
    write_table(out, rows)?;
    let deleted: Vec<String> = deletions
        .iter()
        .take(DELETIONS_SHOWN)
        .map(|(key, along)| format!("{}{}", if *along { "with it " } else { "" }, code(&key.to_string())))
        .chain(
            (deletions.len() > DELETIONS_SHOWN)
                .then(|| format!("and {} more, {} in all", deletions.len() - DELETIONS_SHOWN, deletions.len())),
        )
        .collect();
    let protected: Vec<String> = protected.iter().map(|(why, number)| format!("{number}: {why}")).collect();
    let quoted = |lines: &[String]| lines.iter().map(|line| code(line)).collect::<Vec<_>>();
    let sections = [
        ("Deletes", deleted),
        ("Left as they are", protected),
        ("Scales to 0 first", quoted(quiesce)),
        ("Stays up, for it answers webhooks", quoted(stays_up)),
        ("Silences while it writes, for nobody answers", quoted(silences)),
        ("Mind", warnings.iter().map(|warning| escaped(warning)).collect()),
    ];
    for (heading, lines) in sections.iter().filter(|(_, lines)| !lines.is_empty()) {
        writeln!(out, "\n#### {heading}\n")?;
        lines.iter().try_for_each(|line| writeln!(out, "- {line}"))?;
    }
    if !objects.is_empty() {
        writeln!(out, "\n<details><summary>{} objects, in the order of writing</summary>\n", objects.len())?;
        objects.iter().try_for_each(|(key, why)| writeln!(out, "- {} {why}", code(&key.to_string())))?;
        writeln!(out, "\n</details>")?;
    }
    writeln!(out, "\nPlan `{digest}`")
}

fn write_gates(out: &mut String, gates: &[Gate]) -> fmt::Result {
    if gates.iter().any(Gate::holds) {
        writeln!(out, "\n#### Held by\n")?;
    }
    for gate in gates.iter().filter(|gate| gate.holds()) {
        let Gate { code, class: kind, message, remedy, accepted: _ } = gate;
        writeln!(out, "- **{code}** ({}): {}\n  - {}", class(*kind), escaped(message), escaped(remedy))?;
    }
    if gates.iter().any(|gate| gate.accepted) {
        writeln!(out, "\n#### Accepted by the manifest\n")?;
    }
    for gate in gates.iter().filter(|gate| gate.accepted) {
        writeln!(out, "- **{}**: {}", gate.code, escaped(&gate.message))?;
    }
    Ok(())
}

fn write_table(out: &mut String, rows: &[Row]) -> fmt::Result {
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n| type | {} |\n|---|{}", COLUMNS.join(" | "), "--:|".repeat(COLUMNS.len()))?;
    for Row { resource, counts } in rows {
        let counts: Vec<String> = counts
            .iter()
            .map(|number| match number {
                0 => String::new(),
                number => number.to_string(),
            })
            .collect();
        writeln!(out, "| {resource} | {} |", counts.join(" | "))?;
    }
    Ok(())
}

/// A code span, which nothing inside can end, also in a table.
fn code(text: &str) -> String {
    format!("`{}`", text.replace('`', "'").replace('|', "\\|"))
}

/// Text that makes no markup of its own, but for the code spans that our own sentences have.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_code = false;
    for char in text.chars() {
        in_code ^= char == '`';
        match char {
            '<' | '>' | '[' | ']' | '*' | '_' | '|' | '#' | '@' | '!' if !in_code => out.extend(['\\', char]),
            _ => out.push(char),
        }
    }
    // A span that was begun and not ended would run on into the next line.
    if in_code {
        out.push('`');
    }
    out
}
