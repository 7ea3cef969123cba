//! The parser: from tokens to a checked tree.
//!
//! Knows the grammar and which parts of it are experimental. Does not know what an expression means.
//! Path: `lexer` -> **here** -> `typecheck` -> `ast`. Precedence climbing; no tree is deeper than
//! [`MAX_DEPTH`]. The first error found is the one reported, as in Prometheus, whose texts they have.

mod aggregate;
#[cfg(test)]
mod corpus;
mod duration;
mod expr;
mod literal;
mod modifier;
mod selector;
#[cfg(test)]
mod tests;

use crate::ast::{Expr, MAX_DEPTH, Span};
use crate::error::ParseError;
use crate::features::Features;
use crate::lexer::{Keyword, Lexer, Token, TokenKind};
use crate::typecheck;
use quorate_model::Matcher;

/// Most matchers with a regular expression in one query. Dashboards send tens; each may take milliseconds to compile
/// and megabytes to keep.
const MAX_REGEX_MATCHERS: usize = 256;

/// Reads a query and checks its types.
///
/// # Errors
/// [`ParseError`] with the first thing that is wrong, in Prometheus' words.
pub fn parse(text: &str, features: &Features) -> Result<Expr, ParseError> {
    let mut parser = Parser::new(text, *features);
    let parsed = parser.query();
    if let Some(error) = parser.error {
        return Err(error);
    }
    let mut expr = parsed.map_err(|Stop| ParseError::new(text, Span::default(), "unexpected error"))?;
    typecheck::check(&mut expr, text)?;
    Ok(expr)
}

/// Reads a single instant vector selector, as in `match[]` parameters, and returns its matchers.
///
/// # Errors
/// [`ParseError`] if it is anything else. Whether the matchers select everything is left to the caller.
pub fn parse_selector(text: &str) -> Result<Vec<Matcher>, ParseError> {
    let mut parser = Parser::new(text, Features::default());
    let parsed = parser.lone_selector();
    if let Some(error) = parser.error {
        return Err(error);
    }
    parsed.map_err(|Stop| ParseError::new(text, Span::default(), "unexpected error"))
}

/// The parser cannot go on; the error is recorded.
#[derive(Debug)]
struct Stop;

type Step<T> = Result<T, Stop>;

/// An expression and the depth of its tree.
struct Parsed {
    expr: Expr,
    depth: usize,
}

struct Parser<'a> {
    input: &'a str,
    lexer: Lexer<'a>,
    features: Features,
    peeked: Option<Token>,
    error: Option<ParseError>,
    /// Depth of the recursion.
    depth: usize,
    /// Operators of the duration that is being read.
    duration_nodes: usize,
    /// How many aggregations are being read: errors inside them say so.
    aggregations: usize,
    /// How many matchers with a regular expression were read.
    regexes: usize,
}

impl<'a> Parser<'a> {
    fn new(input: &'a str, features: Features) -> Self {
        let lexer = Lexer::new(input);
        Self {
            input,
            lexer,
            features,
            peeked: None,
            error: None,
            depth: 0,
            duration_nodes: 0,
            aggregations: 0,
            regexes: 0,
        }
    }

    fn query(&mut self) -> Step<Expr> {
        if self.peek()?.kind == TokenKind::Eof {
            self.fail(Span::default(), "no expression found in input");
            return Err(Stop);
        }
        let parsed = self.expr(0)?;
        match self.peek()?.kind {
            TokenKind::Eof => Ok(parsed.expr),
            _ => Err(self.unexpected("", "")),
        }
    }

    fn lone_selector(&mut self) -> Step<Vec<Matcher>> {
        let token = self.peek()?;
        if !token.kind.is_metric_name() && token.kind != TokenKind::LeftBrace {
            return Err(self.unexpected("", ""));
        }
        let selector = self.vector_selector()?;
        match self.peek()?.kind {
            TokenKind::Eof => Ok(selector.matchers),
            _ => Err(self.unexpected("", "")),
        }
    }

    /// The next token, not consumed.
    fn peek(&mut self) -> Step<Token> {
        if let Some(token) = self.peeked {
            return Ok(token);
        }
        match self.lexer.next_token() {
            Ok(token) => {
                self.peeked = Some(token);
                Ok(token)
            }
            Err(error) => {
                self.error.get_or_insert(error);
                Err(Stop)
            }
        }
    }

    fn advance(&mut self) -> Step<Token> {
        let token = self.peek()?;
        self.peeked = None;
        Ok(token)
    }

    /// Consumes the next token if it is of `kind`.
    fn accept(&mut self, kind: TokenKind) -> Step<Option<Token>> {
        let token = self.peek()?;
        if token.kind != kind {
            return Ok(None);
        }
        self.peeked = None;
        Ok(Some(token))
    }

    fn accept_keyword(&mut self, keyword: Keyword) -> Step<Option<Token>> {
        self.accept(TokenKind::Keyword(keyword))
    }

    /// Consumes a token that must be of `kind`.
    fn expect(&mut self, kind: TokenKind, context: &str, expected: &str) -> Step<Token> {
        match self.accept(kind)? {
            Some(token) => Ok(token),
            None => Err(self.unexpected(context, expected)),
        }
    }

    fn text(&self, token: Token) -> &'a str {
        &self.input[token.span.start..token.span.end]
    }

    /// Records an error unless there is one already. Parsing goes on, as later errors are not reported.
    fn fail(&mut self, span: Span, message: impl Into<String>) {
        if self.error.is_none() {
            self.error = Some(ParseError::new(self.input, span, message));
        }
    }

    /// Records that the next token does not fit. Without a context of its own the error is in the innermost
    /// aggregation that is being read.
    fn unexpected(&mut self, context: &str, expected: &str) -> Stop {
        let Ok(token) = self.peek() else { return Stop };
        let mut message = format!("unexpected {}", token.kind.describe(self.text(token)));
        match (context, self.aggregations) {
            ("", 0) => {}
            ("", _) => message.push_str(" in aggregation"),
            _ => message.extend([" in ", context]),
        }
        if !expected.is_empty() {
            message.extend([", expected ", expected]);
        }
        self.fail(token.span, message);
        Stop
    }

    fn enter(&mut self) -> Step<()> {
        self.depth += 1;
        self.check_depth(self.depth)
    }

    fn leave(&mut self) {
        self.depth -= 1;
    }

    fn check_depth(&mut self, depth: usize) -> Step<()> {
        if depth <= MAX_DEPTH {
            return Ok(());
        }
        let span = self.peeked.map_or_else(Span::default, |token| token.span);
        self.fail(span, format!("expression is nested more than {MAX_DEPTH} levels deep"));
        Err(Stop)
    }
}
