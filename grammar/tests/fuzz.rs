//! The fuzz targets under the ordinary test runner: with random bytes, with pieces of the language, and with what
//! fuzzing found worth keeping (`testdata/fuzz/TARGET`; also a start for `cargo fuzz run TARGET`).
//!
//! Invariants:
//! - the code that runs is the fuzz targets' own.

#[path = "../fuzz/src/lib.rs"]
mod targets;

use proptest::prelude::*;

fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "FROM a",
            "RUN ",
            "COPY ",
            "ENV ",
            "ONBUILD ",
            "ARG ",
            "CMD [",
            "<<E",
            "<<-'E'",
            "E",
            "\n",
            "\r\n",
            "\\",
            "`",
            "\\\n",
            "# escape=`\n",
            "#",
            " ",
            "\t",
            "\"",
            "'",
            "$v",
            "${v:-",
            "${v#",
            "${v//",
            "}",
            "/",
            "*",
            "**",
            "**/",
            "?",
            "[",
            "]",
            "^",
            "!",
            "--mount=type=cache",
            "--",
            "=",
            ",",
            "\0",
            "a",
            "b",
            "é",
            "\u{feff}",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        any::<u8>().prop_map(|byte| vec![byte]),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn parse(data in pieces()) {
        targets::parse(&data);
    }

    #[test]
    fn expand(data in pieces()) {
        targets::expand(&data);
    }

    #[test]
    fn ignore(data in pieces()) {
        targets::ignore(&data);
    }
}

#[test]
fn kept_inputs() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/fuzz");
    for name in ["parse", "expand", "ignore"] {
        let target = match name {
            "parse" => targets::parse,
            "expand" => targets::expand,
            _ => targets::ignore,
        };
        let entries = std::fs::read_dir(root.join(name)).expect("the directory is there");
        let mut count = 0;
        for entry in entries {
            let path = entry.expect("an entry is readable").path();
            target(&std::fs::read(&path).expect("an input is readable"));
            count += 1;
        }
        assert!(count > 5, "{name}");
    }
}
