//! What is said of an image beside it: in indexes, beside files, through registries, and as a base.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::base::{Member, digest, tar};
use crate::image::{Layout, json_of, layout_of_archive};
use crate::project::{Ended, Project};
use crate::registry::Registry;
use crate::server::{Response, Server};

const V1: &str = "https://slsa.dev/provenance/v1";

fn simple() -> Project {
    Project::new().file("f", "content\n").buildfile("FROM scratch\nARG LEVEL\nCOPY f /dir/\n")
}

fn parsed(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("JSON")
}

/// A blob, checked against the descriptor that leads to it.
#[track_caller]
fn blob<'a>(layout: &'a Layout, descriptor: &Value) -> &'a [u8] {
    let name = descriptor["digest"].as_str().expect("digest");
    let bytes = &layout[&format!("blobs/sha256/{}", name.trim_start_matches("sha256:"))];
    assert_eq!((digest(bytes).as_str(), &descriptor["size"]), (name, &json!(bytes.len())));
    bytes
}

/// One image of an index and what is said of it.
struct Attested {
    /// The index' descriptor.
    index: Value,
    /// Descriptors of the image and of its attestations.
    image: Value,
    attestation: Value,
    manifest: Value,
    statements: Vec<Value>,
}

/// Reads a layout whose only image is an index of one platform.
#[track_caller]
fn attested(layout: &Layout) -> Attested {
    let outer = json_of(layout, "index.json");
    let index = outer["manifests"][0].clone();
    assert_eq!(index["mediaType"], "application/vnd.oci.image.index.v1+json", "{outer}");
    assert!(index["platform"].is_null(), "{index}");
    let entries = parsed(blob(layout, &index))["manifests"].as_array().expect("manifests").clone();
    let [image, attestation] = &entries[..] else { panic!("an image and its attestations: {entries:?}") };
    let manifest = parsed(blob(layout, attestation));
    let layers = manifest["layers"].as_array().expect("layers");
    let statements = layers.iter().map(|layer| {
        let statement = parsed(blob(layout, layer));
        assert_eq!(layer["mediaType"], "application/vnd.in-toto+json");
        assert_eq!(layer["annotations"]["in-toto.io/predicate-type"], statement["predicateType"]);
        assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
        statement
    });
    Attested {
        index,
        image: image.clone(),
        attestation: attestation.clone(),
        statements: statements.collect(),
        manifest: manifest.clone(),
    }
}

#[track_caller]
fn built(project: &Project, flags: &[&str]) -> Attested {
    let all = [&["-o", "type=oci,dest=attested.tar"], flags].concat();
    Ended::of(&mut project.build_command(all)).ok();
    attested(&layout_of_archive(&project.path("attested.tar")))
}

#[test]
fn an_attested_image_is_in_an_index_with_what_is_said_of_it() {
    let project = simple();
    let flags =
        ["-t", "example.com/a/b:c", "--provenance=mode=min", "--iidfile=id", "--metadata-file=m.json"];
    let found = built(&project, &flags);
    let id = fs::read_to_string(project.path("id")).expect("id");
    let metadata = parsed(&fs::read(project.path("m.json")).expect("metadata"));
    // There is an index now, so that is the id (as BuildKit has it).
    assert_eq!(found.index["digest"], id);
    assert_eq!(metadata["containerimage.digest"], id);
    assert!(metadata["containerimage.config.digest"].is_null(), "{metadata}");
    assert_eq!(found.attestation["platform"], json!({ "os": "unknown", "architecture": "unknown" }));
    assert_eq!(
        found.attestation["annotations"],
        json!({
            "vnd.docker.reference.digest": found.image["digest"],
            "vnd.docker.reference.type": "attestation-manifest",
        })
    );
    assert_eq!(found.manifest["config"]["mediaType"], "application/vnd.oci.image.config.v1+json");
    let [provenance] = &found.statements[..] else { panic!("{:?}", found.statements) };
    assert_eq!(provenance["predicateType"], V1);
    let manifest = found.image["digest"].as_str().expect("digest").trim_start_matches("sha256:");
    let platform = format!("linux%2F{}", crate::base::architecture());
    assert_eq!(
        provenance["subject"],
        json!([{
            "name": format!("pkg:docker/example.com/a/b@c?platform={platform}"),
            "digest": { "sha256": manifest },
        }])
    );
    assert_eq!(
        provenance["predicate"]["buildDefinition"]["externalParameters"]["configSource"]["path"],
        "Buildfile"
    );
    // Beside an image there is nothing in it: it is the one that is built without.
    let plain = project.build(&["-t", "example.com/a/b:c"]).image();
    assert_eq!(found.image["digest"], plain.digest);
}

#[test]
fn with_an_epoch_equal_builds_say_equal_things() {
    let digest = |flags: &[&str]| {
        let all = [&["--provenance", "-t", "x:1", "--build-arg", "LEVEL=3"], flags].concat();
        built(&simple(), &all)
    };
    let (one, two) = (digest(&["--source-date-epoch=7"]), digest(&["--source-date-epoch=7"]));
    assert_eq!(one.index["digest"], two.index["digest"]);
    let metadata = &one.statements[0]["predicate"]["runDetails"]["metadata"];
    assert_eq!(
        [&metadata["startedOn"], &metadata["finishedOn"], &metadata["invocationId"]],
        [&json!("1970-01-01T00:00:07Z"), &json!("1970-01-01T00:00:07Z"), &Value::Null]
    );
    let request = &one.statements[0]["predicate"]["buildDefinition"]["externalParameters"]["request"];
    assert_eq!(request["args"]["build-arg:LEVEL"], "3");
    // Without an epoch the build says when it was, and which one.
    let dated = digest(&[]);
    let metadata = &dated.statements[0]["predicate"]["runDetails"]["metadata"];
    assert!(
        metadata["invocationId"].is_string() && metadata["startedOn"] != "1970-01-01T00:00:07Z",
        "{metadata}"
    );
}

#[test]
fn as_an_artifact_the_attestations_name_their_image() {
    let project = simple();
    let flags = ["--attest", "type=provenance,version=v0.2,builder-id=https://ci.example.com/7"];
    let command = [&["-o", "type=oci,dest=a.tar,oci-artifact=true"], &flags[..]].concat();
    Ended::of(&mut project.build_command(command)).ok();
    let found = attested(&layout_of_archive(&project.path("a.tar")));
    assert_eq!(found.manifest["artifactType"], "application/vnd.docker.attestation.manifest.v1+json");
    assert_eq!(found.manifest["config"]["mediaType"], "application/vnd.oci.empty.v1+json");
    let of_image = |key: &str| (found.manifest["subject"][key].clone(), found.image[key].clone());
    for (stated, actual) in ["digest", "size", "mediaType"].map(of_image) {
        assert_eq!(stated, actual);
    }
    assert_eq!(found.statements[0]["predicateType"], "https://slsa.dev/provenance/v0.2");
    assert_eq!(found.statements[0]["predicate"]["builder"]["id"], "https://ci.example.com/7");
}

#[test]
fn each_platform_has_its_own() {
    let project = simple();
    let flags =
        ["--platform=linux/amd64,linux/arm64", "--provenance=mode=min", "-o", "type=oci,dest=two.tar"];
    Ended::of(&mut project.build_command([&flags[..], &["--metadata-file=m.json"]].concat())).ok();
    let layout = layout_of_archive(&project.path("two.tar"));
    let index = parsed(blob(&layout, &json_of(&layout, "index.json")["manifests"][0]));
    let entries = index["manifests"].as_array().expect("manifests");
    let platforms: Vec<&str> = entries
        .iter()
        .map(|entry| entry["platform"]["architecture"].as_str().expect("architecture"))
        .collect();
    assert_eq!(platforms, ["amd64", "arm64", "unknown", "unknown"]);
    for (image, attestation) in [(0, 2), (1, 3)] {
        let about = &entries[attestation]["annotations"]["vnd.docker.reference.digest"];
        assert_eq!(*about, entries[image]["digest"]);
    }
    let metadata = parsed(&fs::read(project.path("m.json")).expect("metadata"));
    for platform in ["linux/amd64", "linux/arm64"] {
        assert!(metadata[format!("buildx.build.provenance/{platform}")].is_object(), "{metadata}");
    }
    // Beside files, a directory for each platform; in one directory, names with the platform.
    let of_files = |output: &str| {
        let flags = ["--platform=linux/amd64,linux/arm64", "--provenance", "-o", output];
        Ended::of(&mut project.build_command(flags)).ok();
    };
    of_files("type=local,dest=split");
    of_files("type=local,dest=joined,platform-split=false,attestation-prefix=of-");
    for path in ["split/linux_amd64/provenance.json", "joined/of-provenance.linux_arm64.json"] {
        assert!(project.path(path).is_file(), "{path}");
    }
}

fn packages(statement: &Value) -> Vec<String> {
    assert_eq!(statement["predicateType"], "https://spdx.dev/Document");
    let document = &statement["predicate"];
    assert_eq!(
        (&document["spdxVersion"], &document["SPDXID"]),
        (&json!("SPDX-2.3"), &json!("SPDXRef-DOCUMENT"))
    );
    let packages = document["packages"].as_array().expect("packages").iter();
    packages
        .filter_map(|package| package["externalRefs"][0]["referenceLocator"].as_str().map(str::to_owned))
        .collect()
}

/// What a distribution and two languages leave in an image.
fn with_packages() -> Project {
    Project::new()
        .file("usr/lib/os-release", "ID=debian\nVERSION_ID=\"12\"\n")
        .file(
            "var/lib/dpkg/status",
            "Package: zlib1g\nStatus: install ok installed\nVersion: 1:1.2-3\nArchitecture: amd64\n\n",
        )
        .file(
            "usr/lib/python3/dist-packages/Foo-1.dist-info/METADATA",
            "Name: Foo\nVersion: 1\nLicense: MIT\n\n",
        )
        .file("srv/node_modules/left-pad/package.json", r#"{"name":"left-pad","version":"1.3.0"}"#)
        .buildfile(
            "FROM scratch\nCOPY usr /usr\nCOPY var /var\nCOPY srv /srv\nCOPY gone /srv/node_modules/gone\n",
        )
        .file("gone/package.json", r#"{"name":"gone","version":"1"}"#)
}

const FOUND: [&str; 3] =
    ["pkg:deb/debian/zlib1g@1:1.2-3?arch=amd64&distro=debian-12", "pkg:npm/left-pad@1.3.0", "pkg:pypi/foo@1"];

#[test]
fn packages_of_the_final_files_are_listed() {
    let project = with_packages();
    // What a later layer takes away is not in the image.
    project.write("empty", "");
    project.write(
        "Buildfile",
        "FROM scratch\nCOPY usr /usr\nCOPY var /var\nCOPY srv /srv\nCOPY gone/package.json /srv/node_modules/gone/\n\
         COPY empty /srv/node_modules/gone/package.json\n",
    );
    let found = built(&project, &["--sbom", "--provenance=mode=min", "-t", "x:1"]);
    let kinds: Vec<&Value> = found.statements.iter().map(|statement| &statement["predicateType"]).collect();
    assert_eq!(kinds, [V1, "https://spdx.dev/Document"]);
    let list = &found.statements[1];
    assert_eq!(packages(list), FOUND);
    assert_eq!(list["subject"], found.statements[0]["subject"]);
    // The times of cached steps are those of the image, so that the list is the same again.
    let again = built(&project, &["--attest=type=sbom", "-t", "x:1"]);
    assert_eq!(again.statements[0], *list);
    let printed = || {
        Ended::of(&mut project.build_command(["--sbom", "-t", "kept:1"])).ok();
        project.run(&["inspect", "--sbom", "kept:1"]).ok().stdout
    };
    assert_eq!(packages(&parsed(printed().as_bytes())), FOUND);

    Ended::of(&mut project.build_command([
        "--sbom",
        "--source-date-epoch=7",
        "-o",
        "out",
        "-o",
        "type=tar,dest=o.tar",
    ]))
    .ok();
    let beside = parsed(&fs::read(project.path("out/sbom.spdx.json")).expect("list"));
    assert_eq!(packages(&beside), FOUND);
    assert_eq!(beside["predicate"]["creationInfo"]["created"], "1970-01-01T00:00:07Z");
    assert_eq!(parsed(&layout_of_archive(&project.path("o.tar"))["sbom.spdx.json"]), beside);
}

#[test]
fn equal_files_are_equal_lists_in_another_store() {
    let list =
        || built(&with_packages(), &["--sbom", "--source-date-epoch=7", "-t", "x:1"]).index["digest"].clone();
    assert_eq!(list(), list());
}

#[test]
fn a_hostile_image_is_listed_as_far_as_it_can_be_read() {
    let project = Project::new();
    let outside = project.path("outside");
    fs::write(&outside, "Package: outside\nVersion: 1\n").expect("file");
    let project = project
        .file("usr/lib/sysimage/rpm/rpmdb.sqlite", "SQLite format 3\0 and nothing of the kind")
        .file("usr/lib/os-release", "ID=a\nID=\"b\nVERSION_ID=\u{1b}[31m\n")
        .file("var/lib/dpkg/status.d/none", ":\n\n\n")
        .symlink("var/lib/dpkg/status", &outside.display().to_string())
        .buildfile("FROM scratch\nCOPY usr /usr\nCOPY var /var\n");
    let ended = Ended::of(&mut project.build_command(["--sbom", "-o", "type=oci,dest=attested.tar"])).ok();
    assert!(ended.stderr.contains("the list of packages is not complete"), "{}", ended.stderr);
    let found = attested(&layout_of_archive(&project.path("attested.tar")));
    assert_eq!(packages(&found.statements[0]), Vec::<String>::new());
    let comment = &found.statements[0]["predicate"]["creationInfo"]["comment"];
    assert!(
        comment.as_str().is_some_and(|text| text.contains("rpmdb.sqlite") && !text.contains("outside")),
        "{comment}"
    );
}

fn subjects(statement: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let all = statement["subject"].as_array().expect("subjects").iter();
    all.map(|subject| (text(&subject["name"]), text(&subject["digest"]["sha256"]))).collect()
}

#[test]
fn beside_files_every_file_is_a_subject() {
    let project = simple();
    let flags = ["--provenance=filename=made.json", "-o", "out", "-o", "type=tar,dest=out.tar"];
    Ended::of(&mut project.build_command(flags)).ok();
    let said = parsed(&fs::read(project.path("out/made.json")).expect("statement"));
    let sum = digest(b"content\n").trim_start_matches("sha256:").to_owned();
    assert_eq!(subjects(&said), [("dir/f".to_owned(), sum)]);
    let archive = layout_of_archive(&project.path("out.tar"));
    let said = parsed(&archive["made.json"]);
    assert_eq!((subjects(&said).len(), &said["predicateType"]), (1, &json!(V1)));
    let inline = ["--provenance=inline-only=true", "-o", "inline"];
    Ended::of(&mut project.build_command(inline)).ok();
    assert!(!project.path("inline/provenance.json").exists());
}

#[test]
fn a_link_in_the_image_does_not_lead_the_attestation_away() {
    let project = Project::new().file("d/x", "x");
    let victim = project.path("victim");
    fs::write(&victim, "mine").expect("victim");
    let target = victim.display().to_string();
    let project = project.symlink("d/provenance.json", &target).buildfile("FROM scratch\nCOPY d /\n");
    Ended::of(&mut project.build_command(["--provenance", "-o", "out"])).ok();
    assert_eq!(fs::read_to_string(&victim).expect("victim"), "mine");
    let said = project.path("out/provenance.json");
    assert!(fs::symlink_metadata(&said).expect("statement").is_file());
    assert_eq!(parsed(&fs::read(&said).expect("statement"))["predicateType"], V1);
}

#[test]
fn docker_has_no_place_for_attestations() {
    let project = simple();
    let archive =
        Ended::of(&mut project.build_command(["--provenance", "-o", "type=docker,dest=d.tar"])).ok();
    assert!(archive.stderr.contains("no place for attestations"), "{}", archive.stderr);
    let layout = layout_of_archive(&project.path("d.tar"));
    let kind = &json_of(&layout, "index.json")["manifests"][0]["mediaType"];
    assert_eq!(*kind, "application/vnd.oci.image.manifest.v1+json");
    let refused = |flags: &[&str], part: &str| {
        let all = [&["-o", "type=oci,dest=x.tar"], flags].concat();
        Ended::of(&mut project.build_command(all)).fails(2, &[part]);
    };
    refused(&["--provenance", "--format=docker"], "no place for attestations");
    refused(&["--attest", "type=sbom,generator=a/b"], "runs no scanner image");
    refused(&["--sbom", "--format=docker"], "no place for attestations");
    refused(&["--provenance=mode=mid"], "mode=min or mode=max");
    // What is not wanted is in nobody's way.
    let unwanted = ["--provenance=false", "--format=docker", "-o", "type=oci,dest=x.tar"];
    Ended::of(&mut project.build_command(unwanted)).ok();
}

#[test]
fn metadata_says_how_the_image_was_made() {
    let project = simple();
    let metadata = |mode: &str| {
        let mut command = project.build_command(["--metadata-file=m.json", "--build-arg", "LEVEL=3"]);
        Ended::of(command.env("BUILDX_METADATA_PROVENANCE", mode)).ok();
        parsed(&fs::read(project.path("m.json")).expect("metadata"))["buildx.build.provenance"].clone()
    };
    let min = metadata("");
    assert_eq!(min["buildType"], "https://mobyproject.org/buildkit@v1");
    assert!(min["metadata"].is_null() && min["invocation"]["parameters"]["args"].is_null(), "{min}");
    let max = metadata("max");
    assert_eq!(max["invocation"]["parameters"]["args"]["build-arg:LEVEL"], "3");
    assert!(max["buildConfig"]["steps"].is_array(), "{max}");
    assert_eq!((metadata("disabled"), metadata("false")), (Value::Null, Value::Null));
}

#[test]
fn secrets_are_told_by_their_ids() {
    let Some(project) = Project::with_base() else { return };
    let project = project
        .file("f", "x")
        .buildfile("FROM base\nRUN --mount=type=secret,id=token,required=true cat /run/secrets/token > /seen\nCOPY f /\n");
    fs::write(project.path("value"), "hush-hush").expect("secret");
    let secret = format!("id=token,src={}", project.path("value").display());
    let found = built(&project, &["--provenance=mode=max", "--secret", &secret]);
    let text = found.statements[0].to_string();
    let predicate = &found.statements[0]["predicate"];
    assert_eq!(
        predicate["buildDefinition"]["externalParameters"]["request"]["secrets"],
        json!([{ "id": "token" }])
    );
    let base = &predicate["buildDefinition"]["resolvedDependencies"][0];
    assert!(
        base["uri"].as_str().is_some_and(|uri| uri.starts_with("pkg:oci/base?platform=linux%2F")),
        "{base}"
    );
    assert_eq!(base["digest"]["sha256"].as_str().map(str::len), Some(64));
    let here = project.path("").display().to_string();
    for word in ["hush-hush", here.trim_end_matches('/')] {
        assert!(!text.contains(word), "{word}: {text}");
    }
}

#[test]
fn a_context_from_the_network_is_the_source() {
    let archive =
        tar(&[Member::File("Buildfile", 0o644, b"FROM scratch\nCOPY f /\n"), Member::File("f", 0o644, b"x")]);
    let sum = digest(&archive).trim_start_matches("sha256:").to_owned();
    let server = Server::start(move |_| Response::new(200, archive.clone()));
    let project = Project::new();
    let url = format!("http://me:hush@{}/c.tar", server.address);
    project.run(&["build", "--provenance", "-t", "remote:1", &url]).ok();
    let said = parsed(project.run(&["inspect", "--provenance", "remote:1"]).ok().stdout.as_bytes());
    let definition = &said["predicate"]["buildDefinition"];
    let source = json!({ "uri": format!("http://{}/c.tar", server.address), "digest": { "sha256": sum } });
    assert_eq!(definition["resolvedDependencies"], json!([source]));
    let stated = &definition["externalParameters"]["configSource"];
    assert_eq!([&stated["uri"], &stated["digest"]], [&source["uri"], &source["digest"]]);
    assert_eq!(
        said["predicate"]["runDetails"]["metadata"]["buildkit_completeness"]["resolvedDependencies"],
        true
    );
    assert!(!said.to_string().contains("hush"), "{said}");
}

#[test]
fn an_attested_image_goes_through_a_registry_and_serves_as_a_base() {
    let (project, registry) = (simple(), Registry::start());
    let name = format!("{}/team/app:1", registry.host());
    Ended::of(&mut project.build_command(["--provenance=mode=min", "--push", "-t", &name])).ok();
    let digest_of =
        |digest: &str| parsed(project.run(&["inspect", "--format=json", digest]).ok().stdout.as_bytes());
    let pushed = digest_of(&format!("docker://{name}"));
    assert_eq!(pushed["attestations"][0]["predicateType"], V1);
    assert_eq!(pushed["platforms"].as_array().map(Vec::len), Some(1), "{pushed}");
    let text = project.run(&["inspect", &format!("docker://{name}")]).ok();
    assert!(text.stdout.contains(&format!("attestation  {V1}")), "{}", text.stdout);
    let said = project.run(&["inspect", "--provenance", &format!("docker://{name}")]).ok();
    assert_eq!(parsed(said.stdout.as_bytes())["predicateType"], V1);

    // Everything of it goes where it goes, with the same digest.
    let other = Project::new();
    let copied = other.path("layout").display().to_string();
    other.run(&["copy", &format!("docker://{name}"), &format!("oci:{copied}:1")]).ok();
    let layout = crate::image::layout_of_directory(Path::new(&copied));
    let found = attested(&layout);
    assert_eq!(found.index["digest"], pushed["digest"]);
    assert_eq!(found.statements[0]["predicateType"], V1);
    other.run(&["pull", "--all-platforms", &name]).ok();
    let second = format!("{}/team/copy:2", registry.host());
    other.run(&["push", &name, &second]).ok();
    let arrived = parsed(
        other.run(&["inspect", "--format=json", &format!("docker://{second}")]).ok().stdout.as_bytes(),
    );
    assert_eq!((&arrived["digest"], &arrived["attestations"]), (&pushed["digest"], &pushed["attestations"]));

    // Neither as a base from the store or a registry, nor for a list of files, does anybody take the attestation for it.
    for project in [&other, &Project::new()] {
        project.write("Buildfile", format!("FROM {name}\nLABEL a=b\n"));
        let image = project.build(&[]).image();
        assert_eq!(image.text("dir/f"), "content\n");
    }
    let listed = other.run(&["ls", &name, "/dir"]).ok();
    assert!(listed.stdout.contains('f'), "{}", listed.stdout);
    other.run(&["fsck"]).ok();

    let plain = format!("{}/team/plain:1", registry.host());
    Ended::of(&mut project.build_command(["--push", "-t", &plain])).ok();
    project
        .run(&["inspect", "--provenance", &format!("docker://{plain}")])
        .fails(1, &["build it with --provenance"]);
}
