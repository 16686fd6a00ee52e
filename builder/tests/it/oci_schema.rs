//! The outputs as a second reader sees them: the types of the oci-spec crate.

use oci_spec::image::{Arch, ImageConfiguration, ImageIndex, ImageManifest, MediaType, Os};

use crate::image::{Layout, layout_of_archive, layout_of_directory};
use crate::project::{Ended, Project};

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
