use super::resolve::{Resolved, Resolver, Scratch, Stored};
use super::session::{Session, TenantSeries};
use super::table::{Found, IDLE_UNITS, Table, UNITS};
use crate::in_flight::Held;
use crate::protocol::encoder::{self, TestSeries, series};
use crate::protocol::{Hashing, Memory, ParsedRequest, Protocol, RawHash, parse};
use crate::refusal::{self, Refusals};
use quorate_cluster::limits::Limits;
use quorate_model::{Labels, SeriesRef, SessionId, Slot, TenantId};
use std::sync::Arc;

struct Rig {
    session: Session,
    tenant: Arc<TenantSeries>,
    hashing: Hashing,
    limits: Limits,
    scratch: Scratch,
    unit: u32,
}

/// Partitions that hold nothing.
struct Nothing;

impl Stored for Nothing {
    fn series(&self) -> u64 {
        0
    }

    fn has(&self, _partition: u16, _labels: &Labels) -> Option<bool> {
        Some(false)
    }
}

/// A request's answer: where each series goes, what was defined, what was refused.
struct Answer {
    resolved: Vec<Resolved>,
    defined: Vec<(u16, u32)>,
    refusals: Refusals,
}

impl Rig {
    fn new(limits: Limits) -> Self {
        let session = Session::new(SessionId { node: 1, incarnation: 1 }, Box::new([1; 4]), 1000);
        let tenant = session.tenant(TenantId(1));
        let mut scratch = Scratch::default();
        scratch.definitions.resize_with(4, Vec::new);
        Self { session, tenant, hashing: Hashing::new(1), limits, scratch, unit: 0 }
    }

    fn send(&mut self, protocol: Protocol, sent: &[TestSeries]) -> Answer {
        let body = match protocol {
            Protocol::RemoteWrite1 => encoder::rw1(sent),
            Protocol::RemoteWrite2 => encoder::rw2(sent),
        };
        let mut request = ParsedRequest::default();
        parse(protocol, &body, &self.hashing, 1 << 20, Held::unbounded(), &mut request).unwrap();
        let mut refusals = Refusals::default();
        let placement = |labels: &Labels| {
            let slot = labels.get("slot").and_then(|s| s.parse().ok()).unwrap_or(0u16);
            (Slot(slot), slot % 4)
        };
        let resolver = Resolver {
            session: &self.session,
            tenant: &self.tenant,
            limits: &self.limits,
            hashing: &self.hashing,
            placement: &placement,
            may_store: &|_, _| true,
            stored: &Nothing,
            unit: self.unit,
            max_label_bytes: 1 << 20,
        };
        let mut memory = Memory::begin(usize::MAX, Held::unbounded());
        resolver.resolve(&body, &request, &mut memory, &mut self.scratch, &mut refusals).unwrap();
        let mut defined = Vec::new();
        for (partition, definitions) in self.scratch.definitions.iter_mut().enumerate() {
            defined.extend(definitions.drain(..).map(|(d, _)| (partition as u16, d.reference.0)));
        }
        Answer { resolved: self.scratch.resolved.clone(), defined, refusals }
    }

    fn commit(&mut self, protocol: Protocol, sent: &[TestSeries]) -> Answer {
        let answer = self.send(protocol, sent);
        self.send_and_mark(protocol, sent);
        answer
    }

    fn send_and_mark(&mut self, protocol: Protocol, sent: &[TestSeries]) {
        let body = if protocol == RW1 { encoder::rw1(sent) } else { encoder::rw2(sent) };
        let mut request = ParsedRequest::default();
        parse(protocol, &body, &self.hashing, 1 << 20, Held::unbounded(), &mut request).unwrap();
        for one in &request.series {
            let found = self.tenant.table.read().find(one.hash, self.unit);
            if let Some(found) = found {
                self.tenant.table.read().mark_defined(one.hash, found.reference);
            }
        }
    }
}

const RW1: Protocol = Protocol::RemoteWrite1;
const RW2: Protocol = Protocol::RemoteWrite2;

fn up(labels: &[(&str, &str)]) -> TestSeries {
    let mut all = vec![("__name__", "up")];
    all.extend_from_slice(labels);
    series(&all, &[(1, 1.0)])
}

fn at(partition: u16, reference: u32) -> Resolved {
    Resolved::Ref { partition, reference: SeriesRef(reference) }
}

#[test]
fn refs_are_dense_per_partition_in_first_seen_order() {
    let mut rig = Rig::new(Limits::default());
    let sent = [up(&[("slot", "1")]), up(&[("slot", "2")]), up(&[("slot", "5")])];
    let answer = rig.send(RW1, &sent);
    assert_eq!(answer.resolved, [at(1, 0), at(2, 0), at(1, 1)]);
    assert_eq!(answer.defined, [(1, 0), (1, 1), (2, 0)]);
}

#[test]
fn a_series_is_defined_again_until_its_definition_is_committed() {
    let mut rig = Rig::new(Limits::default());
    let sent = [up(&[])];
    for _ in 0..3 {
        let answer = rig.send(RW1, &sent);
        assert_eq!((answer.resolved, answer.defined), (vec![at(0, 0)], vec![(0, 0)]));
    }
    rig.send_and_mark(RW1, &sent);
    let answer = rig.send(RW1, &sent);
    assert_eq!((answer.resolved, answer.defined), (vec![at(0, 0)], vec![]));
}

#[test]
fn byte_forms_of_one_series_share_its_ref() {
    let mut rig = Rig::new(Limits::default());
    let usual = up(&[("a", "1")]);
    let turned = series(&[("b", ""), ("a", "1"), ("__name__", "up")], &[(1, 1.0)]);
    assert_eq!(rig.commit(RW1, std::slice::from_ref(&usual)).resolved, [at(0, 0)]);
    for (protocol, one) in [(RW1, turned.clone()), (RW2, usual), (RW2, turned)] {
        assert_eq!(rig.send(protocol, &[one]).resolved, [at(0, 0)]);
    }
    assert_eq!(rig.session.active_series(TenantId(1)), 1);
    assert_eq!(rig.session.forms(), 4);
}

#[test]
fn an_alias_of_a_defined_series_needs_no_definition() {
    let mut rig = Rig::new(Limits::default());
    let sent = [up(&[("a", "1")])];
    rig.commit(RW1, &sent);
    assert_eq!(rig.send(RW2, &sent).defined, []);
    assert_eq!(rig.send(RW2, &sent).defined, []);
}

#[test]
fn the_series_limit_refuses_new_series_and_keeps_old_ones() {
    let limits = Limits { max_global_series_per_user: 2, ..Limits::default() };
    let mut rig = Rig::new(limits);
    let sent = [up(&[("a", "1")]), up(&[("a", "2")]), up(&[("a", "3")])];
    let answer = rig.send(RW1, &sent);
    assert_eq!(answer.resolved, [at(0, 0), at(0, 1), Resolved::Refused]);
    assert_eq!(answer.refusals.told[0].id, refusal::SERIES_LIMIT);
    assert!(answer.refusals.told[0].message.contains("max_global_series_per_user"));
    assert_eq!(rig.send(RW1, &sent[..2]).refusals.total(), 0);
}

#[test]
fn labels_are_checked_against_the_limits() {
    let long_name = "n".repeat(1025);
    let long_value = "v".repeat(2049);
    let many: Vec<(String, String)> = (0..30).map(|i| (format!("l{i:02}"), "x".into())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let cases = [
        ("no name", series(&[("job", "a")], &[(1, 1.0)]), refusal::MISSING_NAME),
        ("long label name", up(&[(&long_name, "x")]), refusal::NAME_TOO_LONG),
        ("long label value", up(&[("a", &long_value)]), refusal::VALUE_TOO_LONG),
        ("many labels", up(&many), refusal::TOO_MANY_NAMES),
        ("reserved label", up(&[("__tenant_id__", "a")]), refusal::LABEL_INVALID),
        ("empty label name", up(&[("", "a")]), refusal::LABEL_INVALID),
        ("label given twice", up(&[("a", "1"), ("a", "1")]), refusal::DUPLICATE_NAME),
    ];
    for (name, one, id) in cases {
        for protocol in [RW1, RW2] {
            let mut rig = Rig::new(Limits::default());
            let answer = rig.send(protocol, &[one.clone(), up(&[])]);
            assert_eq!(answer.resolved[0], Resolved::Refused, "{name}");
            assert_eq!(answer.refusals.told[0].id, id, "{name}");
            assert!(answer.refusals.told[0].message.contains(id), "{name}");
            assert_eq!(answer.resolved[1], at(0, 0), "{name}");
        }
    }
    let mut rig = Rig::new(Limits::default());
    let edge = up(&[(&long_name[..1024], &long_value[..2048])]);
    assert_eq!(rig.send(RW1, &[edge, up(&many[..29])]).refusals.total(), 0);
}

#[test]
fn a_label_limit_of_0_is_off() {
    let limits = Limits {
        max_label_names_per_series: 0,
        max_label_name_length: 0,
        max_label_value_length: 0,
        ..Limits::default()
    };
    let (long_name, long_value) = ("n".repeat(5_000), "v".repeat(5_000));
    let many: Vec<(String, String)> = (0..100).map(|i| (format!("l{i:03}"), "x".into())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let mut rig = Rig::new(limits);
    let answer = rig.send(RW1, &[up(&[(&long_name, &long_value)]), up(&many)]);
    assert_eq!(answer.refusals.told, []);
    assert_eq!(answer.resolved, [at(0, 0), at(0, 1)]);
}

#[test]
fn labels_far_over_the_limits_are_refused_by_the_one_they_are_over() {
    let (long, longest) = ("v".repeat(2_000), "v".repeat(500_000));
    let many: Vec<(String, &str)> = (0..200).map(|i| (format!("l{i:03}"), long.as_str())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(n, v)| (n.as_str(), *v)).collect();
    for (one, id, part) in [
        (up(&[("a", &longest)]), refusal::VALUE_TOO_LONG, "length of 500000 exceeds the limit of 2048"),
        (up(&[(&longest, "a")]), refusal::NAME_TOO_LONG, "length of 500000 exceeds the limit of 1024"),
        (up(&many), refusal::TOO_MANY_NAMES, "at least 47, limit: 30) series: 'up{"),
    ] {
        let mut rig = Rig::new(Limits::default());
        let answer = rig.send(RW2, &[one, up(&[])]);
        assert_eq!(answer.resolved, [Resolved::Refused, at(0, 0)]);
        let told = &answer.refusals.told[0];
        assert!(told.id == id && told.message.contains(part), "{told}");
    }
}

#[test]
fn tighter_label_limits_hold_for_known_series() {
    let mut rig = Rig::new(Limits::default());
    let sent = [up(&[("a", "1"), ("b", "2")])];
    rig.session.obey(&rig.tenant, &rig.limits);
    rig.commit(RW1, &sent);
    rig.limits.max_label_names_per_series = 2;
    rig.session.obey(&rig.tenant, &rig.limits);
    assert_eq!(rig.send(RW1, &sent).resolved, [Resolved::Refused]);
    assert_eq!(rig.session.forms(), 0);
    let off = Limits {
        max_label_names_per_series: 0,
        max_label_name_length: 0,
        max_label_value_length: 0,
        ..rig.limits
    };
    rig.session.obey(&rig.tenant, &off);
    rig.limits = off;
    rig.commit(RW1, &sent);
    rig.limits.max_label_names_per_series = 2;
    rig.session.obey(&rig.tenant, &rig.limits);
    assert_eq!(rig.send(RW1, &sent).resolved, [Resolved::Refused], "all limits were off before");
}

#[test]
fn series_nobody_sends_are_forgotten_and_come_back_under_another_ref() {
    let mut rig = Rig::new(Limits::default());
    let kept = [up(&[("a", "kept")])];
    let idle = [up(&[("a", "idle")])];
    rig.commit(RW2, &kept);
    rig.commit(RW1, &idle);
    for unit in 0..=(3 * IDLE_UNITS) {
        rig.unit = unit % UNITS;
        assert_eq!(rig.send(RW2, &kept).resolved, [at(0, 0)]);
        rig.session.forget_idle(rig.unit);
    }
    assert_eq!(rig.session.active_series(TenantId(1)), 1, "in use by an alias only");
    assert_eq!(rig.send(RW1, &idle).resolved, [at(0, 2)]);
}

#[test]
fn a_session_is_worn_when_most_of_its_refs_are_of_series_that_are_gone() {
    let session = Session::new(SessionId::default(), Box::new([1; 2]), usize::MAX);
    for at in 0..600_000 {
        assert_eq!([0, 1].map(|partition| session.next_ref(partition)), [Some(at), Some(at)]);
    }
    assert!(session.is_worn());
    session.note_forms(400_000);
    assert!(!session.is_worn(), "a third of its series are in use");
}

#[test]
fn a_full_cache_forgets_the_largest_tenant_before_it_grows() {
    let session = Session::new(SessionId::default(), Box::new([1]), 10);
    let fill = |tenant: u32, series: u64| {
        for at in 0..series {
            let hash = RawHash { low: at << 32 | at, high: at };
            let found = Found { partition: 0, reference: at as u32, is_defined: false };
            session.tenant(TenantId(tenant)).table.write().insert(hash, found, false, 0);
            session.note_forms(1);
        }
    };
    fill(1, 3);
    fill(2, 6);
    session.make_room();
    assert_eq!(session.forms(), 9, "there is room");
    fill(3, 1);
    session.make_room();
    let series = [1, 2, 3].map(|tenant| session.active_series(TenantId(tenant)));
    assert_eq!((session.forms(), series), (4, [3, 0, 1]));
}

#[test]
fn the_table_finds_everything_through_growth_and_wrap_around() {
    let mut table = Table::default();
    // All hashes begin near the end of the table, so that probes wrap.
    let hash = |n: u64| RawHash { low: 0xffff_ff00 | (n & 0x3), high: n << 32 };
    for n in 0..500 {
        table.insert(hash(n), Found { partition: 7, reference: n as u32, is_defined: false }, n % 2 == 1, 3);
    }
    for n in 0..500 {
        let found = Found { partition: 7, reference: n as u32, is_defined: false };
        assert_eq!(table.find(hash(n), 4), Some(found));
    }
    assert_eq!(table.find(hash(500), 4), None);
    assert_eq!((table.len(), table.series(), table.undefined()), (500, 250, 250));
    table.mark_defined(hash(3), 4);
    assert!(!table.find(hash(3), 4).unwrap().is_defined, "another ref by now");
    table.mark_defined(hash(3), 3);
    assert!(table.find(hash(3), 4).unwrap().is_defined);
    (0..2).for_each(|_| table.mark_defined(hash(4), 4));
    assert_eq!(table.undefined(), 249, "an alias is no series, and once is enough");
}
