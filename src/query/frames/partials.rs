//! What partitions give for a part of a query as frames: series or groups with their numbers, and a report at the end.
//!
//! Knows the byte form. Does not know what the numbers stand for. Labels are packed; what they share with those before is
//! left out. A column whose numbers are all the same is one of them.
//! Path: `fragment_service` -> [`PartialWriter`], [`write_report`] -> network -> [`Partials`] -> `distribute`.

use super::{
    FrameError, HEADER_BYTES, Kind, MOST_BYTES, SEND_AT, begin, open, put_bytes, put_labels, take_labels,
    take_text,
};
use quorate_chunk::varint;
use quorate_model::{Labels, PartitionId};
use quorate_promql::ast::Span;
use quorate_promql::engine::QueryStats;
use quorate_promql::fragment::{FragmentEnd, Note, NoteKind, PartialSeries, StepSet};

/// Most columns of a series.
const COLUMNS: usize = 4;
/// Most annotations in a report; a writer leaves out the rest.
const NOTES: usize = 2_000;

/// Bytes of a frame that are left for labels, counts and annotations beside what grows with the steps.
const OTHER_BYTES: usize = 256 << 10;
/// Bytes of a step: a number in each column; in a report it takes less. Its place in the set is one bit more.
const STEP_BYTES: usize = 8 * COLUMNS;

/// Whether a series of so many steps fits into a frame that is nearly full, and their report into one: neither is split.
pub(crate) fn fits(steps: usize) -> bool {
    let room = MOST_BYTES - SEND_AT - OTHER_BYTES;
    steps.checked_mul(STEP_BYTES).is_some_and(|numbers| numbers + steps / 8 <= room)
}

/// Flags of a series.
const NAMES_GONE: u8 = 1;
const DROP_NAME: u8 = 2;
/// Every step has a value; the set of steps is left out.
const ALL_STEPS: u8 = 4;

/// Forms of a column.
const EACH: u8 = 0;
const ALL_THE_SAME: u8 = 1;

/// Writes the series of one partition. `send` takes the frames that are full.
pub(crate) struct PartialWriter<S> {
    partition: PartitionId,
    steps: usize,
    send: S,
    frame: Vec<u8>,
    /// Labels of the last series in the frame.
    last: Labels,
}

impl<E, S: FnMut(Vec<u8>) -> Result<(), E>> PartialWriter<S> {
    /// A writer of series with `steps` steps.
    pub(crate) fn new(partition: PartitionId, steps: usize, send: S) -> Self {
        let frame = begin(Kind::Partials, partition);
        Self { partition, steps, send, frame, last: Labels::empty() }
    }

    /// Adds a series.
    ///
    /// # Errors
    /// What `send` says.
    pub(crate) fn push(&mut self, series: &PartialSeries) -> Result<(), E> {
        let is_full = series.present.len() == self.steps;
        let flags = [(series.names_gone, NAMES_GONE), (series.drop_name, DROP_NAME), (is_full, ALL_STEPS)];
        self.frame.push(flags.iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag).sum());
        put_labels(&mut self.frame, &mut self.last, &series.labels);
        if !is_full {
            let bytes = series.present.words().iter().flat_map(|word| word.to_le_bytes());
            self.frame.extend(bytes.take(self.steps.div_ceil(8)));
        }
        self.frame.push(series.columns.len() as u8);
        for column in &series.columns {
            put_column(&mut self.frame, column);
        }
        if self.frame.len() < SEND_AT { Ok(()) } else { self.send() }
    }

    /// Sends what is left.
    ///
    /// # Errors
    /// What `send` says.
    pub(crate) fn finish(mut self) -> Result<(), E> {
        if self.frame.len() > HEADER_BYTES { self.send() } else { Ok(()) }
    }

    fn send(&mut self) -> Result<(), E> {
        self.last = Labels::empty();
        (self.send)(std::mem::replace(&mut self.frame, begin(Kind::Partials, self.partition)))
    }
}

fn put_column(frame: &mut Vec<u8>, column: &[f64]) {
    let same = column.windows(2).all(|pair| pair[0].to_bits() == pair[1].to_bits());
    frame.push(if same { ALL_THE_SAME } else { EACH });
    let values = if same { &column[..column.len().min(1)] } else { column };
    frame.extend(values.iter().flat_map(|value| value.to_bits().to_le_bytes()));
}

/// What a partition has given so far.
#[derive(Debug, Default)]
pub(crate) struct Partials {
    pub(crate) series: Vec<PartialSeries>,
    /// The report, once it has come.
    pub(crate) end: Option<FragmentEnd>,
    /// Bytes that were asked for.
    pub(crate) charged: u64,
}

impl Partials {
    /// Takes a frame of series over `steps` steps. Asks `keep` with the bytes of each series before it is kept.
    pub(crate) fn take<E: From<FrameError>>(
        &mut self,
        frame: &[u8],
        steps: usize,
        keep: &mut dyn FnMut(u64) -> Result<(), E>,
    ) -> Result<(), E> {
        let (_partition, mut rest) = open(Kind::Partials, frame)?;
        let mut last = Vec::new();
        while let Some((flags, entry)) = rest.split_first() {
            rest = entry;
            if flags & !(NAMES_GONE | DROP_NAME | ALL_STEPS) != 0 {
                return Err(FrameError::Damaged("an entry of an unknown kind").into());
            }
            let labels = take_labels(&mut rest, &mut last)?;
            let present = take_steps(&mut rest, steps, flags & ALL_STEPS != 0)?;
            let count = varint::take_bytes(&mut rest, 1).map_or(COLUMNS + 1, |count| usize::from(count[0]));
            if count > COLUMNS {
                return Err(FrameError::Damaged("a series of too many columns").into());
            }
            let values = present.len();
            let words = present.words().len() + count * (values + 3);
            let bytes = (size_of::<PartialSeries>() + labels.as_packed().len() + 8 * words) as u64;
            keep(bytes)?;
            self.charged += bytes;
            let columns = (0..count).map(|_| take_column(&mut rest, values)).collect::<Option<Vec<_>>>();
            let columns = columns.ok_or(FrameError::Damaged("a column ends too early"))?;
            let (names_gone, drop_name) = (flags & NAMES_GONE != 0, flags & DROP_NAME != 0);
            self.series.push(PartialSeries { labels, names_gone, drop_name, present, columns });
        }
        Ok(())
    }
}

fn take_steps(rest: &mut &[u8], steps: usize, all: bool) -> Result<StepSet, FrameError> {
    let words = if all {
        let mut words = vec![u64::MAX; steps.div_ceil(64)];
        if let Some(last) = words.last_mut().filter(|_| !steps.is_multiple_of(64)) {
            *last >>= 64 - steps % 64;
        }
        words
    } else {
        let bytes = varint::take_bytes(rest, steps.div_ceil(8));
        let bytes = bytes.ok_or(FrameError::Damaged("a set of steps ends too early"))?;
        let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        bytes.chunks(8).map(word).collect()
    };
    StepSet::from_words(words, steps).ok_or(FrameError::Damaged("a step after the last"))
}

/// `values` numbers. Reserves no more than there are bytes for, or than was asked for.
fn take_column(rest: &mut &[u8], values: usize) -> Option<Vec<f64>> {
    let float = |bits: &[u8; 8]| f64::from_bits(u64::from_le_bytes(*bits));
    match varint::take_bytes(rest, 1)?[0] {
        EACH => {
            let (numbers, _) = varint::take_bytes(rest, values.checked_mul(8)?)?.as_chunks::<8>();
            Some(numbers.iter().map(float).collect())
        }
        ALL_THE_SAME if values == 0 => Some(Vec::new()),
        ALL_THE_SAME => {
            let number = varint::take_u64_le(rest)?;
            Some(vec![f64::from_bits(number); values])
        }
        _ => None,
    }
}

/// The frame of a report.
pub(crate) fn write_report(partition: PartitionId, end: &FragmentEnd) -> Vec<u8> {
    let mut frame = begin(Kind::Report, partition);
    let stats = &end.stats;
    for count in [stats.series, stats.samples_read, stats.total_samples, stats.peak_samples] {
        varint::put(&mut frame, count);
    }
    varint::put(&mut frame, stats.total_samples_per_step.len() as u64);
    stats.total_samples_per_step.iter().for_each(|samples| varint::put(&mut frame, *samples));
    let notes = &end.notes[..end.notes.len().min(NOTES)];
    varint::put(&mut frame, notes.len() as u64);
    for note in notes {
        frame.push(match note.kind {
            NoteKind::Warning => 0,
            NoteKind::Info => 1,
            NoteKind::StartOverlap => 2,
        });
        put_bytes(&mut frame, note.text.as_bytes());
        for number in [note.span.start as u64, note.span.end as u64, note.count] {
            varint::put(&mut frame, number);
        }
    }
    frame
}

/// Reads a report on a part of `steps` steps.
pub(crate) fn read_report(frame: &[u8], steps: usize) -> Result<FragmentEnd, FrameError> {
    let (_partition, mut rest) = open(Kind::Report, frame)?;
    let end = take_report(&mut rest, steps).filter(|_| rest.is_empty());
    end.ok_or(FrameError::Damaged("a report that makes no sense"))
}

fn take_report(rest: &mut &[u8], steps: usize) -> Option<FragmentEnd> {
    let mut stats = QueryStats {
        series: varint::take(rest)?,
        samples_read: varint::take(rest)?,
        total_samples: varint::take(rest)?,
        peak_samples: varint::take(rest)?,
        ..QueryStats::default()
    };
    // A step takes at least a byte.
    let counted = varint::take_len(rest, steps.min(rest.len()))?;
    stats.total_samples_per_step = (0..counted).map(|_| varint::take(rest)).collect::<Option<_>>()?;
    let notes = varint::take_len(rest, NOTES.min(rest.len()))?;
    let notes = (0..notes).map(|_| take_note(rest)).collect::<Option<_>>()?;
    Some(FragmentEnd { stats, notes })
}

fn take_note(rest: &mut &[u8]) -> Option<Note> {
    let kind = match varint::take_bytes(rest, 1)?[0] {
        0 => NoteKind::Warning,
        1 => NoteKind::Info,
        2 => NoteKind::StartOverlap,
        _ => return None,
    };
    let text = take_text(rest)?;
    let mut place = || usize::try_from(varint::take(rest)?).ok();
    let (start, end) = (place()?, place()?);
    Some(Note { kind, text, span: Span { start, end }, count: varint::take(rest)? })
}
