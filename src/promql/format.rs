//! From a tree back to text, as Prometheus writes it: on one line, or split where lines get long.

use crate::ast::{
    AggregateExpr, AtModifier, BinaryExpr, Cardinality, DurationArg, DurationExpr, DurationKind, DurationOp,
    Expr, MatrixSelector, NumberLiteral, RangeMode, SubqueryExpr, VectorSelector,
};
use crate::go_fmt::{duration, float_plain, float_short, quote};
use quorate_model::{METRIC_NAME, MatchOp, Matcher};
use std::fmt::{self, Write};

/// Lines longer than this are split.
const MAX_LINE: usize = 100;

/// The query with one part a line where it is longer than 100 bytes; Prometheus' `format_query`.
pub fn format(expr: &Expr) -> String {
    let mut out = String::new();
    pretty(expr, 0, &mut out);
    out
}

impl fmt::Display for Expr {
    /// Writes the query on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => f.write_str(&number_text(number)),
            Self::String(string) => match &string.not_utf8 {
                Some(quoted) => f.write_str(quoted),
                None => f.write_str(&quote(&string.value)),
            },
            Self::Vector(selector) => vector(f, selector),
            Self::Matrix(matrix) => matrix_selector(f, matrix),
            Self::Subquery(subquery) => write!(f, "{}{}", subquery.expr, subquery_suffix(subquery)),
            Self::Unary(unary) => write!(f, "{}{}", unary.op, unary.expr),
            Self::Paren(paren) => write!(f, "({})", paren.expr),
            Self::StepInvariant(inner) => inner.fmt(f),
            Self::Binary(binary) => {
                write!(f, "{} {} {}", binary.lhs, operator_text(binary), binary.rhs)
            }
            Self::Aggregate(aggregate) => {
                write!(f, "{}(", aggregate_text(aggregate))?;
                if let Some(param) = &aggregate.param {
                    write!(f, "{param}, ")?;
                }
                write!(f, "{})", aggregate.expr)
            }
            Self::Call(call) => {
                write!(f, "{}(", call.function.name)?;
                for (at, arg) in call.args.iter().enumerate() {
                    write!(f, "{}{arg}", if at > 0 { ", " } else { "" })?;
                }
                f.write_char(')')
            }
        }
    }
}

fn pretty(expr: &Expr, level: usize, out: &mut String) {
    match expr {
        Expr::StepInvariant(inner) => pretty(inner, level, out),
        Expr::Unary(unary) => {
            indent(level, out);
            let _ = write!(out, "{}", unary.op);
            let start = out.len();
            pretty(&unary.expr, level, out);
            let blanks = out[start..].len() - out[start..].trim_start().len();
            out.drain(start..start + blanks);
        }
        _ if is_short(expr) => {
            // Prometheus does not indent a subquery that fits its line.
            if !matches!(expr, Expr::Subquery(_)) {
                indent(level, out);
            }
            let _ = write!(out, "{expr}");
        }
        Expr::Subquery(subquery) => {
            pretty(&subquery.expr, level, out);
            out.push_str(&subquery_suffix(subquery));
        }
        Expr::Binary(binary) => {
            pretty(&binary.lhs, level + 1, out);
            out.push('\n');
            indent(level, out);
            out.push_str(&operator_text(binary));
            out.push('\n');
            pretty(&binary.rhs, level + 1, out);
        }
        Expr::Aggregate(aggregate) => {
            let args = aggregate.param.as_deref().into_iter().chain([&*aggregate.expr]);
            call(&aggregate_text(aggregate), args, level, out);
        }
        Expr::Call(e) => call(e.function.name, e.args.iter(), level, out),
        Expr::Paren(paren) => call("", [&*paren.expr], level, out),
        Expr::Number(_) | Expr::String(_) | Expr::Vector(_) | Expr::Matrix(_) => {
            indent(level, out);
            let _ = write!(out, "{expr}");
        }
    }
}

/// `name(` and `)`, with each argument on a line of its own between them.
fn call<'e>(name: &str, args: impl IntoIterator<Item = &'e Expr>, level: usize, out: &mut String) {
    indent(level, out);
    out.push_str(name);
    out.push('(');
    for (at, arg) in args.into_iter().enumerate() {
        out.push_str(if at > 0 { ",\n" } else { "\n" });
        pretty(arg, level + 1, out);
    }
    out.push('\n');
    indent(level, out);
    out.push(')');
}

fn indent(level: usize, out: &mut String) {
    (0..level).for_each(|_| out.push_str("  "));
}

/// Whether the expression fits its line. Looks no further than that.
fn is_short(expr: &Expr) -> bool {
    struct Room(usize);
    impl Write for Room {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0 = self.0.checked_sub(text.len()).ok_or(fmt::Error)?;
            Ok(())
        }
    }
    write!(Room(MAX_LINE), "{expr}").is_ok()
}

fn number_text(number: &NumberLiteral) -> String {
    if number.is_duration { duration_seconds(number.value) } else { float_plain(number.value) }
}

fn duration_seconds(seconds: f64) -> String {
    let text = duration((seconds.abs() * 1e9) as u64 / 1_000_000);
    if seconds < 0.0 { format!("-{text}") } else { text }
}

fn duration_ms(ms: i64) -> String {
    let text = duration(ms.unsigned_abs());
    if ms < 0 { format!("-{text}") } else { text }
}

fn aggregate_text(aggregate: &AggregateExpr) -> String {
    let labels = labels_text(&aggregate.grouping);
    match (aggregate.without, aggregate.grouping.is_empty()) {
        (true, _) => format!("{} without ({labels}) ", aggregate.op),
        (false, false) => format!("{} by ({labels}) ", aggregate.op),
        (false, true) => aggregate.op.to_string(),
    }
}

/// The operator with its modifiers.
fn operator_text(binary: &BinaryExpr) -> String {
    let mut out = binary.op.to_string();
    if binary.return_bool {
        out.push_str(" bool");
    }
    let Some(matching) = &binary.matching else { return out };
    let group = match matching.card {
        Cardinality::ManyToOne => Some("left"),
        Cardinality::OneToMany => Some("right"),
        _ => None,
    };
    if !matching.labels.is_empty() || matching.on || group.is_some() {
        let keyword = if matching.on { "on" } else { "ignoring" };
        let _ = write!(out, " {keyword} ({})", labels_text(&matching.labels));
    }
    if let Some(side) = group {
        let _ = write!(out, " group_{side} ({})", labels_text(&matching.include));
    }
    let fill = |name, value: Option<f64>| {
        value.map(|value| format!(" {name} ({})", float_short(value))).unwrap_or_default()
    };
    if matching.fill_left.is_some() && matching.fill_left == matching.fill_right {
        out.push_str(&fill("fill", matching.fill_left));
    } else {
        out.push_str(&fill("fill_left", matching.fill_left));
        out.push_str(&fill("fill_right", matching.fill_right));
    }
    out
}

fn labels_text(labels: &[String]) -> String {
    let quoted = |label: &String| if is_plain_name(label) { label.clone() } else { quote(label) };
    labels.iter().map(quoted).collect::<Vec<_>>().join(", ")
}

/// Whether a label name needs no quotes.
pub(crate) fn is_plain_name(name: &str) -> bool {
    let is_plain = |c: char| c == '_' || c.is_ascii_alphanumeric();
    name.chars().all(is_plain) && name.starts_with(|c: char| !c.is_ascii_digit())
}

/// A matcher as in a selector, its value quoted, its name where needed.
pub(crate) fn matcher_text(matcher: &Matcher) -> String {
    let name = matcher.name();
    let name = if is_plain_name(name) { name.to_owned() } else { quote(name) };
    format!("{name}{}{}", matcher.op(), quote(matcher.value()))
}

fn braces(f: &mut fmt::Formatter<'_>, selector: &VectorSelector) -> fmt::Result {
    let is_name = |m: &Matcher| {
        m.name() == METRIC_NAME
            && m.op() == MatchOp::Equal
            && m.value() == selector.name
            && !m.value().is_empty()
    };
    let mut matchers: Vec<_> = selector.matchers.iter().filter(|m| !is_name(m)).map(matcher_text).collect();
    matchers.sort_unstable();
    f.write_str(&selector.name)?;
    if matchers.is_empty() { Ok(()) } else { write!(f, "{{{}}}", matchers.join(",")) }
}

fn vector(f: &mut fmt::Formatter<'_>, selector: &VectorSelector) -> fmt::Result {
    braces(f, selector)?;
    f.write_str(&at_text(selector.at))?;
    f.write_str(mode_text(selector.mode))?;
    f.write_str(&offset_text(selector.offset.as_ref()))
}

fn matrix_selector(f: &mut fmt::Formatter<'_>, matrix: &MatrixSelector) -> fmt::Result {
    let selector = &matrix.selector;
    braces(f, selector)?;
    write!(f, "[{}]{}", argument_text(&matrix.range), mode_text(selector.mode))?;
    write!(f, "{}{}", at_text(selector.at), offset_text(selector.offset.as_ref()))
}

fn subquery_suffix(subquery: &SubqueryExpr) -> String {
    let range = argument_text(&subquery.range);
    let step = subquery.step.as_ref().map(argument_text).unwrap_or_default();
    format!("[{range}:{step}]{}{}", at_text(subquery.at), offset_text(subquery.offset.as_ref()))
}

fn at_text(at: Option<AtModifier>) -> String {
    match at {
        None => String::new(),
        Some(AtModifier::Start) => " @ start()".to_owned(),
        Some(AtModifier::End) => " @ end()".to_owned(),
        Some(AtModifier::Timestamp(ms)) => format!(" @ {:.3}", ms as f64 / 1000.0),
    }
}

fn mode_text(mode: RangeMode) -> &'static str {
    match mode {
        RangeMode::Plain => "",
        RangeMode::Anchored => " anchored",
        RangeMode::Smoothed => " smoothed",
    }
}

fn offset_text(offset: Option<&DurationArg>) -> String {
    offset.map(|offset| format!(" offset {}", argument_text(offset))).unwrap_or_default()
}

fn argument_text(argument: &DurationArg) -> String {
    match argument {
        DurationArg::Fixed(ms) => duration_ms(*ms),
        DurationArg::Computed(expr) => expr.to_string(),
    }
}

impl fmt::Display for DurationExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.wrapped {
            f.write_char('(')?;
        }
        match &self.kind {
            DurationKind::Number { value, is_duration: true } => f.write_str(&duration_seconds(*value))?,
            DurationKind::Number { value, .. } => f.write_str(&float_plain(*value))?,
            DurationKind::Step => f.write_str("step()")?,
            DurationKind::Range => f.write_str("range()")?,
            DurationKind::Neg(inner) => write!(f, "-{inner}")?,
            DurationKind::Binary(op @ (DurationOp::MinOf | DurationOp::MaxOf), left, right) => {
                write!(f, "{}({left}, {right})", op.symbol())?;
            }
            DurationKind::Binary(op, left, right) => write!(f, "{left} {} {right}", op.symbol())?,
        }
        if self.wrapped { f.write_char(')') } else { Ok(()) }
    }
}
