//! Functions of one number, and of a number and bounds.

use super::calendar;
use super::table::FunctionId;
use std::f64::consts::PI;

/// The function `id` if it maps each float of a vector on its own. Calendar functions take seconds since the
/// Unix epoch.
pub(crate) fn of_one(id: FunctionId) -> Option<fn(f64) -> f64> {
    Some(match id {
        FunctionId::Abs => f64::abs,
        FunctionId::Ceil => f64::ceil,
        FunctionId::Floor => f64::floor,
        FunctionId::Exp => f64::exp,
        FunctionId::Sqrt => f64::sqrt,
        FunctionId::Ln => f64::ln,
        FunctionId::Log2 => f64::log2,
        FunctionId::Log10 => f64::log10,
        FunctionId::Sgn => sgn,
        FunctionId::Sin => f64::sin,
        FunctionId::Cos => f64::cos,
        FunctionId::Tan => f64::tan,
        FunctionId::Asin => f64::asin,
        FunctionId::Acos => f64::acos,
        FunctionId::Atan => f64::atan,
        FunctionId::Sinh => f64::sinh,
        FunctionId::Cosh => f64::cosh,
        FunctionId::Tanh => f64::tanh,
        FunctionId::Asinh => f64::asinh,
        FunctionId::Acosh => f64::acosh,
        FunctionId::Atanh => f64::atanh,
        FunctionId::Rad => |v| v * PI / 180.0,
        FunctionId::Deg => |v| v * 180.0 / PI,
        _ => return calendar::of_seconds(id),
    })
}

/// -1, 0 or 1 by the sign; NaN and zeros stay what they are.
fn sgn(value: f64) -> f64 {
    if value < 0.0 {
        -1.0
    } else if value > 0.0 {
        1.0
    } else {
        value
    }
}

/// `round(value, to_nearest)`: ties go up.
pub(crate) fn round(value: f64, to_nearest: f64) -> f64 {
    // The inverse loses less precision.
    let inverse = 1.0 / to_nearest;
    (value * inverse + 0.5).floor() / inverse
}

/// `value` within bounds, or `None` where there is nothing between them.
pub(crate) fn clamp(value: f64, min: f64, max: f64) -> Option<f64> {
    if max < min { None } else { Some(max_of(min, min_of(max, value))) }
}

/// The smaller number. -Inf wins over NaN, NaN over the rest; -0 is below 0.
pub(crate) fn min_of(a: f64, b: f64) -> f64 {
    if a == f64::NEG_INFINITY || b == f64::NEG_INFINITY {
        f64::NEG_INFINITY
    } else if a.is_nan() || b.is_nan() {
        f64::NAN
    } else if a == 0.0 && b == 0.0 {
        if a.is_sign_negative() { a } else { b }
    } else {
        a.min(b)
    }
}

/// The larger number. +Inf wins over NaN, NaN over the rest; 0 is above -0.
pub(crate) fn max_of(a: f64, b: f64) -> f64 {
    -min_of(-a, -b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_round_up() {
        assert_eq!(round(-1.5, 1.0), -1.0);
        assert_eq!(round(2.5, 1.0), 3.0);
        assert_eq!(round(0.0249, 0.01), 0.02);
        assert_eq!(round(127.0, 5.0), 125.0);
        assert!(round(1.0, 0.0).is_nan());
    }

    #[test]
    fn clamping_keeps_nan_unless_a_bound_is_infinite_on_its_side() {
        assert_eq!(clamp(5.0, 1.0, 3.0), Some(3.0));
        assert_eq!(clamp(5.0, 3.0, 1.0), None);
        assert!(clamp(f64::NAN, 1.0, 3.0).is_some_and(f64::is_nan));
        assert_eq!(max_of(f64::NAN, f64::INFINITY), f64::INFINITY);
        assert_eq!(min_of(-0.0, 0.0).to_bits(), (-0.0f64).to_bits());
        assert_eq!(max_of(-0.0, 0.0).to_bits(), 0.0f64.to_bits());
    }

    #[test]
    fn signs_of_zero_and_nan_survive() {
        let sgn = of_one(FunctionId::Sgn).unwrap();
        assert_eq!((sgn(-3.0), sgn(0.5), sgn(0.0)), (-1.0, 1.0, 0.0));
        assert!(sgn(f64::NAN).is_nan());
        assert!(of_one(FunctionId::Rate).is_none());
    }
}
