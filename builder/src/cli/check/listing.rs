//! `--call=outline` and `--call=targets` (cli.md 2.1), in BuildKit's JSON or as tables.
//!
//! Invariants: a file with errors is not listed; its errors are shown instead.

use kiln_grammar::ast::Buildfile;
use kiln_grammar::outline::{self, Outline, Target, Wanted};
use kiln_grammar::span::Span;
use kiln_grammar::suggest;
use serde_json::{Map, Value, json};

use super::{File, Settings, put};
use crate::ui::diagnostics::{Style, render};
use crate::ui::failure::{EXIT_FAILED, EXIT_OK, Failure, Kind};
use crate::ui::findings::{Location, base64};
use crate::ui::print;
use crate::ui::table::{Align, Table};
use crate::ui::text;

/// Lists what the target takes.
pub(super) fn outline(file: &File, settings: &Settings, json: bool) -> Result<u8, Failure> {
    let Some(buildfile) = parse(file) else { return Ok(EXIT_FAILED) };
    let target = outline::find_target(&buildfile, settings.target.as_deref())
        .ok_or_else(|| unknown_target(&buildfile, settings.target.as_deref().unwrap_or_default()))?;
    let outline = outline::outline(&buildfile, target, &settings.build_args);
    put(&if json { outline_json(&buildfile, &outline) } else { outline_text(&outline) })?;
    Ok(EXIT_OK)
}

/// Lists the stages.
pub(super) fn targets(file: &File, json: bool) -> Result<u8, Failure> {
    let Some(buildfile) = parse(file) else { return Ok(EXIT_FAILED) };
    let targets = outline::targets(&buildfile);
    put(&if json { targets_json(&buildfile, &targets) } else { targets_text(&targets) })?;
    Ok(EXIT_OK)
}

fn parse(file: &File) -> Option<Buildfile> {
    let parsed = kiln_grammar::parse(&file.text);
    if parsed.has_errors() {
        print::talk(render(&file.name, &file.text, &parsed.diagnostics, Style::stderr()).trim_end());
        return None;
    }
    Some(parsed.buildfile)
}

fn unknown_target(buildfile: &Buildfile, wanted: &str) -> Failure {
    let targets = outline::targets(buildfile);
    let names: Vec<&str> = targets.iter().filter_map(|target| target.name.as_deref()).collect();
    let failure = Failure::new(Kind::User, format!("target stage {wanted:?} could not be found"));
    failure.with_hint(match suggest::closest(wanted, names.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if names.is_empty() => "no stage of this file has a name".to_owned(),
        None => format!("the stages are {}", names.join(", ")),
    })
}

fn outline_text(outline: &Outline) -> String {
    let mut rendered = String::new();
    for (label, value) in [("TARGET:     ", &outline.name), ("DESCRIPTION:", &outline.description)] {
        if !value.is_empty() {
            rendered.push_str(&format!("{label} {}\n", text::visible(value)));
        }
    }
    let mut part = |table: Table| {
        if !rendered.is_empty() {
            rendered.push('\n');
        }
        rendered.push_str(&table.render());
    };
    let left = |names: &[&'static str]| names.iter().map(|name| (*name, Align::Left)).collect::<Vec<_>>();
    if !outline.args.is_empty() {
        let mut table = Table::new(&left(&["BUILD ARG", "VALUE", "DESCRIPTION"]));
        for argument in &outline.args {
            table.row([
                &argument.name,
                argument.value.as_ref().unwrap_or(&String::new()),
                &argument.description,
            ]);
        }
        part(table);
    }
    for (name, list) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        if !list.is_empty() {
            let mut table = Table::new(&left(&[name, "REQUIRED"]));
            for wanted in list {
                table.row([wanted.id.as_str(), if wanted.required { "true" } else { "" }]);
            }
            part(table);
        }
    }
    if !outline.caches.is_empty() {
        let mut table = Table::new(&left(&["CACHE MOUNT"]));
        outline.caches.iter().for_each(|cache| table.row([cache.id.as_str()]));
        part(table);
    }
    if rendered.is_empty() {
        rendered.push_str("The target takes no arguments, secrets, SSH agents or cache mounts.\n");
    }
    rendered
}

fn outline_json(buildfile: &Buildfile, outline: &Outline) -> String {
    let mut object = Map::new();
    let mut put = |key: &str, value: Value, empty: bool| {
        if !empty {
            object.insert(key.to_owned(), value);
        }
    };
    put("name", json!(outline.name), outline.name.is_empty());
    put("description", json!(outline.description), outline.description.is_empty());
    let argument = |argument: &outline::Argument| {
        let mut object = json!({ "name": argument.name, "location": location(buildfile, argument.span) });
        if !argument.description.is_empty() {
            object["description"] = json!(argument.description);
        }
        if let Some(value) = &argument.value {
            object["value"] = json!(value);
        }
        object
    };
    put("args", outline.args.iter().map(argument).collect(), outline.args.is_empty());
    let wanted = |key: &'static str| {
        move |wanted: &Wanted| {
            let mut object = json!({ key: wanted.id, "location": location(buildfile, wanted.span) });
            if wanted.required {
                object["required"] = json!(true);
            }
            object
        }
    };
    put("secrets", outline.secrets.iter().map(wanted("name")).collect(), outline.secrets.is_empty());
    put("ssh", outline.ssh.iter().map(wanted("name")).collect(), outline.ssh.is_empty());
    put("cache", outline.caches.iter().map(wanted("ID")).collect(), outline.caches.is_empty());
    put("sources", json!([base64(buildfile.text.as_bytes())]), false);
    format!("{:#}\n", Value::Object(object))
}

fn targets_text(targets: &[Target]) -> String {
    let headings = ["TARGET", "BASE", "PLATFORM", "DESCRIPTION"].map(|name| (name, Align::Left));
    let mut table = Table::new(&headings);
    for (index, target) in targets.iter().enumerate() {
        let name = match (&target.name, target.is_default) {
            (Some(name), true) => format!("{name} (default)"),
            (Some(name), false) => name.clone(),
            (None, true) => "(default)".to_owned(),
            (None, false) => format!("(stage {index})"),
        };
        table.row([&name, &target.base, &target.platform, &target.description]);
    }
    table.render()
}

fn targets_json(buildfile: &Buildfile, targets: &[Target]) -> String {
    let target = |target: &Target| {
        let mut object = Map::new();
        for (key, value) in [
            ("name", target.name.as_deref().unwrap_or_default()),
            ("description", &target.description),
            ("base", &target.base),
            ("platform", &target.platform),
        ] {
            if !value.is_empty() {
                object.insert(key.to_owned(), json!(value));
            }
        }
        if target.is_default {
            object.insert("default".to_owned(), json!(true));
        }
        object.insert("location".to_owned(), location(buildfile, target.span));
        Value::Object(object)
    };
    let list: Vec<Value> = targets.iter().map(target).collect();
    format!("{:#}\n", json!({ "targets": list, "sources": [base64(buildfile.text.as_bytes())] }))
}

fn location(buildfile: &Buildfile, span: Span) -> Value {
    serde_json::to_value(Location::new(&buildfile.text, &buildfile.lines, span))
        .expect("invariant: numbers under text keys always serialise")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const TEXT: &str = "\
# version is what is built
ARG version=1
FROM alpine AS build
ARG version
ARG mode
RUN --mount=type=cache,target=/c --mount=type=secret,id=token,required=true --mount=type=ssh make
# release is what ships
FROM --platform=linux/arm64 scratch AS release
COPY --from=build /x /
";

    fn parsed() -> Buildfile {
        let parsed = kiln_grammar::parse(TEXT);
        assert!(!parsed.has_errors());
        parsed.buildfile
    }

    #[test]
    fn targets_for_people_and_programs() {
        let targets = outline::targets(&parsed());
        insta::assert_snapshot!(targets_text(&targets), @r"
    TARGET              BASE      PLATFORM      DESCRIPTION
    build               alpine
    release (default)   scratch   linux/arm64   is what ships
    ");
        let json: Value = serde_json::from_str(&targets_json(&parsed(), &targets)).unwrap();
        assert_eq!(json["targets"][0]["name"], "build");
        assert_eq!(
            json["targets"][1],
            json!({ "name": "release", "default": true, "description": "is what ships", "base": "scratch",
                    "platform": "linux/arm64", "location": { "ranges": [{
                        "start": { "line": 8, "character": 0 }, "end": { "line": 8, "character": 46 } }] } })
        );
    }

    #[test]
    fn outline_for_people_and_programs() {
        let outline = outline::outline(&parsed(), 1, &BTreeMap::new());
        insta::assert_snapshot!(outline_text(&outline), @r"
    TARGET:      release
    DESCRIPTION: is what ships

    BUILD ARG   VALUE   DESCRIPTION
    version     1       is what is built
    mode

    SECRET   REQUIRED
    token    true

    SSH       REQUIRED
    default

    CACHE MOUNT
    /c
    ");
        let json: Value = serde_json::from_str(&outline_json(&parsed(), &outline)).unwrap();
        assert_eq!(json["args"][0]["value"], "1");
        assert_eq!(json["args"][1].get("value"), None);
        assert_eq!(json["secrets"][0]["required"], true);
        assert_eq!(json["cache"][0]["ID"], "/c");
        assert_eq!(json["name"], "release");
    }

    #[test]
    fn an_unknown_target_is_told_with_the_nearest() {
        let failure = unknown_target(&parsed(), "relase");
        assert_eq!(failure.hints, ["did you mean `release`?"]);
        assert_eq!(unknown_target(&parsed(), "zzz").hints, ["the stages are build, release"]);
    }
}
