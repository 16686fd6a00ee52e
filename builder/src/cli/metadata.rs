//! `--metadata-file`, and other small files about a build.

use std::io::Write as _;
use std::path::Path;

use kiln_grammar::diagnostic::Diagnostic;
use serde_json::json;

use crate::build::{Report, Request};
use crate::export::attest::options::Mode;
use crate::export::spec::attributes;
use crate::record::BuildRecord;
use crate::ui::failure::{Failure, Kind};
use crate::ui::findings::base64;

pub(super) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    std::fs::File::create(path).and_then(|mut file| file.write_all(bytes)).map_err(|e| Failure {
        causes: vec![e.to_string()],
        ..Failure::new(Kind::User, format!("cannot write `{}`", path.display()))
    })
}

/// Findings as buildx writes them.
fn warnings(findings: &[Diagnostic]) -> Vec<serde_json::Value> {
    let text = |finding: &Diagnostic| match finding.rule {
        Some(rule) => format!("{rule}: {}", finding.message),
        None => finding.message.clone(),
    };
    findings.iter().map(|f| json!({ "level": 1, "short": base64(text(f).as_bytes()) })).collect()
}

/// How much a metadata file says of how the image was made: `BUILDX_METADATA_PROVENANCE`, as buildx reads it
/// (util/confutil/metadata.go).
pub(super) fn provenance_mode() -> Option<Mode> {
    match std::env::var("BUILDX_METADATA_PROVENANCE").unwrap_or_default().as_str() {
        "max" => Some(Mode::Max),
        "disabled" => None,
        other if attributes::boolean("", other) == Ok(false) => None,
        _ => Some(Mode::Min),
    }
}

/// buildx' keys (cli.md 2.6) and kiln's own under `kiln.build`.
pub(super) fn metadata(request: &Request, report: &Report, record: Option<&BuildRecord>) -> String {
    let mut object = serde_json::Map::new();
    if let Some(image) = &report.image {
        // Several platforms have several configs (semantics fact 98).
        if let ([only], false) = (&image.images[..], image.is_index()) {
            object.insert("containerimage.config.digest".to_owned(), json!(only.config_digest));
        }
        object.insert("containerimage.digest".to_owned(), json!(image.descriptor.digest));
        object.insert("containerimage.descriptor".to_owned(), json!(image.descriptor));
    }
    let mut names: Vec<String> = Vec::new();
    for name in request.names.iter().chain(request.outputs.iter().flat_map(|output| &output.names)) {
        let name = name.to_string();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    if !names.is_empty() {
        object.insert("image.name".to_owned(), json!(names.join(",")));
    }
    if std::env::var("BUILDX_METADATA_WARNINGS")
        .is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"))
    {
        object.insert("buildx.build.warnings".to_owned(), json!(warnings(&report.warnings)));
    }
    match &report.provenance[..] {
        [(_, only)] => drop(object.insert("buildx.build.provenance".to_owned(), only.clone())),
        several => object.extend(several.iter().map(|(platform, provenance)| {
            (format!("buildx.build.provenance/{platform}"), provenance.clone())
        })),
    }
    if let Some(record) = record {
        // buildx writes builder, node and build.
        object.insert("buildx.build.ref".to_owned(), json!(format!("kiln/local/{}", record.head.id)));
    }
    object.insert(
        "kiln.build".to_owned(),
        json!({ "executed": report.executed, "cached": report.cached, "milliseconds": report.took.as_millis() as u64 }),
    );
    format!("{:#}\n", serde_json::Value::Object(object))
}
