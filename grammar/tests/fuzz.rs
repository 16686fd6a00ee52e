//! The fuzz targets under the ordinary test runner, with random bytes and with pieces of the language.
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
