//! Window kernels: functions of the samples of one series inside a moving window, for all steps at once.
//!
//! Knows samples, windows and the float and histogram lanes of one series. Does not know labels beyond the metric
//! name (for annotations), selectors or plans. Path: `eval::windows` -> **here** -> `histogram`.
//! K1: a window is open on the left: `(end - range, end]`. K2: stale markers are gone before a kernel runs.
//! K3: every kernel gives what a fresh scan of the window gives; the property tests compare the two.
//! K4: samples are counted where they are looked at, each time they are, and the guard is asked in between.
//! Cost: window ends move by two indices, O(1) amortised a step. A kernel scans each window again where windows
//! hardly overlap, which is then as cheap, and slides (two-stack sums, monotonic queues, prefix counts) where
//! they do.

pub(crate) mod average;
pub(crate) mod counting;
pub(crate) mod extended;
pub(crate) mod extreme;
pub(crate) mod instant_delta;
pub(crate) mod kahan;
pub(crate) mod output;
pub(crate) mod picking;
pub(crate) mod quantile;
pub(crate) mod rate;
pub(crate) mod regression;
pub(crate) mod sliding;
pub(crate) mod smoothing;
pub(crate) mod starts;
pub(crate) mod window;

#[cfg(test)]
mod tests;
