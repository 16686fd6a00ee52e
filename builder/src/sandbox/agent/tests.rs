//! OpenSSH's own programs as clients. Without them the tests say so and pass.

use std::path::Path;
use std::process::Command;

use super::*;

fn tool(name: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(name).is_file()));
    if !found {
        eprintln!("SKIPPED: no {name} on this machine");
    }
    found
}

fn generate(dir: &Path, name: &str, arguments: &[&str]) -> PathBuf {
    let path = dir.join(name);
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-C", name, "-f"]).arg(&path).args(arguments);
    assert!(command.status().expect("ssh-keygen starts").success());
    path
}

/// Serves an agent at a path.
fn listen(path: &Path, agent: Agent) -> Box<dyn Send> {
    serve(vec![UnixListener::bind(path).expect("socket").into()], &[agent])
}

fn ssh_add(socket: &Path, arguments: &[&str]) -> std::process::Output {
    Command::new("ssh-add").args(arguments).env("SSH_AUTH_SOCK", socket).output().expect("ssh-add starts")
}

/// Signs with a key of the agent and has ssh-keygen verify.
fn sign_and_verify(dir: &Path, socket: &Path, key: &Path) -> bool {
    let file = dir.join("data");
    std::fs::write(&file, "text").expect("write");
    let public = key.with_extension("pub");
    let signature = dir.join("data.sig");
    let _ = std::fs::remove_file(&signature);
    let mut sign = Command::new("ssh-keygen");
    sign.args(["-Y", "sign", "-n", "file", "-f"]).arg(&public).arg(&file).env("SSH_AUTH_SOCK", socket);
    if !sign.output().expect("ssh-keygen starts").status.success() {
        return false;
    }
    let allowed = dir.join("allowed");
    std::fs::write(&allowed, format!("me {}", std::fs::read_to_string(&public).expect("key")))
        .expect("write");
    let mut verify = Command::new("ssh-keygen");
    verify.args(["-Y", "verify", "-n", "file", "-I", "me", "-f"]).arg(&allowed).arg("-s").arg(&signature);
    verify.stdin(std::fs::File::open(&file).expect("data"));
    verify.output().expect("ssh-keygen starts").status.success()
}

#[test]
fn keys_in_memory_sign_and_nothing_else() {
    if !tool("ssh-keygen") || !tool("ssh-add") {
        return;
    }
    let dir = tempfile::tempdir().expect("directory");
    // The agent has no private keys on disk: those are removed once they are loaded.
    let keys = [
        ("ed25519", &["-N", "", "-t", "ed25519"][..]),
        ("p256", &["-N", "", "-t", "ecdsa", "-b", "256"]),
        ("p384", &["-N", "", "-t", "ecdsa", "-b", "384"]),
        ("rsa2048", &["-N", "", "-t", "rsa", "-b", "2048"]),
        ("rsa3072", &["-N", "", "-t", "rsa", "-b", "3072"]),
    ];
    let paths: Vec<PathBuf> =
        keys.iter().map(|(name, arguments)| generate(dir.path(), name, arguments)).collect();
    let ring = Arc::new(KeyRing::load(&paths).expect("keys"));
    assert!(!format!("{ring:?}").contains("signer"));
    paths.iter().for_each(|path| std::fs::remove_file(path).expect("remove"));
    let socket = dir.path().join("socket");
    let _server = listen(&socket, Agent::Keys(ring));

    let listed = ssh_add(&socket, &["-L"]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    for path in &paths {
        let public = std::fs::read_to_string(path.with_extension("pub")).expect("key");
        assert!(listed.contains(public.trim()), "{public} is not in {listed}");
        assert!(sign_and_verify(dir.path(), &socket, path), "{}", path.display());
    }
    let other = generate(dir.path(), "other", &["-N", "", "-t", "ed25519"]);
    assert!(!ssh_add(&socket, &[other.to_str().expect("text")]).status.success(), "a key was added");
    assert!(!ssh_add(&socket, &["-D"]).status.success(), "keys were removed");
    assert_eq!(String::from_utf8_lossy(&ssh_add(&socket, &["-L"]).stdout), listed);
    std::fs::remove_file(&other).expect("remove");
    assert!(!sign_and_verify(dir.path(), &socket, &other), "signed with a key that it has not");
}

/// The key whose private number is 1 and whose public point is therefore the curve's base point (SEC 2): OpenSSH writes the
/// number in one byte.
#[test]
fn a_short_private_number_is_read() {
    use base64::Engine as _;
    let point: Vec<u8> = "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296\
         4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("hex"), 16).expect("hex"))
        .collect();
    let mut public = Vec::new();
    for part in [&b"ecdsa-sha2-nistp256"[..], b"nistp256", &point] {
        protocol::put(&mut public, part);
    }
    let mut private = [7; 8].to_vec();
    private.extend_from_slice(&public);
    for part in [&[1][..], b"one"] {
        protocol::put(&mut private, part);
    }
    private.extend((1..).take((8 - private.len() % 8) % 8));
    let mut bytes = b"openssh-key-v1\0".to_vec();
    for part in [&b"none"[..], b"none", b""] {
        protocol::put(&mut bytes, part);
    }
    bytes.extend_from_slice(&[0, 0, 0, 1]);
    protocol::put(&mut bytes, &public);
    protocol::put(&mut bytes, &private);
    let body = base64::engine::general_purpose::STANDARD.encode(bytes);
    let lines: Vec<String> =
        body.as_bytes().chunks(70).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    let text = format!(
        "-----BEGIN OPENSSH PRIVATE KEY-----\n{}\n-----END OPENSSH PRIVATE KEY-----\n",
        lines.join("\n")
    );
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("key");
    std::fs::write(&path, text).expect("write");
    let ring = KeyRing::load(&[path]).expect("key");
    assert_eq!((&ring.all()[0].public, ring.all()[0].comment.as_str()), (&public, "one"));
}

#[test]
fn another_agent_is_passed_on_for_reading() {
    if !tool("ssh-agent") || !tool("ssh-keygen") || !tool("ssh-add") {
        return;
    }
    let dir = tempfile::tempdir().expect("directory");
    let real = dir.path().join("real");
    let mut agent = Command::new("ssh-agent")
        .arg("-D")
        .arg("-a")
        .arg(&real)
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("agent");
    while !real.exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let key = generate(dir.path(), "key", &["-N", "", "-t", "ed25519"]);
    assert!(ssh_add(&real, &[key.to_str().expect("text")]).status.success());
    std::fs::remove_file(&key).expect("remove");
    let filtered = dir.path().join("filtered");
    let open = dir.path().join("open");
    let _one = listen(&filtered, Agent::Socket { path: real.clone(), raw: false });
    let _two = listen(&open, Agent::Socket { path: real, raw: true });
    assert!(sign_and_verify(dir.path(), &filtered, &key));
    assert!(!ssh_add(&filtered, &["-D"]).status.success(), "keys were removed");
    let mut lock = UnixStream::connect(&filtered).expect("connect");
    protocol::write(&mut lock, b"\x16\0\0\0\x01x").expect("write");
    assert_eq!(protocol::read(&mut lock).expect("read").as_deref(), Some(protocol::FAILURE));
    assert!(sign_and_verify(dir.path(), &filtered, &key));
    assert!(ssh_add(&open, &["-D"]).status.success());
    assert!(!sign_and_verify(dir.path(), &filtered, &key), "raw=true did not reach the agent");
    agent.kill().expect("kill");
    agent.wait().expect("wait");
}

#[test]
fn files_that_are_no_keys_say_what_they_are() {
    if !tool("ssh-keygen") {
        return;
    }
    let dir = tempfile::tempdir().expect("directory");
    let load = |path: &Path| KeyRing::load(&[path.to_owned()]).expect_err("no key");
    let key = generate(dir.path(), "locked", &["-N", "secret", "-t", "ed25519"]);
    let error = load(&key);
    assert!(matches!(error, KeyError::Encrypted { .. }), "{error}");
    assert!(error.hint().contains("ssh-add"), "{}", error.hint());
    assert!(matches!(load(&key.with_extension("pub")), KeyError::Public { .. }));
    let old = generate(dir.path(), "old", &["-N", "", "-t", "rsa", "-b", "2048", "-m", "PEM"]);
    assert!(matches!(load(&old), KeyError::OldFormat { .. }));
    let big = generate(dir.path(), "big", &["-N", "", "-t", "ecdsa", "-b", "521"]);
    let error = load(&big);
    assert!(matches!(error, KeyError::Kind { .. }), "{error}");
    let text = dir.path().join("text");
    std::fs::write(&text, "hello").expect("write");
    assert!(matches!(load(&text), KeyError::NotAKey { .. }));
    std::fs::write(&text, "-----BEGIN OPENSSH PRIVATE KEY-----\nabcd\n-----END OPENSSH PRIVATE KEY-----\n")
        .expect("write");
    assert!(matches!(load(&text), KeyError::Damaged { .. }));
    assert!(matches!(load(&dir.path().join("none")), KeyError::Read { .. }));
}
