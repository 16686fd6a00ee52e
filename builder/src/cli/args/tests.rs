use crate::export::spec::OutputKind;

use super::choice::{Entitlement, Epoch, ImageFormat, Method, Network, Pull};
use super::source::{ContextSource, FileSource};
use super::*;

fn parsed_in(line: &[&str], variables: &[(&str, &str)]) -> Result<Cli, clap::Error> {
    let variables: Vec<(String, OsString)> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect();
    let environment =
        |name: &str| variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    let surroundings = Surroundings { environment: &environment, stdout_is_terminal: false };
    parse_in(line.iter().map(OsString::from).collect(), &surroundings)
}

fn build(arguments: &[&str]) -> BuildArgs {
    build_in(arguments, &[])
}

fn build_in(arguments: &[&str], variables: &[(&str, &str)]) -> BuildArgs {
    let cli = parsed_in(&[&["kiln", "build"], arguments].concat(), variables).unwrap();
    match cli.command {
        Command::Build(args) => *args,
        other => panic!("{other:?}"),
    }
}

fn message(line: &[&str]) -> String {
    parsed_in(line, &[]).unwrap_err().to_string()
}

#[test]
fn variables_of_docker_and_buildah_are_taken() {
    let variables = [("DOCKER_DEFAULT_PLATFORM", "linux/arm64"), ("BUILDAH_FORMAT", "docker")];
    let args = build_in(&[], &variables);
    assert_eq!(args.platforms.iter().map(ToString::to_string).collect::<Vec<_>>(), ["linux/arm64"]);
    assert_eq!(args.image_format, Some(ImageFormat::Docker));
    let args = build_in(&["--platform=linux/amd64", "--format=oci"], &variables);
    assert_eq!(args.platforms.iter().map(ToString::to_string).collect::<Vec<_>>(), ["linux/amd64"]);
    assert_eq!(args.image_format, Some(ImageFormat::Oci));
    let args = build_in(&[], &[("DOCKER_DEFAULT_PLATFORM", ""), ("BUILDAH_FORMAT", "")]);
    assert!(args.platforms.is_empty() && args.image_format.is_none());
    for name in ["DOCKER_DEFAULT_PLATFORM", "BUILDAH_FORMAT"] {
        let error = parsed_in(&["kiln", "build"], &[(name, "///")]).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn messages_do_not_quote_secrets() {
    for (value, shown) in [
        ("type=gha,scope=a,tokn=geheim", "'type=gha,scope=a,tokn=***'"),
        ("type=gha,token=geheim,x=1", "'type=gha,token=***,x=***'"),
        (
            "type=s3,bucket=b,secret_access_key=geheim,mode=mid",
            "'type=s3,bucket=b,secret_access_key=***,mode=mid'",
        ),
    ] {
        let text = message(&["kiln", "build", "--cache-to", value]);
        assert!(text.contains(shown) && !text.contains("geheim"), "{text}");
    }
    assert!(message(&["kiln", "build", "--cache-to", "type=local,dst=x"]).contains("'type=local,dst=x'"));
}

#[test]
fn a_cache_of_a_job_is_told_once_where_there_is_none() {
    let told = build(&["--cache-from=type=gha", "--cache-to=type=gha"]).notices();
    assert_eq!(told.len(), 1, "{told:?}");
    let variables = [("ACTIONS_RUNTIME_TOKEN", "t"), ("ACTIONS_RESULTS_URL", "http://h/")];
    let args = build_in(&["--cache-from=type=gha", "--cache-to=type=gha"], &variables);
    assert!(args.notices().is_empty() && !format!("{args:?}").contains("\"t\""));
}

#[test]
fn options_without_effect_are_told() {
    let told = |arguments: &[&str]| build(arguments).notices().join("\n");
    for (option, part) in [
        ("--layers=false", "--no-cache"),
        ("--skip-unused-stages=false", "--skip-unused-stages=false has no effect"),
        ("--runtime=crun", "--runtime has no effect"),
        ("--rm", "--rm has no effect"),
    ] {
        assert!(told(&[option]).contains(part), "{option}: {}", told(&[option]));
    }
    let silent = ["--layers", "--skip-unused-stages", "--disable-content-trust", "--sbom=false"];
    assert_eq!(told(&silent), "");
}

#[test]
fn other_words_for_the_same() {
    for option in ["-D", "--debug", "--log-level=debug", "--log-level=trace"] {
        assert!(build(&[option]).explain, "{option}");
    }
    assert!(!build(&["--log-level=warn"]).explain);
    assert_eq!(build(&["--debug-on-error"]).on_failure, choice::OnFailure::Shell);
    assert_eq!(build(&["--digest-file=d"]).digestfile, Some("d".into()));
    assert!(message(&["kiln", "build", "--log-level=loud"]).contains("loud"));
}

#[test]
fn clap_finds_no_contradiction() {
    Cli::command().debug_assert();
}

#[test]
fn every_option_has_help() {
    fn check(command: &clap::Command) {
        for argument in command.get_arguments() {
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            assert!(!help.is_empty(), "{} of {}", argument.get_id(), command.get_name());
            assert!(!help.ends_with('.') || help.ends_with("..."), "{help}");
        }
        for sub in command.get_subcommands() {
            assert!(sub.get_about().is_some(), "{}", sub.get_name());
            check(sub);
        }
    }
    let mut command = Cli::command();
    command.build();
    check(&command);
}

#[test]
fn help_is_grouped() {
    let mut command = Cli::command().term_width(100);
    command.build();
    let build = command.find_subcommand_mut("build").unwrap();
    insta::assert_snapshot!(build.render_help().to_string(), @r"
    Build an image

    Usage: kiln build [OPTIONS] [CONTEXT]

    Arguments:
      [CONTEXT]  Directory, git repository or archive URL to build from; `-` reads an archive or a
                 Buildfile from standard input [default: .]

    Options:
      -h, --help  Print help

    Input:
      -f, --file <PATH>                  Buildfile: a path, a URL, or `-` for standard input [default:
                                         CONTEXT/Buildfile, then CONTEXT/Dockerfile]
          --target <STAGE>               Stage to build [default: the last one]
          --platform <OS/ARCH>           Platforms to build for, e.g. linux/amd64,linux/arm64; `local`
                                         is this machine's
          --build-arg <NAME[=VALUE]>     Set a build argument; without a value it is taken from the
                                         environment
          --build-arg-file <PATH>        Read build arguments from a file of NAME=VALUE lines;
                                         --build-arg wins
          --build-context <NAME=SOURCE>  Add a named context: a path, a URL, docker-image://REF or
                                         oci-layout://PATH
          --ignorefile <PATH>            Use this file in place of .dockerignore
          --source-policy-file <FILE>    Rules about images, URLs and repositories that the build may
                                         take, as BuildKit has them [env:
                                         EXPERIMENTAL_BUILDKIT_SOURCE_POLICY]
          --pull[=<WHEN>]                Look base images up again: always, missing, never or newer
                                         [default: missing; --pull alone: always]

    Result:
      -t, --tag <NAME[:TAG]>                Name the image
      -o, --output <DEST>                   Write the result: a directory, `-` (tar to standard output),
                                            or type=TYPE,dest=PATH with TYPE oci, docker, local, tar,
                                            image, registry or cacheonly
          --push                            Push the image to its registry
          --load                            Load the image into docker or podman
          --format <FORMAT>                 Write manifests and configs as oci or docker [default: oci]
                                            [env: BUILDAH_FORMAT]
          --label <NAME=VALUE>              Add a label
          --unsetlabel <NAME>               Take a label of the Buildfile or its base image away
          --env <NAME[=VALUE]>              Set an environment variable of the image that no step sees
          --unsetenv <NAME>                 Take an environment variable of the Buildfile or its base
                                            image away from the image
          --annotation <[TYPE:]NAME=VALUE>  Add an annotation; TYPE is manifest, index,
                                            manifest-descriptor or index-descriptor
          --provenance[=<ATTRIBUTES>]       Write beside the image how it was made, as SLSA provenance:
                                            true, false or mode=min|max with, after commas,
                                            version=v1|v0.2, builder-id=URI, filename=NAME,
                                            reproducible=BOOL, inline-only=BOOL
          --sbom[=<BOOL>]                   Write beside the image what packages it has, as SPDX
          --attest <ATTESTATION>            Write an attestation: type=sbom, or type=provenance with the
                                            attributes of --provenance
          --squash[=<WHICH>]                Make one layer of this build's (own) or of all of them, the
                                            base's included (all) [default: own when given alone]
          --max-layers <N>                  Merge the uppermost layers of this build when the image
                                            would have more
          --iidfile <PATH>                  Write the image's id to a file
          --digestfile <PATH>               Write the digest of the manifest or index to a file, as it
                                            is in a registry [alias: --digest-file]
          --metadata-file <PATH>            Write what was built to a JSON file

    Cache:
          --no-cache                 Run every step anew
          --no-cache-filter <STAGE>  Run the steps of these stages anew
          --cache-ttl <DURATION>     Run steps anew whose results are older, e.g. 24h or 7d; 0 for all
                                     steps
      -D, --explain                  Tell why each step ran [alias: --debug]
          --cache-from <CACHE>       Take results from a remote cache: an image name,
                                     type=registry,ref=NAME, type=local,src=DIR, type=gha or type=s3
          --cache-to <CACHE>         Write results to a remote cache: an image name,
                                     type=registry,ref=NAME, type=inline (beside the image that is
                                     pushed), type=local,dest=DIR, type=gha (GitHub Actions) or type=s3
                                     (a bucket), with mode=min (the image's own steps) or mode=max
                                     (every step)

    Steps:
          --secret <SECRET>            Offer a secret to steps: id=NAME,src=FILE or id=NAME,env=VARIABLE
          --ssh <AGENT>                Offer an SSH agent to steps: default, id=SOCKET or id=KEY[,KEY]
          --mount <MOUNT>              Give every RUN a mount, written as behind RUN --mount
          --ca-bundle <FILE>           Authorities in PEM form that RUN trusts and no image keeps;
                                       `host` takes this machine's
          --network <MODE>             Network of RUN: default, none or host
          --allow <WHAT>               Allow network.host, security.insecure or buildx.local.delete
          --add-host <NAME:IP>         Add a line to /etc/hosts of RUN; host-gateway is this machine
          --dns <IP>                   Name server of RUN
          --dns-search <DOMAIN>        Search domain of RUN
          --dns-option <OPTION>        Resolver option of RUN
          --shm-size <SIZE>            Size of /dev/shm, e.g. 64m
          --ulimit <NAME=SOFT[:HARD]>  Resource limit of RUN, e.g. nofile=1024:4096
          --http-proxy[=<BOOL>]        Give RUN the proxies of this machine's environment, as proxies of
                                       --build-arg: they are in no image
          --userns <MODE>              User namespace of RUN: auto or host
          --jobs <N>                   Steps that run at once [default: one per processor]
          --keep-going                 After a failure, run what does not depend on it, and report all
                                       failures
          --until <LINE|STAGE>         End after the step on a line, or after the last one of a stage;
                                       nothing is written but the cache
          --on-failure <WHAT>          After a failure, enter the failed step with a shell: shell or
                                       stop [default: stop]

    Limits:
      -m, --memory <SIZE>          Memory of each command, e.g. 2g
          --memory-swap <SIZE>     Memory and swap together, -1 for any amount of swap [default: twice
                                   the memory]
          --cpus <N>               Processors of each command, e.g. 1.5
      -c, --cpu-shares <N>         Weight of each command among others [default: 1024]
          --cpu-quota <US>         Processor time in each period, in microseconds
          --cpu-period <US>        The period, in microseconds [default: 100000]
          --cpuset-cpus <LIST>     Processors to run on, e.g. 0-3,8
          --cpuset-mems <LIST>     Memory nodes to use, e.g. 0,1
          --pids-limit <N>         Processes of each command, -1 for any number
          --cgroup-parent <GROUP>  Control group in which those of commands are made
          --resource <NAME=VALUE>  A limit as buildx writes it: memory=2g, memory-swap, cpu-shares,
                                   cpu-quota, cpu-period, cpuset-cpus or cpuset-mems

    Privileges:
          --cap-add <CAPABILITY>          Give commands a capability, e.g. NET_ADMIN, or ALL
          --cap-drop <CAPABILITY>         Take a capability from commands, or ALL
          --device <PATH[:INSIDE[:rwm]]>  Show commands a device of this machine, e.g. /dev/fuse
          --security-opt <OPTION>         Security setting: seccomp=FILE, seccomp=unconfined,
                                          apparmor=PROFILE, label=TYPE:VALUE, label=disable or
                                          no-new-privileges

    Reproducibility:
          --source-date-epoch <TIME>    Time of the build in seconds since 1970, or `context` [env:
                                        SOURCE_DATE_EPOCH] [alias: --timestamp]
          --rewrite-timestamp[=<BOOL>]  Lower file times in new layers to the time of the build
                                        [default: true when that is known]

    Display:
          --progress <KIND>  Kind of progress: auto, tty, plain, quiet, rawjson or none [env:
                             BUILDKIT_PROGRESS]
      -q, --quiet            Print nothing but the image's id
          --logfile <FILE>   Write progress to a file too, as --progress=plain has it
          --check            Only check the Buildfile
          --call <METHOD>    Do something else than build: check, outline or targets, each with an
                             optional ,format=json

    Registries:
          --creds <USER:PASSWORD>   Credentials for the registry of the image
          --authfile <FILE>         File of credentials in docker's format [env: REGISTRY_AUTH_FILE]
                                    [default: those of docker and podman]
          --tls-verify[=<BOOL>]     false takes any certificate, and plain http [default: true]
          --cert-dir <DIR>          Directory of certificates: *.crt are trusted, NAME.cert and NAME.key
                                    are shown to the registry
          --retry <N>               Retries of what failed for a passing reason [default: 3]
          --retry-delay <DURATION>  Pause before the first retry, doubled each time [default: 1s]

    Global options:
          --root <DIR>  Keep images and cache in DIR [env: KILN_ROOT] [default: /var/lib/kiln for root,
                        else ~/.local/share/kiln]
    ");
}

#[test]
fn defaults() {
    let args = build(&[]);
    assert_eq!(args.context, ContextSource::Path(".".into()));
    assert_eq!((args.file.clone(), args.pull, args.network), (None, None, Network::Default));
    assert_eq!(args.progress, Mode::Auto);
    assert_eq!(args.call.method, Method::Build);
    assert!(args.outputs.is_empty() && args.notices().is_empty());
}

#[test]
fn a_line_with_everything() {
    let line = "-f - -t me/app:1 --tag=me/app:2 -o type=oci,dest=x.tar --target web --build-arg A=1 \
                --build-arg=B --build-context src=../src --label k=v --platform linux/amd64,linux/arm64 \
                --platform=local --network host --allow network.host,security.insecure --no-cache \
                --no-cache-filter a,b --pull --progress=plain --secret id=s,src=f --ssh default --add-host \
                a:1.2.3.4 --dns ::1 --dns-search x --dns-option ndots:1 --shm-size 64m --ulimit nofile=1:2 \
                --iidfile i --metadata-file m --jobs 3 --root /r --ignorefile ig --annotation index:k=v --push \
                --load --source-date-epoch 5 --rewrite-timestamp=false --cache-from x --cache-to type=local,dest=c \
                --userns=host --rm --force-rm=false --compress --isolation=oci --provenance=false --sbom ctx";
    let args = build(&line.split_whitespace().collect::<Vec<_>>());
    assert_eq!(args.context, ContextSource::Path("ctx".into()));
    assert_eq!(args.file, Some(FileSource::Stdin));
    assert_eq!(args.tags.len(), 2);
    assert_eq!(args.outputs.first().map(|output| output.kind), Some(OutputKind::Oci));
    assert_eq!(args.platforms.len(), 3);
    assert_eq!(args.allow, [Entitlement::NetworkHost, Entitlement::SecurityInsecure]);
    assert_eq!(args.no_cache_filter, ["a", "b"]);
    assert_eq!(args.pull, Some(Pull::Always));
    assert_eq!((args.progress, args.shm_size, args.jobs), (Mode::Plain, Some(64 << 20), Some(3)));
    assert_eq!(args.source_date_epoch, Some(Epoch::Seconds(5)));
    assert_eq!(args.rewrite_timestamp, Some(false));
    assert_eq!(args.annotations().count(), 1);
    let notices = args.notices();
    let options: Vec<&str> = notices.iter().filter_map(|notice| notice.split(' ').next()).collect();
    assert_eq!(options, ["--rm", "--force-rm", "--compress", "--isolation"]);
}

#[test]
fn the_environment_fills_gaps() {
    let progress = |arguments: &[&str]| build_in(arguments, &[("BUILDKIT_PROGRESS", "rawjson")]).progress;
    assert_eq!(progress(&[]), Mode::RawJson);
    assert_eq!(progress(&["--progress=tty"]), Mode::Tty);
    assert_eq!(progress(&["-q", "--progress=tty"]), Mode::Quiet);
    let bad = parsed_in(&["kiln", "build"], &[("BUILDKIT_PROGRESS", "loud")]).unwrap_err().to_string();
    assert!(bad.contains("BUILDKIT_PROGRESS") && bad.contains("loud"), "{bad}");
    let root = |arguments: &[&str]| parsed_in(arguments, &[("KILN_ROOT", "/e")]).unwrap().global.root;
    assert_eq!(root(&["kiln", "version"]), Some(PathBuf::from("/e")));
    assert_eq!(root(&["kiln", "version", "--root", "/f"]), Some(PathBuf::from("/f")));
}

#[test]
fn build_arguments_come_from_files_flags_and_the_environment() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("args");
    std::fs::write(&path, "A=file\nB=file\n").unwrap();
    let path = path.to_str().unwrap();
    let environment = |name: &str| (name == "FROM_ENV").then(|| OsString::from("env"));
    let arguments = |flags: &[&str]| build(flags).arguments(&environment);
    let resolved = arguments(&[
        "--build-arg",
        "B=flag",
        "--build-arg-file",
        path,
        "--build-arg",
        "FROM_ENV",
        "--build-arg",
        "NOT_THERE",
    ])
    .unwrap();
    let expected = [("A", "file"), ("B", "flag"), ("FROM_ENV", "env")];
    assert_eq!(resolved, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    let missing = arguments(&["--build-arg-file", "/nonexistent/x"]).unwrap_err();
    assert_eq!(missing.to_string(), "cannot read the build arguments in `/nonexistent/x`");
    std::fs::write(path, "A=1\nbad\n").unwrap();
    let bad = arguments(&["--build-arg-file", path]).unwrap_err().to_string();
    assert!(bad.ends_with("line 2: `bad` has no value; write bad=VALUE"), "{bad}");
}

#[test]
fn the_time_of_the_build_has_an_order() {
    let environment = |name: &str| (name == "SOURCE_DATE_EPOCH").then(|| OsString::from("3"));
    let epoch = |flags: &[&str]| {
        let args = build(flags);
        let arguments = args.arguments(&environment).unwrap();
        args.epoch(&arguments, &environment).map_err(|error| error.to_string())
    };
    let argument = "--build-arg=SOURCE_DATE_EPOCH=2";
    assert_eq!(epoch(&["--source-date-epoch=1", argument]), Ok(Some(Epoch::Seconds(1))));
    assert_eq!(epoch(&[argument]), Ok(Some(Epoch::Seconds(2))));
    assert_eq!(epoch(&[]), Ok(Some(Epoch::Seconds(3))));
    assert_eq!(epoch(&["--build-arg=SOURCE_DATE_EPOCH="]), Ok(None));
    assert!(epoch(&["--build-arg=SOURCE_DATE_EPOCH=soon"]).unwrap_err().contains("soon"));
}

#[test]
fn the_last_one_of_an_option_holds() {
    let args =
        build(&["--progress=plain", "--target=a", "--progress=quiet", "--target", "b", "-t", "x", "-t", "y"]);
    assert_eq!((args.progress, args.target.as_deref()), (Mode::Quiet, Some("b")));
    assert_eq!(args.tags.len(), 2, "lists grow");
}

#[test]
fn called_as_build() {
    for name in ["build", "/usr/local/bin/build"] {
        let cli = parsed_in(&[name, "-t", "x", "dir"], &[]).unwrap();
        assert!(matches!(cli.command, Command::Build(args) if args.tags.len() == 1), "{name}");
    }
    assert!(matches!(parsed_in(&["kiln", "b", "."], &[]).unwrap().command, Command::Build(_)));
}

#[test]
fn other_verbs() {
    let parse = |line: &[&str]| parsed_in(&[&["kiln"], line].concat(), &[]).unwrap().command;
    match parse(&["run", "-e", "A=1", "debian", "sh", "-c", "ls -l", "--rm"]) {
        Command::Run(args) => {
            assert_eq!(args.command, ["sh", "-c", "ls -l", "--rm"]);
            assert!(!args.rm);
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(parse(&["images", "-q"]), Command::Images(args) if args.quiet));
    assert!(matches!(parse(&["rmi", "a", "b"]), Command::Rmi(args) if args.images.len() == 2));
    assert!(matches!(parse(&["check", "-f", "X"]), Command::Check(args) if args.file.is_some()));
    assert!(matches!(parse(&["install-alias", "d"]), Command::InstallAlias(_)));
    assert!(matches!(parse(&["version"]), Command::Version));
    let version = parsed_in(&["kiln", "--version"], &[]).unwrap_err();
    assert_eq!(version.kind(), clap::error::ErrorKind::DisplayVersion);
}

#[test]
fn messages_name_the_value_and_the_form() {
    for (line, parts) in [
        (&["--tagg", "x"][..], &["--tagg", "--tag"][..]),
        (&["--secret", "src=f"], &["src=f", "id=NAME"]),
        (&["--ulimit", "nofiles=1"], &["nofiles", "did you mean `nofile`"]),
        (&["--platform", "linux/amd64,a//b"], &["a//b", "linux/arm64"]),
        (&["--shm-size", "lots"], &["lots", "64m"]),
        (&["-t", "UP"], &["UP", "lower case", "NAME[:TAG]"]),
        (&["-t", "x@sha256:0"], &["x@sha256:0"]),
        (&["-o", "type=oci,dst=x"], &["dst", "did you mean `dest`"]),
        (&["--pull=sometimes"], &["sometimes", "missing"]),
        (&["--jobs", "0"], &["0", "1..=4096"]),
        (&["--dns", "x"], &["x", "IP"]),
        (&["-f", "-", "-"], &["standard input"]),
        (&["-o", "-", "-o", "type=tar"], &["only one --output"]),
        (&["--check", "--call=outline"], &["--check", "--call"]),
        (&["a", "b"], &["b"]),
    ] {
        let message = message(&[&["kiln", "build"], line].concat());
        assert!(parts.iter().all(|part| message.contains(part)), "{line:?}: {message}");
    }
    assert!(message(&["kiln", "buidl"]).contains("build"));
}

#[test]
fn an_archive_for_a_terminal_is_refused() {
    let surroundings = Surroundings { environment: &|_| None, stdout_is_terminal: true };
    let line = ["kiln", "build", "-o", "type=oci"].map(OsString::from).to_vec();
    let message = parse_in(line, &surroundings).unwrap_err().to_string();
    assert!(message.contains("dest=FILE"), "{message}");
}

#[cfg(unix)]
#[test]
fn bytes_that_are_no_text_are_an_error() {
    use std::os::unix::ffi::OsStringExt as _;
    let mut line: Vec<OsString> = ["kiln", "build", "-t"].map(OsString::from).to_vec();
    line.push(OsString::from_vec(vec![0xff, b'x']));
    let surroundings = Surroundings { environment: &|_| None, stdout_is_terminal: false };
    assert!(parse_in(line, &surroundings).is_err());
}
