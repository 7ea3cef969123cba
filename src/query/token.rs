//! Position tokens: what a client has written or seen, to be shown to any node later (PR9).
//!
//! Knows partitions, positions and the text form. Does not know keys: a [`TokenKey`] makes the tag that keeps clients
//! from inventing positions, for which a node would wait in vain. The page is `docs/formats/position_token.md`.
//! Path: an answer to a write -> client -> `ReadConsistency::Session` -> **here** -> `freshness`.

use quorate_chunk::varint;
use quorate_model::{PartitionId, Position};
use std::collections::BTreeMap;

/// Bytes of a tag.
pub const TAG_BYTES: usize = 16;
/// Most partitions of a token.
pub const MAX_PARTITIONS: usize = 4096;
const VERSION: u8 = 1;
/// A partition takes at most five bytes and a position ten.
const MAX_TEXT: usize = 2 * (1 + 3 + MAX_PARTITIONS * 15 + TAG_BYTES);

/// Makes the tags of tokens: a keyed hash that cannot be made without the cluster's secret.
pub trait TokenKey: Send + Sync {
    /// The tag of `bytes`.
    fn tag(&self, bytes: &[u8]) -> [u8; TAG_BYTES];
}

/// Why a text is not a token of this cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is not in the form of a token, or in one that this version does not know.
    #[error("not a position token")]
    Malformed,
    /// Its tag is not this cluster's.
    #[error("a position token of another cluster, or a changed one")]
    Forged,
}

/// A position in each of some partitions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PositionToken(BTreeMap<PartitionId, Position>);

impl PositionToken {
    /// Adds what was seen of a partition; of two positions the later counts.
    pub fn note(&mut self, partition: PartitionId, position: Position) {
        let known = self.0.entry(partition).or_default();
        *known = position.max(*known);
    }

    /// The position in `partition`; 0, which every replica has, if nothing was seen of it.
    pub fn position(&self, partition: PartitionId) -> Position {
        self.0.get(&partition).copied().unwrap_or_default()
    }

    /// The partitions of which something was seen.
    pub fn partitions(&self) -> impl Iterator<Item = PartitionId> {
        self.0.keys().copied()
    }

    /// The text form: hexadecimal, so it can stand in a header and in a URL.
    pub fn encode(&self, key: &dyn TokenKey) -> String {
        let mut bytes = vec![VERSION];
        varint::put(&mut bytes, self.0.len() as u64);
        for (partition, position) in &self.0 {
            varint::put(&mut bytes, u64::from(partition.0));
            varint::put(&mut bytes, position.0);
        }
        let tag = key.tag(&bytes);
        bytes.extend_from_slice(&tag);
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Reads a text form.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn decode(text: &str, key: &dyn TokenKey) -> Result<Self, TokenError> {
        let bytes = from_hex(text).ok_or(TokenError::Malformed)?;
        let (signed, tag) = bytes.split_last_chunk::<TAG_BYTES>().ok_or(TokenError::Malformed)?;
        // Every byte is compared, so that the time tells nothing of the right tag.
        let differences = key.tag(signed).iter().zip(tag).fold(0, |all, (a, b)| all | (a ^ b));
        if differences != 0 {
            return Err(TokenError::Forged);
        }
        positions(signed).map(Self).ok_or(TokenError::Malformed)
    }
}

fn positions(signed: &[u8]) -> Option<BTreeMap<PartitionId, Position>> {
    let (version, mut rest) = signed.split_first()?;
    let count = varint::take_len(&mut rest, MAX_PARTITIONS).filter(|_| *version == VERSION)?;
    let mut positions = BTreeMap::new();
    for _ in 0..count {
        let partition = u32::try_from(varint::take(&mut rest)?).ok()?;
        let position = varint::take(&mut rest)?;
        positions.insert(PartitionId(partition), Position(position));
    }
    (rest.is_empty() && positions.len() == count).then_some(positions)
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if text.len() > MAX_TEXT || !text.len().is_multiple_of(2) {
        return None;
    }
    let digit = |c: u8| (c as char).to_digit(16).map(|digit| digit as u8);
    text.as_bytes().chunks_exact(2).map(|two| Some(digit(two[0])? << 4 | digit(two[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A tag that shows what it is made from; not a secret.
    struct Key(u8);

    impl TokenKey for Key {
        fn tag(&self, bytes: &[u8]) -> [u8; TAG_BYTES] {
            let sum = bytes.iter().fold(0u8, |sum, byte| sum.rotate_left(1) ^ byte);
            [self.0, sum, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, bytes.len() as u8]
        }
    }

    fn token(positions: &[(u32, u64)]) -> PositionToken {
        let mut token = PositionToken::default();
        positions.iter().for_each(|(id, position)| token.note(PartitionId(*id), Position(*position)));
        token
    }

    #[test]
    fn bytes_are_golden() {
        let text = token(&[(0, 1), (3, 300)]).encode(&Key(7));
        assert_eq!(text, "0102000103ac02075f0000000000000000000000000007");
    }

    #[test]
    fn the_later_position_counts() {
        let token = token(&[(1, 5), (1, 3), (2, 9)]);
        let position = |id| token.position(PartitionId(id)).0;
        assert_eq!((position(1), position(2), position(3)), (5, 9, 0));
    }

    #[test]
    fn a_changed_token_is_refused() {
        let text = token(&[(1, 5)]).encode(&Key(7));
        assert_eq!(PositionToken::decode(&text, &Key(8)), Err(TokenError::Forged));
        let changed = text.replacen("0105", "0106", 1);
        assert_eq!(PositionToken::decode(&changed, &Key(7)), Err(TokenError::Forged));
        for text in ["", "0", "zz", &text[..20], &"00".repeat(MAX_TEXT), "é"] {
            assert_eq!(PositionToken::decode(text, &Key(7)), Err(TokenError::Malformed), "{text:.40}");
        }
    }

    #[test]
    fn what_is_signed_must_still_be_whole() {
        for body in [&[2u8, 0][..], &[1, 1, 1], &[1, 2, 1, 1, 1, 1], &[1, 0, 0], &[1, 0xff, 0xff, 0xff, 0x7f]]
        {
            let bytes = [body, &Key(7).tag(body)].concat();
            let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(PositionToken::decode(&text, &Key(7)), Err(TokenError::Malformed), "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn tokens_round_trip(positions in prop::collection::vec((any::<u32>(), any::<u64>()), 0..40)) {
            let token = token(&positions);
            prop_assert_eq!(PositionToken::decode(&token.encode(&Key(1)), &Key(1)), Ok(token));
        }
    }
}
