//! Strings of one head, each stored once and named by a dense number.
//!
//! Knows strings. Does not know labels, series or tenants.
//! Path: `head::series` -> **here**.
//! Y1: ids are given in first-seen order and never change meaning within one interner.
//! Cost: one hash and one comparison for a known string; the string's bytes plus about 10 for a new one.

use super::id_table::IdTable;
use super::offset::Offset;
use xxhash_rust::xxh3::xxh3_64;

/// The interner.
#[derive(Debug, Default)]
pub(crate) struct Symbols {
    bytes: Vec<u8>,
    /// Where each string ends; it begins where the one before ends.
    ends: Vec<Offset>,
    table: IdTable,
}

impl Symbols {
    /// The number of `text`, or `None` if it was never interned.
    pub(crate) fn find(&self, text: &str) -> Option<u32> {
        self.find_hashed(xxh3_64(text.as_bytes()), text)
    }

    /// The number of `text`, given now if it is new.
    pub(crate) fn intern(&mut self, text: &str) -> u32 {
        let hash = xxh3_64(text.as_bytes());
        if let Some(id) = self.find_hashed(hash, text) {
            return id;
        }
        let id = self.ends.len() as u32;
        reserve(&mut self.bytes, text.len());
        self.bytes.extend_from_slice(text.as_bytes());
        self.ends.push(Offset::new(self.bytes.len()));
        let (bytes, ends) = (&self.bytes, &self.ends);
        self.table.insert(hash, id, |other| xxh3_64(slice(bytes, ends, other)));
        id
    }

    /// The string of a number that this interner gave out.
    pub(crate) fn get(&self, id: u32) -> &str {
        std::str::from_utf8(slice(&self.bytes, &self.ends, id)).expect("only strings are interned")
    }

    /// Number of strings; the next new one gets this number.
    #[cfg(test)]
    pub(crate) fn len(&self) -> u32 {
        self.ends.len() as u32
    }

    /// Memory held, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes.capacity() + self.ends.capacity() * size_of::<Offset>() + self.table.bytes()
    }

    fn find_hashed(&self, hash: u64, text: &str) -> Option<u32> {
        self.table.find(hash, |id| slice(&self.bytes, &self.ends, id) == text.as_bytes())
    }
}

/// Makes room for `more` bytes, growing by an eighth instead of doubling: memory matters more than copies here.
pub(crate) fn reserve(bytes: &mut Vec<u8>, more: usize) {
    if bytes.capacity() - bytes.len() < more {
        bytes.reserve_exact(more.max(bytes.len() / 8).max(256));
    }
}

fn slice<'a>(bytes: &'a [u8], ends: &[Offset], id: u32) -> &'a [u8] {
    let start = if id == 0 { 0 } else { ends[id as usize - 1].get() };
    &bytes[start..ends[id as usize].get()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_share_a_number_and_ids_are_dense() {
        let mut symbols = Symbols::default();
        let ids: Vec<u32> = ["a", "", "b", "a", "ä"].iter().map(|s| symbols.intern(s)).collect();
        assert_eq!(ids, [0, 1, 2, 0, 3]);
        for i in 0..1000 {
            symbols.intern(&format!("value-{i}"));
        }
        assert_eq!(symbols.get(3), "ä");
        assert_eq!(symbols.find("value-999").map(|id| symbols.get(id)), Some("value-999"));
        assert_eq!(symbols.find("value-1000"), None);
        assert_eq!(symbols.len(), 1004);
    }
}
