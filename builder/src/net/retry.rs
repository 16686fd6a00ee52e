//! Which failures pass by themselves, and how long to wait for that.
//!
//! Invariants: nothing is retried that a second try cannot change (bad certificates, unknown host names, client
//! errors); every wait is bounded by [`MAX_DELAY`], whatever a server asks for.

use std::error::Error as StdError;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};

use super::{NetError, NetOptions, date};

/// Longest single wait.
pub(crate) const MAX_DELAY: Duration = Duration::from_secs(60);

/// True for answers that may be different a little later.
pub(crate) fn is_temporary_status(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// Why trying again would not help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lasting {
    Certificate,
    NotTls,
    UnknownHost,
    Refused,
}

impl NetError {
    /// True when the same request may succeed a little later.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Request { source, .. } => !source.is_builder() && lasting(source).is_none(),
            _ => false,
        }
    }

    /// What the user can do, one line, where there is something.
    pub fn hint(&self) -> Option<&'static str> {
        let Self::Request { source, .. } = self else { return None };
        Some(match lasting(source)? {
            Lasting::Certificate => {
                "the server's certificate is not trusted: name the CA that signed it with --cert-dir or in kiln.toml, or take \
                 any with --tls-verify=false"
            }
            Lasting::NotTls => "the server does not speak TLS: --tls-verify=false uses plain http",
            Lasting::UnknownHost => "no such host is known: check its name and the DNS settings",
            Lasting::Refused => "nothing answers at this address: check host and port",
        })
    }
}

/// Looks through an error and everything it wraps.
fn lasting(error: &(dyn StdError + 'static)) -> Option<Lasting> {
    if let Some(error) = error.downcast_ref::<rustls::Error>() {
        return match error {
            rustls::Error::InvalidMessage(_) => Some(Lasting::NotTls),
            rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
                Some(Lasting::Certificate)
            }
            _ => None,
        };
    }
    if let Some(error) = error.downcast_ref::<io::Error>() {
        // `io::Error` hides what it wraps from `source`, so look inside.
        if let Some(found) = error.get_ref().and_then(|inner| lasting(inner)) {
            return Some(found);
        }
        if error.kind() == io::ErrorKind::ConnectionRefused {
            return Some(Lasting::Refused);
        }
        // getaddrinfo's codes do not survive in std's error; EAI_AGAIN has another text.
        if error.to_string().contains("Name or service not known") {
            return Some(Lasting::UnknownHost);
        }
    }
    lasting(error.source()?)
}

/// The pause before retry number `attempt` (from 0).
pub(crate) fn delay(options: &NetOptions, attempt: u32, asked: Option<Duration>) -> Duration {
    let own = options.retry_delay.saturating_mul(1u32.checked_shl(attempt).unwrap_or(u32::MAX));
    asked.unwrap_or(own).min(MAX_DELAY)
}

/// `Retry-After`, as seconds or as a date (RFC 9110 section 10.2.3).
pub(crate) fn asked_delay(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let then = u64::try_from(date::parse_http_date(text)?).ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    Some(Duration::from_secs(then.saturating_sub(now)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_bounded() {
        let options = NetOptions { retry_delay: Duration::from_secs(1), ..NetOptions::default() };
        assert_eq!(delay(&options, 0, None), Duration::from_secs(1));
        assert_eq!(delay(&options, 2, None), Duration::from_secs(4));
        assert_eq!(delay(&options, 40, None), MAX_DELAY);
        assert_eq!(delay(&options, 0, Some(Duration::from_secs(9999))), MAX_DELAY);
    }

    #[test]
    fn lasting_causes_are_found_wherever_they_are() {
        let unknown = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, unknown));
        assert_eq!(lasting(&wrapped), Some(Lasting::Certificate));
        assert_eq!(lasting(&io::Error::from(io::ErrorKind::ConnectionRefused)), Some(Lasting::Refused));
        assert_eq!(lasting(&io::Error::from(io::ErrorKind::ConnectionReset)), None);
    }

    #[test]
    fn retry_after_is_read() {
        let mut headers = HeaderMap::new();
        assert_eq!(asked_delay(&headers), None);
        headers.insert(RETRY_AFTER, "7".parse().unwrap());
        assert_eq!(asked_delay(&headers), Some(Duration::from_secs(7)));
        headers.insert(RETRY_AFTER, "Thu, 01 Jan 1970 00:00:09 GMT".parse().unwrap());
        assert_eq!(asked_delay(&headers), Some(Duration::ZERO));
        headers.insert(RETRY_AFTER, "soon".parse().unwrap());
        assert_eq!(asked_delay(&headers), None);
    }
}
