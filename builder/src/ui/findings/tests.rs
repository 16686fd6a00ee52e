use kiln_grammar::span::Span;
use serde_json::Value;

use super::*;

const SOURCE: &str = "FROM scratch\nADD é,x /\nCMD a\n";

fn findings() -> Vec<Diagnostic> {
    let at = |needle: &str| {
        let start = SOURCE.find(needle).unwrap();
        Span::new(start, start + needle.len())
    };
    vec![
        Diagnostic::error(at("é,x"), "no `é`\u{1b}[2J").with_hint("100%\nsure"),
        Diagnostic::warning("JSONArgsRecommended", at("CMD a"), "JSON arguments recommended"),
    ]
}

fn rendered(format: Format, strict: bool) -> String {
    let diagnostics = findings();
    let findings = Findings { file: "a dir/Dock,file", text: SOURCE, diagnostics: &diagnostics, strict };
    findings.render(format, Style::PLAIN)
}

#[test]
fn text_is_for_people() {
    insta::assert_snapshot!(rendered(Format::Text, false), @r"
    ERROR: no `é`\x1b[2J
     --> a dir/Dock,file:2:5
      |
    2 | ADD é,x /
      |     ^^^
    hint: 100%\nsure

    WARNING: JSONArgsRecommended - https://docs.docker.com/go/dockerfile/rule/json-args-recommended/
    JSON arguments recommended
     --> a dir/Dock,file:3:1
      |
    3 | CMD a
      | ^^^^^

    Check complete, 1 error and 1 warning have been found!
    ");
}

#[test]
fn warnings_can_be_errors() {
    let text = rendered(Format::Text, true);
    assert!(text.contains("ERROR: JSONArgsRecommended") && !text.contains("WARNING"));
    assert!(text.ends_with("Check complete, 2 errors have been found!\n"));
    assert!(rendered(Format::Github, true).lines().all(|line| line.starts_with("::error ")));
    let clean = Findings { file: "f", text: "", diagnostics: &[], strict: true };
    assert_eq!(clean.render(Format::Text, Style::PLAIN), "Check complete, no warnings found.\n");
    assert_eq!(clean.render(Format::Github, Style::PLAIN), "");
}

#[test]
fn json_is_buildkits() {
    let report: Value = serde_json::from_str(&rendered(Format::Json, false)).unwrap();
    let place = |value: &Value| value["location"]["ranges"][0].clone();
    assert_eq!(report["warnings"].as_array().unwrap().len(), 1);
    let warning = &report["warnings"][0];
    assert_eq!(warning["ruleName"], "JSONArgsRecommended");
    assert_eq!(warning["detail"], "JSON arguments recommended");
    assert!(warning["url"].as_str().unwrap().starts_with("https://docs.docker.com/go/dockerfile/rule/"));
    assert_eq!(
        place(warning),
        serde_json::json!({ "start": { "line": 3, "character": 0 }, "end": { "line": 3, "character": 5 } })
    );
    assert_eq!(place(&report["buildError"])["start"], serde_json::json!({ "line": 2, "character": 4 }));
    assert_eq!(report["sources"][0]["data"], base64(SOURCE.as_bytes()));
    assert_eq!(report["sources"][0]["language"], "Dockerfile");
}

#[test]
fn sarif_has_what_services_ask_for() {
    let log: Value = serde_json::from_str(&rendered(Format::Sarif, false)).unwrap();
    assert_eq!(log["version"], "2.1.0");
    let run = &log["runs"][0];
    let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
    for result in run["results"].as_array().unwrap() {
        let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
        assert_eq!(rules[index]["id"], result["ruleId"]);
        let uri = &result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"];
        assert_eq!(uri, "a%20dir/Dock%2Cfile");
    }
    assert_eq!(
        run["results"][0]["locations"][0]["physicalLocation"]["region"],
        serde_json::json!({ "startLine": 2, "startColumn": 5, "endLine": 2, "endColumn": 8 })
    );
    assert_eq!(run["results"][1]["level"], "warning");
}

#[test]
fn github_commands_cannot_be_broken() {
    let text = rendered(Format::Github, false);
    let first = text.lines().next().unwrap();
    assert!(
        first.starts_with(
            "::error file=a dir/Dock%2Cfile,line=2,endLine=2,col=5,endColumn=7,title=BuildError::"
        )
    );
    assert!(first.ends_with("%0Ahint: 100%25%0Asure"), "{first}");
    assert_eq!(text.lines().count(), 2);
}

#[test]
fn base_64_of_every_length() {
    // RFC 4648 section 10.
    for (text, expected) in [
        ("", ""),
        ("f", "Zg=="),
        ("fo", "Zm8="),
        ("foo", "Zm9v"),
        ("foob", "Zm9vYg=="),
        ("foobar", "Zm9vYmFy"),
    ] {
        assert_eq!(base64(text.as_bytes()), expected);
    }
}
