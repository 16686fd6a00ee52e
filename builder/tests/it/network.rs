//! The network of RUN, under every mechanism that this machine has.
//!
//! What needs a network outside of this machine is not here; servers are this test's own, on loopback, and reached as
//! `host-gateway` where a RUN may reach them.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::path::Path;

use crate::project::{Built, Project, skipped};

/// Whether the ids that a command has may open the device that programs bring connections out with.
fn tunnels() -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata("/dev/net/tun").is_ok_and(|found| found.permissions().mode() & 0o006 == 0o006)
}

/// Mechanisms that work here: nftables, and programs that are installed.
fn mechanisms(project: &Project) -> Vec<&'static str> {
    let mut found = Vec::new();
    for name in ["nftables", "pasta", "slirp4netns"] {
        let ended = project.kiln_with(["info"], |command| {
            command.env("KILN_NETWORK", name);
        });
        let line =
            ended.stdout.lines().find(|line| line.starts_with("network")).unwrap_or_default().to_owned();
        if line.contains("not possible") {
            skipped(&line);
        } else if name != "nftables" && !tunnels() {
            skipped(&format!("{name}: /dev/net/tun is not for everybody here"));
        } else {
            found.push(name);
        }
    }
    found
}

fn build_by(project: &Project, mechanism: &str, flags: &[&str]) -> Built {
    project.build_with(&[flags, &["--no-cache"]].concat(), |command| {
        command.env("KILN_NETWORK", mechanism);
    })
}

/// Answers every connection with a text.
fn serve(listener: TcpListener, text: &'static str) -> u16 {
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1024]);
            let answer = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    port
}

/// An address of this machine other than loopback.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("198.51.100.1:9").ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_loopback())
}

#[test]
fn info_tells_how_the_network_is_made() {
    let project = Project::new();
    let line = |name: &str| {
        let ended = project.kiln_with(["info"], |command| {
            command.env("KILN_NETWORK", name);
        });
        (ended.code, format!("{}{}", ended.stdout, ended.stderr))
    };
    let (code, text) = line("");
    assert_eq!(code, Some(0), "{text}");
    assert!(text.lines().any(|line| line.starts_with("network ")), "{text}");
    let (code, text) = line("pigeon");
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("pigeon") && text.contains("slirp4netns"), "{text}");
    // Without anything in PATH a program that is asked for is missing.
    let ended = project.kiln_with(["info"], |command| {
        command.env("KILN_NETWORK", "pasta").env("PATH", project.path("nothing"));
    });
    assert!(ended.stdout.contains("pasta is not in PATH"), "{}", ended.stdout);
}

#[test]
fn the_host_is_out_of_reach_by_every_address() {
    let Some(project) = Project::with_base() else { return };
    let port = serve(TcpListener::bind("0.0.0.0:0").expect("port"), "reached");
    let mut addresses = vec!["127.0.0.1".to_owned(), "127.1.2.3".to_owned(), "169.254.169.254".to_owned()];
    addresses.extend(own_address().map(|ip| ip.to_string()));
    // The addresses by which the programs offer the host's loopback unless they are told not to.
    addresses.extend(["10.0.2.2".to_owned(), "192.0.0.1".to_owned()]);
    if let Ok(routes) = std::fs::read_to_string("/proc/net/route") {
        let gateways = routes.lines().skip(1).filter_map(|line| line.split_whitespace().nth(2));
        let gateways = gateways.filter_map(|hex| u32::from_str_radix(hex, 16).ok()).filter(|ip| *ip != 0);
        addresses.extend(gateways.map(|ip| std::net::Ipv4Addr::from(ip.to_le_bytes()).to_string()));
    }
    let tries: String = addresses
        .iter()
        .map(|address| {
            format!("wget -q -T 3 -O - http://{address}:{port}/ >> /got 2>/dev/null && echo {address} >> /reached; ")
        })
        .collect();
    let project = project.buildfile(&format!("FROM base\nRUN touch /reached; {tries} true\n"));
    for mechanism in mechanisms(&project) {
        let image = build_by(&project, mechanism, &[]).image();
        assert_eq!(image.text("reached"), "", "{mechanism}");
    }
}

#[test]
fn the_gateway_leads_to_loopback_where_it_was_asked_for() {
    let Some(project) = Project::with_base() else { return };
    let port = serve(TcpListener::bind("127.0.0.1:0").expect("port"), "reached");
    let project = project.buildfile(&format!("FROM base\nRUN wget -q -O /got http://me:{port}/\n"));
    for mechanism in mechanisms(&project) {
        let built = build_by(&project, mechanism, &["--add-host", "me:host-gateway"]);
        if mechanism == "nftables" {
            assert_eq!(built.image().text("got"), "reached");
        } else {
            built.fails(1, &["host-gateway", "`me`"]);
        }
    }
}

/// A nameserver that answers every question with 192.0.2.77.
fn nameserver() -> Option<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:53").ok()?;
    let server = socket.try_clone().expect("clone");
    std::thread::spawn(move || {
        let mut buffer = [0; 1024];
        while let Ok((count, client)) = server.recv_from(&mut buffer) {
            let mut answer = buffer[..count].to_vec();
            answer[2] |= 0x80;
            // One answer to an A question; no answer to others.
            let is_a = answer[count - 4..count - 2] == [0, 1];
            answer[6..8].copy_from_slice(&[0, u8::from(is_a)]);
            if is_a {
                answer.extend_from_slice(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x4d");
            }
            let _ = server.send_to(&answer, client);
        }
    });
    Some(socket)
}

#[test]
fn names_are_asked_of_the_given_server() {
    let Some(project) = Project::with_base() else { return };
    let Some(_server) = nameserver() else {
        return skipped("port 53 of loopback cannot be used");
    };
    let text = "FROM base\nRUN nslookup some.example.test > /answer 2>&1; cat /etc/resolv.conf > /conf\n";
    let project = project.buildfile(text);
    for mechanism in mechanisms(&project) {
        let image =
            build_by(&project, mechanism, &["--dns", "127.0.0.1", "--dns-search", "corp.test"]).image();
        assert!(image.text("conf").contains("search corp.test"), "{mechanism}: {}", image.text("conf"));
        assert!(image.text("answer").contains("192.0.2.77"), "{mechanism}: {}", image.text("answer"));
    }
}

#[test]
fn nothing_of_a_program_stays_after_its_command() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile("FROM base\nRUN true\nRUN false\n");
    for mechanism in mechanisms(&project).into_iter().filter(|name| *name != "nftables") {
        build_by(&project, mechanism, &[]).fails(1, &["Buildfile:3"]);
        let spot = project.store().join("spots/net");
        assert_eq!(std::fs::read_dir(&spot).expect("spot").count(), 0, "{mechanism}");
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    let store = project.store().display().to_string();
    assert!(!mounts.lines().any(|line| line.contains(&store)), "{mounts}");
}

#[test]
fn a_program_that_fails_says_why() {
    let Some(project) = Project::with_base() else { return };
    let bin = project.path("bin");
    std::fs::create_dir(&bin).expect("directory");
    std::fs::set_permissions(project.path("."), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("mode");
    let program = bin.join("pasta");
    std::fs::write(&program, "#!/bin/sh\necho the moon is in the wrong house >&2\nexit 3\n").expect("script");
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mode");
    if !Path::new("/dev/net/tun").exists() {
        return skipped("no /dev/net/tun");
    }
    let project = project.buildfile("FROM base\nRUN true\n");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let built = project.build_with(&["--no-cache"], |command| {
        command.env("KILN_NETWORK", "pasta").env("PATH", path);
    });
    built.fails(1, &["the moon is in the wrong house", "pasta"]);
}

#[test]
fn hosts_and_names_of_a_private_network() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\nRUN cat /etc/hosts > /hosts; hostname > /name; cat /etc/resolv.conf > /conf\n";
    let project = project.buildfile(text);
    let flags = [
        "--add-host",
        "six=[2001:db8::5]",
        "--add-host",
        "two:10.0.0.2",
        "--dns",
        "192.0.2.53",
        "--dns-option",
        "ndots:3",
    ];
    let image = project.build(&flags).image();
    assert_eq!(
        image.text("hosts"),
        "127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n2001:db8::5\tsix\n10.0.0.2\ttwo\n"
    );
    assert_eq!(image.text("conf"), "nameserver 192.0.2.53\noptions ndots:3\n");
    let image = project.build(&["--build-arg", "BUILDKIT_SANDBOX_HOSTNAME=other"]).image();
    assert_eq!(image.text("name"), "other\n");
    assert!(image.text("hosts").contains("localhost other"));
    project.build(&["--add-host", "bad"]).fails(2, &["bad"]);
    project.build(&["--dns", "bad"]).fails(2, &["bad"]);
}

#[test]
fn the_hosts_network_is_the_hosts() {
    let Some(project) = Project::with_base() else { return };
    let port = serve(TcpListener::bind("127.0.0.1:0").expect("port"), "reached");
    let text = format!("FROM base\nRUN --network=host wget -q -O /got http://127.0.0.1:{port}/\n");
    let project = project.buildfile(&text);
    project.build(&[]).fails(1, &["network.host"]);
    assert_eq!(project.build(&["--allow", "network.host"]).image().text("got"), "reached");
    project.write("Buildfile", format!("FROM base\nRUN wget -q -O /got http://127.0.0.1:{port}/\n"));
    let image = project.build(&["--allow", "network.host", "--network", "host"]).image();
    assert_eq!(image.text("got"), "reached");
}

#[test]
fn the_gateway_of_the_hosts_network_is_its_loopback() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile("FROM base\nRUN cat /etc/hosts > /hosts\n");
    let flags = ["--allow", "network.host", "--network", "host", "--add-host", "me:host-gateway"];
    let hosts = project.build(&flags).image().text("hosts");
    assert!(hosts.lines().any(|line| line == "127.0.0.1\tme"), "{hosts}");
}
