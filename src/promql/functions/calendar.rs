//! Parts of the calendar date and of the time of day, in UTC.
//!
//! Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.

use super::table::FunctionId;

const DAY: i64 = 86_400;

/// A date of the proleptic Gregorian calendar.
struct Date {
    year: i64,
    /// 1 to 12.
    month: i64,
    /// 1 to 31.
    day: i64,
}

/// The calendar function `id` of seconds since the Unix epoch, or `None` if it is none.
pub(crate) fn of_seconds(id: FunctionId) -> Option<fn(f64) -> f64> {
    Some(match id {
        FunctionId::Minute => |t| ((t as i64).rem_euclid(3600) / 60) as f64,
        FunctionId::Hour => |t| ((t as i64).rem_euclid(DAY) / 3600) as f64,
        FunctionId::DayOfWeek => |t| ((t as i64).div_euclid(DAY) + 4).rem_euclid(7) as f64,
        FunctionId::DayOfMonth => |t| date(t).day as f64,
        FunctionId::DayOfYear => |t| day_of_year(&date(t)) as f64,
        FunctionId::DaysInMonth => |t| {
            let Date { year, month, .. } = date(t);
            days_in_month(year, month) as f64
        },
        FunctionId::Month => |t| date(t).month as f64,
        FunctionId::Year => |t| date(t).year as f64,
        _ => return None,
    })
}

fn date(seconds: f64) -> Date {
    let shifted = (seconds as i64).div_euclid(DAY) + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months of years that begin in March.
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    Date { year: year_of_era + era * 400 + i64::from(month <= 2), month, day }
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn day_of_year(date: &Date) -> i64 {
    (1..date.month).map(|month| days_in_month(date.year, month)).sum::<i64>() + date.day
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(seconds: f64, expected: [f64; 8]) {
        let functions = [
            FunctionId::Year,
            FunctionId::Month,
            FunctionId::DayOfMonth,
            FunctionId::DayOfYear,
            FunctionId::DayOfWeek,
            FunctionId::DaysInMonth,
            FunctionId::Hour,
            FunctionId::Minute,
        ];
        assert_eq!(functions.map(|id| of_seconds(id).unwrap()(seconds)), expected, "{seconds}");
    }

    #[test]
    fn dates_are_those_of_the_gregorian_calendar() {
        check(0.0, [1970.0, 1.0, 1.0, 1.0, 4.0, 31.0, 0.0, 0.0]);
        check(-1.0, [1969.0, 12.0, 31.0, 365.0, 3.0, 31.0, 23.0, 59.0]);
        check(951_827_696.5, [2000.0, 2.0, 29.0, 60.0, 2.0, 29.0, 12.0, 34.0]);
        check(4_107_542_400.0, [2100.0, 3.0, 1.0, 60.0, 1.0, 31.0, 0.0, 0.0]);
        check(1_230_767_999.0, [2008.0, 12.0, 31.0, 366.0, 3.0, 31.0, 23.0, 59.0]);
    }
}
