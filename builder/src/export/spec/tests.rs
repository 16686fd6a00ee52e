use proptest::prelude::*;

use super::*;

fn path(path: &str) -> Option<Destination> {
    Some(Destination::Path(path.into()))
}

#[test]
fn short_forms() {
    let local = OutputSpec::parse("out/dir").unwrap();
    assert_eq!((local.kind, local.destination), (OutputKind::Local, path("out/dir")));
    let tar = OutputSpec::parse("-").unwrap();
    assert_eq!((tar.kind, tar.destination), (OutputKind::Tar, Some(Destination::Stdout)));
}

#[test]
fn long_forms() {
    let expected = OutputSpec {
        destination: path("a,b.tar"),
        compression: Some(Compression::Zstd),
        compression_level: Some(19),
        force_compression: true,
        oci_media_types: Some(false),
        rewrite_timestamp: Some(true),
        source_date_epoch: Some(1_600_000_000),
        names: vec!["me/app:1".parse().unwrap(), "me/app:2".parse().unwrap()],
        annotations: vec![Annotation {
            carrier: annotation::Carrier::Index,
            key: "org.x.Y".to_owned(),
            value: "1".to_owned(),
        }],
        ..OutputSpec::new(OutputKind::Oci)
    };
    let text = "compression-level=19,type=oci,\"dest=a,b.tar\",compression=zstd,force-compression=true,\
                oci-mediatypes=0,rewrite-timestamp=true,source-date-epoch=1600000000,\
                \"name=me/app:1,me/app:2\",annotation-index.org.x.Y=1";
    assert_eq!(OutputSpec::parse(text).unwrap(), expected);
    let registry =
        OutputSpec::parse("type=registry,name=h:5000/x,registry.insecure=true,unpack=true").unwrap();
    assert!(registry.push && registry.insecure);
    assert_eq!(registry.ignored, ["unpack"]);
    assert!(!OutputSpec::parse("type=oci,tar=false,dest=d").unwrap().archive);
    assert_eq!(OutputSpec::parse("type=cacheonly").unwrap().kind, OutputKind::CacheOnly);
}

#[test]
fn messages_show_the_way() {
    let mut messages = String::new();
    for bad in [
        "",
        "dest=x",
        "type=ocii,dest=x",
        "type=oci,dst=x",
        "type=oci,dest=x,push=true",
        "type=oci,dest=a,dest=b",
        "type=local",
        "type=oci,dest=",
        "type=local,dest=-",
        "type=oci,tar=false",
        "type=oci,dest=x,compression=lzma",
        "type=oci,dest=x,compression=gzip,compression-level=10",
        "type=oci,dest=x,compression=uncompressed,compression-level=3",
        "type=oci,dest=x,tar=maybe",
        "type=oci,dest=x,source-date-epoch=-1",
        "type=local,dest=x,mode=move",
        "type=image,name=UPPER",
        "type=image,annotation-foo.k=v",
        "a,b",
        "type=oci,\"dest=x",
    ] {
        messages.push_str(&format!("{bad}\n    {}\n", OutputSpec::parse(bad).unwrap_err()));
    }
    insta::assert_snapshot!(messages, @r#"
        the value is empty
    dest=x
        `dest=x` has no type; write type=oci, docker, local, tar, image, registry or cacheonly
    type=ocii,dest=x
        unknown output type `ocii` (did you mean `oci`?); use oci, docker, local, tar, image, registry or cacheonly
    type=oci,dst=x
        unknown key `dst` (did you mean `dest`?); known are type, dest, tar, name, compression, compression-level, force-compression, oci-artifact, oci-mediatypes, rewrite-timestamp, source-date-epoch, annotation.KEY, annotation-index.KEY
    type=oci,dest=x,push=true
        unknown key `push`; known are type, dest, tar, name, compression, compression-level, force-compression, oci-artifact, oci-mediatypes, rewrite-timestamp, source-date-epoch, annotation.KEY, annotation-index.KEY
    type=oci,dest=a,dest=b
        `dest` is given more than once
    type=local
        type=local needs a destination; write type=local,dest=PATH
    type=oci,dest=
        type=oci needs a destination; write type=oci,dest=PATH
    type=local,dest=-
        type=local writes a directory and cannot go to standard output; name one with dest=PATH
    type=oci,tar=false
        type=oci,tar=false writes a directory and cannot go to standard output; name one with dest=PATH
    type=oci,dest=x,compression=lzma
        unknown compression `lzma`; use gzip, zstd, estargz or uncompressed
    type=oci,dest=x,compression=gzip,compression-level=10
        compression-level `10` is not a number from 0 to 9
    type=oci,dest=x,compression=uncompressed,compression-level=3
        compression-level needs compression=gzip, zstd or estargz
    type=oci,dest=x,tar=maybe
        `tar=maybe` must be true or false
    type=oci,dest=x,source-date-epoch=-1
        source-date-epoch `-1` is not a number of seconds since 1970
    type=local,dest=x,mode=move
        unknown mode `move` of type=local; use mode=copy or mode=delete
    type=image,name=UPPER
        invalid reference format: `UPPER` has upper-case letters: repository names must be lower case
    type=image,annotation-foo.k=v
        unknown annotation type `foo`; use manifest, index, manifest-descriptor or index-descriptor
    a,b
        `a` is not of the form key=value
    type=oci,"dest=x
        `type=oci,"dest=x` has a misplaced quote; write "key=a value, with a comma"
    "#);
}

#[test]
fn archives_do_not_go_to_terminals() {
    for (text, allowed) in [
        ("type=oci", false),
        ("type=tar", false),
        ("-", false),
        ("type=docker,dest=-", false),
        ("type=docker", true),
        ("type=oci,dest=x", true),
        ("type=image", true),
    ] {
        let spec = OutputSpec::parse(text).unwrap();
        assert_eq!(spec.check_destination(true).is_ok(), allowed, "{text}");
        assert!(spec.check_destination(false).is_ok(), "{text}");
        assert_eq!(spec.writes_to_stdout(), !allowed, "{text}");
    }
}

proptest! {
    #[test]
    fn anything_is_answered(text in "(type=(oci|local|tar|image),)?([a-z.-]+=|,|\"|\\[|-|.){0,20}") {
        let _ = OutputSpec::parse(&text);
    }
}
