//! The result of one series at all steps: presence bits and a column of floats, and a column of histograms where
//! there are any.
//!
//! Knows steps by their number. Does not know times or labels.
//! A step holds a float, a histogram or nothing, never both.

use super::poll::Poll;
use crate::engine::QueryError;
use crate::histogram::FloatHistogram;
use std::sync::Arc;

/// One sample as an operator sees it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Point {
    /// A float.
    Float(f64),
    /// A native histogram.
    Histogram(Arc<FloatHistogram>),
}

impl Point {
    /// 1 for a float; for a histogram how many floats take as much.
    pub(crate) fn weight(&self) -> u64 {
        match self {
            Self::Float(_) => 1,
            Self::Histogram(h) => h.weight(),
        }
    }
}

/// A set of steps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StepSet {
    words: Vec<u64>,
}

impl StepSet {
    /// The set over `steps` steps whose bits are given, 64 a word, the lowest first. `None` if they are of another
    /// number of steps.
    pub fn from_words(words: Vec<u64>, steps: usize) -> Option<Self> {
        let after =
            words.last().map_or(0, |last| if steps.is_multiple_of(64) { 0 } else { last >> (steps % 64) });
        (words.len() == steps.div_ceil(64) && after == 0).then_some(Self { words })
    }

    /// The bits of the set, 64 a word, the lowest first.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// The empty set over `steps` steps.
    pub(crate) fn new(steps: usize) -> Self {
        Self { words: vec![0; steps.div_ceil(64)] }
    }

    /// Bytes that a set over `steps` steps takes.
    pub(crate) fn bytes(steps: usize) -> u64 {
        steps.div_ceil(64) as u64 * 8
    }

    /// Empties the set and makes it one over `steps` steps.
    pub(crate) fn reset(&mut self, steps: usize) {
        self.words.clear();
        self.words.resize(steps.div_ceil(64), 0);
    }

    /// Adds a step; whether it was new.
    #[inline]
    pub(crate) fn insert(&mut self, step: usize) -> bool {
        let (word, bit) = (&mut self.words[step / 64], 1 << (step % 64));
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// Removes a step.
    #[inline]
    pub(crate) fn remove(&mut self, step: usize) {
        self.words[step / 64] &= !(1 << (step % 64));
    }

    /// Whether a step is in the set.
    #[inline]
    pub(crate) fn contains(&self, step: usize) -> bool {
        self.words[step / 64] & (1 << (step % 64)) != 0
    }

    /// Adds all steps of `other`, which is over the same steps.
    pub(crate) fn union(&mut self, other: &Self) {
        self.words.iter_mut().zip(&other.words).for_each(|(a, b)| *a |= b);
    }

    /// Removes all steps that are not in `other`, which is over the same steps.
    pub(crate) fn intersect(&mut self, other: &Self) {
        self.words.iter_mut().zip(&other.words).for_each(|(a, b)| *a &= b);
    }

    /// Number of steps in the set.
    pub fn len(&self) -> usize {
        self.words.iter().map(|w| w.count_ones() as usize).sum()
    }

    /// Whether no step is in the set.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|w| *w == 0)
    }

    /// Steps in the set, increasing.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(at, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                (rest != 0).then(|| {
                    let bit = rest.trailing_zeros() as usize;
                    rest &= rest - 1;
                    at * 64 + bit
                })
            })
        })
    }
}

/// The samples of one series at all steps.
#[derive(Debug, Clone, Default)]
pub(crate) struct Points {
    steps: usize,
    present: StepSet,
    values: Vec<f64>,
    /// Empty, or one entry for each step.
    histograms: Vec<Option<Arc<FloatHistogram>>>,
}

impl Points {
    /// No sample at any of `steps` steps.
    pub(crate) fn new(steps: usize) -> Self {
        Self { steps, present: StepSet::new(steps), values: vec![0.0; steps], histograms: Vec::new() }
    }

    /// Removes all samples and makes room for `steps` steps.
    pub(crate) fn reset(&mut self, steps: usize) {
        self.steps = steps;
        self.present.reset(steps);
        self.values.resize(steps, 0.0);
        self.histograms.clear();
    }

    /// Bytes that a column of `steps` floats takes.
    pub(crate) fn bytes(steps: usize) -> u64 {
        steps as u64 * 8 + StepSet::bytes(steps)
    }

    /// Bytes that these points take, histograms included.
    pub(crate) fn held_bytes(&self) -> u64 {
        let column = if self.histograms.is_empty() { 0 } else { self.steps as u64 * 8 };
        Self::bytes(self.steps) + column + self.histogram_steps().map(|(_, h)| h.bytes()).sum::<u64>()
    }

    /// Bytes that the first histogram takes beside its own, 0 once there is one.
    pub(crate) fn bytes_to_hold_histograms(&self) -> u64 {
        if self.histograms.is_empty() { self.steps as u64 * 8 } else { 0 }
    }

    /// Number of steps.
    pub(crate) fn steps(&self) -> usize {
        self.steps
    }

    /// Puts a float.
    #[inline]
    pub(crate) fn set(&mut self, step: usize, value: f64) {
        self.present.insert(step);
        self.values[step] = value;
    }

    /// Puts a histogram.
    pub(crate) fn set_histogram(&mut self, step: usize, value: Arc<FloatHistogram>) {
        if self.histograms.is_empty() {
            self.histograms.resize(self.steps, None);
        }
        self.histograms[step] = Some(value);
    }

    /// Puts a sample.
    pub(crate) fn put(&mut self, step: usize, point: Point) {
        match point {
            Point::Float(value) => self.set(step, value),
            Point::Histogram(value) => self.set_histogram(step, value),
        }
    }

    /// Removes the sample of a step.
    pub(crate) fn remove(&mut self, step: usize) {
        self.present.remove(step);
        if let Some(histogram) = self.histograms.get_mut(step) {
            *histogram = None;
        }
    }

    /// The float of a step.
    #[inline]
    pub(crate) fn float(&self, step: usize) -> Option<f64> {
        self.present.contains(step).then(|| self.values[step])
    }

    /// The histogram of a step.
    #[inline]
    pub(crate) fn histogram(&self, step: usize) -> Option<&Arc<FloatHistogram>> {
        self.histograms.get(step).and_then(Option::as_ref)
    }

    /// The sample of a step.
    pub(crate) fn get(&self, step: usize) -> Option<Point> {
        match self.float(step) {
            Some(value) => Some(Point::Float(value)),
            None => self.histogram(step).map(|h| Point::Histogram(Arc::clone(h))),
        }
    }

    /// Whether a step holds a sample.
    #[inline]
    pub(crate) fn has(&self, step: usize) -> bool {
        self.present.contains(step) || self.histogram(step).is_some()
    }

    /// Whether any step holds a histogram.
    pub(crate) fn has_histograms(&self) -> bool {
        self.histograms.iter().any(Option::is_some)
    }

    /// Whether no step holds a sample.
    pub(crate) fn is_empty(&self) -> bool {
        self.present.is_empty() && !self.has_histograms()
    }

    /// Steps that hold a float, increasing.
    pub(crate) fn float_steps(&self) -> impl Iterator<Item = usize> + '_ {
        self.present.iter()
    }

    /// Steps that hold a histogram, increasing, with it.
    pub(crate) fn histogram_steps(&self) -> impl Iterator<Item = (usize, &Arc<FloatHistogram>)> + '_ {
        self.histograms.iter().enumerate().filter_map(|(step, h)| h.as_ref().map(|h| (step, h)))
    }

    /// Steps that hold a sample.
    pub(crate) fn presence(&self) -> StepSet {
        let mut steps = self.present.clone();
        self.histogram_steps().for_each(|(step, _)| {
            steps.insert(step);
        });
        steps
    }

    /// Number of floats, and of histograms in units of a float's memory.
    pub(crate) fn weight(&self) -> u64 {
        self.present.len() as u64 + self.histogram_steps().map(|(_, h)| h.weight()).sum::<u64>()
    }

    /// Replaces each float by `f` of it.
    ///
    /// # Errors
    /// What the guard objects.
    pub(crate) fn map_floats(&mut self, poll: &Poll<'_>, f: impl Fn(f64) -> f64) -> Result<(), QueryError> {
        // Values of absent steps are mapped too: cheaper than asking, and never read.
        poll.each_mut(&mut self.values, |v| *v = f(*v))
    }

    /// Replaces each histogram by `f` of it.
    ///
    /// # Errors
    /// What `f` fails with.
    pub(crate) fn map_histograms(
        &mut self,
        mut f: impl FnMut(&FloatHistogram) -> Result<Arc<FloatHistogram>, QueryError>,
    ) -> Result<(), QueryError> {
        self.histograms.iter_mut().flatten().try_for_each(|h| {
            *h = f(h)?;
            Ok(())
        })
    }

    /// Puts a number of each histogram in its place and removes all floats.
    ///
    /// # Errors
    /// What `f` fails with; the points are of no use then.
    pub(crate) fn replace_histograms(
        &mut self,
        mut f: impl FnMut(&FloatHistogram) -> Result<f64, QueryError>,
    ) -> Result<(), QueryError> {
        let histograms = std::mem::take(&mut self.histograms);
        self.reset(self.steps);
        for (step, h) in histograms.iter().enumerate() {
            if let Some(h) = h {
                self.set(step, f(h)?);
            }
        }
        Ok(())
    }

    /// Removes all histograms.
    pub(crate) fn drop_histograms(&mut self) {
        self.histograms.clear();
    }

    /// Spreads the sample of the only step of `single` over all steps.
    ///
    /// # Errors
    /// What the guard objects.
    pub(crate) fn spread(single: &Self, steps: usize, poll: &Poll<'_>) -> Result<Self, QueryError> {
        let mut out = Self::new(steps);
        if let Some(point) = single.get(0) {
            for step in 0..steps {
                poll.touched(1)?;
                out.put(step, point.clone());
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_come_back_in_order() {
        let mut points = Points::new(130);
        for step in [129, 0, 64, 63] {
            points.set(step, step as f64);
        }
        points.remove(63);
        assert_eq!(points.float_steps().collect::<Vec<_>>(), [0, 64, 129]);
        assert_eq!(points.float(64), Some(64.0));
        assert_eq!(points.float(63), None);
        assert_eq!(points.presence().len(), 3);
    }
}
