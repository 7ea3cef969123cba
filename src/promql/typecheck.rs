//! Checks that types, modifiers and matchers of a tree fit, and completes what depends on types.
//!
//! Order of the checks and texts as in Prometheus, since only the first problem is reported.

use crate::ast::{
    AggregateExpr, AggregateOp, BinaryExpr, CallExpr, Cardinality, Expr, Span, ValueType, VectorSelector,
};
use crate::error::ParseError;
use crate::functions::FunctionId;
use crate::go_fmt::quote;
use quorate_model::METRIC_NAME;

/// Checks `expr`, which was read from `input`. Drops the vector matching of operations on scalars.
///
/// # Errors
/// [`ParseError`] with the first problem.
pub(crate) fn check(expr: &mut Expr, input: &str) -> Result<(), ParseError> {
    Checker { input }.check(expr).map(|_| ())
}

struct Checker<'a> {
    input: &'a str,
}

type Checked<T = ()> = Result<T, ParseError>;

impl Checker<'_> {
    fn fail<T>(&self, span: Span, message: impl Into<String>) -> Checked<T> {
        Err(ParseError::new(self.input, span, message))
    }

    fn check(&self, expr: &mut Expr) -> Checked<ValueType> {
        match expr {
            Expr::Number(_) | Expr::String(_) => {}
            Expr::Vector(selector) => self.selector(selector)?,
            Expr::Matrix(matrix) => self.selector(&matrix.selector)?,
            Expr::Paren(paren) => {
                self.check(&mut paren.expr)?;
            }
            Expr::StepInvariant(inner) => {
                self.check(inner)?;
            }
            Expr::Subquery(subquery) => {
                let inner = self.check(&mut subquery.expr)?;
                if inner != ValueType::Vector {
                    let problem = "subquery is only allowed on instant vector, got";
                    return self.fail(subquery.span, format!("{problem} {} instead", inner.name()));
                }
            }
            Expr::Unary(unary) => {
                let inner = self.check(&mut unary.expr)?;
                if !matches!(inner, ValueType::Scalar | ValueType::Vector) {
                    let problem =
                        "unary expression only allowed on expressions of type scalar or instant vector";
                    return self.fail(unary.span, format!("{problem}, got {}", quote(inner.documented())));
                }
            }
            Expr::Aggregate(aggregate) => self.aggregate(aggregate)?,
            Expr::Binary(binary) => self.binary(binary)?,
            Expr::Call(call) => self.call(call)?,
        }
        Ok(expr.value_type())
    }

    fn expect(&self, expr: &mut Expr, wanted: ValueType, context: &str) -> Checked {
        let found = self.check(expr)?;
        if found == wanted {
            return Ok(());
        }
        let (wanted, found) = (wanted.documented(), found.documented());
        self.fail(expr.span(), format!("expected type {wanted} in {context}, got {found}"))
    }

    fn selector(&self, selector: &VectorSelector) -> Checked {
        if let (false, Some((_, others))) = (selector.name.is_empty(), selector.matchers.split_last()) {
            let Some(second) = others.iter().find(|m| m.name() == METRIC_NAME) else { return Ok(()) };
            let (first, second) = (quote(&selector.name), quote(second.value()));
            return self
                .fail(selector.span, format!("metric name must not be set twice: {first} or {second}"));
        }
        if selector.is_label_selector || selector.matchers.iter().any(|m| !m.matches_empty()) {
            return Ok(());
        }
        self.fail(selector.span, "vector selector must contain at least one non-empty matcher")
    }

    fn aggregate(&self, aggregate: &mut AggregateExpr) -> Checked {
        self.expect(&mut aggregate.expr, ValueType::Vector, "aggregation expression")?;
        let Some(param) = &mut aggregate.param else { return Ok(()) };
        let wanted =
            if aggregate.op == AggregateOp::CountValues { ValueType::String } else { ValueType::Scalar };
        self.expect(param, wanted, "aggregation parameter")
    }

    fn binary(&self, binary: &mut BinaryExpr) -> Checked {
        let left = self.check(&mut binary.lhs)?;
        let right = self.check(&mut binary.rhs)?;
        let op = binary.op;
        if binary.return_bool && !op.is_comparison() {
            let problem = "bool modifier can only be used on comparison operators";
            return self.fail(self.operator_span(binary), problem);
        }
        let both_scalar = (left, right) == (ValueType::Scalar, ValueType::Scalar);
        if op.is_comparison() && !binary.return_bool && both_scalar {
            let problem = "comparisons between scalars must use BOOL modifier";
            return self.fail(self.operator_span(binary), problem);
        }
        self.grouped_labels(binary)?;
        for (side, found) in [(&binary.lhs, left), (&binary.rhs, right)] {
            if !matches!(found, ValueType::Scalar | ValueType::Vector) {
                let problem = "binary expression must contain only scalar and instant vector types";
                return self.fail(side.span(), problem);
            }
        }
        if (left, right) == (ValueType::Vector, ValueType::Vector) {
            return self.set_operation(binary);
        }
        self.scalar_operation(binary)
    }

    fn grouped_labels(&self, binary: &BinaryExpr) -> Checked {
        let Some(matching) = binary.matching.as_ref().filter(|m| m.on) else { return Ok(()) };
        match matching.labels.iter().find(|label| matching.include.contains(label)) {
            Some(label) => {
                let problem = format!("label {} must not occur in ON and GROUP clause at once", quote(label));
                self.fail(self.operator_span(binary), problem)
            }
            None => Ok(()),
        }
    }

    fn scalar_operation(&self, binary: &mut BinaryExpr) -> Checked {
        if let Some(matching) = binary.matching.take() {
            if !matching.labels.is_empty() {
                return self.fail(binary.span, "vector matching only allowed between instant vectors");
            }
            if matching.fill_left.is_some() || matching.fill_right.is_some() {
                let problem = "filling in missing series only allowed between instant vectors";
                return self.fail(binary.span, problem);
            }
        }
        if binary.op.is_set() {
            let op = quote(binary.op.symbol());
            let problem = format!("set operator {op} not allowed in binary scalar expression");
            return self.fail(binary.span, problem);
        }
        Ok(())
    }

    fn set_operation(&self, binary: &mut BinaryExpr) -> Checked {
        let Some(matching) = binary.matching.as_mut().filter(|_| binary.op.is_set()) else { return Ok(()) };
        if matching.card != Cardinality::OneToOne {
            let op = quote(binary.op.symbol());
            return self.fail(binary.span, format!("no grouping allowed for {op} operation"));
        }
        matching.card = Cardinality::ManyToMany;
        if matching.fill_left.is_some() || matching.fill_right.is_some() {
            return self.fail(binary.span, "filling in missing series not allowed for set operators");
        }
        Ok(())
    }

    /// The operator and its modifiers, without the blanks around.
    fn operator_span(&self, binary: &BinaryExpr) -> Span {
        let (start, end) = (binary.lhs.span().end, binary.rhs.span().start);
        let between = self.input.get(start..end).unwrap_or_default();
        let blanks = between.len() - between.trim_start().len();
        Span::new(start + blanks, start + between.trim_end().len().max(blanks))
    }

    fn call(&self, call: &mut CallExpr) -> Checked {
        self.argument_count(call)?;
        let function = call.function;
        if function.id == FunctionId::Info {
            self.info_selector(call)?;
        }
        for (at, arg) in call.args.iter_mut().enumerate() {
            let Some(wanted) = function.arg_types.get(at).or(function.arg_types.last()) else { break };
            let context = format!("call to function {}", quote(function.name));
            self.expect(arg, *wanted, &context)?;
        }
        Ok(())
    }

    fn argument_count(&self, call: &CallExpr) -> Checked {
        let (listed, given) = (call.function.arg_types.len(), call.args.len());
        let of_call = format!("argument(s) in call to {}, got {given}", quote(call.function.name));
        let Ok(variadic) = usize::try_from(call.function.variadic) else {
            if given + 1 < listed {
                return self.fail(call.span, format!("expected at least {} {of_call}", listed - 1));
            }
            return Ok(());
        };
        if variadic == 0 {
            if given != listed {
                return self.fail(call.span, format!("expected {listed} {of_call}"));
            }
            return Ok(());
        }
        let (least, most) = (listed - 1, listed - 1 + variadic);
        if given < least {
            return self.fail(call.span, format!("expected at least {least} {of_call}"));
        }
        if given > most {
            return self.fail(call.span, format!("expected at most {most} {of_call}"));
        }
        Ok(())
    }

    /// The second argument of `info` is a selector of labels, written as an instant vector selector.
    fn info_selector(&self, call: &mut CallExpr) -> Checked {
        let span = call.span;
        let Some(arg) = call.args.get_mut(1) else { return Ok(()) };
        let (found, at) = (arg.value_type(), arg.span());
        if found != ValueType::Vector {
            let (wanted, found) = (ValueType::Vector.documented(), found.documented());
            let problem = format!("expected type {wanted} in call to function \"info\", got {found}");
            return self.fail(span, problem);
        }
        match arg {
            Expr::Vector(selector) if selector.name.is_empty() => {
                selector.is_label_selector = true;
                Ok(())
            }
            Expr::Vector(_) => self.fail(at, "expected label selectors only, got vector selector instead"),
            _ => self.fail(at, "expected label selectors only"),
        }
    }
}
