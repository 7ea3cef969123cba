//! Where kernels put their results.

use crate::engine::QueryError;
use crate::eval::charge::Charge;
use crate::eval::points::Points;
use crate::histogram::FloatHistogram;
use std::sync::Arc;

/// The results of one series. The column of floats is charged already; histograms are charged as they come, because
/// only the kernel knows how large they are.
pub(crate) struct Output<'a, 'q> {
    points: &'a mut Points,
    memory: &'a mut Charge<'q>,
}

impl<'a, 'q> Output<'a, 'q> {
    /// Results that go to `points`; what they take is added to `memory`.
    pub(crate) fn new(points: &'a mut Points, memory: &'a mut Charge<'q>) -> Self {
        Self { points, memory }
    }

    /// Puts a float.
    #[inline]
    pub(crate) fn set(&mut self, step: usize, value: f64) {
        self.points.set(step, value);
    }

    /// Puts a histogram that the kernel has made.
    ///
    /// # Errors
    /// There is no memory left for it.
    pub(crate) fn set_histogram(&mut self, step: usize, h: Arc<FloatHistogram>) -> Result<(), QueryError> {
        self.memory.add(h.bytes())?;
        self.share_histogram(step, h)
    }

    /// Puts a histogram of the input, which is charged with it.
    ///
    /// # Errors
    /// There is no memory left for the column of histograms.
    pub(crate) fn share_histogram(&mut self, step: usize, h: Arc<FloatHistogram>) -> Result<(), QueryError> {
        self.memory.add(self.points.bytes_to_hold_histograms())?;
        self.points.set_histogram(step, h);
        Ok(())
    }
}
