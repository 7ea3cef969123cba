//! From the syntax of Go's regular expressions, which PromQL means, to that of the `regex` crate.
//!
//! Both are RE2 at heart; what users notice is different: in Go `\d`, `\w`, `\s` and `\b` are ASCII, a brace that
//! is no repetition is literal, so is `[` inside a class, `\<` is a literal, `\Q...\E` quotes, `\101` is octal.
//! Source: Go, package regexp/syntax.

use std::fmt::Write;

/// `expression` in the syntax of the `regex` crate. What is wrong in Go stays wrong.
pub(crate) fn translate(expression: &str) -> String {
    // Most expressions have none of these characters.
    if !expression.contains(['\\', '{', '[', '(', ')']) {
        return expression.to_owned();
    }
    let out = String::with_capacity(expression.len() + 16);
    let mut translator = Translator { rest: expression, out, groups: 0 };
    while let Some(c) = translator.take() {
        match c {
            '\\' => translator.escape(),
            '{' => translator.brace(),
            '[' => translator.class(),
            '(' => translator.open_group(),
            ')' => translator.close_group(),
            _ => translator.out.push(c),
        }
    }
    translator.out
}

struct Translator<'e> {
    rest: &'e str,
    out: String,
    /// How many groups are open.
    groups: usize,
}

impl Translator<'_> {
    fn take(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn escape(&mut self) {
        let Some(c) = self.take() else { return self.out.push('\\') };
        match c {
            'd' => self.out.push_str("[0-9]"),
            'D' => self.out.push_str("[^0-9]"),
            's' => self.out.push_str(r"[\t\n\f\r ]"),
            'S' => self.out.push_str(r"[^\t\n\f\r ]"),
            'w' => self.out.push_str("[0-9A-Za-z_]"),
            'W' => self.out.push_str("[^0-9A-Za-z_]"),
            'b' => self.out.push_str(r"(?-u:\b)"),
            'Q' => self.quoted(),
            '<' | '>' => self.out.push(c),
            '0'..='7' => self.octal(c),
            _ => self.out.extend(['\\', c]),
        }
    }

    /// Flags that only the `regex` crate has are doubled, which it refuses: under its `x` the text would have comments,
    /// and what is a group could not be told here.
    fn open_group(&mut self) {
        self.groups += 1;
        self.out.push('(');
        let Some(flags) = self.rest.strip_prefix('?').filter(|flags| !flags.starts_with(['P', '<'])) else {
            return;
        };
        self.out.push('?');
        let end = flags.find([':', ')']).unwrap_or(flags.len());
        for flag in flags[..end].chars() {
            self.out.push(flag);
            if matches!(flag, 'x' | 'u' | 'R') {
                self.out.push(flag);
            }
        }
        self.rest = &flags[end..];
    }

    /// One that closes no group is doubled, or it would close the group that callers put around the expression.
    fn close_group(&mut self) {
        self.out.push_str(if self.groups == 0 { "))" } else { ")" });
        self.groups = self.groups.saturating_sub(1);
    }

    fn quoted(&mut self) {
        let (inner, rest) = self.rest.split_once(r"\E").unwrap_or((self.rest, ""));
        self.out.push_str(&regex::escape(inner));
        self.rest = rest;
    }

    /// `\1` to `\7` are octal only if another digit follows; else they are references, which are not known.
    fn octal(&mut self, first: char) {
        let more = self.rest.bytes().take(2).take_while(|b| (b'0'..=b'7').contains(b)).count();
        if first != '0' && more == 0 {
            return self.out.extend(['\\', first]);
        }
        let (digits, rest) = self.rest.split_at(more);
        self.rest = rest;
        let code = digits.bytes().fold(u32::from(first) - 48, |code, d| code * 8 + u32::from(d) - 48);
        let _ = write!(self.out, "\\x{{{code:x}}}");
    }

    /// A repetition is kept, any other brace is literal.
    fn brace(&mut self) {
        let counts = self.rest.split_once('}').map(|(counts, _)| counts);
        let is_repetition = counts.is_some_and(|counts| {
            let (min, max) = counts.split_once(',').unwrap_or((counts, ""));
            let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
            !min.is_empty() && is_number(min) && is_number(max)
        });
        self.out.push_str(if is_repetition { "{" } else { r"\{" });
    }

    fn class(&mut self) {
        let Some(body) = class_body(self.rest) else {
            // Not closed, which is an error in both.
            return self.out.push('[');
        };
        self.out.push('[');
        let after = &self.rest[body..];
        self.rest = &self.rest[..body];
        if let Some(inner) = self.rest.strip_prefix('^') {
            self.out.push('^');
            self.rest = inner;
        }
        while let Some(c) = self.take() {
            match c {
                '\\' => self.escape(),
                '[' if self.rest.starts_with(':') => self.posix_class(),
                '[' | ']' | '&' | '~' | '^' => self.out.extend(['\\', c]),
                '-' if self.rest.is_empty() => self.out.push_str(r"\-"),
                _ => self.out.push(c),
            }
        }
        self.out.push(']');
        self.rest = &after[1..];
    }

    /// `[:name:]`; anything else is two literals.
    fn posix_class(&mut self) {
        match self.rest.find(":]") {
            Some(end) if end > 0 => {
                self.out.push('[');
                self.out.push_str(&self.rest[..end + 2]);
                self.rest = &self.rest[end + 2..];
            }
            _ => self.out.push_str(r"\["),
        }
    }
}

/// Length of the inside of a class up to its closing bracket, or `None` if it is not closed.
fn class_body(text: &str) -> Option<usize> {
    let start = usize::from(text.starts_with('^'));
    let bytes = text.as_bytes();
    // A closing bracket in the first place is literal.
    let mut at = start + usize::from(bytes.get(start) == Some(&b']'));
    loop {
        match bytes.get(at)? {
            b']' => return Some(at),
            b'\\' => at += 2,
            b'[' if bytes.get(at + 1) == Some(&b':') => {
                at += text.get(at + 2..)?.find(":]").map_or(1, |end| end + 4);
            }
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{MatchOp, Matcher};

    #[track_caller]
    fn check(pattern: &str, matching: &[&str], others: &[&str]) {
        let matcher = Matcher::new("l", MatchOp::Regex, pattern).unwrap();
        for value in matching {
            assert!(matcher.matches(value), "{pattern} must match {value:?}");
        }
        for value in others {
            assert!(!matcher.matches(value), "{pattern} must not match {value:?}");
        }
    }

    #[test]
    fn braces_that_are_no_repetition_are_literal() {
        check("{a}", &["{a}"], &["a"]);
        check("a{,2}", &["a{,2}"], &["a", "aa"]);
        check("a{2}|b{1,}|c{0,1}", &["aa", "b", "bb", "c", ""], &["a", "cc"]);
        check("/api/{id}/x{", &["/api/{id}/x{"], &[]);
    }

    #[test]
    fn perl_classes_are_ascii() {
        check(r"\d+", &["12"], &["١٢"]);
        check(r"\w+", &["a_1"], &["é"]);
        check(r"\W", &["é", "-"], &["a"]);
        check(r"[\d.]+", &["1.2"], &["a"]);
        check(r"[^\w-]", &["é"], &["a", "-"]);
        check(r"\bé?a\b.*", &["a", "a b"], &["ab"]);
        check(r"a\sb", &["a b", "a\tb"], &["a\u{a0}b"]);
    }

    #[test]
    fn brackets_and_set_operators_in_classes_are_literal() {
        check("[[]", &["["], &["]"]);
        check("[]a]", &["]", "a"], &["[", "b"]);
        check("[^]a]", &["b"], &["]", "a"]);
        check("[a[b]+", &["a[b"], &["c"]);
        check("[a&&b~~c]+", &["a&b~c"], &["-"]);
        check("[[:alpha:]_-]+", &["ab_-"], &["1", ":"]);
        check("[-a]+", &["-a"], &["b"]);
        check("[[-a]+", &["[^a"], &["-", "b"]);
        check("[a^]", &["^"], &["b"]);
        check("[0-9A-F]+", &["1F"], &["g", "-"]);
    }

    #[test]
    fn needless_and_foreign_escapes_are_literals() {
        check(r"\/a\-b\_c\<d\>\ e\@", &["/a-b_c<d> e@"], &[]);
        check(r"\Qa.b{\E+", &["a.b{", "a.b{{"], &["axb{"]);
        check(r"\Q[", &["["], &[]);
        check(r"\101\x42\x{43}", &["ABC"], &[]);
        check(r"a\.b|c\\d", &["a.b", r"c\d"], &["axb"]);
    }

    #[test]
    fn flags_and_named_groups_are_those_of_go() {
        check("(?i)ab(?-i)C", &["aBC"], &["abc"]);
        check("(?i:x)(?U:.+)(?P<xu>y)", &["Xay"], &["Xa"]);
    }

    #[test]
    fn what_is_wrong_in_go_is_refused() {
        for pattern in
            ["[a", "a(", "a)(b", ")", r"\1", r"\q", "*a", r"a\", "[z-a]", r"\E", "(?x)a", "(?i-u:a)", "(?R)a"]
        {
            assert!(Matcher::new("l", MatchOp::Regex, pattern).is_err(), "{pattern}");
        }
    }
}
