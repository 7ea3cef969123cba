//! The signatures of all PromQL functions.
//!
//! Knows names, argument types and which functions are experimental. Does not know what they compute.
//! Source: Prometheus 3.14, "Query functions".

use crate::ast::ValueType;

/// The signature of a function.
#[derive(Debug)]
pub struct Function {
    /// Which function it is.
    pub id: FunctionId,
    /// Its name in queries.
    pub name: &'static str,
    /// Types of the arguments. The last one repeats if the function is variadic.
    pub arg_types: &'static [ValueType],
    /// 0: exactly the listed arguments. n > 0: the last listed one may be missing or stand up to n times.
    /// -1: it may be missing or stand any number of times.
    pub variadic: i32,
    /// Type of the result.
    pub return_type: ValueType,
    /// Whether it needs the feature of experimental functions.
    pub experimental: bool,
}

impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Function {}

impl Function {
    /// The function `name`, or `None`. O(log functions).
    pub fn find(name: &str) -> Option<&'static Self> {
        FUNCTIONS.binary_search_by(|f| f.name.cmp(name)).ok().map(|at| &FUNCTIONS[at])
    }

    /// All functions, sorted by name.
    pub fn all() -> &'static [Self] {
        FUNCTIONS
    }
}

macro_rules! flag {
    () => {
        false
    };
    (experimental) => {
        true
    };
}

macro_rules! functions {
    ($($id:ident $name:ident ($($arg:ident),*) $variadic:literal -> $result:ident $($experimental:ident)?;)*) => {
        /// The functions by name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "named as in PromQL")]
        pub enum FunctionId {
            $($id,)*
        }

        static FUNCTIONS: &[Function] = &[
            $(Function {
                id: FunctionId::$id,
                name: stringify!($name),
                arg_types: &[$(ValueType::$arg),*],
                variadic: $variadic,
                return_type: ValueType::$result,
                experimental: flag!($($experimental)?),
            },)*
        ];
    };
}

functions! {
    Abs abs (Vector) 0 -> Vector;
    Absent absent (Vector) 0 -> Vector;
    AbsentOverTime absent_over_time (Matrix) 0 -> Vector;
    Acos acos (Vector) 0 -> Vector;
    Acosh acosh (Vector) 0 -> Vector;
    Asin asin (Vector) 0 -> Vector;
    Asinh asinh (Vector) 0 -> Vector;
    Atan atan (Vector) 0 -> Vector;
    Atanh atanh (Vector) 0 -> Vector;
    AvgOverTime avg_over_time (Matrix) 0 -> Vector;
    Ceil ceil (Vector) 0 -> Vector;
    Changes changes (Matrix) 0 -> Vector;
    Clamp clamp (Vector, Scalar, Scalar) 0 -> Vector;
    ClampMax clamp_max (Vector, Scalar) 0 -> Vector;
    ClampMin clamp_min (Vector, Scalar) 0 -> Vector;
    Cos cos (Vector) 0 -> Vector;
    Cosh cosh (Vector) 0 -> Vector;
    CountOverTime count_over_time (Matrix) 0 -> Vector;
    DayOfMonth day_of_month (Vector) 1 -> Vector;
    DayOfWeek day_of_week (Vector) 1 -> Vector;
    DayOfYear day_of_year (Vector) 1 -> Vector;
    DaysInMonth days_in_month (Vector) 1 -> Vector;
    Deg deg (Vector) 0 -> Vector;
    Delta delta (Matrix) 0 -> Vector;
    Deriv deriv (Matrix) 0 -> Vector;
    DoubleExponentialSmoothing double_exponential_smoothing (Matrix, Scalar, Scalar) 0 -> Vector experimental;
    End end () 0 -> Scalar experimental;
    Exp exp (Vector) 0 -> Vector;
    FirstOverTime first_over_time (Matrix) 0 -> Vector;
    Floor floor (Vector) 0 -> Vector;
    HistogramAvg histogram_avg (Vector) 0 -> Vector;
    HistogramCount histogram_count (Vector) 0 -> Vector;
    HistogramFraction histogram_fraction (Scalar, Scalar, Vector) 0 -> Vector;
    HistogramQuantile histogram_quantile (Scalar, Vector) 0 -> Vector;
    HistogramQuantiles histogram_quantiles (Vector, String, Scalar, Scalar) 9 -> Vector experimental;
    HistogramStddev histogram_stddev (Vector) 0 -> Vector;
    HistogramStdvar histogram_stdvar (Vector) 0 -> Vector;
    HistogramSum histogram_sum (Vector) 0 -> Vector;
    Hour hour (Vector) 1 -> Vector;
    Idelta idelta (Matrix) 0 -> Vector;
    Increase increase (Matrix) 0 -> Vector;
    Info info (Vector, Vector) 1 -> Vector experimental;
    Irate irate (Matrix) 0 -> Vector;
    LabelJoin label_join (Vector, String, String, String) -1 -> Vector;
    LabelReplace label_replace (Vector, String, String, String, String) 0 -> Vector;
    LastOverTime last_over_time (Matrix) 0 -> Vector;
    Ln ln (Vector) 0 -> Vector;
    Log10 log10 (Vector) 0 -> Vector;
    Log2 log2 (Vector) 0 -> Vector;
    MadOverTime mad_over_time (Matrix) 0 -> Vector experimental;
    MaxOf max_of (Scalar, Scalar) 0 -> Scalar experimental;
    MaxOverTime max_over_time (Matrix) 0 -> Vector;
    MinOf min_of (Scalar, Scalar) 0 -> Scalar experimental;
    MinOverTime min_over_time (Matrix) 0 -> Vector;
    Minute minute (Vector) 1 -> Vector;
    Month month (Vector) 1 -> Vector;
    Pi pi () 0 -> Scalar;
    PredictLinear predict_linear (Matrix, Scalar) 0 -> Vector;
    PresentOverTime present_over_time (Matrix) 0 -> Vector;
    QuantileOverTime quantile_over_time (Scalar, Matrix) 0 -> Vector;
    Rad rad (Vector) 0 -> Vector;
    Range range () 0 -> Scalar experimental;
    Rate rate (Matrix) 0 -> Vector;
    Resets resets (Matrix) 0 -> Vector;
    Round round (Vector, Scalar) 1 -> Vector;
    Scalar scalar (Vector) 0 -> Scalar;
    Sgn sgn (Vector) 0 -> Vector;
    Sin sin (Vector) 0 -> Vector;
    Sinh sinh (Vector) 0 -> Vector;
    Sort sort (Vector) 0 -> Vector;
    SortByLabel sort_by_label (Vector, String) -1 -> Vector experimental;
    SortByLabelDesc sort_by_label_desc (Vector, String) -1 -> Vector experimental;
    SortDesc sort_desc (Vector) 0 -> Vector;
    Sqrt sqrt (Vector) 0 -> Vector;
    Start start () 0 -> Scalar experimental;
    StartTimestamp start_timestamp (Vector) 0 -> Vector experimental;
    StddevOverTime stddev_over_time (Matrix) 0 -> Vector;
    StdvarOverTime stdvar_over_time (Matrix) 0 -> Vector;
    Step step () 0 -> Scalar experimental;
    SumOverTime sum_over_time (Matrix) 0 -> Vector;
    Tan tan (Vector) 0 -> Vector;
    Tanh tanh (Vector) 0 -> Vector;
    Time time () 0 -> Scalar;
    Timestamp timestamp (Vector) 0 -> Vector;
    TsOfFirstOverTime ts_of_first_over_time (Matrix) 0 -> Vector experimental;
    TsOfLastOverTime ts_of_last_over_time (Matrix) 0 -> Vector experimental;
    TsOfMaxOverTime ts_of_max_over_time (Matrix) 0 -> Vector experimental;
    TsOfMinOverTime ts_of_min_over_time (Matrix) 0 -> Vector experimental;
    Vector vector (Scalar) 0 -> Vector;
    Year year (Vector) 1 -> Vector;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_is_found_by_its_name() {
        for function in Function::all() {
            assert_eq!(Function::find(function.name).map(|f| f.id), Some(function.id));
        }
        assert!(Function::find("ratee").is_none());
        assert!(Function::find("info").unwrap().experimental);
        assert!(!Function::find("rate").unwrap().experimental);
    }
}
