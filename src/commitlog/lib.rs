//! The log of a partition: the seam that both logs share, its drivers, and the record inside.

pub mod record;
