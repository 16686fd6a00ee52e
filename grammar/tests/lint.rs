//! Every check: a file that has the finding, on the right line, and one that comes near and has none.
//!
//! Invariants: each rule of the catalogue is in the tables, so a rule that never finds anything cannot hide.

use std::collections::{BTreeMap, BTreeSet};

use kiln_grammar::ignore::Matcher;
use kiln_grammar::lint::{self, BaseImage, Facts, LintConfig, Origin};

/// Those that the parser and planning find.
const ELSEWHERE: [&str; 2] = ["NoEmptyContinuation", "InvalidBaseImagePlatform"];

fn found_with(text: &str, facts: &Facts<'_>, config: &str) -> Vec<(String, usize, String)> {
    let parsed = kiln_grammar::parse(text);
    assert!(!parsed.has_errors(), "{text}\n{:?}", parsed.diagnostics);
    let config = LintConfig::from_directive(config).unwrap();
    let line = |start| parsed.buildfile.lines.line(start);
    lint::check(&parsed.buildfile, facts, &config)
        .into_iter()
        .inspect(|found| assert!(found.hint.is_some(), "{found:?} has no hint"))
        .map(|found| (found.rule.unwrap_or("").to_owned(), line(found.span.start), found.message))
        .collect()
}

fn lines(rule: &str, text: &str, facts: &Facts<'_>, config: &str) -> Vec<usize> {
    let found = found_with(text, facts, config);
    found.into_iter().filter(|(name, ..)| name == rule).map(|(_, line, _)| line).collect()
}

/// Rule, a file with findings, their lines, a file without.
type Case = (&'static str, &'static str, &'static [usize], &'static str);

const BUILDKIT: &[Case] = &[
    ("StageNameCasing", "FROM a AS Base\n", &[1], "FROM a AS base\n"),
    ("FromAsCasing", "FROM a as b\nfrom a AS c\n", &[1, 2], "FROM a AS b\nFrom a as c\n"),
    ("ConsistentInstructionCasing", "FROM a\nrun x\nRun y\nRUN z\n", &[2, 3], "from a\nrun x\n"),
    ("DuplicateStageName", "FROM a AS b\nFROM a AS B\n", &[2], "FROM a AS b\nFROM a AS c\n"),
    ("ReservedStageName", "FROM a AS scratch\nFROM a AS Context\n", &[1, 2], "FROM scratch AS x\n"),
    (
        "JSONArgsRecommended",
        "FROM a\nCMD x\nENTRYPOINT y\n",
        &[2, 3],
        "FROM a\nSHELL [\"/bin/sh\", \"-c\"]\nCMD x\n",
    ),
    ("MaintainerDeprecated", "FROM a\nMAINTAINER me\nFROM b\n", &[2], "FROM a\nLABEL m=me\n"),
    (
        "UndefinedArgInFrom",
        "FROM a$X\nFROM --platform=$TARGETOZ/amd64 a\n",
        &[1, 2],
        "ARG X\nFROM a$X\nFROM a$TARGETARCH\n",
    ),
    (
        "WorkdirRelativePath",
        "FROM a AS b\nWORKDIR x\nWORKDIR y\n",
        &[2],
        "FROM a AS b\nWORKDIR /x\nFROM b\nWORKDIR y\n",
    ),
    (
        "UndefinedVar",
        "FROM a\nENV A=$B C=${PAHT}\nCOPY --chown=$U x \\\n  $D\nRUN --mount=type=cache,target=$T x\n",
        &[2, 2, 3, 3, 5],
        "FROM a\nARG B\nENV A=$B$PATH\nRUN echo $X\nCOPY x /\\$y\nEXPOSE $P\n",
    ),
    (
        "MultipleInstructionsDisallowed",
        "FROM a\nCMD [\"x\"]\nCMD [\"y\"]\nHEALTHCHECK NONE\nHEALTHCHECK NONE\n",
        &[2, 4],
        "FROM a AS b\nCMD [\"x\"]\nFROM b\nCMD [\"y\"]\n",
    ),
    ("LegacyKeyValueFormat", "FROM a\nENV A b c\nLABEL A b\n", &[2, 3], "FROM a\nENV A=b\n"),
    (
        "RedundantTargetPlatform",
        "FROM --platform=$TARGETPLATFORM a\n",
        &[1],
        "FROM --platform=$BUILDPLATFORM a\n",
    ),
    (
        "SecretsUsedInArgOrEnv",
        "FROM a\nARG API_TOKEN\nENV password=x PUBLIC_KEY=y\n",
        &[2, 3],
        "FROM a\nARG TOKENS\n",
    ),
    (
        "InvalidDefaultArgInFrom",
        "ARG V\nFROM a:$V\nFROM a:${V:-1}\n",
        &[2],
        "ARG V=1\nFROM a:$V\nFROM scratch\n",
    ),
    (
        "FromPlatformFlagConstDisallowed",
        "FROM --platform=linux/arm64 a AS x\n",
        &[1],
        "FROM --platform=linux/arm64 a AS x-arm64\n",
    ),
    (
        "InvalidDefinitionDescription",
        "# what\nFROM a AS b\n# text\nARG C\n",
        &[2, 4],
        "# b is what\nFROM a AS b\n# text\n\n#\nARG C\n",
    ),
    ("ExposeProtoCasing", "FROM a\nEXPOSE 80/TcP 81/udp\n", &[2], "FROM a\nEXPOSE 80/tcp 81\n"),
    ("ExposeInvalidFormat", "FROM a\nEXPOSE 127.0.0.1:80:80 5:6\n", &[2, 2], "FROM a\nEXPOSE 80-90\n"),
    (
        "CopyIgnoredFile",
        "FROM a\nCOPY secret /\nADD ./secret/x /\n",
        &[2, 3],
        "FROM a AS b\nCOPY . /\nCOPY --from=b secret /\nADD http://h/secret /\n",
    ),
];

const HADOLINT: &[Case] = &[
    ("DL3000", "FROM a:1\nWORKDIR /x\nWORKDIR y\n", &[3], "FROM a:1\nWORKDIR /x\nWORKDIR $PATH\n"),
    (
        "DL3002",
        "FROM a:1\nUSER 1\nUSER root:x\n",
        &[3],
        "FROM a:1 AS b\nUSER root\nFROM a:1\nUSER root\nUSER 5\n",
    ),
    ("DL3003", "FROM a:1\nRUN cd /x && make\n", &[2], "FROM a:1\nRUN echo cd /x\n"),
    ("DL3004", "FROM a:1\nRUN x; sudo y\n", &[2], "FROM a:1\nRUN apk add sudo\n"),
    ("DL3006", "FROM a\nFROM h:5/b\n", &[1, 2], "ARG X\nFROM a:1 AS b\nFROM b\nFROM scratch\nFROM ${X:-y}\n"),
    (
        "DL3007",
        "FROM a:latest\n",
        &[1],
        "FROM a:latest@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n",
    ),
    (
        "DL3009",
        "FROM a:1\nRUN apt-get update && apt-get install -y x\n",
        &[2],
        "FROM a:1 AS b\nRUN apt-get update\nFROM a:1\nRUN apt-get update && rm -rf /var/lib/apt/lists/*\nRUN --mount=type=cache,target=/var/lib/apt apt-get update\n",
    ),
    (
        "DL3010",
        "FROM a:1\nCOPY x/a.tgz /t/\nRUN tar xzf /t/a.tgz\n",
        &[2],
        "FROM a:1\nCOPY a.tgz /t/\nRUN tar -c /t/a.tgz\n",
    ),
    ("DL3011", "FROM a:1\nEXPOSE 80 65536/tcp\n", &[2], "FROM a:1\nEXPOSE 65535\n"),
    (
        "DL3014",
        "FROM a:1\nRUN apt-get install x\n",
        &[2],
        "FROM a:1\nRUN apt-get -qqy install x && apt-get install -y z\n",
    ),
    (
        "DL3015",
        "FROM a:1\nRUN apt-get install -y x\n",
        &[2],
        "FROM a:1\nRUN apt-get install --no-install-recommends x\n",
    ),
    (
        "DL3019",
        "FROM a:1\nRUN apk add x\n",
        &[2],
        "FROM a:1\nRUN apk --no-cache add x\nRUN --mount=type=cache,target=/var/cache/apk apk add x\n",
    ),
    (
        "DL3020",
        "FROM a:1\nADD x /\n",
        &[2],
        "FROM a:1\nADD x.tar.gz /\nADD https://h/x /\nADD git@h:x.git /\n",
    ),
    (
        "DL3022",
        "FROM a:1\nCOPY --from=nope x /\n",
        &[2],
        "FROM a:1 AS b\nFROM a:1\nCOPY --from=b x /\nCOPY --from=0 x /\nCOPY --from=img:1 x /\n",
    ),
    (
        "DL3023",
        "FROM a:1 AS b\nCOPY --from=b x /\n",
        &[2],
        "FROM a:1 AS b\nFROM a:1 AS c\nCOPY --from=b x /\n",
    ),
    ("DL3027", "FROM a:1\nRUN apt update\n", &[2], "FROM a:1\nRUN apt-get update\n"),
    ("DL3030", "FROM a:1\nRUN yum install x\n", &[2], "FROM a:1\nRUN yum install -y x\n"),
    ("DL3032", "FROM a:1\nRUN yum -y install x\n", &[2], "FROM a:1\nRUN yum -y install x && yum clean all\n"),
    ("DL3034", "FROM a:1\nRUN zypper install x\n", &[2], "FROM a:1\nRUN zypper -n in x\n"),
    ("DL3035", "FROM a:1\nRUN zypper -n dup\n", &[2], "FROM a:1\nRUN zypper -n in dup\n"),
    ("DL3036", "FROM a:1\nRUN zypper -n in x\n", &[2], "FROM a:1\nRUN zypper -n in x && zypper cc\n"),
    ("DL3038", "FROM a:1\nRUN microdnf install x\n", &[2], "FROM a:1\nRUN dnf install -y x\n"),
    (
        "DL3040",
        "FROM a:1\nRUN dnf -y install x\n",
        &[2],
        "FROM a:1\nRUN dnf -y install x && rm -rf /var/cache/dnf\n",
    ),
    (
        "DL3042",
        "FROM a:1\nRUN pip3 install x\nRUN python3 -m pip install y\n",
        &[2, 3],
        "FROM a:1\nRUN pip install --no-cache-dir x\nRUN --mount=type=cache,target=/root/.cache/pip pip install x\n",
    ),
    ("DL3044", "FROM a:1\nENV A=1\nENV A=2 B=$A\n", &[3], "FROM a:1\nENV A=1\nENV A=$A B=2\n"),
    ("DL3045", "FROM a:1\nCOPY x y\n", &[2], "FROM a:1 AS b\nWORKDIR /x\nFROM b\nCOPY x y\n"),
    (
        "DL3046",
        "FROM a:1\nRUN useradd -u 123456 x\n",
        &[2],
        "FROM a:1\nRUN useradd -l -u 123456 x && useradd -u 1000 y\n",
    ),
    (
        "DL3047",
        "FROM a:1\nRUN wget http://x\n",
        &[2],
        "FROM a:1\nRUN wget -q http://x && wget --progress=dot:giga http://y && wget -nv x\n",
    ),
    (
        "DL3067",
        "FROM a:1 AS b\nFROM a:1\nCOPY --from=b / /\n",
        &[3],
        "FROM a:1 AS b\nFROM a:1\nCOPY --from=b / /x\n",
    ),
    (
        "DL4006",
        "FROM a:1\nRUN a | b\n",
        &[2],
        "FROM a:1\nRUN set -o pipefail; a | b\nRUN a || b\nSHELL [\"/bin/bash\", \"-eo\", \"pipefail\", \"-c\"]\nRUN a | b\n",
    ),
];

/// Found for hadolint only where BuildKit's rules do not run.
const TWINS: &[Case] = &[
    (
        "DL3012",
        "FROM a:1\nHEALTHCHECK NONE\nHEALTHCHECK NONE\n",
        &[2],
        "FROM a:1\nCMD [\"a\"]\nCMD [\"b\"]\n",
    ),
    ("DL3024", "FROM a:1 AS b\nFROM a:1 AS b\n", &[2], "FROM a:1 AS b\nFROM a:1 AS c\n"),
    ("DL3025", "FROM a:1\nCMD x\n", &[2], "FROM a:1\nCMD [\"x\"]\n"),
];

const KILN: &[Case] = &[
    (
        "AptWithoutUpdate",
        "FROM a:1\nRUN apt-get update\nRUN apt-get install -y x\n",
        &[3],
        "FROM a:1\nRUN apt-get update && apt-get install -y x\nRUN apt-get install -y ./x.deb\n",
    ),
    (
        "CacheMountUserMismatch",
        "FROM a:1\nUSER 1000\nRUN --mount=type=cache,target=/c x\n",
        &[3],
        "FROM a:1\nRUN --mount=type=cache,target=/c x\nUSER 1000\nRUN --mount=type=cache,target=/c,uid=1000 x\nRUN --mount=type=cache,target=/c,mode=0777 x\n",
    ),
    (
        "ChmodDoublesLayer",
        "FROM a:1\nWORKDIR /app\nCOPY x .\nRUN chown -R me /app/y\n",
        &[4],
        "FROM a:1\nCOPY x /app\nRUN chown me /app\nRUN chmod -R +x /bin\n",
    ),
    (
        "CopyBeforeDeps",
        "FROM a:1\nCOPY . .\nRUN npm ci\n",
        &[2],
        "FROM a:1\nCOPY package.json .\nRUN npm ci\nCOPY . .\nRUN npm ci\n",
    ),
    (
        "CopyRootUid",
        "FROM a:1\nWORKDIR /app\nUSER 1000\nCOPY x .\nRUN make\n",
        &[4],
        "FROM a:1\nWORKDIR /app\nCOPY x .\nUSER 1000\nCOPY --chown=1000 y .\nRUN make\nCOPY z .\n",
    ),
    (
        "HeredocNoErrexit",
        "FROM a:1\nRUN <<EOF\na\nb\nEOF\n",
        &[2],
        "FROM a:1\nRUN <<EOF\nset -eux\na\nb\nEOF\nRUN <<EOF\na\nEOF\nRUN <<EOF\n#!/usr/bin/env python3\na\nb\nEOF\n",
    ),
    (
        "MutableBase",
        "FROM a:1\n",
        &[1],
        "FROM scratch\nFROM a@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n",
    ),
    (
        "SecretInHistory",
        "FROM a:1\nARG TOKEN\nRUN x\nRUN y\n",
        &[3],
        "FROM a:1 AS b\nARG TOKEN\nRUN x\nFROM a:1\nRUN --mount=type=secret,id=TOKEN x\nARG TOKEN\n",
    ),
    (
        "UnusedArg",
        "ARG G\nFROM a:1\nARG X\nENV Y=1\n",
        &[1, 3],
        "ARG G=1\nARG H=$G\nARG N\nFROM a:$H$N\nARG X\nENV Y=$X\nARG Z\nRUN z\n",
    ),
    ("UnusedStage", "FROM a:1\nFROM a:1\n", &[1], "FROM a:1 AS b\nFROM a:1\nFROM a:1\nCOPY --from=1 x /\n"),
];

#[test]
fn each_rule_finds_what_it_is_about() {
    let ignore = Matcher::parse("secret\n").unwrap();
    let facts = Facts { ignore: Some(&ignore), all_stages: true, pedantic: true, ..Facts::default() };
    let hadolint = Facts { only: Some(Origin::Hadolint), ..facts.clone() };
    let cases = BUILDKIT.iter().chain(HADOLINT).chain(KILN).map(|case| (case, &facts));
    let mut seen: BTreeSet<&str> = BTreeSet::from(ELSEWHERE);
    let mut wrong = Vec::new();
    for ((rule, with, expected, without), facts) in cases.chain(TWINS.iter().map(|case| (case, &hadolint))) {
        seen.insert(rule);
        let config = "experimental=all";
        let found = lines(rule, with, facts, config);
        if found != *expected {
            wrong.push(format!("{rule}: lines {found:?} for {expected:?} in\n{with}"));
        }
        let found = lines(rule, without, facts, config);
        if !found.is_empty() {
            wrong.push(format!("{rule}: lines {found:?}, but there is nothing in\n{without}"));
        }
        let skipped = format!("{config};skip={rule}");
        if !matches!(lint::rule(rule), Some(info) if info.experimental) {
            assert_eq!(lines(rule, with, facts, &skipped), [0_usize; 0], "{rule} cannot be skipped");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let missing: Vec<&str> =
        lint::rules().iter().map(|rule| rule.name).filter(|name| !seen.contains(name)).collect();
    assert!(missing.is_empty(), "without a case: {missing:?}");
}

#[test]
fn messages_are_buildkits() {
    let text =
        "ARG VERSION\nFROM --platform=linux/arm64 a:$VERSON AS Scratch\nENV PAHT=1 X=$PTAH\nARG A_KEY\n";
    let facts = Facts { only: Some(Origin::BuildKit), all_stages: true, ..Facts::default() };
    let messages: Vec<String> =
        found_with(text, &facts, "").into_iter().map(|(_, _, message)| message).collect();
    for expected in [
        "Stage name 'Scratch' should be lowercase",
        "Stage name should not use the same name as reserved stage \"scratch\"",
        "FROM argument 'VERSON' is not declared (did you mean VERSION?)",
        "Default value for ARG a:$VERSON results in empty or invalid base image name",
        "FROM --platform flag should not use constant value \"linux/arm64\"",
        "Usage of undefined variable '$PTAH' (did you mean $PATH?)",
        "Do not use ARG or ENV instructions for sensitive data (ARG \"A_KEY\")",
    ] {
        assert!(messages.iter().any(|message| message == expected), "{expected}\n{messages:#?}");
    }
    assert_eq!(messages.len(), 7, "{messages:#?}");
}

#[test]
fn a_comment_above_an_instruction_skips_rules_there() {
    let text = "FROM a\n# check=skip=UndefinedVar,X because\nENV A=$B\n# CHECK = skip=all\nENV A=$C\n# check=skip\nENV A=$D\n";
    let facts = Facts { only: Some(Origin::BuildKit), ..Facts::default() };
    assert_eq!(lines("UndefinedVar", text, &facts, ""), [7]);
    let text = "# hadolint ignore=DL3006,DL3020 # not here\nFROM a\n# hadolint ignore=DL3045\nADD x y\n";
    let found = found_with(text, &Facts::default(), "");
    assert_eq!(
        found.iter().map(|(rule, line, _)| (rule.as_str(), *line)).collect::<Vec<_>>(),
        [("DL3020", 4)]
    );
    let text = "# hadolint global ignore=DL3020\n\nFROM a:1\nADD x /\n";
    assert_eq!(found_with(text, &Facts::default(), ""), []);
}

#[test]
fn only_reached_stages_are_evaluated_in_a_build() {
    let text = "FROM a AS x\nENV A=$B\nMAINTAINER m\nFROM a AS y\nENV A=$C\nFROM x\nCOPY --from=y / /\n";
    let build = |target: &str| Facts {
        target: (!target.is_empty()).then(|| target.to_owned()),
        only: Some(Origin::BuildKit),
        ..Facts::default()
    };
    assert_eq!(lines("UndefinedVar", text, &build(""), ""), [2, 5]);
    assert_eq!(lines("UndefinedVar", text, &build("y"), ""), [5]);
    assert_eq!(lines("MaintainerDeprecated", text, &build("y"), ""), [3]);
    let replaced = Facts { contexts: BTreeSet::from(["y".to_owned()]), ..build("") };
    assert_eq!(lines("UndefinedVar", text, &replaced, ""), [2]);
}

#[test]
fn facts_fill_in_what_the_file_does_not_say() {
    let image = BaseImage {
        env: vec!["B=1".to_owned()],
        shell: vec!["/bin/bash".to_owned(), "-c".to_owned()],
        triggers: vec!["ENV X=$NOWHERE".to_owned()],
        ..BaseImage::default()
    };
    let facts = Facts {
        base_images: BTreeMap::from([("a:1".to_owned(), image)]),
        build_args: BTreeMap::from([("V".to_owned(), "1".to_owned())]),
        only: Some(Origin::BuildKit),
        ..Facts::default()
    };
    let text = "ARG V=2\nFROM a:$V\nENV A=$B\nCMD x\n";
    let found = found_with(text, &facts, "");
    assert_eq!(
        found,
        [("UndefinedVar".to_owned(), 2, "Usage of undefined variable '$NOWHERE'".to_owned())],
        "the trigger's finding stands at FROM, and the image's SHELL and ENV count"
    );
}

#[test]
fn root_is_ignored_only_by_a_pattern_for_everything() {
    for (pattern, expected) in [("*", 1), ("**", 1), ("a", 0), ("*\n!a", 0)] {
        let ignore = Matcher::parse(pattern).unwrap();
        let facts = Facts { ignore: Some(&ignore), ..Facts::default() };
        assert_eq!(lines("CopyIgnoredFile", "FROM a\nCOPY . /\n", &facts, "").len(), expected, "{pattern}");
    }
}
