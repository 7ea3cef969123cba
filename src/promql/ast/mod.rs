//! The syntax tree of a PromQL query, with the place of every node in the text.
//!
//! Knows the grammar of Prometheus 3.x, all experimental parts included. Does not know samples, time ranges or
//! how a node is evaluated. Path: `parser` -> **here** -> `engine`, `format`, `parse_json`.
//! No tree is deeper than [`MAX_DEPTH`], so walking it by recursion is safe.

#[cfg(test)]
mod depth;
mod ops;

pub use ops::{AggregateOp, BinaryOp, DurationOp, UnaryOp};

use crate::functions::Function;
use quorate_model::Matcher;

/// Deepest tree that the parser builds. Each level of parentheses, calls and operators counts one.
pub const MAX_DEPTH: usize = 500;

/// A half-open range of byte positions in the query text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Span {
    /// Position of the first byte.
    pub start: usize,
    /// Position after the last byte.
    pub end: usize,
}

impl Span {
    /// The range from `start` to before `end`.
    pub fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    /// The range from the start of this one to the end of `other`.
    pub fn to(self, other: Self) -> Self {
        Self { start: self.start, end: other.end }
    }
}

/// The type that an expression evaluates to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ValueType {
    /// One float for each step.
    Scalar,
    /// A set of series with one sample each, for each step.
    Vector,
    /// A set of series with a window of samples each, for each step.
    Matrix,
    /// A string.
    String,
}

impl ValueType {
    /// The name in the HTTP API's JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Vector => "vector",
            Self::Matrix => "matrix",
            Self::String => "string",
        }
    }

    /// The name in error messages and documentation.
    pub fn documented(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Vector => "instant vector",
            Self::Matrix => "range vector",
            Self::String => "string",
        }
    }
}

/// One node of the tree.
#[derive(Debug, Clone, PartialEq)]
pub enum Expr {
    /// A number, which may have been written as a duration.
    Number(NumberLiteral),
    /// A string.
    String(StringLiteral),
    /// An instant vector selector.
    Vector(VectorSelector),
    /// A range vector selector.
    Matrix(MatrixSelector),
    /// `expr[range:step]`.
    Subquery(SubqueryExpr),
    /// `-expr` or `+expr`; a sign before a number is folded into the number.
    Unary(UnaryExpr),
    /// `lhs op rhs`.
    Binary(BinaryExpr),
    /// An aggregation over series.
    Aggregate(AggregateExpr),
    /// A function call.
    Call(CallExpr),
    /// `(expr)`.
    Paren(ParenExpr),
    /// An expression that gives the same result at each step. The parser does not build it, a planner may.
    StepInvariant(Box<Expr>),
}

/// A number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NumberLiteral {
    /// Its value; durations are in seconds.
    pub value: f64,
    /// Whether it was written as a duration such as `5m`.
    pub is_duration: bool,
    /// Place in the query, the sign included.
    pub span: Span,
}

/// A string, unquoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StringLiteral {
    /// Its value, with replacement characters for what is not UTF-8.
    pub value: String,
    /// If its escapes give bytes that are not UTF-8: the value quoted, with those bytes escaped.
    pub not_utf8: Option<Box<str>>,
    /// Place in the query, the quotes included.
    pub span: Span,
}

/// The `@` modifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtModifier {
    /// `@ 1234.5`: that time, milliseconds.
    Timestamp(i64),
    /// `@ start()`: start of the query range.
    Start,
    /// `@ end()`: end of the query range.
    End,
}

/// A duration in brackets or after `offset`.
#[derive(Debug, Clone, PartialEq)]
pub enum DurationArg {
    /// Known when parsing, in milliseconds.
    Fixed(i64),
    /// To be computed from the step and the range of the query, see [`crate::durations`].
    Computed(Box<DurationExpr>),
}

/// An expression that gives a duration in seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct DurationExpr {
    /// What it computes.
    pub kind: DurationKind,
    /// Whether it stands in parentheses.
    pub wrapped: bool,
    /// Place in the query.
    pub span: Span,
}

/// What a duration expression computes.
#[derive(Debug, Clone, PartialEq)]
pub enum DurationKind {
    /// A literal.
    Number {
        /// Seconds.
        value: f64,
        /// Whether it was written as a duration such as `5m`.
        is_duration: bool,
    },
    /// `step()`: the step of the query, zero in instant queries.
    Step,
    /// `range()`: end less start of the query.
    Range,
    /// The sign changed. A plus sign leaves no trace.
    Neg(Box<DurationExpr>),
    /// `lhs op rhs`, or `min_of(lhs, rhs)` and `max_of(lhs, rhs)`.
    Binary(DurationOp, Box<DurationExpr>, Box<DurationExpr>),
}

/// Which samples around the ends of a window a range vector function sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RangeMode {
    /// Those inside the window.
    #[default]
    Plain,
    /// `anchored`: values at both ends of the window are taken from the last sample before them.
    Anchored,
    /// `smoothed`: values at both ends of the window are interpolated.
    Smoothed,
}

/// An instant vector selector.
#[derive(Debug, Clone, PartialEq)]
pub struct VectorSelector {
    /// The metric name before the braces, or empty. `matchers` ends with its matcher then.
    pub name: String,
    /// All matchers in the order of the query; the one of `name` is the last.
    pub matchers: Vec<Matcher>,
    /// The offset, `None` if there is none or it is zero.
    pub offset: Option<DurationArg>,
    /// The `@` modifier.
    pub at: Option<AtModifier>,
    /// `anchored` or `smoothed`.
    pub mode: RangeMode,
    /// Whether it is the second argument of `info()`, which selects labels and may match everything.
    pub is_label_selector: bool,
    /// Place in the query, modifiers included (those of a range selector stand in its own span only).
    pub span: Span,
}

/// A range vector selector. Offset, `@` and mode stand in the inner selector.
#[derive(Debug, Clone, PartialEq)]
pub struct MatrixSelector {
    /// What is selected.
    pub selector: VectorSelector,
    /// Length of the window.
    pub range: DurationArg,
    /// Place in the query, modifiers included.
    pub span: Span,
}

/// A subquery.
#[derive(Debug, Clone, PartialEq)]
pub struct SubqueryExpr {
    /// What is evaluated at each of its steps; an instant vector.
    pub expr: Box<Expr>,
    /// Length of the window.
    pub range: DurationArg,
    /// Its step, `None` for the default one.
    pub step: Option<DurationArg>,
    /// The offset, `None` if there is none or it is zero.
    pub offset: Option<DurationArg>,
    /// The `@` modifier.
    pub at: Option<AtModifier>,
    /// Place in the query, modifiers included.
    pub span: Span,
}

/// A sign before an expression.
#[derive(Debug, Clone, PartialEq)]
pub struct UnaryExpr {
    /// The sign.
    pub op: UnaryOp,
    /// A scalar or an instant vector.
    pub expr: Box<Expr>,
    /// Place in the query.
    pub span: Span,
}

/// A binary operation.
#[derive(Debug, Clone, PartialEq)]
pub struct BinaryExpr {
    /// The operator.
    pub op: BinaryOp,
    /// Left operand.
    pub lhs: Box<Expr>,
    /// Right operand.
    pub rhs: Box<Expr>,
    /// The `bool` modifier: comparisons give 0 or 1 instead of dropping samples.
    pub return_bool: bool,
    /// How series are matched; `Some` exactly if both operands are instant vectors.
    pub matching: Option<VectorMatching>,
    /// Place in the query.
    pub span: Span,
}

/// How many series of each side may match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cardinality {
    /// One on each side.
    #[default]
    OneToOne,
    /// `group_left`: many on the left.
    ManyToOne,
    /// `group_right`: many on the right.
    OneToMany,
    /// Set operators.
    ManyToMany,
}

/// How series of two vectors are matched.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct VectorMatching {
    /// How many series of each side may match.
    pub card: Cardinality,
    /// The labels of `on` or `ignoring`.
    pub labels: Vec<String>,
    /// Whether `labels` are those that are compared (`on`), else those that are not (`ignoring`).
    pub on: bool,
    /// Labels of `group_left` or `group_right`, copied from the one side to the result.
    pub include: Vec<String>,
    /// Value that stands for a missing series on the left.
    pub fill_left: Option<f64>,
    /// Value that stands for a missing series on the right.
    pub fill_right: Option<f64>,
}

/// An aggregation.
#[derive(Debug, Clone, PartialEq)]
pub struct AggregateExpr {
    /// The operator.
    pub op: AggregateOp,
    /// What is aggregated; an instant vector.
    pub expr: Box<Expr>,
    /// The parameter, `Some` exactly if [`AggregateOp::has_param`].
    pub param: Option<Box<Expr>>,
    /// Labels of `by` or `without`.
    pub grouping: Vec<String>,
    /// Whether `grouping` are the labels left out.
    pub without: bool,
    /// Place in the query.
    pub span: Span,
}

/// A function call. Number and types of the arguments fit the function.
#[derive(Debug, Clone, PartialEq)]
pub struct CallExpr {
    /// The function.
    pub function: &'static Function,
    /// The arguments.
    pub args: Vec<Expr>,
    /// Place in the query.
    pub span: Span,
}

/// An expression in parentheses.
#[derive(Debug, Clone, PartialEq)]
pub struct ParenExpr {
    /// What stands inside.
    pub expr: Box<Expr>,
    /// Place in the query, parentheses included.
    pub span: Span,
}

impl Expr {
    /// The type that the expression evaluates to.
    pub fn value_type(&self) -> ValueType {
        match self {
            Self::Number(_) => ValueType::Scalar,
            Self::String(_) => ValueType::String,
            Self::Vector(_) | Self::Aggregate(_) => ValueType::Vector,
            Self::Matrix(_) | Self::Subquery(_) => ValueType::Matrix,
            Self::Unary(e) => e.expr.value_type(),
            Self::Paren(e) => e.expr.value_type(),
            Self::StepInvariant(e) => e.value_type(),
            Self::Call(e) => e.function.return_type,
            Self::Binary(e) => match (e.lhs.value_type(), e.rhs.value_type()) {
                (ValueType::Scalar, ValueType::Scalar) => ValueType::Scalar,
                _ => ValueType::Vector,
            },
        }
    }

    /// Place in the query.
    pub fn span(&self) -> Span {
        match self {
            Self::Number(e) => e.span,
            Self::String(e) => e.span,
            Self::Vector(e) => e.span,
            Self::Matrix(e) => e.span,
            Self::Subquery(e) => e.span,
            Self::Unary(e) => e.span,
            Self::Binary(e) => e.span,
            Self::Aggregate(e) => e.span,
            Self::Call(e) => e.span,
            Self::Paren(e) => e.span,
            Self::StepInvariant(e) => e.span(),
        }
    }

    /// The expression without parentheses and step-invariant marks around it.
    pub fn unwrapped(&self) -> &Self {
        match self {
            Self::Paren(e) => e.expr.unwrapped(),
            Self::StepInvariant(e) => e.unwrapped(),
            other => other,
        }
    }

    /// The direct parts of the expression, in the order in which they are written.
    pub fn children(&self) -> Vec<&Self> {
        match self {
            Self::Number(_) | Self::String(_) | Self::Vector(_) | Self::Matrix(_) => Vec::new(),
            Self::Subquery(e) => vec![&*e.expr],
            Self::Unary(e) => vec![&*e.expr],
            Self::Paren(e) => vec![&*e.expr],
            Self::StepInvariant(e) => vec![&**e],
            Self::Binary(e) => vec![&*e.lhs, &*e.rhs],
            Self::Aggregate(e) => e.param.as_deref().into_iter().chain([&*e.expr]).collect(),
            Self::Call(e) => e.args.iter().collect(),
        }
    }

    /// Calls `visit` with every selector of the expression and the range of its window, `None` for instant ones.
    pub fn for_each_selector<'a>(
        &'a self,
        visit: &mut dyn FnMut(&'a VectorSelector, Option<&'a DurationArg>),
    ) {
        match self {
            Self::Vector(selector) => visit(selector, None),
            Self::Matrix(matrix) => visit(&matrix.selector, Some(&matrix.range)),
            other => other.children().into_iter().for_each(|child| child.for_each_selector(visit)),
        }
    }
}
