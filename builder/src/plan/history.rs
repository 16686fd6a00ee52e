//! History texts, byte for byte as BuildKit writes them (semantics facts 33, 35, 51, 68, 90).
//!
//! Invariants:
//! - the texts follow Go's `%q`, `%v` and `%+v`, because that is what every other tool shows;
//! - nothing here decides what gets an entry: that is the lowering of each instruction.

use std::fmt::Write as _;

use crate::image::config::HealthConfig;

use super::args::Environment;

/// Comment of every entry that BuildKit's Dockerfile frontend writes.
pub(super) const COMMENT: &str = "buildkit.dockerfile.v0";

/// What is put behind the text of RUN, COPY and ADD.
pub(super) const SUFFIX: &str = " # buildkit";

/// Go's `%v` of a list of strings: `[a b]`.
pub(super) fn list<S: AsRef<str>>(items: &[S]) -> String {
    format!("[{}]", items.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" "))
}

/// Go's `%q` of a list of strings: `["a" "b"]`.
pub(super) fn quoted_list<S: AsRef<str>>(items: &[S]) -> String {
    format!("[{}]", items.iter().map(|item| quote(item.as_ref())).collect::<Vec<_>>().join(" "))
}

/// Go's `%q` of a string.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            c if is_print(c) => out.push(c),
            c => {
                // Writing to a String cannot fail.
                let _ = match c as u32 {
                    n @ ..0x80 => write!(out, "\\x{n:02x}"),
                    n @ ..0x10000 => write!(out, "\\u{n:04x}"),
                    n => write!(out, "\\U{n:08x}"),
                };
            }
        }
    }
    out.push('"');
    out
}

/// Go's `unicode.IsPrint`. Rust's `escape_debug` draws the same line, except that at the start of a string it also
/// escapes combining marks: so the character is looked at behind a letter.
fn is_print(c: char) -> bool {
    ["a", c.encode_utf8(&mut [0; 4])].concat().escape_debug().count() == 2 || c == '\''
}

/// Go's `time.Duration.String()`.
pub(super) fn duration(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let total = nanoseconds.unsigned_abs();
    let fraction = |value: u64, unit: u64| {
        let digits = unit.ilog10() as usize;
        let text = format!("{}.{:0digits$}", value / unit, value % unit);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    let text = match total {
        0 => "0s".to_owned(),
        1..1_000 => format!("{total}ns"),
        1_000..1_000_000 => format!("{}µs", fraction(total, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", fraction(total, 1_000_000)),
        _ => {
            let minutes = total / 60_000_000_000;
            let seconds = fraction(total % 60_000_000_000, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    };
    format!("{sign}{text}")
}

/// `HEALTHCHECK {Test:[CMD x] Interval:30s …}`.
pub(super) fn healthcheck(health: &HealthConfig) -> String {
    format!(
        "HEALTHCHECK {{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        list(&health.test),
        duration(health.interval),
        duration(health.timeout),
        duration(health.start_period),
        duration(health.start_interval),
        health.retries
    )
}

/// `RUN |2 A=1 B=2 /bin/sh -c cmd # buildkit`: arguments in the order of their declaration, a later declaration of
/// the same name in the place of the first, the value as the command sees it (semantics fact 51).
pub(super) fn run(args: &[String], build_args: &[(String, Option<String>)], env: &Environment) -> String {
    let mut shown: Vec<(&str, String)> = Vec::new();
    for (name, value) in build_args {
        let value = env.value(name).map_or_else(|| value.clone().unwrap_or_default(), str::to_owned);
        match shown.iter_mut().find(|(known, _)| known == name) {
            Some(entry) => entry.1 = value,
            None => shown.push((name, value)),
        }
    }
    let mut text = "RUN".to_owned();
    if !shown.is_empty() {
        let _ = write!(text, " |{}", shown.len());
        for (name, value) in &shown {
            let _ = write!(text, " {name}={value}");
        }
    }
    let _ = write!(text, " {}{SUFFIX}", args.join(" "));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_is_gos() {
        for (text, expected) in [
            ("plain", r#""plain""#),
            ("it's", r#""it's""#),
            ("a\"b\\c\n", r#""a\"b\\c\n""#),
            ("\u{1}\u{7f}", r#""\x01\x7f""#),
            ("é日\u{301}", "\"é日\u{301}\""),
            ("\u{a0}\u{200b}", r#""\u00a0\u200b""#),
            ("\u{10ffff}", r#""\U0010ffff""#),
        ] {
            assert_eq!(quote(text), expected);
        }
        assert_eq!(quoted_list(&["a", "b c"]), r#"["a" "b c"]"#);
        assert_eq!(quoted_list::<&str>(&[]), "[]");
    }

    #[test]
    fn durations_are_gos() {
        for (nanoseconds, expected) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_000_000, "2ms"),
            (1_500_000_000, "1.5s"),
            (60_000_000_000, "1m0s"),
            (90_500_000_000, "1m30.5s"),
            (3_600_000_000_000, "1h0m0s"),
            (-1_000_000_000, "-1s"),
        ] {
            assert_eq!(duration(nanoseconds), expected);
        }
    }

    #[test]
    fn run_shows_arguments_once() {
        let mut env = Environment::default();
        env.set("A", "env");
        let args = [
            ("A".to_owned(), Some("1".to_owned())),
            ("B".to_owned(), None),
            ("A".to_owned(), Some("2".to_owned())),
        ];
        assert_eq!(
            run(&["/bin/sh".into(), "-c".into(), "x".into()], &args, &env),
            "RUN |2 A=env B= /bin/sh -c x # buildkit"
        );
        assert_eq!(run(&["x".into()], &[], &env), "RUN x # buildkit");
    }
}
