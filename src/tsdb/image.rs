//! Images: the complete state of a head at one position (C1), and a head from one.
//!
//! Knows what makes up the state. Does not know files (`image_file`), nor when images are cut.
//! Path: `background` -> [`cut`] under the writer's lock -> file; `partition_store::open` -> [`load`].
//! I1: the sections and the taken definitions are of one position. I2: a head that is loaded decides about every
//! later record as the one that was cut.

use crate::error::StoreError;
use crate::head::dump::{put_stripe, put_window, take_stripe, take_window};
use crate::head::{Counters, Head, ROW_LIMIT, SealedGeneration, WindowLength, place, row_at};
use crate::image_file::{OPTIONAL, Section};
use crate::image_meta::ImageMeta;
use crate::series_log::SeriesEntry;
use crate::view::Views;
use quorate_chunk::varint;
use quorate_model::{Position, TenantId};
use roaring::RoaringBitmap;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

const META: u32 = 1;
/// Up to where samples may be of series whose definitions were lost; only in states that skipped some. Builds that do not know
/// it would stop there, each in its own way.
const FORGIVEN: u32 = 2;
const STRIPE: u32 = 0x100;
const SEALED: u32 = 0x200;
/// Builds that do not know it only do not tell that the log is another one.
const LAST_ENTRY: u32 = OPTIONAL | 1;
/// Samples of each tenant that were lost behind a skip; builds that do not know it only do not tell of them.
const LOST: u32 = OPTIONAL | 3;
/// Longest window that a store is configured with.
const MAX_WINDOW_MS: i64 = 86_400_000;

/// A cut state.
#[derive(Debug)]
pub(crate) struct Cut {
    pub(crate) position: Position,
    pub(crate) sections: Vec<Section>,
    pub(crate) live_rows: RoaringBitmap,
    sealed: Vec<Arc<SealedGeneration>>,
}

impl Cut {
    /// All sections. Sealed generations never change, so they are copied here, beside apply.
    pub(crate) fn finish(&mut self) -> Result<&[Section], StoreError> {
        for (number, sealed) in std::mem::take(&mut self.sealed).iter().enumerate() {
            self.sections.push((SEALED + number as u32, put_sealed(sealed)?));
        }
        Ok(&self.sections)
    }
}

/// Cuts the state between two records. Apply waits while the open parts are copied, and until `take` has the
/// definitions since the last image, as frames, and their number: a record behind may ask for them (R2).
pub(crate) fn cut(head: &Head, views: &Views, take: impl FnOnce(Vec<u8>, u64)) -> Result<Cut, StoreError> {
    let mut writer = head.writer().lock();
    if writer.in_record {
        let detail = "a record was applied in part; the state is of no position".to_owned();
        return Err(StoreError::Damaged { place: "head".to_owned(), detail });
    }
    let sealed = views.pin().sealed();
    let index = head.index().read();
    let meta = ImageMeta::of(head, &writer, index.next_row());
    let mut sections = vec![(META, meta.encode())];
    if let Some(last) = writer.last_entry {
        sections.push((LAST_ENTRY, put_last_entry(last)));
    }
    let lost = put_lost(&writer.counters);
    if !lost.is_empty() {
        sections.push((LOST, lost));
    }
    for (number, stripe) in head.stripes().iter().enumerate() {
        let mut bytes = Vec::new();
        put_stripe(&stripe.read(), |within| !index.is_free(row_at(number, within)), &mut bytes)?;
        sections.push((STRIPE + number as u32, bytes));
    }
    let live_rows = index.tenants().map(|(_, tenant)| tenant.all()).fold(RoaringBitmap::new(), |a, b| a | b);
    let (frames, entries) = writer.pending.take();
    take(frames, entries);
    let position = writer.position;
    if writer.forgiven > position {
        sections.push((FORGIVEN, writer.forgiven.0.to_le_bytes().to_vec()));
    }
    drop(index);
    drop(writer);
    Ok(Cut { position, sections, live_rows, sealed })
}

/// Fills an empty head from the sections of an image and the entries of its series log. Sealed generations
/// that a block holds already are left out.
pub(crate) fn load(
    head: &Head,
    views: &Views,
    sections: &[Section],
    entries: impl FnOnce(&mut dyn FnMut(SeriesEntry)) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let damaged = |detail: &str| StoreError::Damaged { place: "image".to_owned(), detail: detail.to_owned() };
    let meta = sections.iter().find(|(id, _)| *id == META).ok_or_else(|| damaged("has no state"))?;
    let meta = ImageMeta::decode(&meta.1).ok_or_else(|| damaged("its state does not decode"))?;
    if meta.window_ms != head.length().ms() {
        let detail = format!("has windows of {} ms, not of {}", meta.window_ms, head.length().ms());
        return Err(damaged(&detail));
    }
    let mut loader = Loader::new(head);
    for (id, raw) in sections {
        let known = match *id {
            META => Some(()),
            id if (STRIPE..STRIPE + head.stripes().len() as u32).contains(&id) => {
                loader.stripe((id - STRIPE) as usize, raw)
            }
            LAST_ENTRY => loader.last_entry(raw),
            LOST => loader.lost(raw),
            id if (SEALED..OPTIONAL).contains(&id) => loader.sealed(raw, views),
            FORGIVEN => {
                raw.as_slice().try_into().ok().map(|raw| loader.forgiven = Position(u64::from_le_bytes(raw)))
            }
            id if id & OPTIONAL != 0 => Some(()),
            _ => None,
        };
        known.ok_or_else(|| damaged(&format!("section {id:#x} is unknown or does not decode")))?;
    }
    entries(&mut |entry| loader.entry(entry))?;
    if !loader.is_sound || loader.named != loader.live.len() {
        return Err(damaged("its series log does not fit"));
    }
    loader.finish(meta);
    Ok(())
}

/// Whether [`load`] takes these sections and entries: loads them into a head that is dropped.
///
/// # Errors
/// As [`load`].
pub(crate) fn rehearse(
    sections: &[Section],
    entries: impl FnOnce(&mut dyn FnMut(SeriesEntry)) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let meta = sections.iter().find(|(id, _)| *id == META);
    let window_ms = meta.and_then(|(_, raw)| ImageMeta::decode(raw)).map(|meta| meta.window_ms);
    let window_ms = window_ms.filter(|ms| (1..=MAX_WINDOW_MS).contains(ms)).ok_or_else(|| {
        let detail = "has no state, or one of impossible windows".to_owned();
        StoreError::Damaged { place: "image".to_owned(), detail }
    })?;
    let views = Arc::new(Views::new(Vec::new()));
    let head = Head::new(WindowLength::new(window_ms), Arc::clone(&views));
    load(&head, &views, sections, entries)
}

/// Takes the stripes first and then the series log, so that rows which were freed take no memory: refs to them are
/// cleared, and their labels stay in the log.
struct Loader<'a> {
    head: &'a Head,
    /// Rows of the stripes.
    live: RoaringBitmap,
    /// Tenants of the other rows that the series log names.
    freed: HashMap<u32, TenantId>,
    /// Live rows that the series log has named, and one more than the newest row of all.
    named: u64,
    next: u32,
    forgiven: Position,
    lost: Vec<(TenantId, u64)>,
    is_sound: bool,
}

impl<'a> Loader<'a> {
    fn new(head: &'a Head) -> Self {
        Self {
            head,
            live: RoaringBitmap::new(),
            freed: HashMap::new(),
            named: 0,
            next: 0,
            forgiven: Position(0),
            lost: Vec::new(),
            is_sound: true,
        }
    }

    fn entry(&mut self, entry: SeriesEntry) {
        let sessions = &mut self.head.writer().lock().sessions;
        match entry {
            SeriesEntry::Row { row, .. } if row < self.next || row >= ROW_LIMIT => self.is_sound = false,
            SeriesEntry::Row { row, tenant, slot, labels } => {
                self.next = row + 1;
                if self.live.contains(row) {
                    let hash = self.head.index().write().restore(row, tenant, slot, &labels);
                    let (stripe, within) = place(row);
                    self.head.stripes()[stripe].write().row_mut(within).hash = hash;
                    self.named += 1;
                } else {
                    self.freed.insert(row, tenant);
                }
            }
            SeriesEntry::Reference { session, reference, row } => {
                let index = self.head.index().read();
                let is_free = index.is_free(row);
                let tenant = if is_free { self.freed.get(&row).copied() } else { Some(index.tenant(row)) };
                match tenant {
                    Some(tenant) => sessions.get_mut(session).set(reference, tenant, row, is_free),
                    None => self.is_sound = false,
                }
            }
            SeriesEntry::Forget(session) => {
                sessions.forget(session);
            }
            SeriesEntry::ForgetAll => sessions.forget_all(),
        }
    }

    fn stripe(&mut self, number: usize, raw: &[u8]) -> Option<()> {
        let mut stripe = self.head.stripes()[number].write();
        let mut rest = raw;
        let live = &mut self.live;
        take_stripe(&mut rest, &mut stripe, |stripe, within| {
            // The hash comes with the labels.
            stripe.add_row(within, 0);
            live.insert(row_at(number, within)).then_some(())
        })?;
        rest.is_empty().then_some(())
    }

    fn last_entry(&mut self, mut raw: &[u8]) -> Option<()> {
        let position = Position(varint::take(&mut raw)?);
        self.head.note_entry(position, u32::from_le_bytes(raw.try_into().ok()?));
        Some(())
    }

    fn lost(&mut self, mut raw: &[u8]) -> Option<()> {
        while !raw.is_empty() {
            let tenant = TenantId(u32::try_from(varint::take(&mut raw)?).ok()?);
            self.lost.push((tenant, varint::take(&mut raw)?));
        }
        Some(())
    }

    fn sealed(&mut self, raw: &[u8], views: &Views) -> Option<()> {
        let mut rest = raw;
        let window_start = varint::take_signed(&mut rest)?;
        let generation = u32::try_from(varint::take(&mut rest)?).ok()?;
        let sealed = Arc::new(SealedGeneration::new(window_start, generation));
        for number in 0..self.head.stripes().len() {
            sealed.fill(number, take_window(&mut rest)?);
        }
        if !views.pin().lists(window_start, generation) {
            views.seal(&sealed);
        }
        rest.is_empty().then_some(())
    }

    /// Sets the writer's state.
    fn finish(self, meta: ImageMeta) {
        let writer = &mut *self.head.writer().lock();
        self.head.index().write().skip_to(meta.next_row.max(self.next));
        meta.restore(self.head, writer);
        writer.forgiven = self.forgiven;
        for (tenant, lost) in self.lost {
            writer.counters.entry(tenant).or_default().lost = lost;
        }
        self.head.restore_late(|start| writer.windows.get(&start).is_some_and(|w| w.next_generation > 0));
    }
}

fn put_last_entry((position, crc): (Position, u32)) -> Vec<u8> {
    let mut out = Vec::new();
    varint::put(&mut out, position.0);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

fn put_lost(counters: &BTreeMap<TenantId, Counters>) -> Vec<u8> {
    let mut out = Vec::new();
    for (tenant, counters) in counters.iter().filter(|(_, counters)| counters.lost > 0) {
        varint::put(&mut out, u64::from(tenant.0));
        varint::put(&mut out, counters.lost);
    }
    out
}

fn put_sealed(sealed: &SealedGeneration) -> Result<Vec<u8>, StoreError> {
    let mut out = Vec::new();
    varint::put_signed(&mut out, sealed.window_start_ms());
    varint::put(&mut out, u64::from(sealed.generation()));
    for number in 0..crate::head::STRIPES {
        let part = sealed.part(number).ok_or_else(|| StoreError::Damaged {
            place: "image".to_owned(),
            detail: "a generation is cut between two records and was not whole".to_owned(),
        })?;
        put_window(part, &mut out)?;
    }
    Ok(out)
}
