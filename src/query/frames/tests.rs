use super::lists::{CardinalityList, Count, List, MetadataList, SeriesList, TextList};
use super::partials::{PartialWriter, Partials, fits, read_report, write_report};
use super::series::{RemoteSelection, SeriesWriter, partition_of};
use super::{FrameError, MOST_BYTES, SEND_AT, lists};
use bytes::Bytes;
use proptest::prelude::*;
use quorate_model::{
    BucketCounts, CounterResetHint, Histogram, Labels, MetadataEntry, MetricType, PartitionId, SeriesBuffer,
    Span, stale_nan,
};
use quorate_promql::ast::Span as Place;
use quorate_promql::engine::QueryStats;
use quorate_promql::fragment::{FragmentEnd, Note, NoteKind, PartialSeries, StepSet};
use std::sync::Arc;

type Series = Vec<(Labels, SeriesBuffer)>;

fn frames_of(series: &Series) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut writer = SeriesWriter::new(PartitionId(3), |frame| {
        frames.push(frame);
        Ok(())
    });
    for (labels, samples) in series {
        writer.push(labels, samples).unwrap();
    }
    writer.finish().unwrap();
    frames
}

fn read(frames: impl IntoIterator<Item = Vec<u8>>) -> Result<Series, FrameError> {
    let mut selection = RemoteSelection::default();
    for frame in frames {
        assert_eq!(partition_of(&frame)?, PartitionId(3));
        selection.take::<FrameError>(Bytes::from(frame), &mut |_| Ok(()))?;
    }
    let series = |index| {
        let mut samples = SeriesBuffer { ts_ms: vec![7], ..SeriesBuffer::default() };
        selection.read(index, &mut samples)?;
        Ok((selection.labels(index).clone(), samples))
    };
    (0..selection.len()).map(series).collect()
}

#[track_caller]
fn check_same(found: &Series, expected: &Series) {
    assert_eq!(found.len(), expected.len());
    let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    for ((labels, found), (expected_labels, expected)) in found.iter().zip(expected) {
        assert_eq!(labels, expected_labels);
        assert_eq!((&found.ts_ms, &found.histogram_ts_ms), (&expected.ts_ms, &expected.histogram_ts_ms));
        assert_eq!(bits(&found.values), bits(&expected.values), "{labels:?}");
        assert_eq!(known(&found.start_ms), known(&expected.start_ms));
        assert_eq!(known(&found.histogram_start_ms), known(&expected.histogram_start_ms));
        assert_eq!(found.histograms.len(), expected.histograms.len());
        let same = found.histograms.iter().zip(&expected.histograms).all(|(a, b)| a.same_bits(b));
        assert!(same, "histograms of {labels:?}");
    }
}

/// Unknown starts may stand as zeros or be left out.
fn known(start_ms: &[i64]) -> &[i64] {
    if start_ms.iter().all(|start| *start == 0) { &[] } else { start_ms }
}

fn labels(pod: &str) -> Labels {
    Labels::from_pairs([("__name__", "up"), ("pod", pod)])
}

fn histogram(sum: f64, buckets: &[f64], reset_hint: CounterResetHint) -> Arc<Histogram> {
    Arc::new(Histogram {
        reset_hint,
        schema: 3,
        zero_threshold: 0.001,
        sum,
        positive_spans: vec![Span { offset: -2, length: buckets.len() as u32 }],
        negative_spans: vec![],
        custom_values: vec![],
        counts: BucketCounts::Float {
            count: 9.0,
            zero_count: -0.0,
            positive: buckets.to_vec(),
            negative: vec![],
        },
    })
}

/// One series of each kind.
fn samples() -> Series {
    let odd_nan = f64::from_bits(0x7ff8_0000_0000_1234);
    let floats = SeriesBuffer {
        ts_ms: vec![-5, 0, 15_000, i64::MAX],
        values: vec![1.5, stale_nan(), odd_nan, -0.0],
        start_ms: vec![0, 0, 10, 10],
        ..SeriesBuffer::default()
    };
    let both = SeriesBuffer {
        ts_ms: vec![i64::MIN],
        values: vec![f64::INFINITY],
        histogram_ts_ms: vec![0, 1, 2],
        histograms: vec![
            histogram(1.0, &[1.0, odd_nan], CounterResetHint::Reset),
            histogram(stale_nan(), &[], CounterResetHint::NoReset),
            histogram(2.0, &[1.0, 2.0], CounterResetHint::Gauge),
        ],
        histogram_start_ms: vec![0, 7, 7],
        ..SeriesBuffer::default()
    };
    vec![(labels("a"), floats), (labels("ab"), both), (labels("b"), SeriesBuffer::default())]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn bytes_of_samples_are_golden() {
    let frames = frames_of(&samples());
    let found: Vec<String> = frames.iter().map(|frame| hex(frame)).collect();
    assert_eq!(found, [include_str!("golden/samples.hex").trim()]);
    check_same(&read(frames).unwrap(), &samples());
}

#[test]
fn bytes_of_lists_are_golden() {
    let metadata = MetadataEntry {
        family: "up".into(),
        metric_type: MetricType::Gauge,
        help: "Whether it is up.".into(),
        unit: String::new(),
    };
    let pair = Count::Pair { name: "pod".into(), value: "a".into(), series: 300 };
    let found = [
        list_frame::<SeriesList>(&[labels("a"), Labels::empty()]),
        list_frame::<TextList>(&["a".into(), "ä".into()]),
        list_frame::<MetadataList>(&[metadata]),
        list_frame::<CardinalityList>(&[Count::All(301), pair]),
    ];
    let golden: Vec<&str> = include_str!("golden/lists.hex").lines().collect();
    assert_eq!(found.each_ref().map(|frame| hex(frame)).to_vec(), golden);
}

/// The frame of a short list, after it was read back.
#[track_caller]
fn list_frame<L: List<Entry: PartialEq + std::fmt::Debug>>(entries: &[L::Entry]) -> Vec<u8> {
    let mut frames = Vec::new();
    let written = lists::write::<L, FrameError>(PartitionId(3), entries, |frame| {
        frames.push(frame);
        Ok(())
    });
    written.unwrap();
    let [frame] = &frames[..] else { panic!("{} frames", frames.len()) };
    assert_eq!(lists::partition_of::<L>(frame), Ok(PartitionId(3)));
    let mut found = Vec::new();
    lists::read::<L, FrameError>(frame, &mut found, &mut |_| Ok(())).unwrap();
    assert_eq!(found, entries);
    for cut in 7..frame.len() {
        let mut found = Vec::new();
        if lists::read::<L, FrameError>(&frame[..cut], &mut found, &mut |_| Ok(())).is_ok() {
            assert!(found.len() < entries.len(), "cut at {cut}");
        }
    }
    frame.clone()
}

#[test]
fn a_large_series_goes_on_in_the_next_frame() {
    let count = 300_000;
    let large = SeriesBuffer {
        ts_ms: (0..count).map(|nth| nth * nth).collect(),
        values: (0..count).map(|nth| nth as f64).collect(),
        histogram_ts_ms: (0..1_500).collect(),
        histograms: (0..1_500)
            .map(|nth| histogram(f64::from(nth), &[1.0; 160], CounterResetHint::Unknown))
            .collect(),
        ..SeriesBuffer::default()
    };
    let series = vec![(labels("a"), large), (labels("b"), samples()[0].1.clone())];
    let frames = frames_of(&series);
    assert!(frames.len() > 2, "{} frames", frames.len());
    assert!(frames.iter().all(|frame| frame.len() < 2 * SEND_AT));
    check_same(&read(frames.clone()).unwrap(), &series);
    assert!(read(frames[1..].to_vec()).is_err(), "the labels were in the first frame");
}

#[test]
fn histograms_of_many_buckets_make_small_runs() {
    let buckets: Vec<f64> = (0..9_000).map(|nth| f64::from(nth) * 1.7).collect();
    let large = SeriesBuffer {
        histogram_ts_ms: (0..1_000).collect(),
        histograms: (0..1_000)
            .map(|nth| histogram(f64::from(nth), &buckets, CounterResetHint::Unknown))
            .collect(),
        ..SeriesBuffer::default()
    };
    let series = vec![(labels("a"), large)];
    check_same(&read(frames_of(&series)).unwrap(), &series);
}

#[test]
fn what_is_cut_off_is_an_error_or_whole_series() {
    let [frame] = &frames_of(&samples())[..] else { panic!("one frame") };
    for cut in 0..frame.len() {
        if cut < 6 {
            assert!(partition_of(&frame[..cut]).is_err());
        } else if let Ok(series) = read([frame[..cut].to_vec()]) {
            assert!(series.len() < samples().len(), "cut at {cut}");
        }
    }
}

#[test]
fn series_out_of_order_are_refused() {
    let series = vec![(labels("b"), SeriesBuffer::default()), (labels("a"), SeriesBuffer::default())];
    assert_eq!(read(frames_of(&series)).unwrap_err(), FrameError::Damaged("series out of order"));
}

#[test]
fn other_versions_and_kinds_are_refused() {
    let mut frame = frames_of(&samples()).remove(0);
    frame[0] = 2;
    assert_eq!(partition_of(&frame), Err(FrameError::Version(2)));
    (frame[0], frame[1]) = (1, 2);
    assert_eq!(partition_of(&frame), Err(FrameError::Damaged("it is of another kind")));
}

#[test]
fn nothing_is_kept_before_it_is_charged() {
    let frame = Bytes::from(frames_of(&samples()).remove(0));
    let mut asked = 0;
    let refused = RemoteSelection::default().take(frame.clone(), &mut |bytes| {
        asked += bytes;
        Err(FrameError::Damaged("no room"))
    });
    assert_eq!((refused, asked), (Err(FrameError::Damaged("no room")), frame.len() as u64));
}

fn any_buffer() -> impl Strategy<Value = SeriesBuffer> {
    let value = prop_oneof![any::<f64>(), any::<u64>().prop_map(f64::from_bits), Just(stale_nan())];
    let start = prop_oneof![Just(0), any::<i64>()];
    let float = prop::collection::btree_map(any::<i64>(), (value, start.clone()), 0..40);
    let hint = prop::sample::select(vec![
        CounterResetHint::Unknown,
        CounterResetHint::Reset,
        CounterResetHint::NoReset,
        CounterResetHint::Gauge,
    ]);
    let shape = (any::<u64>(), prop::collection::vec(any::<f64>(), 0..5), hint);
    let histograms = prop::collection::btree_map(any::<i64>(), (shape, start), 0..10);
    (float, histograms).prop_map(|(floats, histograms)| {
        let mut buffer = SeriesBuffer::default();
        for (ts_ms, (value, start)) in floats {
            buffer.ts_ms.push(ts_ms);
            buffer.values.push(value);
            buffer.start_ms.push(start);
        }
        for (ts_ms, ((sum, buckets, hint), start)) in histograms {
            buffer.histogram_ts_ms.push(ts_ms);
            buffer.histograms.push(histogram(f64::from_bits(sum), &buckets, hint));
            buffer.histogram_start_ms.push(start);
        }
        buffer
    })
}

proptest! {
    #[test]
    fn series_round_trip(
        series in prop::collection::btree_map("[ab]{1,6}", any_buffer(), 0..8),
    ) {
        let series: Series = series.into_iter().map(|(pod, samples)| (labels(&pod), samples)).collect();
        check_same(&read(frames_of(&series)).unwrap(), &series);
    }

    #[test]
    fn any_bytes_are_read_or_refused(
        place in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        tail in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let mut frame = frames_of(&samples()).remove(0);
        let at = 6 + place.index(frame.len() - 6);
        frame[at] = byte;
        frame.extend_from_slice(&tail);
        let _read_or_refused = read([frame]);
        let bytes = [&[1, 4, 3, 0, 0, 0], &tail[..]].concat();
        let _read_or_refused =
            lists::read::<CardinalityList, FrameError>(&bytes, &mut Vec::new(), &mut |_| Ok(()));
    }
}

fn steps(present: &[usize], steps: usize) -> StepSet {
    let mut words = vec![0; steps.div_ceil(64)];
    present.iter().for_each(|step| words[step / 64] |= 1 << (step % 64));
    StepSet::from_words(words, steps).unwrap()
}

fn partials(steps: usize, series: &[PartialSeries]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut writer = PartialWriter::new(PartitionId(3), steps, |frame| {
        frames.push(frame);
        Ok::<_, FrameError>(())
    });
    series.iter().for_each(|series| writer.push(series).unwrap());
    writer.finish().unwrap();
    frames
}

fn read_partials(steps: usize, frames: &[Vec<u8>]) -> Result<Vec<PartialSeries>, FrameError> {
    let (mut partials, mut asked) = (Partials::default(), 0);
    for frame in frames {
        assert_eq!(super::head(frame)?.1, PartitionId(3));
        partials.take::<FrameError>(frame, steps, &mut |bytes| {
            asked += bytes;
            Ok(())
        })?;
    }
    assert_eq!(partials.charged, asked);
    assert!(partials.series.iter().map(PartialSeries::bytes).sum::<u64>() <= asked);
    Ok(partials.series)
}

#[test]
fn what_fits_is_never_a_frame_that_the_network_refuses() {
    let (mut most, mut too_many) = (1, 1 << 20);
    assert!(fits(most) && !fits(too_many) && !fits(usize::MAX));
    while most + 1 < too_many {
        let middle = usize::midpoint(most, too_many);
        if fits(middle) { most = middle } else { too_many = middle }
    }
    let label = |bytes: usize| Labels::from_pairs([("a", "b".repeat(bytes).as_str())]);
    let of = |labels, count: usize| {
        let column: Vec<f64> = (0..count).map(|at| at as f64).collect();
        let present = steps(&(0..count).collect::<Vec<_>>(), most);
        PartialSeries { labels, names_gone: false, drop_name: false, present, columns: vec![column; 4] }
    };
    // A frame that is just not sent yet takes the largest series, in which only one step is missing.
    let series = [of(label(SEND_AT - most / 8 - 100), 1), of(label(10), most - 1)];
    let frames = partials(most, &series);
    assert_eq!(frames.len(), 1);
    assert!((MOST_BYTES / 2..MOST_BYTES).contains(&frames[0].len()), "{} bytes", frames[0].len());
    let stats = QueryStats { total_samples_per_step: vec![u64::MAX; most], ..QueryStats::default() };
    let report = write_report(PartitionId(3), &FragmentEnd { stats, notes: Vec::new() });
    assert!(report.len() < MOST_BYTES, "{} bytes", report.len());
}

/// As text, so that NaN equals NaN and the sign of zero counts.
fn shown(series: &[PartialSeries]) -> Vec<String> {
    let bits = |series: &PartialSeries| -> Vec<Vec<u64>> {
        series.columns.iter().map(|column| column.iter().map(|value| value.to_bits()).collect()).collect()
    };
    series
        .iter()
        .map(|s| format!("{:?}", (&s.labels, s.names_gone, s.drop_name, &s.present, bits(s))))
        .collect()
}

/// A group at two of ten steps, and a series at all of them.
fn some_partials() -> Vec<PartialSeries> {
    let odd_nan = f64::from_bits(0x7ff8_0000_0000_1234);
    let group = PartialSeries {
        labels: labels("a"),
        names_gone: true,
        drop_name: false,
        present: steps(&[0, 9], 10),
        columns: vec![vec![1.5, odd_nan], vec![0.0, 0.0]],
    };
    let series = PartialSeries {
        labels: labels("ab"),
        names_gone: false,
        drop_name: true,
        present: steps(&(0..10).collect::<Vec<_>>(), 10),
        columns: vec![vec![-0.0; 10]],
    };
    vec![group, series]
}

fn report() -> FragmentEnd {
    let stats = QueryStats {
        series: 2,
        samples_read: 300,
        total_samples: 12,
        peak_samples: 7,
        total_samples_per_step: vec![5, 300],
    };
    let note = |kind, text: &str, span, count| Note { kind, text: text.into(), span, count };
    let notes = vec![
        note(NoteKind::Info, "a", Place::new(4, 200), 1),
        note(NoteKind::StartOverlap, "b", Place::new(0, 1), 3),
    ];
    FragmentEnd { stats, notes }
}

#[test]
fn bytes_of_partials_and_reports_are_golden() {
    let golden: Vec<&str> = include_str!("golden/partials.hex").lines().collect();
    let [frame] = &partials(10, &some_partials())[..] else { panic!("one frame") };
    let reported = write_report(PartitionId(3), &report());
    assert_eq!([hex(frame), hex(&reported)].to_vec(), golden);
    assert_eq!(shown(&read_partials(10, std::slice::from_ref(frame)).unwrap()), shown(&some_partials()));
    assert_eq!(read_report(&reported, 10).unwrap(), report());
    for cut in 0..frame.len() {
        let read = std::panic::catch_unwind(|| read_partials(10, &[frame[..cut].to_vec()])).unwrap();
        assert!(read.is_err() || read.is_ok_and(|series| series.len() < 2), "cut at {cut}");
    }
    for cut in 0..reported.len() {
        assert!(read_report(&reported[..cut], 10).is_err(), "cut at {cut}");
    }
    assert!(read_report(&reported, 1).is_err(), "more steps than there are");
    assert!(read_partials(9, std::slice::from_ref(frame)).is_err(), "a step after the last");
}

proptest! {
    #[test]
    fn partials_round_trip_in_any_number_of_frames(
        count in 1usize..200,
        of in prop::collection::btree_map("[ab]{1,6}", (any::<u64>(), 0usize..4, any::<[bool; 2]>()), 0..40),
    ) {
        let series: Vec<PartialSeries> = of
            .into_iter()
            .map(|(pod, (seed, columns, [names_gone, drop_name]))| {
                let present: Vec<usize> = (0..count).filter(|step| seed >> (step % 64) & 1 == 1).collect();
                let value = |column: usize, step: usize| f64::from_bits(seed.rotate_left((column * step) as u32));
                let columns =
                    (0..columns).map(|c| present.iter().map(|step| value(c, *step)).collect()).collect();
                let present = steps(&present, count);
                PartialSeries { labels: labels(&pod), names_gone, drop_name, present, columns }
            })
            .collect();
        let frames = partials(count, &series);
        prop_assert_eq!(shown(&read_partials(count, &frames).unwrap()), shown(&series));
    }

    #[test]
    fn any_bytes_are_partials_or_refused(
        place in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        tail in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let mut frame = partials(10, &some_partials()).remove(0);
        let at = 6 + place.index(frame.len() - 6);
        frame[at] = byte;
        frame.extend_from_slice(&tail);
        let _read_or_refused = read_partials(10, &[frame]);
        let mut reported = write_report(PartitionId(3), &report());
        let at = 6 + place.index(reported.len() - 6);
        reported[at] = byte;
        let _read_or_refused = read_report(&reported, 10);
    }
}
