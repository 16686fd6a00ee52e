//! Dates in HTTP headers (RFC 9110 section 5.6.7).

use jiff::fmt::strtime;

/// Seconds since 1970 of an HTTP date in any of its three forms.
pub(crate) fn parse_http_date(text: &str) -> Option<i64> {
    // IMF-fixdate, RFC 850 and asctime. The day of the week carries nothing and is not held against the date.
    let text = text.trim();
    ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"].iter().find_map(
        |format| {
            let mut parts = strtime::parse(format, text).ok()?;
            parts.set_weekday(None);
            parts.set_offset(Some(jiff::tz::Offset::UTC));
            Some(parts.to_timestamp().ok()?.as_second())
        },
    )
}

/// An IMF-fixdate for `If-Modified-Since`.
pub(crate) fn format_http_date(seconds: i64) -> Option<String> {
    let timestamp = jiff::Timestamp::from_second(seconds).ok()?;
    Some(timestamp.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_three_forms() {
        for text in
            ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
        {
            assert_eq!(parse_http_date(text), Some(784_111_777), "{text}");
        }
        assert_eq!(format_http_date(784_111_777).as_deref(), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
        for bad in ["", "yesterday", "Sun, 06 Nov 1994 08:49:37 PST"] {
            assert_eq!(parse_http_date(bad), None, "{bad}");
        }
    }
}
