//! Durations and sizes as people write them: `15d`, `1h30m`, `250ms`, `64MiB`.
//!
//! Knows text and numbers. Does not know which key a value belongs to.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Units of a duration with their milliseconds, longest first. A year has 365 days, as in PromQL.
const UNITS: [(&str, u64); 7] = [
    ("y", 365 * 86_400_000),
    ("w", 7 * 86_400_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// A duration in whole milliseconds, written as in PromQL. `0` needs no unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct HumanDuration(u64);

impl HumanDuration {
    /// A duration of `ms` milliseconds.
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms)
    }

    /// A duration of `seconds` seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds * 1_000)
    }

    /// The duration in milliseconds.
    pub const fn ms(self) -> u64 {
        self.0
    }

    /// The duration in milliseconds as times are counted; durations beyond the range of times are cut.
    pub fn as_ms(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }

    /// Whether it is zero, which mostly means "off".
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl From<HumanDuration> for Duration {
    fn from(value: HumanDuration) -> Self {
        Self::from_millis(value.0)
    }
}

impl fmt::Display for HumanDuration {
    /// Writes each unit once, from the largest that divides: `1d12h`. Weeks and years only when exact.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        if rest == 0 {
            return f.write_str("0s");
        }
        for (name, ms) in UNITS {
            let exact_only = matches!(name, "y" | "w");
            if rest >= ms && (!exact_only || rest.is_multiple_of(ms)) {
                write!(f, "{}{name}", rest / ms)?;
                rest %= ms;
            }
        }
        Ok(())
    }
}

impl FromStr for HumanDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a duration such as 30s, 5m or 15d");
        if text == "0" {
            return Ok(Self(0));
        }
        let (mut rest, mut total, mut next_unit) = (text, 0u64, 0);
        if rest.is_empty() {
            return Err(bad());
        }
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
            rest = &rest[digits..];
            let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
            let at = UNITS.iter().position(|(name, _)| *name == &rest[..letters]).ok_or_else(bad)?;
            if at < next_unit {
                return Err(bad());
            }
            next_unit = at + 1;
            rest = &rest[letters..];
            total = number
                .checked_mul(UNITS[at].1)
                .and_then(|ms| total.checked_add(ms))
                .ok_or_else(|| format!("{text:?} is too long"))?;
        }
        Ok(Self(total))
    }
}

/// Units of a size with their bytes, largest first within binary and decimal.
const SIZES: [(&str, u64); 8] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("kB", 1_000),
    ("B", 1),
];

/// A size in bytes. `0` needs no unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct HumanSize(u64);

impl HumanSize {
    /// A size of `bytes` bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// A size of `mib` times 2^20 bytes.
    pub const fn from_mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The size for use with buffers; sizes beyond the address space are cut.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for HumanSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = SIZES[..3].iter().find(|(_, bytes)| self.0 > 0 && self.0.is_multiple_of(*bytes));
        match unit {
            Some((name, bytes)) => write!(f, "{}{name}", self.0 / bytes),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl FromStr for HumanSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a size such as 512KiB, 64MiB or 2GB");
        if text == "0" {
            return Ok(Self(0));
        }
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = text[..digits].parse().map_err(|_| bad())?;
        let (_, bytes) = SIZES.iter().find(|(name, _)| *name == &text[digits..]).ok_or_else(bad)?;
        number.checked_mul(*bytes).map(Self).ok_or_else(|| format!("{text:?} is too large"))
    }
}

macro_rules! serde_as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(TextVisitor::<Self>(std::marker::PhantomData))
            }
        }
    };
}

serde_as_text!(HumanDuration);
serde_as_text!(HumanSize);

/// Reads text, or the number 0, which YAML does not give as text.
struct TextVisitor<T>(std::marker::PhantomData<T>);

impl<T: FromStr<Err = String>> serde::de::Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number with its unit")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<T, E> {
        number.to_string().parse().map_err(E::custom)
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<T, E> {
        number.to_string().parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check_duration(text: &str, ms: Option<u64>) {
        assert_eq!(text.parse::<HumanDuration>().ok().map(HumanDuration::ms), ms, "{text:?}");
    }

    #[test]
    fn durations_are_read_as_in_promql() {
        check_duration("15d", Some(15 * 86_400_000));
        check_duration("1h30m", Some(5_400_000));
        check_duration("250ms", Some(250));
        check_duration("1y", Some(31_536_000_000));
        check_duration("0", Some(0));
        for bad in ["", "15", "1m1h", "1h1h", "-5m", "1.5h", "5 m", "9999999999999y", "ms"] {
            check_duration(bad, None);
        }
    }

    #[test]
    fn sizes_need_a_known_unit() {
        assert_eq!("64MiB".parse(), Ok(HumanSize::from_mib(64)));
        assert_eq!("2GB".parse(), Ok(HumanSize::from_bytes(2_000_000_000)));
        for bad in ["", "64", "64mib", "-1B", "1.5GiB", "99999999999999GiB"] {
            assert!(bad.parse::<HumanSize>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(ms in 0..u64::MAX / 2, bytes: u64) {
            let duration = HumanDuration::from_ms(ms);
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
            let size = HumanSize::from_bytes(bytes);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }
    }
}
