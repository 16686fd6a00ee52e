//! ADD: URLs, archives, checksums.

use crate::base::{Member, digest, gzip, tar};
use crate::project::Project;
use crate::server::{Response, Server};

fn files() -> Server {
    Server::start(|request| match request.path.as_str() {
        "/file.txt" => Response::new(200, "from the server\n")
            .header("last-modified", "Sat, 01 Jan 2000 00:00:00 GMT")
            .header("etag", "\"v1\""),
        "/moved" => Response::new(302, "").header("location", "/file.txt"),
        "/pack.tgz" => Response::new(200, gzip(&tar(&[Member::File("inside", 0o640, b"packed")]))),
        "/broken" => Response::new(500, "no"),
        _ => Response::new(404, "gone"),
    })
}

#[test]
fn a_url_becomes_a_private_file_with_the_servers_time() {
    let server = files();
    let text = format!("FROM scratch\nADD http://{}/file.txt /dir/\n", server.address);
    let image = Project::new().buildfile(&text).build(&[]).image();
    assert_eq!(image.text("dir/file.txt"), "from the server\n");
    let entry = image.entry("dir/file.txt");
    assert_eq!((entry.mode, entry.uid, entry.gid, entry.mtime), (0o600, 0, 0, 946_684_800));
}

#[test]
fn redirects_are_followed_and_archives_of_a_url_stay_packed() {
    let server = files();
    let text = format!("FROM scratch\nADD http://{0}/moved /a\nADD http://{0}/pack.tgz /\n", server.address);
    let image = Project::new().buildfile(&text).build(&[]).image();
    assert_eq!(image.text("a"), "from the server\n");
    assert!(image.has("pack.tgz") && !image.has("inside"));
}

#[test]
fn unpack_extracts_an_archive_of_a_url() {
    let server = files();
    let text = format!("FROM scratch\nADD --unpack=true http://{}/pack.tgz /to\n", server.address);
    let image = Project::new().buildfile(&text).build(&[]).image();
    assert_eq!(image.text("to/inside"), "packed");
    assert_eq!(image.entry("to/inside").mode, 0o640);
}

#[test]
fn a_checksum_is_compared() {
    let server = files();
    let text =
        |sum: &str| format!("FROM scratch\nADD --checksum={sum} http://{}/file.txt /f\n", server.address);
    let right = digest(b"from the server\n");
    let project = Project::new().buildfile(&text(&right));
    project.build(&[]).image();
    let wrong = digest(b"another");
    project.write("Buildfile", text(&wrong));
    project.build(&[]).fails(1, &["Buildfile:2", &right, &wrong]);
}

#[test]
fn a_missing_url_names_the_url_and_the_status() {
    let server = files();
    let url = format!("http://{}/none", server.address);
    let project = Project::new().buildfile(&format!("FROM scratch\nADD {url} /f\n"));
    project.build(&[]).fails(1, &[&url, "404", "Buildfile:2"]);
}

#[test]
fn local_archives_are_extracted_by_their_content() {
    let pack = tar(&[
        Member::Directory("d", 0o711),
        Member::File("d/f", 0o600, b"data"),
        Member::Symlink("d/l", "f"),
    ]);
    let project = Project::new()
        .file("plain", &pack)
        .file("zipped.anything", gzip(&pack))
        .file("not-a-tar.tar", "text")
        .buildfile("FROM scratch\nADD plain /one\nADD zipped.anything /two/\nADD not-a-tar.tar /three/\n");
    let image = project.build(&[]).image();
    for place in ["one", "two"] {
        assert_eq!(image.text(&format!("{place}/d/f")), "data");
        assert_eq!(image.entry(&format!("{place}/d")).mode, 0o711);
    }
    assert_eq!(image.text("three/not-a-tar.tar"), "text");
}

#[test]
fn a_hostile_archive_writes_nothing_outside() {
    let project = Project::new();
    let outside = project.path("outside");
    std::fs::create_dir(&outside).expect("directory");
    let target = outside.display().to_string();
    let pack = tar(&[Member::Symlink("way", &target), Member::File("way/evil", 0o644, b"x")]);
    let project = project.file("pack.tar", pack).buildfile("FROM scratch\nADD pack.tar /\n");
    let built = project.build(&[]);
    assert_eq!(std::fs::read_dir(&outside).expect("outside").count(), 0, "written on the host");
    assert!(!built.log().contains("panicked"));
}

#[test]
fn a_checksum_of_a_file_that_changed_at_the_server_is_seen() {
    use std::sync::atomic::{AtomicBool, Ordering};
    static CHANGED: AtomicBool = AtomicBool::new(false);
    let server = Server::start(|_| {
        let changed = CHANGED.load(Ordering::SeqCst);
        Response::new(200, if changed { "two" } else { "one" })
            .header("etag", if changed { "\"2\"" } else { "\"1\"" })
    });
    let project = Project::new().buildfile(&format!("FROM scratch\nADD http://{}/f /f\n", server.address));
    assert_eq!(project.build(&[]).image().text("f"), "one");
    CHANGED.store(true, Ordering::SeqCst);
    assert_eq!(project.build(&[]).image().text("f"), "two");
}

#[test]
fn nobody_is_asked_for_what_has_the_wanted_checksum() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static REQUESTS: AtomicUsize = AtomicUsize::new(0);
    let server = Server::start(|_| match REQUESTS.fetch_add(1, Ordering::SeqCst) {
        0 => Response::new(200, "body").header("etag", "\"1\""),
        _ => Response::new(404, "gone"),
    });
    let text = |sum: &[u8], to: &str| {
        format!("FROM scratch\nADD --checksum={} http://{}/f {to}\n", digest(sum), server.address)
    };
    let project = Project::new().buildfile(&text(b"body", "/a"));
    assert_eq!(project.build(&[]).image().text("a"), "body");
    // The same step, and another one with the same file.
    assert_eq!(project.build(&[]).image().text("a"), "body");
    project.write("Buildfile", text(b"body", "/b"));
    assert_eq!(project.build(&[]).image().text("b"), "body");
    assert_eq!(REQUESTS.load(Ordering::SeqCst), 1);
    project.write("Buildfile", text(b"new", "/b"));
    project.build(&[]).fails(1, &["404"]);
}

#[test]
fn equal_bodies_of_two_names_are_two_files() {
    let server = Server::start(|_| Response::new(200, "body"));
    let text = |name: &str| format!("FROM scratch\nADD http://{}/{name} /d/\n", server.address);
    let project = Project::new().buildfile(&text("one"));
    assert_eq!(project.build(&[]).image().text("d/one"), "body");
    project.write("Buildfile", text("two"));
    assert_eq!(project.build(&[]).image().text("d/two"), "body");
}
