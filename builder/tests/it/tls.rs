//! Certificates, mirrors and kiln.toml: a real registry with TLS, and registries of this process as mirrors.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::base::{Blobs, Member, image, tar};
use crate::project::{Ended, Project, skipped};
use crate::registry::{RealRegistry, Registry};

fn small() -> Blobs {
    image(&tar(&[Member::File("a", 0o644, b"one")]), serde_json::json!({ "Cmd": ["/a"] }))
}

fn openssl(dir: &Path, words: &str) -> Result<(), String> {
    let output = Command::new("openssl")
        .args(words.split(' '))
        .current_dir(dir)
        .output()
        .map_err(|e| format!("openssl cannot be started: {e}"))?;
    assert!(output.status.success(), "openssl {words}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// An authority `ca.pem`, a server's certificate for 127.0.0.1 and a client's, both signed by it, each with its key.
fn certificates(dir: &Path) -> Result<(), String> {
    fs::create_dir_all(dir).expect("directory");
    fs::write(dir.join("server.ext"), "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")
        .expect("ext");
    fs::write(dir.join("client.ext"), "extendedKeyUsage=clientAuth\n").expect("ext");
    // Not this machine's settings, which may be missing.
    let settings = "[req]\ndistinguished_name=dn\n[dn]\n[ca]\nbasicConstraints=critical,CA:TRUE\n";
    fs::write(dir.join("openssl.cnf"), settings).expect("settings");
    let key = "-config openssl.cnf -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(
        dir,
        &format!("req -x509 -extensions ca {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=kiln-test"),
    )?;
    for name in ["server", "client"] {
        openssl(dir, &format!("req -new {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"))?;
        openssl(
            dir,
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile {name}.ext -out {name}.pem"
            ),
        )?;
    }
    Ok(())
}

/// A registry behind TLS, its certificates and an image to push. None, said aloud, where that cannot be had.
fn real(project: &Project, wants_client: bool) -> Option<(RealRegistry, PathBuf, String)> {
    let certs = project.path("certs");
    let made = certificates(&certs).and_then(|()| RealRegistry::start_with_tls(&certs, wants_client));
    match made {
        Ok(registry) => {
            crate::base::write_image(&small(), &project.path("small"));
            Some((registry, certs, format!("oci:{}", project.path("small").display())))
        }
        Err(why) => {
            skipped(&why);
            None
        }
    }
}

#[test]
fn certificates_are_asked_for_and_checked() {
    let project = Project::new();
    let Some((registry, certs, source)) = real(&project, false) else { return };
    let target = format!("docker://{}/x:1", registry.host());
    // A loopback host is taken as it is, unless somebody wants to know better.
    project.run(&["copy", &source, &target]).ok();
    project
        .run(&["copy", "--tls-verify", &source, &target])
        .fails(1, &["certificate", "--cert-dir", "--tls-verify=false"]);
    fs::create_dir(project.path("dir")).expect("directory");
    fs::copy(certs.join("ca.pem"), project.path("dir/ca.crt")).expect("copied");
    let dir = project.path("dir");
    let dir = dir.to_str().expect("UTF-8");
    project.run(&["copy", "--cert-dir", dir, &source, &target]).ok();
    project.run(&["inspect", "--tls-verify=true", "--cert-dir", dir, &target]).ok();
    project.run(&["inspect", "--cert-dir", "no-such-dir", &target]).fails(2, &["no-such-dir"]);
    // The wrong authority.
    let other = project.path("other");
    certificates(&other).expect("openssl worked before");
    fs::copy(other.join("ca.pem"), project.path("dir/ca.crt")).expect("copied");
    project.run(&["inspect", "--cert-dir", dir, &target]).fails(1, &["certificate"]);
    project.run(&["inspect", "--tls-verify=false", "--cert-dir", dir, &target]).ok();
    fs::write(project.path("dir/ca.crt"), "nonsense").expect("written");
    project.run(&["inspect", "--cert-dir", dir, &target]).fails(1, &["ca.crt", "no certificate in PEM form"]);
}

#[test]
fn certificates_lie_where_podman_has_them() {
    let project = Project::new();
    let Some((registry, certs, source)) = real(&project, true) else { return };
    let target = format!("docker://{}/x:1", registry.host());
    let dir = project.path(".config/containers/certs.d").join(registry.host());
    fs::create_dir_all(&dir).expect("directory");
    let copy = |from: &str, to: &str| assert!(fs::copy(certs.join(from), dir.join(to)).is_ok());
    copy("ca.pem", "ca.crt");
    // The registry wants to know who asks.
    project.run(&["copy", "--retry", "0", &source, &target]).fails(1, &["cannot"]);
    copy("client.pem", "client.cert");
    project.run(&["copy", &source, &target]).fails(1, &["client.cert", "client.key"]);
    copy("client.key", "client.key");
    project.run(&["copy", &source, &target]).ok();
    // Builds use them as well.
    project.write("Buildfile", format!("FROM {}/x:1\nCOPY b /b\n", registry.host()));
    project.write("b", "two");
    let name = format!("{}/built:1", registry.host());
    Ended::of(&mut project.build_command(["-t", &name, "--push"])).ok();
}

#[test]
fn kiln_toml_knows_registries() {
    let project = Project::new();
    let Some((registry, certs, source)) = real(&project, true) else { return };
    let target = format!("docker://{}/x:1", registry.host());
    let config = certs.join("own.toml");
    let run = |text: &str| {
        fs::write(&config, text).expect("written");
        let mut command = project.kiln(["copy", "--retry", "0", &source, &target]);
        Ended::of(command.env("KILN_CONFIG", &config))
    };
    let host = registry.host();
    // Paths are relative to the file.
    run(&format!(
        "[registry.\"{host}\"]\nca = [\"ca.pem\"]\nkeypair = [{{ cert = \"client.pem\", key = \"client.key\" }}]\n"
    ))
    .ok();
    run(&format!("[registry.\"{host}\"]\nca = [\"ca.pem\"]\n")).fails(1, &["cannot"]);
    run(&format!(
        "[network]\nca = [\"ca.pem\"]\n[registry.\"{host}\"]\ninsecure = false\nkeypair = [{{ cert = \"client.pem\", key = \"client.key\" }}]\n"
    ))
    .ok();
    // An output may take any certificate where the settings want a good one.
    fs::write(&config, format!("[registry.\"{host}\"]\ninsecure = false\nkeypair = [{{ cert = \"client.pem\", key = \"client.key\" }}]\n"))
        .expect("written");
    project.write("Buildfile", "FROM scratch\nCOPY b /b\n");
    project.write("b", "two");
    let push = |more: &str| {
        let output = format!("type=registry,name={host}/built:1{more}");
        let mut command = project.build_command(["-o", &output]);
        Ended::of(command.env("KILN_CONFIG", &config))
    };
    push("").fails(1, &["certificate"]);
    push(",registry.insecure=true").ok();
    // So may a cache.
    let cache = |more: &str| {
        let cache = format!("type=registry,ref={host}/cache{more}");
        let mut command = project.build_command(["--cache-to", &cache, "-o", "type=cacheonly"]);
        Ended::of(command.env("KILN_CONFIG", &config))
    };
    cache("").fails(1, &["certificate"]);
    cache(",registry.insecure=true").ok();
    run("[registri]\n").fails(1, &["own.toml", "line 1", "registri"]);
}

#[test]
fn mirrors_are_read_first_and_never_written_to() {
    let project = Project::new();
    let (mirror, registry) = (Registry::start(), Registry::start());
    let original = small();
    mirror.add("hub/app", "1", &original);
    registry.add("app", "1", &original);
    registry.add("app", "2", &original);
    let dir = project.path(".config/kiln");
    fs::create_dir_all(&dir).expect("directory");
    // The first one does not answer.
    let text = format!(
        "[network]\nretries = 0\n[registry.\"{}\"]\nmirrors = [\"127.0.0.1:1\", \"{}/hub\"]\n",
        registry.host(),
        mirror.host()
    );
    fs::write(dir.join("kiln.toml"), text).expect("written");
    let name = format!("{}/app:1", registry.host());
    let pulled = project.run(&["pull", &name]).ok();
    assert_eq!(pulled.stdout.trim(), original.manifest);
    assert_eq!(mirror.blobs_read(0).len(), 2);
    assert!(registry.requests(0).iter().all(|request| !request.contains("/blobs/")));
    // What the mirror lacks comes from the registry, and pushes go there.
    let before = mirror.count();
    project.run(&["inspect", &format!("docker://{}/app:2", registry.host())]).ok();
    assert!(mirror.count() > before, "the mirror was not asked");
    let before = mirror.count();
    project.run(&["push", &name, &format!("{}/other:1", registry.host())]).ok();
    assert_eq!(mirror.count(), before);
    assert_eq!(registry.tags("other").len(), 1);
}

#[test]
fn blobs_are_sent_in_pieces_where_that_is_set() {
    let project = Project::new();
    let registry = match RealRegistry::start() {
        Ok(registry) => registry,
        Err(why) => return skipped(&why),
    };
    let noise: Vec<u8> = (0..400_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let image = image(&tar(&[Member::File("a", 0o644, &noise)]), serde_json::json!({}));
    crate::base::write_image(&image, &project.path("large"));
    let config = project.path("kiln.toml");
    let text = format!("[registry.\"{}\"]\nchunk-size = \"500k\"\n", registry.host());
    fs::write(&config, text).expect("written");
    let source = format!("oci:{}", project.path("large").display());
    let target = format!("docker://{}/x:1", registry.host());
    let mut command = project.kiln(["copy", &source, &target]);
    Ended::of(command.env("KILN_CONFIG", &config)).ok();
    project.run(&["pull", &format!("{}/x:1", registry.host())]).ok();
    let is_piece = |line: &&String| line.contains("\"PATCH ") && line.contains("\" 202 ");
    // The log may lag; thirty seconds at most, which only a failure takes.
    let logged = (0..1500).any(|_| {
        let pieces = registry.log().iter().filter(is_piece).count();
        if pieces < 3 {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        pieces >= 3
    });
    assert!(logged, "fewer than 3 pieces: {:?}", registry.log());
}

#[test]
fn a_mirror_that_breaks_off_is_no_failure() {
    let project = Project::new();
    let (mirror, registry) = (Registry::start(), Registry::start());
    let original = small();
    mirror.add("app", "1", &original);
    registry.add("app", "1", &original);
    mirror.content().broken.insert("/blobs/".to_owned(), 503);
    let config = project.path("kiln.toml");
    let text = format!("[registry.\"{}\"]\nmirrors = [\"{}\"]\n", registry.host(), mirror.host());
    fs::write(&config, text).expect("written");
    let name = format!("{}/app:1", registry.host());
    let mut command = project.kiln(["pull", "--retry-delay", "5ms", &name]);
    Ended::of(command.env("KILN_CONFIG", &config)).ok();
    assert_eq!(registry.blobs_read(0).len(), 2);
}

/// A mirror whose blobs have the right length and the wrong bytes, or too many of them: the content comes from the next
/// place, and the user is told. Each way of fetching a blob is tried.
#[test]
fn a_mirror_that_gives_something_else_is_told_and_passed_over() {
    let project = Project::new().buildfile("FROM IMAGE\nCOPY f /f\n").file("f", "x");
    let registry = Registry::start();
    let noise: Vec<u8> = (0..400_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let original = image(&tar(&[Member::File("a", 0o644, &noise)]), serde_json::json!({}));
    registry.add("app", "1", &original);
    let name = format!("{}/app:1", registry.host());
    project.write("Buildfile", format!("FROM {name}\nCOPY f /f\n"));
    let remote = format!("docker://{name}");
    let (other, layout) = (Registry::start(), format!("oci:{}", project.path("layout").display()));
    let elsewhere = format!("docker://{}/copy:1", other.host());
    let ways: [&[&str]; 4] = [
        &["pull", &name],
        &["copy", &remote, &layout],
        &["copy", &remote, &elsewhere],
        &["build", "--progress=plain", "-o", "type=oci,dest=built.tar", "context"],
    ];
    for (way, longer) in ways.iter().flat_map(|way| [(way, false), (way, true)]) {
        let (bad, good) = (Registry::start(), Registry::start());
        for mirror in [&bad, &good] {
            mirror.add("app", "1", &original);
        }
        for ((_, digest), bytes) in &mut bad.content().blobs {
            // Manifests are looked up apart; config and layers are what is meant.
            if *digest != original.manifest {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                if longer {
                    bytes.push(0);
                }
            }
        }
        let config = project.path("kiln.toml");
        let mirrors = format!("[\"{}\", \"{}\"]", bad.host(), good.host());
        fs::write(&config, format!("[registry.\"{}\"]\nmirrors = {mirrors}\n", registry.host()))
            .expect("written");
        for left in ["store", "layout"] {
            let _ = fs::remove_dir_all(project.path(left));
        }
        if way.contains(&elsewhere.as_str()) {
            other.content().blobs.clear();
        }
        let before = registry.count();
        let mut command = project.kiln(way.iter());
        let ended = Ended::of(command.env("KILN_CONFIG", &config)).ok();
        let notice = format!("mirror `{}` is left alone from here on", bad.host());
        assert_eq!(ended.stderr.matches(&notice).count(), 1, "{way:?}: {}", ended.stderr);
        assert!(!bad.blobs_read(0).is_empty(), "{way:?}: the first mirror was not asked");
        // The second one had it: of the registry nothing was asked but how it is spoken to.
        let asked = registry.requests(before);
        assert!(asked.iter().all(|request| request.ends_with(" /v2/")), "{way:?}: {asked:?}");
    }
    assert_eq!(crate::image::Image::read_archive(&project.path("built.tar")).files["a"].data, noise);
    let layer =
        original.blobs.keys().find(|digest| original.blobs[*digest].len() > 100_000).expect("a layer");
    let stored = &other.content().blobs[&("copy".to_owned(), layer.clone())];
    assert!(*stored == original.blobs[layer], "another blob was pushed");
}

#[test]
fn a_mirror_stands_in_for_a_registry_that_does_not_answer() {
    let project = Project::new();
    let mirror = Registry::start();
    let original = small();
    mirror.add("app", "1", &original);
    let config = project.path("kiln.toml");
    fs::write(&config, format!("[registry.\"127.0.0.1:1\"]\nmirrors = [\"{}\"]\n", mirror.host()))
        .expect("written");
    let pulled = Ended::of(project.kiln(["pull", "127.0.0.1:1/app:1"]).env("KILN_CONFIG", &config)).ok();
    assert_eq!(pulled.stdout.trim(), original.manifest);
}
