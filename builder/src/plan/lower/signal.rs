//! Names of signals for STOPSIGNAL.
//!
//! Invariants: the names are Linux', with or without `SIG`, in any case; any number but 0 is accepted (language.md 1.9).

const NAMES: &[&str] = &[
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE",
    "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU",
    "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
];

/// Whether `text` is a signal.
pub fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<i64>() {
        return number != 0;
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |digits: &str, most: u32| {
        !digits.starts_with(['0', '+']) && digits.parse::<u32>().is_ok_and(|offset| offset <= most)
    };
    NAMES.contains(&name)
        || name.strip_prefix("RTMIN+").is_some_and(|digits| offset(digits, 15))
        || name.strip_prefix("RTMAX-").is_some_and(|digits| offset(digits, 14))
}

#[cfg(test)]
mod tests {
    use super::is_signal;

    #[test]
    fn signals() {
        for good in ["9", "SIGKILL", "kill", "Sigusr1", "SIGRTMIN+3", "RTMAX-14", "rtmin", "40", "-1"] {
            assert!(is_signal(good), "{good}");
        }
        for bad in ["", "0", "SIG", "SIGNOPE", "RTMIN+16", "RTMAX-0", "RTMIN+", "RTMIN++1", "RTMIN+01", "1x"]
        {
            assert!(!is_signal(bad), "{bad}");
        }
    }
}
