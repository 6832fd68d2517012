//! Which versions of Kubernetes a chart takes (`kubeVersion`), as Helm judges it.
//!
//! The language is that of Masterminds/semver v3, which both Helm 3 and 4 use: comparisons joined by spaces or commas
//! (and), groups of them by `||` (or), hyphen ranges, wildcards, `~` and `^`. A group in which no version has a
//! pre-release takes no pre-release: that is why charts write `>= 1.25.0-0`, and why `v1.30.4-gke.1` is not in `>= 1.25`.
//! Build metadata (`+k3s1`) says nothing. The tests ask real helm the same questions.

use std::cmp::Ordering;
use std::str::FromStr;
use std::sync::LazyLock;

use regex::Regex;

/// Longest constraint, in bytes, and most groups of one, as in Masterminds/semver.
const MAX_BYTES: usize = 512;
const MAX_GROUPS: usize = 32;
/// Longest version, in bytes, likewise.
const MAX_VERSION_BYTES: usize = 256;

/// Numbers or wildcards, up to three of them, and a pre-release. Build metadata is passed over.
const PARTIAL: &str =
    r"v?(?:[0-9]+|[xX*])(?:\.(?:[0-9]+|[xX*])){0,2}(?:-[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?(?:\+[0-9A-Za-z.-]+)?";

static HYPHEN: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(&format!(r"\s*({PARTIAL})\s+-\s+({PARTIAL})\s*")).ok());
/// A comparison at the beginning of what is left of a group.
static COMPARISON: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(&format!(r"^\s*(!=|>=|=>|<=|=<|~>|[=<>~^]?)\s*({PARTIAL})(\s*)(,\s*)?")).ok());

/// A range of versions: it holds where all comparisons of one of its groups hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint(Vec<Vec<Comparison>>);

/// A text that is no range of versions. Helm takes such a chart on no cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is not a range of versions such as `>= 1.25.0-0 < 1.33.0-0`")]
pub struct NotAConstraint;

impl Constraint {
    /// Whether a version, as an API server says it (`v1.36.2+k3s1`), lies in the range. What is no version does not.
    pub fn takes(&self, version: &str) -> bool {
        let Some(version) = Semver::read(version) else { return false };
        self.0.iter().any(|group| {
            let with_pre = group.iter().any(|comparison| !comparison.low.pre.is_empty());
            (with_pre || version.pre.is_empty()) && group.iter().all(|comparison| comparison.holds(&version))
        })
    }
}

impl FromStr for Constraint {
    type Err = NotAConstraint;

    fn from_str(text: &str) -> Result<Self, NotAConstraint> {
        let (Some(hyphen), Some(comparison)) = (HYPHEN.as_ref(), COMPARISON.as_ref()) else {
            return Err(NotAConstraint);
        };
        if text.len() > MAX_BYTES {
            return Err(NotAConstraint);
        }
        let plain = hyphen.replace_all(text, ">= $1, <= $2 ");
        let groups: Vec<&str> = plain.split("||").collect();
        if groups.len() > MAX_GROUPS {
            return Err(NotAConstraint);
        }
        groups.into_iter().map(|text| group(text, comparison)).collect::<Result<_, _>>().map(Self)
    }
}

fn group(mut text: &str, comparison: &Regex) -> Result<Vec<Comparison>, NotAConstraint> {
    let mut all = Vec::new();
    loop {
        let found = comparison.captures(text).ok_or(NotAConstraint)?;
        all.push(Comparison::read(&found[1], &found[2])?);
        let comma = found.get(4).is_some();
        text = &text[found[0].len()..];
        match text.is_empty() {
            // A comma wants something after it.
            true if comma => return Err(NotAConstraint),
            true => return Ok(all),
            // Two that touch each other are no two.
            false if !comma && found[3].is_empty() => return Err(NotAConstraint),
            false => {}
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Tilde,
    Caret,
}

/// How much of a version is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Given {
    /// `*`
    Nothing,
    Major,
    Minor,
    Whole,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Comparison {
    operator: Operator,
    given: Given,
    /// What is given, with zeros for the rest.
    low: Semver,
}

impl Comparison {
    fn read(operator: &str, version: &str) -> Result<Self, NotAConstraint> {
        let operator = match operator {
            "" | "=" => Operator::Equal,
            "!=" => Operator::NotEqual,
            "<" => Operator::Less,
            "<=" | "=<" => Operator::LessOrEqual,
            ">" => Operator::Greater,
            ">=" | "=>" => Operator::GreaterOrEqual,
            "~" | "~>" => Operator::Tilde,
            "^" => Operator::Caret,
            _ => return Err(NotAConstraint),
        };
        let (numbers, pre) = Semver::split(version);
        let numbers: Vec<&str> = numbers.split('.').collect();
        // What comes after a wildcard says nothing.
        let known = numbers.iter().position(|part| matches!(*part, "x" | "X" | "*")).unwrap_or(numbers.len());
        let given = match known {
            0 => Given::Nothing,
            1 => Given::Major,
            2 => Given::Minor,
            _ => Given::Whole,
        };
        let low = Semver::of(&numbers[..known], pre).ok_or(NotAConstraint)?;
        Ok(Self { operator, given, low })
    }

    fn holds(&self, version: &Semver) -> bool {
        let Self { operator, given, low } = self;
        let by_order = version.cmp(low);
        match operator {
            Operator::Less => by_order.is_lt(),
            Operator::GreaterOrEqual => by_order.is_ge(),
            Operator::Greater => match given {
                Given::Nothing | Given::Whole => by_order.is_gt(),
                Given::Major | Given::Minor => self.beyond(version).is_gt(),
            },
            Operator::LessOrEqual => match given {
                Given::Whole => by_order.is_le(),
                Given::Nothing | Given::Major | Given::Minor => self.beyond(version).is_le(),
            },
            Operator::Equal => match given {
                Given::Whole => by_order.is_eq(),
                Given::Nothing | Given::Major | Given::Minor => self.tilde(version),
            },
            Operator::NotEqual => match given {
                Given::Nothing | Given::Whole => by_order.is_ne(),
                Given::Major => self.beyond(version).is_ne(),
                Given::Minor => self.beyond(version).is_ne() || version.pre != low.pre,
            },
            Operator::Tilde => self.tilde(version),
            Operator::Caret => self.caret(version),
        }
    }

    /// The version beside what is given, by the numbers that are given alone. A wildcard in front stands for `0.0`.
    fn beyond(&self, version: &Semver) -> Ordering {
        let ([major, minor, _], [low_major, low_minor, _]) = (version.numbers, self.low.numbers);
        match self.given {
            Given::Major => major.cmp(&low_major),
            Given::Nothing | Given::Minor | Given::Whole => (major, minor).cmp(&(low_major, low_minor)),
        }
    }

    /// From what is given to before the next minor version, or the next major one where no minor one is given.
    fn tilde(&self, version: &Semver) -> bool {
        // `*`, and `~0.0.0`, which Masterminds/semver takes for it.
        let any = matches!(self.given, Given::Nothing | Given::Whole) && self.low.numbers == [0, 0, 0];
        version >= &self.low && (any || self.beyond(version).is_eq())
    }

    /// From what is given to before the next change of its first number that is not zero.
    fn caret(&self, version: &Semver) -> bool {
        let fixed = match (self.low.numbers, self.given) {
            ([major, _, _], given) if major > 0 || given == Given::Major => 1,
            ([_, minor, _], given) if minor > 0 || given == Given::Minor => 2,
            _ => 3,
        };
        version >= &self.low && version.numbers[..fixed] == self.low.numbers[..fixed]
    }
}

/// Three numbers and a pre-release, compared as semantic versions are.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Semver {
    numbers: [u64; 3],
    pre: String,
}

impl Semver {
    fn read(text: &str) -> Option<Self> {
        if text.len() > MAX_VERSION_BYTES {
            return None;
        }
        let (numbers, pre) = Self::split(text);
        Self::of(&numbers.split('.').collect::<Vec<_>>(), pre)
    }

    /// The numbers and the pre-release of a text, without a `v` and build metadata.
    fn split(text: &str) -> (&str, &str) {
        let text = text.strip_prefix('v').unwrap_or(text);
        let text = text.split_once('+').map_or(text, |(text, _)| text);
        text.split_once('-').unwrap_or((text, ""))
    }

    fn of(given: &[&str], pre: &str) -> Option<Self> {
        let mut numbers = [0; 3];
        if given.len() > numbers.len() {
            return None;
        }
        for (number, text) in numbers.iter_mut().zip(given) {
            *number = text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))?;
        }
        let is_part = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        // A number in it has no zero in front.
        let is_padded = |part: &str| part.len() > 1 && part.starts_with('0') && is_number(part);
        let fits = pre.is_empty() || pre.split('.').all(|part| is_part(part) && !is_padded(part));
        fits.then(|| Self { numbers, pre: pre.to_owned() })
    }
}

fn is_number(part: &str) -> bool {
    part.bytes().all(|byte| byte.is_ascii_digit())
}

impl Ord for Semver {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_pre = match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => by_parts(&self.pre, &other.pre),
        };
        self.numbers.cmp(&other.numbers).then(by_pre)
    }
}

impl PartialOrd for Semver {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Numbers by size and before words, words by letters, and of two that begin alike the shorter first (semver.org, 11.4).
fn by_parts(a: &str, b: &str) -> Ordering {
    let key = |part: &str| match part.parse::<u64>() {
        Ok(number) if is_number(part) => (0, number, String::new()),
        _ => (1, 0, part.to_owned()),
    };
    a.split('.').map(key).cmp(b.split('.').map(key))
}
