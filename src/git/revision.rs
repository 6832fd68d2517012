//! Commits as people name them.

use git2::{Oid, Repository, Sort};

use super::error::Fault;

/// Fewer digits name too many commits of a large repository: Git's own default.
const MIN_DIGITS: usize = 7;

pub(super) const EXPECTED: &str = "names no commit of the branch; give the branch, HEAD or a commit id of at least 7 \
                                   digits, with ~n for commits further back, and another branch by --source-branch";
pub(super) const NOT_THERE: &str = "is no commit of the branch; give another branch by --source-branch";

/// What stands before any `~n` and `^`, and how many first parents those go back.
pub(super) fn split(revision: &str) -> Option<(&str, usize)> {
    let end = revision.find(['~', '^']).unwrap_or(revision.len());
    let (name, mut steps) = revision.split_at(end);
    let mut back: usize = 0;
    while let Some(mark) = steps.chars().next() {
        let rest = &steps[1..];
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let count = match (mark, &rest[..digits]) {
            (_, "") => 1,
            ('~', number) => number.parse().ok()?,
            // The first parent; another one is no commit of the branch's own line.
            ('^', "1") => 1,
            _ => return None,
        };
        back = back.checked_add(count)?;
        steps = &rest[digits..];
        if !steps.is_empty() && !steps.starts_with(['~', '^']) {
            return None;
        }
    }
    (!name.is_empty()).then_some((name, back))
}

pub(super) fn is_abbreviation(name: &str) -> bool {
    (MIN_DIGITS..=40).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The commits that `tip` reaches and whose id begins with `digits`, as far as the cache has them; at most two.
pub(super) fn beginning_with(repository: &Repository, digits: &str, tip: Oid) -> Result<Vec<Oid>, Fault> {
    let digits = digits.to_ascii_lowercase();
    let mut walk = repository.revwalk()?;
    walk.set_sorting(Sort::NONE)?;
    walk.push(tip)?;
    let mut found = Vec::new();
    for id in walk {
        let id = id?;
        if id.to_string().starts_with(&digits) {
            found.push(id);
            if digits.len() == 40 || found.len() == 2 {
                break;
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_a_name_and_first_parents_back() {
        for (text, expected) in [
            ("main", Some(("main", 0))),
            ("HEAD~3", Some(("HEAD", 3))),
            ("HEAD^", Some(("HEAD", 1))),
            ("abc1234~2^~", Some(("abc1234", 4))),
            ("HEAD^1", Some(("HEAD", 1))),
            ("HEAD~0", Some(("HEAD", 0))),
            ("HEAD^2", None),
            ("HEAD~x", None),
            ("~1", None),
            ("", None),
            ("HEAD~99999999999999999999", None),
            ("HEAD~é", None),
        ] {
            assert_eq!(split(text), expected, "{text}");
        }
    }

    #[test]
    fn an_abbreviation_has_seven_to_forty_digits() {
        assert!(is_abbreviation("0123abc") && is_abbreviation(&"a".repeat(40)));
        assert!(!is_abbreviation("0123ab") && !is_abbreviation("0123abg") && !is_abbreviation(&"a".repeat(41)));
    }
}
