//! Pins every selector of a query to one time by `@`.

use quorate_promql::Expr;
use quorate_promql::ast::AtModifier;
use quorate_promql::functions::FunctionId;

/// The query with every selector at `ts_ms`, or `None` if a function in it sees the evaluation time.
pub(crate) fn pinned(expr: &Expr, ts_ms: i64) -> Option<Expr> {
    let mut expr = expr.clone();
    pin(&mut expr, ts_ms).then_some(expr)
}

fn pin(expr: &mut Expr, ts_ms: i64) -> bool {
    let at = |modifier: &mut Option<AtModifier>| {
        if !matches!(modifier, Some(AtModifier::Timestamp(_))) {
            *modifier = Some(AtModifier::Timestamp(ts_ms));
        }
        true
    };
    match expr {
        Expr::Number(_) | Expr::String(_) => true,
        Expr::Vector(e) => at(&mut e.at),
        Expr::Matrix(e) => at(&mut e.selector.at),
        Expr::Subquery(e) => at(&mut e.at),
        Expr::Unary(e) => pin(&mut e.expr, ts_ms),
        Expr::Paren(e) => pin(&mut e.expr, ts_ms),
        Expr::StepInvariant(e) => pin(e, ts_ms),
        Expr::Binary(e) => pin(&mut e.lhs, ts_ms) & pin(&mut e.rhs, ts_ms),
        Expr::Aggregate(e) => {
            let param = e.param.as_mut().is_none_or(|param| pin(param, ts_ms));
            pin(&mut e.expr, ts_ms) && param
        }
        Expr::Call(e) => !sees_time(e.function.id) && e.args.iter_mut().all(|arg| pin(arg, ts_ms)),
    }
}

fn sees_time(function: FunctionId) -> bool {
    use FunctionId::*;
    matches!(
        function,
        DaysInMonth
            | DayOfMonth
            | DayOfWeek
            | DayOfYear
            | End
            | Hour
            | Minute
            | Month
            | Year
            | PredictLinear
            | Range
            | Start
            | Step
            | Time
            | Timestamp
    )
}
