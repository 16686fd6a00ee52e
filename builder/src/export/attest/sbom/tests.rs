use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;

fn write(root: &Path, path: &str, text: impl AsRef<[u8]>) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn names(inventory: &Inventory) -> Vec<String> {
    inventory.packages.iter().map(|p| format!("{}/{}@{}", p.kind.name(), p.name, p.version)).collect()
}

fn scanned(root: &Path) -> Inventory {
    scan(&RootDir::open(root).unwrap())
}

#[test]
fn everything_that_is_known_is_found() {
    let host = tempfile::tempdir().unwrap();
    let root = host.path();
    write(root, "usr/lib/os-release", "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian 12\"\n");
    fs::create_dir(root.join("etc")).unwrap();
    symlink("/usr/lib/os-release", root.join("etc/os-release")).unwrap();
    write(root, "var/lib/dpkg/status", "Package: a\nStatus: install ok installed\nVersion: 1\n");
    write(root, "var/lib/dpkg/status.d/b", "Package: b\nVersion: 2\n");
    write(root, "var/lib/dpkg/status.d/b.md5sums", "Package: not this\nVersion: 2\n");
    write(root, "lib/apk/db/installed", "P:c\nV:3\n\n");
    write(root, "usr/lib/python3/site-packages/d-4.dist-info/METADATA", "Name: d\nVersion: 4\n\n");
    write(root, "app/node_modules/e/package.json", r#"{"name":"e","version":"5"}"#);
    write(root, "app/node_modules/@s/f/package.json", r#"{"name":"@s/f","version":"6"}"#);
    write(root, "app/package.json", r#"{"name":"project","version":"0"}"#);
    write(root, "app/METADATA", "Name: no\nVersion: 0\n\n");
    fs::create_dir_all(root.join("var/lib/rpm")).unwrap();
    rpm::tests::database(&root.join("var/lib/rpm/rpmdb.sqlite"), "");
    let found = scanned(root);
    assert_eq!(
        names(&found),
        ["apk/c@3", "deb/a@1", "deb/b@2", "npm/@s/f@6", "npm/e@5", "pypi/d@4", "rpm/bash@5.2-1.fc40"]
    );
    assert_eq!((found.system.id.as_str(), found.system.version.as_str()), ("debian", "12"));
    assert_eq!(found.left_out, Vec::<String>::new());
    assert_eq!(found, scanned(root));
}

#[test]
fn what_is_hostile_is_left_out_and_told() {
    let host = tempfile::tempdir().unwrap();
    let (root, outside) = (host.path().join("root"), host.path().join("outside"));
    write(&outside, "status", "Package: outside\nVersion: 1\n");
    fs::create_dir_all(root.join("var/lib/dpkg")).unwrap();
    // A link to the host, a database that is a pipe, one that is a directory, and one too large to be one.
    symlink(outside.join("status"), root.join("var/lib/dpkg/status")).unwrap();
    fs::create_dir_all(root.join("lib/apk/db")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, root.join("lib/apk/db/installed"), rustix::fs::Mode::RUSR).unwrap();
    write(&root, "usr/lib/sysimage/rpm/rpmdb.sqlite", "SQLite format 3\0 and then nothing of the kind");
    let large = root.join("x/node_modules/y/package.json");
    write(&root, "x/node_modules/y/package.json", "{");
    fs::File::options().write(true).open(&large).unwrap().set_len(1 << 40).unwrap();
    write(&root, "x.egg-info/PKG-INFO", format!("Name: {}\nVersion: 1\n\n", "n".repeat(10_000)));
    let found = scanned(&root);
    assert_eq!(names(&found), Vec::<String>::new());
    let told = found.left_out.join("\n");
    for path in ["lib/apk/db/installed", "rpmdb.sqlite", "x/node_modules/y/package.json"] {
        assert!(told.contains(path), "{path}: {told}");
    }
    assert!(!told.contains("outside"), "{told}");
}
