//! As much of JSON Schema (draft 4) as the schemas of the OCI image specification use.
//!
//! Invariants: a keyword that is not known here fails the test rather than being passed over.

use std::collections::BTreeMap;
use std::path::Path;

use regex_lite::Regex;
use serde_json::{Map, Value};

/// Schemas by file name; they refer to one another by it.
pub struct Schemas(BTreeMap<String, Value>);

impl Schemas {
    /// Every `*.json` of a directory.
    pub fn read(directory: &Path) -> Self {
        let mut schemas = BTreeMap::new();
        for entry in std::fs::read_dir(directory).expect("schemas") {
            let path = entry.expect("schema").path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let name = path.file_name().expect("name").to_string_lossy().into_owned();
                let text = std::fs::read(&path).expect("schema");
                schemas.insert(name, serde_json::from_slice(&text).expect("a schema is JSON"));
            }
        }
        Self(schemas)
    }

    /// What `value` offends against, each as `PLACE: WHY`.
    pub fn faults(&self, schema: &str, value: &Value) -> Vec<String> {
        let mut faults = Vec::new();
        self.check(schema, &self.0[schema], value, "", &mut faults);
        faults
    }

    fn check(&self, file: &str, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
        let schema = schema.as_object().expect("a schema is an object");
        if let Some(reference) = schema.get("$ref") {
            let reference = reference.as_str().expect("$ref");
            let (target, pointer) = reference.split_once('#').unwrap_or((reference, ""));
            let target = if target.is_empty() { file } else { target };
            let found = self.0[target].pointer(pointer).expect("what a reference leads to");
            return self.check(target, found, value, at, faults);
        }
        for (keyword, wanted) in schema {
            let holds = match keyword.as_str() {
                // `media` is a hint about an encoding, and a sibling of `type`.
                "description" | "$schema" | "id" | "definitions" | "media" => true,
                "type" => is_of_type(value, wanted.as_str().expect("type")),
                "enum" => wanted.as_array().expect("enum").contains(value),
                "pattern" => value.as_str().is_none_or(|text| matches(wanted, text)),
                "format" => value.as_str().is_none_or(|text| has_format(text, wanted)),
                "minimum" => value.as_f64().is_none_or(|number| number >= wanted.as_f64().expect("minimum")),
                "maximum" => value.as_f64().is_none_or(|number| number <= wanted.as_f64().expect("maximum")),
                "minItems" => value
                    .as_array()
                    .is_none_or(|items| items.len() as u64 >= wanted.as_u64().expect("minItems")),
                "required" => value.as_object().is_none_or(|object| has_all(object, wanted)),
                "oneOf" => {
                    let schemas = wanted.as_array().expect("oneOf");
                    let fits = |schema: &&Value| {
                        let mut inner = Vec::new();
                        self.check(file, schema, value, at, &mut inner);
                        inner.is_empty()
                    };
                    schemas.iter().filter(fits).count() == 1
                }
                "items" => {
                    for (number, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.check(file, wanted, item, &format!("{at}/{number}"), faults);
                    }
                    true
                }
                "properties" => {
                    for (name, schema) in wanted.as_object().expect("properties") {
                        if let Some(inner) = value.get(name) {
                            self.check(file, schema, inner, &format!("{at}/{name}"), faults);
                        }
                    }
                    true
                }
                "patternProperties" => {
                    for (pattern, schema) in wanted.as_object().expect("patternProperties") {
                        let pattern = Value::String(pattern.clone());
                        let fitting = value.as_object().into_iter().flatten();
                        for (name, inner) in fitting.filter(|(name, _)| matches(&pattern, name)) {
                            self.check(file, schema, inner, &format!("{at}/{name}"), faults);
                        }
                    }
                    true
                }
                other => panic!("{file} has the keyword `{other}`, which is not known here"),
            };
            if !holds {
                faults.push(format!("{at}: {keyword} {wanted} and not {value}"));
            }
        }
    }
}

fn is_of_type(value: &Value, kind: &str) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("the type `{other}` is not known here"),
    }
}

fn matches(pattern: &Value, text: &str) -> bool {
    Regex::new(pattern.as_str().expect("pattern")).expect("a pattern").is_match(text)
}

fn has_format(text: &str, format: &Value) -> bool {
    match format.as_str().expect("format") {
        "date-time" => Regex::new(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$")
            .expect("a pattern")
            .is_match(text),
        "uri" => text.contains(':'),
        other => panic!("the format `{other}` is not known here"),
    }
}

fn has_all(object: &Map<String, Value>, names: &Value) -> bool {
    names.as_array().expect("required").iter().all(|name| object.contains_key(name.as_str().expect("name")))
}

#[test]
fn faults_are_found() {
    let schema = serde_json::json!({
        "type": "object", "required": ["a", "b"],
        "properties": {
            "a": { "type": "array", "minItems": 1, "items": { "$ref": "#/definitions/word" } },
            "b": { "oneOf": [{ "type": "null" }, { "type": "integer", "minimum": 2, "maximum": 3 }] },
            "c": { "type": "object", "patternProperties": { ".+": { "type": "string", "format": "date-time" } } },
            "d": { "enum": ["x"] },
        },
        "definitions": { "word": { "type": "string", "pattern": "^[a-z]+$" } },
    });
    let schemas = Schemas(BTreeMap::from([("s.json".to_owned(), schema)]));
    let count = |value: Value| schemas.faults("s.json", &value).len();
    assert_eq!(
        count(serde_json::json!({ "a": ["x"], "b": 3, "c": { "t": "2026-01-01T00:00:00Z" }, "d": "x" })),
        0
    );
    assert_eq!(count(serde_json::json!({ "a": ["x"], "b": null })), 0);
    assert_eq!(count(serde_json::json!({ "a": ["x"] })), 1);
    assert_eq!(count(serde_json::json!([])), 1);
    assert_eq!(count(serde_json::json!({ "a": [], "b": 4 })), 2);
    assert_eq!(count(serde_json::json!({ "a": ["X", 1], "b": 2, "c": { "t": "today" }, "d": "y" })), 4);
}
