//! Contexts: where a build's files come from, and what named contexts stand for.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use crate::base::{self, Member, gzip, tar};
use crate::project::{Ended, Project};
use crate::server::{Response, Server};

const COPY_F: &str = "FROM scratch\nCOPY f /\n";

fn archive() -> Vec<u8> {
    tar(&[Member::File("Buildfile", 0o644, COPY_F.as_bytes()), Member::File("f", 0o640, b"packed\n")])
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
    encoder.write_all(bytes).expect("xz");
    encoder.finish().expect("xz end")
}

/// Builds with something on standard input.
fn piped(project: &Project, args: &[&str], input: &[u8]) -> Ended {
    let mut command =
        project.kiln([&["build", "--progress=plain", "-o", "type=oci,dest=out.tar"], args].concat());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("kiln starts");
    let mut stdin = child.stdin.take().expect("pipe");
    // A kiln that refuses the rest closes the pipe.
    let _ = stdin.write_all(input);
    drop(stdin);
    Ended::from_output(child.wait_with_output().expect("kiln ends"))
}

fn image(project: &Project) -> crate::image::Image {
    crate::image::Image::read_archive(&project.path("out.tar"))
}

#[test]
fn an_archive_on_standard_input_is_the_context() {
    for packed in [archive(), gzip(&archive()), xz(&archive())] {
        let project = Project::new();
        piped(&project, &["-"], &packed).ok();
        assert_eq!(image(&project).text("f"), "packed\n");
        assert_eq!(image(&project).entry("f").mode, 0o640);
    }
}

#[test]
fn anything_else_on_standard_input_is_the_buildfile() {
    let project = Project::new().file("f", "of the directory\n");
    piped(&project, &["-"], b"FROM scratch\nLABEL a=1\n").ok();
    assert_eq!(image(&project).settings()["Labels"]["a"], "1");
    piped(&project, &["-"], COPY_F.as_bytes()).fails(1, &["f"]);
    // Beside a directory, too.
    piped(&project, &["-f", "-", "context"], COPY_F.as_bytes()).ok();
    assert_eq!(image(&project).text("f"), "of the directory\n");
    piped(&project, &["-f", "-", "-"], b"").fails(2, &["standard input"]);
}

#[test]
fn hostile_archives_of_a_context_write_nothing_outside() {
    let project = Project::new();
    let outside = project.path("outside");
    fs::create_dir(&outside).expect("directory");
    let target = outside.display().to_string();
    let through_link = tar(&[
        Member::File("Buildfile", 0o644, b"FROM scratch\nCOPY . /\n"),
        Member::Symlink("out", &target),
        Member::File("out/written", 0o644, b"x"),
    ]);
    let mut truncated = archive();
    truncated.truncate(900);
    let mut up = archive();
    // `f`, at 1024, becomes `../../../outside/x`, with a checksum that holds.
    let name = b"../../../../../../outside/x";
    up[1024..1024 + name.len()].copy_from_slice(name);
    up[1024 + 148..1024 + 156].fill(b' ');
    let sum: u32 = up[1024..1536].iter().map(|b| u32::from(*b)).sum();
    up[1024 + 148..1024 + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    for bytes in [through_link, truncated, up] {
        let ended = piped(&project, &["-"], &bytes);
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
        assert_eq!(fs::read_dir(&outside).expect("outside").count(), 0, "written on the host");
    }
    let left = fs::read_dir(project.store().join("tmp")).expect("tmp").count();
    assert_eq!(left, 0, "nothing is left of refused contexts");
}

#[test]
fn a_url_is_an_archive_or_a_buildfile() {
    let server = Server::start(|request| match request.path.as_str() {
        "/context.tgz" => Response::new(200, gzip(&archive())),
        "/Buildfile" => Response::new(200, "FROM scratch\nLABEL from=url\n"),
        _ => Response::new(404, "gone"),
    });
    let project = Project::new();
    let url = |name: &str| format!("http://{}/{name}", server.address);
    piped(&project, &[&url("context.tgz")], b"").ok();
    assert_eq!(image(&project).text("f"), "packed\n");
    piped(&project, &[&url("Buildfile")], b"").ok();
    assert_eq!(image(&project).settings()["Labels"]["from"], "url");
    piped(&project, &[&url("missing")], b"").fails(1, &["404", "missing"]);
}

#[test]
fn a_named_directory_has_its_own_ignore_file() {
    let project = Project::new()
        .file("keep", "main")
        .file(".dockerignore", "only-main\n")
        .file("only-main", "")
        .buildfile("FROM scratch\nCOPY . /main/\nCOPY --from=more . /more/\n");
    fs::create_dir(project.path("more")).expect("directory");
    for (name, text) in [("only-main", "x"), ("secret", "x"), (".dockerignore", "secret\n")] {
        fs::write(project.path("more").join(name), text).expect("file");
    }
    let image = project.build(&["--build-context", "more=more"]).image();
    assert!(image.has("main/keep") && !image.has("main/only-main"));
    assert!(image.has("more/only-main") && !image.has("more/secret"));
}

#[test]
fn a_named_url_is_a_file_or_an_archive() {
    let server = Server::start(|_| Response::new(200, "remote\n"));
    let project = Project::new().buildfile("FROM scratch\nCOPY --from=remote / /got/\n");
    let context = format!("remote=http://{}/file.txt", server.address);
    let image = project.build(&["--build-context", &context]).image();
    assert!(image.files.iter().any(|(name, entry)| name.starts_with("got/") && entry.data == b"remote\n"));
}

#[test]
fn a_named_image_of_a_registry_and_scratch_stand_in() {
    let Ok(busybox) = base::busybox() else { return crate::project::skipped("there is no static busybox") };
    let server = Server::registry(busybox);
    let project =
        Project::new().buildfile("FROM golang:1.22 AS a\nRUN echo 1 > /f\nFROM empty\nCOPY --from=a /f /\n");
    let golang = format!("golang:1.22=docker-image://{}/x/y:1", server.address);
    let flags = ["--build-context", &golang, "--build-context", "empty=docker-image://scratch"];
    let image = project.build(&flags).image();
    assert_eq!((image.text("f"), image.layers.len()), ("1\n".to_owned(), 1));
}

/// Two images under two tags in one layout.
fn layout_of_two() -> (Project, Vec<String>) {
    let project = Project::new();
    let mut digests = Vec::new();
    for tag in ["one", "two"] {
        project.write("Buildfile", format!("FROM scratch\nLABEL which={tag}\n"));
        let output = "type=oci,tar=false,dest=layout";
        let mut command =
            project.build_command(["-t", &format!("x:{tag}"), "-o", output, "--metadata-file=m.json"]);
        Ended::of(&mut command).ok();
        let metadata: serde_json::Value =
            serde_json::from_slice(&fs::read(project.path("m.json")).expect("metadata")).expect("JSON");
        digests.push(metadata["containerimage.digest"].as_str().expect("digest").to_owned());
    }
    project.write("Buildfile", "FROM base\nLABEL done=1\n");
    (project, digests)
}

#[test]
fn a_layout_is_named_with_a_tag_or_a_digest() {
    let (project, digests) = layout_of_two();
    let which = |suffix: &str| {
        let context = format!("base=oci-layout://layout{suffix}");
        project.build(&["--build-context", &context]).image().settings()["Labels"]["which"].clone()
    };
    assert_eq!(which(":one"), "one");
    assert_eq!(which(":two"), "two");
    assert_eq!(which(&format!("@{}", digests[0])), "one");
    assert_eq!(which(&format!(":two@{}", digests[1])), "two");
    let missing = project.build(&["--build-context", "base=oci-layout://layout:three"]);
    missing.fails(1, &["three", "`one`", "`two`"]);
}

/// The archive that BuildKit writes with its default attestations: an index of the image and of what says how it was made,
/// for no platform, beside docker's list (buildkit exporter/containerimage, exporter/oci).
#[test]
fn an_archive_of_buildkit_is_a_base() {
    let mut image =
        base::image(&tar(&[Member::File("a", 0o644, b"from buildkit")]), serde_json::json!({ "User": "7" }));
    let put = |blobs: &mut std::collections::BTreeMap<String, Vec<u8>>, bytes: Vec<u8>| {
        let (name, size) = (base::digest(&bytes), bytes.len());
        blobs.insert(name.clone(), bytes);
        (name, size)
    };
    let manifest_size = image.blobs[&image.manifest].len();
    let (statement, statement_size) =
        put(&mut image.blobs, br#"{"_type":"https://in-toto.io/Statement/v0.1"}"#.to_vec());
    let (config, config_size) = put(
        &mut image.blobs,
        br#"{"architecture":"unknown","os":"unknown","rootfs":{"type":"layers","diff_ids":[]}}"#.to_vec(),
    );
    let attestation = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": image.media_type,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size },
        "layers": [{
            "mediaType": "application/vnd.in-toto+json", "digest": statement, "size": statement_size,
            "annotations": { "in-toto.io/predicate-type": "https://slsa.dev/provenance/v0.2" },
        }],
    });
    let (attestation, attestation_size) = put(&mut image.blobs, attestation.to_string().into_bytes());
    let kind = "application/vnd.oci.image.index.v1+json";
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": kind,
        "manifests": [
            {
                "mediaType": image.media_type, "digest": attestation, "size": attestation_size,
                "platform": { "architecture": "unknown", "os": "unknown" },
                "annotations": {
                    "vnd.docker.reference.digest": image.manifest, "vnd.docker.reference.type": "attestation-manifest",
                },
            },
            {
                "mediaType": image.media_type, "digest": image.manifest, "size": manifest_size,
                "platform": { "architecture": base::architecture(), "os": "linux" },
            },
        ],
    });
    let (index, index_size) = put(&mut image.blobs, index.to_string().into_bytes());
    let outer = serde_json::json!({
        "schemaVersion": 2, "mediaType": kind,
        "manifests": [{
            "mediaType": kind, "digest": index, "size": index_size,
            "annotations": {
                "io.containerd.image.name": "docker.io/library/bk:1", "org.opencontainers.image.created": "2026-01-01T00:00:00Z",
                "org.opencontainers.image.ref.name": "1",
            },
        }],
    })
    .to_string();
    let names: Vec<String> =
        image.blobs.keys().map(|digest| format!("blobs/sha256/{}", &digest["sha256:".len()..])).collect();
    let blobs = names.iter().zip(image.blobs.values()).map(|(name, bytes)| Member::File(name, 0o444, bytes));
    let rest = [
        Member::File("index.json", 0o644, outer.as_bytes()),
        Member::File("manifest.json", 0o644, b"[]"),
        Member::File("oci-layout", 0o444, br#"{"imageLayoutVersion":"1.0.0"}"#),
    ];
    let directories = [Member::Directory("blobs/", 0o755), Member::Directory("blobs/sha256/", 0o755)];
    let members: Vec<_> = directories.into_iter().chain(blobs).chain(rest).collect();
    let project = Project::new().buildfile("FROM bk\nLABEL mine=1\n");
    fs::write(project.path("bk.tar"), tar(&members)).expect("archive");
    for suffix in ["", ":1", &format!("@{index}")] {
        let built = project.build(&["--build-context", &format!("bk=oci-layout://bk.tar{suffix}")]).image();
        assert_eq!(built.text("a"), "from buildkit", "{suffix}");
        assert_eq!(
            (&built.settings()["User"], &built.settings()["Labels"]["mine"]),
            (&"7".into(), &"1".into())
        );
    }
    // Moved as a whole, with what was said of it.
    let copied = project.run(&["copy", "oci-archive:bk.tar:1", "oci:copied:1"]).ok();
    assert_eq!(copied.stdout.trim(), index);
    assert!(project.path(&format!("copied/blobs/sha256/{}", &statement["sha256:".len()..])).is_file());
}

#[test]
fn a_context_for_one_platform_wins_on_that_platform() {
    let (project, _) = layout_of_two();
    let flags = [
        "--build-context=base=oci-layout://layout:one",
        "--build-context=base::linux/arm64=oci-layout://layout:two",
    ];
    for (platform, expected) in [("linux/amd64", "one"), ("linux/arm64", "two")] {
        let flags = [&flags[..], &["--platform", platform]].concat();
        let image = project.build(&flags).image();
        assert_eq!(image.settings()["Labels"]["which"], expected, "{platform}");
    }
}

#[test]
fn a_url_that_did_not_change_is_not_fetched_again() {
    let server = Server::start(|request| {
        if request.header("if-none-match") == Some("\"tag\"") {
            return Response::new(304, "").header("etag", "\"tag\"");
        }
        Response::new(200, "body\n").header("etag", "\"tag\"")
    });
    let project = Project::new().buildfile(&format!("FROM scratch\nADD http://{}/f /f\n", server.address));
    assert_eq!(project.build(&[]).image().text("f"), "body\n");
    assert_eq!(project.build(&[]).image().text("f"), "body\n");
    // A build that runs every step anew asks, and takes what it has.
    assert_eq!(project.build(&["--no-cache"]).image().text("f"), "body\n");
    let full = |r: &&crate::server::Request| r.method == "GET" && r.header("if-none-match").is_none();
    let requests = server.requests();
    assert_eq!(requests.iter().filter(full).count(), 1, "{requests:?}");
    assert!(requests.len() > 1, "nobody asked whether it changed");
}
