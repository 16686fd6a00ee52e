//! Whole plans of small files, with images that exist in memory only.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::graph::*;
use super::*;
use crate::base::digest::{DiffId, Digest};
use crate::image::config::{ContainerConfig, History, ImageConfig};

/// Any image has one layer of its own; configs may be given. Names that begin with `missing` do not exist.
#[derive(Default)]
struct Images {
    configs: BTreeMap<String, ContainerConfig>,
    asked: Mutex<Vec<String>>,
}

impl Images {
    fn with(name: &str, config: ContainerConfig) -> Self {
        Self { configs: [(name.to_owned(), config)].into(), ..Self::default() }
    }

    fn asked(&self) -> Vec<String> {
        let mut asked = self.asked.lock().unwrap().clone();
        asked.sort();
        asked
    }
}

impl ImageResolver for Images {
    fn resolve(&self, request: &ImageRequest) -> Result<Arc<ResolvedImage>, ResolveError> {
        self.asked.lock().unwrap().push(request.name.clone());
        if request.name.starts_with("missing") {
            return Err(ResolveError { message: format!("{}: not found", request.name), hint: None });
        }
        let digest = Digest::of(format!("{}{}", request.name, request.platform).as_bytes());
        let config = ImageConfig {
            architecture: request.platform.architecture.clone(),
            os: request.platform.os.clone(),
            config: self.configs.get(&request.name).cloned().unwrap_or_default(),
            history: vec![History { created_by: "base".into(), ..History::default() }],
            created: Some("2020-01-01T00:00:00Z".into()),
            ..ImageConfig::default()
        };
        let descriptor =
            serde_json::from_value(serde_json::json!({ "digest": digest.to_string(), "size": 1 })).unwrap();
        let layers = vec![ImageLayer { diff_id: DiffId(digest), descriptor }];
        let layers = if request.name == "configonly" { Vec::new() } else { layers };
        let name = request.name.clone();
        Ok(Arc::new(ResolvedImage { name, digest, config, layers, location: BlobLocation::Store }))
    }
}

fn amd64() -> PlanOptions {
    PlanOptions { platforms: vec![Platform::new("linux", "amd64", "")], ..PlanOptions::default() }
}

fn args(pairs: &[(&str, &str)]) -> PlanOptions {
    let build_args = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    PlanOptions { build_args, ..amd64() }
}

fn plan_with(text: &str, options: &PlanOptions, images: &Images) -> Result<Plan, PlanError> {
    let parsed = kiln_grammar::parse(text);
    assert!(!parsed.has_errors(), "{:?}", parsed.diagnostics);
    plan(&parsed.buildfile, options, images)
}

fn planned(text: &str, options: &PlanOptions) -> Plan {
    plan_with(text, options, &Images::default()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn plain(text: &str) -> Plan {
    planned(text, &amd64())
}

fn refused(text: &str, options: &PlanOptions) -> Diagnostic {
    let mut found = plan_with(text, options, &Images::default()).expect_err(text).diagnostics;
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

fn message(text: &str) -> String {
    refused(text, &amd64()).message
}

fn runs(plan: &Plan) -> Vec<&RunSpec> {
    plan.graph
        .vertices
        .iter()
        .filter_map(|vertex| match &vertex.op {
            Op::Run(spec) => Some(spec),
            _ => None,
        })
        .collect()
}

fn copies(plan: &Plan) -> Vec<&CopySpec> {
    plan.graph
        .vertices
        .iter()
        .filter_map(|vertex| match &vertex.op {
            Op::Copy(spec) => Some(spec),
            _ => None,
        })
        .collect()
}

fn history(plan: &Plan) -> Vec<&str> {
    plan.images[0].history.iter().map(|entry| entry.created_by.as_str()).collect()
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.graph.vertices.iter().map(|vertex| vertex.name.as_str()).collect()
}

fn env_of(spec: &RunSpec, name: &str) -> Option<String> {
    let pair = spec.env.iter().find(|pair| pair.split('=').next() == Some(name))?;
    pair.split_once('=').map(|(_, value)| value.to_owned())
}

mod variables {
    use super::*;

    #[test]
    fn a_build_arg_beats_the_stage_which_beats_the_global_value() {
        let text = "ARG A=global\nARG B=global\nFROM x\nARG A\nARG B=stage\nARG C=stage\nRUN t";
        let plan = planned(text, &args(&[("C", "given")]));
        let spec = runs(&plan)[0];
        assert_eq!(env_of(spec, "A").as_deref(), Some("global"));
        assert_eq!(env_of(spec, "B").as_deref(), Some("stage"));
        assert_eq!(env_of(spec, "C").as_deref(), Some("given"));
        assert_eq!(history(&plan)[3], "RUN |3 A=global B=stage C=given /bin/sh -c t # buildkit");
    }

    #[test]
    fn an_unset_arg_is_in_history_but_not_in_the_environment() {
        let plan = plain("FROM x\nARG A\nRUN t\nLABEL a=${A-fallback}");
        assert_eq!(history(&plan)[..2], ["ARG A", "RUN |1 A= /bin/sh -c t # buildkit"]);
        assert_eq!(env_of(runs(&plan)[0], "A"), None);
        assert_eq!(plan.images[0].config.config.labels["a"], "fallback");
    }

    #[test]
    fn env_sees_the_values_from_before_and_arg_those_of_its_own_line() {
        let plan = plain("FROM x\nENV a=1\nENV a=2 b=$a\nARG c=1\nARG c=2 d=$c\nRUN t");
        assert_eq!(plan.images[0].config.config.env[1..], ["a=2", "b=1"]);
        assert_eq!(env_of(runs(&plan)[0], "d").as_deref(), Some("2"));
    }

    #[test]
    fn the_later_of_arg_and_env_wins() {
        let plan = plain("FROM x\nENV V=env\nARG V=arg\nRUN t\nENV V=again\nRUN u");
        let values: Vec<_> = runs(&plan).iter().map(|spec| env_of(spec, "V").unwrap()).collect();
        assert_eq!(values, ["arg", "again"]);
        assert_eq!(plan.images[0].config.config.env[1..], ["V=again"]);
        assert_eq!(history(&plan)[2], "RUN |1 V=arg /bin/sh -c t # buildkit");
    }

    #[test]
    fn args_reach_child_stages_but_no_other_and_no_image() {
        let plan =
            plain("FROM x AS one\nARG V=1\nFROM one AS two\nRUN a\nFROM x\nRUN b\nCOPY --from=two / /");
        let values: Vec<_> = runs(&plan).iter().map(|spec| env_of(spec, "V")).collect();
        assert_eq!(values, [Some("1".to_owned()), None]);
        assert_eq!(plan.images[0].config.config.env.len(), 1);
    }

    #[test]
    fn platform_args_are_global_and_have_to_be_declared() {
        let text = "FROM --platform=$BUILDPLATFORM img-$TARGETARCH\nRUN a\nARG TARGETARCH TARGETSTAGE\nRUN b";
        let options = PlanOptions { platforms: vec![Platform::new("linux", "arm64", "")], ..args(&[]) };
        let plan = planned(text, &options);
        let specs = runs(&plan);
        assert_eq!(env_of(specs[0], "TARGETARCH"), None);
        assert_eq!(env_of(specs[1], "TARGETARCH").as_deref(), Some("arm64"));
        assert_eq!(env_of(specs[1], "TARGETSTAGE").as_deref(), Some("default"));
        assert!(names(&plan)[0].contains("FROM img-arm64@"), "{:?}", names(&plan));
        assert_eq!(plan.graph.vertices[0].platform, Platform::host());
        let overridden = PlanOptions { build_args: args(&[("TARGETARCH", "mine")]).build_args, ..options };
        assert!(names(&planned(text, &overridden))[0].contains("img-mine"));
    }

    #[test]
    fn unused_build_args_are_told_with_a_suggestion() {
        let options =
            args(&[("VERSON", "1"), ("HTTP_PROXY", "p"), ("BUILDKIT_INLINE_CACHE", "1"), ("U", "1")]);
        let plan = planned("FROM x AS unreached\nARG U\nFROM x\nARG VERSION=2\nRUN t", &options);
        assert_eq!(plan.unused_build_args, ["VERSON"]);
        assert_eq!(plan.diagnostics[0].hint.as_deref(), Some("did you mean `VERSION`?"));
        assert!(runs(&plan)[0].env.iter().all(|pair| !pair.contains("PROXY")));
    }

    #[test]
    fn the_epoch_comes_from_three_places() {
        let epoch = |text: &str, options: &PlanOptions| planned(text, options).source_date_epoch;
        let environment = PlanOptions { environment_epoch: Some("7".into()), ..amd64() };
        let global = "ARG SOURCE_DATE_EPOCH=5\nFROM x";
        assert_eq!(epoch(global, &amd64()), Some(5));
        assert_eq!(epoch(global, &environment), Some(7));
        assert_eq!(epoch(global, &args(&[("SOURCE_DATE_EPOCH", "9")])), Some(9));
        assert_eq!(epoch("FROM x", &amd64()), None);
        assert_eq!(epoch("FROM x", &args(&[("SOURCE_DATE_EPOCH", "context")])), None);
        let plan = planned("FROM x\nARG SOURCE_DATE_EPOCH\nRUN t", &environment);
        assert_eq!(env_of(runs(&plan)[0], "SOURCE_DATE_EPOCH").as_deref(), Some("7"));
        let error = refused("FROM x", &args(&[("SOURCE_DATE_EPOCH", "yesterday")]));
        assert_eq!(error.message, "invalid SOURCE_DATE_EPOCH: yesterday");
    }

    #[test]
    fn a_required_value_fails_with_its_message() {
        assert!(message("FROM x\nENV E=\nLABEL a=${E:?please-set-E}").contains("please-set-E"));
    }
}

mod stages {
    use super::*;

    #[test]
    fn only_what_the_target_needs_is_resolved() {
        let images = Images::default();
        let text = "FROM missing1 AS a\nFROM base AS b\nRUN x\nFROM tool AS c\nFROM other\n\
                    COPY --from=b / /\nRUN --mount=from=C,target=/m t\nCOPY --from=extra:1 / /";
        let plan = plan_with(text, &amd64(), &images).unwrap();
        assert_eq!(images.asked(), ["base", "extra:1", "other", "tool"]);
        assert!(
            plan.graph.vertices.iter().enumerate().all(|(i, v)| v.inputs.iter().all(|n| (n.0 as usize) < i))
        );
        assert_eq!(plan.images[0].base_history.len(), 1);
        assert_eq!(plan.images[0].config.created, None);
    }

    #[test]
    fn names_ignore_case_and_the_last_of_equal_ones_counts() {
        let plan = plain("FROM one AS a\nFROM two AS A\nFROM A\nCOPY --from=0 /x /\nCOPY --from=a /y /");
        let sources: Vec<_> = plan
            .graph
            .vertices
            .iter()
            .filter(|v| matches!(v.op, Op::Copy(_)))
            .map(|v| plan.graph.vertex(v.inputs[1]).name.clone())
            .collect();
        assert!(sources[0].contains("FROM one@"), "{sources:?}");
        assert!(sources[1].contains("FROM two@"), "{sources:?}");
    }

    #[test]
    fn targets() {
        let text = "FROM x AS First\nLABEL n=1\nFROM x AS second\nLABEL n=2\nFROM x\nLABEL n=3";
        let label = |target: &str| {
            let options = PlanOptions { target: Some(target.into()), ..amd64() };
            planned(text, &options).images[0].config.config.labels["n"].clone()
        };
        assert_eq!([label("FIRST"), label("1"), label("")], ["1", "2", "3"]);
        let unknown = PlanOptions { target: Some("secnd".into()), ..amd64() };
        let error = refused(text, &unknown);
        assert_eq!(error.message, "target stage \"secnd\" could not be found");
        assert_eq!(error.hint.as_deref(), Some("did you mean `second`?"));
        let far = PlanOptions { target: Some("zzzzzz".into()), ..amd64() };
        assert_eq!(refused(text, &far).hint.as_deref(), Some("the stages are first, second"));
    }

    #[test]
    fn references_that_cannot_be() {
        for (text, expected) in [
            ("FROM x AS me\nCOPY --from=me /a /b", "circular dependency detected on stage: me"),
            (
                "FROM x AS a\nCOPY --from=b / /\nFROM x AS b\nCOPY --from=a / /",
                "circular dependency detected on stage: a",
            ),
            ("FROM x\nCOPY --from=7 /f /f", "invalid stage index 7"),
            ("FROM $NONE", "base name ($NONE) should not be blank"),
            ("FROM --platform=$NONE x", "empty platform value from expression $NONE"),
        ] {
            assert_eq!(message(text), expected);
        }
        let later = "FROM x AS a\nCOPY --from=b / /\nFROM x AS b\nFROM a";
        assert_eq!(
            message(later),
            "cannot copy from stage \"b\", it needs to be defined before current stage \"a\""
        );
        assert!(message("FROM --platform=not//a//platform x").starts_with("failed to parse platform"));
        assert!(message("FROM UPPER/Not_A_Valid:::ref").contains("invalid reference format"));
        // Also where nothing would be built from it.
        assert!(message("FROM a:-b AS unreached\nFROM x").contains("invalid reference format"));
    }

    #[test]
    fn several_errors_are_told_at_once() {
        let text = "FROM missing1 AS a\nFROM missing2 AS b\nFROM a\nCOPY --from=b / /\nEXPOSE eighty";
        let found = plan_with(text, &amd64(), &Images::default()).unwrap_err().diagnostics;
        let messages: Vec<_> = found.iter().map(|found| found.message.as_str()).collect();
        assert_eq!(messages, ["missing1: not found", "missing2: not found"]);
        assert!(found.iter().all(|found| text[found.span.start..found.span.end].starts_with("missing")));
    }

    #[test]
    fn scratch_is_not_quite_empty() {
        let plan = plain("FROM scratch\nCOPY app /");
        let config = &plan.images[0].config;
        assert_eq!((config.os.as_str(), config.architecture.as_str()), ("linux", "amd64"));
        assert_eq!(config.config.working_dir, "/");
        assert_eq!(config.config.env, [args::DEFAULT_PATH]);
        assert!(matches!(plain("FROM configonly").graph.vertices[0].op, Op::Scratch));
    }

    #[test]
    fn named_contexts_stand_in() {
        let contexts = [
            ("tool".to_owned(), ContextKind::Local),
            ("old".to_owned(), ContextKind::Image("new".into())),
            ("stage".to_owned(), ContextKind::Git("https://h/r.git".into())),
        ];
        let images = Images::default();
        let options = PlanOptions { contexts: contexts.into(), ..amd64() };
        let text = "FROM missing AS stage\nRUN never\nFROM old:latest\nCOPY --from=tool a /a\n\
                    RUN --mount=from=tool,source=sub,target=/m t\nCOPY --from=stage /x /x";
        let plan = plan_with(text, &options, &images).unwrap();
        assert_eq!(images.asked(), ["new"]);
        assert_eq!(runs(&plan).len(), 1);
        let git = |v: &&Vertex| matches!(&v.op, Op::Git(spec) if spec.reference == "https://h/r.git");
        assert_eq!(plan.graph.vertices.iter().filter(git).count(), 1);
        let MountSource::Bind { input, path } = &runs(&plan)[0].mounts[0].source else {
            panic!("not a bind")
        };
        assert_eq!((*input, path.as_str()), (1, "/sub"));
    }

    #[test]
    fn a_local_context_can_be_a_base() {
        let options = PlanOptions { contexts: [("files".to_owned(), ContextKind::Local)].into(), ..amd64() };
        let plan = planned("FROM files\nRUN t", &options);
        let kinds: Vec<_> = plan.graph.vertices.iter().map(|v| std::mem::discriminant(&v.op)).collect();
        assert_eq!(kinds.len(), 4);
        assert_eq!(copies(&plan)[0].destination, "/");
    }

    #[test]
    fn platforms_share_what_does_not_depend_on_them() {
        let options = PlanOptions {
            platforms: vec![Platform::new("linux", "amd64", ""), Platform::new("linux", "arm64", "")],
            ..PlanOptions::default()
        };
        let text =
            "FROM --platform=linux/amd64 tool AS build\nRUN make\nFROM x\nCOPY --from=build /o /o\nRUN t";
        let plan = planned(text, &options);
        assert_eq!(plan.images.len(), 2);
        assert_eq!(runs(&plan).iter().filter(|spec| spec.args[2] == "make").count(), 1);
        assert_eq!(runs(&plan).iter().filter(|spec| spec.args[2] == "t").count(), 2);
        assert_eq!(plan.images[1].config.architecture, "arm64");
        assert!(names(&plan).contains(&"[linux/arm64 stage-1 3/3] RUN t"), "{:?}", names(&plan));
    }

    #[test]
    fn images_that_are_read_are_for_the_target() {
        let text =
            "FROM --platform=linux/arm64 x\nCOPY --from=tool /t /t\nRUN --mount=from=other,target=/m t";
        let plan = plain(text);
        let platforms: Vec<String> = plan
            .graph
            .vertices
            .iter()
            .filter(|vertex| matches!(vertex.op, Op::Image(_)))
            .map(|vertex| vertex.platform.to_string())
            .collect();
        assert_eq!(platforms, ["linux/arm64", "linux/amd64", "linux/amd64"]);
        let run = plan.graph.vertices.iter().find(|vertex| matches!(vertex.op, Op::Run(_))).unwrap();
        assert_eq!(run.platform.to_string(), "linux/arm64");
        // The image says what was asked for; without --platform it says what the base is.
        assert_eq!(plan.images[0].config.architecture, "amd64");
        let implicit = PlanOptions { platforms: Vec::new(), ..amd64() };
        assert_eq!(planned(text, &implicit).images[0].config.architecture, "arm64");
    }

    #[test]
    fn step_names() {
        let one = plain("FROM x\nENV A=b\nRUN make\nWORKDIR /$A/c\nCOPY $A /d");
        assert_eq!(
            names(&one)[1..],
            ["[2/4] RUN make", "[3/4] WORKDIR /b/c", "[internal] load build context", "[4/4] COPY b /d"]
        );
        let two = plain("FROM x AS base\nFROM base\nrun make");
        assert!(names(&two)[0].starts_with("[base 1/1] FROM x@sha256:"));
        assert_eq!(names(&two)[1], "[stage-1 1/1] RUN make");
    }

    #[test]
    fn ignoring_the_cache() {
        let text = "FROM x AS a\nRUN one\nFROM a AS b\nRUN two";
        let ignored = |options: &PlanOptions| -> Vec<bool> {
            planned(text, options).graph.vertices.iter().map(|v| v.ignore_cache).collect()
        };
        assert_eq!(ignored(&PlanOptions { no_cache: true, ..amd64() }), [false, true, true]);
        assert_eq!(
            ignored(&PlanOptions { no_cache_stages: vec!["B".into()], ..amd64() }),
            [false, false, true]
        );
        let plan = planned(text, &PlanOptions { no_cache_stages: vec!["A".into(), "bb".into()], ..amd64() });
        let told: Vec<_> =
            plan.diagnostics.iter().map(|d| (d.message.as_str(), d.hint.as_deref().unwrap_or(""))).collect();
        assert_eq!(told, [("--no-cache-filter: no stage is named `bb`", "did you mean `b`?")]);
    }
}

mod onbuild {
    use super::*;

    fn base(triggers: &[&str]) -> Images {
        let on_build = triggers.iter().map(|text| (*text).to_owned()).collect();
        Images::with("base", ContainerConfig { on_build, ..ContainerConfig::default() })
    }

    #[test]
    fn triggers_run_first_and_are_gone() {
        let images = base(&["RUN echo first", "ENV T=$U", "COPY --from=donor /gift /gift"]);
        let text = "FROM gift AS donor\nRUN make gift\nFROM base\nRUN own";
        let plan = plan_with(text, &amd64(), &images).unwrap();
        let shown = history(&plan);
        assert_eq!(shown[0], "RUN /bin/sh -c echo first # buildkit");
        assert_eq!(shown[1], "ENV T=");
        assert_eq!(shown[2], "COPY /gift /gift # buildkit");
        assert_eq!(shown[3], "RUN /bin/sh -c own # buildkit");
        assert!(plan.images[0].config.config.on_build.is_empty());
        assert!(runs(&plan).iter().any(|spec| spec.args[2] == "make gift"), "the donor became reachable");
        let vertex = plan.graph.vertices.iter().find(|v| v.name.contains("echo first")).unwrap();
        assert_eq!(vertex.name, "[stage-1 2/4] ONBUILD RUN echo first");
        assert_eq!(vertex.origin.as_ref().unwrap().trigger.as_deref(), Some("RUN echo first"));
        assert!(text[vertex.origin.as_ref().unwrap().span.start..].starts_with("FROM base"));
    }

    #[test]
    fn a_stage_can_be_the_base_of_triggers() {
        let text = "FROM x AS parent\nONBUILD RUN <<EOF\nONBUILD echo\nEOF\nFROM parent AS child\nFROM child";
        let plan = plain(text);
        assert_eq!(runs(&plan).len(), 1, "not run for grandchildren");
        assert_eq!(runs(&plan)[0].args[2], "ONBUILD echo\n");
        let parent = PlanOptions { target: Some("parent".into()), ..amd64() };
        let image = &planned(text, &parent).images[0];
        assert_eq!(image.config.config.on_build.len(), 1);
        assert!(image.history.is_empty());
    }

    #[test]
    fn a_bad_trigger_is_told_at_the_from() {
        for trigger in ["FROBNICATE now", "COPY --from=99 a b", "EXPOSE x", "RUN --mount=target=/ t"] {
            let text = "# a comment that is longer than the trigger\nFROM base\nRUN x";
            let found = plan_with(text, &amd64(), &base(&[trigger])).unwrap_err().diagnostics;
            assert!(text[found[0].span.start..].starts_with("FROM base"), "{found:?}");
            assert!(found[0].label.contains(trigger), "{found:?}");
        }
    }

    #[test]
    fn args_of_triggers_consume_build_args() {
        let options = args(&[("FLAVOUR", "sweet")]);
        let plan = plan_with("FROM base", &options, &base(&["ARG FLAVOUR=plain", "RUN t"])).unwrap();
        assert!(plan.unused_build_args.is_empty());
        assert_eq!(env_of(runs(&plan)[0], "FLAVOUR").as_deref(), Some("sweet"));
    }
}

mod config {
    use super::*;

    #[test]
    fn the_base_is_inherited() {
        let base = ContainerConfig {
            user: "app".into(),
            working_dir: "/srv".into(),
            env: vec!["GREETING=hello".into()],
            cmd: Some(vec!["c".into()]),
            entrypoint: Some(vec!["e".into()]),
            shell: vec!["/bin/sh".into(), "-ec".into()],
            stop_signal: "SIGQUIT".into(),
            ..ContainerConfig::default()
        };
        let images = Images::with("base", base.clone());
        let plan = plan_with("FROM base\nRUN t", &amd64(), &images).unwrap();
        let spec = runs(&plan)[0];
        assert_eq!(spec.args, ["/bin/sh", "-ec", "t"]);
        assert_eq!((spec.user.as_str(), spec.cwd.as_str()), ("app", "/srv"));
        assert_eq!(spec.env, ["GREETING=hello", args::DEFAULT_PATH]);
        assert_eq!(
            plan.images[0].config.config,
            ContainerConfig { env: vec!["GREETING=hello".into(), args::DEFAULT_PATH.into()], ..base }
        );
    }

    #[test]
    fn entrypoint_drops_the_bases_cmd_only() {
        let base = || {
            Images::with(
                "base",
                ContainerConfig { cmd: Some(vec!["c".into()]), ..ContainerConfig::default() },
            )
        };
        let cmd =
            |text: &str| plan_with(text, &amd64(), &base()).unwrap().images[0].config.config.cmd.clone();
        assert_eq!(cmd("FROM base\nENTRYPOINT [\"e\"]"), None);
        assert_eq!(cmd("FROM base\nCMD [\"own\"]\nENTRYPOINT [\"e\"]"), Some(vec!["own".into()]));
        assert_eq!(cmd("FROM base AS b\nCMD [\"own\"]\nFROM b\nENTRYPOINT [\"e\"]"), None);
        assert_eq!(cmd("FROM base\nCMD []"), None);
    }

    #[test]
    fn history_texts() {
        let text = "FROM x\nENV A=\"b c\" D=e\nLABEL l=$A\nCMD echo \"hi\"\nENTRYPOINT [\"a\", \"b\"]\n\
            EXPOSE 443 80-81/udp\nVOLUME /a /b\nUSER u\nSTOPSIGNAL 9\nSHELL [\"/bin/bash\", \"-c\"]\n\
            MAINTAINER Me <me@x>\nHEALTHCHECK --interval=90s --retries=3 CMD curl x\nWORKDIR sub\nWORKDIR /\n\
            COPY --parents --exclude=z --chmod=644 --chown=1:2 a b /c/\nADD --link f g\nCOPY <<E /e\nx\nE\nRUN t";
        let plan = plain(text);
        assert_eq!(
            history(&plan),
            [
                "ENV A=b c D=e",
                "LABEL l=b c",
                "CMD [\"/bin/sh\" \"-c\" \"echo \\\"hi\\\"\"]",
                "ENTRYPOINT [\"a\" \"b\"]",
                "EXPOSE [443/tcp 80/udp 81/udp]",
                "VOLUME [/a /b]",
                "USER u",
                "STOPSIGNAL 9",
                "SHELL [/bin/bash -c]",
                "MAINTAINER Me <me@x>",
                "HEALTHCHECK {Test:[CMD-SHELL curl x] Interval:1m30s Timeout:0s StartPeriod:0s StartInterval:0s Retries:3}",
                "WORKDIR /sub",
                "WORKDIR /",
                "COPY --parents --chown=1:2 --chmod=644 a b /c/ # buildkit",
                "ADD f g # buildkit",
                "COPY <<E /e # buildkit",
                "RUN /bin/bash -c t # buildkit",
            ]
        );
        let layers: Vec<bool> = plan.images[0].history.iter().map(|entry| entry.vertex.is_some()).collect();
        assert_eq!(layers[11..], [true, false, true, true, true, true]);
        assert!(plan.images[0].history.iter().all(|entry| entry.comment == "buildkit.dockerfile.v0"));
        let config = &plan.images[0].config;
        assert_eq!(config.author, "Me <me@x>");
        assert!(config.config.args_escaped);
    }

    #[test]
    fn labels_of_the_command_line_come_last() {
        let options =
            PlanOptions { labels: vec![("a".into(), "$X".into()), ("b".into(), "1".into())], ..amd64() };
        let plan = planned("FROM x\nLABEL a=0", &options);
        assert_eq!(plan.images[0].config.config.labels["a"], "$X");
        assert_eq!(plan.images[0].history.len(), 1);
    }

    #[test]
    fn the_final_image_alone_is_changed() {
        let options = PlanOptions {
            env: vec![("B".into(), "2".into()), ("NEW".into(), String::new())],
            unset_env: vec!["A".into(), "NONE".into()],
            unset_labels: vec!["l".into()],
            labels: vec![("l2".into(), "x".into())],
            ..amd64()
        };
        let plan = planned("FROM x\nENV A=1 AB=1 B=1\nLABEL l=0 l2=0\nRUN t", &options);
        let config = &plan.images[0].config.config;
        let own: Vec<&str> =
            config.env.iter().map(String::as_str).filter(|pair| !pair.starts_with("PATH=")).collect();
        assert_eq!(own, ["AB=1", "B=2", "NEW="]);
        assert_eq!(config.labels.keys().map(String::as_str).collect::<Vec<_>>(), ["l2"]);
        // Steps see what the Buildfile says.
        let run = plan.graph.vertices.iter().find_map(|vertex| match &vertex.op {
            Op::Run(spec) => Some(spec.env.clone()),
            _ => None,
        });
        let env = run.unwrap();
        assert!(env.contains(&"A=1".to_owned()) && env.contains(&"B=1".to_owned()), "{env:?}");
        assert!(!env.iter().any(|pair| pair.starts_with("NEW=")), "{env:?}");
    }

    #[test]
    fn workdirs() {
        let plan = plain("FROM x\nWORKDIR /w/\nENV E=\nWORKDIR $E\nUSER u\nWORKDIR ../a/./b\nRUN t");
        let made: Vec<_> = plan
            .graph
            .vertices
            .iter()
            .filter_map(|vertex| match &vertex.op {
                Op::Mkdir(spec) => Some((spec.path.as_str(), spec.user.as_str())),
                _ => None,
            })
            .collect();
        assert_eq!(made, [("/w", ""), ("/w", ""), ("/a/b", "u")]);
        assert_eq!(runs(&plan)[0].cwd, "/a/b");
        assert_eq!(plain("FROM x\nWORKDIR /w/").images[0].config.config.working_dir, "/w/");
    }

    #[test]
    fn bad_values_are_named() {
        for (text, expected) in [
            ("FROM x\nSTOPSIGNAL SIGNOPE", "invalid signal: SIGNOPE"),
            ("FROM x\nENV E=\nVOLUME $E", "VOLUME specified can not be an empty string"),
            ("FROM x\nEXPOSE eighty", "invalid containerPort: eighty"),
            ("FROM x\nRUN []", "RUN has no command: the array is empty"),
        ] {
            assert_eq!(message(text), expected);
        }
    }

    #[test]
    fn variables_may_hold_several_ports() {
        let plan = plain("FROM x\nENV PORTS=\"1000 2000/udp\"\nEXPOSE $PORTS 80/tcp 80");
        assert_eq!(history(&plan)[1], "EXPOSE [1000/tcp 2000/udp 80/tcp 80/tcp]");
        assert_eq!(plan.images[0].config.config.exposed_ports.len(), 3);
    }
}

mod run {
    use super::*;

    #[test]
    fn heredocs() {
        let plan = plain(
            "FROM x\nRUN <<EOF\na\nb\nEOF\nRUN <<PY\n#!/usr/bin/env python\nprint()\nPY\n\
             RUN cat <<A > /a && cat <<-'B' > /b\none\nA\n\ttwo\n\tB\nRUN [\"/x\", \"$HOME\"]",
        );
        let specs = runs(&plan);
        assert_eq!(specs[0].args, ["/bin/sh", "-c", "a\nb\n"]);
        assert_eq!(specs[1].args, ["/bin/sh", "-c", "/dev/pipes/PY"]);
        assert_eq!(specs[1].scripts, [("PY".to_owned(), "#!/usr/bin/env python\nprint()\n".to_owned())]);
        assert_eq!(specs[2].args[2], "cat <<A > /a && cat <<-'B' > /b\none\nA\n\ttwo\nB");
        assert_eq!(specs[3].args, ["/x", "$HOME"]);
        assert_eq!(names(&plan)[1], "[2/5] RUN <<EOF (a...)");
    }

    #[test]
    fn entitlements() {
        let allowed = |entitlement: &str| PlanOptions { allow: vec![entitlement.into()], ..amd64() };
        let host = "FROM x\nRUN --network=host t";
        assert!(message(host).contains("network.host"));
        assert_eq!(runs(&planned(host, &allowed("network.host")))[0].network, NetworkMode::Host);
        let insecure = "FROM x\nRUN --security=insecure t";
        assert!(message(insecure).contains("security.insecure"));
        assert_eq!(
            runs(&planned(insecure, &allowed("security.insecure")))[0].security,
            SecurityMode::Insecure
        );
        let all = PlanOptions { network: NetworkMode::Host, ..amd64() };
        assert!(refused("FROM x\nRUN t", &all).hint.unwrap().contains("--allow network.host"));
        let none = PlanOptions { network: NetworkMode::None, ..allowed("network.host") };
        let plan = planned("FROM x\nRUN a\nRUN --network=host b\nRUN --network=default c", &none);
        let modes: Vec<_> = runs(&plan).iter().map(|spec| spec.network).collect();
        assert_eq!(modes, [NetworkMode::None, NetworkMode::Host, NetworkMode::None]);
    }

    #[test]
    fn mounts_of_the_context_take_only_what_they_show() {
        let plan =
            plain("FROM x\nARG S=in,put\nWORKDIR /w\nRUN --mount=source=$S,target=rel --mount=target=/all t");
        let spec = runs(&plan)[0];
        assert_eq!(spec.mounts[0].target, "/w/rel");
        assert!(spec.mounts[0].read_only);
        assert_eq!(spec.mounts[0].source, MountSource::Bind { input: 1, path: "/in,put".into() });
        assert_eq!(spec.mounts[1].source, MountSource::Bind { input: 2, path: "/".into() });
        let parts = copies(&plan);
        assert_eq!((parts[0].parents, parts[0].destination.as_str()), (true, "/"));
        assert_eq!(parts[0].sources, [CopySource::Path { input: 1, path: "in,put".into() }]);
        assert_eq!(parts[1].sources, [CopySource::Path { input: 1, path: "/".into() }]);
        let run = plan.graph.vertices.last().unwrap();
        assert!(run.inputs[1..].iter().all(|id| plan.graph.vertex(*id).stage.is_empty()));
    }

    #[test]
    fn caches() {
        let options = args(&[("BUILDKIT_CACHE_MOUNT_NS", "ns"), ("BUILDKIT_SANDBOX_HOSTNAME", "h")]);
        let text = "FROM seed AS seed\nFROM x\nRUN --mount=type=cache,target=/a/../b/ --mount=type=cache,target=/c,id=i,uid=5 \
                    --mount=type=cache,target=/d,from=seed,source=/s,mode=700,sharing=locked t";
        let plan = planned(text, &options);
        let spec = runs(&plan)[0];
        assert_eq!(spec.hostname, "h");
        assert_eq!(spec.mounts[0].target, "/b");
        let cache = |i: usize| match &spec.mounts[i].source {
            MountSource::Cache { id, sharing, mode, uid, seed, .. } => {
                (id.as_str(), *sharing, *mode, *uid, seed.clone())
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(cache(0), ("ns//b", CacheSharing::Shared, 0o755, 0, None));
        assert_eq!(cache(1), ("ns/i#mode=0755,uid=5,gid=0", CacheSharing::Shared, 0o755, 5, None));
        assert_eq!(cache(2), ("ns//d", CacheSharing::Locked, 0o700, 0, Some((1, "/s".into()))));
    }

    #[test]
    fn secrets_and_agents() {
        let plan = plain(
            "FROM x\nRUN --mount=type=secret,id=a/b --mount=type=secret,id=k,env=K --mount=type=secret,id=k,env=K,target=/k \
             --mount=type=ssh --mount=type=ssh,id=two,target=/sock t",
        );
        let spec = runs(&plan)[0];
        let targets: Vec<_> = spec.mounts.iter().map(|mount| mount.target.as_str()).collect();
        assert_eq!(targets, ["/run/secrets/b", "", "/k", "/run/buildkit/ssh_agent.0", "/sock"]);
        assert_eq!(env_of(spec, "SSH_AUTH_SOCK").as_deref(), Some("/run/buildkit/ssh_agent.0"));
        assert!(!history(&plan)[0].contains("SSH_AUTH_SOCK"));
    }

    #[test]
    fn bad_mounts() {
        for (text, expected) in [
            ("FROM x\nRUN --mount=type=tmpfs,target=.. t", "invalid mount target \"/\""),
            ("FROM x\nRUN --mount=type=bind,target=. t", "invalid mount target \"/\""),
            ("FROM x\nRUN --mount=from=missing1,target=/m t", "missing1: not found"),
        ] {
            assert_eq!(message(text), expected);
        }
    }
}

mod copy {
    use super::*;

    #[test]
    fn destinations_and_owners() {
        let plan = plain(
            "FROM x\nENV D=dest U=5\nWORKDIR /w\nCOPY --chown=$U:6 --chmod=u=rwX a/$D $D/\nADD --unpack=false t.tar .",
        );
        let specs = copies(&plan);
        assert_eq!(specs[0].destination, "/w/dest/");
        assert_eq!(specs[0].chown.as_deref(), Some("5:6"));
        assert_eq!(specs[0].chmod.as_deref(), Some("u=rwX"));
        assert_eq!(specs[0].sources, [CopySource::Path { input: 1, path: "a/dest".into() }]);
        assert_eq!((specs[0].unpack, specs[1].unpack), (Unpack::Never, Unpack::Never));
        assert_eq!(specs[1].destination, "/w/");
    }

    #[test]
    fn remote_sources() {
        let plan = plain(
            "FROM x\nARG V=1.2\nADD --unpack=true https://h/v${V}/f.tar /f\nADD --keep-git-dir=true https://h/r.git#v1 a /g/",
        );
        let sources: Vec<_> = plan
            .graph
            .vertices
            .iter()
            .filter_map(|vertex| match &vertex.op {
                Op::Http(spec) => Some(spec.url.clone()),
                Op::Git(spec) => Some(format!("{} {:?}", spec.reference, spec.keep_git_dir)),
                _ => None,
            })
            .collect();
        assert_eq!(sources, ["https://h/v1.2/f.tar", "https://h/r.git#v1 Some(true)"]);
        assert_eq!(copies(&plan)[0].unpack, Unpack::Always);
        assert_eq!(copies(&plan)[0].sources, [CopySource::Download { input: 1 }]);
        assert_eq!(
            copies(&plan)[1].sources,
            [
                CopySource::Path { input: 1, path: "/".into() },
                CopySource::Path { input: 2, path: "a".into() }
            ]
        );
    }

    #[test]
    fn links_are_merged_unless_names_or_modes_need_what_is_below() {
        let plan = plain(
            "FROM x\nCOPY --link --chown=1:2 a /a\nCOPY --link --chmod=600 b /b\nCOPY --link --chown=me c /c",
        );
        let links: Vec<_> = copies(&plan).iter().map(|spec| spec.link).collect();
        assert_eq!(links, [true, false, false]);
        let merge = plan.graph.vertices.iter().find(|v| v.op == Op::Merge).unwrap();
        assert_eq!(merge.name, "[2/4] COPY --link --chown=1:2 a /a");
        assert!(matches!(plan.graph.vertex(merge.inputs[0]).op, Op::Image(_)));
        assert_eq!(plan.images[0].history[0].vertex, Some(VertexId(4)));
        // Nothing to merge with.
        assert!(plain("FROM scratch\nCOPY --link a /a").graph.vertices.iter().all(|v| v.op != Op::Merge));
    }

    #[test]
    fn heredocs_are_expanded_unless_quoted() {
        let plan = plain("FROM x\nENV V=1\nCOPY f <<a <<\"b\" /d/\n\"$V\"\na\n$V\nb");
        assert_eq!(
            copies(&plan)[0].sources[1..],
            [
                CopySource::Inline { name: "a".into(), content: "\"1\"\n".into() },
                CopySource::Inline { name: "b".into(), content: "$V\n".into() }
            ]
        );
    }

    #[test]
    fn refusals() {
        let sum = format!("sha256:{}", "0".repeat(64));
        for (text, expected) in [
            ("COPY https://h/f /f".to_owned(), "source can't be a URL for COPY"),
            ("COPY git@h:x.git /f".to_owned(), "source can't be a git ref for COPY"),
            (format!("ADD --checksum={sum} f /f"), "checksum requires HTTP(S) or Git sources"),
            (
                format!("ADD --checksum={sum} http://h/f http://h/g /f/"),
                "checksum can't be specified for multiple sources",
            ),
            (
                "ADD --checksum=md5:1 http://h/f /f".to_owned(),
                "invalid checksum: digest algorithm `md5` is not supported, only sha256 is",
            ),
            (
                "COPY --chmod=888 a /a".to_owned(),
                "invalid chmod parameter: '888'. it should be octal string and between 0 and 07777",
            ),
            (
                "COPY a b /c".to_owned(),
                "When using COPY with more than one source file, the destination must be a directory and end with a /",
            ),
        ] {
            assert_eq!(message(&format!("FROM x\n{text}")), expected);
        }
        plain("FROM x\nCOPY none* a /c");
        plain("FROM x\nCOPY a b .");
    }

    #[test]
    fn main_contexts() {
        let options = |main_context: ContextKind| PlanOptions { main_context, ..amd64() };
        let input = |options: &PlanOptions| {
            let plan = planned("FROM x\nCOPY a /a\nRUN --mount=target=/m t", options);
            let copy = plan.graph.vertices.iter().find(|v| !v.stage.is_empty()).unwrap().inputs[1];
            plan.graph.vertex(copy).op.clone()
        };
        assert!(matches!(input(&options(ContextKind::Git("https://h/r.git".into()))), Op::Git(_)));
        assert!(matches!(input(&options(ContextKind::None)), Op::Scratch));
        assert!(matches!(input(&options(ContextKind::Http("http://h/c.tar".into()))), Op::Copy(_)));
        assert!(matches!(input(&amd64()), Op::Local(_)));
    }
}
