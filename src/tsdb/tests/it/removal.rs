//! A partition that moved away leaves nothing behind, and others lose nothing by it.

use crate::restart::log;
use crate::support::*;
use quorate_model::TimeRange;
use quorate_tsdb::StoreError;
use quorate_tsdb::block::stored_ids;

#[test]
fn a_removed_partition_is_an_empty_one() {
    let mut node = Node::new();
    node.replay(&log());
    node.store().flush().unwrap();
    node.store().cut_image().unwrap();
    assert!(!stored_ids(node.kv.as_ref()).unwrap().is_empty());
    let in_use = node.disk.remove(PARTITION, node.dir());
    assert!(matches!(in_use, Err(StoreError::InUse { .. })), "{in_use:?}");
    node.store = None;
    node.disk.remove(PARTITION, node.dir()).unwrap();
    assert!(!node.dir().exists() && stored_ids(node.kv.as_ref()).unwrap().is_empty());
    node.disk.remove(PARTITION, node.dir()).unwrap();
    node.store = Some(node.open().unwrap());
    let new = Node::new();
    assert_eq!((node.store().applied().0, node.store().fingerprint()), (0, new.store().fingerprint()));
    assert_eq!(read(node.store(), TimeRange::ALL), read(new.store(), TimeRange::ALL));
    node.replay(&log());
    let other = Node::new();
    other.replay(&log());
    assert_eq!(node.store().fingerprint(), other.store().fingerprint(), "it can be filled again");
}
