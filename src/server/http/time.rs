//! Times and durations as parameters of the HTTP API.
//!
//! Source: Prometheus `web/api/v1`: `parseTime`, `parseDuration`. A time is RFC 3339 or seconds since the
//! Unix epoch; a duration is seconds or PromQL's form. Both become milliseconds.

/// The earliest and latest time, as Prometheus writes and reads them.
const MIN_TIME: (&str, i64) = ("-292273086-05-16T16:47:06Z", i64::MIN / 1000 * 1000 + 62_135_596_801_000);
const MAX_TIME: (&str, i64) =
    ("292277025-08-18T07:12:54.999999999Z", i64::MAX / 1000 * 1000 - 62_135_596_800_001);

/// The first millisecond that a range without a start begins with.
pub const EARLIEST_MS: i64 = MIN_TIME.1;
/// The last millisecond that a range without an end ends with.
pub const LATEST_MS: i64 = MAX_TIME.1;

/// Reads a time in milliseconds.
///
/// # Errors
/// Prometheus' sentence, for text that is neither form, not finite or out of range.
pub fn parse_time(text: &str) -> Result<i64, String> {
    let bad = || format!("cannot parse {} to a valid timestamp", quoted(text));
    if let Some(seconds) = parse_float(text) {
        let ms = seconds.trunc() * 1000.0 + (seconds.fract() * 1000.0).round();
        let in_range = ms >= EARLIEST_MS as f64 && ms <= LATEST_MS as f64;
        return if in_range { Ok(ms as i64) } else { Err(bad()) };
    }
    match text {
        text if text == MIN_TIME.0 => Ok(MIN_TIME.1),
        text if text == MAX_TIME.0 => Ok(MAX_TIME.1),
        text => parse_rfc3339(text).ok_or_else(bad),
    }
}

/// Reads a duration in nanoseconds; it may be negative.
///
/// # Errors
/// Prometheus' sentence, for text that is neither form or overflows.
pub fn parse_duration_ns(text: &str) -> Result<i64, String> {
    let bad = || format!("cannot parse {} to a valid duration", quoted(text));
    if let Some(seconds) = parse_float(text) {
        let ns = seconds * 1e9;
        if !(-9.223_372_036_854_776e18..9.223_372_036_854_776e18).contains(&ns) {
            return Err(format!("{}. It overflows int64", bad()));
        }
        return Ok(ns as i64);
    }
    let duration: crate::config::HumanDuration = text.parse().map_err(|_| bad())?;
    i64::try_from(duration.ms()).ok().and_then(|ms| ms.checked_mul(1_000_000)).ok_or_else(bad)
}

/// A string as Go's `%q` shows it in an error text.
pub fn quoted(text: &str) -> String {
    format!("{text:?}")
}

/// Numbers as Go's `ParseFloat` reads them, without its hexadecimal form.
fn parse_float(text: &str) -> Option<f64> {
    let plausible = |b: u8| b.is_ascii_digit() || b"+-.eE".contains(&b);
    if text.bytes().all(plausible) {
        return text.parse().ok();
    }
    let word = text.trim_start_matches(['+', '-']).to_ascii_lowercase();
    matches!(word.as_str(), "inf" | "infinity" | "nan").then_some(f64::NAN)
}

/// `2006-01-02T15:04:05[.999999999](Z|+07:00)`, fractions beyond the millisecond are cut.
fn parse_rfc3339(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let at = |index: usize, wanted: u8| bytes.get(index) == Some(&wanted);
    if !(at(4, b'-') && at(7, b'-') && at(10, b'T') && at(13, b':') && at(16, b':')) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (fraction_ms, zone_at) = parse_fraction(text)?;
    let zone_minutes = match text.get(zone_at..)? {
        "Z" => 0,
        zone if zone.len() == 6 && at(zone_at + 3, b':') => {
            let (hours, minutes) = (number(zone_at + 1, zone_at + 3)?, number(zone_at + 4, zone_at + 6)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            match bytes[zone_at] {
                b'+' => hours * 60 + minutes,
                b'-' => -(hours * 60 + minutes),
                _ => return None,
            }
        }
        _ => return None,
    };
    let seconds =
        days_from_civil(year, month, day) * 86_400 + hour * 3_600 + (minute - zone_minutes) * 60 + second;
    Some(seconds * 1_000 + fraction_ms)
}

/// Milliseconds of the fraction after the seconds, and where the zone begins.
fn parse_fraction(text: &str) -> Option<(i64, usize)> {
    let Some(rest) = text.get(19..)?.strip_prefix('.') else { return Some((0, 19)) };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 {
        return None;
    }
    let ms = rest[..digits].bytes().chain(*b"00").take(3).fold(0, |ms, b| ms * 10 + i64::from(b - b'0'));
    Some((ms, 20 + digits))
}

fn days_in_month(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since the Unix epoch, by Howard Hinnant's `days_from_civil`.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_time(text: &str, ms: Option<i64>) {
        assert_eq!(parse_time(text).ok(), ms, "{text}");
    }

    #[test]
    fn both_forms_of_a_time_are_read() {
        check_time("1435781430.781", Some(1_435_781_430_781));
        check_time("1435781430", Some(1_435_781_430_000));
        check_time("-1.5", Some(-1_500));
        check_time("1e3", Some(1_000_000));
        check_time("0.0004", Some(0));
        check_time("0.0006", Some(1));
        check_time("2015-07-01T20:10:30.781Z", Some(1_435_781_430_781));
        check_time("2015-07-01T22:10:30+02:00", Some(1_435_781_430_000));
        check_time("2015-07-01T14:40:30.5-05:30", Some(1_435_781_430_500));
        check_time("1969-12-31T23:59:59.999999999Z", Some(-1));
        check_time("2000-02-29T00:00:00Z", Some(951_782_400_000));
        check_time(MIN_TIME.0, Some(MIN_TIME.1));
        check_time(MAX_TIME.0, Some(MAX_TIME.1));
    }

    #[test]
    fn anything_else_is_refused_with_prometheus_sentence() {
        for bad in [
            "",
            "now",
            "NaN",
            "Inf",
            "-inf",
            "1e300",
            "2015-07-01",
            "2001-02-29T00:00:00Z",
            "2015-07-01T24:00:00Z",
            "2015-07-01T20:10:30",
            "2015-07-01T20:10:30.Z",
            "2015-07-01 20:10:30Z",
            "2015-13-01T20:10:30Z",
            "1_000",
            "0x10",
            "2015-07-01T20:10:30ä",
        ] {
            check_time(bad, None);
        }
        assert_eq!(parse_time("foo").unwrap_err(), "cannot parse \"foo\" to a valid timestamp");
    }

    #[track_caller]
    fn check_duration(text: &str, ns: Option<i64>) {
        assert_eq!(parse_duration_ns(text).ok(), ns, "{text}");
    }

    #[test]
    fn durations_are_seconds_or_promql() {
        check_duration("0.5", Some(500_000_000));
        check_duration("-1", Some(-1_000_000_000));
        check_duration("1h30m", Some(5_400_000_000_000));
        check_duration("1e300", None);
        check_duration("NaN", None);
        check_duration("5x", None);
        check_duration("9999y", None);
        check_duration("1ns", None);
    }
}
