//! The outputs as a second reader sees them: the types of the oci-spec crate, and the specification's own schemas.

use std::path::PathBuf;

use oci_spec::image::{Arch, ImageConfiguration, ImageIndex, ImageManifest, MediaType, Os};
use serde_json::Value;

use crate::image::{Layout, layout_of_archive, layout_of_directory};
use crate::json_schema::Schemas;
use crate::project::{Ended, Project, skipped};

const TEXT: &str = "FROM scratch\nCOPY f /\nENV A=1\nLABEL l=v\nEXPOSE 80/tcp 53/udp\nVOLUME /data\nUSER 5:6\nWORKDIR /w\n\
    STOPSIGNAL SIGINT\nENTRYPOINT [\"e\"]\nCMD [\"c\", \"d\"]\nHEALTHCHECK --interval=5s CMD true\n";

fn check(layout: &Layout) {
    let index = ImageIndex::from_reader(&layout["index.json"][..]).expect("index");
    assert_eq!(index.schema_version(), 2);
    let [root] = &index.manifests()[..] else { panic!("one image was expected: {index:?}") };
    let get = |digest: &oci_spec::image::Digest| &layout[&format!("blobs/sha256/{}", digest.digest())][..];
    assert_eq!(*root.media_type(), MediaType::ImageManifest);
    let manifest = ImageManifest::from_reader(get(root.digest())).expect("manifest");
    assert_eq!(*manifest.media_type(), Some(MediaType::ImageManifest));
    assert_eq!(*manifest.config().media_type(), MediaType::ImageConfig);
    let config = ImageConfiguration::from_reader(get(manifest.config().digest())).expect("config");
    assert_eq!(*config.os(), Os::Linux);
    assert_eq!(config.architecture().to_string(), Arch::from(crate::base::architecture()).to_string());
    assert_eq!(config.rootfs().diff_ids().len(), manifest.layers().len());
    assert_eq!(config.rootfs().typ(), "layers");
    for layer in manifest.layers() {
        assert_eq!(*layer.media_type(), MediaType::ImageLayerGzip);
        assert_eq!(layer.size(), get(layer.digest()).len() as u64);
    }
    let settings = config.config().as_ref().expect("config.config");
    let text = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    assert!(text(settings.env()).contains(&"A=1".to_owned()));
    assert_eq!(text(settings.entrypoint()), ["e"]);
    assert_eq!(text(settings.cmd()), ["c", "d"]);
    assert_eq!(settings.user().as_deref(), Some("5:6"));
    assert_eq!(settings.working_dir().as_deref(), Some("/w"));
    assert_eq!(settings.stop_signal().as_deref(), Some("SIGINT"));
    let mut ports = text(settings.exposed_ports());
    ports.sort();
    assert_eq!(ports, ["53/udp", "80/tcp"]);
    assert_eq!(text(settings.volumes()), ["/data"]);
    let history = config.history().clone().unwrap_or_default();
    let filled = history.iter().filter(|line| line.empty_layer() != Some(true)).count();
    assert_eq!(filled, manifest.layers().len());
}

#[test]
fn an_archive_a_directory_and_the_store() {
    let project = Project::new().file("f", "x").buildfile(TEXT);
    let built = project.build(&["-t", "schema:1", "-o", "type=oci,tar=false,dest=dir", "-o", "type=image"]);
    built.succeeds();
    check(&layout_of_archive(&built.archive));
    check(&layout_of_directory(&project.path("dir")));
    check(&layout_of_directory(&project.store()));
}

#[test]
fn two_platforms_make_an_index_of_two_manifests() {
    let project = Project::new().file("f", "x").buildfile("FROM scratch\nCOPY f /\n");
    let mut command =
        project.build_command(["--platform", "linux/amd64,linux/arm64", "-o", "type=oci,dest=two.tar"]);
    Ended::of(&mut command).ok();
    let layout = layout_of_archive(&project.path("two.tar"));
    let outer = ImageIndex::from_reader(&layout["index.json"][..]).expect("index");
    let [root] = &outer.manifests()[..] else { panic!("{outer:?}") };
    assert_eq!(*root.media_type(), MediaType::ImageIndex);
    let inner = &layout[&format!("blobs/sha256/{}", root.digest().digest())];
    let inner = ImageIndex::from_reader(&inner[..]).expect("inner index");
    let platforms: Vec<String> = inner
        .manifests()
        .iter()
        .filter_map(|d| d.platform().as_ref().map(|p| p.architecture().to_string()))
        .collect();
    assert_eq!(platforms, ["amd64", "arm64"]);
}

/// The schemas of the image specification: `KILN_IMAGE_SPEC_SCHEMAS`, or where Debian's package has them.
fn schemas() -> Option<Schemas> {
    let named = std::env::var_os("KILN_IMAGE_SPEC_SCHEMAS").map(PathBuf::from);
    let packaged = PathBuf::from("/usr/share/gocode/src/github.com/opencontainers/image-spec/schema");
    let directory = named.unwrap_or(packaged);
    if !directory.is_dir() {
        skipped("no schemas (package golang-github-opencontainers-image-spec-dev)");
        return None;
    }
    Some(Schemas::read(&directory))
}

/// Everything that the layout's index leads to, against the schema of its kind. Gives how many documents there were.
fn validate(schemas: &Schemas, layout: &Layout) -> usize {
    let json = |name: &str| serde_json::from_slice::<Value>(&layout[name]).expect("JSON");
    let no_faults = |schema: &str, value: &Value| {
        assert_eq!(schemas.faults(schema, value), Vec::<String>::new(), "{schema}: {value:#}");
    };
    no_faults("image-layout-schema.json", &json("oci-layout"));
    no_faults("image-index-schema.json", &json("index.json"));
    let mut left = vec![json("index.json")];
    let mut count = 2;
    while let Some(document) = left.pop() {
        let list = |key: &str| document[key].as_array().cloned().unwrap_or_default();
        let config = document.get("config").cloned();
        for descriptor in list("manifests").iter().chain(&list("layers")).chain(&config) {
            no_faults("content-descriptor.json", descriptor);
            let digest = descriptor["digest"].as_str().expect("digest");
            let name = format!("blobs/sha256/{}", digest.trim_start_matches("sha256:"));
            assert_eq!(descriptor["size"], layout[&name].len() as u64, "{digest}");
            let schema = match descriptor["mediaType"].as_str().expect("media type") {
                "application/vnd.oci.image.index.v1+json" => "image-index-schema.json",
                "application/vnd.oci.image.manifest.v1+json" => "image-manifest-schema.json",
                "application/vnd.oci.image.config.v1+json" => "config-schema.json",
                "application/vnd.in-toto+json" => continue,
                layer => {
                    assert!(layer.starts_with("application/vnd.oci.image.layer.v1.tar"), "{layer}");
                    continue;
                }
            };
            let inner = json(&name);
            no_faults(schema, &inner);
            count += 1;
            if schema != "config-schema.json" {
                left.push(inner);
            }
        }
    }
    count
}

#[test]
fn layouts_fit_the_schemas_of_the_specification() {
    let Some(schemas) = schemas() else { return };
    let project = Project::new().file("f", "x").buildfile(TEXT);
    let annotated = [
        "--annotation",
        "manifest:a=1",
        "--annotation",
        "index,manifest-descriptor,index-descriptor:b=2",
        "--source-date-epoch",
        "1500000000",
    ];
    for (number, compression) in ["gzip", "zstd", "estargz", "uncompressed"].into_iter().enumerate() {
        let one = format!("type=oci,dest=one{number}.tar,compression={compression}");
        let docker = format!("type=docker,dest=docker{number}.tar,compression={compression}");
        let mut command = project.build_command(annotated);
        command.args(["-t", "schema:1", "-t", "other.example/schema:2", "-o", &one, "-o", &docker]);
        Ended::of(&mut command).ok();
        for name in [format!("one{number}.tar"), format!("docker{number}.tar")] {
            assert!(validate(&schemas, &layout_of_archive(&project.path(&name))) >= 4);
        }
        let tag = format!("schema:{compression}");
        let two = format!("type=oci,tar=false,dest=two,compression={compression}");
        let mut command = project.build_command(annotated);
        command.args(["--platform", "linux/amd64,linux/arm64/v8", "-t", &tag, "-o", &two]);
        Ended::of(&mut command).ok();
    }
    // Four images of two platforms, one after the other into the same layout.
    assert!(validate(&schemas, &layout_of_directory(&project.path("two"))) >= 2 + 4 * 5);
    Ended::of(&mut project.build_command(["--provenance", "-o", "type=oci,dest=attested.tar"])).ok();
    assert_eq!(validate(&schemas, &layout_of_archive(&project.path("attested.tar"))), 7);
    Ended::of(&mut project.build_command(["-t", "stored:1"])).ok();
    project.run(&["copy", "stored:1", "oci:copied:tag"]).ok();
    project.run(&["copy", "stored:1", "docker-archive:copied.tar"]).ok();
    assert_eq!(validate(&schemas, &layout_of_directory(&project.path("copied"))), 4);
    assert_eq!(validate(&schemas, &layout_of_archive(&project.path("copied.tar"))), 4);
    assert!(validate(&schemas, &layout_of_directory(&project.store())) >= 4);
}
