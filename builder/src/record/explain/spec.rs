//! The first difference between two specs.
//!
//! Invariants: every field of every spec is compared; two specs that differ always give a reason.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use crate::plan::graph::{CopySource, CopySpec, MountSpec, Op, RunSpec};
use crate::record::miss::MissReason;

/// What differs. `is_build_arg` knows the names of `--build-arg`.
pub(super) fn difference(was: &Op, is: &Op, is_build_arg: impl Fn(&str) -> bool) -> MissReason {
    let found = match (was, is) {
        (Op::Run(was), Op::Run(is)) => of_run(was, is, is_build_arg),
        (Op::Copy(was), Op::Copy(is)) => of_copy(was, is),
        (Op::Mkdir(was), Op::Mkdir(is)) if was.path != is.path => {
            Some(MissReason::WorkingDirectory { was: was.path.clone(), is: is.path.clone() })
        }
        (Op::Mkdir(was), Op::Mkdir(is)) if was.user != is.user => {
            Some(MissReason::User { was: was.user.clone(), is: is.user.clone() })
        }
        (Op::Http(was), Op::Http(is)) if was.url != is.url => {
            Some(MissReason::Address { was: was.url.clone(), is: is.url.clone() })
        }
        (Op::Git(was), Op::Git(is)) if was.reference != is.reference => {
            Some(MissReason::Address { was: was.reference.clone(), is: is.reference.clone() })
        }
        (Op::Http(was), Op::Http(is)) if was.checksum != is.checksum => Some(MissReason::Checksum),
        (Op::Git(was), Op::Git(is)) if was.checksum != is.checksum => Some(MissReason::Checksum),
        _ => None,
    };
    found.unwrap_or(MissReason::Other)
}

fn of_run(was: &RunSpec, is: &RunSpec, is_build_arg: impl Fn(&str) -> bool) -> Option<MissReason> {
    if was.args != is.args {
        return Some(MissReason::Command { was: command(was), is: command(is) });
    }
    if let Some((name, _)) = was.scripts.iter().zip(&is.scripts).find_map(|(a, b)| (a != b).then_some(b)) {
        return Some(MissReason::Script { name: name.clone() });
    }
    if was.env != is.env {
        return Some(match variable(&was.env, &is.env) {
            Some((name, was, is)) if is_build_arg(&name) => MissReason::BuildArg { name, was, is },
            Some((name, was, is)) => MissReason::Environment { name, was, is },
            None => MissReason::Order { of: "environment variables".to_owned() },
        });
    }
    if was.cwd != is.cwd {
        return Some(MissReason::WorkingDirectory { was: was.cwd.clone(), is: is.cwd.clone() });
    }
    if was.user != is.user {
        return Some(MissReason::User { was: was.user.clone(), is: is.user.clone() });
    }
    if was.mounts != is.mounts {
        return of_mounts(&was.mounts, &is.mounts);
    }
    if was.network != is.network {
        return Some(MissReason::Network { was: word(&was.network), is: word(&is.network) });
    }
    if was.security != is.security {
        return Some(MissReason::Security { was: word(&was.security), is: word(&is.security) });
    }
    if was.privileges != is.privileges {
        return Some(MissReason::Privileges);
    }
    if was.hostname != is.hostname {
        return Some(MissReason::HostName { was: was.hostname.clone(), is: is.hostname.clone() });
    }
    if was.extra_host_names != is.extra_host_names {
        let (was, is) = (was.extra_host_names.clone(), is.extra_host_names.clone());
        return Some(MissReason::ExtraHosts { was, is });
    }
    if was.ulimits != is.ulimits {
        return Some(MissReason::Ulimits { was: was.ulimits.clone(), is: is.ulimits.clone() });
    }
    (was.shm_size_bytes != is.shm_size_bytes)
        .then_some(MissReason::ShmSize { was: was.shm_size_bytes, is: is.shm_size_bytes })
}

/// The command as people wrote it: without the shell around it.
fn command(spec: &RunSpec) -> String {
    match &spec.args[..] {
        [_, flag, script] if flag == "-c" => script.clone(),
        args => args.join(" "),
    }
}

/// The first variable, by name, that differs.
fn variable(was: &[String], is: &[String]) -> Option<(String, Option<String>, Option<String>)> {
    let map = |pairs: &[String]| -> BTreeMap<String, String> {
        pairs
            .iter()
            .filter_map(|pair| pair.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect()
    };
    let (was, is) = (map(was), map(is));
    let names: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
    let name = names.into_iter().find(|name| was.get(*name) != is.get(*name))?;
    Some((name.clone(), was.get(name).cloned(), is.get(name).cloned()))
}

fn of_mounts(was: &[MountSpec], is: &[MountSpec]) -> Option<MissReason> {
    for (at, mount) in is.iter().enumerate() {
        match was.get(at) {
            Some(before) if before == mount => {}
            Some(before) if before.target == mount.target => {
                let (was, is) = differing_options(before, mount);
                return Some(MissReason::MountOption { mount: target(mount), was, is });
            }
            _ if !was.iter().any(|before| before == mount) => {
                return Some(MissReason::MountAdded { mount: target(mount) });
            }
            _ => break,
        }
    }
    Some(match was.iter().find(|before| !is.contains(before)) {
        Some(gone) => MissReason::MountRemoved { mount: target(gone) },
        None => MissReason::Order { of: "mounts".to_owned() },
    })
}

/// The options in which two mounts differ, as `--mount` has them.
fn differing_options(was: &MountSpec, is: &MountSpec) -> (String, String) {
    let (was, is) = (options(was), options(is));
    let names: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
    let differing: Vec<&String> = names.into_iter().filter(|name| was.get(*name) != is.get(*name)).collect();
    let told = |options: &BTreeMap<String, String>| {
        let told = differing.iter().map(|name| match options.get(*name) {
            Some(value) => format!("{name}={value}"),
            None => format!("no {name}"),
        });
        told.collect::<Vec<_>>().join(",")
    };
    (told(&was), told(&is))
}

/// The options of a mount that are set.
fn options(mount: &MountSpec) -> BTreeMap<String, String> {
    let source = serde_json::to_value(&mount.source).unwrap_or_default();
    let mut options = BTreeMap::from([("readonly".to_owned(), mount.read_only.to_string())]);
    for (name, value) in source.as_object().into_iter().flatten() {
        let text = match value {
            Value::Null => continue,
            Value::String(text) => text.clone(),
            Value::Number(number) if name == "mode" => {
                number.as_u64().map_or_else(|| number.to_string(), |mode| format!("{mode:04o}"))
            }
            other => other.to_string(),
        };
        let name = match name.as_str() {
            "path" => "source",
            // A place in the step's inputs; which one that is, is told by the inputs.
            "input" | "seed" => "from",
            "size_bytes" => "size",
            "cache_key" => "cachekey",
            name => name,
        };
        options.insert(name.to_owned(), text);
    }
    options
}

/// In how many fields two serialised specs differ; each element of a list counts.
pub(super) fn distance(was: &Value, is: &Value) -> usize {
    match (was, is) {
        _ if was == is => 0,
        (Value::Object(was), Value::Object(is)) => {
            let names: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
            let nothing = Value::Null;
            let differing = names.into_iter().map(|name| match (was.get(name), is.get(name)) {
                (Some(was), Some(is)) => distance(was, is),
                (was, is) => usize::from(was.unwrap_or(&nothing) != is.unwrap_or(&nothing)),
            });
            differing.sum()
        }
        (Value::Array(was), Value::Array(is)) => {
            let gone = was.iter().filter(|value| !is.contains(value)).count();
            let new = is.iter().filter(|value| !was.contains(value)).count();
            gone.max(new).max(1)
        }
        _ => 1,
    }
}

fn target(mount: &MountSpec) -> String {
    let kind = serde_json::to_value(&mount.source).ok();
    let kind = kind.as_ref().and_then(|value| value.get("type")).and_then(|kind| kind.as_str()).unwrap_or("");
    format!("{kind} {}", mount.target).trim().to_owned()
}

fn of_copy(was: &CopySpec, is: &CopySpec) -> Option<MissReason> {
    let inline = |spec: &CopySpec| -> Vec<(String, String)> {
        let sources = spec.sources.iter().filter_map(|source| match source {
            CopySource::Inline { name, content } => Some((name.clone(), content.clone())),
            _ => None,
        });
        sources.collect()
    };
    let names = |spec: &CopySpec| -> Vec<String> {
        let name = |source: &CopySource| match source {
            CopySource::Path { path, .. } => path.clone(),
            CopySource::Download { input } => format!("download {input}"),
            CopySource::Inline { name, .. } => format!("<<{name}"),
        };
        spec.sources.iter().map(name).collect()
    };
    if names(was) != names(is) {
        return Some(MissReason::Sources { was: names(was).join(" "), is: names(is).join(" ") });
    }
    if was.destination != is.destination {
        return Some(MissReason::Destination { was: was.destination.clone(), is: is.destination.clone() });
    }
    if let Some((_, (name, _))) = inline(was).iter().zip(&inline(is)).find(|(a, b)| a != b) {
        return Some(MissReason::Inline { name: name.clone() });
    }
    if was.chown != is.chown {
        return Some(MissReason::Owner { was: was.chown.clone(), is: is.chown.clone() });
    }
    if was.chmod != is.chmod {
        return Some(MissReason::Mode { was: was.chmod.clone(), is: is.chmod.clone() });
    }
    let options = |spec: &CopySpec| {
        [
            ("--exclude", spec.exclude.join(" ")),
            ("--parents", spec.parents.to_string()),
            ("--link", spec.link.to_string()),
            ("--unpack", word(&spec.unpack)),
        ]
    };
    let differing = options(was).into_iter().zip(options(is)).find(|(was, is)| was != is);
    differing.map(|((option, was), (_, is))| MissReason::CopyOption { option: option.to_owned(), was, is })
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// An enum's variant as its serialised form has it.
fn word(value: &impl Serialize) -> String {
    json(value).trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::graph::{CacheSharing, MkdirSpec, MountSource, NetworkMode, Unpack};

    type Change<T> = Box<dyn Fn(&mut T)>;

    fn run() -> RunSpec {
        RunSpec {
            args: ["/bin/sh", "-c", "make"].map(str::to_owned).to_vec(),
            env: vec!["PATH=/bin".to_owned(), "FOO=1".to_owned()],
            cwd: "/".to_owned(),
            hostname: "h".to_owned(),
            ..RunSpec::default()
        }
    }

    fn told(was: &RunSpec, is: &RunSpec) -> String {
        difference(&Op::Run(was.clone()), &Op::Run(is.clone()), |name| name == "ARG").to_string()
    }

    fn cache(target: &str, sharing: CacheSharing) -> MountSpec {
        let source = MountSource::Cache { id: "i".into(), sharing, mode: 0o755, uid: 0, gid: 0, seed: None };
        MountSpec { target: target.to_owned(), source, read_only: false }
    }

    #[test]
    fn every_field_of_a_run_has_its_sentence() {
        let table: Vec<(Change<RunSpec>, &str)> = vec![
            (Box::new(|s| s.args[2] = "make all".into()), "command was \"make\", is \"make all\""),
            (Box::new(|s| s.env[1] = "FOO=2".into()), "environment FOO was \"1\", is \"2\""),
            (Box::new(|s| s.env.push("ARG=x".into())), "build argument ARG was not set, is \"x\""),
            (Box::new(|s| s.env.truncate(1)), "environment FOO was \"1\", is not set"),
            (Box::new(|s| s.env.reverse()), "the order of the environment variables changed"),
            (Box::new(|s| s.cwd = "/w".into()), "working directory was \"/\", is \"/w\""),
            (Box::new(|s| s.user = "u".into()), "user was \"\", is \"u\""),
            (Box::new(|s| s.network = NetworkMode::None), "network mode was \"default\", is \"none\""),
            (Box::new(|s| s.privileges.no_new_privileges = true), "capabilities, devices or the seccomp"),
            (Box::new(|s| s.hostname = "x".into()), "host name was \"h\", is \"x\""),
            (Box::new(|s| s.extra_host_names.push("x".into())), "names of --add-host was \"\", is \"x\""),
            (Box::new(|s| s.ulimits.push("n=1:1".into())), "ulimits was \"\", is \"n=1:1\""),
            (Box::new(|s| s.shm_size_bytes = Some(1)), "size of /dev/shm was \"\", is \"1\""),
            (Box::new(|s| s.mounts.push(cache("/c", CacheSharing::Shared))), "mount added: \"cache /c\""),
        ];
        for (change, expected) in table {
            let mut is = run();
            change(&mut is);
            let told = told(&run(), &is);
            assert!(told.starts_with(expected), "{told}, but {expected} was expected");
        }
    }

    #[test]
    fn mounts_are_compared_one_by_one() {
        let with = |mounts: &[MountSpec]| RunSpec { mounts: mounts.to_vec(), ..run() };
        let (a, b) = (cache("/a", CacheSharing::Shared), cache("/b", CacheSharing::Shared));
        assert_eq!(
            told(&with(&[a.clone(), b.clone()]), &with(std::slice::from_ref(&b))),
            "mount removed: \"cache /a\""
        );
        let locked = told(&with(std::slice::from_ref(&a)), &with(&[cache("/a", CacheSharing::Locked)]));
        assert_eq!(locked, "mount cache /a was \"sharing=shared\", is \"sharing=locked\"");
        let tmpfs = |size_bytes, read_only| {
            let source = MountSource::Tmpfs { size_bytes };
            with(&[MountSpec { target: "/t".to_owned(), source, read_only }])
        };
        assert_eq!(
            told(&tmpfs(None, false), &tmpfs(Some(7), true)),
            "mount tmpfs /t was \"readonly=false,no size\", is \"readonly=true,size=7\""
        );
        assert_eq!(told(&with(&[a.clone(), b.clone()]), &with(&[b, a])), "the order of the mounts changed");
    }

    #[test]
    fn specs_are_closer_the_fewer_fields_differ() {
        let of = |change: &dyn Fn(&mut RunSpec)| {
            let mut is = run();
            change(&mut is);
            let json = |spec: RunSpec| serde_json::to_value(Op::Run(spec)).unwrap();
            distance(&json(run()), &json(is))
        };
        assert_eq!(of(&|_| {}), 0);
        assert_eq!(of(&|s| s.extra_host_names.push("x".into())), 1);
        assert_eq!(of(&|s| s.env.extend(["A=1".into(), "B=2".into()])), 2);
        assert_eq!(of(&|s| (s.args[1] = "-ec".into(), s.cwd = "/w".into()).0), 2);
    }

    #[test]
    fn every_field_of_a_copy_has_its_sentence() {
        let copy = || CopySpec {
            sources: vec![
                CopySource::Path { input: 1, path: "a".into() },
                CopySource::Inline { name: "E".into(), content: "x".into() },
            ],
            destination: "/d".into(),
            chown: None,
            chmod: None,
            parents: false,
            exclude: vec![],
            unpack: Unpack::Never,
            link: false,
        };
        let table: Vec<(Change<CopySpec>, &str)> = vec![
            (Box::new(|s| s.destination = "/e".into()), "destination was \"/d\", is \"/e\""),
            (Box::new(|s| s.chown = Some("1".into())), "--chown was \"\", is \"1\""),
            (Box::new(|s| s.chmod = Some("755".into())), "--chmod was \"\", is \"755\""),
            (Box::new(|s| s.exclude.push("x".into())), "--exclude was \"\", is \"x\""),
            (Box::new(|s| s.parents = true), "--parents was \"false\", is \"true\""),
            (Box::new(|s| s.unpack = Unpack::Local), "--unpack was \"never\", is \"local\""),
            (
                Box::new(|s| s.sources[0] = CopySource::Path { input: 1, path: "b".into() }),
                "sources was \"a <<E\", is \"b <<E\"",
            ),
            (
                Box::new(|s| s.sources[1] = CopySource::Inline { name: "E".into(), content: "y".into() }),
                "here-document \"E\" changed",
            ),
        ];
        for (change, expected) in table {
            let mut is = copy();
            change(&mut is);
            assert_eq!(difference(&Op::Copy(copy()), &Op::Copy(is), |_| false).to_string(), expected);
        }
        let mkdir = |path: &str| Op::Mkdir(MkdirSpec { path: path.into(), user: String::new() });
        let told = difference(&mkdir("/a"), &mkdir("/b"), |_| false).to_string();
        assert_eq!(told, "working directory was \"/a\", is \"/b\"");
    }
}
