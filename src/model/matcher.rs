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
    regex: Option<Regex>,
}

impl Matcher {
    /// Builds a matcher; a label that is absent is matched as the empty value.
    ///
    /// # Errors
    /// [`MatcherError`] if `op` is a regular expression test and `value` cannot be compiled.
    pub fn new(name: impl Into<String>, op: MatchOp, value: impl Into<String>) -> Result<Self, MatcherError> {
        let value = value.into();
        let regex = match op {
            MatchOp::Equal | MatchOp::NotEqual => None,
            MatchOp::Regex | MatchOp::NotRegex => Some(compile(&value)?),
        };
        Ok(Self { name: name.into(), op, value, regex })
    }

    /// An `=` matcher, which cannot fail.
    pub fn equal(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), op: MatchOp::Equal, value: value.into(), regex: None }
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
            MatchOp::Regex => self.regex.as_ref().is_some_and(|r| r.is_match(value)),
            MatchOp::NotRegex => !self.regex.as_ref().is_some_and(|r| r.is_match(value)),
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

fn compile(expression: &str) -> Result<Regex, MatcherError> {
    if expression.len() > MAX_REGEX_LEN {
        return Err(MatcherError::TooLong { len: expression.len() });
    }
    let build = |expression: &str, whole: &str| {
        let built = RegexBuilder::new(whole).size_limit(MAX_REGEX_PROGRAM).build();
        built.map_err(|e| MatcherError::Syntax(format!("{}: `{expression}`", reason(&e))))
    };
    if expression.contains(')') {
        // Alone as well: `)|(` would end the group of `anchored` and begin another.
        build(expression, &go_regex::translate(expression))?;
    }
    build(expression, &anchored(expression))
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
}
