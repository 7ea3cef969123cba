//! Takes measures one after the other and prints their figures as one table.
//!
//! A measure that breaks off counts as missed, and the others are still taken.

use crate::figure::Figure;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

/// One measure with its figures, or why it has none.
#[derive(Debug)]
pub struct Taken {
    name: String,
    figures: Result<Vec<Figure>, String>,
}

impl Taken {
    fn is_met(&self) -> bool {
        self.figures.as_ref().is_ok_and(|figures| figures.iter().all(Figure::is_met))
    }
}

/// Takes a measure on a thread of its own: what the harness finds wrong it says by a panic, which costs this measure
/// alone.
pub fn take(name: String, measure: impl FnOnce() -> Result<Vec<Figure>, String> + Send) -> Taken {
    note(&name);
    let figures = std::thread::scope(|scope| scope.spawn(measure).join());
    let figures = figures.unwrap_or_else(|_| Err("it broke off, as told above".to_owned()));
    if let Err(error) = &figures {
        note(&format!("  {error}"));
    }
    Taken { name, figures }
}

/// Prints `heading` and the table. With `check`, a bar that is missed is a failure.
pub fn tell(heading: &str, taken: &[Taken], check: bool) -> ExitCode {
    let told = writeln!(std::io::stdout(), "{heading}\n\n{}", table(taken));
    let is_missed = check && !taken.iter().all(Taken::is_met);
    if told.is_ok() && !is_missed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn table(taken: &[Taken]) -> String {
    let mut out = "|  | measured | bar |  | how |\n|---|---:|---:|---|---|\n".to_owned();
    for Taken { name, figures } in taken {
        let rows: Vec<String> = match figures {
            Ok(figures) => figures.iter().map(ToString::to_string).collect(),
            Err(error) => vec![format!("| {name} | none |  | missed | {error} |")],
        };
        for row in rows {
            let _infallible = writeln!(out, "{row}");
        }
    }
    out
}

/// Tells of the progress; the table is the result.
pub fn note(text: &str) {
    let _nobody_listens = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::{Bar, Unit};

    fn one(value: f64) -> Result<Vec<Figure>, String> {
        let bar = Bar::AtMost(1.0);
        Ok(vec![Figure { name: "a".into(), value, bar, unit: Unit::Times, how: String::new() }])
    }

    #[test]
    fn a_measure_that_breaks_off_is_missed_and_stands_in_the_table() {
        let taken = [take("Good".into(), || one(0.5)), take("Bad".into(), || panic!("on purpose"))];
        assert!(taken[0].is_met() && !taken[1].is_met());
        assert!(table(&taken).contains("| Bad | none |  | missed | it broke off"));
        assert!(!take("Slow".into(), || one(1.5)).is_met());
    }
}
