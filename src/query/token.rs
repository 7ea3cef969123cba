//! Position tokens: what a client has written or seen, to be shown to any node later (PR9).
//!
//! Knows partitions, positions, the text form, and the tag that keeps clients from inventing positions, for which a node
//! would wait in vain. Does not know where the secret behind it is kept. The page is
//! `docs/formats/position_token.md`.
//! Path: an answer to a write or a read -> client -> `ReadConsistency::Session` -> **here** -> `freshness`.

use hmac::{Hmac, Mac};
use quorate_chunk::varint;
use quorate_model::{PartitionId, Position};
use sha2::Sha256;
use std::collections::BTreeMap;
use std::fmt;

/// Bytes of a tag.
pub const TAG_BYTES: usize = 16;
/// Bytes of the secret behind the tags.
pub const SECRET_BYTES: usize = 32;
/// Most partitions of a token.
pub const MAX_PARTITIONS: usize = 4096;
const VERSION: u8 = 1;
/// A partition takes at most five bytes and a position ten.
const MAX_TEXT: usize = 2 * (1 + 3 + MAX_PARTITIONS * 15 + TAG_BYTES);

/// Makes the tags of tokens: HMAC-SHA-256 with the cluster's secret, over the cluster's id and the token, cut to
/// [`TAG_BYTES`]. Clones are cheap.
#[derive(Clone)]
pub struct TokenKey(Hmac<Sha256>);

impl TokenKey {
    /// The key of the cluster with this id and secret. Another id makes other tags of the same secret.
    pub fn new(secret: &[u8; SECRET_BYTES], cluster: u128) -> Self {
        let mut mac = Hmac::new_from_slice(secret).expect("a key of HMAC may have any length");
        mac.update(&cluster.to_le_bytes());
        Self(mac)
    }

    fn over(&self, bytes: &[u8]) -> Hmac<Sha256> {
        self.0.clone().chain_update(bytes)
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey")
    }
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

    /// Adds everything that `other` has.
    pub fn merge(&mut self, other: &Self) {
        other.0.iter().for_each(|(partition, position)| self.note(*partition, *position));
    }

    /// The text form: hexadecimal, so it can stand in a header and in a URL.
    pub fn encode(&self, key: &TokenKey) -> String {
        let mut bytes = vec![VERSION];
        varint::put(&mut bytes, self.0.len() as u64);
        for (partition, position) in &self.0 {
            varint::put(&mut bytes, u64::from(partition.0));
            varint::put(&mut bytes, position.0);
        }
        let tag = key.over(&bytes).finalize().into_bytes();
        bytes.extend_from_slice(&tag[..TAG_BYTES]);
        to_hex(&bytes)
    }

    /// Reads a text form.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn decode(text: &str, key: &TokenKey) -> Result<Self, TokenError> {
        let bytes = from_hex(text).ok_or(TokenError::Malformed)?;
        let (signed, tag) = bytes.split_last_chunk::<TAG_BYTES>().ok_or(TokenError::Malformed)?;
        key.over(signed).verify_truncated_left(tag).map_err(|_other| TokenError::Forged)?;
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

fn to_hex(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from(b"0123456789abcdef"[usize::from(half)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
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

    fn key(secret: u8, cluster: u128) -> TokenKey {
        TokenKey::new(&[secret; SECRET_BYTES], cluster)
    }

    fn token(positions: &[(u32, u64)]) -> PositionToken {
        let mut token = PositionToken::default();
        positions.iter().for_each(|(id, position)| token.note(PartitionId(*id), Position(*position)));
        token
    }

    #[test]
    fn bytes_are_golden() {
        let text = token(&[(0, 1), (3, 300)]).encode(&key(7, 9));
        assert_eq!(text, "0102000103ac02f8fe946d1f9f1633fdcf01f7634efc37");
    }

    /// Test case 2 of RFC 4231, cut to what a tag has.
    #[test]
    fn tags_are_those_of_the_standard() {
        let mac = Hmac::<Sha256>::new_from_slice(b"Jefe").unwrap();
        let tag = TokenKey(mac).over(b"what do ya want for nothing?").finalize().into_bytes();
        assert_eq!(to_hex(&tag[..TAG_BYTES]), "5bdcc146bf60754e6a042426089575c7");
    }

    #[test]
    fn the_later_position_counts() {
        let mut token = token(&[(1, 5), (1, 3), (2, 9)]);
        token.merge(&self::token(&[(2, 8), (4, 1)]));
        let position = |id| token.position(PartitionId(id)).0;
        assert_eq!((position(1), position(2), position(3), position(4)), (5, 9, 0, 1));
    }

    #[test]
    fn a_changed_token_is_refused() {
        let text = token(&[(1, 5)]).encode(&key(7, 9));
        for other in [key(8, 9), key(7, 8)] {
            assert_eq!(PositionToken::decode(&text, &other), Err(TokenError::Forged));
        }
        for at in 0..text.len() {
            let digit = if &text[at..=at] == "0" { "1" } else { "0" };
            let changed = [&text[..at], digit, &text[at + 1..]].concat();
            assert_eq!(PositionToken::decode(&changed, &key(7, 9)), Err(TokenError::Forged), "{changed}");
        }
        for text in ["", "0", "zz", &text[..20], &"00".repeat(MAX_TEXT), "é"] {
            assert_eq!(PositionToken::decode(text, &key(7, 9)), Err(TokenError::Malformed), "{text:.40}");
        }
    }

    #[test]
    fn what_is_signed_must_still_be_whole() {
        for body in [&[2u8, 0][..], &[1, 1, 1], &[1, 2, 1, 1, 1, 1], &[1, 0, 0], &[1, 0xff, 0xff, 0xff, 0x7f]]
        {
            let tag = key(7, 9).over(body).finalize().into_bytes();
            let text = to_hex(&[body, &tag[..TAG_BYTES]].concat());
            assert_eq!(PositionToken::decode(&text, &key(7, 9)), Err(TokenError::Malformed), "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn tokens_round_trip(positions in prop::collection::vec((any::<u32>(), any::<u64>()), 0..40)) {
            let token = token(&positions);
            prop_assert_eq!(PositionToken::decode(&token.encode(&key(1, 1)), &key(1, 1)), Ok(token));
        }

        #[test]
        fn what_is_no_token_is_no_panic(text in ".{0,80}", hex in "[0-9a-f]{0,80}") {
            for text in [text, hex] {
                prop_assert!(PositionToken::decode(&text, &key(1, 1)).is_err());
            }
        }
    }
}
