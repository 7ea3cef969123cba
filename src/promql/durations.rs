//! The value of duration expressions such as `[step() * 2]`, once the step and the range of the query are known.

use crate::ast::{DurationArg, DurationExpr, DurationKind, DurationOp, Span};
use crate::functions::math::{max_of, min_of};

/// What `step()` and `range()` mean in a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DurationContext {
    /// Step of the query in milliseconds; zero in an instant query.
    pub step_ms: i64,
    /// End less start of the query in milliseconds.
    pub range_ms: i64,
}

/// A duration expression without a usable value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}:{}: {message}", span.start, span.end)]
pub struct DurationError {
    /// What is wrong, in Prometheus' words.
    pub message: &'static str,
    /// Where in the query.
    pub span: Span,
}

impl DurationArg {
    /// The duration in milliseconds, for a range or a step, which must be positive.
    ///
    /// # Errors
    /// [`DurationError`] if it is not positive, too large, or divided by zero.
    pub fn range_ms(&self, context: DurationContext) -> Result<i64, DurationError> {
        self.resolve(context, false)
    }

    /// The duration in milliseconds, for an offset, which may be negative.
    ///
    /// # Errors
    /// [`DurationError`] if it is too large or divided by zero.
    pub fn offset_ms(&self, context: DurationContext) -> Result<i64, DurationError> {
        self.resolve(context, true)
    }

    fn resolve(&self, context: DurationContext, may_be_negative: bool) -> Result<i64, DurationError> {
        const LIMIT_SECONDS: f64 = (1u64 << 63) as f64 / 1e9;
        let expr = match self {
            Self::Fixed(ms) => return Ok(*ms),
            Self::Computed(expr) => expr,
        };
        let seconds = seconds(expr, context)?;
        let fail = |message| Err(DurationError { message, span: expr.span });
        if !seconds.is_finite() {
            return fail("duration is NaN or infinite");
        }
        if seconds <= 0.0 && !may_be_negative {
            return fail("duration must be greater than 0");
        }
        if seconds.abs() > LIMIT_SECONDS {
            return fail("duration is out of range");
        }
        Ok((seconds * 1000.0) as i64)
    }
}

fn seconds(expr: &DurationExpr, context: DurationContext) -> Result<f64, DurationError> {
    let (op, left, right) = match &expr.kind {
        DurationKind::Number { value, .. } => return Ok(*value),
        DurationKind::Step => return Ok(context.step_ms as f64 / 1000.0),
        DurationKind::Range => return Ok(context.range_ms as f64 / 1000.0),
        DurationKind::Neg(inner) => return Ok(-seconds(inner, context)?),
        DurationKind::Binary(op, left, right) => (*op, seconds(left, context)?, seconds(right, context)?),
    };
    let fail = |message| Err(DurationError { message, span: expr.span });
    Ok(match op {
        DurationOp::Add => left + right,
        DurationOp::Sub => left - right,
        DurationOp::Mul => left * right,
        DurationOp::Div if right == 0.0 => return fail("division by zero"),
        DurationOp::Div => left / right,
        DurationOp::Mod if right == 0.0 => return fail("modulo by zero"),
        DurationOp::Mod => left % right,
        DurationOp::Pow => left.powf(right),
        DurationOp::MinOf => min_of(left, right),
        DurationOp::MaxOf => max_of(left, right),
    })
}

#[cfg(test)]
mod tests {
    use crate::ast::Expr;
    use crate::durations::DurationContext;
    use crate::{Features, parse};

    #[track_caller]
    fn check(duration: &str, expected: Result<i64, &str>) {
        let query = format!("a[{duration}]");
        let context = DurationContext { step_ms: 15_000, range_ms: 3_600_000 };
        let Ok(Expr::Matrix(matrix)) = parse(&query, &Features::all()) else { panic!("{query}") };
        let found = matrix.range.range_ms(context).map_err(|e| e.to_string());
        assert_eq!(found, expected.map_err(str::to_owned), "{query}");
    }

    #[test]
    fn expressions_are_computed_from_step_and_range() {
        check("5m", Ok(300_000));
        check("2 * step() + 1s", Ok(31_000));
        check("-(2 - 3 ^ 2)", Ok(7_000));
        check("-2 ^ 2 + 10", Ok(6_000));
        check("2 ^ 3 ^ 2", Ok(512_000));
        check("range() / 4 % 7", Ok(4_000));
        check("min_of(step(), max_of(1, 2m))", Ok(15_000));
    }

    #[test]
    fn values_that_are_no_durations_are_refused() {
        check("1 - 1s", Err("2:8: duration must be greater than 0"));
        check("1 / (1 - 1)", Err("2:12: division by zero"));
        check("10 ^ 200 * 10 ^ 200", Err("2:21: duration is NaN or infinite"));
        check("1e9 * 100", Err("2:11: duration is out of range"));
    }
}
