//! Which values of a label name a matcher's text accepts: literals and alternations as lookups, prefixes as
//! ranges, other expressions as automata over the FST, or value by value where there are few.
//!
//! Everything here is about the text as `=` or `=~` reads it; `!=` and `!~` are turned round by the caller.

use super::names::NameIndex;
use fst::Automaton;
use quorate_model::matcher::anchored;
use quorate_model::{MatchOp, Matcher};
use regex_automata::dfa::Automaton as _;
use regex_automata::dfa::{StartKind, dense};
use regex_automata::util::primitives::StateID;
use regex_automata::util::syntax;
use regex_automata::{Anchored, MatchKind, util::start};

/// Values from which on an automaton is built for an expression.
const AUTOMATON_FROM: u32 = 2_000;
/// Memory that building an automaton may take; an expression that needs more is tried value by value.
const AUTOMATON_BYTES: usize = 1 << 20;

/// A matcher's text, as far as it can be looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Text {
    /// Exactly one of these.
    OneOf(Vec<String>),
    /// Begins with this; nothing or anything may follow, or at least one character.
    Prefix { prefix: String, longer: bool },
    /// Another expression.
    Expression,
}

impl Text {
    /// Reads the text of a matcher.
    pub(super) fn of(matcher: &Matcher) -> Self {
        match matcher.op() {
            MatchOp::Equal | MatchOp::NotEqual => Self::OneOf(vec![matcher.value().to_owned()]),
            MatchOp::Regex | MatchOp::NotRegex => Self::of_expression(matcher.value()),
        }
    }

    fn of_expression(expression: &str) -> Self {
        for (tail, longer) in [(".*", false), (".+", true)] {
            if let Some(prefix) = expression.strip_suffix(tail).and_then(literal) {
                return Self::Prefix { prefix, longer };
            }
        }
        let group = expression.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
        let inner = group.map_or(expression, |inner| inner.strip_prefix("?:").unwrap_or(inner));
        let parts: Option<Vec<String>> = split(inner).map(literal).collect();
        let group_is_whole = group.is_none() || !inner.contains(['(', ')']);
        match parts {
            Some(mut parts) if group_is_whole => {
                parts.sort_unstable();
                parts.dedup();
                Self::OneOf(parts)
            }
            _ => Self::Expression,
        }
    }
}

/// Splits at bars that are not escaped.
fn split(expression: &str) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    expression.split(move |c: char| {
        let bar = c == '|' && !escaped;
        escaped = c == '\\' && !escaped;
        bar
    })
}

/// The text that an expression without operators stands for. An escape of anything but punctuation means
/// more than itself.
fn literal(expression: &str) -> Option<String> {
    let mut out = String::with_capacity(expression.len());
    let mut chars = expression.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(chars.next().filter(char::is_ascii_punctuation).filter(|c| !"<>".contains(*c))?),
            '.' | '+' | '*' | '?' | '(' | ')' | '[' | ']' | '{' | '}' | '^' | '$' | '|' => return None,
            c => out.push(c),
        }
    }
    Some(out)
}

/// The ids of the values that the text of `matcher` accepts, increasing. `None` if the index is damaged.
pub(super) fn accepted(index: &NameIndex, matcher: &Matcher) -> Option<Vec<u32>> {
    match Text::of(matcher) {
        Text::OneOf(values) => Some(values.iter().filter_map(|value| index.id(value)).collect()),
        Text::Prefix { prefix, longer } => {
            let mut ids = Vec::new();
            index.for_prefix(&prefix, |value, id| {
                if !longer || value.len() > prefix.len() {
                    ids.push(id);
                }
            })?;
            Some(ids)
        }
        Text::Expression => {
            let automaton =
                (index.len() >= AUTOMATON_FROM).then(|| Expression::new(matcher.value())).flatten();
            match automaton {
                Some(automaton) => Some(index.accepted(&automaton)),
                None => tried(index, matcher),
            }
        }
    }
}

fn tried(index: &NameIndex, matcher: &Matcher) -> Option<Vec<u32>> {
    let negative = matcher.op() == MatchOp::NotRegex;
    let mut ids = Vec::new();
    index.for_prefix("", |value, id| {
        if matcher.matches(value) != negative {
            ids.push(id);
        }
    })?;
    Some(ids)
}

/// A regular expression as an automaton that an FST can be searched with.
#[derive(Debug)]
struct Expression {
    dfa: dense::DFA<Vec<u32>>,
    start: StateID,
}

impl Expression {
    /// `None` if the automaton would be too large, or the expression needs to look around.
    fn new(expression: &str) -> Option<Self> {
        let config = dense::Config::new()
            .start_kind(StartKind::Anchored)
            .match_kind(MatchKind::All)
            .dfa_size_limit(Some(AUTOMATON_BYTES))
            .determinize_size_limit(Some(AUTOMATON_BYTES));
        let dfa = dense::Builder::new()
            .configure(config)
            .syntax(syntax::Config::new())
            .build(&anchored(expression))
            .ok()?;
        let start = dfa.start_state(&start::Config::new().anchored(Anchored::Yes)).ok()?;
        Some(Self { dfa, start })
    }
}

impl Automaton for &Expression {
    type State = StateID;

    fn start(&self) -> StateID {
        self.start
    }

    fn is_match(&self, state: &StateID) -> bool {
        self.dfa.is_match_state(self.dfa.next_eoi_state(*state))
    }

    fn can_match(&self, state: &StateID) -> bool {
        !self.dfa.is_dead_state(*state)
    }

    fn accept(&self, state: &StateID, byte: u8) -> StateID {
        self.dfa.next_state(*state, byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn index(values: &[&str]) -> NameIndex {
        let lists: Vec<[u32; 1]> = (0..values.len() as u32).map(|i| [i]).collect();
        let present: Vec<u32> = (0..values.len() as u32).collect();
        let pairs: Vec<(&str, &[u32])> = values.iter().zip(&lists).map(|(v, l)| (*v, &l[..])).collect();
        let record =
            super::super::names::encode(pairs.into_iter(), &present, values.len() as u32).unwrap().record;
        NameIndex::parse(&record, values.len() as u32).unwrap()
    }

    #[track_caller]
    fn check_text(expression: &str, expected: Text) {
        assert_eq!(Text::of_expression(expression), expected);
    }

    fn one_of(values: &[&str]) -> Text {
        Text::OneOf(values.iter().map(|v| (*v).to_owned()).collect())
    }

    #[test]
    fn expressions_that_are_lookups_are_found() {
        check_text("a|b|a", one_of(&["a", "b"]));
        check_text("(?:a|b)", one_of(&["a", "b"]));
        check_text("(a|b)", one_of(&["a", "b"]));
        check_text(r"10\.0\.0\.1:9100", one_of(&["10.0.0.1:9100"]));
        check_text(r"a\|b|c", one_of(&["a|b", "c"]));
        check_text("", one_of(&[""]));
        check_text("a|", one_of(&["", "a"]));
        check_text("node.*", Text::Prefix { prefix: "node".into(), longer: false });
        check_text(".+", Text::Prefix { prefix: String::new(), longer: true });
        for other in ["a.c", "(a)|(b)", r"\d", r"a\b", "(?i)a", "a|b.*", "x*", "(a|b)c|d)", "[ab]", r"\.*"] {
            check_text(other, Text::Expression);
        }
    }

    #[test]
    fn automata_and_single_tries_agree() {
        let values = ["", "a", "ab", "abc", "b", "b\nc", "node-1", "node-10", "prod/é", "ü"];
        let index = index(&values[1..]);
        for expression in
            ["a.c", "a?b?", "[ab]+", "(?i)NODE-.", r"node-\d+", ".*c", "b.c", "(a|b)c?|.", "é|.*/.", "x"]
        {
            let matcher = Matcher::new("l", MatchOp::Regex, expression).unwrap();
            let automaton = Expression::new(expression).unwrap();
            assert_eq!(index.accepted(&automaton), tried(&index, &matcher).unwrap(), "{expression}");
        }
    }

    proptest! {
        #[test]
        fn texts_accept_what_the_matcher_accepts(
            expression in r"(\.|\\\.|a|b|\||\.\*|\.\+|\(|\)|x\+|\?){0,6}",
            values in prop::collection::btree_set("[ab.|x]{1,4}", 1..20),
            negative in any::<bool>(),
        ) {
            let op = if negative { MatchOp::NotRegex } else { MatchOp::Regex };
            let Ok(matcher) = Matcher::new("l", op, expression.as_str()) else { return Ok(()) };
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            let index = index(&values);
            let expected: Vec<u32> = (0..values.len() as u32)
                .filter(|i| matcher.matches(values[*i as usize]) != negative)
                .collect();
            prop_assert_eq!(accepted(&index, &matcher).unwrap(), expected.clone());
            if let Some(automaton) = Expression::new(&expression) {
                prop_assert_eq!(index.accepted(&automaton), expected);
            }
        }
    }
}
