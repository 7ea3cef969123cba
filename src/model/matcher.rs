//! Label matchers: one `name op value` test of a selector.

use crate::go_regex;
use regex::{Regex, RegexBuilder};
use std::fmt;

/// Longest regular expression that is compiled, in bytes.
pub const MAX_REGEX_LEN: usize = 4096;
const MAX_REGEX_PROGRAM: usize = 10 << 20;

/// The four kinds of test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MatchOp {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`, anchored at both ends; the dot matches a line feed.
    Regex,
    /// `!~`
    NotRegex,
}

impl fmt::Display for MatchOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Regex => "=~",
            Self::NotRegex => "!~",
        })
    }
}

/// Why a matcher cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MatcherError {
    /// The expression is longer than [`MAX_REGEX_LEN`].
    #[error("regular expression of {len} bytes is over the limit of {MAX_REGEX_LEN}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// The expression does not parse, or its program is too large.
    #[error("error parsing regexp: {0}")]
    Syntax(String),
}

/// One label matcher, with its regular expression compiled.
#[derive(Debug, Clone)]
pub struct Matcher {
    name: String,
    op: MatchOp,
    value: String,
    pattern: Option<Pattern>,
}

/// A regular expression. Most of those that dashboards send list values, and compiling one costs more than a lookup
/// of many series: a list is kept as the list it is.
#[derive(Debug, Clone)]
enum Pattern {
    /// The values that match, sorted.
    OneOf(Vec<String>),
    /// `.*`: every value matches.
    Any,
    /// `.+`: every value but the empty one matches.
    NonEmpty,
    /// Any other expression.
    Regex(Regex),
}

impl Pattern {
    fn new(expression: &str) -> Result<Self, MatcherError> {
        check_length(expression)?;
        match expression {
            ".*" => Ok(Self::Any),
            ".+" => Ok(Self::NonEmpty),
            _ => literals(expression)
                .map_or_else(|| compile(expression).map(Self::Regex), |l| Ok(Self::OneOf(l))),
        }
    }

    fn is_match(&self, value: &str) -> bool {
        match self {
            Self::OneOf(values) => values.binary_search_by(|v| v.as_str().cmp(value)).is_ok(),
            Self::Any => true,
            Self::NonEmpty => !value.is_empty(),
            Self::Regex(regex) => regex.is_match(value),
        }
    }
}

/// The sorted values of an expression that is one literal or an alternation of literals, which may stand in a group
/// of its own; `None` if it is anything else.
fn literals(expression: &str) -> Option<Vec<String>> {
    let grouped = expression.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
    let mut values = vec![String::new()];
    let mut rest = grouped.unwrap_or(expression).chars();
    while let Some(c) = rest.next() {
        let literal = match c {
            '|' => {
                values.push(String::new());
                continue;
            }
            // Before a letter or digit it stands for something else.
            '\\' => rest.next().filter(char::is_ascii_punctuation)?,
            '.' | '+' | '*' | '?' | '(' | ')' | '[' | ']' | '{' | '}' | '^' | '$' => return None,
            _ => c,
        };
        values.last_mut()?.push(literal);
    }
    values.sort_unstable();
    values.dedup();
    Some(values)
}

impl Matcher {
    /// Builds a matcher; a label that is absent is matched as the empty value.
    ///
    /// # Errors
    /// [`MatcherError`] if `op` is a regular expression test and `value` cannot be compiled.
    pub fn new(name: impl Into<String>, op: MatchOp, value: impl Into<String>) -> Result<Self, MatcherError> {
        let value = value.into();
        let pattern = match op {
            MatchOp::Equal | MatchOp::NotEqual => None,
            MatchOp::Regex | MatchOp::NotRegex => Some(Pattern::new(&value)?),
        };
        Ok(Self { name: name.into(), op, value, pattern })
    }

    /// An `=` matcher, which cannot fail.
    pub fn equal(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), op: MatchOp::Equal, value: value.into(), pattern: None }
    }

    /// Name of the label that is tested.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Kind of the test.
    pub fn op(&self) -> MatchOp {
        self.op
    }

    /// The value or expression as written.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Whether `value` passes the test. An absent label passes as the empty string.
    pub fn matches(&self, value: &str) -> bool {
        match self.op {
            MatchOp::Equal => self.value == value,
            MatchOp::NotEqual => self.value != value,
            MatchOp::Regex => self.pattern.as_ref().is_some_and(|p| p.is_match(value)),
            MatchOp::NotRegex => !self.pattern.as_ref().is_some_and(|p| p.is_match(value)),
        }
    }

    /// Whether a series without the label passes.
    pub fn matches_empty(&self) -> bool {
        self.matches("")
    }
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.op == other.op && self.value == other.value
    }
}

impl Eq for Matcher {}

impl std::hash::Hash for Matcher {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (&self.name, self.op, &self.value).hash(state);
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{:?}", self.name, self.op, self.value)
    }
}

/// Compiles an expression as PromQL means it; see [`anchored`].
///
/// # Errors
/// [`MatcherError`] if it is too long, does not parse, or its program is too large.
pub fn compile(expression: &str) -> Result<Regex, MatcherError> {
    check_length(expression)?;
    let built = RegexBuilder::new(&anchored(expression)).size_limit(MAX_REGEX_PROGRAM).build();
    built.map_err(|e| MatcherError::Syntax(format!("{}: `{expression}`", reason(&e))))
}

fn check_length(expression: &str) -> Result<(), MatcherError> {
    let len = expression.len();
    if len > MAX_REGEX_LEN { Err(MatcherError::TooLong { len }) } else { Ok(()) }
}

/// Go's words for what is wrong, where it has the same reason.
fn reason(error: &regex::Error) -> String {
    let text = error.to_string();
    let reason = text.rsplit("error: ").next().unwrap_or_default().trim();
    match reason {
        "unclosed character class" => "missing closing ]",
        "unclosed group" => "missing closing )",
        "unopened group" => "unexpected )",
        "repetition operator missing expression" => "missing argument to repetition operator",
        "unrecognized escape sequence" | "backreferences are not supported" => "invalid escape sequence",
        "duplicate flag" | "unrecognized flag" => "invalid or unsupported Perl syntax",
        "incomplete escape sequence, reached end of pattern prematurely" => {
            "trailing backslash at end of expression"
        }
        _ if reason.starts_with("invalid character class range") => "invalid character class range",
        _ if text.starts_with("Compiled regex exceeds size limit") => "expression too large",
        other => other,
    }
    .to_owned()
}

/// The expression as PromQL means it, for the `regex` crate: written in Go's syntax, the whole value must match
/// and the dot matches every character.
pub fn anchored(expression: &str) -> String {
    format!("^(?s:{})$", go_regex::translate(expression))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(op: MatchOp, pattern: &str, value: &str, expected: bool) {
        let matcher = Matcher::new("l", op, pattern).unwrap();
        assert_eq!(matcher.matches(value), expected, "{matcher} on {value:?}");
    }

    #[test]
    fn regular_expressions_are_anchored_and_dot_matches_newline() {
        check(MatchOp::Regex, "a.c", "a\nc", true);
        check(MatchOp::Regex, "b", "abc", false);
        check(MatchOp::Regex, "a|b", "ab", false);
        check(MatchOp::NotRegex, "a|b", "ab", true);
        check(MatchOp::Regex, "", "", true);
        check(MatchOp::Regex, ".+", "", false);
    }

    #[test]
    fn syntax_errors_are_one_line_in_go_s_words() {
        let check = |pattern: &str, expected: &str| {
            assert_eq!(Matcher::new("l", MatchOp::Regex, pattern).unwrap_err().to_string(), expected);
        };
        check("a[b", "error parsing regexp: missing closing ]: `a[b`");
        check("*", "error parsing regexp: missing argument to repetition operator: `*`");
        check("a)", "error parsing regexp: unexpected ): `a)`");
        check("(a", "error parsing regexp: missing closing ): `(a`");
        check(")|(", "error parsing regexp: unexpected ): `)|(`");
        check("(?x)a#(\n)|(", "error parsing regexp: invalid or unsupported Perl syntax: `(?x)a#(\n)|(`");
    }

    #[test]
    fn huge_programs_are_refused() {
        assert!(matches!(
            Matcher::new("l", MatchOp::Regex, "(a{0,1000}){0,1000}"),
            Err(MatcherError::Syntax(_))
        ));
        let long = "a".repeat(MAX_REGEX_LEN + 1);
        assert!(matches!(Matcher::new("l", MatchOp::Regex, long), Err(MatcherError::TooLong { len: 4097 })));
    }

    #[track_caller]
    fn check_literals(pattern: &str, expected: Option<&[&str]>) {
        let found = literals(pattern);
        let found = found.as_ref().map(|values| values.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(found.as_deref(), expected, "{pattern}");
    }

    #[test]
    fn lists_of_values_are_not_compiled() {
        check_literals("", Some(&[""]));
        check_literals("GET", Some(&["GET"]));
        check_literals("b|a||b", Some(&["", "a", "b"]));
        check_literals(r"(10\.0\.0\.1:9100|node\-2)", Some(&["10.0.0.1:9100", "node-2"]));
        for pattern in ["a.b", "a+", r"\d", "(a)|(b)", "(a|b)c", "^a", "a{2}", "[a]", r"a\", "(?i)a"] {
            check_literals(pattern, None);
        }
        let kept = |pattern: &str| Pattern::new(pattern).unwrap();
        assert!(matches!(kept(".*"), Pattern::Any));
        assert!(matches!(kept(".+"), Pattern::NonEmpty));
        assert!(matches!(kept("a.*"), Pattern::Regex(_)));
    }

    /// Expressions from pieces that lists of values are made of, and from some that they are not.
    fn expressions() -> impl Strategy<Value = String> {
        let one_of = |pieces: &'static [&str]| prop::sample::select(pieces).prop_map(str::to_owned);
        let piece = prop_oneof![
            8 => one_of(&["a", "b", "ab", "é", "_", "-", ":", "/", " ", "\n", "|", "|"]),
            4 => "[!-/:-@\\[-`{-~]".prop_map(|c| format!("\\{c}")),
            2 => one_of(&["(", ")", ".", ".*", ".+", "*", "?", "]", "}", "{", "\\", "\\d", "^", "$"]),
        ];
        let inner = prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat());
        (inner, any::<bool>()).prop_map(|(inner, group)| if group { format!("({inner})") } else { inner })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn patterns_match_what_their_expressions_match(
            expression in expressions(),
            values in prop::collection::vec("[ab_\\-.|\n]{0,3}", 0..8),
        ) {
            let Ok(compiled) = compile(&expression) else {
                prop_assert!(Pattern::new(&expression).is_err(), "{expression:?} is wrong");
                return Ok(());
            };
            let pattern = Pattern::new(&expression).unwrap();
            let listed = literals(&expression).unwrap_or_default();
            for value in values.iter().chain(&listed).map(String::as_str).chain(["", &expression]) {
                prop_assert_eq!(pattern.is_match(value), compiled.is_match(value), "{:?} on {:?}", expression, value);
            }
        }
    }
}
