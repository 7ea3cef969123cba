//! Golden bytes of an image: what is written today must be read for ever.

use crate::head::testing::{TENANT, delete, floats, mark, series};
use crate::head::{Head, WindowLength};
use crate::image::{cut, load};
use crate::selection::{PartitionSelection, Wanted};
use crate::series_log::read_frames;
use crate::view::Views;
use quorate_model::{Position, SeriesBuffer, TimeRange};
use std::fmt::Write;
use std::sync::Arc;

const HOUR: i64 = 3_600_000;
const GOLDEN: &str = include_str!("golden/image-1.txt");

fn empty() -> (Arc<Head>, Arc<Views>) {
    let views = Arc::new(Views::new(Vec::new()));
    (Arc::new(Head::new(WindowLength::new(HOUR), Arc::clone(&views))), views)
}

fn filled() -> (Arc<Head>, Arc<Views>) {
    let (head, views) = empty();
    let records = [
        floats(&[(0, 1000, 1.5), (1, 1000, 1.0 / 3.0), (0, 16_000, f64::NAN), (0, 500, 7.0)]),
        mark(0, 0),
        floats(&[(0, 2000, 2.0), (0, HOUR, 4.0), (0, HOUR + 15_000, 4.5), (1, -1, 3.0)]),
        delete(Some(1), TimeRange::new(-10, -5)),
    ];
    for (at, record) in records.iter().enumerate() {
        head.apply(Position(at as u64 + 1), record, &|_, _| Ok(Default::default())).unwrap();
    }
    (head, views)
}

/// Every section that is not empty, and the definitions, as text.
fn text_of(head: &Head, views: &Views) -> String {
    let mut frames = Vec::new();
    let mut cut = cut(head, views, |taken, _| frames = taken).unwrap();
    let mut text = String::new();
    for (id, raw) in cut.finish().unwrap().iter().filter(|(_, raw)| raw.iter().any(|b| *b != 0)) {
        let hex: String = raw.iter().map(|b| format!("{b:02x}")).collect();
        writeln!(text, "{id:x} {hex}").unwrap();
    }
    read_frames(&frames, "test", &mut |entry| writeln!(text, "{entry:?}").unwrap()).unwrap();
    text
}

#[test]
fn the_stored_form_does_not_change() {
    let (head, views) = filled();
    let text = text_of(&head, &views);
    assert_eq!(text, GOLDEN, "the form of images changed; it now reads\n{text}");
}

/// Golden bytes of the section that not every log has.
#[test]
fn the_last_entry_of_the_log_comes_back() {
    let (head, views) = filled();
    head.note_entry(Position(300), 0x0102_0304);
    let mut frames = Vec::new();
    let mut cut = cut(&head, &views, |taken, _| frames = taken).unwrap();
    let sections = cut.finish().unwrap();
    assert!(sections.contains(&(0x8000_0001, vec![0xac, 0x02, 4, 3, 2, 1])), "{:?}", sections[1]);
    let (loaded, loaded_views) = empty();
    load(&loaded, &loaded_views, sections, |visit| read_frames(&frames, "test", visit)).unwrap();
    assert_eq!(loaded.last_entry(), Some((Position(300), 0x0102_0304)));
    let older: Vec<_> = sections.iter().filter(|(id, _)| id >> 31 == 0).cloned().collect();
    let (loaded, loaded_views) = empty();
    load(&loaded, &loaded_views, &older, |visit| read_frames(&frames, "test", visit)).unwrap();
    assert_eq!(loaded.last_entry(), None, "an image of an older build is read");
}

/// Golden bytes of the section of a state that skipped records, which no build may pass over.
#[test]
fn what_was_skipped_comes_back_and_is_not_optional() {
    let (head, views) = filled();
    head.note_entry(Position(4), 7);
    head.skip(Position(0x100), Position(0x203)).unwrap();
    let mut frames = Vec::new();
    let mut cut = cut(&head, &views, |taken, _| frames = taken).unwrap();
    assert_eq!(cut.position, Position(0x100));
    let sections = cut.finish().unwrap();
    assert!(sections.contains(&(2, vec![3, 2, 0, 0, 0, 0, 0, 0])), "{:?}", sections.last());
    let (loaded, loaded_views) = empty();
    load(&loaded, &loaded_views, sections, |visit| read_frames(&frames, "test", visit)).unwrap();
    let forgiven = loaded.writer().lock().forgiven;
    assert_eq!((forgiven, loaded.last_entry()), (Position(0x203), None));
    let mut damaged = sections.to_vec();
    damaged.push((3, Vec::new()));
    let (loaded, loaded_views) = empty();
    let read = load(&loaded, &loaded_views, &damaged, |visit| read_frames(&frames, "test", visit));
    assert!(read.is_err(), "a build that does not know a section of the kind takes the state");
}

/// Whoever cuts an image finds the position that was skipped to with all that goes with it.
#[test]
fn a_skip_is_never_seen_in_part() {
    let (head, _views) = filled();
    let last = 2_000;
    std::thread::scope(|threads| {
        threads.spawn(|| {
            for position in 5..=last {
                head.note_entry(Position(position - 1), 7);
                head.skip(Position(position), Position(position + 1)).unwrap();
            }
        });
        let mut position = Position(0);
        while position < Position(last) {
            let writer = head.writer().lock();
            position = writer.position;
            let forgiven = if position < Position(5) { 0 } else { position.0 + 1 };
            assert_eq!(writer.forgiven, Position(forgiven));
            assert!(writer.last_entry.is_none_or(|(at, _)| at == position), "{:?}", writer.last_entry);
        }
    });
}

#[test]
fn a_loaded_image_cuts_the_same_image_and_reads_the_same() {
    let (head, views) = filled();
    let mut frames = Vec::new();
    let mut first = cut(&head, &views, |taken, _| frames = taken).unwrap();
    let (loaded, loaded_views) = empty();
    let sections = first.finish().unwrap();
    load(&loaded, &loaded_views, sections, |visit| read_frames(&frames, "test", visit)).unwrap();
    let again = cut(&loaded, &loaded_views, |_, _| ()).unwrap().finish().unwrap().to_vec();
    assert_eq!(again, sections);
    assert!(head.late_bytes() > 0);
    assert_eq!(loaded.late_bytes(), head.late_bytes());
    let read = |head: &Arc<Head>, views: &Views| {
        let selection = PartitionSelection::new(head, views, &Wanted::all(TENANT, TimeRange::ALL));
        let selection = selection.unwrap();
        let mut out = SeriesBuffer::default();
        assert_eq!((selection.len(), selection.labels(0)), (2, &series(0)));
        selection.read(0, &mut out).unwrap();
        (out.ts_ms, out.values.iter().map(|v| v.to_bits()).collect::<Vec<_>>())
    };
    let (times, values) = read(&loaded, &loaded_views);
    assert_eq!(times, [500, 1000, 2000, 16_000, HOUR, HOUR + 15_000]);
    assert_eq!((times, values), read(&head, &views));
}

#[test]
fn a_state_with_a_part_of_a_record_is_never_cut() {
    let (head, views) = filled();
    let mut record = floats(&[(0, HOUR + 60_000, 1.0), (5, HOUR, 1.0)]);
    if let quorate_model::RecordBody::Data(batches) = &mut record.body {
        batches[0].refs[1] = quorate_model::SeriesRef(9);
    }
    assert!(head.apply(Position(9), &record, &|_, _| Ok(Default::default())).is_err());
    assert!(cut(&head, &views, |_, _| ()).is_err());
    // As a panic leaves it: nothing noted an error.
    let (head, views) = filled();
    head.writer().lock().in_record = true;
    assert!(
        head.apply(Position(9), &floats(&[(0, HOUR + 60_000, 1.0)]), &|_, _| Ok(Default::default())).is_err()
    );
    assert!(cut(&head, &views, |_, _| ()).is_err());
}

#[test]
fn definitions_are_handed_over_before_the_next_record() {
    let (head, views) = filled();
    cut(&head, &views, |frames, entries| {
        assert!(!frames.is_empty() && entries > 0);
        assert!(head.writer().try_lock().is_none(), "a record could ask for what is nowhere");
    })
    .unwrap();
}
