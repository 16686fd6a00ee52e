//! Signatures of requests: AWS Signature Version 4 as S3 takes it (Amazon S3 API reference, "Authenticating Requests:
//! Using the Authorization Header").
//!
//! Invariants: what is signed is what is sent: the path and the query of the URL are in canonical form already, and the
//! digest of the body is one of the signed headers.

use std::fmt::Write as _;

use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use sha2::Sha256;

use crate::base::digest::Digest;
use crate::cache::actions::Token;

/// Whose signature it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// `AWS_ACCESS_KEY_ID`.
    pub id: String,
    /// `AWS_SECRET_ACCESS_KEY`.
    pub secret: Token,
    /// `AWS_SESSION_TOKEN`, of keys for a limited time.
    pub session: Option<Token>,
}

/// A request to be signed.
pub(super) struct Unsigned<'a> {
    pub(super) method: &'a str,
    pub(super) url: &'a Url,
    /// Lower-case names; those that have to be signed.
    pub(super) headers: &'a [(&'static str, String)],
    pub(super) body: &'a Digest,
    pub(super) region: &'a str,
    /// `20130524T000000Z`.
    pub(super) time: &'a str,
}

/// The headers that make a request a signed one, and the value of `Authorization`.
pub(super) fn sign(keys: &Keys, request: &Unsigned<'_>) -> Option<(HeaderMap, HeaderValue)> {
    let date = request.time.get(..8)?;
    let mut signed: Vec<(&str, String)> = request.headers.to_vec();
    signed.push(("host", host(request.url)));
    signed.push(("x-amz-content-sha256", request.body.hex()));
    signed.push(("x-amz-date", request.time.to_owned()));
    if let Some(session) = &keys.session {
        signed.push(("x-amz-security-token", session.0.clone()));
    }
    signed.sort();
    let names = signed.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let mut canonical =
        format!("{}\n{}\n{}\n", request.method, request.url.path(), request.url.query().unwrap_or_default());
    for (name, value) in &signed {
        let _ = writeln!(canonical, "{name}:{}", value.trim());
    }
    let _ = write!(canonical, "\n{names}\n{}", request.body.hex());
    let scope = format!("{date}/{}/s3/aws4_request", request.region);
    let text =
        format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{}", request.time, Digest::of(canonical.as_bytes()).hex());
    let mut key = hmac(format!("AWS4{}", keys.secret.0).as_bytes(), date);
    for part in [request.region, "s3", "aws4_request"] {
        key = hmac(&key, part);
    }
    let signature = hmac(&key, &text).iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope},SignedHeaders={names},Signature={signature}",
        keys.id
    );
    let mut headers = HeaderMap::new();
    // reqwest writes `Host` by itself.
    for (name, value) in signed.into_iter().filter(|(name, _)| *name != "host") {
        let mut value = HeaderValue::from_str(&value).ok()?;
        value.set_sensitive(name == "x-amz-security-token");
        headers.insert(HeaderName::from_bytes(name.as_bytes()).ok()?, value);
    }
    let mut authorization = HeaderValue::from_str(&authorization).ok()?;
    authorization.set_sensitive(true);
    Some((headers, authorization))
}

fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("invariant: HMAC takes keys of any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// A part of a path or a query as it is signed and sent (RFC 3986's unreserved bytes stay).
pub(super) fn encoded(text: &str, keep_slash: bool) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            b'/' if keep_slash => out.push('/'),
            other => {
                let _ = write!(out, "%{other:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        Keys {
            id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret: Token("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned()),
            session: None,
        }
    }

    fn signature(method: &str, url: &str, headers: &[(&'static str, String)], body: &[u8]) -> String {
        let request = Unsigned {
            method,
            url: &Url::parse(url).unwrap(),
            headers,
            body: &Digest::of(body),
            region: "us-east-1",
            time: "20130524T000000Z",
        };
        let (_, value) = sign(&keys(), &request).unwrap();
        value.to_str().unwrap().rsplit_once("Signature=").unwrap().1.to_owned()
    }

    /// Amazon's own examples, from the reference named above.
    #[test]
    fn examples_of_the_reference() {
        let at = "https://examplebucket.s3.amazonaws.com";
        assert_eq!(
            signature("GET", &format!("{at}/test.txt"), &[("range", "bytes=0-9".to_owned())], b""),
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
        assert_eq!(
            signature(
                "PUT",
                &format!("{at}/test%24file.text"),
                &[
                    ("date", "Fri, 24 May 2013 00:00:00 GMT".to_owned()),
                    ("x-amz-storage-class", "REDUCED_REDUNDANCY".to_owned())
                ],
                b"Welcome to Amazon S3."
            ),
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
        );
        assert_eq!(
            signature("GET", &format!("{at}/?lifecycle="), &[], b""),
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
        );
    }

    #[test]
    fn parts_are_encoded() {
        assert_eq!(encoded("a/b c+~", true), "a/b%20c%2B~");
        assert_eq!(encoded("a/b", false), "a%2Fb");
    }

    #[test]
    fn a_session_is_part_of_it() {
        let url = Url::parse("http://h:9000/b/k").unwrap();
        let body = Digest::of(b"");
        let request = Unsigned {
            method: "GET",
            url: &url,
            headers: &[],
            body: &body,
            region: "r",
            time: "20130524T000000Z",
        };
        let keys = Keys { session: Some(Token("s".to_owned())), ..keys() };
        let (headers, value) = sign(&keys, &request).unwrap();
        assert_eq!(headers["x-amz-security-token"], "s");
        assert!(
            value
                .to_str()
                .unwrap()
                .contains("SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-security-token,")
        );
    }
}
