//! The open chunk: the newest float samples of one series, bit-packed, appended to in time order.
//!
//! Knows one series within one window. Does not know labels, locks or how the chunk is stored once cut.
//! Path: `head::stripe` -> **here**. Two forms, chosen by the values: *decimal* (value = integer x 10^-e, delta
//! of the integer) and *xor* (difference of the bits to the value before). A value that does not fit the form
//! makes the chunk be written again in one that fits; NaN, infinities and -0.0 stand raw in a decimal chunk,
//! so a stale marker does not spoil it.
//! O1: every value comes back bit for bit. O2: the state is a pure function of the samples, so replicas agree.
//! Cost: 1 to 3 bytes a sample of usual metrics, at most 14; memory grows by size classes of the allocator.
//! Source of the xor form: Pelkonen et al., "Gorilla", VLDB 2015, section 4.1.2.

use super::bits::{BitReader, put};

/// A chunk is cut at this many samples.
pub(crate) const MAX_SAMPLES: u8 = 120;
/// A chunk is cut before it outgrows this.
const MAX_BYTES: usize = 1024;
/// The longest code of one sample: time 36 bits, value 78 bits, rounded up.
const MAX_SAMPLE_BITS: usize = 128;
const XOR: u8 = 0xff;
const MAX_EXPONENT: u8 = 9;
const POWERS: [f64; 10] = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
/// Widths of time codes: after n ones and a zero follow this many bits.
const TIME_WIDTHS: [u32; 5] = [0, 7, 12, 20, 32];
/// The same for decimal values; the last holds raw bits.
const DECIMAL_WIDTHS: [u32; 7] = [0, 6, 11, 18, 32, 64, 64];
const RAW: u32 = 6;
const SIZES: [usize; 15] = [32, 48, 64, 80, 96, 112, 128, 160, 192, 256, 320, 384, 512, 768, MAX_BYTES];

/// The chunk and the state that the next append needs.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct OpenChunk {
    buf: Box<[u8]>,
    /// Time of the last sample ever appended; kept when the chunk is cut.
    pub(crate) last_ts: i64,
    /// Bits of the last value ever appended.
    pub(crate) last_bits: u64,
    number: i64,
    delta: i32,
    bits: u16,
    /// Samples in the chunk.
    pub(crate) count: u8,
    form: u8,
    leading: u8,
    width: u8,
    /// Marks of the owner; survive a cut.
    pub(crate) marks: u8,
}

/// The chunk is full: cut it, then append again.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl OpenChunk {
    /// A chunk without samples, before every time.
    pub(crate) fn new() -> Self {
        Self { last_ts: i64::MIN, ..Self::default() }
    }

    /// Appends a sample of the window that starts at `window_start`. `ts_ms` is later than every sample in
    /// the chunk and in the same window.
    pub(crate) fn append(&mut self, window_start: i64, ts_ms: i64, bits: u64) -> Result<(), Full> {
        if self.count == 0 {
            self.begin(bits);
        } else if self.count >= MAX_SAMPLES {
            return Err(Full);
        }
        let number = match self.form {
            XOR => 0,
            exponent => match to_decimal(bits, exponent) {
                Some(number) => number,
                None if is_special(bits) => i64::MIN,
                None => {
                    self.change_form(window_start, bits)?;
                    return self.append(window_start, ts_ms, bits);
                }
            },
        };
        self.make_room()?;
        self.append_time(window_start, ts_ms);
        match self.form {
            XOR => self.append_xor(bits),
            _ => self.append_decimal(number, bits),
        }
        self.last_ts = ts_ms;
        self.last_bits = bits;
        self.count += 1;
        Ok(())
    }

    /// Adds the samples to the columns, in time order.
    pub(crate) fn decode(&self, window_start: i64, ts_ms: &mut Vec<i64>, values: &mut Vec<f64>) {
        let used = usize::from(self.bits).div_ceil(8);
        decode(&self.buf[..used], self.form, self.count, window_start, ts_ms, values);
    }

    /// The packed samples and their form.
    #[cfg(test)]
    fn packed(&self) -> (&[u8], u8) {
        (&self.buf[..usize::from(self.bits).div_ceil(8)], self.form)
    }

    /// Appends the chunk and its state, for an image.
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.last_ts.to_le_bytes());
        out.extend_from_slice(&self.last_bits.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.delta.to_le_bytes());
        out.extend_from_slice(&self.bits.to_le_bytes());
        out.extend_from_slice(&[self.count, self.form, self.leading, self.width, self.marks]);
        out.extend_from_slice(&self.buf[..usize::from(self.bits).div_ceil(8)]);
    }

    /// Takes back what [`OpenChunk::put`] wrote. `None` if it does not decode.
    pub(crate) fn take(rest: &mut &[u8]) -> Option<Self> {
        let last_ts = take_array(rest).map(i64::from_le_bytes)?;
        let last_bits = take_array(rest).map(u64::from_le_bytes)?;
        let number = take_array(rest).map(i64::from_le_bytes)?;
        let delta = take_array(rest).map(i32::from_le_bytes)?;
        let bits = take_array(rest).map(u16::from_le_bytes)?;
        let [count, form, leading, width, marks] = take_array(rest)?;
        let used = usize::from(bits).div_ceil(8);
        let (packed, tail) = rest.split_at_checked(used)?;
        *rest = tail;
        let is_known_form = form == XOR || form <= MAX_EXPONENT;
        if count > MAX_SAMPLES || !is_known_form || leading > 63 || width > 64 {
            return None;
        }
        let mut buf = vec![0; if used == 0 { 0 } else { *SIZES.iter().find(|s| **s >= used)? }];
        buf[..used].copy_from_slice(packed);
        let buf = buf.into_boxed_slice();
        Some(Self { buf, last_ts, last_bits, number, delta, bits, count, form, leading, width, marks })
    }

    /// Empties the chunk after a cut; the last time stays and the memory is given back.
    pub(crate) fn clear(&mut self) {
        *self =
            Self { last_ts: self.last_ts, last_bits: self.last_bits, marks: self.marks, ..Self::default() };
    }

    /// Memory held outside the struct, in bytes.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.buf.len()
    }

    fn begin(&mut self, bits: u64) {
        let form = (0..=MAX_EXPONENT).find(|e| to_decimal(bits, *e).is_some()).unwrap_or(XOR);
        let (last_ts, marks, buf) = (self.last_ts, self.marks, std::mem::take(&mut self.buf));
        *self = Self { form, last_ts, marks, buf, ..Self::default() };
    }

    fn append_time(&mut self, window_start: i64, ts_ms: i64) {
        if self.count == 0 {
            self.write((ts_ms.wrapping_sub(window_start)) as u64, 32);
            return;
        }
        let delta = ts_ms.wrapping_sub(self.last_ts) as i32;
        let change = zigzag(i64::from(delta) - i64::from(self.delta));
        self.write_laddered(&TIME_WIDTHS, change);
        self.delta = delta;
    }

    fn append_decimal(&mut self, number: i64, bits: u64) {
        if number == i64::MIN {
            self.write((1 << RAW) - 1, RAW);
            self.write(bits, 64);
            return;
        }
        let change = zigzag(number.wrapping_sub(self.number));
        self.write_laddered(&DECIMAL_WIDTHS[..RAW as usize], change);
        self.number = number;
    }

    fn append_xor(&mut self, bits: u64) {
        let changed = bits ^ self.last_bits;
        if changed == 0 && self.count > 0 {
            self.write(0, 1);
            return;
        }
        let (leading, trailing) = (changed.leading_zeros().min(63), changed.trailing_zeros().min(63));
        let shift = 64u32.saturating_sub(u32::from(self.leading) + u32::from(self.width));
        let fits = self.width > 0 && leading >= u32::from(self.leading) && trailing >= shift;
        if fits {
            self.write(0b01, 2);
            self.write(changed >> shift, u32::from(self.width));
            return;
        }
        let width = 64 - leading - trailing.min(63 - leading);
        self.leading = leading as u8;
        self.width = width as u8;
        self.write(0b11, 2);
        self.write(u64::from(leading) | u64::from(width - 1) << 6, 12);
        self.write(changed >> (64 - leading - width), width);
    }

    /// Writes the number in the shortest rung that holds it: n ones, a zero unless the ladder ends, the bits.
    fn write_laddered(&mut self, widths: &[u32], value: u64) {
        let fits = |w: &u32| *w == 64 || value < 1 << *w;
        let rung = widths.iter().position(fits).expect("the last rung holds every value") as u32;
        let is_last_time_rung = widths.len() == TIME_WIDTHS.len() && rung as usize + 1 == widths.len();
        self.write((1 << rung) - 1, rung + u32::from(!is_last_time_rung));
        self.write(value, widths[rung as usize]);
    }

    fn write(&mut self, value: u64, width: u32) {
        put(&mut self.buf, usize::from(self.bits), value, width);
        self.bits += width as u16;
    }

    fn make_room(&mut self) -> Result<(), Full> {
        let needed = (usize::from(self.bits) + MAX_SAMPLE_BITS).div_ceil(8);
        if needed > self.buf.len() {
            let size = SIZES.iter().find(|s| **s >= needed).ok_or(Full)?;
            let mut larger = vec![0; *size].into_boxed_slice();
            larger[..self.buf.len()].copy_from_slice(&self.buf);
            self.buf = larger;
        }
        Ok(())
    }

    /// Writes the chunk again with more decimals, or as xor if decimals do not do.
    fn change_form(&mut self, window_start: i64, bits: u64) -> Result<(), Full> {
        let (mut ts_ms, mut values) = (Vec::with_capacity(120), Vec::with_capacity(120));
        self.decode(window_start, &mut ts_ms, &mut values);
        let holds = |e: &u8, v: u64| is_special(v) || to_decimal(v, *e).is_some();
        let form = (self.form + 1..=MAX_EXPONENT)
            .find(|e| holds(e, bits) && values.iter().all(|v| holds(e, v.to_bits())))
            .unwrap_or(XOR);
        let mut written = Self { form, last_ts: self.last_ts, marks: self.marks, ..Self::default() };
        for (ts, value) in ts_ms.iter().zip(values.iter().map(|v| v.to_bits())) {
            written.make_room()?;
            written.append_time(window_start, *ts);
            match form {
                XOR => written.append_xor(value),
                e => written.append_decimal(to_decimal(value, e).unwrap_or(i64::MIN), value),
            }
            (written.last_ts, written.last_bits) = (*ts, value);
            written.count += 1;
        }
        *self = written;
        Ok(())
    }
}

/// Adds the samples of a packed chunk to the columns. See [`OpenChunk::packed`].
pub(crate) fn decode(
    buf: &[u8],
    form: u8,
    count: u8,
    window_start: i64,
    ts_ms: &mut Vec<i64>,
    values: &mut Vec<f64>,
) {
    let mut reader = BitReader::new(buf);
    let (mut ts, mut delta, mut last, mut number) = (window_start, 0i64, 0u64, 0i64);
    let (mut leading, mut width) = (0, 0);
    for i in 0..count {
        if i == 0 {
            ts = window_start.wrapping_add(reader.take(32) as i64);
        } else {
            let rung = reader.take_unary(4);
            delta += unzigzag(reader.take(TIME_WIDTHS[rung as usize]));
            ts = ts.wrapping_add(delta);
        }
        last = if form == XOR {
            last ^ take_xor(&mut reader, &mut leading, &mut width)
        } else {
            take_decimal(&mut reader, form, &mut number)
        };
        ts_ms.push(ts);
        values.push(f64::from_bits(last));
    }
}

fn take_xor(reader: &mut BitReader<'_>, leading: &mut u32, width: &mut u32) -> u64 {
    match reader.take_unary(2) {
        0 => return 0,
        1 => {}
        _ => {
            *leading = reader.take(6) as u32;
            *width = reader.take(6) as u32 + 1;
        }
    }
    reader.take(*width) << 64u32.saturating_sub(*leading + *width).min(63)
}

fn take_decimal(reader: &mut BitReader<'_>, exponent: u8, number: &mut i64) -> u64 {
    let rung = reader.take_unary(RAW);
    let bits = reader.take(DECIMAL_WIDTHS[rung as usize]);
    if rung == RAW {
        return bits;
    }
    *number = number.wrapping_add(unzigzag(bits));
    (*number as f64 / POWERS[usize::from(exponent.min(MAX_EXPONENT))]).to_bits()
}

/// The integer that stands for the value with this many decimals, if that is exact to the bit.
fn to_decimal(bits: u64, exponent: u8) -> Option<i64> {
    const LIMIT: f64 = 9_007_199_254_740_992.0;
    let power = POWERS[usize::from(exponent)];
    let scaled = f64::from_bits(bits) * power;
    if scaled.abs() < LIMIT {
        let number = scaled.round_ties_even() as i64;
        return ((number as f64 / power).to_bits() == bits).then_some(number);
    }
    None
}

/// Values that no decimal form holds: they stand raw.
fn is_special(bits: u64) -> bool {
    !f64::from_bits(bits).is_finite() || bits == (-0.0f64).to_bits()
}

fn take_array<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*taken)
}

fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check_round_trip(window_start: i64, samples: &[(i64, u64)]) -> OpenChunk {
        let mut chunk = OpenChunk::new();
        let mut fitted = 0;
        for (offset, bits) in samples {
            if chunk.append(window_start, window_start.wrapping_add(*offset), *bits).is_err() {
                break;
            }
            fitted += 1;
        }
        let (mut ts_ms, mut values) = (Vec::new(), Vec::new());
        chunk.decode(window_start, &mut ts_ms, &mut values);
        let expected = &samples[..fitted];
        assert!(ts_ms.iter().map(|t| t.wrapping_sub(window_start)).eq(expected.iter().map(|s| s.0)));
        assert!(values.iter().map(|v| v.to_bits()).eq(expected.iter().map(|s| s.1)));
        assert!(fitted == samples.len() || fitted >= 60, "cut at {fitted} samples");
        chunk
    }

    fn scraped(value: impl Fn(u32) -> f64) -> Vec<(i64, u64)> {
        (0..120).map(|i| (i64::from(i) * 15_000 + i64::from(i * 7919 % 5), value(i).to_bits())).collect()
    }

    #[test]
    fn usual_metrics_take_few_bytes() {
        let size = |samples: &[(i64, u64)]| check_round_trip(0, samples).packed().0.len();
        assert!(size(&scraped(|_| 1.0)) <= 160);
        assert!(size(&scraped(|i| f64::from(i * 40 + i % 7))) <= 300);
        assert!(size(&scraped(|i| f64::from(i * 7919 % 1000) / 100.0)) <= 400);
    }

    #[test]
    fn special_values_do_not_spoil_a_decimal_chunk() {
        let mut samples = scraped(|i| f64::from(i) / 4.0);
        for (at, bits) in
            [(3, 0x7ff0_0000_0000_0002), (50, f64::INFINITY.to_bits()), (51, (-0.0f64).to_bits())]
        {
            samples[at].1 = bits;
        }
        assert_ne!(check_round_trip(0, &samples).packed().1, XOR);
    }

    #[test]
    fn windows_at_the_edges_of_time_work() {
        check_round_trip(i64::MIN, &[(0, 1), (1, 2), (3_599_999, 3)]);
        check_round_trip(i64::MAX - 3_599_999, &[(0, 1), (3_599_998, 2), (3_599_999, 3)]);
    }

    proptest! {
        #[test]
        fn every_value_comes_back_bit_for_bit(
            start in any::<i32>(),
            steps in prop::collection::vec((1i64..40_000, prop_oneof![
                any::<u64>(),
                (-1000i64..1000).prop_map(|v| (v as f64).to_bits()),
                (-100_000i64..100_000).prop_map(|v| (v as f64 / 1000.0).to_bits()),
                Just(0x7ff0_0000_0000_0002u64),
            ]), 1..120),
        ) {
            let mut at = 0;
            let samples: Vec<_> = steps.iter().map(|(d, v)| { at += d; (at, *v) }).collect();
            check_round_trip(i64::from(start), &samples);
        }
    }
}
