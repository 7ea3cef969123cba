//! What follows an expression: ranges, subqueries, `offset`, `@`, `anchored` and `smoothed`.

use super::{Parsed, Parser, Step};
use crate::ast::{
    AtModifier, BinaryOp, DurationArg, Expr, MatrixSelector, RangeMode, Span, SubqueryExpr, VectorSelector,
};
use crate::lexer::{Keyword, Token, TokenKind};

/// The parts of a node that its modifiers change.
struct Target<'e> {
    offset: &'e mut Option<DurationArg>,
    at: &'e mut Option<AtModifier>,
    end: &'e mut usize,
}

impl Parser<'_> {
    /// `left` with all modifiers that follow it.
    pub(super) fn postfix(&mut self, mut left: Parsed) -> Step<Parsed> {
        loop {
            match self.peek()?.kind {
                TokenKind::LeftBracket => left = self.brackets(left)?,
                TokenKind::At => self.at(&mut left.expr)?,
                TokenKind::Keyword(Keyword::Offset) => {
                    self.advance()?;
                    let (offset, end) = self.offset_duration()?;
                    self.set_offset(&mut left.expr, offset, end);
                }
                TokenKind::Keyword(Keyword::Anchored) => {
                    self.advance()?;
                    self.set_mode(&mut left.expr, RangeMode::Anchored);
                }
                TokenKind::Keyword(Keyword::Smoothed) => {
                    self.advance()?;
                    self.set_mode(&mut left.expr, RangeMode::Smoothed);
                }
                _ => return Ok(left),
            }
        }
    }

    fn brackets(&mut self, left: Parsed) -> Step<Parsed> {
        const DURATION: &str = "number, duration, step(), or range()";
        const CONTEXT: &str = "subquery selector";
        let open = self.advance()?;
        let range = self.positive_duration("subquery or range selector", DURATION)?;
        if let Some(close) = self.accept(TokenKind::RightBracket)? {
            return self.matrix(left, range, open, close);
        }
        self.expect(TokenKind::Colon, "subquery or range", "\":\" or \"]\"")?;
        let (step, close) = match self.accept(TokenKind::RightBracket)? {
            Some(close) => (None, close),
            None => {
                let expected = "number, duration, step(), range(), or \"]\"";
                let step = self.positive_duration(CONTEXT, expected)?;
                (Some(step), self.expect(TokenKind::RightBracket, CONTEXT, "\"]\"")?)
            }
        };
        let span = left.expr.span().to(close.span);
        let expr = Box::new(left.expr);
        let subquery = SubqueryExpr { expr, range, step, offset: None, at: None, span };
        self.deeper(Expr::Subquery(subquery), left.depth)
    }

    fn matrix(&mut self, left: Parsed, range: DurationArg, open: Token, close: Token) -> Step<Parsed> {
        let problem = match &left.expr {
            Expr::Vector(v) if v.offset.is_some() => "no offset modifiers allowed before range",
            Expr::Vector(v) if v.at.is_some() => "no @ modifiers allowed before range",
            Expr::Vector(_) => "",
            _ => "ranges only allowed for vector selectors",
        };
        if !problem.is_empty() {
            self.fail(open.span.to(close.span), problem);
        }
        let Expr::Vector(selector) = left.expr else { return Ok(left) };
        let span = selector.span.to(close.span);
        Ok(Parsed { expr: Expr::Matrix(MatrixSelector { selector, range, span }), depth: 1 })
    }

    fn set_offset(&mut self, expr: &mut Expr, offset: DurationArg, end: usize) {
        let span = expr.span();
        let Some(target) = target(expr) else {
            return self.fail(span, misplaced("offset modifier"));
        };
        if target.offset.is_some() {
            self.fail(span, "offset may not be set multiple times");
        } else if offset != DurationArg::Fixed(0) {
            *target.offset = Some(offset);
        }
        *target.end = end;
    }

    fn at(&mut self, expr: &mut Expr) -> Step<()> {
        self.advance()?;
        let (at, end) = self.at_time(expr.span())?;
        let span = expr.span();
        let Some(target) = target(expr) else {
            self.fail(span, misplaced("@ modifier"));
            return Ok(());
        };
        if target.at.is_some() {
            self.fail(span, "@ <timestamp> may not be set multiple times");
            return Ok(());
        }
        *target.at = Some(at);
        *target.end = end;
        Ok(())
    }

    /// What follows an `@` after the expression at `of`, and the position behind it.
    fn at_time(&mut self, of: Span) -> Step<(AtModifier, usize)> {
        let token = self.peek()?;
        let preprocessor = match token.kind {
            TokenKind::Keyword(Keyword::Start) => AtModifier::Start,
            TokenKind::Keyword(Keyword::End) => AtModifier::End,
            _ => return self.at_number(of),
        };
        self.advance()?;
        self.expect(TokenKind::LeftParen, "@", "timestamp")?;
        let close = self.expect(TokenKind::RightParen, "@", "timestamp")?;
        Ok((preprocessor, close.span.end))
    }

    fn at_number(&mut self, of: Span) -> Step<(AtModifier, usize)> {
        let is_negative = self.accept(TokenKind::Binary(BinaryOp::Sub))?.is_some();
        if !is_negative {
            self.accept(TokenKind::Binary(BinaryOp::Add))?;
        }
        let token = self.peek()?;
        if !matches!(token.kind, TokenKind::Number | TokenKind::Duration) {
            return Err(self.unexpected("@", "timestamp"));
        }
        self.advance()?;
        let value = self.number_literal(token).value;
        let seconds = if is_negative { -value } else { value };
        // The bounds of an `i64`, as Prometheus has them.
        if !(seconds > i64::MIN as f64 && seconds < i64::MAX as f64) {
            let written = if seconds.is_finite() { format!("{seconds:.6}") } else { go_float(seconds) };
            self.fail(of, format!("timestamp out of bounds for @ modifier: {written}"));
        }
        Ok((AtModifier::Timestamp((seconds * 1000.0).round() as i64), token.span.end))
    }

    fn set_mode(&mut self, expr: &mut Expr, mode: RangeMode) {
        let name = if mode == RangeMode::Anchored { "anchored" } else { "smoothed" };
        let span = expr.span();
        if !self.features.extended_range_selectors {
            return self.fail(span, format!("{name} modifier is experimental and not enabled"));
        }
        let selector: &mut VectorSelector = match expr {
            Expr::Vector(selector) => selector,
            Expr::Matrix(matrix) => &mut matrix.selector,
            Expr::Subquery(_) => {
                return self.fail(span, format!("{name} modifier is not supported for subqueries"));
            }
            _ => return self.fail(span, format!("{name} modifier not implemented")),
        };
        if selector.mode != RangeMode::Plain && selector.mode != mode {
            self.fail(span, "anchored and smoothed modifiers cannot be used together");
        }
        selector.mode = mode;
    }
}

fn go_float(seconds: f64) -> String {
    crate::go_fmt::float_plain(seconds)
}

fn misplaced(modifier: &str) -> String {
    format!(
        "{modifier} must be preceded by an instant vector selector or range vector selector or a subquery"
    )
}

fn target(expr: &mut Expr) -> Option<Target<'_>> {
    Some(match expr {
        Expr::Vector(e) => Target { offset: &mut e.offset, at: &mut e.at, end: &mut e.span.end },
        Expr::Matrix(e) => {
            Target { offset: &mut e.selector.offset, at: &mut e.selector.at, end: &mut e.span.end }
        }
        Expr::Subquery(e) => Target { offset: &mut e.offset, at: &mut e.at, end: &mut e.span.end },
        _ => return None,
    })
}
