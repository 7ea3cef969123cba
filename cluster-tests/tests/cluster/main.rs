//! Scenarios against the real binary, and the checks of the tree itself.

mod scenarios;
mod tidy;
