//! Series with their samples as frames.
//!
//! An entry is a run of samples of one series and lane, or a series without samples. Labels are packed; what they
//! share with the series before is left out. Times, histograms and start timestamps are the streams of `chunk`; the
//! values of floats stand as they are.
//! Path: `fragment_service` -> [`SeriesWriter`] -> network -> [`RemoteSelection`] -> `source`.

use super::{
    FrameError, HEADER_BYTES, Kind, SEND_AT, begin, open, put_bytes, put_labels, take_bytes, take_labels,
};
use bytes::Bytes;
use quorate_chunk::{ChunkError, histogram, starts, times, varint};
use quorate_model::{Histogram, Labels, PartitionId, SeriesBuffer};
use quorate_promql::source::SourceError;
use std::sync::Arc;

/// Samples of one run of floats.
const FLOATS: usize = 16 << 10;
/// Samples of one run of histograms, fewer if they take more than [`HISTOGRAM_BYTES`].
const HISTOGRAMS: usize = 512;
const HISTOGRAM_BYTES: usize = 256 << 10;

/// Flags of an entry: what it holds.
const FLOAT_RUN: u8 = 1;
const HISTOGRAM_RUN: u8 = 2;
/// The run goes on with the series of the entry before; its labels are left out.
const GOES_ON: u8 = 4;

/// Writes the series of one partition, in the order of their labels. `send` takes the frames that are full.
pub(crate) struct SeriesWriter<S> {
    partition: PartitionId,
    send: S,
    frame: Vec<u8>,
    /// Labels of the last series in the frame.
    last: Labels,
    /// The last encoded histograms.
    histograms: Vec<u8>,
    /// The last encoded column beside the values.
    stream: Vec<u8>,
}

impl<S: FnMut(Vec<u8>) -> Result<(), SourceError>> SeriesWriter<S> {
    pub(crate) fn new(partition: PartitionId, send: S) -> Self {
        let frame = begin(Kind::Samples, partition);
        Self { partition, send, frame, last: Labels::empty(), histograms: Vec::new(), stream: Vec::new() }
    }

    /// Adds a series, after those whose labels are smaller.
    ///
    /// # Errors
    /// What `send` says; [`SourceError::Failed`] if the samples are not in the form that a store gives.
    pub(crate) fn push(&mut self, labels: &Labels, samples: &SeriesBuffer) -> Result<(), SourceError> {
        let mut is_new = true;
        if samples.is_empty() {
            self.frame.push(0);
            put_labels(&mut self.frame, &mut self.last, labels);
            return self.send_if_full();
        }
        let mut from = 0;
        while from < samples.ts_ms.len() {
            let to = (from + FLOATS).min(samples.ts_ms.len());
            self.put_head(FLOAT_RUN, labels, std::mem::take(&mut is_new));
            self.put_times(&samples.ts_ms[from..to]);
            self.frame
                .extend(samples.values[from..to].iter().flat_map(|value| value.to_bits().to_le_bytes()));
            self.put_starts(samples.start_ms.get(from..to));
            self.send_if_full()?;
            from = to;
        }
        let mut from = 0;
        while from < samples.histogram_ts_ms.len() {
            let to = from
                + self
                    .encode_histograms(&samples.histograms[from..])
                    .map_err(|error| SourceError::Failed(error.to_string()))?;
            self.put_head(HISTOGRAM_RUN, labels, std::mem::take(&mut is_new));
            self.put_times(&samples.histogram_ts_ms[from..to]);
            put_bytes(&mut self.frame, &self.histograms);
            self.put_starts(samples.histogram_start_ms.get(from..to));
            self.send_if_full()?;
            from = to;
        }
        Ok(())
    }

    /// Sends what is left.
    ///
    /// # Errors
    /// What `send` says.
    pub(crate) fn finish(mut self) -> Result<(), SourceError> {
        if self.frame.len() > HEADER_BYTES { self.send() } else { Ok(()) }
    }

    fn put_head(&mut self, lane: u8, labels: &Labels, is_new: bool) {
        self.frame.push(if is_new { lane } else { lane | GOES_ON });
        if is_new {
            put_labels(&mut self.frame, &mut self.last, labels);
        }
    }

    fn put_times(&mut self, ts_ms: &[i64]) {
        varint::put(&mut self.frame, ts_ms.len() as u64);
        self.put_stream(|stream| times::encode(ts_ms, stream));
    }

    fn put_starts(&mut self, start_ms: Option<&[i64]>) {
        self.put_stream(|stream| starts::encode(start_ms.unwrap_or_default(), stream));
    }

    fn put_stream(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        self.stream.clear();
        encode(&mut self.stream);
        put_bytes(&mut self.frame, &self.stream);
    }

    /// Encodes the first of `histograms`, as many as a run may have. Gives their number.
    fn encode_histograms(&mut self, histograms: &[Arc<Histogram>]) -> Result<usize, ChunkError> {
        let mut count = histograms.len().min(HISTOGRAMS);
        loop {
            self.histograms.clear();
            let encoded = histogram::encode(&histograms[..count], &mut self.histograms);
            let is_large = self.histograms.len() > HISTOGRAM_BYTES;
            match encoded {
                Ok(()) if count == 1 || !is_large => return Ok(count),
                Ok(()) => count /= 2,
                Err(ChunkError::TooManyCells { .. }) if count > 1 => count /= 2,
                Err(error) => return Err(error),
            }
        }
    }

    fn send_if_full(&mut self) -> Result<(), SourceError> {
        if self.frame.len() < SEND_AT { Ok(()) } else { self.send() }
    }

    fn send(&mut self) -> Result<(), SourceError> {
        let frame = std::mem::replace(&mut self.frame, begin(Kind::Samples, self.partition));
        self.last = Labels::empty();
        (self.send)(frame)
    }
}

/// A run of samples in a frame that is kept.
#[derive(Debug, Clone, Copy)]
struct Run {
    frame: u32,
    /// Where its number of samples stands.
    at: u32,
    is_float: bool,
}

#[derive(Debug, Clone)]
struct RemoteSeries {
    labels: Labels,
    /// The first of its runs; they end where those of the next series begin.
    first_run: usize,
}

/// The series of one partition from another node: labels and places are known, samples stay in their frames.
#[derive(Debug, Default)]
pub(crate) struct RemoteSelection {
    frames: Vec<Bytes>,
    series: Vec<RemoteSeries>,
    runs: Vec<Run>,
}

/// What a series and what a run take beside labels and samples, with the room that grows around them.
const SERIES_BYTES: usize = 2 * size_of::<RemoteSeries>();
const RUN_BYTES: usize = 2 * size_of::<Run>();

impl RemoteSelection {
    /// Number of series.
    pub(crate) fn len(&self) -> usize {
        self.series.len()
    }

    pub(crate) fn labels(&self, index: usize) -> &Labels {
        &self.series[index].labels
    }

    /// Replaces `out` by the samples of a series.
    ///
    /// # Errors
    /// [`FrameError`] if the other node sent damaged samples.
    pub(crate) fn read(&self, index: usize, out: &mut SeriesBuffer) -> Result<(), FrameError> {
        out.clear();
        let end = self.series.get(index + 1).map_or(self.runs.len(), |next| next.first_run);
        for run in &self.runs[self.series[index].first_run..end] {
            let mut rest = &self.frames[run.frame as usize][run.at as usize..];
            RunRef::take(&mut rest, run.is_float)?.read(out)?;
        }
        Ok(())
    }

    /// Takes the next frame, in which nothing but the samples themselves is left unchecked. `keep` is asked before
    /// anything of it is kept, with the bytes that it takes, and for each series with those of its labels.
    ///
    /// # Errors
    /// [`FrameError`] or what `keep` says; the selection is of no use then.
    pub(crate) fn take<E: From<FrameError>>(
        &mut self,
        frame: Bytes,
        keep: &mut dyn FnMut(u64) -> Result<(), E>,
    ) -> Result<(), E> {
        let number = u32::try_from(self.frames.len()).map_err(|_| FrameError::Damaged("too many frames"))?;
        let (_partition, mut rest) = open(Kind::Samples, &frame)?;
        u32::try_from(frame.len()).map_err(|_| FrameError::Damaged("it is too large"))?;
        keep(frame.len() as u64)?;
        let mut last = Vec::new();
        while let Some((flags, entry)) = rest.split_first() {
            rest = entry;
            if flags & GOES_ON == 0 {
                let labels = take_labels(&mut rest, &mut last)?;
                keep((labels.as_packed().len() + SERIES_BYTES) as u64)?;
                self.begin_series(labels)?;
            }
            let is_float = match flags & !GOES_ON {
                0 if *flags == 0 => continue,
                FLOAT_RUN => true,
                HISTOGRAM_RUN => false,
                _ => return Err(FrameError::Damaged("an entry of an unknown kind").into()),
            };
            if self.series.is_empty() {
                return Err(FrameError::Damaged("a run without a series").into());
            }
            keep(RUN_BYTES as u64)?;
            self.runs.push(Run { frame: number, at: (frame.len() - rest.len()) as u32, is_float });
            RunRef::take(&mut rest, is_float)?;
        }
        self.frames.push(frame);
        Ok(())
    }

    fn begin_series(&mut self, labels: Labels) -> Result<(), FrameError> {
        if self.series.last().is_some_and(|last| last.labels >= labels) {
            return Err(FrameError::Damaged("series out of order"));
        }
        self.series.push(RemoteSeries { labels, first_run: self.runs.len() });
        Ok(())
    }
}

/// The partition that a frame of samples belongs to.
///
/// # Errors
/// [`FrameError`] if it is none.
pub(crate) fn partition_of(frame: &[u8]) -> Result<PartitionId, FrameError> {
    open(Kind::Samples, frame).map(|(partition, _)| partition)
}

/// The streams of one run.
struct RunRef<'a> {
    count: u32,
    times: &'a [u8],
    /// Of floats eight bytes each, of histograms their stream.
    values: &'a [u8],
    starts: &'a [u8],
    is_float: bool,
}

impl<'a> RunRef<'a> {
    fn take(rest: &mut &'a [u8], is_float: bool) -> Result<Self, FrameError> {
        let mut parts = || {
            let most = if is_float { FLOATS } else { HISTOGRAMS };
            let count = varint::take_len(rest, most).filter(|count| *count > 0)?;
            let times = take_bytes(rest)?;
            let values = if is_float { varint::take_bytes(rest, 8 * count)? } else { take_bytes(rest)? };
            Some(Self { count: count as u32, times, values, starts: take_bytes(rest)?, is_float })
        };
        parts().ok_or(FrameError::Damaged("a run ends too early"))
    }

    /// Appends the samples to their lane.
    fn read(&self, out: &mut SeriesBuffer) -> Result<(), FrameError> {
        if self.is_float {
            let before = out.ts_ms.len();
            self.read_times(&mut out.ts_ms)?;
            let (values, _) = self.values.as_chunks::<8>();
            out.values.extend(values.iter().map(|bits| f64::from_bits(u64::from_le_bytes(*bits))));
            self.read_starts(before, &mut out.start_ms)
        } else {
            let before = out.histogram_ts_ms.len();
            self.read_times(&mut out.histogram_ts_ms)?;
            histogram::decode(self.values, self.count, &mut out.histograms)?;
            self.read_starts(before, &mut out.histogram_start_ms)
        }
    }

    fn read_times(&self, ts_ms: &mut Vec<i64>) -> Result<(), FrameError> {
        let before = ts_ms.len();
        times::decode(self.times, self.count, ts_ms)?;
        let from = before.saturating_sub(1);
        match ts_ms[from..].windows(2).all(|pair| pair[0] < pair[1]) {
            true => Ok(()),
            false => Err(FrameError::Damaged("times that do not increase")),
        }
    }

    /// `start_ms` is empty as long as no start is known.
    fn read_starts(&self, before: usize, start_ms: &mut Vec<i64>) -> Result<(), FrameError> {
        let after = before + self.count as usize;
        if self.starts.is_empty() {
            if !start_ms.is_empty() {
                start_ms.resize(after, 0);
            }
            return Ok(());
        }
        start_ms.resize(before, 0);
        Ok(starts::decode(self.starts, self.count, start_ms)?)
    }
}
