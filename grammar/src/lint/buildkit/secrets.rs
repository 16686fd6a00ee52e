//! SecretsUsedInArgOrEnv.
//!
//! Invariants: only names are looked at, never values.

use super::super::model::{File, Values};
use super::super::report::Report;
use crate::ast::Kind;

const SECRET: [&str; 10] =
    ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];

const HARMLESS: [&str; 3] = ["public", "file", "version"];

/// Whether a name says that its value is secret.
pub(in super::super) fn is_secret(name: &str) -> bool {
    let has =
        |words: &[&str]| name.split('_').any(|part| words.iter().any(|word| word.eq_ignore_ascii_case(part)));
    has(&SECRET) && !has(&HARMLESS)
}

pub(super) fn check(file: &File<'_>, report: &mut Report<'_>) {
    for (_, step) in file.reached() {
        let mut names = Vec::new();
        let instruction = match (&step.instruction.kind, &step.values) {
            (Kind::Arg(pairs), _) => {
                names.extend(pairs.iter().map(|pair| (pair.name.value.as_str(), pair.name.span)));
                "ARG"
            }
            (Kind::Env(words), Values::Pairs(pairs)) => {
                let spans = words.iter().map(|word| word.key.span);
                names.extend(pairs.iter().map(|(name, _)| name.as_str()).zip(spans));
                "ENV"
            }
            _ => continue,
        };
        for (name, span) in names.into_iter().filter(|(name, _)| is_secret(name)) {
            let message =
                format!("Do not use ARG or ENV instructions for sensitive data ({instruction} \"{name}\")");
            let hint = "pass it to the step that needs it: `RUN --mount=type=secret,id=NAME`";
            report.add("SecretsUsedInArgOrEnv", step.site_at(file, span), message, hint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_secret;

    #[test]
    fn words_of_a_name_decide() {
        for name in ["TOKEN", "my_Auth", "KEY_ID", "A_PASSWD_B"] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["KEYS", "MONKEY", "API_KEY_FILE", "PUBLIC_KEY", "TOKEN_VERSION", "auth-x", ""] {
            assert!(!is_secret(name), "{name}");
        }
    }
}
