//! Outputs: archives, directories, file systems, the store.

use std::fs;
use std::io::Read as _;

use crate::image::{Image, json_of, layout_of_archive, layout_of_directory};
use crate::project::{Ended, Project, tree};

fn simple() -> Project {
    Project::new().file("f", "content\n").buildfile("FROM scratch\nCOPY f /dir/\nCMD [\"x\"]\n")
}

/// Builds with one output.
fn output(project: &Project, flags: &[&str], output: &str) -> Ended {
    Ended::of(project.build_command(flags).args(["-o", output])).ok()
}

#[test]
fn an_image_in_dockers_words() {
    let project = Project::new().file("f", "x").buildfile("FROM scratch\nCOPY f /\n");
    let types = |built: &crate::project::Built| {
        let image = built.image();
        let kinds = [&image.manifest["mediaType"], &image.manifest["config"]["mediaType"]];
        kinds.map(|kind| kind.as_str().expect("media type").contains("docker"))
    };
    assert_eq!(types(&project.build(&["--format=docker"])), [true, true]);
    assert_eq!(types(&project.build(&[])), [false, false]);
    let from_variable = |flags: &[&str]| {
        project.build_with(flags, |command| {
            command.env("BUILDAH_FORMAT", "docker");
        })
    };
    assert_eq!(types(&from_variable(&[])), [true, true]);
    assert_eq!(types(&from_variable(&["--format=oci"])), [false, false]);
}

#[test]
fn progress_goes_to_a_file_as_well() {
    let project = Project::new().file("f", "x").buildfile("FROM scratch\nCOPY f /\n");
    project.run(&["build", "-q", "--logfile", "build.log", "context"]).ok();
    let log = std::fs::read_to_string(project.path("build.log")).expect("log");
    assert!(log.contains("] COPY f /") && log.contains("DONE"), "{log}");
    project.run(&["build", "--logfile", "none/build.log", "context"]).fails(2, &["none/build.log"]);
}

#[test]
fn an_archive_is_sorted_and_holds_nothing_of_this_machine() {
    let project = simple();
    let built = project.build(&["-t", "example.com/a/b:c"]);
    let image = built.image();
    assert_eq!(image.annotations["org.opencontainers.image.ref.name"], "c");
    assert_eq!(image.annotations["io.containerd.image.name"], "example.com/a/b:c");
    let file = fs::File::open(&built.archive).expect("archive");
    let mut names = Vec::new();
    for entry in tar::Archive::new(file).entries().expect("tar") {
        let entry = entry.expect("entry");
        let header = entry.header();
        assert_eq!(
            (header.uid().expect("uid"), header.gid().expect("gid"), header.mtime().expect("time")),
            (0, 0, 0)
        );
        assert!(header.username().expect("name").unwrap_or_default().is_empty());
        names.push(entry.path().expect("path").display().to_string());
    }
    let mut sorted = names.clone();
    sorted.sort();
    assert_eq!(names, sorted);
}

#[test]
fn an_archive_to_standard_output() {
    let project = simple();
    let mut command = project.build_command(["-o", "type=oci,dest=-"]);
    let done = command.output().expect("kiln runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    fs::write(project.path("piped.tar"), done.stdout).expect("file");
    assert_eq!(Image::read_archive(&project.path("piped.tar")).text("dir/f"), "content\n");
}

#[test]
fn a_layout_directory_is_appended_to() {
    let project = simple();
    output(&project, &["-t", "x:one"], "type=oci,tar=false,dest=layout");
    project.write("f", "other\n");
    output(&project, &["-t", "x:two"], "type=oci,tar=false,dest=layout");
    let layout = layout_of_directory(&project.path("layout"));
    let index = json_of(&layout, "index.json");
    let images = index["manifests"].as_array().expect("manifests");
    assert_eq!(images.len(), 2, "{index}");
    let texts: Vec<String> = images.iter().map(|d| Image::read(&layout, d).text("dir/f")).collect();
    assert_eq!(texts, ["content\n", "other\n"]);
    // The same name again replaces its image.
    output(&project, &["-t", "x:one"], "type=oci,tar=false,dest=layout");
    let layout = layout_of_directory(&project.path("layout"));
    let index = json_of(&layout, "index.json");
    let images = index["manifests"].as_array().expect("manifests");
    assert_eq!(images.len(), 2, "{index}");
    assert!(images.iter().all(|d| Image::read(&layout, d).text("dir/f") == "other\n"));
}

#[test]
fn a_directory_that_is_no_layout_is_left_alone() {
    let project = simple();
    fs::create_dir(project.path("mine")).expect("directory");
    fs::write(project.path("mine/precious"), "x").expect("file");
    let mut command = project.build_command(["-o", "type=oci,tar=false,dest=mine"]);
    Ended::of(&mut command).fails(1, &["mine"]);
    assert_eq!(tree(&project.path("mine")), ["precious"]);
}

#[test]
fn files_as_a_directory_and_as_a_tar() {
    let project = simple();
    output(&project, &[], "type=local,dest=files");
    assert_eq!(tree(&project.path("files")), ["dir", "dir/f"]);
    output(&project, &[], "short");
    assert_eq!(tree(&project.path("short")), ["dir", "dir/f"]);
    output(&project, &[], "type=tar,dest=files.tar");
    let file = fs::File::open(project.path("files.tar")).expect("tar");
    let mut found = Vec::new();
    for entry in tar::Archive::new(file).entries().expect("tar") {
        let mut entry = entry.expect("entry");
        let mut text = String::new();
        entry.read_to_string(&mut text).expect("data");
        found.push((entry.path().expect("path").display().to_string(), text));
    }
    assert!(found.contains(&("dir/f".to_owned(), "content\n".to_owned())), "{found:?}");
}

#[test]
fn several_outputs_of_one_build() {
    let project = simple();
    let built = project.build(&["-o", "type=local,dest=files", "-o", "type=image,name=kept:1"]);
    assert_eq!(built.image().text("dir/f"), "content\n");
    assert!(project.path("files/dir/f").exists());
    assert!(project.run(&["images"]).ok().stdout.contains("kept:1"));
}

#[test]
fn the_store_lists_and_forgets_images() {
    let project = simple();
    assert_eq!(project.run(&["images", "-q"]).ok().stdout, "");
    assert!(!project.store().exists(), "looking made a store");
    Ended::of(&mut project.build_command(["-t", "one:1", "-t", "example.com/two"])).ok();
    let list = project.run(&["images"]).ok().stdout;
    assert!(list.contains("one:1") && list.contains("example.com/two"), "{list}");
    let json: serde_json::Value =
        serde_json::from_str(&project.run(&["images", "--json"]).ok().stdout).expect("JSON");
    assert_eq!(json.as_array().map(Vec::len), Some(2));
    // The store's image part is a layout of its own.
    let layout = layout_of_directory(&project.store());
    let index = json_of(&layout, "index.json");
    assert_eq!(index["manifests"].as_array().map(Vec::len), Some(2));
    assert_eq!(Image::read(&layout, &index["manifests"][0]).text("dir/f"), "content\n");
    project.run(&["rmi", "one:1"]).ok();
    let list = project.run(&["images"]).ok().stdout;
    assert!(!list.contains("one:1") && list.contains("example.com/two"), "{list}");
    project.run(&["rmi", "one:1"]).fails(1, &["one:1", "kiln images"]);
    project.run(&["rmi", "--force", "one:1"]).ok();
}

#[test]
fn a_docker_archive_names_config_layers_and_tags() {
    let project = simple();
    output(&project, &["-t", "named:tag"], "type=docker,dest=docker.tar,name=more:1");
    let layout = layout_of_archive(&project.path("docker.tar"));
    let manifest = json_of(&layout, "manifest.json");
    let image = &manifest[0];
    let tags = image["RepoTags"].to_string();
    assert!(tags.contains("named:tag") && tags.contains("more:1"), "{manifest}");
    let config = image["Config"].as_str().expect("Config");
    assert_eq!(json_of(&layout, config)["config"]["Cmd"][0], "x");
    let layers = image["Layers"].as_array().expect("Layers");
    assert_eq!(layers.len(), 1);
    assert!(layout.contains_key(layers[0].as_str().expect("path")));
}

#[test]
fn compression_is_as_asked_and_does_not_change_the_files() {
    let project = simple();
    let mut diff_ids = Vec::new();
    for (kind, suffix) in [("uncompressed", "tar"), ("gzip", "gzip"), ("zstd", "zstd")] {
        let dest = format!("{kind}.tar");
        output(&project, &[], &format!("type=oci,dest={dest},compression={kind}"));
        let image = Image::read_archive(&project.path(&dest));
        assert!(image.layers[0].media_type.ends_with(suffix), "{}", image.layers[0].media_type);
        diff_ids.push(image.config["rootfs"]["diff_ids"].clone());
    }
    assert_eq!(diff_ids[0], diff_ids[1]);
    assert_eq!(diff_ids[1], diff_ids[2]);
}

#[test]
fn labels_and_annotations_of_the_command_line() {
    let project = simple();
    let image = project.build(&["--label", "a=1", "--annotation", "b=2"]).image();
    assert_eq!(image.settings()["Labels"]["a"], "1");
    assert_eq!(image.manifest["annotations"]["b"], "2");
}

#[test]
fn an_output_that_cannot_be_written_is_named() {
    let project = simple();
    fs::write(project.path("file"), "").expect("file");
    let mut command = project.build_command(["-o", "type=oci,dest=file/out.tar"]);
    Ended::of(&mut command).fails(1, &["file"]);
}

/// Three layers on a base: one adds, one takes away of the base and of its own, one changes.
fn layered() -> Option<Project> {
    let text = "FROM base\nRUN echo one > /one && echo gone > /gone && mkdir /dir && echo a > /dir/a\n\
        RUN rm /gone /bin/vi && ln /one /hard && rm -r /home && mkdir -m 711 /home\n\
        ENV X=1\nRUN echo two > /one && chmod 700 /dir && ln -s one /soft\nCMD [\"x\"]\n";
    Some(Project::with_base()?.buildfile(text))
}

fn files_of(image: &Image) -> Vec<(String, String, u32, Vec<u8>)> {
    let entries =
        image.files.iter().filter(|(name, _)| !name.starts_with(".no.") && *name != "stargz.index.json");
    entries.map(|(name, e)| (name.clone(), format!("{:?}", e.kind), e.mode, e.data.clone())).collect()
}

fn history_of(image: &Image) -> Vec<(String, bool)> {
    let lines = image.config["history"].as_array().expect("history");
    let text = |line: &serde_json::Value| line["created_by"].as_str().unwrap_or_default().to_owned();
    lines.iter().map(|line| (text(line), line["empty_layer"] == true)).collect()
}

#[test]
fn squash_makes_one_layer_of_this_build() {
    let Some(project) = layered() else { return };
    let plain = project.build(&[]).image();
    let base = plain.layers[0].digest.clone();
    assert_eq!(plain.layers.len(), 4);
    for flag in ["--squash", "--squash=own", "--squash=true"] {
        let squashed = project.build(&[flag]).image();
        assert_eq!(squashed.layers.len(), 2, "{flag}");
        assert_eq!(squashed.layers[0].digest, base, "the base keeps its bytes");
        assert_eq!(files_of(&squashed), files_of(&plain));
        let names = &squashed.layers[1].names;
        // What came and went leaves nothing; what the base had leaves a whiteout; nothing unchanged is told again.
        assert!(!names.iter().any(|name| name.contains("gone")), "{names:?}");
        assert!(names.contains(&"bin/.wh.vi".to_owned()), "{names:?}");
        assert!(
            !names.contains(&"bin/sh".to_owned()) && !names.contains(&"etc/passwd".to_owned()),
            "{names:?}"
        );
        let history = history_of(&squashed);
        assert_eq!(history.last(), Some(&("merge".to_owned(), false)), "{history:?}");
        assert_eq!(history.iter().filter(|(_, empty)| !empty).count(), 2, "{history:?}");
        assert_eq!(history.len(), history_of(&plain).len() + 1);
    }
    let all = project.build(&["--squash=all"]).image();
    assert_eq!(all.layers.len(), 1);
    assert_eq!(files_of(&all), files_of(&plain));
    assert!(!all.layers[0].names.iter().any(|name| name.contains(".wh.")), "nothing lies below");
    let off = project.build(&["--squash=false"]).image();
    assert_eq!(off.digest, plain.digest);
}

#[test]
fn a_squashed_layer_is_the_same_bytes_in_another_store() {
    let (Some(one), Some(two)) = (layered(), layered()) else { return };
    let flags = ["--squash", "--source-date-epoch", "1500000000"];
    assert_eq!(one.build(&flags).image().digest, two.build(&flags).image().digest);
    // Remembered, and still the same.
    assert_eq!(one.build(&flags).image().digest, two.build(&flags).image().digest);
}

#[test]
fn layers_that_take_back_one_another_leave_none() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile("FROM base\nRUN echo > /x\nRUN rm /x\n");
    for _ in 0..2 {
        let image = project.build(&["--squash"]).image();
        assert_eq!(image.layers.len(), 1);
        assert!(!image.has("x"));
    }
}

#[test]
fn the_uppermost_layers_are_merged_when_there_are_too_many() {
    let Some(project) = layered() else { return };
    let plain = project.build(&[]).image();
    let three = project.build(&["--max-layers", "3"]).image();
    let digests = |image: &Image| image.layers.iter().map(|layer| layer.digest.clone()).collect::<Vec<_>>();
    assert_eq!(digests(&three)[..2], digests(&plain)[..2]);
    assert_eq!(three.layers.len(), 3);
    assert_eq!(files_of(&three), files_of(&plain));
    assert_eq!(digests(&project.build(&["--max-layers", "4"]).image()), digests(&plain));
    project.build(&["--max-layers", "0"]).fails(2, &["--max-layers"]);
    // Layers of the base stay, and that is told.
    let one = project.build(&["--max-layers", "1"]);
    assert_eq!(one.image().layers.len(), 2);
    assert!(one.log().contains("2 layers, more than --max-layers 1: 1 of them"), "{}", one.log());
}

#[test]
fn many_layers_are_advised_against_and_merged_when_asked() {
    let mut text = "FROM scratch\n".to_owned();
    let mut project = Project::new();
    for number in 0..130 {
        project = project.file(&format!("f{number}"), format!("{number}"));
        text.push_str(&format!("COPY f{number} /\n"));
    }
    let project = project.buildfile(&text);
    let built = project.build(&[]);
    assert_eq!(built.image().layers.len(), 130);
    assert!(
        built.log().contains("130 layers") && built.log().contains("--max-layers 127"),
        "{}",
        built.log()
    );
    let merged = project.build(&["--max-layers", "127"]);
    let image = merged.image();
    assert_eq!(image.layers.len(), 127);
    assert_eq!(image.layers[126].names, ["f126", "f127", "f128", "f129"]);
    assert!(!merged.log().contains("layers, and docker"), "{}", merged.log());
}

/// The table of contents of an estargz blob, found through its footer, with each chunk verified.
fn toc_of(blob: &[u8]) -> (Vec<u8>, serde_json::Value) {
    let footer = &blob[blob.len() - 51..];
    let text = std::str::from_utf8(&footer[16..38]).expect("footer");
    let offset = usize::from_str_radix(text.strip_suffix("STARGZ").expect("magic"), 16).expect("offset");
    let mut tar = Vec::new();
    flate2::read::GzDecoder::new(&blob[offset..]).read_to_end(&mut tar).expect("member of the table");
    let mut archive = tar::Archive::new(&tar[..]);
    let mut entry = archive.entries().expect("tar").next().expect("an entry").expect("entry");
    assert_eq!(entry.path().expect("name").display().to_string(), "stargz.index.json");
    let mut json = Vec::new();
    entry.read_to_end(&mut json).expect("table");
    let table: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    let mut sizes = std::collections::BTreeMap::new();
    let mut chunks = 0;
    for entry in table["entries"].as_array().expect("entries") {
        if let Some(size) = entry["size"].as_u64() {
            sizes.insert(entry["name"].to_string(), size);
        }
        let Some(digest) = entry["chunkDigest"].as_str() else { continue };
        let mut data = Vec::new();
        let start = entry["offset"].as_u64().expect("offset") as usize;
        flate2::read::GzDecoder::new(&blob[start..]).read_to_end(&mut data).expect("member of a chunk");
        let rest = sizes[&entry["name"].to_string()] - entry["chunkOffset"].as_u64().unwrap_or(0);
        data.truncate(entry["chunkSize"].as_u64().unwrap_or(rest) as usize);
        assert_eq!(crate::base::digest(&data), digest, "{entry}");
        chunks += 1;
    }
    assert!(chunks > 0, "{table}");
    (json, table)
}

#[test]
fn estargz_has_a_table_that_holds_and_is_an_ordinary_layer() {
    let Some(project) = layered() else { return };
    // Larger than a chunk, and not a multiple of one.
    let big: Vec<u8> = (0..5_000_001u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    project.write("big", &big);
    project.write(
        "Buildfile",
        "FROM base\nCOPY big /deep/er/\nRUN echo hello > /deep/small && mkfifo /deep/fifo\n",
    );
    let plain = project.build(&[]).image();
    output(&project, &[], "type=oci,dest=e.tar,compression=estargz");
    let path = project.path("e.tar");
    let (layout, image) = (layout_of_archive(&path), Image::read_archive(&path));
    assert_eq!(files_of(&image), files_of(&plain));
    let layers = image.manifest["layers"].as_array().expect("layers");
    assert!(layers[0]["annotations"].is_null(), "the base keeps its bytes");
    assert_eq!(image.layers[0].digest, plain.layers[0].digest);
    for layer in &layers[1..] {
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
        let name = layer["digest"].as_str().expect("digest").trim_start_matches("sha256:");
        let (json, table) = toc_of(&layout[&format!("blobs/sha256/{name}")]);
        assert_eq!(
            layer["annotations"]["containerd.io/snapshot/stargz/toc.digest"],
            crate::base::digest(&json)
        );
        assert_eq!(table["version"], 1);
    }
    // As a base it keeps its bytes, and what tells lazy readers of its table.
    project.write("Buildfile", "FROM lazy\nCOPY big /another\n");
    let lazy = format!("lazy=oci-layout://{}", path.display());
    let child = project.build(&["--build-context", &lazy]).image();
    assert_eq!(child.manifest["layers"][2], layers[2]);
    assert!(child.manifest["layers"][3]["annotations"].is_null(), "{}", child.manifest);
    project.write(
        "Buildfile",
        "FROM base\nCOPY big /deep/er/\nRUN echo hello > /deep/small && mkfifo /deep/fifo\n",
    );
    // Once more from what is remembered, then with every layer, in one.
    output(&project, &[], "type=oci,dest=again.tar,compression=estargz");
    assert_eq!(fs::read(&path).expect("first"), fs::read(project.path("again.tar")).expect("second"));
    output(&project, &[], "type=oci,dest=forced.tar,compression=estargz,force-compression=true");
    let forced = Image::read_archive(&project.path("forced.tar"));
    assert!(
        forced.manifest["layers"].as_array().expect("layers").iter().all(|l| !l["annotations"].is_null())
    );
    assert_eq!(files_of(&forced), files_of(&plain));
    output(&project, &["--squash"], "type=oci,dest=one.tar,compression=estargz,compression-level=1");
    let one = Image::read_archive(&project.path("one.tar"));
    assert_eq!((one.layers.len(), files_of(&one) == files_of(&plain)), (2, true));
}

#[test]
fn estargz_of_a_name_that_json_cannot_hold_is_refused() {
    use std::os::unix::ffi::OsStrExt as _;
    let project = Project::new().file("ok", "x").buildfile("FROM scratch\nCOPY . /\n");
    fs::write(project.context("").join(std::ffi::OsStr::from_bytes(b"bad\xff")), "x").expect("file");
    let mut command = project.build_command(["-o", "type=oci,dest=e.tar,compression=estargz"]);
    Ended::of(&mut command).fails(1, &["not UTF-8", "compression=gzip"]);
    output(&project, &[], "type=oci,dest=g.tar,compression=gzip");
}

#[test]
fn annotations_go_to_their_four_places() {
    let project = simple();
    let flags = [
        "--platform=linux/amd64,linux/arm64",
        "--annotation=manifest:m=1",
        "--annotation=manifest[linux/arm64]:arm=1",
        "--annotation=index:i=1",
        "--annotation=manifest-descriptor:d=1",
        "--annotation=index-descriptor:r=1",
    ];
    output(&project, &flags, "type=oci,dest=a.tar,annotation-manifest-descriptor[linux/arm64].da=1");
    let layout = layout_of_archive(&project.path("a.tar"));
    let blob = |descriptor: &serde_json::Value| {
        let name = descriptor["digest"].as_str().expect("digest").trim_start_matches("sha256:").to_owned();
        json_of(&layout, &format!("blobs/sha256/{name}"))
    };
    let root = &json_of(&layout, "index.json")["manifests"][0];
    assert_eq!(root["annotations"]["r"], "1");
    let index = blob(root);
    assert_eq!(index["annotations"], serde_json::json!({ "i": "1" }));
    let of = |number: usize| (&index["manifests"][number], blob(&index["manifests"][number]));
    let ((amd, amd_manifest), (arm, arm_manifest)) = (of(0), of(1));
    assert_eq!(amd["annotations"], serde_json::json!({ "d": "1" }));
    assert_eq!(arm["annotations"], serde_json::json!({ "d": "1", "da": "1" }));
    assert_eq!(amd_manifest["annotations"], serde_json::json!({ "m": "1" }));
    assert_eq!(arm_manifest["annotations"], serde_json::json!({ "m": "1", "arm": "1" }));
    // What nothing can carry is said.
    let built = project.build(&["--annotation=index:i=1", "--annotation=manifest-descriptor:d=1"]);
    assert!(built.log().contains("`index:i` has no effect"), "{}", built.log());
    assert_eq!(built.image().annotations["d"], "1");
}

#[test]
fn docker_media_types_when_asked() {
    let project = simple();
    for (extra, layer) in [("", "tar.gzip"), (",compression=zstd", "tar.zstd")] {
        output(&project, &[], &format!("type=oci,dest=d.tar,oci-mediatypes=false{extra}"));
        let image = Image::read_archive(&project.path("d.tar"));
        let prefix = "application/vnd.docker.";
        assert_eq!(image.manifest["mediaType"], format!("{prefix}distribution.manifest.v2+json"));
        assert_eq!(image.manifest["config"]["mediaType"], format!("{prefix}container.image.v1+json"));
        assert_eq!(image.layers[0].media_type, format!("{prefix}image.rootfs.diff.{layer}"));
        fs::remove_file(project.path("d.tar")).expect("archive");
    }
}

#[test]
fn the_metadata_file_has_buildx_keys() {
    let project = simple();
    let read = || -> serde_json::Value {
        serde_json::from_slice(&fs::read(project.path("m.json")).expect("metadata")).expect("JSON")
    };
    let id = || fs::read_to_string(project.path("id")).expect("iidfile");
    let flags = ["--metadata-file=m.json", "--iidfile=id", "--digestfile=digest", "-t", "one:1"];
    let image = project.build(&[&flags[..], &["-o", "type=image,name=two:2"]].concat()).image();
    let metadata = read();
    assert_eq!(metadata["containerimage.digest"], image.digest);
    assert_eq!(metadata["containerimage.config.digest"], image.config_digest);
    assert_eq!(metadata["containerimage.descriptor"]["digest"], image.digest);
    assert_eq!(metadata["image.name"], "docker.io/library/one:1,docker.io/library/two:2");
    assert_eq!(id(), image.config_digest);
    assert_eq!(fs::read_to_string(project.path("digest")).expect("digest"), image.digest);
    let reference = metadata["buildx.build.ref"].as_str().expect("reference").to_owned();
    let number = reference.strip_prefix("kiln/local/").expect("a builder, a node and a build").to_owned();
    project.run(&["log", &number]).ok();
    let mut files = project.build_command(["--digestfile=digest", "-o", "type=local,dest=files"]);
    Ended::of(&mut files).fails(2, &["--digestfile"]);
    assert!(metadata["buildx.build.warnings"].is_null());
    // Several platforms have no one config: the id is the index'.
    output(
        &project,
        &[&flags[..], &["--platform=linux/amd64,linux/arm64"]].concat(),
        "type=oci,dest=two.tar",
    );
    let metadata = read();
    assert!(metadata["containerimage.config.digest"].is_null(), "{metadata}");
    assert_eq!(metadata["containerimage.digest"], id());
    project.write("Buildfile", "FROM scratch\nmaintainer x\nCOPY f /\n");
    let mut command = project.build_command(["--metadata-file=m.json", "-o", "type=oci,dest=w.tar"]);
    Ended::of(command.env("BUILDX_METADATA_WARNINGS", "1")).ok();
    let warnings = read()["buildx.build.warnings"].clone();
    assert!(
        warnings.as_array().is_some_and(|all| !all.is_empty() && all[0]["short"].is_string()),
        "{warnings}"
    );
}

/// An engine that writes down what it is given.
#[test]
fn load_hands_an_archive_to_the_engine_that_answers() {
    use std::os::unix::fs::PermissionsExt as _;
    let project = simple();
    let tools = project.path("tools");
    fs::create_dir(&tools).expect("directory");
    let script = |name: &str, text: &str| {
        fs::write(tools.join(name), format!("#!/bin/sh\n{text}\n")).expect("script");
        fs::set_permissions(tools.join(name), fs::Permissions::from_mode(0o755)).expect("mode");
    };
    script("docker", "echo no daemon here >&2; exit 1");
    script(
        "podman",
        &format!("[ \"$1 $2\" = 'load -i' ] && cp \"$3\" {}", project.path("got.tar").display()),
    );
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap_or_default());
    Ended::of(project.build_command(["--load", "-t", "x:1"]).env("PATH", &path)).ok();
    let layout = layout_of_archive(&project.path("got.tar"));
    assert!(json_of(&layout, "manifest.json")[0]["RepoTags"].to_string().contains("x:1"));
    script("podman", "echo disk on fire >&2; exit 1");
    Ended::of(project.build_command(["--load"]).env("PATH", &path))
        .fails(1, &["no daemon here", "disk on fire"]);
    // A context is docker's alone.
    script("podman", "touch asked");
    let far = ["-otype=docker,context=far"];
    Ended::of(project.build_command(far).env("PATH", &path)).fails(1, &["no daemon here"]);
    assert!(!project.path("asked").exists());
    let got = project.path("far.tar");
    script(
        "docker",
        &format!("[ \"$1 $2 $3 $4\" = '--context far load -i' ] && cp \"$5\" {}", got.display()),
    );
    Ended::of(project.build_command(far).env("PATH", &path)).ok();
    assert!(layout_of_archive(&got).contains_key("manifest.json"));
    let both = ["-otype=docker,context=far,dest=x.tar"];
    Ended::of(project.build_command(both).env("PATH", &path)).fails(2, &["context=NAME", "dest=FILE"]);
}

#[test]
fn a_directory_becomes_what_the_result_is() {
    let project = simple();
    let out = project.path("out");
    fs::create_dir_all(out.join("old/deep")).expect("directory");
    fs::write(out.join("old/deep/f"), "x").expect("file");
    let build = |flags: &[&str]| Ended::of(&mut project.build_command(flags));
    let delete = "-otype=local,dest=out,mode=delete";
    build(&[delete]).fails(2, &["mode=delete", "--allow buildx.local.delete"]);
    build(&["-otype=local,dest=out"]).ok();
    let allow = "--allow=buildx.local.delete";
    for dest in [".", "store"] {
        build(&[&format!("-otype=local,dest={dest},mode=delete"), allow]).fails(2, &["would empty"]);
    }
    assert!(out.join("old/deep/f").exists() && out.join("dir/f").exists());
    build(&[delete, allow]).ok();
    assert!(!out.join("old").exists() && out.join("dir/f").exists());
}

#[test]
fn environment_and_labels_of_the_image_are_changed_without_an_instruction() {
    let project =
        Project::new().buildfile("FROM scratch\nENV SECRET_HINT=x KEPT=1\nLABEL internal=yes public=yes\n");
    let image = |flags: &[&str]| project.build(flags).image().settings().clone();
    let plain = image(&[]);
    assert_eq!(plain["Labels"]["internal"], "yes");
    let flags = ["--unsetenv=SECRET_HINT", "--unsetlabel=internal", "--env", "NEW=2", "--label=own=3"];
    let changed = image(&flags);
    let env: Vec<&str> =
        changed["Env"].as_array().expect("environment").iter().filter_map(|pair| pair.as_str()).collect();
    assert!(
        env.contains(&"KEPT=1") && env.contains(&"NEW=2") && !env.iter().any(|pair| pair.contains("HINT"))
    );
    assert_eq!(changed["Labels"], serde_json::json!({ "public": "yes", "own": "3" }));
    project.build(&["--unsetenv=NO=VALUE"]).fails(2, &["--unsetenv"]);
}
