//! The functions of PromQL: their signatures, and those that need no window of samples.
//!
//! Knows what each function computes from the values of one step. Does not know series selection, windows or
//! steps: the modules work on plain numbers, labels and slices, and the evaluator calls them.

mod calendar;
pub(crate) mod classic;
pub(crate) mod labels;
pub(crate) mod math;
pub(crate) mod order;
pub mod table;

pub use table::{Function, FunctionId};
