//! `HEALTHCHECK` (language.md 1.9).
//!
//! Invariants:
//! - durations are whole nanoseconds, computed without floating point.

use super::command;
use super::flags::{self, Flags, Takes};
use super::{Findings, Input, needs_argument};
use crate::ast::{Command, Healthcheck, Kind, Word};
use crate::diagnostic::Diagnostic;
use crate::suggest;

const FLAGS: [(&str, Takes); 5] = [
    ("interval", Takes::Value),
    ("timeout", Takes::Value),
    ("start-period", Takes::Value),
    ("start-interval", Takes::Value),
    ("retries", Takes::Value),
];

/// Shortest duration that is not zero.
const MIN_DURATION_NS: i64 = 1_000_000;

pub(super) fn healthcheck(input: &Input<'_>, findings: &mut Findings) -> Option<Kind> {
    let arguments = input.arguments();
    if arguments.is_empty() {
        findings.push(needs_argument(input, "HEALTHCHECK", "CMD curl -f http://localhost/"));
        return None;
    }
    let kind_length = arguments.find(char::is_whitespace).unwrap_or(arguments.len());
    let kind = input.argument(0..kind_length);
    let after = arguments.get(kind_length..).unwrap_or("").trim_start();
    let command = arguments.len() - after.len()..arguments.len();
    match kind.value.to_uppercase().as_str() {
        // Flags of NONE are not looked at (BuildKit does not either).
        "NONE" if after.is_empty() => return Some(Kind::Healthcheck(Healthcheck::None)),
        "NONE" => {
            findings
                .push(Diagnostic::error(input.argument(command).span, "HEALTHCHECK NONE takes no arguments"));
            return None;
        }
        "CMD" => {}
        other => {
            let message = format!("unknown type {other:?} in HEALTHCHECK (try CMD)");
            let near = suggest::closest(other, ["CMD", "NONE"]).unwrap_or("CMD");
            findings
                .push(Diagnostic::error(kind.span, message).with_hint(format!("write `HEALTHCHECK {near}`")));
            return None;
        }
    }
    let flags = flags::read(input, &FLAGS, findings);
    let command = command::read(input, command, findings)?;
    let missing = match &command {
        Command::Shell(text) => text.value.is_empty(),
        Command::Exec(words) => words.is_empty(),
    };
    if missing {
        findings.push(
            Diagnostic::error(input.line_span(), "missing command after HEALTHCHECK CMD")
                .with_hint("write the command behind CMD, or `HEALTHCHECK NONE`"),
        );
        return None;
    }
    let mut flags = flags?;
    let interval_ns = duration(&mut flags, "interval", findings);
    let timeout_ns = duration(&mut flags, "timeout", findings);
    let start_period_ns = duration(&mut flags, "start-period", findings);
    let start_interval_ns = duration(&mut flags, "start-interval", findings);
    let retries = retries(&mut flags, findings);
    Some(Kind::Healthcheck(Healthcheck::Cmd {
        command,
        interval_ns: interval_ns?,
        timeout_ns: timeout_ns?,
        start_period_ns: start_period_ns?,
        start_interval_ns: start_interval_ns?,
        retries: retries?,
    }))
}

/// The value of a duration flag, 0 when it is not given; `None` when it is wrong.
fn duration(flags: &mut Flags, name: &str, findings: &mut Findings) -> Option<i64> {
    let Some(word) = flags.value(name) else { return Some(0) };
    let Some(found) = parse_duration_ns(&word.value) else {
        let message = format!("invalid duration {:?} for --{name}", word.value);
        let hint = "write a number with a unit: ms, s, m or h, for example `30s`";
        findings.push(Diagnostic::error(word.span, message).with_hint(hint));
        return None;
    };
    if found != 0 && found < MIN_DURATION_NS {
        let message = format!("interval {name:?} cannot be less than 1ms");
        let hint = "give at least one millisecond, or 0 for the default";
        findings.push(Diagnostic::error(word.span, message).with_hint(hint));
        return None;
    }
    Some(found)
}

fn retries(flags: &mut Flags, findings: &mut Findings) -> Option<i64> {
    let Some(word) = flags.value("retries") else { return Some(0) };
    let mut fail = |word: &Word, message: String| {
        findings.push(Diagnostic::error(word.span, message).with_hint("give a whole number, 0 or more"));
        None
    };
    match word.value.parse::<i32>() {
        Ok(count) if count < 0 => fail(&word, format!("--retries cannot be negative ({count})")),
        Ok(count) => Some(i64::from(count)),
        Err(_) => fail(&word, format!("invalid number {:?} for --retries", word.value)),
    }
}

/// A duration as Go writes it: `1h30m`, `1.5s`, `-2us`, `0`.
pub(super) fn parse_duration_ns(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let unit_length = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_length);
        let unit_ns = unit_ns(unit)?;
        // More digits than this cannot fit, and no fraction is finer than a nanosecond of an hour.
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()?.into() };
        let fraction = fraction.get(..18).unwrap_or(fraction);
        let scale = 10i128.pow(u32::try_from(fraction.len()).ok()?);
        let part: i128 = if fraction.is_empty() { 0 } else { fraction.parse::<u64>().ok()?.into() };
        total += whole * unit_ns + part * unit_ns / scale;
        if total > i128::from(i64::MAX) {
            return None;
        }
        rest = after;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn unit_ns(unit: &str) -> Option<i128> {
    match unit {
        "ns" => Some(1),
        "us" | "µs" | "μs" => Some(1_000),
        "ms" => Some(1_000_000),
        "s" => Some(1_000_000_000),
        "m" => Some(60_000_000_000),
        "h" => Some(3_600_000_000_000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_durations() {
        let table = [
            ("0", Some(0)),
            ("30s", Some(30_000_000_000)),
            ("1h2m3.5s", Some(3_723_500_000_000)),
            (".5ms", Some(500_000)),
            ("1.s", Some(1_000_000_000)),
            ("-1us", Some(-1_000)),
            ("+1µs", Some(1_000)),
            ("2540400h10m10s", Some(9_145_440_610_000_000_000)),
            ("2562048h", None),
            ("99999999999999999999s", None),
            ("", None),
            ("-", None),
            ("3", None),
            ("s", None),
            (".s", None),
            ("1d", None),
            ("1s x", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse_duration_ns(text), expected, "{text}");
        }
    }
}
