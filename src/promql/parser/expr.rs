//! Operators, parentheses, calls.

use super::{Parsed, Parser, Step};
use crate::ast::{
    BinaryExpr, BinaryOp, CallExpr, Cardinality, Expr, ParenExpr, Span, UnaryExpr, UnaryOp, VectorMatching,
};
use crate::functions::Function;
use crate::go_fmt::quote;
use crate::lexer::{Keyword, Token, TokenKind};

/// Binds stronger than any operator but `^`.
const UNARY_OPERAND: u8 = 6;

/// What stands between an operator and its right operand.
struct Modifiers {
    return_bool: bool,
    matching: VectorMatching,
}

impl Parser<'_> {
    /// An expression whose operators bind at least as strong as `min_power`.
    pub(super) fn expr(&mut self, min_power: u8) -> Step<Parsed> {
        self.enter()?;
        let mut left = self.prefix()?;
        while let TokenKind::Binary(op) = self.peek()?.kind {
            let power = binding_power(op);
            if power < min_power {
                break;
            }
            self.advance()?;
            let modifiers = self.binary_modifiers()?;
            let is_right_associative = op == BinaryOp::Pow;
            let right = self.expr(if is_right_associative { power } else { power + 1 })?;
            left = self.binary(left, op, modifiers, right)?;
        }
        self.leave();
        Ok(left)
    }

    fn prefix(&mut self) -> Step<Parsed> {
        let token = self.peek()?;
        let op = match token.kind {
            TokenKind::Binary(BinaryOp::Add) => UnaryOp::Plus,
            TokenKind::Binary(BinaryOp::Sub) => UnaryOp::Minus,
            _ => {
                let primary = self.primary(token)?;
                return self.postfix(primary);
            }
        };
        self.advance()?;
        let operand = self.expr(UNARY_OPERAND)?;
        let span = token.span.to(operand.expr.span());
        if let Expr::Number(mut number) = operand.expr {
            number.span = span;
            if op == UnaryOp::Minus {
                number.value = -number.value;
            }
            return Ok(Parsed { expr: Expr::Number(number), depth: 1 });
        }
        let unary = UnaryExpr { op, expr: Box::new(operand.expr), span };
        self.deeper(Expr::Unary(unary), operand.depth)
    }

    fn primary(&mut self, token: Token) -> Step<Parsed> {
        let leaf = |expr| Ok(Parsed { expr, depth: 1 });
        match token.kind {
            TokenKind::Number | TokenKind::Duration => {
                self.advance()?;
                leaf(Expr::Number(self.number_literal(token)))
            }
            TokenKind::String => {
                self.advance()?;
                leaf(Expr::String(self.string_literal(token)))
            }
            TokenKind::LeftParen => self.paren(),
            TokenKind::LeftBrace => leaf(Expr::Vector(self.vector_selector()?)),
            TokenKind::Aggregate(op) => self.aggregate_or_selector(op, token),
            TokenKind::Identifier => self.call_or_selector(token),
            TokenKind::Keyword(keyword) if keyword.is_function() => self.call_or_selector(token),
            kind if kind.is_metric_name() => leaf(Expr::Vector(self.vector_selector()?)),
            _ => Err(self.unexpected("", "")),
        }
    }

    fn paren(&mut self) -> Step<Parsed> {
        let open = self.advance()?;
        let inner = self.expr(0)?;
        let close = self.expect(TokenKind::RightParen, "", "")?;
        let paren = ParenExpr { expr: Box::new(inner.expr), span: open.span.to(close.span) };
        self.deeper(Expr::Paren(paren), inner.depth)
    }

    fn call_or_selector(&mut self, name: Token) -> Step<Parsed> {
        self.advance()?;
        if self.peek()?.kind != TokenKind::LeftParen {
            let selector = self.vector_selector_named(name)?;
            return Ok(Parsed { expr: Expr::Vector(selector), depth: 1 });
        }
        let (args, end) = self.call_args()?;
        let span = Span::new(name.span.start, end);
        let text = self.text(name);
        let Some(function) = Function::find(text) else {
            self.fail(name.span, format!("unknown function with name {}", quote(text)));
            return Err(super::Stop);
        };
        if function.experimental && !self.features.experimental_functions {
            self.fail(name.span, format!("function {} is not enabled", quote(text)));
        }
        let depth = args.iter().map(|arg| arg.depth).max().unwrap_or(0);
        let args = args.into_iter().map(|arg| arg.expr).collect();
        self.deeper(Expr::Call(CallExpr { function, args, span }), depth)
    }

    /// Arguments in parentheses, and the position after the closing one.
    pub(super) fn call_args(&mut self) -> Step<(Vec<Parsed>, usize)> {
        self.expect(TokenKind::LeftParen, "", "")?;
        let mut args = Vec::new();
        if let Some(close) = self.accept(TokenKind::RightParen)? {
            return Ok((args, close.span.end));
        }
        loop {
            args.push(self.expr(0)?);
            let Some(comma) = self.accept(TokenKind::Comma)? else { break };
            if !self.starts_expr()? {
                self.fail(comma.span, "trailing commas not allowed in function call args");
                return Err(super::Stop);
            }
        }
        let close = self.expect(TokenKind::RightParen, "", "")?;
        Ok((args, close.span.end))
    }

    fn starts_expr(&mut self) -> Step<bool> {
        let kind = self.peek()?.kind;
        Ok(kind.is_metric_name()
            || matches!(
                kind,
                TokenKind::Number
                    | TokenKind::Duration
                    | TokenKind::String
                    | TokenKind::LeftParen
                    | TokenKind::LeftBrace
                    | TokenKind::Binary(BinaryOp::Add | BinaryOp::Sub)
            ))
    }

    fn binary_modifiers(&mut self) -> Step<Modifiers> {
        let return_bool = self.accept_keyword(Keyword::Bool)?.is_some();
        let mut matching = VectorMatching::default();
        let is_on = self.accept_keyword(Keyword::On)?.is_some();
        if is_on || self.accept_keyword(Keyword::Ignoring)?.is_some() {
            matching.on = is_on;
            matching.labels = self.grouping_labels()?;
            self.group_modifier(&mut matching)?;
        }
        self.fill_modifiers(&mut matching)?;
        Ok(Modifiers { return_bool, matching })
    }

    fn group_modifier(&mut self, matching: &mut VectorMatching) -> Step<()> {
        matching.card = if self.accept_keyword(Keyword::GroupLeft)?.is_some() {
            Cardinality::ManyToOne
        } else if self.accept_keyword(Keyword::GroupRight)?.is_some() {
            Cardinality::OneToMany
        } else {
            return Ok(());
        };
        if self.peek()?.kind == TokenKind::LeftParen {
            matching.include = self.grouping_labels()?;
        }
        Ok(())
    }

    fn fill_modifiers(&mut self, matching: &mut VectorMatching) -> Step<()> {
        if self.accept_keyword(Keyword::Fill)?.is_some() {
            matching.fill_left = Some(self.fill_value()?);
            matching.fill_right = matching.fill_left;
        } else if self.accept_keyword(Keyword::FillLeft)?.is_some() {
            matching.fill_left = Some(self.fill_value()?);
            if self.accept_keyword(Keyword::FillRight)?.is_some() {
                matching.fill_right = Some(self.fill_value()?);
            }
        } else if self.accept_keyword(Keyword::FillRight)?.is_some() {
            matching.fill_right = Some(self.fill_value()?);
            if self.accept_keyword(Keyword::FillLeft)?.is_some() {
                matching.fill_left = Some(self.fill_value()?);
            }
        }
        Ok(())
    }

    fn fill_value(&mut self) -> Step<f64> {
        self.expect(TokenKind::LeftParen, "", "")?;
        let is_negative = self.accept(TokenKind::Binary(BinaryOp::Sub))?.is_some();
        if !is_negative {
            self.accept(TokenKind::Binary(BinaryOp::Add))?;
        }
        let token = self.peek()?;
        if !matches!(token.kind, TokenKind::Number | TokenKind::Duration) {
            return Err(self.unexpected("", ""));
        }
        self.advance()?;
        let value = self.number_literal(token).value;
        self.expect(TokenKind::RightParen, "", "")?;
        Ok(if is_negative { -value } else { value })
    }

    fn binary(&mut self, left: Parsed, op: BinaryOp, modifiers: Modifiers, right: Parsed) -> Step<Parsed> {
        let span = left.expr.span().to(right.expr.span());
        let Modifiers { return_bool, matching } = modifiers;
        let has_fill = matching.fill_left.is_some() || matching.fill_right.is_some();
        if has_fill && !self.features.fill_modifiers {
            self.fail(span, "binop fill modifiers are experimental and not enabled");
        }
        let depth = left.depth.max(right.depth);
        let (lhs, rhs) = (Box::new(left.expr), Box::new(right.expr));
        let binary = BinaryExpr { op, lhs, rhs, return_bool, matching: Some(matching), span };
        self.deeper(Expr::Binary(binary), depth)
    }

    /// A node over children of at most `depth`.
    pub(super) fn deeper(&mut self, expr: Expr, depth: usize) -> Step<Parsed> {
        self.check_depth(depth + 1)?;
        Ok(Parsed { expr, depth: depth + 1 })
    }
}

fn binding_power(op: BinaryOp) -> u8 {
    match op {
        BinaryOp::Or => 1,
        BinaryOp::And | BinaryOp::Unless => 2,
        BinaryOp::Add | BinaryOp::Sub => 4,
        BinaryOp::Mul | BinaryOp::Div | BinaryOp::Mod | BinaryOp::Atan2 => 5,
        BinaryOp::Pow => UNARY_OPERAND,
        _ => 3,
    }
}
