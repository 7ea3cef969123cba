//! Vector selectors and label matchers.

use super::{MAX_REGEX_MATCHERS, Parser, Step, Stop};
use crate::ast::{RangeMode, Span, VectorSelector};
use crate::lexer::{Token, TokenKind};
use quorate_model::{METRIC_NAME, MatchOp, Matcher};

const CONTEXT: &str = "label matching";

impl Parser<'_> {
    /// A selector that starts with its name or with its braces.
    pub(super) fn vector_selector(&mut self) -> Step<VectorSelector> {
        if self.peek()?.kind == TokenKind::LeftBrace {
            let (matchers, span) = self.label_matchers()?;
            return Ok(selector(String::new(), matchers, span));
        }
        let name = self.advance()?;
        self.vector_selector_named(name)
    }

    /// A selector of which `name` was read.
    pub(super) fn vector_selector_named(&mut self, name: Token) -> Step<VectorSelector> {
        let (mut matchers, mut span) = (Vec::new(), name.span);
        if self.peek()?.kind == TokenKind::LeftBrace {
            let (list, braces) = self.label_matchers()?;
            matchers = list;
            span = span.to(braces);
        }
        let name = self.text(name).to_owned();
        matchers.push(Matcher::equal(METRIC_NAME, name.as_str()));
        Ok(selector(name, matchers, span))
    }

    fn label_matchers(&mut self) -> Step<(Vec<Matcher>, Span)> {
        let open = self.advance()?;
        let mut matchers = Vec::new();
        loop {
            if let Some(close) = self.accept(TokenKind::RightBrace)? {
                return Ok((matchers, open.span.to(close.span)));
            }
            matchers.push(self.label_matcher()?);
            if self.accept(TokenKind::Comma)?.is_none() && self.peek()?.kind != TokenKind::RightBrace {
                return Err(self.unexpected(CONTEXT, "\",\" or \"}\""));
            }
        }
    }

    /// One matcher.
    fn label_matcher(&mut self) -> Step<Matcher> {
        let token = self.peek()?;
        let name = match token.kind {
            TokenKind::Identifier => self.text(token).to_owned(),
            TokenKind::String => self.unquote(token),
            _ => return Err(self.unexpected(CONTEXT, "identifier or \"}\"")),
        };
        self.advance()?;
        let Some(op) = match_op(self.peek()?.kind) else {
            if token.kind == TokenKind::String {
                return Ok(Matcher::equal(METRIC_NAME, name));
            }
            return Err(self.unexpected(CONTEXT, "label matching operator"));
        };
        self.advance()?;
        let value = self.expect(TokenKind::String, CONTEXT, "string")?;
        let text = self.unquote(value);
        let span = token.span.to(value.span);
        if matches!(op, MatchOp::Regex | MatchOp::NotRegex) {
            self.count_regex(span)?;
        }
        // Nothing is read after an expression that is wrong: compiling more of them would be for nothing.
        Matcher::new(name, op, text).map_err(|error| {
            self.fail(span, error.to_string());
            Stop
        })
    }

    fn count_regex(&mut self, span: Span) -> Step<()> {
        self.regexes += 1;
        if self.regexes <= MAX_REGEX_MATCHERS {
            return Ok(());
        }
        let count = self.regexes;
        self.fail(
            span,
            format!(
                "at least {count} regular expression matchers are over the limit of {MAX_REGEX_MATCHERS}"
            ),
        );
        Err(Stop)
    }
}

fn match_op(kind: TokenKind) -> Option<MatchOp> {
    Some(match kind {
        TokenKind::Assign => MatchOp::Equal,
        TokenKind::Binary(crate::ast::BinaryOp::Ne) => MatchOp::NotEqual,
        TokenKind::EqualRegex => MatchOp::Regex,
        TokenKind::NotEqualRegex => MatchOp::NotRegex,
        _ => return None,
    })
}

fn selector(name: String, matchers: Vec<Matcher>, span: Span) -> VectorSelector {
    VectorSelector {
        name,
        matchers,
        offset: None,
        at: None,
        mode: RangeMode::Plain,
        is_label_selector: false,
        span,
    }
}
