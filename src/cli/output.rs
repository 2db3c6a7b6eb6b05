//! Printing. Owns what a terminal may be sent, the units that people read, and that a closed pipe
//! ends the program quietly instead of with a panic.

use std::fmt::Write as _;

/// As `eprintln`, but a closed standard error is no panic: there is nobody left to tell.
macro_rules! note {
    ($($argument:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($argument)*);
    }};
}

/// As `println`, but gives the error to the caller.
macro_rules! put {
    ($($argument:tt)*) => {{
        use std::io::Write as _;
        writeln!(std::io::stdout(), $($argument)*)
    }};
}

pub(crate) use {note, put};

/// Text that cannot move the cursor, recolour or retitle a terminal: carriage returns are dropped,
/// other control characters except newline and tab become U+FFFD.
pub fn printable(text: &str) -> String {
    let visible = |c: char| match c {
        '\n' | '\t' => Some(c),
        '\r' => None,
        c if c.is_control() => Some('\u{fffd}'),
        c => Some(c),
    };
    text.chars().filter_map(visible).collect()
}

/// `1.2 GiB`
pub fn bytes(n: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = "B";
    for next in units {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    match unit {
        "B" => format!("{n} B"),
        unit => format!("{value:.1} {unit}"),
    }
}

/// `4.87 M`
pub fn count(n: u64) -> String {
    match n as f64 {
        n if n >= 1e9 => format!("{:.2} B", n / 1e9),
        n if n >= 1e6 => format!("{:.2} M", n / 1e6),
        _ => n.to_string(),
    }
}

/// A memory's turns, as in "a memory of 1 turn".
pub fn turns(n: u64) -> String {
    format!("{} {}", count(n), if n == 1 { "turn" } else { "turns" })
}

/// A bar of `width` columns for `value` of `largest`.
pub fn bar(value: f64, largest: f64, width: usize) -> String {
    let parts = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let share = if largest > 0.0 { (value / largest).clamp(0.0, 1.0) } else { 0.0 };
    let eighths = (share * 8.0 * width as f64).round() as usize;
    let mut bar = "█".repeat(eighths / 8);
    if !eighths.is_multiple_of(8) {
        bar.push(parts[eighths % 8]);
    }
    bar
}

/// A local time to the minute for Unix milliseconds.
pub fn time(unix_ms: u64) -> String {
    let stamp =
        i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    match stamp {
        Some(stamp) => {
            stamp.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M").to_string()
        }
        None => format!("{unix_ms} ms after 1970"),
    }
}

/// Rows as columns of equal width, the first row being the heads.
pub fn table(rows: &[Vec<String>]) -> String {
    let n_columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..n_columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, &width) in row.iter().zip(&widths) {
            // writing to a String cannot fail
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.truncate(text.trim_end_matches('\n').len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let text = "a\u{1b}]0;x\u{7}\r\n\tb\u{9b}é";
        assert_eq!(printable(text), "a\u{fffd}]0;x\u{fffd}\n\tb\u{fffd}é");
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(3 << 30), "3.0 GiB");
    }

    #[test]
    fn counts_are_short() {
        let counts = [12, 4_866_336, 3_075_098_624].map(count);
        assert_eq!(counts, ["12", "4.87 M", "3.08 B"]);
    }

    #[test]
    fn bars_are_proportional() {
        assert_eq!(bar(1.0, 1.0, 4), "████");
        assert_eq!(bar(0.5, 1.0, 4), "██");
        assert_eq!(bar(0.0, 0.0, 4), "");
        assert_eq!(bar(1.0, 32.0, 4), "▏");
        assert_eq!(bar(f64::NAN, 1.0, 4), "");
    }

    #[test]
    fn table_columns_line_up() {
        let rows = [vec!["a".into(), "bé".into()], vec!["long".into(), "c".into()]];
        assert_eq!(table(&rows), "a     bé\nlong  c");
    }
}
