//! kiln's own flags of `RUN`: `--timeout`, `--retry`, `--memory` and `--cpus`.
//!
//! Invariants:
//! - values are literal: a limit that depends on a variable could not be read off the file;
//! - a zero is refused, since for some tools it means "no limit" and for others "nothing at all".

use super::Findings;
use super::flags::Flags;
use super::health::parse_duration_ns;
use crate::ast::{Guards, Word};
use crate::diagnostic::Diagnostic;
use crate::mount;

/// More attempts than this are a loop, not a guard.
const MAX_RETRIES: u32 = 100;
/// The kernel counts processor time in slices of a thousandth.
const MILLI: f64 = 1000.0;
/// More processors than any machine has.
const MAX_CPUS: f64 = 1_000_000.0;

/// Reads the flags; `None` when one of them is wrong.
pub(super) fn read(flags: &mut Flags, findings: &mut Findings) -> Option<Guards> {
    let mut guards = Guards::default();
    let mut good = true;
    let mut take = |name: &'static str, set: &mut dyn FnMut(&Word) -> bool, hint: &str| {
        let Some(word) = flags.written_value(name) else { return };
        guards.written.push((name, word.span));
        if !set(&word) {
            let message = format!("invalid value {:?} for --{name}", word.value);
            findings.push(Diagnostic::error(word.span, message).with_hint(hint));
            good = false;
        }
    };
    let (mut timeout, mut retries, mut memory, mut cpus) = (None, 0, None, None);
    take(
        "timeout",
        &mut |word| {
            timeout =
                parse_duration_ns(&word.value).and_then(|ns| u64::try_from(ns).ok()).filter(|ns| *ns > 0);
            timeout.is_some()
        },
        "write a number with a unit: ms, s, m or h, for example `10m`",
    );
    take(
        "retry",
        &mut |word| {
            let number = word.value.parse::<u32>().ok().filter(|number| *number <= MAX_RETRIES);
            retries = number.unwrap_or_default();
            number.is_some()
        },
        "write how many times a failed command is run again, from 0 to 100",
    );
    take(
        "memory",
        &mut |word| {
            memory = mount::size_bytes(&word.value).filter(|bytes| *bytes > 0);
            memory.is_some()
        },
        "write a number with an optional unit: b, k, m, g or t, for example `2g`",
    );
    take(
        "cpus",
        &mut |word| {
            cpus = milli(&word.value);
            cpus.is_some()
        },
        "write a number of processors, for example `2` or `0.5`",
    );
    guards.timeout_ns = timeout;
    guards.retries = retries;
    guards.memory_bytes = memory;
    guards.cpus_milli = cpus;
    good.then_some(guards)
}

fn milli(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number = text.parse::<f64>().ok().filter(|number| plain && *number <= MAX_CPUS)?;
    let milli = (number * MILLI).round();
    // The cast is exact: the number is not negative and at most a thousand million.
    (milli >= 1.0).then_some(milli as u64)
}

#[cfg(test)]
mod tests {
    use crate::ast::{Guards, Kind};

    fn parse(flags: &str) -> Result<Guards, Vec<String>> {
        let parsed = crate::parse(&format!("FROM a\nRUN {flags} x\n"));
        if parsed.has_errors() {
            return Err(parsed.diagnostics.iter().map(|found| found.message.clone()).collect());
        }
        match &parsed.buildfile.stages[0].instructions[0].kind {
            Kind::Run(run) => Ok(run.guards.clone()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn reads_all_of_them() {
        let guards = parse("--timeout=1m30s --retry=3 --memory=1.5g --cpus=.25").unwrap();
        assert_eq!(guards.timeout_ns, Some(90_000_000_000));
        assert_eq!(guards.retries, 3);
        assert_eq!(guards.memory_bytes, Some(3 << 29));
        assert_eq!(guards.cpus_milli, Some(250));
        let names: Vec<&str> = guards.written.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["timeout", "retry", "memory", "cpus"]);
        assert_eq!(parse("").unwrap(), Guards::default());
    }

    #[test]
    fn refuses_what_is_no_limit() {
        for bad in [
            "--timeout=10",
            "--timeout=0s",
            "--timeout=-1s",
            "--timeout=",
            "--retry=-1",
            "--retry=101",
            "--retry=x",
            "--memory=0",
            "--memory=lots",
            "--memory=-1",
            "--cpus=0",
            "--cpus=-1",
            "--cpus=1e3",
            "--cpus=inf",
            "--cpus=2000000",
        ] {
            let errors = parse(bad).unwrap_err();
            assert_eq!(errors.len(), 1, "{bad}: {errors:?}");
            assert!(errors[0].starts_with("invalid value"), "{bad}: {errors:?}");
        }
        assert_eq!(parse("--timeout=1 --cpus=0").unwrap_err().len(), 2);
        assert!(parse("--cpus=1 --cpus=2").is_err());
    }
}
