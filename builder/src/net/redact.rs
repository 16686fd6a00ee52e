//! URLs as they may appear in messages.
//!
//! Invariants: no user, no password, and no query value that is not known to be harmless ever leaves here.

use reqwest::Url;

/// Query keys of the distribution API whose values say nothing secret. Everything else (signatures of storage
/// services, tokens) is hidden.
const HARMLESS: [&str; 9] =
    ["digest", "mount", "from", "scope", "service", "n", "last", "ref", "artifactType"];

/// `url` without credentials and signed query values.
pub fn redacted(url: &Url) -> String {
    let mut shown = url.clone();
    // Both fail only for URLs that cannot have a host, which have no credentials either.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.set_fragment(None);
    if url.query().is_some() {
        let pairs: Vec<_> = url
            .query_pairs()
            .map(|(key, value)| {
                let hide = !HARMLESS.contains(&&*key) && !value.is_empty();
                (key.into_owned(), if hide { "REDACTED".to_owned() } else { value.into_owned() })
            })
            .collect();
        shown.query_pairs_mut().clear().extend_pairs(pairs);
    }
    shown.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_show() {
        let url = Url::parse("https://me:pass@h/v2/x?digest=sha256:1&X-Amz-Signature=abc&sig=d#f").unwrap();
        let shown = redacted(&url);
        assert_eq!(shown, "https://h/v2/x?digest=sha256%3A1&X-Amz-Signature=REDACTED&sig=REDACTED");
        assert_eq!(redacted(&Url::parse("http://h/a").unwrap()), "http://h/a");
    }
}
