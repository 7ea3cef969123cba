//! For whom a call is: the headers of each call to a known node, and what the node compares them with.
//!
//! Before a cluster has its id, its founders know it by the hash of their list of peers. Some of them learn the id
//! earlier than others, so a node answers to both names, and calls by the id as soon as it knows it. With TLS a call says
//! from which node it is as well, and the certificate of its connection must be for that.

use parking_lot::RwLock;
use quorate_model::NodeId;
use std::sync::Arc;
use tonic::metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue};

/// What a node calls its cluster. Clones share it, and it may change at any time.
#[derive(Debug, Clone, Default)]
pub struct ClusterName(Arc<RwLock<Names>>);

#[derive(Debug, Default)]
struct Names {
    forming: Option<String>,
    id: Option<String>,
}

impl ClusterName {
    /// The cluster that is being formed from the list of peers with this hash, in hex.
    pub fn set_forming(&self, hash: &str) {
        self.0.write().forming = Some(format!("forming-{hash}"));
    }

    /// The cluster has this id.
    pub fn set_id(&self, id: u128) {
        self.0.write().id = Some(format!("{id:032x}"));
    }

    /// The name to call it by, if it has one.
    pub(super) fn text(&self) -> Option<String> {
        let names = self.0.read();
        names.id.as_ref().or(names.forming.as_ref()).cloned()
    }

    /// Whether it has this name.
    pub(super) fn is(&self, name: &str) -> bool {
        let names = self.0.read();
        [&names.id, &names.forming].into_iter().flatten().any(|own| own == name)
    }
}

/// Writes on a call for whom it is, and from which node if its certificate can prove that.
pub(super) fn stamp(
    metadata: &mut MetadataMap,
    cluster: &ClusterName,
    to: NodeId,
    from: Option<&str>,
) -> Result<(), String> {
    let name = cluster.text().ok_or("this node has no cluster yet")?;
    let name = MetadataValue::try_from(&name).map_err(|e| format!("the name of the cluster: {e}"))?;
    metadata.insert(cluster_header(), name);
    metadata.insert(to_header(), MetadataValue::from(to.0));
    if let Some(from) = from {
        let from = MetadataValue::try_from(from).map_err(|e| format!("the name of this node: {e}"))?;
        metadata.insert(from_header(), from);
    }
    Ok(())
}

/// Whether a call is for `node` of `cluster`, or why not.
pub(super) fn check(metadata: &MetadataMap, cluster: &ClusterName, node: NodeId) -> Result<(), String> {
    let (name, to) = (text(metadata, cluster_header()), text(metadata, to_header()));
    if !cluster.is(name) {
        let own = cluster.text();
        return Err(format!("this node is of cluster {}, not of {name}", own.as_deref().unwrap_or("none")));
    }
    if to != node.0.to_string() {
        return Err(format!("this is node {node}, not {to}"));
    }
    Ok(())
}

/// The node that a call says it is from.
pub(super) fn from(metadata: &MetadataMap) -> &str {
    text(metadata, from_header())
}

fn text(metadata: &MetadataMap, key: MetadataKey<Ascii>) -> &str {
    metadata.get(key).and_then(|value| value.to_str().ok()).unwrap_or("none")
}

fn cluster_header() -> MetadataKey<Ascii> {
    MetadataKey::from_static("quorate-cluster")
}

fn to_header() -> MetadataKey<Ascii> {
    MetadataKey::from_static("quorate-to")
}

fn from_header() -> MetadataKey<Ascii> {
    MetadataKey::from_static("quorate-from")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(forming: Option<&str>, id: Option<u128>) -> ClusterName {
        let name = ClusterName::default();
        forming.inspect(|hash| name.set_forming(hash));
        id.inspect(|id| name.set_id(*id));
        name
    }

    #[track_caller]
    fn check_call(from: &ClusterName, to: &ClusterName, expected: Result<(), &str>) {
        let mut metadata = MetadataMap::new();
        let checked =
            stamp(&mut metadata, from, NodeId(2), None).and_then(|()| check(&metadata, to, NodeId(2)));
        match (checked, expected) {
            (Ok(()), Ok(())) => {}
            (Err(reason), Err(part)) => assert!(reason.contains(part), "{reason}"),
            (checked, expected) => panic!("{checked:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn founders_understand_each_other_while_some_know_the_id_and_some_do_not() {
        let (founder, member) = (named(Some("ab"), None), named(Some("ab"), Some(7)));
        check_call(&founder, &founder, Ok(()));
        check_call(&founder, &member, Ok(()));
        check_call(&member, &member, Ok(()));
        // By the time a member has the id, a founder is about to learn it, and asks again.
        check_call(&member, &founder, Err("forming-ab"));
        founder.set_id(7);
        check_call(&member, &founder, Ok(()));
    }

    #[test]
    fn strangers_are_told_so() {
        check_call(&named(None, Some(8)), &named(None, Some(7)), Err("cluster"));
        check_call(&named(Some("cd"), None), &named(Some("ab"), Some(7)), Err("forming-cd"));
        check_call(&named(None, None), &named(None, Some(7)), Err("no cluster yet"));
        check_call(&named(None, Some(7)), &named(None, None), Err("cluster none"));
    }

    #[test]
    fn a_call_without_headers_or_for_another_node_is_not_for_this_one() {
        let (cluster, mut metadata) = (named(None, Some(7)), MetadataMap::new());
        assert!(check(&metadata, &cluster, NodeId(2)).is_err());
        stamp(&mut metadata, &cluster, NodeId(3), None).unwrap();
        assert_eq!(check(&metadata, &cluster, NodeId(2)), Err("this is node 2, not 3".to_owned()));
    }
}
