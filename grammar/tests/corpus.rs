//! Agreement with BuildKit's own reading of many real files.
//!
//! Runs only when the environment variable `KILN_CORPUS` names a directory that holds `reference.jsonl` and
//! `files/`. Each line of the reference is one file: BuildKit's verdict on it, and every instruction as its
//! parser and its instruction parser understood it. `KILN_CORPUS_SHOW=n` prints the first n disagreements.
//!
//! Invariants:
//! - no file is left out and none is treated specially.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use kiln_grammar::ast::{Command, From, Healthcheck, Heredoc, Instruction, KeyValue, Kind, Parsed, Word};
use kiln_grammar::diagnostic::Severity;
use kiln_grammar::mount::{self, MountKind, Sharing};
use kiln_grammar::span::{Span, Spanned};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// Counts per field, and the disagreements.
#[derive(Default)]
struct Tally {
    fields: BTreeMap<&'static str, (usize, usize)>,
    disagreements: Vec<String>,
}

impl Tally {
    fn compare(&mut self, place: &str, field: &'static str, ours: &Value, theirs: &Value) -> bool {
        let agree = ours == theirs;
        let (good, all) = self.fields.entry(field).or_default();
        *all += 1;
        *good += usize::from(agree);
        if !agree {
            self.disagreements.push(format!("{place} {field}\n  ours   {ours}\n  theirs {theirs}"));
        }
        agree
    }
}

#[test]
fn agrees_with_buildkit() {
    let Some(corpus) = std::env::var_os("KILN_CORPUS") else {
        eprintln!("SKIPPED: KILN_CORPUS does not name a corpus directory");
        return;
    };
    let corpus = Path::new(&corpus);
    let reference = fs::read_to_string(corpus.join("reference.jsonl")).expect("reference.jsonl is readable");
    let mut tally = Tally::default();
    let mut files = (0, 0);
    for line in reference.lines() {
        let record: Value = serde_json::from_str(line).expect("a reference line is JSON");
        let name = record["file"].as_str().expect("a reference has a file name");
        let text = fs::read_to_string(corpus.join("files").join(name)).expect("a corpus file is readable");
        files.1 += 1;
        files.0 += usize::from(compare_file(&mut tally, name, &text, &record));
    }
    println!("files in full agreement: {} of {}", files.0, files.1);
    for (field, (good, all)) in &tally.fields {
        println!("{field:24} {good:6} of {all:6}");
    }
    let show = std::env::var("KILN_CORPUS_SHOW").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    for disagreement in tally.disagreements.iter().take(show) {
        println!("{disagreement}");
    }
    assert!(tally.disagreements.is_empty(), "{} disagreements", tally.disagreements.len());
}

fn compare_file(tally: &mut Tally, name: &str, text: &str, record: &Value) -> bool {
    let before = tally.disagreements.len();
    let parsed = kiln_grammar::parse(text);
    let file = &parsed.buildfile;
    assert_eq!(kiln_grammar::format::file(file), text);
    let errors: Vec<usize> = parsed
        .diagnostics
        .iter()
        .filter(|d| d.severity == Severity::Error)
        .map(|d| file.lines.line(d.span.start))
        .collect();
    // A file that BuildKit reads but that has no stage is refused in its conversion.
    let stages = record["n_stages"].as_u64().unwrap_or(0);
    let accepted = record["parse_ok"] == json!(true) && record["inst_ok"] == json!(true) && stages > 0;
    tally.compare(name, "accepted", &json!(errors.is_empty()), &json!(accepted));
    if !accepted {
        let line = record["err_line"].as_u64().unwrap_or(0) as usize;
        // "No instructions" has no line of its own: BuildKit names the last one.
        let whole = record["err"].as_str().unwrap_or("").contains("no instructions");
        let ours = whole || errors.contains(&line);
        tally.compare(name, "error line", &json!(ours), &json!(true));
        return tally.disagreements.len() == before;
    }
    let escape = record["escape"].as_str().unwrap_or("\\");
    tally.compare(name, "escape", &json!(file.directives.escape.to_string()), &json!(escape));
    let directive = |ours: &Option<Spanned<String>>| ours.as_ref().map(|d| d.value.clone());
    let theirs = &record["directives"];
    tally.compare(name, "syntax", &json!(directive(&file.directives.syntax)), &theirs["syntax"]);
    tally.compare(name, "check", &json!(directive(&file.directives.check)), &theirs["check"]);
    let warnings = parsed.diagnostics.iter().filter(|d| d.rule == Some("NoEmptyContinuation")).count();
    let theirs = record["parser_warnings"].as_array().map_or(0, Vec::len);
    tally.compare(name, "parser warnings", &json!(warnings), &json!(theirs));
    compare_stages(tally, name, &parsed, record);
    compare_instructions(tally, name, &parsed, record);
    tally.disagreements.len() == before
}

fn compare_stages(tally: &mut Tally, name: &str, parsed: &Parsed, record: &Value) {
    let file = &parsed.buildfile;
    let ours: Vec<Value> = file
        .stages
        .iter()
        .map(|stage| {
            let from = &stage.from;
            json!([
                from.name.as_ref().map(|n| n.value.to_lowercase()).unwrap_or_default(),
                from.base.value,
                from.platform.as_ref().map(|p| p.value.clone()).unwrap_or_default(),
                stage.instructions.len(),
                file.lines.line(from.span.start),
            ])
        })
        .collect();
    let text = |value: &Value| value.as_str().unwrap_or("").to_string();
    let theirs: Vec<Value> = record["stages"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|s| json!([text(&s["name"]), text(&s["base"]), text(&s["platform"]), s["ncmds"], s["line"]]))
        .collect();
    tally.compare(name, "stages", &json!(ours), &json!(theirs));
    tally.compare(name, "global args", &json!(file.global_args.len()), &record["n_meta_args"]);
}

/// What `FROM` and the other instructions have in common.
struct Line<'a> {
    keyword: &'a Spanned<String>,
    span: Span,
    original: &'a str,
    comments: &'a [Spanned<String>],
    from: Option<&'a From>,
    kind: Option<&'a Kind>,
}

fn plain(instruction: &Instruction) -> Line<'_> {
    Line {
        keyword: &instruction.keyword,
        span: instruction.span,
        original: &instruction.original,
        comments: &instruction.comments,
        from: None,
        kind: Some(&instruction.kind),
    }
}

fn lines(parsed: &Parsed) -> Vec<Line<'_>> {
    let file = &parsed.buildfile;
    let mut lines: Vec<Line<'_>> = file.global_args.iter().map(plain).collect();
    for stage in &file.stages {
        let from = &stage.from;
        lines.push(Line {
            keyword: &from.keyword,
            span: from.span,
            original: &from.original,
            comments: &from.comments,
            from: Some(from),
            kind: None,
        });
        lines.extend(stage.instructions.iter().map(plain));
    }
    lines
}

fn compare_instructions(tally: &mut Tally, name: &str, parsed: &Parsed, record: &Value) {
    let file = &parsed.buildfile;
    let ours = lines(parsed);
    let none = Vec::new();
    let theirs = record["instructions"].as_array().unwrap_or(&none);
    if !tally.compare(name, "instructions", &json!(ours.len()), &json!(theirs.len())) {
        return;
    }
    for (ours, theirs) in ours.iter().zip(theirs) {
        let place = format!("{name}:{}", theirs["line"]);
        let place = place.as_str();
        tally.compare(place, "keyword", &json!(ours.keyword.value), &theirs["kw"]);
        assert_eq!(
            file.text.get(ours.keyword.span.start..ours.keyword.span.end),
            Some(ours.keyword.value.as_str())
        );
        tally.compare(place, "line", &json!(file.lines.line(ours.span.start)), &theirs["line"]);
        tally.compare(place, "end line", &json!(file.lines.line(ours.span.end)), &theirs["end"]);
        tally.compare(place, "original", &json!(ours.original), &theirs["original"]);
        let comments: Vec<&str> = ours.comments.iter().map(|c| c.value.as_str()).collect();
        tally.compare(place, "comments", &json!(comments), &list(&theirs["comments"]));
        compare_typed(tally, place, parsed, ours, theirs);
    }
}

fn compare_typed(tally: &mut Tally, place: &str, parsed: &Parsed, ours: &Line<'_>, record: &Value) {
    let cmd = &record["cmd"];
    let Some(kind) = ours.kind else {
        let from = ours.from.expect("a line without a kind is a FROM");
        let text = |word: &Option<Word>| word.as_ref().map(|w| w.value.clone()).unwrap_or_default();
        let mine = json!([from.base.value, text(&from.name).to_lowercase(), text(&from.platform)]);
        let get = |key: &str| cmd[key].as_str().unwrap_or("");
        tally.compare(place, "FROM", &mine, &json!([get("base"), get("name"), get("platform")]));
        return;
    };
    match kind {
        Kind::Arg(pairs) => {
            let mine: Vec<Value> = pairs
                .iter()
                .map(|p| json!([p.name.value, p.value.as_ref().map(|v| v.value.clone())]))
                .collect();
            tally.compare(place, "ARG", &json!(mine), &cmd["args"]);
        }
        Kind::Env(pairs) => {
            tally.compare(place, "ENV", &key_values(pairs), &cmd["env"]);
        }
        Kind::Label(pairs) => {
            tally.compare(place, "LABEL", &key_values(pairs), &cmd["labels"]);
        }
        Kind::Cmd(command) => {
            tally.compare(
                place,
                "CMD",
                &command_value(command),
                &json!([list(&cmd["cmdline"]), cmd["shell"]]),
            );
        }
        Kind::Entrypoint(command) => {
            let theirs = json!([list(&cmd["cmdline"]), cmd["shell"]]);
            tally.compare(place, "ENTRYPOINT", &command_value(command), &theirs);
        }
        Kind::Shell(words) => {
            tally.compare(place, "SHELL", &values(words), &cmd["shell"]);
        }
        Kind::Volume(words) => {
            tally.compare(place, "VOLUME", &values(words), &cmd["volumes"]);
        }
        Kind::Expose(words) => {
            let mut ports: Vec<&str> = words.iter().map(|w| w.value.as_str()).collect();
            ports.sort_unstable();
            tally.compare(place, "EXPOSE", &json!(ports), &cmd["ports"]);
        }
        Kind::User(word) => {
            tally.compare(place, "USER", &json!(word.value), &cmd["user"]);
        }
        Kind::Workdir(word) => {
            tally.compare(place, "WORKDIR", &json!(word.value), &cmd["path"]);
        }
        Kind::Maintainer(word) => {
            tally.compare(place, "MAINTAINER", &json!(word.value), &cmd["maintainer"]);
        }
        Kind::Stopsignal(word) => {
            tally.compare(place, "STOPSIGNAL", &json!(word.value), &cmd["signal"]);
        }
        Kind::Onbuild(onbuild) => {
            tally.compare(place, "ONBUILD", &json!(onbuild.trigger.value), &cmd["expr"]);
        }
        Kind::Healthcheck(health) => {
            tally.compare(place, "HEALTHCHECK", &health_value(health), &cmd["health"]);
        }
        Kind::Run(run) => {
            tally.compare(
                place,
                "RUN",
                &command_value(&run.command),
                &json!([list(&cmd["cmdline"]), cmd["shell"]]),
            );
            let network = run.network.as_ref().map(|w| w.value.as_str()).filter(|v| *v != "default");
            tally.compare(place, "RUN network", &json!(network), &cmd["network"]);
            let security = run.security.as_ref().map(|w| w.value.as_str()).filter(|v| *v != "sandbox");
            tally.compare(place, "RUN security", &json!(security), &cmd["security"]);
            let mine: Vec<Value> = run.mounts.iter().map(|m| mount_value(&m.value)).collect();
            let theirs: Vec<Value> = cmd["mounts"].as_array().into_iter().flatten().map(full_mount).collect();
            tally.compare(place, "RUN mounts", &json!(mine), &json!(theirs));
            compare_heredocs(tally, place, parsed, &run.heredocs, &record["heredocs"]);
        }
        Kind::Copy(copy) | Kind::Add(copy) => {
            let text = |word: &Option<Word>| word.as_ref().map(|w| json!(w.value)).unwrap_or(Value::Null);
            let yes = |on: bool| if on { json!(true) } else { Value::Null };
            let rows: [(&'static str, Value, Value); 11] = [
                ("COPY src", values(&copy.sources), list(&cmd["src"])),
                ("COPY dst", json!(copy.destination.value), cmd["dst"].clone()),
                ("COPY from", text(&copy.from), cmd["from"].clone()),
                ("COPY chown", text(&copy.chown), cmd["chown"].clone()),
                ("COPY chmod", text(&copy.chmod), cmd["chmod"].clone()),
                ("COPY link", yes(copy.link), cmd["link"].clone()),
                ("COPY parents", yes(copy.parents), cmd["parents"].clone()),
                ("COPY exclude", values(&copy.exclude), list(&cmd["exclude"])),
                ("COPY checksum", text(&copy.checksum), cmd["checksum"].clone()),
                ("ADD keep-git-dir", json!(copy.keep_git_dir), cmd["keep_git_dir"].clone()),
                ("ADD unpack", json!(copy.unpack), cmd["unpack"].clone()),
            ];
            for (field, mine, theirs) in rows {
                tally.compare(place, field, &mine, &theirs);
            }
            compare_heredocs(tally, place, parsed, &copy.heredocs, &record["heredocs"]);
            let mine: Vec<Value> = copy
                .heredocs
                .iter()
                .map(|h| json!([h.name, h.expand, h.body.len(), sha256(&h.body)]))
                .collect();
            let theirs = cmd["inline"].as_array().into_iter().flatten();
            let theirs: Vec<Value> =
                theirs.map(|i| json!([i["path"], i["expand"], i["len"], i["sha256"]])).collect();
            tally.compare(place, "COPY inline", &json!(mine), &json!(theirs));
        }
    }
}

fn compare_heredocs(tally: &mut Tally, place: &str, parsed: &Parsed, ours: &[Heredoc], theirs: &Value) {
    let mine: Vec<Value> = ours
        .iter()
        .map(|h| {
            let raw = parsed.buildfile.text.get(h.span.start..h.span.end).unwrap_or("");
            json!([h.name, h.descriptor, h.expand, h.strip_tabs, raw.len(), sha256(raw)])
        })
        .collect();
    let theirs: Vec<Value> = theirs
        .as_array()
        .into_iter()
        .flatten()
        .map(|h| json!([h["name"], h["fd"], h["expand"], h["chomp"], h["len"], h["sha256"]]))
        .collect();
    tally.compare(place, "heredocs", &json!(mine), &json!(theirs));
}

fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The reference leaves empty lists out.
fn list(value: &Value) -> Value {
    if value.is_null() { json!([]) } else { value.clone() }
}

fn values(words: &[Word]) -> Value {
    json!(words.iter().map(|w| w.value.as_str()).collect::<Vec<_>>())
}

fn key_values(pairs: &[KeyValue]) -> Value {
    let form = |legacy: bool| if legacy { "space" } else { "eq" };
    let rows: Vec<Value> =
        pairs.iter().map(|p| json!([p.key.value, p.value.value, form(p.legacy)])).collect();
    json!(rows)
}

fn command_value(command: &Command) -> Value {
    match command {
        Command::Shell(text) if text.value.is_empty() => json!([[], true]),
        Command::Shell(text) => json!([[text.value], true]),
        Command::Exec(words) => json!([values(words), false]),
    }
}

fn health_value(health: &Healthcheck) -> Value {
    let Healthcheck::Cmd { command, interval_ns, timeout_ns, start_period_ns, start_interval_ns, retries } =
        health
    else {
        return json!({"Test": ["NONE"]});
    };
    let test: Vec<&str> = match command {
        Command::Shell(text) => vec!["CMD-SHELL", &text.value],
        Command::Exec(words) => {
            std::iter::once("CMD").chain(words.iter().map(|w| w.value.as_str())).collect()
        }
    };
    let mut map = Map::new();
    map.insert("Test".to_string(), json!(test));
    let numbers = [
        ("Interval", interval_ns),
        ("Timeout", timeout_ns),
        ("StartPeriod", start_period_ns),
        ("StartInterval", start_interval_ns),
        ("Retries", retries),
    ];
    for (key, number) in numbers.into_iter().filter(|(_, number)| **number != 0) {
        map.insert(key.to_string(), json!(number));
    }
    Value::Object(map)
}

/// A mount as the reference writes it: nothing expanded, defaults left out.
fn mount_value(text: &str) -> Value {
    let mount = mount::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    let (kind, id, sharing, env) = match &mount.kind {
        MountKind::Bind => ("bind", None, None, None),
        MountKind::Cache { id, sharing, .. } => ("cache", id.clone(), Some(*sharing), None),
        MountKind::Tmpfs { .. } => ("tmpfs", None, None, None),
        MountKind::Secret { id, env, .. } => ("secret", Some(id.clone()), None, env.clone()),
        MountKind::Ssh { id, .. } => ("ssh", Some(id.clone()).filter(|id| id != "default"), None, None),
    };
    let sharing = match sharing {
        Some(Sharing::Locked) => Some("locked"),
        Some(Sharing::Private) => Some("private"),
        Some(Sharing::Shared) | None => None,
    };
    json!([
        kind,
        id,
        sharing,
        env,
        mount.from,
        mount.source,
        mount.target.unwrap_or_default(),
        mount.read_only
    ])
}

fn full_mount(theirs: &Value) -> Value {
    let sharing = theirs["sharing"].as_str().filter(|s| *s != "shared");
    let target = theirs["target"].as_str().unwrap_or("");
    let read_only = theirs["ro"] == json!(true);
    let (kind, id, env) = (&theirs["type"], &theirs["id"], &theirs["env"]);
    json!([kind, id, sharing, env, theirs["from"], theirs["source"], target, read_only])
}
