//! A state that another node takes: it answers as the giver does, and goes on as if it had been there always.

use crate::restart::log;
use crate::support::*;
use quorate_model::{LogRecord, PartitionId, Position, TimeRange};
use quorate_tsdb::block::{BlockId, stored_ids};
use quorate_tsdb::snapshot::{Description, Install, InstallError, MAX_READ, Offer, PartKind};
use quorate_tsdb::{SelectLimits, StoreError, Unmetered};
use std::collections::BTreeSet;
use std::ops::Range;

/// Bytes of a transfer: small, so that parts take several.
const SOME: usize = 700;

/// Every part of an offer, read from its beginning.
pub(crate) fn bytes_of(offer: &Offer) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    for (number, part) in offer.description().parts().iter().enumerate() {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < part.length {
            bytes.extend(offer.read(number, bytes.len() as u64, SOME).unwrap());
        }
        assert_eq!(offer.read(number, part.length, SOME).unwrap(), [0u8; 0]);
        parts.push(bytes);
    }
    parts
}

/// Transfers what is missing, and at most `parts` parts.
pub(crate) fn transfer(offer: &Offer, install: &mut Install, parts: usize) {
    for missing in install.missing().unwrap().into_iter().take(parts) {
        let mut offset = missing.offset;
        while !install.put(missing.part, offset, &offer.read(missing.part, offset, SOME).unwrap()).unwrap() {
            offset += SOME as u64;
        }
    }
}

/// The description as it arrives.
fn sent(offer: &Offer) -> Description {
    Description::decode(&offer.description().encode()).unwrap()
}

fn begin(offer: &Offer, taker: &Node) -> Result<Install, InstallError> {
    Install::begin(&taker.disk, taker.dir(), PARTITION, sent(offer))
}

/// Takes what is offered and opens the store again.
pub(crate) fn install(offer: &Offer, taker: &mut Node) {
    let mut install = begin(offer, taker).unwrap();
    transfer(offer, &mut install, usize::MAX);
    taker.store = None;
    assert_eq!(install.finish().unwrap(), offer.description().position());
    taker.store = Some(taker.open().unwrap());
    assert_eq!(taker.store().applied(), offer.description().position());
}

/// A new node that has the durable state of `giver`.
pub(crate) fn moved(giver: &Node, number: u16) -> Node {
    let mut taker = Node::numbered(number);
    install(&giver.store().offer().unwrap(), &mut taker);
    taker
}

fn all(node: &Node) -> Answers {
    read(node.store(), TimeRange::ALL)
}

fn block_ids(node: &Node) -> BTreeSet<BlockId> {
    stored_ids(node.kv.as_ref()).unwrap()
}

/// Samples of the session in which `log` ends.
fn later(series: Range<u32>, ts_ms: i64) -> LogRecord {
    data(3, batch(&series.map(|i| (i, ts_ms, f64::from(i))).collect::<Vec<_>>()))
}

/// A giver with blocks, some of a later time than its image, and its log.
fn giver() -> (Node, Vec<LogRecord>) {
    let (node, mut log) = (Node::new(), log());
    log.extend([later(0..400, 3 * HOUR), mark(2, 0), mark(3, 0), later(0..3, 4 * HOUR)]);
    let cut = log.len() - 5;
    node.replay(&log[..cut]);
    node.store().flush().unwrap();
    node.store().cut_image().unwrap();
    node.replay(&log);
    node.store().flush().unwrap();
    (node, log)
}

#[test]
fn a_new_node_is_equal_at_once_and_stays_so() {
    let log = log();
    let plain = Node::new();
    plain.replay(&log);
    let expected = all(&plain);
    for cut in (0..log.len()).step_by(3) {
        let giver = Node::new();
        giver.replay(&log[..cut]);
        match cut % 4 {
            0 => {}
            1 => assert!(giver.store().flush().is_ok()),
            2 => assert!(giver.store().cut_image().is_ok()),
            _ => {
                giver.store().flush().unwrap();
                giver.store().merge(i64::MAX / 2).unwrap();
            }
        }
        let mut taker = moved(&giver, 2);
        assert_eq!((taker.store().applied(), all(&taker)), (Position(cut as u64), all(&giver)), "{cut}");
        for node in [&giver, &taker] {
            node.replay(&log);
            assert_eq!(all(node), expected, "taken at {cut}");
            node.store().flush().unwrap();
            node.store().merge(i64::MAX / 2).unwrap();
            node.store().retain().unwrap();
            node.store().cut_image().unwrap();
            assert_eq!(all(node), expected, "flushed, taken at {cut}");
        }
        taker.restart();
        assert_eq!(all(&taker), expected, "read from disk, taken at {cut}");
    }
}

#[test]
fn blocks_of_later_than_the_image_are_met_again_in_the_log() {
    let (giver, log) = giver();
    let taker = moved(&giver, 2);
    assert!(taker.store().applied() < giver.store().applied());
    taker.replay(&log);
    assert_eq!(all(&taker), all(&giver));
    assert_eq!(taker.store().flush().unwrap().blocks, 0, "what the marks cut is in the giver's blocks");
    assert_eq!(block_ids(&taker), block_ids(&giver), "blocks keep their creator's ids");
    taker.replay(&[log, vec![mark(4, 0)]].concat());
    taker.store().flush().unwrap();
    let own: Vec<_> = block_ids(&taker).into_iter().filter(|id| id.node() == 2).collect();
    assert_eq!(own, [BlockId::new(2, 1)]);
}

#[test]
fn a_newer_state_replaces_an_older_one_and_blocks_that_are_there_are_not_sent() {
    let (giver, mut log) = giver();
    let mut taker = Node::numbered(2);
    taker.replay(&log[..60]);
    taker.store().flush().unwrap();
    taker.store().cut_image().unwrap();
    let own = block_ids(&taker);
    install(&giver.store().offer().unwrap(), &mut taker);
    assert!(own.is_disjoint(&block_ids(&taker)), "replaced blocks are removed");
    assert_eq!(taker.files(), giver.files().into_iter().map(|name| name.replace('1', "2")).collect());
    log.extend([mark(4, 0), later(0..3, 9 * HOUR)]);
    giver.replay(&log);
    giver.store().flush().unwrap();
    giver.store().cut_image().unwrap();
    let offer = giver.store().offer().unwrap();
    let wanted = Install::wants(&taker.disk, offer.description()).unwrap();
    let kinds: Vec<_> = wanted.iter().map(|number| offer.description().parts()[*number].kind).collect();
    assert_eq!(kinds, [PartKind::Image, PartKind::SeriesLog, PartKind::Block]);
    assert!(offer.description().parts().len() > 4);
    install(&offer, &mut taker);
    assert_eq!((all(&taker), block_ids(&taker)), (all(&giver), block_ids(&giver)));
    taker.restart();
    assert_eq!(all(&taker), all(&giver));
}

#[test]
fn an_install_goes_on_after_every_part_and_after_a_restart() {
    let (giver, log) = giver();
    let offer = giver.store().offer().unwrap();
    let parts = offer.description().parts().len();
    for whole in 0..=parts {
        for restarts in [false, true] {
            let mut taker = Node::numbered(2);
            let mut first = begin(&offer, &taker).unwrap();
            transfer(&offer, &mut first, whole);
            if whole < parts {
                first.put(whole, 0, &offer.read(whole, 0, 5).unwrap()).unwrap();
                assert_eq!(first.missing().unwrap()[0].offset, 5);
            }
            drop(first);
            if restarts {
                taker.restart();
            }
            let mut again = begin(&offer, &taker).unwrap();
            let missing: Vec<_> = again.missing().unwrap().iter().map(|m| (m.part, m.offset)).collect();
            assert_eq!(missing, (whole..parts).map(|part| (part, 0)).collect::<Vec<_>>());
            transfer(&offer, &mut again, usize::MAX);
            taker.store = None;
            again.finish().unwrap();
            assert_eq!(again.finish().unwrap(), offer.description().position(), "a second time");
            taker.restart();
            taker.replay(&log);
            assert_eq!(all(&taker), all(&giver));
        }
    }
}

#[test]
fn an_install_goes_on_with_what_another_offer_shares_with_it() {
    let (giver, mut log) = giver();
    let mut taker = Node::numbered(2);
    let offer = giver.store().offer().unwrap();
    let mut first = begin(&offer, &taker).unwrap();
    transfer(&offer, &mut first, usize::MAX);
    drop((first, offer));
    log.push(later(0..3, 5 * HOUR));
    giver.replay(&log);
    giver.store().cut_image().unwrap();
    let offer = giver.store().offer().unwrap();
    let missing = begin(&offer, &taker).unwrap().missing().unwrap();
    assert!(missing.iter().map(|m| m.part).eq([0, 1]), "{missing:?}");
    install(&offer, &mut taker);
    assert_eq!(all(&taker), all(&giver));
}

#[test]
fn wrong_bytes_are_refused_and_the_old_state_stays() {
    let (giver, _) = giver();
    let offer = giver.store().offer().unwrap();
    let mut taker = Node::numbered(2);
    taker.replay(&[scrape(0..3, 5), mark(0, 0)]);
    taker.store().flush().unwrap();
    taker.store().cut_image().unwrap();
    let before = all(&taker);
    let mut install = begin(&offer, &taker).unwrap();
    for (number, good) in bytes_of(&offer).into_iter().enumerate() {
        let step = (good.len() / 23).max(1);
        for at in (0..good.len()).step_by(step) {
            let mut bad = good.clone();
            bad[at] ^= 0x20;
            let refused = install.put(number, 0, &bad);
            assert!(matches!(refused, Err(InstallError::WrongBytes { part, .. }) if part == number), "{at}");
        }
        assert!(install.missing().unwrap().iter().any(|m| (m.part, m.offset) == (number, 0)));
        assert!(matches!(
            install.put(number, 3, &good[3..]),
            Err(InstallError::OutOfPlace { expected: 0, .. })
        ));
        let long = [good.as_slice(), b"x"].concat();
        assert!(matches!(install.put(number, 0, &long), Err(InstallError::WrongBytes { .. })));
        assert!(matches!(install.finish(), Err(InstallError::Store(StoreError::InUse { .. }))));
        assert!(install.put(number, 0, &good).unwrap());
    }
    assert!(matches!(install.put(99, 0, b"x"), Err(InstallError::WrongBytes { part: 99, .. })));
    drop(install);
    taker.restart();
    assert_eq!(all(&taker), before);
}

#[test]
fn a_state_that_does_not_fit_is_refused() {
    let (giver, log) = giver();
    let offer = giver.store().offer().unwrap();
    let taker = moved(&giver, 2);
    taker.replay(&log);
    taker.store().cut_image().unwrap();
    assert!(matches!(begin(&offer, &taker), Err(InstallError::Older { .. })));
    let other = Install::begin(&taker.disk, taker.dir(), PartitionId(4), sent(&offer));
    assert!(matches!(other, Err(InstallError::Description { .. })));
    assert!(matches!(offer.read(99, 0, 1), Err(StoreError::NoPart { part: 99 })));
}

#[test]
fn a_partition_in_use_is_not_replaced() {
    let (giver, _) = giver();
    let offer = giver.store().offer().unwrap();
    let mut taker = moved(&giver, 2);
    let mut install = begin(&offer, &taker).unwrap();
    assert!(matches!(begin(&offer, &taker), Err(InstallError::Store(StoreError::InUse { .. }))));
    assert!(matches!(install.finish(), Err(InstallError::Store(StoreError::InUse { .. }))));
    let query = taker.store().select(TENANT, &[], TimeRange::ALL, SelectLimits::NONE, &Unmetered).unwrap();
    let offered = taker.store().offer().unwrap();
    taker.store = None;
    assert!(matches!(install.finish(), Err(InstallError::Store(StoreError::InUse { .. }))));
    drop(query);
    assert!(matches!(install.finish(), Err(InstallError::Store(StoreError::InUse { .. }))));
    drop(offered);
    assert!(matches!(install.finish(), Err(InstallError::Incomplete { parts: 2 })));
    transfer(&offer, &mut install, usize::MAX);
    install.finish().unwrap();
}

#[test]
fn a_manifest_that_cannot_be_written_leaves_the_old_state() {
    let (giver, log) = giver();
    let offer = giver.store().offer().unwrap();
    let mut taker = Node::numbered(2);
    taker.replay(&log[..40]);
    taker.store().cut_image().unwrap();
    let before = all(&taker);
    let mut install = begin(&offer, &taker).unwrap();
    transfer(&offer, &mut install, usize::MAX);
    install.prepare().unwrap();
    taker.store = None;
    taker.kv.refuse_cat(true);
    assert!(install.finish().is_err());
    taker.kv.refuse_cat(false);
    taker.store = Some(taker.open().unwrap());
    assert_eq!(all(&taker), before);
    assert!(install.missing().unwrap().iter().map(|m| m.part).eq([0, 1]));
    transfer(&offer, &mut install, usize::MAX);
    taker.store = None;
    install.finish().unwrap();
    taker.restart();
    taker.replay(&log);
    assert_eq!(all(&taker), all(&giver));
}

#[test]
fn an_install_that_is_given_up_leaves_no_block() {
    let (giver, _) = giver();
    let offer = giver.store().offer().unwrap();
    let taker = Node::numbered(2);
    let mut install = begin(&offer, &taker).unwrap();
    transfer(&offer, &mut install, usize::MAX);
    install.prepare().unwrap();
    assert_eq!(block_ids(&taker), block_ids(&giver));
    drop(install);
    assert!(block_ids(&taker).is_empty());
}

#[test]
fn a_folder_of_an_install_that_is_overtaken_goes_at_the_next_start() {
    let (giver, log) = giver();
    let offer = giver.store().offer().unwrap();
    let mut taker = Node::numbered(2);
    drop(begin(&offer, &taker).unwrap());
    taker.restart();
    assert!(taker.dir().join("install").exists());
    taker.replay(&log);
    taker.store().cut_image().unwrap();
    taker.restart();
    assert!(!taker.dir().join("install").exists());
}

#[test]
fn an_offer_stays_readable_while_everything_it_lists_is_replaced() {
    let (giver, mut log) = giver();
    let offer = giver.store().offer().unwrap();
    let whole = bytes_of(&offer);
    let offered = block_ids(&giver);
    // Half of it is read meanwhile.
    let halves: Vec<_> = (0..whole.len()).map(|n| offer.read(n, 0, whole[n].len() / 2).unwrap()).collect();
    giver.store().merge(i64::MAX / 2).unwrap();
    log.extend([later(0..1, 50 * HOUR), retention(49 * HOUR), mark(50, 0)]);
    for round in 0..3 {
        log.push(later(500..900, (51 + round) * HOUR));
        giver.replay(&log);
        giver.store().flush().unwrap();
        giver.store().merge(i64::MAX / 2).unwrap();
        giver.store().retain().unwrap();
        giver.store().cut_image().unwrap();
    }
    assert_eq!(giver.store().stats().blocks, 1);
    for (number, half) in halves.iter().enumerate() {
        let rest = offer.read(number, half.len() as u64, MAX_READ).unwrap();
        assert!([half.as_slice(), &rest].concat() == whole[number], "part {number}");
    }
    assert!(bytes_of(&offer) == whole);
    assert!(offered.is_subset(&block_ids(&giver)));
    let mut taker = Node::numbered(2);
    install(&offer, &mut taker);
    taker.replay(&log);
    assert_eq!(all(&taker), all(&giver));
    drop(offer);
    assert_eq!(block_ids(&giver).len(), 1, "nothing pins the replaced blocks any more");
}

#[test]
fn a_block_under_an_id_that_is_taken_comes_under_another() {
    let (giver, log) = giver();
    // Both nodes say they are number 1, and made different blocks under the same ids.
    let mut taker = Node::new();
    taker.replay(&[scrape(0..3, 5), mark(0, 0), scrape(0..3, HOUR), mark(1, 0)]);
    taker.store().flush().unwrap();
    let taken = block_ids(&taker);
    assert!(taken.is_subset(&block_ids(&giver)));
    install(&giver.store().offer().unwrap(), &mut taker);
    assert!(taken.is_disjoint(&block_ids(&taker)));
    assert_eq!(block_ids(&taker).len(), block_ids(&giver).len());
    taker.replay(&log);
    assert_eq!(all(&taker), all(&giver));
    taker.store().merge(i64::MAX / 2).unwrap();
    assert_eq!(all(&taker), all(&giver));
}

#[test]
fn a_node_that_lost_its_disk_does_not_give_its_old_ids_again() {
    let (lost, log) = giver();
    let keeper = moved(&lost, 2);
    let old = block_ids(&lost);
    let mut back = Node::new();
    install(&keeper.store().offer().unwrap(), &mut back);
    assert_eq!(block_ids(&back), old);
    back.restart();
    back.replay(&[log, vec![mark(4, 0)]].concat());
    back.store().flush().unwrap();
    let new: Vec<_> = block_ids(&back).difference(&old).copied().collect();
    assert!(new.len() == 1 && new[0].node() == 1 && new[0] > *old.last().unwrap(), "{new:?}");
}

#[test]
fn blocks_that_a_taker_counts_on_are_not_merged_away() {
    let (giver, log) = giver();
    let taker = moved(&giver, 2);
    taker.replay(&log);
    let offer = giver.store().offer().unwrap();
    let mut install = begin(&offer, &taker).unwrap();
    let ids = block_ids(&taker);
    transfer(&offer, &mut install, usize::MAX);
    install.prepare().unwrap();
    assert_eq!(taker.store().merge(i64::MAX / 2).unwrap(), 0, "the state is on its way");
    assert_eq!(taker.store().retain().unwrap(), 0);
    assert_eq!(block_ids(&taker), ids);
    assert!(install.missing().unwrap().is_empty());
    drop(install);
    assert!(taker.store().merge(i64::MAX / 2).unwrap() > 0, "nothing is on its way any more");
    assert_ne!(block_ids(&taker), ids);
}

#[test]
fn a_block_that_is_damaged_at_the_giver_does_not_leave_it() {
    let (giver, _) = giver();
    let offer = giver.store().offer().unwrap();
    let id = offer.description().parts()[2].id;
    let index_of_the_block = [&id.to_be_bytes()[..], &[0xff; 4], b"d"].concat();
    assert!(giver.kv.flip(quorate_kv::Cf::Idx, &index_of_the_block, 4));
    let mut offset = 0;
    let read = loop {
        match offer.read(2, offset, SOME) {
            Ok(bytes) if !bytes.is_empty() => offset += bytes.len() as u64,
            other => break other,
        }
    };
    assert!(matches!(read, Err(StoreError::Damaged { .. })));
}
