//! Gateway sessions: what the refs in records mean.
//!
//! Knows sessions, refs and rows. Does not know labels, except through the caller. Path: `head::apply` -> **here**.
//! G1 (C6): a session of a newer incarnation ends the older ones of its gateway, in log order; what comes after is void.
//! G2: a ref is never given to a second series. G3: an entry may be cleared when its row is freed; it is then resolved
//! again from the series log, never guessed.

use quorate_model::{SeriesRef, SessionId, TenantId};
use std::collections::BTreeMap;

const REFS_PER_PAGE: usize = 1024;
/// Sessions roll over before this ref.
pub(crate) const REF_LIMIT: u32 = 1 << 31;
/// Rows are below this number.
pub(crate) const ROW_LIMIT: u32 = CLEARED - 1;
const UNKNOWN: u32 = u32::MAX;
/// Added to the row of an entry that is cleared.
const CLEARED: u32 = 1 << 31;

/// What a session says about a ref.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Never defined.
    Unknown,
    /// Defined as this row, which was freed since: the series log still has its labels.
    Cleared(u32),
    /// Defined as this row.
    Row(u32),
}

#[derive(Debug)]
struct Page {
    rows: [u32; REFS_PER_PAGE],
    /// Tenant of every ref in the page, or `None` if there are several.
    tenant: Option<TenantId>,
}

/// The refs of one session.
#[derive(Debug, Default)]
pub(crate) struct Session {
    pages: Vec<Option<Box<Page>>>,
}

impl Session {
    /// What the ref means.
    pub(crate) fn get(&self, reference: SeriesRef) -> Meaning {
        let page = self.pages.get(reference.0 as usize / REFS_PER_PAGE).and_then(Option::as_ref);
        match page.map_or(UNKNOWN, |p| p.rows[reference.0 as usize % REFS_PER_PAGE]) {
            UNKNOWN => Meaning::Unknown,
            row if row < CLEARED => Meaning::Row(row),
            cleared => Meaning::Cleared(cleared - CLEARED),
        }
    }

    /// The row of a ref that lies among refs of this tenant only. `None` says nothing: ask [`Session::get`] and
    /// the row's own tenant then.
    #[inline]
    pub(crate) fn row_of(&self, reference: SeriesRef, tenant: TenantId) -> Option<u32> {
        let page = self.pages.get(reference.0 as usize / REFS_PER_PAGE)?.as_ref()?;
        let row = page.rows[reference.0 as usize % REFS_PER_PAGE];
        (page.tenant == Some(tenant) && row < CLEARED).then_some(row)
    }

    /// Sets what a ref below [`REF_LIMIT`] means: a row below [`ROW_LIMIT`], or one that is freed.
    pub(crate) fn set(&mut self, reference: SeriesRef, tenant: TenantId, row: u32, is_freed: bool) {
        let at = reference.0 as usize;
        if self.pages.len() <= at / REFS_PER_PAGE {
            self.pages.resize_with(at / REFS_PER_PAGE + 1, || None);
        }
        let page = self.pages[at / REFS_PER_PAGE]
            .get_or_insert_with(|| Box::new(Page { rows: [UNKNOWN; REFS_PER_PAGE], tenant: Some(tenant) }));
        if page.tenant != Some(tenant) {
            page.tenant = None;
        }
        page.rows[at % REFS_PER_PAGE] = if is_freed { row + CLEARED } else { row };
    }

    fn clear_rows(&mut self, is_freed: &impl Fn(u32) -> bool) {
        for row in self.pages.iter_mut().flatten().flat_map(|p| p.rows.iter_mut()) {
            if *row < CLEARED && is_freed(*row) {
                *row += CLEARED;
            }
        }
    }
}

/// All sessions of a partition.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    newest: BTreeMap<u32, u32>,
    live: BTreeMap<SessionId, Session>,
}

impl Sessions {
    /// The session that a record uses; a newer incarnation than any before forgets the older ones of its node.
    /// Returns the forgotten sessions.
    pub(crate) fn enter(&mut self, id: SessionId) -> Vec<SessionId> {
        let newest = self.newest.entry(id.node).or_insert(id.incarnation);
        let mut forgotten = Vec::new();
        if id.incarnation > *newest {
            *newest = id.incarnation;
            forgotten
                .extend(self.live.keys().filter(|s| s.node == id.node && s.incarnation < id.incarnation));
        }
        forgotten.iter().for_each(|old| {
            self.live.remove(old);
        });
        self.live.entry(id).or_default();
        forgotten
    }

    /// Whether a newer incarnation of its gateway has ended the session. A gateway begins one only when all that it had
    /// acknowledged is in the log, so a record of an ended session was never acknowledged.
    pub(crate) fn is_over(&self, id: SessionId) -> bool {
        self.newest.get(&id.node).is_some_and(|newest| id.incarnation < *newest)
    }

    /// Drops a session's definitions.
    pub(crate) fn forget(&mut self, id: SessionId) -> bool {
        self.live.remove(&id).is_some()
    }

    /// Drops every session: the log was begun again.
    pub(crate) fn forget_all(&mut self) {
        self.live.clear();
        self.newest.clear();
    }

    /// A live session.
    pub(crate) fn get(&self, id: SessionId) -> Option<&Session> {
        self.live.get(&id)
    }

    /// A session, begun now if it is not live.
    pub(crate) fn get_mut(&mut self, id: SessionId) -> &mut Session {
        self.live.entry(id).or_default()
    }

    /// The newest incarnation of each node.
    pub(crate) fn newest(&self) -> &BTreeMap<u32, u32> {
        &self.newest
    }

    /// Puts back what an image held.
    pub(crate) fn restore_newest(&mut self, newest: BTreeMap<u32, u32>) {
        self.newest = newest;
    }

    /// Clears every entry whose row is freed.
    pub(crate) fn clear_rows(&mut self, is_freed: impl Fn(u32) -> bool) {
        self.live.values_mut().for_each(|session| session.clear_rows(&is_freed));
    }

    /// Memory held, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        let pages = self.live.values().flat_map(|s| s.pages.iter().flatten()).count();
        pages * size_of::<Page>() + self.live.len() * 64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(node: u32, incarnation: u32) -> SessionId {
        SessionId { node, incarnation }
    }

    #[test]
    fn a_newer_incarnation_forgets_the_older_ones_of_its_gateway_only() {
        let mut sessions = Sessions::default();
        for session in [id(1, 5), id(2, 1)] {
            sessions.enter(session);
            sessions.get_mut(session).set(SeriesRef(3), TenantId(1), 7, false);
        }
        assert_eq!(sessions.enter(id(1, 6)), [id(1, 5)]);
        assert!(sessions.get(id(1, 5)).is_none());
        assert_eq!(sessions.get(id(2, 1)).unwrap().get(SeriesRef(3)), Meaning::Row(7));
    }

    #[test]
    fn a_newer_incarnation_ends_the_older_ones() {
        let mut sessions = Sessions::default();
        sessions.enter(id(1, 6));
        assert!(sessions.is_over(id(1, 5)));
        assert!(!sessions.is_over(id(1, 6)) && !sessions.is_over(id(1, 7)) && !sessions.is_over(id(2, 1)));
    }

    #[test]
    fn cleared_is_not_unknown() {
        let mut session = Session::default();
        session.set(SeriesRef(2000), TenantId(1), 9, false);
        session.clear_rows(&|row| row == 9);
        session.clear_rows(&|_| true);
        assert_eq!(session.get(SeriesRef(2000)), Meaning::Cleared(9));
        assert_eq!(session.get(SeriesRef(1999)), Meaning::Unknown);
        session.set(SeriesRef(2001), TenantId(1), ROW_LIMIT - 1, true);
        assert_eq!(session.get(SeriesRef(2001)), Meaning::Cleared(ROW_LIMIT - 1));
        session.set(SeriesRef(1999), TenantId(1), 1, false);
        assert_eq!(session.row_of(SeriesRef(1999), TenantId(1)), Some(1));
        assert_eq!(session.row_of(SeriesRef(1999), TenantId(2)), None);
        assert_eq!(session.row_of(SeriesRef(2000), TenantId(1)), None);
        session.set(SeriesRef(1998), TenantId(2), 2, false);
        assert_eq!(session.row_of(SeriesRef(1998), TenantId(2)), None, "the page holds two tenants");
    }
}
