//! The date that a chat template prints. Owns `strftime` for a day without a time, so that it is
//! the same natively and in wasm.

use std::fmt::{self, Write as _};
use std::str::FromStr;

/// A day of the Gregorian calendar, years 1 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CivilDate {
    year: u16,
    month: u8,
    day: u8,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

fn is_leap(year: u16) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in_month(year: u16, month: u8) -> u8 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

impl CivilDate {
    /// A date, if there is such a day.
    pub fn new(year: u16, month: u8, day: u8) -> Option<CivilDate> {
        let is_valid = (1..=9999).contains(&year)
            && (1..=12).contains(&month)
            && (1..=days_in_month(year, month)).contains(&day);
        is_valid.then_some(CivilDate { year, month, day })
    }

    /// The day of a Unix time, in UTC; clamped to the years there are.
    pub fn from_unix_seconds(seconds: i64) -> CivilDate {
        // Days since 0000-03-01, in eras of 400 years, so that the leap day ends a year.
        let days = seconds.div_euclid(86_400).clamp(-719_162, 2_932_896) + 719_468;
        let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * of_year + 2) / 153;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        CivilDate {
            year: (year_of_era + era * 400 + i64::from(month <= 2)) as u16,
            month: month as u8,
            day: (of_year - (153 * shifted_month + 2) / 5 + 1) as u8,
        }
    }

    fn day_of_year(self) -> u16 {
        let before: u16 = (1..self.month).map(|m| u16::from(days_in_month(self.year, m))).sum();
        before + u16::from(self.day)
    }

    /// 0 = Sunday.
    fn weekday(self) -> usize {
        let y = usize::from(self.year) - 1;
        (y + y / 4 - y / 100 + y / 400 + usize::from(self.day_of_year())) % 7
    }

    /// Formats as Python's `strftime` in the C locale; the time of day is midnight.
    ///
    /// # Errors
    /// The reason, for a directive that is not known.
    pub fn strftime(self, format: &str) -> Result<String, String> {
        let mut out = String::new();
        let mut characters = format.chars();
        while let Some(character) = characters.next() {
            if character != '%' {
                out.push(character);
                continue;
            }
            let mut directive = characters.next();
            let is_padded = directive != Some('-');
            if !is_padded {
                directive = characters.next();
            }
            let mut number = |value: u16, width: usize| {
                let width = if is_padded { width } else { 0 };
                let _ = write!(out, "{value:0width$}");
            };
            let (month, weekday) = (MONTHS[usize::from(self.month) - 1], WEEKDAYS[self.weekday()]);
            match directive {
                Some('Y') => number(self.year, 4),
                Some('y') => number(self.year % 100, 2),
                Some('m') => number(self.month.into(), 2),
                Some('d') => number(self.day.into(), 2),
                Some('j') => number(self.day_of_year(), 3),
                Some('u') => number([7, 1, 2, 3, 4, 5, 6][self.weekday()], 1),
                Some('w') => number(self.weekday() as u16, 1),
                Some('H' | 'M' | 'S') => number(0, 2),
                Some('I') => number(12, 2),
                Some('f') => number(0, 6),
                Some('e') => {
                    let _ = write!(out, "{:2}", self.day);
                }
                Some('B') => out.push_str(month),
                Some('b' | 'h') => out.push_str(&month[..3]),
                Some('A') => out.push_str(weekday),
                Some('a') => out.push_str(&weekday[..3]),
                Some('p') => out.push_str("AM"),
                Some('F') => {
                    let _ = write!(out, "{self}");
                }
                Some('T') => out.push_str("00:00:00"),
                Some('Z' | 'z') => {}
                Some('%') => out.push('%'),
                Some(other) => return Err(format!("strftime_now: %{other} is not supported")),
                None => return Err("strftime_now: the format ends with %".into()),
            }
        }
        Ok(out)
    }
}

impl fmt::Display for CivilDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

impl FromStr for CivilDate {
    type Err = String;

    /// Reads `2025-06-30`.
    fn from_str(text: &str) -> Result<CivilDate, String> {
        let mut parts = text.splitn(3, '-').map(|p| p.parse::<u16>().ok());
        let mut next = || parts.next().flatten();
        let date = (next(), next(), next());
        match date {
            (Some(year), Some(month), Some(day)) => u8::try_from(month)
                .ok()
                .zip(u8::try_from(day).ok())
                .and_then(|(month, day)| CivilDate::new(year, month, day)),
            _ => None,
        }
        .ok_or_else(|| format!("{text:?} is not a date like 2025-06-30"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unix_times_become_days() {
        let day = |seconds| CivilDate::from_unix_seconds(seconds).to_string();
        assert_eq!(day(0), "1970-01-01");
        assert_eq!(day(-1), "1969-12-31");
        assert_eq!(day(951_782_400), "2000-02-29");
        assert_eq!(day(1_751_328_000), "2025-07-01");
        assert_eq!(day(i64::MAX), "9999-12-31");
        assert_eq!(day(i64::MIN), "0001-01-01");
    }

    #[test]
    fn strftime_is_pythons() {
        let date = CivilDate::new(2025, 7, 4).unwrap();
        let format = |f: &str| date.strftime(f).unwrap();
        assert_eq!(format("%d %B %Y"), "04 July 2025");
        assert_eq!(format("%-d %b %y, %A %a %j%%"), "4 Jul 25, Friday Fri 185%");
        assert_eq!(format("%Y-%m-%d %H:%M:%S"), "2025-07-04 00:00:00");
        assert_eq!(CivilDate::new(2024, 2, 29).unwrap().weekday(), 4);
        assert!(date.strftime("%Q").is_err());
        assert!(date.strftime("%").is_err());
    }

    #[test]
    fn only_real_days_are_dates() {
        for text in ["2023-02-29", "2023-13-01", "0-1-1", "2023-1", "x", "2023-01-01-5"] {
            assert!(text.parse::<CivilDate>().is_err(), "{text}");
        }
        let date: CivilDate = "2024-02-29".parse().unwrap();
        assert_eq!(date.to_string(), "2024-02-29");
    }
}
