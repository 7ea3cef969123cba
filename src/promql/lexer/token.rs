//! Tokens, and how error messages call them.

use crate::ast::{AggregateOp, BinaryOp, Span};
use crate::go_fmt::quote;

/// One token and its place in the query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Token {
    pub(crate) kind: TokenKind,
    pub(crate) span: Span,
}

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenKind {
    Eof,
    Identifier,
    MetricIdentifier,
    Number,
    Duration,
    String,
    LeftParen,
    RightParen,
    LeftBrace,
    RightBrace,
    LeftBracket,
    RightBracket,
    Comma,
    Colon,
    /// `=`
    Assign,
    /// `=~`
    EqualRegex,
    /// `!~`
    NotEqualRegex,
    At,
    /// An operator; `!=` inside braces too.
    Binary(BinaryOp),
    Aggregate(AggregateOp),
    Keyword(Keyword),
}

/// A word with a meaning of its own at some places. Most are names elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keyword {
    Offset,
    Smoothed,
    Anchored,
    By,
    Without,
    On,
    Ignoring,
    GroupLeft,
    GroupRight,
    Fill,
    FillLeft,
    FillRight,
    Bool,
    Start,
    End,
    Step,
    Range,
    MaxOf,
    MinOf,
}

impl Keyword {
    /// Whether it stands for a value in duration expressions.
    pub(crate) fn is_duration(self) -> bool {
        matches!(self, Self::Step | Self::Range | Self::MaxOf | Self::MinOf)
    }

    /// Whether it is the name of a function, and of the pseudo functions of `@`.
    pub(crate) fn is_function(self) -> bool {
        self.is_duration() || matches!(self, Self::Start | Self::End)
    }
}

impl TokenKind {
    /// The kind of a word that is no plain identifier. Case is ignored.
    pub(crate) fn of_word(word: &str) -> Option<Self> {
        let mut lower = [0; 16];
        let lower = lower.get_mut(..word.len())?;
        lower.copy_from_slice(word.as_bytes());
        lower.make_ascii_lowercase();
        Some(match &*lower {
            b"and" => Self::Binary(BinaryOp::And),
            b"or" => Self::Binary(BinaryOp::Or),
            b"unless" => Self::Binary(BinaryOp::Unless),
            b"atan2" => Self::Binary(BinaryOp::Atan2),
            b"sum" => Self::Aggregate(AggregateOp::Sum),
            b"avg" => Self::Aggregate(AggregateOp::Avg),
            b"count" => Self::Aggregate(AggregateOp::Count),
            b"min" => Self::Aggregate(AggregateOp::Min),
            b"max" => Self::Aggregate(AggregateOp::Max),
            b"group" => Self::Aggregate(AggregateOp::Group),
            b"stddev" => Self::Aggregate(AggregateOp::Stddev),
            b"stdvar" => Self::Aggregate(AggregateOp::Stdvar),
            b"topk" => Self::Aggregate(AggregateOp::Topk),
            b"bottomk" => Self::Aggregate(AggregateOp::Bottomk),
            b"count_values" => Self::Aggregate(AggregateOp::CountValues),
            b"quantile" => Self::Aggregate(AggregateOp::Quantile),
            b"limitk" => Self::Aggregate(AggregateOp::Limitk),
            b"limit_ratio" => Self::Aggregate(AggregateOp::LimitRatio),
            b"inf" | b"nan" => Self::Number,
            other => Self::Keyword(keyword(other)?),
        })
    }

    /// Whether the token may be the name of a metric in front of braces.
    pub(crate) fn is_metric_name(self) -> bool {
        match self {
            Self::Identifier | Self::MetricIdentifier | Self::Aggregate(_) => true,
            Self::Binary(op) => op.is_set(),
            Self::Keyword(keyword) => !matches!(
                keyword,
                Keyword::Bool | Keyword::On | Keyword::Ignoring | Keyword::GroupLeft | Keyword::GroupRight
            ),
            _ => false,
        }
    }

    /// Whether the token may be a label name in `by (...)` and its like.
    pub(crate) fn is_label_name(self) -> bool {
        match self {
            Self::Identifier | Self::MetricIdentifier | Self::Aggregate(_) => true,
            Self::Binary(op) => op.is_set() || op == BinaryOp::Atan2,
            Self::Keyword(keyword) => keyword != Keyword::Without,
            _ => false,
        }
    }

    /// How messages about an unexpected token of this kind and this text call it.
    pub(crate) fn describe(self, text: &str) -> String {
        match self {
            Self::Eof => "end of input".to_owned(),
            Self::Identifier => format!("identifier {}", quote(text)),
            Self::MetricIdentifier => format!("metric identifier {}", quote(text)),
            Self::String => format!("string {}", quote_short(text)),
            Self::Number => format!("number {}", quote_short(text)),
            Self::Duration => format!("duration {}", quote_short(text)),
            Self::Binary(_) | Self::At | Self::EqualRegex | Self::NotEqualRegex => format!("<op:{text}>"),
            Self::Aggregate(_) => format!("<aggr:{text}>"),
            Self::Keyword(keyword) if !keyword.is_function() => format!("<{text}>"),
            _ => quote_short(text),
        }
    }
}

fn keyword(lower: &[u8]) -> Option<Keyword> {
    Some(match lower {
        b"offset" => Keyword::Offset,
        b"smoothed" => Keyword::Smoothed,
        b"anchored" => Keyword::Anchored,
        b"by" => Keyword::By,
        b"without" => Keyword::Without,
        b"on" => Keyword::On,
        b"ignoring" => Keyword::Ignoring,
        b"group_left" => Keyword::GroupLeft,
        b"group_right" => Keyword::GroupRight,
        b"fill" => Keyword::Fill,
        b"fill_left" => Keyword::FillLeft,
        b"fill_right" => Keyword::FillRight,
        b"bool" => Keyword::Bool,
        b"start" => Keyword::Start,
        b"end" => Keyword::End,
        b"step" => Keyword::Step,
        b"range" => Keyword::Range,
        b"max_of" => Keyword::MaxOf,
        b"min_of" => Keyword::MinOf,
        _ => return None,
    })
}

/// Quoted, only the first ten characters of longer texts.
fn quote_short(text: &str) -> String {
    if text.len() <= 10 {
        return quote(text);
    }
    format!("{}...", quote(&text.chars().take(10).collect::<String>()))
}
