//! Bugs that are planted on purpose, so that the suite in `jepsen/` can show that it would see them.
//!
//! Only that suite's own server binary is built with the feature `planted-bugs`, and there `QUORATE_PLANT` chooses one.
//! In every other build [`is_planted`] is the constant `false`, and the compiler leaves out what it guards. Knows the
//! names of all bugs; each stands at the place of the mechanism that it breaks.

/// A bug, by what it breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// The log tells that entries are durable before fdatasync.
    AckBeforeSync,
    /// After a restart the newest records count as applied, and are not.
    OffsetBeforeData,
    /// Whoever takes itself for the leader answers for it, without asking a majority.
    LocalRead,
    /// A sample that comes twice is stored twice.
    NoIdentity,
    /// Parts of blocks are cached without the tenant in their key.
    TenantDropped,
    /// What a replica does not answer is left out of the result.
    ShortRead,
    /// Apply drops samples of series over a limit, after their write was acknowledged.
    LimitAfterAck,
    /// A position token is taken and means nothing.
    SessionIgnored,
    /// With Kafka as the log a record counts as acknowledged once it waits to be sent.
    AckBeforeBroker,
    /// A reader of the topic goes on behind a record after brokers were out of reach.
    SkipAfterError,
    /// A reader whose records the topic deleted goes on at its end.
    SilentReset,
    /// A strong read takes the end of the topic that was seen last.
    RememberedEnd,
}

impl Bug {
    /// All of them, with the names that choose them.
    pub const ALL: [(Self, &str); 12] = [
        (Self::AckBeforeSync, "ack-before-sync"),
        (Self::OffsetBeforeData, "offset-before-data"),
        (Self::LocalRead, "local-read"),
        (Self::NoIdentity, "no-identity"),
        (Self::TenantDropped, "tenant-dropped"),
        (Self::ShortRead, "short-read"),
        (Self::LimitAfterAck, "limit-after-ack"),
        (Self::SessionIgnored, "session-ignored"),
        (Self::AckBeforeBroker, "ack-before-broker"),
        (Self::SkipAfterError, "skip-after-error"),
        (Self::SilentReset, "silent-reset"),
        (Self::RememberedEnd, "remembered-end"),
    ];

    /// The bug with a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(bug, _)| *bug)
    }
}

/// Whether this process has `bug`.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub const fn is_planted(_bug: Bug) -> bool {
    false
}

#[cfg(feature = "planted-bugs")]
pub use chosen::{VARIABLE, chosen, is_planted};

#[cfg(feature = "planted-bugs")]
mod chosen {
    use super::Bug;
    use std::sync::OnceLock;

    /// The environment variable that chooses a bug.
    pub const VARIABLE: &str = "QUORATE_PLANT";

    static CHOSEN: OnceLock<Result<Option<Bug>, String>> = OnceLock::new();

    /// Whether this process has `bug`.
    pub fn is_planted(bug: Bug) -> bool {
        matches!(chosen(), Ok(Some(planted)) if *planted == bug)
    }

    /// What the environment chooses; read once.
    ///
    /// # Errors
    /// With a name that no bug has.
    pub fn chosen() -> &'static Result<Option<Bug>, String> {
        CHOSEN.get_or_init(|| match std::env::var(VARIABLE) {
            Err(_) => Ok(None),
            Ok(name) => {
                Bug::named(&name).map(Some).ok_or_else(|| format!("{VARIABLE} names no bug: {name:?}"))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_has_a_name_of_its_own() {
        for (bug, name) in Bug::ALL {
            assert_eq!(Bug::named(name), Some(bug));
        }
        assert_eq!(Bug::named(""), None);
    }

    #[test]
    fn nothing_is_planted_by_itself() {
        assert!(Bug::ALL.iter().all(|(bug, _)| !is_planted(*bug)));
    }
}
