//! Durations in brackets and after `offset`: literals and arithmetic over them.

use super::{Parser, Step};
use crate::ast::{BinaryOp, DurationArg, DurationExpr, DurationKind, DurationOp, Span};
use crate::lexer::{Keyword, Token, TokenKind};

/// Binds stronger than any operator but `^`.
const UNARY_OPERAND: u8 = 3;

/// How an unexpected token is called.
#[derive(Clone, Copy)]
struct Place<'p> {
    context: &'p str,
    expected: &'p str,
}

impl Parser<'_> {
    /// A duration in brackets, which must be positive as far as that is known yet.
    pub(super) fn positive_duration(&mut self, context: &str, expected: &str) -> Step<DurationArg> {
        self.duration_nodes = 0;
        let expr = self.duration_expr(0, Place { context, expected })?;
        if let DurationKind::Number { value, .. } = expr.kind
            && !expr.wrapped
            && value <= 0.0
        {
            self.fail(expr.span, "duration must be greater than 0");
        }
        Ok(argument(expr))
    }

    /// The duration after `offset`, and the position behind it. Operators belong to it only if it starts with
    /// a parenthesis: `a offset 5m - b` subtracts `b` from `a`.
    pub(super) fn offset_duration(&mut self) -> Step<(DurationArg, usize)> {
        let place = Place { context: "offset", expected: "number, duration, step(), or range()" };
        self.duration_nodes = 0;
        let token = self.peek()?;
        let (expr, end) = match token.kind {
            TokenKind::LeftParen => self.duration_expr_and_end(place)?,
            TokenKind::Binary(BinaryOp::Add | BinaryOp::Sub) => {
                self.advance()?;
                let operand = self.peek()?.kind;
                if matches!(operand, TokenKind::Binary(BinaryOp::Add | BinaryOp::Sub)) {
                    let operand = self.duration_expr(UNARY_OPERAND, place)?;
                    let signed = self.signed(token, operand);
                    let expr = self.duration_operators(signed, 0, place)?;
                    let end = expr.span.end;
                    (expr, end)
                } else {
                    let (operand, end) = self.duration_atom(place)?;
                    (self.signed(token, operand), end)
                }
            }
            _ => self.duration_atom(place)?,
        };
        Ok((argument(expr), end))
    }

    fn duration_expr_and_end(&mut self, place: Place<'_>) -> Step<(DurationExpr, usize)> {
        let (atom, close) = self.duration_atom(place)?;
        let is_alone = !matches!(self.peek()?.kind, TokenKind::Binary(op) if operator(op).is_some());
        let expr = self.duration_operators(atom, 0, place)?;
        let end = if is_alone { close } else { expr.span.end };
        Ok((expr, end))
    }

    fn duration_expr(&mut self, min_power: u8, place: Place<'_>) -> Step<DurationExpr> {
        self.enter()?;
        let token = self.peek()?;
        let left = if matches!(token.kind, TokenKind::Binary(BinaryOp::Add | BinaryOp::Sub)) {
            self.advance()?;
            let operand = self.duration_expr(UNARY_OPERAND, place)?;
            self.signed(token, operand)
        } else {
            self.duration_atom(place)?.0
        };
        let expr = self.duration_operators(left, min_power, place)?;
        self.leave();
        Ok(expr)
    }

    fn duration_operators(
        &mut self,
        mut left: DurationExpr,
        min_power: u8,
        place: Place<'_>,
    ) -> Step<DurationExpr> {
        loop {
            let token = self.peek()?;
            let TokenKind::Binary(binary) = token.kind else { return Ok(left) };
            let Some((op, power)) = operator(binary) else { return Ok(left) };
            if power < min_power {
                return Ok(left);
            }
            // Operators are counted, not levels: a sequence of them makes a deep tree too.
            self.duration_nodes += 1;
            self.check_depth(self.duration_nodes)?;
            self.advance()?;
            let right = self.duration_expr(if op == DurationOp::Pow { power } else { power + 1 }, place)?;
            self.check_enabled(left.span);
            left = self.duration_binary(op, token, left, right);
        }
    }

    fn duration_binary(
        &mut self,
        op: DurationOp,
        token: Token,
        left: DurationExpr,
        right: DurationExpr,
    ) -> DurationExpr {
        let is_zero = !right.wrapped && matches!(right.kind, DurationKind::Number { value: 0.0, .. });
        match op {
            DurationOp::Div if is_zero => self.fail(token.span, "division by zero"),
            DurationOp::Mod if is_zero => self.fail(token.span, "modulo by zero"),
            _ => {}
        }
        let span = left.span.to(right.span);
        unwrapped(DurationKind::Binary(op, Box::new(left), Box::new(right)), span)
    }

    /// A duration without operators outside parentheses, and the position behind it.
    fn duration_atom(&mut self, place: Place<'_>) -> Step<(DurationExpr, usize)> {
        let token = self.peek()?;
        match token.kind {
            TokenKind::Number | TokenKind::Duration => {
                self.advance()?;
                Ok((self.duration_literal(token), token.span.end))
            }
            TokenKind::LeftParen => self.wrapped_duration(place),
            TokenKind::Keyword(keyword) if keyword.is_duration() => self.duration_call(keyword, token, place),
            _ => Err(self.unexpected(place.context, place.expected)),
        }
    }

    fn duration_literal(&mut self, token: Token) -> DurationExpr {
        let number = self.number_literal(token);
        let kind = DurationKind::Number { value: number.value, is_duration: number.is_duration };
        self.check_range(&kind, token.span);
        unwrapped(kind, token.span)
    }

    fn wrapped_duration(&mut self, place: Place<'_>) -> Step<(DurationExpr, usize)> {
        let open = self.advance()?;
        let mut inner = self.duration_expr(0, place)?;
        let close = self.expect(TokenKind::RightParen, place.context, place.expected)?;
        self.check_enabled(inner.span);
        if matches!(inner.kind, DurationKind::Number { .. }) && !inner.wrapped {
            inner.span = open.span.to(close.span);
        }
        inner.wrapped = true;
        Ok((inner, close.span.end))
    }

    fn duration_call(
        &mut self,
        keyword: Keyword,
        token: Token,
        place: Place<'_>,
    ) -> Step<(DurationExpr, usize)> {
        self.advance()?;
        self.expect(TokenKind::LeftParen, place.context, place.expected)?;
        let (kind, arguments) = match keyword {
            Keyword::Step => (DurationKind::Step, None),
            Keyword::Range => (DurationKind::Range, None),
            _ => {
                let op = if keyword == Keyword::MinOf { DurationOp::MinOf } else { DurationOp::MaxOf };
                let left = self.duration_expr(0, place)?;
                self.expect(TokenKind::Comma, place.context, place.expected)?;
                let right = self.duration_expr(0, place)?;
                let span = left.span.to(right.span);
                (DurationKind::Binary(op, Box::new(left), Box::new(right)), Some(span))
            }
        };
        let close = self.expect(TokenKind::RightParen, place.context, place.expected)?;
        let span = arguments.unwrap_or(token.span.to(close.span));
        self.check_enabled(span);
        Ok((unwrapped(kind, span), close.span.end))
    }

    fn signed(&mut self, sign: Token, operand: DurationExpr) -> DurationExpr {
        let is_negative = sign.kind == TokenKind::Binary(BinaryOp::Sub);
        let span = sign.span.to(operand.span);
        if let (DurationKind::Number { value, is_duration }, false) = (&operand.kind, operand.wrapped) {
            let value = if is_negative { -value } else { *value };
            let kind = DurationKind::Number { value, is_duration: *is_duration };
            self.check_range(&kind, sign.span);
            return unwrapped(kind, span);
        }
        if is_negative { unwrapped(DurationKind::Neg(Box::new(operand)), span) } else { operand }
    }

    fn check_range(&mut self, kind: &DurationKind, span: Span) {
        const LIMIT_SECONDS: f64 = (1u64 << 63) as f64 / 1e9;
        if matches!(kind, DurationKind::Number { value, .. } if value.abs() > LIMIT_SECONDS) {
            self.fail(span, "duration out of range");
        }
    }

    fn check_enabled(&mut self, span: Span) {
        if !self.features.duration_expressions {
            self.fail(span, "experimental duration expression is not enabled");
        }
    }
}

fn unwrapped(kind: DurationKind, span: Span) -> DurationExpr {
    DurationExpr { kind, wrapped: false, span }
}

/// Literals become milliseconds, rounded to nanoseconds first and cut then, as Prometheus does.
fn argument(expr: DurationExpr) -> DurationArg {
    match expr.kind {
        DurationKind::Number { value, .. } if !expr.wrapped => {
            DurationArg::Fixed((value * 1e9).round() as i64 / 1_000_000)
        }
        _ => DurationArg::Computed(Box::new(expr)),
    }
}

fn operator(op: BinaryOp) -> Option<(DurationOp, u8)> {
    Some(match op {
        BinaryOp::Add => (DurationOp::Add, 1),
        BinaryOp::Sub => (DurationOp::Sub, 1),
        BinaryOp::Mul => (DurationOp::Mul, 2),
        BinaryOp::Div => (DurationOp::Div, 2),
        BinaryOp::Mod => (DurationOp::Mod, 2),
        BinaryOp::Pow => (DurationOp::Pow, UNARY_OPERAND),
        _ => return None,
    })
}
