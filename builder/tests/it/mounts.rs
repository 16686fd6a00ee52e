//! RUN --mount: bind, cache, tmpfs, secret, ssh.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::time::Duration;

use crate::processes::wait_until;
use crate::project::{Built, Ended, Project};

#[test]
fn bind_shows_the_context_and_writes_vanish() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\n\
                RUN --mount=type=bind,target=/src cat /src/f > /read && ! touch /src/new 2>/dev/null\n\
                RUN --mount=type=bind,target=/src,rw touch /src/new && ls /src > /list\n\
                RUN --mount=type=bind,source=f,target=/one cat /one > /single\n";
    let project = project.file("f", "bound\n").buildfile(text);
    let image = project.build(&[]).image();
    assert_eq!(image.text("read"), "bound\n");
    assert_eq!(image.text("single"), "bound\n");
    assert!(image.lines("list").contains(&"new".to_owned()));
    assert!(!image.has("src") && !image.has("one"), "a mount point is left");
    assert!(!project.context("new").exists(), "written into the context");
}

#[test]
fn a_mount_on_or_over_kilns_own_files_holds() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\n\
                RUN --mount=type=bind,source=f,target=/etc/hosts cat /etc/hosts > /hosts\n\
                RUN --mount=type=bind,source=f,target=/etc/resolv.conf cat /etc/resolv.conf > /conf\n\
                RUN --mount=type=bind,source=d,target=/etc ls -A /etc > /listed\n\
                RUN --mount=type=tmpfs,target=/etc ls -A /etc > /empty\n";
    let project = project.file("f", "mine\n").file("d/one", "").buildfile(text);
    let image = project.build(&[]).image();
    assert_eq!((image.text("hosts"), image.text("conf")), ("mine\n".to_owned(), "mine\n".to_owned()));
    assert_eq!((image.text("listed"), image.text("empty")), ("one\n".to_owned(), String::new()));
}

#[test]
fn a_directory_above_a_mount_point_is_in_no_layer_unless_something_is_in_it() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\n\
                RUN --mount=type=cache,target=/a/deep/er chmod 700 /a && touch /a/deep/x && rm /a/deep/x\n\
                RUN --mount=type=cache,target=/b/deep/er touch /b/kept && touch /b/deep\n\
                RUN mkdir /own\n\
                RUN --mount=type=cache,target=/own/deep chmod 700 /own\n";
    let image = project.buildfile(text).build(&[]).image();
    let names: Vec<&String> =
        image.files.keys().filter(|name| name.as_str() < "bin" || name.starts_with("own")).collect();
    assert_eq!(names, ["b", "b/kept", "own"]);
    assert_eq!(image.files["own"].mode & 0o777, 0o700);
}

#[test]
fn a_file_is_not_mounted_over_a_directory() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\nRUN --mount=type=secret,id=f,target=/etc true\n";
    let project = project.file("f", "x").buildfile(text);
    let secret = format!("id=f,src={}", project.context("f").display());
    project.build(&["--secret", &secret]).fails(1, &["mount `/etc`", "is a file, but there is a directory"]);
    project.write("Buildfile", "FROM base\nRUN --mount=type=tmpfs,target=/etc/passwd true\n");
    project.build(&[]).fails(1, &["mount `/etc/passwd`", "is a directory, but there is a file"]);
}

#[test]
fn bind_from_a_stage() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base AS tools\nRUN mkdir /t && echo tool > /t/x\n\
                FROM base\nRUN --mount=from=tools,source=/t,target=/mnt cp /mnt/x /x\n";
    let image = project.buildfile(text).build(&[]).image();
    assert_eq!(image.text("x"), "tool\n");
}

#[test]
fn a_cache_mount_stays_from_build_to_build_and_out_of_the_image() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\nARG N\nRUN --mount=type=cache,id=it,target=/cache echo $N >> /cache/log && cp /cache/log /log\n";
    let project = project.buildfile(text);
    assert_eq!(project.build(&["--build-arg", "N=1"]).image().text("log"), "1\n");
    let image = project.build(&["--build-arg", "N=2"]).image();
    assert_eq!(image.text("log"), "1\n2\n");
    assert!(!image.has("cache"));
}

#[test]
fn a_cache_mount_has_the_mode_and_owner_that_it_is_given() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\nRUN --mount=type=cache,target=/c,uid=1000,gid=1001,mode=0750 stat -c '%u %g %a' /c > /s\n";
    assert_eq!(project.buildfile(text).build(&[]).image().text("s"), "1000 1001 750\n");
}

/// Two builds at once, each of which marks its presence in the cache mount and looks for the other's mark.
fn two_at_once(sharing: &str) -> Option<(String, String)> {
    let project = Project::with_base()?;
    let text = format!(
        "FROM base\nARG ME\nRUN --mount=type=cache,id=both,target=/c,sharing={sharing} touch /c/$ME; sleep 1; \
         ls /c | tr '\\n' ' ' > /seen; rm /c/$ME\n"
    );
    let project = project.buildfile(&text);
    // The base is unpacked before, so that both start their commands at about the same time.
    project.build(&["--build-arg", "ME=warm"]).succeeds();
    let start = |me: &str| {
        let archive = project.path(&format!("{me}.tar"));
        let mut command = project.build_command(["--build-arg", &format!("ME={me}")]);
        command.arg("-o").arg(format!("type=oci,dest={}", archive.display()));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        (command.spawn().expect("kiln starts"), archive)
    };
    let seen = [start("a"), start("b")].map(|(child, archive)| {
        let ended = Ended::from_output(child.wait_with_output().expect("kiln ends"));
        Built { ended, archive }.image().text("seen")
    });
    let [one, two] = seen;
    Some((one, two))
}

#[test]
fn locked_cache_mounts_wait_for_each_other() {
    let Some(seen) = two_at_once("locked") else { return };
    assert_eq!(seen, ("a ".to_owned(), "b ".to_owned()));
}

#[test]
fn private_cache_mounts_are_two_at_once() {
    let Some(seen) = two_at_once("private") else { return };
    assert_eq!(seen, ("a ".to_owned(), "b ".to_owned()));
}

#[test]
fn shared_cache_mounts_are_one_at_once() {
    let Some((one, two)) = two_at_once("shared") else { return };
    assert!(one.contains("a ") && two.contains("b "), "{one:?} {two:?}");
    assert!(one.contains('b') || two.contains('a'), "neither saw the other: {one:?} {two:?}");
}

#[test]
fn tmpfs_is_empty_limited_and_gone() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\nRUN mkdir /t && echo x > /t/kept\n\
                RUN --mount=type=tmpfs,target=/t,size=1m ls /t | wc -l > /count; echo y > /t/lost; \
                dd if=/dev/zero of=/t/big bs=1k count=2000 2>/dev/null && echo unlimited > /no || true\n";
    let image = project.buildfile(text).build(&[]).image();
    assert_eq!(image.text("count").trim(), "0");
    assert!(image.has("t/kept") && !image.has("t/lost") && !image.has("no"));
}

#[test]
fn a_secret_is_seen_by_its_step_alone() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\n\
                RUN --mount=type=secret,id=key stat -c %a /run/secrets/key > /mode; wc -c < /run/secrets/key > /size\n\
                RUN --mount=type=secret,id=key,env=TOKEN echo ${#TOKEN} > /length\n\
                RUN --mount=type=secret,id=key,target=/k,uid=1000,mode=0440 stat -c '%u %a' /k > /stat\n\
                RUN ls /run/secrets > /later 2>&1 || true\n\
                RUN --mount=type=secret,id=other ls /run/secrets/other && echo there > /there || true\n";
    let project = project.buildfile(text);
    let secret = "a-very-secret-value-7c1f";
    std::fs::write(project.path("key"), secret).expect("secret");
    let built = project.build(&["--secret", "id=key,src=key"]);
    let image = built.image();
    assert_eq!((image.text("mode").trim(), image.text("size").trim()), ("400", "24"));
    assert_eq!(image.text("length").trim(), "24");
    assert_eq!(image.text("stat"), "1000 440\n");
    assert!(image.text("later").contains("No such file"), "{}", image.text("later"));
    assert!(!image.has("there") && !image.has("run/secrets/key") && !image.has("k"));
    // Neither the image nor anything that the store keeps holds it.
    let places = [project.store(), built.archive.clone()];
    for file in places.iter().flat_map(walkdir::WalkDir::new).flatten().filter(|e| e.file_type().is_file()) {
        let bytes = std::fs::read(file.path()).expect("file of the store");
        let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!found, "the secret is in {}", file.path().display());
    }
}

#[test]
fn a_secret_is_masked_wherever_it_would_be_shown() {
    let Some(project) = Project::with_base() else { return };
    // In one write, in two, and by the command that fails, whose last lines are told again.
    let text = "FROM base\n\
                RUN --mount=type=secret,id=s cat /run/secrets/s\n\
                RUN --mount=type=secret,id=s head -c 6 /run/secrets/s; sleep 0.1; tail -c +7 /run/secrets/s\n\
                RUN --mount=type=secret,id=s cat /run/secrets/s >&2; echo ended; exit 3\n";
    let project = project.buildfile(text);
    std::fs::write(project.path("s"), "first-line-7c1f\nsecond-line-88aa\n").expect("secret");
    let log = project.path("log").display().to_string();
    for mode in ["plain", "rawjson", "quiet"] {
        let progress = format!("--progress={mode}");
        let built = project.build(&["--secret", "id=s,src=s", "--no-cache", "--logfile", &log, &progress]);
        built.fails(1, &["exit code: 3"]);
        let logged = std::fs::read_to_string(&log).expect("log file");
        for (place, said) in
            [("stderr", &built.ended.stderr), ("stdout", &built.ended.stdout), ("log", &logged)]
        {
            for part in ["7c1f", "88aa"] {
                assert!(!said.contains(part), "--progress={mode}, {place}:\n{said}");
            }
        }
        assert_eq!(logged.matches("*****").count(), 3, "{logged}");
        if mode == "plain" {
            // The tail of the failure as well.
            assert_eq!(built.ended.stderr.matches("*****").count(), 4, "{}", built.ended.stderr);
        }
    }
}

#[test]
fn a_secret_from_the_environment_and_a_missing_one() {
    let Some(project) = Project::with_base() else { return };
    let project = project
        .buildfile("FROM base\nRUN --mount=type=secret,id=s,required=true wc -c < /run/secrets/s > /n\n");
    let built = project.build_with(&["--secret", "id=s,env=MINE"], |command| {
        command.env("MINE", "12345");
    });
    assert_eq!(built.image().text("n").trim(), "5");
    project.build(&["--no-cache"]).fails(1, &["`s`", "--secret", "Buildfile:2"]);
}

#[test]
fn an_agent_answers_inside() {
    let Some(project) = Project::with_base() else { return };
    let socket = project.path("agent.sock");
    let listener = UnixListener::bind(&socket).expect("socket");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 5];
            if stream.read_exact(&mut request).is_ok() {
                let _ = stream.write_all(b"pong:");
                let _ = stream.write_all(&request);
            }
        }
    });
    let text = "FROM base\nRUN --mount=type=ssh echo $SSH_AUTH_SOCK > /where && printf hello | nc local:$SSH_AUTH_SOCK > /answer\n";
    // Not every busybox has a netcat that speaks unix sockets; the type of the file is always there.
    let plain = "FROM base\nRUN --mount=type=ssh echo $SSH_AUTH_SOCK > /where && test -S $SSH_AUTH_SOCK && stat -c %a $SSH_AUTH_SOCK > /mode\n";
    let project = project.buildfile(plain);
    let flag = format!("default={},raw=true", socket.display());
    let image = project.build(&["--ssh", &flag]).image();
    assert!(image.text("where").starts_with("/run/"), "{}", image.text("where"));
    assert_eq!(image.text("mode"), "600\n");
    assert!(!image.has("run/buildkit/ssh_agent.0"));
    project.write("Buildfile", text);
    let built = project.build(&["--ssh", &flag]);
    if built.ended.code == Some(0) {
        assert_eq!(built.image().text("answer"), "pong:hello");
    } else {
        crate::project::skipped("busybox nc has no unix sockets; only the socket's presence was tested");
    }
    project.write("Buildfile", "FROM base\nRUN --mount=type=ssh,required=true true\n");
    project.build(&[]).fails(1, &["--ssh", "Buildfile:2"]);
}

#[test]
fn a_killed_holder_of_a_locked_mount_does_not_block_the_next() {
    let Some(project) = Project::with_base() else { return };
    let project = project
        .buildfile("FROM base\nARG T\nRUN --mount=type=cache,id=l,target=/c,sharing=locked sleep $T\n");
    let argument = crate::leftovers::unique_seconds();
    let mut command = project.build_command(["--build-arg", &format!("T={argument}")]);
    let mut child = command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("kiln starts");
    assert!(wait_until(Duration::from_secs(120), || !crate::processes::with_argument(&argument).is_empty()));
    child.kill().expect("kill");
    child.wait().expect("wait");
    project.build(&["--build-arg", "T=0"]).succeeds();
}

#[test]
fn a_mount_of_the_command_line_goes_to_every_run() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base AS tools\nRUN mkdir /t && echo tool > /t/x; ls /mnt > /seen 2>/dev/null; true\n\
                FROM base AS middle\nRUN cat /mnt/x /src/f > /a\n\
                FROM middle\nCOPY --from=tools /seen /seen\nRUN --mount=type=tmpfs,target=/mnt ls /mnt > /b && cat /src/f > /c\n";
    let project = project.file("f", "context\n").buildfile(text);
    let flags = ["--mount", "from=tools,source=/t,target=/mnt", "--mount", "type=bind,target=/src"];
    let image = project.build(&flags).image();
    assert_eq!(image.text("seen"), "", "a stage has its own files mounted");
    assert_eq!(image.text("a"), "tool\ncontext\n");
    assert_eq!((image.text("b").as_str(), image.text("c").as_str()), ("", "context\n"));
    assert!(!image.has("mnt") && !image.has("src"));
    // In the key: without the mounts the steps run again, and fail.
    project.build(&[]).fails(1, &["Buildfile:4"]);
    project.build(&["--mount", "type=bnd,target=/x"]).fails(2, &["bnd", "bind"]);
    project.build(&["--mount", "type=bind,from=nowhere/@,target=/x"]).fails(1, &["--mount", "nowhere"]);
}

#[test]
fn mounts_below_mounts_are_seen_in_any_order() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\n\
                RUN --mount=type=cache,target=/src/deep/cache --mount=type=secret,id=s,target=/src/key --mount=type=bind,target=/src \
                touch /src/deep/cache/mark && cat /src/f /src/key > /got && ls /src/deep > /deep\n\
                RUN --mount=type=tmpfs,target=/x/y --mount=type=tmpfs,target=/x touch /x/a /x/y/b && ls /x > /list\n\
                RUN --mount=type=tmpfs,target=/x --mount=type=bind,target=/x ls /x > /last\n";
    let project = project.file("f", "bound\n").file("deep/old", "").buildfile(text);
    std::fs::write(project.path("s"), "secret\n").expect("secret");
    let image = project.build(&["--secret", "id=s,src=s"]).image();
    assert_eq!(image.text("got"), "bound\nsecret\n");
    assert_eq!(image.lines("deep"), ["cache", "old"]);
    assert_eq!(image.lines("list"), ["a", "y"]);
    assert!(image.lines("last").contains(&"f".to_owned()));
    assert!(!image.has("src") && !image.has("x"));
    assert!(!project.context("key").exists() && !project.context("deep/cache").exists());
}

#[test]
fn targets_behind_symlinks_leave_nothing() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\nRUN mkdir -p /real/kept && ln -s real /link && ln -s /real/kept /to && touch /real/kept/f\n\
                RUN --mount=type=tmpfs,target=/link/new/deep --mount=type=tmpfs,target=/to touch /real/new/deep/x && ls /real/kept > /list\n";
    let image = project.buildfile(text).build(&[]).image();
    assert_eq!(image.text("list"), "");
    assert!(image.has("real/kept/f") && !image.has("real/new"));
    assert_eq!(image.layers[2].names, ["list"]);
}

#[test]
fn a_relative_target_and_one_of_workdir_itself() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\nWORKDIR /w\nRUN --mount=type=bind,target=sub cat sub/f > /a\n\
                RUN --mount=type=bind,source=f,target=../one cat /one > /b\n";
    let image = project.file("f", "x\n").buildfile(text).build(&[]).image();
    assert_eq!((image.text("a").as_str(), image.text("b").as_str()), ("x\n", "x\n"));
    assert!(!image.has("w/sub") && !image.has("one"));
}

#[test]
fn a_cache_mount_is_seeded_once() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base AS seed\nRUN mkdir -p /s/in && echo seed > /s/in/x && chown 5:6 /s/in/x\n\
                FROM base\nARG N\nRUN --mount=type=cache,target=/c,from=seed,source=/s/in stat -c '%u %g' /c/x > /own; cat /c/x > /x; echo $N > /c/x\n";
    let project = project.buildfile(text);
    let image = project.build(&["--build-arg", "N=1"]).image();
    assert_eq!((image.text("x").as_str(), image.text("own").as_str()), ("seed\n", "5 6\n"));
    assert_eq!(project.build(&["--build-arg", "N=2"]).image().text("x"), "1\n");
}

#[test]
fn a_read_only_cache_and_a_read_only_tmpfs_refuse_writes() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\nRUN --mount=type=cache,id=k,target=/c,ro --mount=type=tmpfs,target=/t,ro \
                touch /c/x || echo cache > /r; touch /t/x || echo tmpfs >> /r; true\n";
    assert_eq!(project.buildfile(text).build(&[]).image().text("r"), "cache\ntmpfs\n");
}

#[test]
fn secrets_of_odd_kinds() {
    let Some(project) = Project::with_base() else { return };
    let take = "FROM base\nRUN --mount=type=secret,id=s,env=S printf %s \"$S\" | md5sum > /sum\n";
    let project = project.buildfile(take);
    let secret = |bytes: &[u8]| std::fs::write(project.path("s"), bytes).expect("secret");
    let flags = ["--secret", "id=s,src=s", "--no-cache"];
    secret(b"two\nlines\n");
    let compare =
        "FROM base\nRUN --mount=type=secret,id=s,env=S test \"${S}x\" = \"$(printf 'two\\nlines\\nx')\"\n";
    project.write("Buildfile", compare);
    project.build(&flags).succeeds();
    project.write("Buildfile", take);
    secret(b"nul \0 byte");
    project.build(&flags).fails(1, &["`s`", "not text"]);
    secret(&[0xff, 0xfe]);
    project.build(&flags).fails(1, &["`s`", "not text"]);
    secret(&vec![b'x'; 200 * 1024]);
    project.build(&flags).fails(1, &["`s`", "variable", "hint"]);
    project.write("Buildfile", "FROM base\nRUN --mount=type=secret,id=s wc -c < /run/secrets/s > /n\n");
    assert_eq!(project.build(&flags).image().text("n").trim(), "204800");
    secret(&vec![b'x'; 500 * 1024 + 1]);
    project.build(&flags).fails(1, &["`s`", "512000"]);
    secret(&vec![b'x'; 500 * 1024]);
    project.build(&flags).succeeds();
}

#[test]
fn keys_are_served_from_memory() {
    use std::process::Command;
    let Some(project) = Project::with_base() else { return };
    let key = project.path("key");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
    if !made.is_ok_and(|status| status.success()) {
        return crate::project::skipped("no ssh-keygen");
    }
    // The agent protocol by hand: a request for the identities, whose answer begins with its length and type 12.
    let text = "FROM base\nRUN --mount=type=ssh test -S $SSH_AUTH_SOCK && echo yes > /there\n";
    let project = project.buildfile(text);
    let flag = format!("default={}", key.display());
    let built = project.build(&["--ssh", &flag]);
    assert_eq!(built.image().text("there"), "yes\n");
    let private = std::fs::read_to_string(&key).expect("key");
    let line = private.lines().nth(3).expect("a line of the key").as_bytes();
    for file in
        walkdir::WalkDir::new(project.store()).into_iter().flatten().filter(|e| e.file_type().is_file())
    {
        let bytes = std::fs::read(file.path()).expect("file of the store");
        assert!(!bytes.windows(line.len()).any(|window| window == line), "{}", file.path().display());
    }
    project.build(&["--ssh", &format!("default={}.pub", key.display())]).fails(2, &["public key", "hint"]);
    let locked = project.path("locked");
    let made =
        Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "word", "-f"]).arg(&locked).status();
    assert!(made.expect("ssh-keygen").success());
    project.build(&["--ssh", &format!("default={}", locked.display())]).fails(2, &["encrypted", "ssh-add"]);
    project.build(&["--ssh", &format!("a={}", project.path("none").display())]).fails(2, &["none"]);
}

#[test]
fn a_secret_has_a_largest_size() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\nRUN --mount=type=secret,id=s wc -c < /run/secrets/s > /size\n";
    let project = project.buildfile(text);
    for (bytes, fits) in [(500 * 1024, true), (500 * 1024 + 1, false)] {
        std::fs::write(project.path("secret"), vec![b'x'; bytes]).expect("secret");
        let built = project.build(&["--no-cache", "--secret=id=s,src=secret"]);
        if fits {
            assert_eq!(built.image().text("size").trim(), bytes.to_string());
        } else {
            built.fails(1, &["secret `s` is larger than 512000 bytes", "Buildfile:2"]);
        }
    }
}
