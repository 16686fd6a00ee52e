//! The image config (OCI image spec `config.md`, with docker's Healthcheck, OnBuild and Shell).
//!
//! Invariants:
//! - unknown keys of a base image's config survive a round trip (`extra`);
//! - [`ImageConfig::to_bytes`] is the only place that makes the bytes: top-level keys sorted, keys of `config`
//!   in Go's struct order (semantics fact 88), so that the digest is BuildKit's for equal content.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::digest::DiffId;

/// A JSON object without members, as in `"ExposedPorts": {"80/tcp": {}}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Empty {}

/// `HEALTHCHECK` as docker stores it; durations are nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct HealthConfig {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub interval: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub timeout: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_period: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retries: i64,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

fn is_false(flag: &bool) -> bool {
    !*flag
}

fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// The `config` object: what a container started from the image gets.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct ContainerConfig {
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub user: String,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<String, Empty>,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// `Some([])` is written as `[]` and differs from `None` (semantics fact 56).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// As `entrypoint`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, Empty>,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "is_false")]
    pub args_escaped: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthConfig>,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub shell: Vec<String>,
    /// Keys that kiln does not know.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// One entry of `history`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct History {
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub author: String,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub comment: String,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "is_false")]
    pub empty_layer: bool,
}

/// `rootfs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Bottom layer first.
    #[serde(default, deserialize_with = "null_as_default")]
    pub diff_ids: Vec<DiffId>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self { kind: "layers".to_owned(), diff_ids: Vec::new() }
    }
}

/// A whole image config.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ImageConfig {
    #[serde(default)]
    pub architecture: String,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub author: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub config: ContainerConfig,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
    #[serde(default)]
    pub os: String,
    #[serde(
        default,
        rename = "os.version",
        deserialize_with = "null_as_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub os_version: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub rootfs: RootFs,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// Keys that kiln does not know.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

impl ImageConfig {
    /// Reads a config.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// The bytes that are digested and written. Keys come out sorted at the top level.
    pub fn to_bytes(&self) -> Vec<u8> {
        // The struct's own order is alphabetical except for unknown keys, which have to be merged in; the inner
        // object keeps Go's order, so it goes in as raw text.
        let raw = |value: &dyn erased::Json| value.raw();
        let mut members: BTreeMap<&str, Box<serde_json::value::RawValue>> = BTreeMap::new();
        members.insert("architecture", raw(&self.architecture));
        members.insert("config", raw(&self.config));
        members.insert("os", raw(&self.os));
        members.insert("rootfs", raw(&self.rootfs));
        if !self.author.is_empty() {
            members.insert("author", raw(&self.author));
        }
        if let Some(created) = &self.created {
            members.insert("created", raw(created));
        }
        if !self.history.is_empty() {
            members.insert("history", raw(&self.history));
        }
        if !self.os_version.is_empty() {
            members.insert("os.version", raw(&self.os_version));
        }
        if !self.variant.is_empty() {
            members.insert("variant", raw(&self.variant));
        }
        for (key, value) in &self.extra {
            members.entry(key).or_insert_with(|| raw(value));
        }
        serde_json::to_vec(&members).expect("invariant: a map of raw JSON values always serialises")
    }
}

/// Sets `KEY=VALUE` in an image's environment: in place when the key is there, else at the end (language.md 1.5).
pub fn set_image_env(env: &mut Vec<String>, name: &str, value: &str) {
    let pair = format!("{name}={value}");
    match env.iter_mut().find(|known| known.split('=').next() == Some(name)) {
        Some(known) => *known = pair,
        None => env.push(pair),
    }
}

mod erased {
    //! Serialising different member types through one function.
    use serde::Serialize;
    use serde_json::value::RawValue;

    pub(super) trait Json {
        fn raw(&self) -> Box<RawValue>;
    }

    impl<T: Serialize> Json for T {
        fn raw(&self) -> Box<RawValue> {
            serde_json::value::to_raw_value(self)
                .expect("invariant: config members are maps with text keys and always serialise")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_survive_and_order_is_buildkits() {
        let text = r#"{"os":"linux","architecture":"amd64","zz":1,"aa":[2],"config":{"Shell":["/bin/sh","-c"],"Env":["A=1"],"Cmd":[],"MacAddress":"x","Volumes":null},"rootfs":{"type":"layers","diff_ids":null}}"#;
        let config = ImageConfig::from_bytes(text.as_bytes()).unwrap();
        assert_eq!(config.config.cmd, Some(vec![]));
        assert_eq!(
            String::from_utf8(config.to_bytes()).unwrap(),
            r#"{"aa":[2],"architecture":"amd64","config":{"Env":["A=1"],"Cmd":[],"Shell":["/bin/sh","-c"],"MacAddress":"x"},"os":"linux","rootfs":{"type":"layers","diff_ids":[]},"zz":1}"#
        );
    }

    #[test]
    fn json_maps_are_sorted() {
        // A dependency could switch on serde_json's preserve_order for the whole build (engine-facts 1.6).
        let value: Value = serde_json::from_str(r#"{"b":1,"a":2}"#).unwrap();
        assert_eq!(value.to_string(), r#"{"a":2,"b":1}"#);
    }

    #[test]
    fn image_environment_is_replaced_in_place() {
        let mut env = vec!["A=1".to_owned(), "AB=2".to_owned()];
        set_image_env(&mut env, "A", "x=y");
        set_image_env(&mut env, "C", "");
        assert_eq!(env, ["A=x=y", "AB=2", "C="]);
    }
}
