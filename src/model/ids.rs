//! Identifiers. All are plain numbers so that they can stand in keys; names live in the metadata group.

use std::fmt;

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_id!(
    /// Number of a tenant, given by the metadata group and never reused.
    TenantId, u32
);
number_id!(
    /// Number of a partition: the unit of ownership and of the log.
    PartitionId, u32
);
number_id!(
    /// Raft id of a node, given by the metadata group. Never reused.
    NodeId, u64
);
number_id!(
    /// A series' place on the ring, one of 65,536.
    Slot, u16
);
number_id!(
    /// Dense number of a series within one gateway session and partition.
    SeriesRef, u32
);
number_id!(
    /// Place in a partition's log. Strictly increasing, gaps allowed; 0 is before every entry.
    Position, u64
);

/// One gateway's life as seen by the partitions: refs mean something only within a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SessionId {
    /// The gateway's node number.
    pub node: u32,
    /// Issued by the metadata group at each start of that node, and at each roll-over.
    pub incarnation: u32,
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.incarnation)
    }
}
