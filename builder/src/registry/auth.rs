//! Authentication: challenges (RFC 9110 section 11), Basic, and Bearer tokens as registries use them.
//!
//! Invariants:
//! - tokens are kept per origin and scope, and renewed before they run out and after a 401;
//! - header values with secrets are marked sensitive, and never appear in `Debug`;
//! - credentials never go to a realm over plain http, unless the registry itself is spoken to that way.

use std::fmt;
use std::time::{Duration, Instant};

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;

use super::credentials::Credential;
use super::error::{message_of, tidy};
use super::exchange::Call;
use super::{Inner, RegistryError};
use crate::net::{Request, body_within, error_body, failed, is_loopback, redacted, retry};

/// Longest answer of a token server.
const MAX_TOKEN_BYTES: usize = 1024 * 1024;
/// What a token is good for when its server does not say (distribution spec, token authentication).
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// Tokens are not used in their last moments: the request has to arrive as well.
const MARGIN: Duration = Duration::from_secs(10);

/// A value for `Authorization` and its end.
#[derive(Clone)]
pub(super) struct Token {
    value: HeaderValue,
    /// `None`: as long as it works (Basic).
    expires: Option<Instant>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// One challenge of a `WWW-Authenticate` header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    /// Lower case.
    scheme: String,
    /// Keys in lower case.
    parameters: Vec<(String, String)>,
}

impl Challenge {
    fn get(&self, key: &str) -> Option<&str> {
        self.parameters.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    expires_in: Option<u64>,
}

impl Inner {
    /// The authorization that an earlier call led to.
    pub(super) fn known_authorization(&self, call: &Call<'_>) -> Option<HeaderValue> {
        let tokens = self.tokens.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let token = tokens.get(&key(call))?;
        token.expires.is_none_or(|end| Instant::now() < end).then(|| token.value.clone())
    }

    /// Answers the challenge of a 401 to a request that was sent with `used`; false when there is nothing to answer with.
    pub(super) async fn authorize(
        &self,
        call: &Call<'_>,
        used: Option<&HeaderValue>,
        headers: &HeaderMap,
    ) -> Result<bool, RegistryError> {
        let mut challenges = parse_challenges(headers);
        if challenges.is_empty() {
            challenges = self.root_challenges(call).await?;
        }
        let registry = &call.endpoint.registry;
        let lookup = self.lookup(registry, &call.reference.repository);
        let token = if let Some(bearer) = challenges.iter().find(|c| c.scheme == "bearer") {
            self.bearer(call, bearer, lookup.credential.as_ref()).await?
        } else if challenges.iter().any(|c| c.scheme == "basic") {
            match &lookup.credential {
                Some(Credential::Basic { username, password }) => {
                    Token { value: basic(username, password), expires: None }
                }
                _ => return Ok(false),
            }
        } else if challenges.is_empty() {
            return Ok(false);
        } else {
            let schemes: Vec<_> = challenges.iter().map(|c| c.scheme.as_str()).collect();
            return Err(RegistryError::Challenge {
                registry: registry.clone(),
                challenge: tidy(&schemes.join(", ")),
            });
        };
        // The same Basic credentials again would be refused again. What is known by now says nothing about this request:
        // another one may have got it meanwhile.
        let same = token.expires.is_none() && used == Some(&token.value);
        self.tokens.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(key(call), token);
        Ok(!same)
    }

    /// The challenges of the API's root: some registries make none elsewhere, since docker asks there first.
    async fn root_challenges(&self, call: &Call<'_>) -> Result<Vec<Challenge>, RegistryError> {
        let Ok(url) = call.endpoint.base.join("/v2/") else { return Ok(Vec::new()) };
        if url == call.url {
            return Ok(Vec::new());
        }
        let root = Call::get(call.endpoint, call.reference, url);
        let response = self.options.net.send(root.request(None)).await?;
        let challenged = response.status() == StatusCode::UNAUTHORIZED;
        Ok(if challenged { parse_challenges(response.headers()) } else { Vec::new() })
    }

    async fn bearer(
        &self,
        call: &Call<'_>,
        challenge: &Challenge,
        credential: Option<&Credential>,
    ) -> Result<Token, RegistryError> {
        let registry = call.endpoint.registry.clone();
        let bad = || RegistryError::Challenge {
            registry: registry.clone(),
            challenge: tidy(&format!("Bearer realm={}", challenge.get("realm").unwrap_or_default())),
        };
        let realm = challenge.get("realm").and_then(|realm| Url::parse(realm).ok()).ok_or_else(bad)?;
        let host = realm.host_str().ok_or_else(bad)?;
        if !matches!(realm.scheme(), "http" | "https") {
            return Err(bad());
        }
        let private = is_loopback(host) || call.endpoint.base.scheme() == "http";
        if realm.scheme() == "http" && credential.is_some() && !private {
            return Err(RegistryError::PlainRealm { registry, realm: redacted(&realm) });
        }
        let mut scopes = call.scopes.clone();
        for scope in challenge.get("scope").unwrap_or_default().split(' ').filter(|scope| !scope.is_empty()) {
            if !scopes.iter().any(|own| covers(own, scope)) {
                scopes.push(scope.to_owned());
            }
        }
        let service = challenge.get("service").unwrap_or_default();
        self.fetch_token(call, realm, service, &scopes, credential).await
    }

    async fn fetch_token(
        &self,
        call: &Call<'_>,
        realm: Url,
        service: &str,
        scopes: &[String],
        credential: Option<&Credential>,
    ) -> Result<Token, RegistryError> {
        let options = self.options.net.options();
        let mut attempt = 0;
        let (url, body) = loop {
            let request = token_request(&realm, service, scopes, credential);
            let asked = match self.options.net.send(request).await {
                Ok(response) if response.status().is_success() => {
                    let url = response.url().clone();
                    match body_within(response, MAX_TOKEN_BYTES).await {
                        Ok(Some(body)) => break (url, body),
                        Ok(None) => {
                            let limit = MAX_TOKEN_BYTES as u64;
                            return Err(RegistryError::TooLarge { url: redacted(&url), limit });
                        }
                        Err(_) if attempt < options.retries => None,
                        Err(source) => return Err(failed(&Method::GET, &url, source).into()),
                    }
                }
                Ok(response)
                    if attempt < options.retries && retry::is_temporary_status(response.status()) =>
                {
                    retry::asked_delay(response.headers())
                }
                Ok(response) => return Err(self.no_token(call, &realm, response).await),
                Err(error) if attempt < options.retries && error.is_temporary() => None,
                Err(error) => return Err(error.into()),
            };
            tokio::time::sleep(retry::delay(options, attempt, asked)).await;
            attempt += 1;
        };
        let answer: TokenAnswer = serde_json::from_slice(&body)
            .map_err(|source| RegistryError::Malformed { url: redacted(&url), what: "token", source })?;
        let text = if answer.token.is_empty() { answer.access_token } else { answer.token };
        let mut value = HeaderValue::from_str(&format!("Bearer {text}"))
            .ok()
            .filter(|_| !text.is_empty())
            .ok_or_else(|| RegistryError::NoToken(redacted(&url)))?;
        value.set_sensitive(true);
        let life = answer.expires_in.map_or(DEFAULT_LIFE, |s| Duration::from_secs(s.min(86_400)));
        Ok(Token { value, expires: Some(Instant::now() + life.saturating_sub(MARGIN)) })
    }
}

impl Inner {
    /// The error that a token server's refusal stands for.
    async fn no_token(&self, call: &Call<'_>, realm: &Url, response: reqwest::Response) -> RegistryError {
        let (status, url) = (response.status(), redacted(realm));
        let message = message_of(&error_body(response).await);
        match status.as_u16() {
            400 | 401 | 403 => self.denied(call, url, status, message),
            _ => RegistryError::Status { method: "GET".to_owned(), url, status: status.as_u16(), message },
        }
    }
}

fn key(call: &Call<'_>) -> (String, String) {
    (call.endpoint.base.to_string(), call.scopes.join(" "))
}

/// True when the scope `own` asks for at least what `other` does.
fn covers(own: &str, other: &str) -> bool {
    let (Some((name, actions)), Some((other_name, other_actions))) =
        (own.rsplit_once(':'), other.rsplit_once(':'))
    else {
        return own == other;
    };
    name == other_name && other_actions.split(',').all(|action| actions.split(',').any(|own| own == action))
}

/// GET with Basic (or nothing), as docker asks for tokens; POST for identity tokens (OAuth2 refresh).
fn token_request(realm: &Url, service: &str, scopes: &[String], credential: Option<&Credential>) -> Request {
    let mut url = realm.clone();
    if let Some(Credential::IdentityToken(token)) = credential {
        let mut form = realm.clone();
        form.set_query(None);
        form.query_pairs_mut()
            .append_pair("grant_type", "refresh_token")
            .append_pair("service", service)
            .append_pair("client_id", "kiln")
            .append_pair("scope", &scopes.join(" "))
            .append_pair("refresh_token", token);
        let body = form.query().unwrap_or_default().to_owned();
        let mut request = Request::new(Method::POST, url);
        request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        request.body = Some(body.into());
        return request;
    }
    {
        let mut query = url.query_pairs_mut();
        if !service.is_empty() {
            query.append_pair("service", service);
        }
        for scope in scopes {
            query.append_pair("scope", scope);
        }
        if let Some(Credential::Basic { username, .. }) = credential {
            query.append_pair("account", username);
        }
    }
    let mut request = Request::get(url);
    if let Some(Credential::Basic { username, password }) = credential {
        request.authorization = Some(basic(username, password));
    }
    request
}

/// `Basic …` (RFC 7617).
fn basic(username: &str, password: &str) -> HeaderValue {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("Basic ");
    for chunk in format!("{username}:{password}").as_bytes().chunks(3) {
        let bits =
            chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for index in 0..4 {
            let digit = (bits >> (18 - 6 * index)) & 63;
            text.push(if index <= chunk.len() { char::from(ALPHABET[digit as usize]) } else { '=' });
        }
    }
    let mut value =
        HeaderValue::from_str(&text).expect("invariant: base64 is made of characters that headers may have");
    value.set_sensitive(true);
    value
}

/// Every challenge of every `WWW-Authenticate` header; what does not parse is left out.
pub(super) fn parse_challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    for value in headers.get_all(WWW_AUTHENTICATE) {
        if let Ok(text) = value.to_str() {
            parse_header(text, &mut challenges);
        }
    }
    challenges
}

fn parse_header(text: &str, challenges: &mut Vec<Challenge>) {
    let mut rest = text.trim_start_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let (word, after) = token(rest);
        if word.is_empty() {
            return;
        }
        let trimmed = after.trim_start();
        if let (Some(value), Some(challenge)) = (trimmed.strip_prefix('='), challenges.last_mut()) {
            let Some((value, after)) = parameter_value(value.trim_start()) else { return };
            challenge.parameters.push((word.to_ascii_lowercase(), value));
            rest = after.trim_start_matches([' ', '\t', ',']);
        } else {
            challenges.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
            rest = trimmed.trim_start_matches([' ', '\t', ',']);
        }
    }
}

fn token(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_alphanumeric() && !"!#$%&'*+-.^_`|~".contains(c))
        .unwrap_or(text.len());
    text.split_at(end)
}

fn parameter_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return Some((value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[index + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(texts: &[&str]) -> Vec<Challenge> {
        let mut headers = HeaderMap::new();
        for text in texts {
            headers.append(WWW_AUTHENTICATE, text.parse().unwrap());
        }
        parse_challenges(&headers)
    }

    #[test]
    fn challenges_are_read() {
        let found = parse(&[
            r#"Bearer realm="https://auth.h/token",service="reg \"x\"", Scope="repository:a/b:pull,push""#,
            r#"Negotiate, Basic realm=plain"#,
        ]);
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].scheme, "bearer");
        assert_eq!(found[0].get("realm"), Some("https://auth.h/token"));
        assert_eq!(found[0].get("service"), Some("reg \"x\""));
        assert_eq!(found[0].get("scope"), Some("repository:a/b:pull,push"));
        assert_eq!(found[1].scheme, "negotiate");
        assert_eq!((found[2].scheme.as_str(), found[2].get("realm")), ("basic", Some("plain")));
    }

    #[test]
    fn broken_challenges_do_no_harm() {
        for text in [r#"Bearer realm="open"#, "=", r#"Bearer realm="a\"#, ",,,", "Bearer =x", "\"\""] {
            let _ = parse(&[text]);
        }
        assert_eq!(parse(&[""]), []);
    }

    #[test]
    fn basic_is_base64() {
        // RFC 7617 section 2; then every length of the last group.
        assert_eq!(basic("Aladdin", "open sesame"), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!(basic("a", "b"), "Basic YTpi");
        assert_eq!(basic("a", "bc"), "Basic YTpiYw==");
        assert_eq!(basic("a", "bcd"), "Basic YTpiY2Q=");
    }

    #[test]
    fn scopes_cover_scopes() {
        assert!(covers("repository:a:pull,push", "repository:a:pull"));
        assert!(!covers("repository:a:pull", "repository:a:pull,push"));
        assert!(!covers("repository:a:pull", "repository:b:pull"));
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_survived(text in "[ -~]{0,80}") {
            let mut found = Vec::new();
            parse_header(&text, &mut found);
        }
    }
}
