//! Operations between two samples.

use crate::ast::{BinaryOp, Span};
use crate::eval::notes::{HistogramOp, Notes};
use crate::eval::points::Point;
use crate::histogram::FloatHistogram;
use std::sync::Arc;

/// The result between two scalars, comparisons as 0 or 1; `None` for operators that scalars do not have.
pub(crate) fn scalar_op(op: BinaryOp, a: f64, b: f64) -> Option<f64> {
    arithmetic(op, a, b).or_else(|| compare(op, a, b).map(f64::from))
}

/// The result of an arithmetic operator.
#[inline]
pub(super) fn arithmetic(op: BinaryOp, a: f64, b: f64) -> Option<f64> {
    Some(match op {
        BinaryOp::Add => a + b,
        BinaryOp::Sub => a - b,
        BinaryOp::Mul => a * b,
        BinaryOp::Div => a / b,
        BinaryOp::Pow => a.powf(b),
        BinaryOp::Mod => a % b,
        BinaryOp::Atan2 => a.atan2(b),
        _ => return None,
    })
}

/// The result of a comparison.
#[inline]
pub(super) fn compare(op: BinaryOp, a: f64, b: f64) -> Option<bool> {
    Some(match op {
        BinaryOp::Eq => a == b,
        BinaryOp::Ne => a != b,
        BinaryOp::Gt => a > b,
        BinaryOp::Lt => a < b,
        BinaryOp::Ge => a >= b,
        BinaryOp::Le => a <= b,
        _ => return None,
    })
}

/// What an operation between two samples gives.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The result; of a comparison the left operand.
    pub(super) value: Point,
    /// Whether a comparison holds; true for all else.
    pub(super) keep: bool,
}

/// The result between two samples, `None` if the operator does not take them; a note tells then.
pub(super) fn element(op: BinaryOp, a: &Point, b: &Point, span: Span, notes: &mut Notes) -> Option<Outcome> {
    let kept = |value| Some(Outcome { value, keep: true });
    let histogram = |h: FloatHistogram| kept(Point::Histogram(Arc::new(h)));
    let types = match (a, b) {
        (Point::Float(x), Point::Float(y)) => {
            if let Some(value) = arithmetic(op, *x, *y) {
                return kept(Point::Float(value));
            }
            if let Some(keep) = compare(op, *x, *y) {
                return Some(Outcome { value: Point::Float(*x), keep });
            }
            ("float", "float")
        }
        (Point::Float(x), Point::Histogram(h)) => match op {
            BinaryOp::Mul => return histogram(h.scaled(*x)),
            _ => ("float", "histogram"),
        },
        (Point::Histogram(h), Point::Float(x)) => match op {
            BinaryOp::Mul => return histogram(h.scaled(*x)),
            BinaryOp::Div => return histogram(h.divided(*x)),
            BinaryOp::TrimUpper => return histogram(h.trimmed(*x, true)),
            BinaryOp::TrimLower => return histogram(h.trimmed(*x, false)),
            _ => ("histogram", "float"),
        },
        (Point::Histogram(g), Point::Histogram(h)) => match op {
            BinaryOp::Add | BinaryOp::Sub => return sum(op, g, h, span, notes),
            BinaryOp::Eq | BinaryOp::Ne => {
                let keep = g.equals(h) == (op == BinaryOp::Eq);
                return Some(Outcome { value: a.clone(), keep });
            }
            _ => ("histogram", "histogram"),
        },
    };
    notes.incompatible_types(types.0, op.symbol(), types.1, span);
    None
}

fn sum(
    op: BinaryOp,
    a: &FloatHistogram,
    b: &FloatHistogram,
    span: Span,
    notes: &mut Notes,
) -> Option<Outcome> {
    let (name, result) = match op {
        BinaryOp::Add => (HistogramOp::Addition, a.plus(b)),
        _ => (HistogramOp::Subtraction, a.minus(b)),
    };
    let Ok((mut value, told)) = result else {
        notes.incompatible_bucket_layout(op.symbol(), span);
        return None;
    };
    if op == BinaryOp::Sub {
        value.hint = quorate_model::CounterResetHint::Gauge;
    }
    if told.reconciled {
        notes.mismatched_custom_buckets(name, span);
    }
    if told.collision {
        notes.counter_reset_collision(name, span);
    }
    Some(Outcome { value: Point::Histogram(Arc::new(value)), keep: true })
}
