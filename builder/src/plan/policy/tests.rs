use super::*;

fn policy(rules: &str) -> [Policy; 1] {
    [Policy::parse("p.json", &format!(r#"{{"version": 1, "rules": [{rules}]}}"#)).unwrap()]
}

fn rule(action: &str, identifier: &str, rest: &str) -> String {
    format!(r#"{{"action": "{action}", "selector": {{"identifier": "{identifier}"{rest}}}}}"#)
}

fn of_image(policies: &[Policy], name: &str) -> Result<String, String> {
    image(policies, name, &format!("docker.io/library/{name}")).map_err(|refused| refused.to_string())
}

fn git(reference: &str) -> Op {
    Op::Git(GitSpec { reference: reference.to_owned(), keep_git_dir: None, checksum: None })
}

fn reference(op: Result<Op, Refused>) -> Result<String, String> {
    match op.map_err(|refused| refused.to_string())? {
        Op::Git(spec) => Ok(format!("{} {}", spec.reference, spec.checksum.unwrap_or_default())),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_last_rule_that_matches_decides() {
    let rules = [
        rule("DENY", "*", ""),
        rule("ALLOW", "docker-image://docker.io/library/*", ""),
        rule("DENY", "docker-image://docker.io/library/alpine:[0-9]$", r#", "matchType": "REGEX""#),
    ];
    let policies = policy(&rules.join(","));
    assert_eq!(of_image(&policies, "debian:12"), Ok("debian:12".to_owned()));
    assert_eq!(
        of_image(&policies, "alpine:3").unwrap_err(),
        "`docker-image://docker.io/library/alpine:3` is denied by rule 3 of the source policy `p.json`"
    );
    let error = local(&policies, "").unwrap_err().to_string();
    assert!(error.contains("`local://context` is denied by rule 1"), "{error}");
    // Without rules, and with rules about something else, everything is allowed.
    assert_eq!(of_image(&[], "alpine:3"), Ok("alpine:3".to_owned()));
    assert_eq!(local(&policy(&rule("DENY", "https://*", "")), "src"), Ok(()));
}

#[test]
fn matches_are_of_the_whole_text_unless_regular() {
    for (kind, pattern, matched) in [
        ("EXACT", "docker-image://docker.io/library/a:1", true),
        ("EXACT", "docker-image://docker.io/library/*", false),
        ("WILDCARD", "docker-image://docker.io/library/a", false),
        ("WILDCARD", "docker-image://*:1", true),
        ("WILDCARD", "docker.image://*", false),
        ("REGEX", "library/.:1", true),
    ] {
        let policies = policy(&rule("DENY", pattern, &format!(r#", "match_type": "{kind}""#)));
        assert_eq!(of_image(&policies, "a:1").is_err(), matched, "{kind} {pattern}");
    }
}

#[test]
fn images_are_replaced() {
    let convert = |from: &str, to: &str| {
        format!(
            r#"{{"action": "CONVERT", "selector": {{"identifier": "{from}"}}, "updates": {{"identifier": "{to}"}}}}"#
        )
    };
    let mirror = convert("docker-image://docker.io/library/*", "docker-image://mirror.example/${1}");
    assert_eq!(of_image(&policy(&mirror), "alpine:3"), Ok("mirror.example/alpine:3".to_owned()));
    let layout = convert("docker-image://docker.io/library/alpine:3", "oci-layout:///srv/alpine:3");
    assert_eq!(of_image(&policy(&layout), "alpine:3"), Ok("oci-layout:///srv/alpine:3".to_owned()));
    // The new name is judged too.
    let denied = format!("{mirror},{}", rule("DENY", "docker-image://mirror.example/*", ""));
    assert!(
        of_image(&policy(&denied), "alpine:3").unwrap_err().contains("mirror.example/alpine:3` is denied")
    );
    let kind = convert("docker-image://*", "https://h/$1");
    assert!(of_image(&policy(&kind), "a:1").unwrap_err().contains("another kind"));
    let circle = [
        convert("docker-image://*", "docker-image://x$1"),
        convert("docker-image://x*", "docker-image://$1"),
    ];
    assert!(of_image(&policy(&circle.join(",")), "a:1").unwrap_err().contains("more than 20 times"));
}

#[test]
fn downloads_get_checksums_and_places() {
    let digest = Digest::of(b"x");
    let rules = format!(
        r#"{{"action": "CONVERT", "selector": {{"identifier": "https://old.example/*"}},
             "updates": {{"identifier": "https://new.example/$1", "attrs": {{"http.checksum": "{digest}"}}}}}},
           {{"action": "DENY", "selector": {{"identifier": "https://*",
             "constraints": [{{"key": "http.checksum", "condition": "EQUAL", "value": ""}}]}}}}"#
    );
    let policies = policy(&rules);
    let http = |url: &str| Op::Http(HttpSpec { url: url.to_owned(), checksum: None });
    let Ok(Op::Http(spec)) = remote(&policies, http("https://old.example/a")) else { panic!() };
    assert_eq!((spec.url.as_str(), spec.checksum), ("https://new.example/a", Some(digest)));
    let error = remote(&policies, http("https://user:secret@h/a")).unwrap_err().to_string();
    assert!(error.contains("`https://h/a` is denied by rule 2"), "{error}");
    let bad = r#"{"action": "CONVERT", "selector": {"identifier": "*"}, "updates": {"attrs": {"http.checksum": "1"}}}"#;
    let error = remote(&policy(bad), http("https://h/a")).unwrap_err().to_string();
    assert!(error.contains("no digest"), "{error}");
}

#[test]
fn repositories_are_pinned_and_moved() {
    let convert = |from: &str, updates: &str| {
        policy(&format!(
            r#"{{"action": "CONVERT", "selector": {{"identifier": "{from}"}}, "updates": {{{updates}}}}}"#
        ))
    };
    let commit = "0123456789012345678901234567890123456789";
    let pinned = convert("git://h/r.git#main", &format!(r#""identifier": "git://h/r.git#{commit}""#));
    for (old, new) in [
        ("https://me:pw@h/r.git#main", format!("https://me:pw@h/r.git#{commit} ")),
        ("git@h:r.git#main", format!("git@h:r.git#{commit} ")),
        ("https://h/r.git#next", "https://h/r.git#next ".to_owned()),
    ] {
        assert_eq!(reference(remote(&pinned, git(old))), Ok(new));
    }
    let checked = convert("git://h/r.git#main", &format!(r#""attrs": {{"git.checksum": "{commit}"}}"#));
    assert_eq!(
        reference(remote(&checked, git("https://h/r.git#main"))),
        Ok(format!("https://h/r.git#main {commit}"))
    );
    assert_eq!(repository(&checked, "https://h/r.git#main:sub"), Ok("https://h/r.git#main:sub".to_owned()),);
    assert_eq!(repository(&checked, "https://h/r.git#main"), Ok(format!("https://h/r.git#{commit}")));
    let moved = convert("git://h/*", r#""identifier": "git://mirror/$1""#);
    assert_eq!(reference(remote(&moved, git("git@h:r.git#a:b"))), Ok("https://mirror/r.git#a:b ".to_owned()));
    let by = r#""identifier": "git://mirror/$1", "attrs": {"git.fullurl": "ssh://git@mirror/r.git"}"#;
    assert_eq!(
        reference(remote(&convert("git://h/*", by), git("https://h/r.git#a"))),
        Ok("ssh://git@mirror/r.git#a ".to_owned())
    );
    let query = reference(remote(&moved, git("https://h/r.git?ref=x")));
    assert!(query.unwrap_err().contains("has a query"));
}

#[test]
fn mistakes_in_a_file_are_told() {
    let told = |text: &str| {
        let error = Policy::parse("p", text).unwrap_err();
        crate::base::causes::one_line(&error)
    };
    for (text, part) in [
        ("", "not a source policy"),
        (r#"{"rule": []}"#, "unknown field `rule`"),
        (r#"{"rules": [{"action": "FORBID", "selector": {"identifier": "*"}}]}"#, "`FORBID`"),
        (r#"{"rules": [{"action": "CONVERT", "selector": {"identifier": "*"}}]}"#, "rule 1: a CONVERT needs"),
        (r#"{"rules": [{"action": "DENY", "selector": {"identifier": "a**"}}]}"#, "rule 1: `**`"),
        (r#"{"rules": [{"selector": {"identifier": "(", "matchType": "REGEX"}}]}"#, "rule 1: `(` is not"),
        (
            r#"{"rules": [{"action": "CONVERT", "selector": {"identifier": "*"}, "updates": {"attrs": {"a": "b"}}}]}"#,
            "unknown attribute `a`",
        ),
    ] {
        assert!(told(text).contains(part), "{text}: {}", told(text));
    }
}

#[test]
fn the_documented_policy_is_one() {
    let docs = include_str!("../../../../docs/security.md");
    let (_, rest) = docs.split_once("```json\n").unwrap();
    let (text, _) = rest.split_once("```").unwrap();
    let policies = [Policy::parse("docs", text).unwrap()];
    assert_eq!(of_image(&policies, "alpine:3"), Ok("mirror.example/library/alpine:3".to_owned()));
    assert!(image(&policies, "x", "quay.io/x/y:1").unwrap_err().to_string().contains("rule 1"));
    let http = |url: &str| remote(&policies, Op::Http(HttpSpec { url: url.to_owned(), checksum: None }));
    assert!(http("https://example.com/releases/a").is_ok() && http("https://example.com/a").is_err());
    assert_eq!(local(&policies, ""), Ok(()));
}
