use std::sync::Arc;

use super::*;
use crate::base::digest::DiffId;
use crate::image::config::ImageConfig;
use crate::image::manifest::Descriptor;
use crate::plan::graph::{
    ImageLayer, ImageRequest, ImageResolver, Plan, PlanOptions, ResolveError, ResolvedImage,
};

/// Any image, with one layer.
struct Images;

impl ImageResolver for Images {
    fn resolve(&self, request: &ImageRequest) -> Result<Arc<ResolvedImage>, ResolveError> {
        let digest = Digest::of(request.name.as_bytes());
        let config = ImageConfig {
            architecture: request.platform.architecture.clone(),
            os: request.platform.os.clone(),
            ..ImageConfig::default()
        };
        let layers = vec![ImageLayer { diff_id: DiffId(digest), descriptor: Descriptor::new("", digest, 1) }];
        let location = match request.name.strip_prefix("oci-layout://") {
            Some(_) => BlobLocation::Layout(0),
            None => BlobLocation::Store,
        };
        Ok(Arc::new(ResolvedImage { name: request.name.clone(), digest, config, layers, location }))
    }
}

fn options() -> PlanOptions {
    PlanOptions { platforms: vec![Platform::new("linux", "amd64", "")], ..PlanOptions::default() }
}

fn told(text: &str, asked: &PlanOptions, provenance: &ProvenanceOptions) -> (&'static str, Value) {
    told_of(None, text, asked, provenance)
}

fn told_of(
    remote: Option<&RemoteContext>,
    text: &str,
    asked: &PlanOptions,
    provenance: &ProvenanceOptions,
) -> (&'static str, Value) {
    let parsed = kiln_grammar::parse(text);
    assert!(!parsed.has_errors(), "{:?}", parsed.diagnostics);
    let Plan { graph, images, .. } = crate::plan::plan(&parsed.buildfile, asked, &Images).expect("plan");
    let mut found = Found::default();
    for (vertex, number) in graph.vertices.iter().zip(0..) {
        match vertex.op {
            Op::Git(_) => drop(found.commits.insert(VertexId(number), "c".repeat(40))),
            Op::Http(_) => drop(found.downloads.insert(VertexId(number), Digest::of(b"body"))),
            _ => {}
        }
    }
    let invocation = Invocation {
        graph: &graph,
        options: asked,
        file_name: "/home/me/work/Buildfile",
        text,
        remote,
        found: &found,
        id: Some("b1".to_owned()),
        started: 0,
        finished: 60,
    };
    predicate(&invocation, &images[0], provenance)
}

const TEXT: &str = "FROM debian:12 AS tools\n\
    RUN --mount=type=secret,id=token,required=true --mount=type=ssh,id=keys true\n\
    FROM nowhere AS unused\n\
    RUN false\n\
    FROM scratch\n\
    ARG LEVEL\n\
    COPY --from=tools /x /x\n\
    ADD https://me:hush@example.com/a.tgz /\n\
    ADD https://me:hush@example.com/r.git#v1 /r\n\
    COPY f /\n";

fn asked() -> PlanOptions {
    PlanOptions {
        target: Some("2".to_owned()),
        build_args: [
            ("LEVEL".to_owned(), "3".to_owned()),
            ("HTTP_PROXY".to_owned(), "http://me:hush@p:1".to_owned()),
        ]
        .into(),
        labels: vec![("a".to_owned(), "b".to_owned())],
        ..options()
    }
}

#[test]
fn the_least_tells_what_the_image_is_made_of() {
    let min = ProvenanceOptions { mode: Mode::Min, ..ProvenanceOptions::default() };
    let (kind, predicate) = told(TEXT, &asked(), &min);
    assert_eq!(kind, V1);
    let debian = Digest::of(b"debian:12").hex();
    let body = Digest::of(b"body").hex();
    let definition = &predicate["buildDefinition"];
    assert_eq!(
        definition["resolvedDependencies"],
        json!([
            { "uri": "pkg:docker/debian@12?platform=linux%2Famd64", "digest": { "sha256": debian } },
            { "uri": "https://example.com/r.git#v1", "digest": { "sha1": "c".repeat(40) } },
            { "uri": "https://example.com/a.tgz", "digest": { "sha256": body } },
        ])
    );
    assert_eq!(definition["externalParameters"]["configSource"], json!({ "path": "Buildfile" }));
    assert_eq!(
        definition["externalParameters"]["request"],
        json!({
            "frontend": "dockerfile.v0",
            "args": { "target": "2" },
            "locals": [{ "name": "context" }, { "name": "dockerfile" }],
        })
    );
    assert_eq!(definition["internalParameters"]["buildConfig"], Value::Null);
    assert_eq!(
        predicate["runDetails"]["metadata"],
        json!({
            "invocationId": "b1",
            "startedOn": "1970-01-01T00:00:00Z",
            "finishedOn": "1970-01-01T00:01:00Z",
            "buildkit_metadata": {},
            "buildkit_completeness": { "request": false, "resolvedDependencies": false },
        })
    );
    let text = predicate.to_string();
    for word in ["hush", "nowhere", "token", "LEVEL", "/home/me"] {
        assert!(!text.contains(word), "{word}: {text}");
    }
}

#[test]
fn the_most_tells_how_too() {
    let (_, predicate) = told(TEXT, &asked(), &ProvenanceOptions::default());
    let request = &predicate["buildDefinition"]["externalParameters"]["request"];
    assert_eq!(
        request["args"],
        json!({ "build-arg:HTTP_PROXY": "http://p:1", "build-arg:LEVEL": "3", "label:a": "b", "target": "2" })
    );
    assert_eq!(request["secrets"], json!([{ "id": "token" }]));
    assert_eq!(request["ssh"], json!([{ "id": "keys", "optional": true }]));
    let steps =
        predicate["buildDefinition"]["internalParameters"]["buildConfig"]["steps"].as_array().expect("steps");
    let run = steps.iter().find(|step| step["op"]["kind"] == "run").expect("the RUN");
    assert_eq!(run["inputs"].as_array().map(Vec::len), Some(1));
    let source = &predicate["runDetails"]["metadata"]["buildkit_metadata"]["source"];
    let id = run["id"].as_str().expect("id");
    assert_eq!(
        source["locations"][id]["locations"],
        json!([{ "ranges": [{ "start": { "line": 2 }, "end": { "line": 2 } }] }])
    );
    let data = source["infos"][0]["data"].as_str().expect("data");
    assert_eq!(STANDARD.decode(data).expect("base64"), TEXT.as_bytes());
    // What is written in the Buildfile is there as it is written, and nowhere else.
    let mut rest = predicate.clone();
    rest["runDetails"]["metadata"]["buildkit_metadata"] = Value::Null;
    for word in ["hush", "nowhere", "/home/me"] {
        assert!(!rest.to_string().contains(word), "{word}: {rest:#}");
    }
}

#[test]
fn the_older_form_has_the_same_content() {
    let options = ProvenanceOptions {
        version: Version::V02,
        builder_id: Some("https://ci.example.com/1".to_owned()),
        reproducible: true,
        ..ProvenanceOptions::default()
    };
    let (kind, old) = told(TEXT, &asked(), &options);
    let (_, new) = told(TEXT, &asked(), &ProvenanceOptions::default());
    assert_eq!(kind, V02);
    assert_eq!(old["buildType"], BUILD_TYPE_V02);
    assert_eq!(old["builder"], json!({ "id": "https://ci.example.com/1" }));
    assert_eq!(old["materials"], new["buildDefinition"]["resolvedDependencies"]);
    assert_eq!(old["invocation"]["configSource"], json!({ "entryPoint": "Buildfile" }));
    assert_eq!(old["invocation"]["parameters"], new["buildDefinition"]["externalParameters"]["request"]);
    assert_eq!(old["buildConfig"], new["buildDefinition"]["internalParameters"]["buildConfig"]);
    assert_eq!(old["metadata"]["reproducible"], true);
    assert_eq!(old["metadata"]["buildInvocationID"], "b1");
}

#[test]
fn a_remote_context_is_the_source() {
    let address = "https://me:hush@example.com/r.git#main";
    let asked = PlanOptions { main_context: ContextKind::Git(address.to_owned()), ..options() };
    let min = ProvenanceOptions { mode: Mode::Min, ..ProvenanceOptions::default() };
    let (_, predicate) = told("FROM scratch\nCOPY f /\n", &asked, &min);
    assert_eq!(
        predicate["buildDefinition"]["externalParameters"]["configSource"],
        json!({
            "uri": "https://example.com/r.git#main",
            "digest": { "sha1": "c".repeat(40) },
            "path": "Buildfile",
        })
    );
    let metadata = &predicate["runDetails"]["metadata"];
    assert_eq!(metadata["buildkit_hermetic"], true);
    assert_eq!(metadata["buildkit_completeness"]["resolvedDependencies"], true);
}

#[test]
fn so_is_an_archive_that_was_unpacked() {
    let remote =
        RemoteContext { uri: "https://example.com/c.tgz".to_owned(), digest: Digest::of(b"archive") };
    let min = ProvenanceOptions { mode: Mode::Min, ..ProvenanceOptions::default() };
    let (_, predicate) = told_of(Some(&remote), "FROM scratch\nCOPY f /\n", &options(), &min);
    let definition = &predicate["buildDefinition"];
    let digest = json!({ "sha256": remote.digest.hex() });
    assert_eq!(
        definition["externalParameters"]["configSource"],
        json!({ "uri": remote.uri, "digest": digest, "path": "Buildfile" })
    );
    assert_eq!(definition["resolvedDependencies"], json!([{ "uri": remote.uri, "digest": digest }]));
    assert_eq!(definition["externalParameters"]["request"]["locals"], json!([]));
    assert_eq!(predicate["runDetails"]["metadata"]["buildkit_completeness"]["resolvedDependencies"], true);
}

#[test]
fn a_layout_does_not_tell_where_it_is() {
    let layout = ContextKind::Layout("oci-layout:///home/me/images/base:1".to_owned());
    let asked = PlanOptions { contexts: [("b".to_owned(), layout)].into(), ..options() };
    let (_, predicate) = told("FROM b\nRUN true\n", &asked, &ProvenanceOptions::default());
    assert_eq!(
        predicate["buildDefinition"]["resolvedDependencies"][0]["uri"],
        "pkg:oci/base?platform=linux%2Famd64"
    );
    assert!(!predicate.to_string().contains("/home/me"), "{predicate:#}");
}
