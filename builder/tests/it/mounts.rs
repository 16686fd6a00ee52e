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
    let flag = format!("default={}", socket.display());
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
    assert!(wait_until(Duration::from_secs(10), || !crate::processes::with_argument(&argument).is_empty()));
    child.kill().expect("kill");
    child.wait().expect("wait");
    project.build(&["--build-arg", "T=0"]).succeeds();
}
