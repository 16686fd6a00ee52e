//! `type=s3` of `--cache-from` and `--cache-to`: attributes, and what the environment says besides.

use std::time::Duration;

use reqwest::Url;

use super::cache::CacheError;
use super::{ArgsError, Environment, amount};
use crate::cache::actions::Token;
use crate::cache::bucket::{BucketOptions, Keys};
use crate::export::spec::attributes;

/// Attributes of this type only.
pub const KEYS: [&str; 16] = [
    "bucket",
    "region",
    "prefix",
    "blobs_prefix",
    "manifests_prefix",
    "name",
    "endpoint_url",
    "use_path_style",
    "access_key_id",
    "secret_access_key",
    "session_token",
    "touch_refresh",
    "upload_parallelism",
    "retry_mode",
    "retry_max_attempts",
    "disable_accept_encoding",
];
/// BuildKit's.
const NAME: &str = "buildkit";
const TOUCH_REFRESH: Duration = Duration::from_secs(24 * 3600);
const PARALLELISM: usize = 4;

/// What was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketSpec {
    bucket: Option<String>,
    region: Option<String>,
    prefix: String,
    blobs_prefix: String,
    manifests_prefix: String,
    names: Vec<String>,
    endpoint: Option<Url>,
    path_style: bool,
    id: Option<String>,
    secret: Option<Token>,
    session: Option<Token>,
    touch_refresh: Duration,
    parallelism: usize,
    attempts: Option<u32>,
}

impl BucketSpec {
    /// Reads the attributes.
    pub fn parse<'a>(given: impl Fn(&str) -> Option<&'a str>) -> Result<Self, CacheError> {
        let text = |key: &str| given(key).filter(|value| !value.is_empty());
        let owned = |key: &str| text(key).map(str::to_owned);
        let flag = |key: &str| given(key).map_or(Ok(false), |value| attributes::boolean(key, value));
        // Whatever it says: nothing but the bytes themselves is ever asked for.
        flag("disable_accept_encoding")?;
        if let Some(mode) = text("retry_mode").filter(|mode| !matches!(*mode, "standard" | "adaptive")) {
            return Err(CacheError::RetryMode(mode.to_owned()));
        }
        let number = |key: &'static str| {
            let bad = || CacheError::Number { key };
            let parse = |value: &str| value.parse::<u32>().ok().filter(|number| *number > 0).ok_or_else(bad);
            text(key).map(parse).transpose()
        };
        let names: Vec<String> = text("name").unwrap_or(NAME).split(';').map(str::to_owned).collect();
        if names.iter().any(String::is_empty) {
            return Err(CacheError::Names);
        }
        Ok(Self {
            bucket: owned("bucket"),
            region: owned("region"),
            prefix: given("prefix").unwrap_or_default().to_owned(),
            blobs_prefix: given("blobs_prefix").unwrap_or("blobs/").to_owned(),
            manifests_prefix: given("manifests_prefix").unwrap_or("manifests/").to_owned(),
            names,
            endpoint: match text("endpoint_url") {
                Some(url) => Some(address(url).ok_or(CacheError::Url { key: "endpoint_url" })?),
                None => None,
            },
            path_style: flag("use_path_style")?,
            id: owned("access_key_id"),
            secret: owned("secret_access_key").map(Token),
            session: owned("session_token").map(Token),
            touch_refresh: text("touch_refresh").map(amount::duration).transpose()?.unwrap_or(TOUCH_REFRESH),
            parallelism: number("upload_parallelism")?.map_or(PARALLELISM, |number| number as usize),
            attempts: number("retry_max_attempts")?,
        })
    }

    /// What the attributes and the environment say together.
    pub fn resolve(&self, environment: Environment<'_>) -> Result<BucketOptions, ArgsError> {
        let variable = |name: &str| {
            let value = environment(name)?.into_string().ok()?;
            (!value.is_empty()).then_some(value)
        };
        let needed = |given: &Option<String>, key: &'static str, name: &'static str| {
            given.clone().or_else(|| variable(name)).ok_or(ArgsError::Bucket { key, variable: name })
        };
        let endpoint = match &self.endpoint {
            Some(url) => Some(url.clone()),
            None => {
                let mut names = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"].into_iter();
                let found = names.find_map(|name| Some((name, variable(name)?)));
                let bad =
                    |name| ArgsError::Variable { name, reason: "it is not an http or https URL".to_owned() };
                found.map(|(name, value)| address(&value).ok_or_else(|| bad(name))).transpose()?
            }
        };
        let bucket = needed(&self.bucket, "bucket", "AWS_BUCKET")?;
        let region = self.region.clone().or_else(|| variable("AWS_REGION"));
        let region = region.or_else(|| variable("AWS_DEFAULT_REGION"));
        // Stores of others have a region in name only.
        let region = region.or_else(|| endpoint.is_some().then(|| "us-east-1".to_owned()));
        let region = region.ok_or(ArgsError::Bucket { key: "region", variable: "AWS_REGION" })?;
        let amazon = || address(&format!("https://s3.{region}.amazonaws.com"));
        let endpoint =
            endpoint.or_else(amazon).ok_or(ArgsError::Bucket { key: "region", variable: "AWS_REGION" })?;
        let secret = self.secret.clone().map(|secret| secret.0);
        // Keys belong together: a session of the environment is not that of keys that were given.
        let session = match self.id {
            Some(_) => self.session.clone(),
            None => self.session.clone().or_else(|| variable("AWS_SESSION_TOKEN").map(Token)),
        };
        Ok(BucketOptions {
            keys: Keys {
                id: needed(&self.id, "access_key_id", "AWS_ACCESS_KEY_ID")?,
                secret: Token(needed(&secret, "secret_access_key", "AWS_SECRET_ACCESS_KEY")?),
                session,
            },
            endpoint,
            bucket,
            path_style: self.path_style,
            region,
            prefix: self.prefix.clone(),
            blobs_prefix: self.blobs_prefix.clone(),
            manifests_prefix: self.manifests_prefix.clone(),
            names: self.names.clone(),
            touch_refresh: self.touch_refresh,
            parallelism: self.parallelism,
            attempts: self.attempts,
        })
    }
}

fn address(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let plain = url.query().is_none() && url.username().is_empty();
    (matches!(url.scheme(), "http" | "https") && url.host_str().is_some() && plain).then_some(url)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn resolve(attributes: &[(&str, &str)], variables: &[(&str, &str)]) -> Result<BucketOptions, ArgsError> {
        let find = |all: &[(&str, &str)], name: &str| {
            all.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        let spec = BucketSpec::parse(|name| {
            attributes.iter().find(|(key, _)| *key == name).map(|(_, value)| *value)
        });
        spec.unwrap().resolve(&|name| find(variables, name).map(OsString::from))
    }

    const AWS: [(&str, &str); 4] = [
        ("AWS_REGION", "eu-west-1"),
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_SESSION_TOKEN", "session"),
    ];

    #[test]
    fn the_environment_says_what_attributes_do_not() {
        let found = resolve(&[("bucket", "b")], &AWS).unwrap();
        assert_eq!(found.endpoint.as_str(), "https://s3.eu-west-1.amazonaws.com/");
        assert_eq!((found.keys.secret.0.as_str(), found.keys.session.is_some()), ("secret", true));
        assert_eq!((found.blobs_prefix.as_str(), found.names), ("blobs/", vec!["buildkit".to_owned()]));
        let own = [
            ("access_key_id", "i"),
            ("secret_access_key", "s"),
            ("endpoint_url", "http://minio:9000"),
            ("name", "a;b"),
        ];
        let found = resolve(&own, &[&AWS[1..], &[("AWS_BUCKET", "x")]].concat()).unwrap();
        assert_eq!((found.region.as_str(), found.bucket.as_str()), ("us-east-1", "x"));
        assert_eq!((found.keys.session, found.names.len()), (None, 2));
    }

    #[test]
    fn what_is_missing_is_told() {
        for (attributes, variables, part) in [
            (&[][..], &AWS[..], "`bucket` or AWS_BUCKET"),
            (&[("bucket", "b")], &AWS[1..], "`region` or AWS_REGION"),
            (&[("bucket", "b")], &AWS[..1], "`access_key_id` or AWS_ACCESS_KEY_ID"),
            (&[("bucket", "b")], &AWS[..2], "`secret_access_key` or AWS_SECRET_ACCESS_KEY"),
        ] {
            let error = resolve(attributes, variables).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
