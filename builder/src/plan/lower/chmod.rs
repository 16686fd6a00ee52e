//! Validation of `--chmod`.
//!
//! Invariants: nothing is computed here; the executor applies the mode, octal or symbolic, to what it copies.

/// Checks a mode. The error is BuildKit's sentence.
pub(super) fn check(mode: &str) -> Result<(), String> {
    let octal = !mode.is_empty() && mode.bytes().all(|b| matches!(b, b'0'..=b'7'));
    let ok = if octal {
        u32::from_str_radix(mode, 8).is_ok_and(|bits| bits <= 0o7777)
    } else {
        mode.split(',').all(is_clause)
    };
    let message =
        || format!("invalid chmod parameter: '{mode}'. it should be octal string and between 0 and 07777");
    if ok { Ok(()) } else { Err(message()) }
}

/// `[augo]*([-+=][rwxXstugo]*)+`
fn is_clause(clause: &str) -> bool {
    let actions = clause.trim_start_matches(['a', 'u', 'g', 'o']);
    actions.starts_with(['-', '+', '='])
        && actions.bytes().all(|b| {
            matches!(b, b'-' | b'+' | b'=' | b'r' | b'w' | b'x' | b'X' | b's' | b't' | b'u' | b'g' | b'o')
        })
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn modes() {
        for good in
            ["0", "755", "0755", "07777", "00000644", "+x", "u=rwX,go=rX", "g=u", "a-w+x", "u+s,+t", "="]
        {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", "888", "10000", "zzz", "+755", "u", "u=rwx,", "rwx", "755x", "-1", "99999999999"] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert_eq!(
            check("888").unwrap_err(),
            "invalid chmod parameter: '888'. it should be octal string and between 0 and 07777"
        );
    }
}
