//! Aggregations and lists of labels.

use super::{Parsed, Parser, Step, Stop};
use crate::ast::{AggregateExpr, AggregateOp, Expr, Span};
use crate::go_fmt::quote;
use crate::lexer::{Keyword, Token, TokenKind};

const LABELS: &str = "grouping opts";

impl Parser<'_> {
    /// `sum (...)`, `sum by (...) (...)`, or a metric that is called `sum`.
    pub(super) fn aggregate_or_selector(&mut self, op: AggregateOp, name: Token) -> Step<Parsed> {
        self.advance()?;
        let starts_aggregation = matches!(
            self.peek()?.kind,
            TokenKind::LeftParen | TokenKind::Keyword(Keyword::By | Keyword::Without)
        );
        if !starts_aggregation {
            let selector = self.vector_selector_named(name)?;
            return Ok(Parsed { expr: Expr::Vector(selector), depth: 1 });
        }
        self.aggregations += 1;
        let before = self.grouping()?;
        let (args, mut end) = self.call_args()?;
        let grouping = match before {
            Some(grouping) => Some(grouping),
            None => {
                let after = self.grouping()?;
                end = after.as_ref().map_or(end, |grouping| grouping.end);
                after
            }
        };
        self.aggregations -= 1;
        self.aggregate(op, grouping.unwrap_or_default(), args, Span::new(name.span.start, end))
    }

    fn grouping(&mut self) -> Step<Option<Grouping>> {
        let without = match self.peek()?.kind {
            TokenKind::Keyword(Keyword::By) => false,
            TokenKind::Keyword(Keyword::Without) => true,
            _ => return Ok(None),
        };
        self.advance()?;
        let (labels, end) = self.label_list()?;
        Ok(Some(Grouping { labels, without, end }))
    }

    fn aggregate(&mut self, op: AggregateOp, by: Grouping, args: Vec<Parsed>, span: Span) -> Step<Parsed> {
        let expected = if op.has_param() { 2 } else { 1 };
        let count = args.len();
        if count == 0 {
            self.fail(span, "no arguments for aggregate expression provided");
            return Err(Stop);
        }
        if op.is_experimental() && !self.features.experimental_functions {
            let flag = "--enable-feature=promql-experimental-functions";
            self.fail(span, format!("{op}() is experimental and must be enabled with {flag}"));
        }
        if count != expected {
            let problem = "wrong number of arguments for aggregate expression provided";
            self.fail(span, format!("{problem}, expected {expected}, got {count}"));
            return Err(Stop);
        }
        let depth = args.iter().map(|arg| arg.depth).max().unwrap_or(0);
        let mut args = args.into_iter().map(|arg| Box::new(arg.expr));
        let param = if op.has_param() { args.next() } else { None };
        let Some(expr) = args.next() else { return Err(Stop) };
        let Grouping { labels: grouping, without, .. } = by;
        self.deeper(Expr::Aggregate(AggregateExpr { op, expr, param, grouping, without, span }), depth)
    }

    /// Labels in parentheses.
    pub(super) fn grouping_labels(&mut self) -> Step<Vec<String>> {
        Ok(self.label_list()?.0)
    }

    fn label_list(&mut self) -> Step<(Vec<String>, usize)> {
        self.expect(TokenKind::LeftParen, LABELS, "\"(\"")?;
        let mut labels = Vec::new();
        loop {
            if let Some(close) = self.accept(TokenKind::RightParen)? {
                return Ok((labels, close.span.end));
            }
            labels.push(self.grouping_label()?);
            if self.accept(TokenKind::Comma)?.is_none() && self.peek()?.kind != TokenKind::RightParen {
                return Err(self.unexpected(LABELS, "\",\" or \")\""));
            }
        }
    }

    fn grouping_label(&mut self) -> Step<String> {
        let token = self.peek()?;
        let label = match token.kind {
            TokenKind::String => self.unquote(token),
            kind if kind.is_label_name() => self.text(token).to_owned(),
            _ => return Err(self.unexpected(LABELS, "label")),
        };
        self.advance()?;
        if label.is_empty() {
            self.fail(token.span, format!("invalid label name for grouping: {}", quote(&label)));
        }
        Ok(label)
    }
}

#[derive(Default)]
struct Grouping {
    labels: Vec<String>,
    without: bool,
    end: usize,
}
