//! Owners and devices that a small user namespace cannot make: the image has them all the same.

use crate::image::{Image, Kind};
use crate::project::{Built, Project, is_root, skipped};

/// An archive with owners that no usual range of subordinate ids reaches, and a device.
fn archive() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |name: &str, kind, (uid, gid): (u64, u64), mode, content: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_uid(uid);
        header.set_gid(gid);
        header.set_mode(mode);
        header.set_mtime(1_111_111_111);
        header.set_size(content.len() as u64);
        if kind == tar::EntryType::Char {
            header.set_device_major(1).expect("number");
            header.set_device_minor(3).expect("number");
        }
        builder.append_data(&mut header, name, content).expect("entry");
    };
    add("big", tar::EntryType::Regular, (3_000_000, 4_000_000), 0o640, b"b");
    add("dir", tar::EntryType::Directory, (3_000_000, 5), 0o1777, b"");
    add("dir/f", tar::EntryType::Regular, (5, 3_000_000_000), 0o4755, b"f");
    add("null", tar::EntryType::Char, (0, 5), 0o666, b"");
    builder.into_inner().expect("archive")
}

const TEXT: &str = "FROM base AS made\n\
    ADD a.tar /w/\n\
    RUN touch /run && chown 2097151:2097152 /run && mkdir /sub && cd /sub && touch f && \
        chown -R 3000000000:4294967294 . && chown 7 f\n\
    RUN chmod 600 /w/big && mv /w/dir/f /w/moved && ln /w/big /w/twin && echo more >> /run\n\
    COPY --from=base --chown=2000000:2000001 /etc/passwd /own/\n\
    FROM scratch\n\
    COPY --from=made /w /w\n\
    COPY --from=made /run /sub /own/passwd /\n\
    COPY --from=made --chown=8:9 /w/null /null\n";

/// Whether kiln has one id here and no more.
fn has_single_id(built: &Built) -> bool {
    built.log().contains("no subordinate ids")
}

fn owner(image: &Image, path: &str) -> (u64, u64) {
    let entry = image.entry(path);
    (entry.uid, entry.gid)
}

fn check(image: &Image) {
    assert_eq!(owner(image, "w/big"), (3_000_000, 4_000_000));
    assert_eq!(image.entry("w/big").mode, 0o600);
    assert_eq!(owner(image, "w/twin"), (3_000_000, 4_000_000));
    assert_eq!((owner(image, "w/dir"), image.entry("w/dir").mode), ((3_000_000, 5), 0o1777));
    assert_eq!((owner(image, "w/moved"), image.entry("w/moved").mode), ((5, 3_000_000_000), 0o4755));
    assert_eq!(owner(image, "run"), (2_097_151, 2_097_152));
    assert_eq!(owner(image, "f"), (7, 4_294_967_294));
    assert_eq!(owner(image, "passwd"), (2_000_000, 2_000_001));
    for (path, owner_of_it) in [("w/null", (0, 5)), ("null", (8, 9))] {
        let entry = image.entry(path);
        assert_eq!((&entry.kind, owner(image, path)), (&Kind::CharDevice(1, 3), owner_of_it), "{path}");
        assert_eq!(entry.mode, 0o666);
    }
}

#[test]
fn owners_and_devices_that_cannot_be_made_are_in_the_image() {
    let Some(project) = Project::with_base() else { return };
    let project = project.file("a.tar", archive()).buildfile(TEXT);
    let built = project.build(&[]);
    check(&built.image());
    // A base image that has them, in another store.
    let other = Project::new().buildfile("FROM app\nCOPY --from=app /w /again\n");
    let file = std::fs::File::open(&built.archive).expect("archive");
    tar::Archive::new(file).unpack(other.path("app")).expect("unpacked");
    let flag = format!("--build-context=app=oci-layout://{}", other.path("app").display());
    let copied = other.build(&[&flag]);
    let image = copied.image();
    check(&image);
    assert_eq!(owner(&image, "again/big"), (3_000_000, 4_000_000));
    assert_eq!(image.entry("again/null").kind, Kind::CharDevice(1, 3));
}

#[test]
fn root_and_another_user_build_the_same_owners_and_devices() {
    let Some(project) = Project::with_base() else { return };
    let project = project.file("a.tar", archive()).buildfile(TEXT);
    let archive = project.path("own.tar");
    let mut command = project.build_command(["-t", "repro:1"]);
    command.env("SOURCE_DATE_EPOCH", "1500000000");
    command.arg("-o").arg(format!("type=oci,dest={}", archive.display()));
    crate::project::Ended::of(&mut command).ok();
    let own = std::fs::read(&archive).expect("archive");
    match crate::reproducible::bytes_of_another_user(&project) {
        Ok(bytes) => assert!(own == bytes, "root and another user build other bytes"),
        Err(why) => skipped(why),
    }
}

#[test]
fn what_a_command_changes_back_is_not_what_was_recorded() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\nRUN touch /a /b /c /s && chown 3000000:3000001 /a /b /c /s && chmod 4755 /s && mkdir -m 777 /d && \
                chown 3000000 /d\n\
                RUN chown 1:2 /a && chown 65534:65534 /b && chown :5 /c && chown 3000002 /s && rmdir /d\n";
    let project = project.buildfile(text);
    let built = project.build(&[]);
    let image = built.image();
    assert_eq!(owner(&image, "a"), (1, 2));
    // An ordinary user's command is shown nobody there, and says that nothing changes.
    let kept = if is_root() || has_single_id(&built) { (65534, 65534) } else { (3_000_000, 3_000_001) };
    assert_eq!(owner(&image, "b"), kept);
    assert_eq!(owner(&image, "c"), (3_000_000, 5));
    // The kernel takes set-id bits away, whoever changes the owner.
    assert_eq!((owner(&image, "s"), image.entry("s").mode), ((3_000_002, 3_000_001), 0o755));
    assert!(!image.has("d"));
}

#[test]
fn who_may_not_change_owners_still_may_not() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\nUSER 1000\nWORKDIR /mine\n\
                RUN touch f && ! chown 3000000 f && ! chown 65534 f && ! mknod n c 1 3 && ! chown 3000000 /etc/passwd\n";
    let project = project.buildfile(text);
    let built = project.build(&[]);
    if has_single_id(&built) {
        return skipped("a single id has no users");
    }
    let image = built.image();
    assert_eq!(
        (owner(&image, "mine/f").0, owner(&image, "etc/passwd").0, image.has("mine/n")),
        (1000, 0, false)
    );
}

/// Root's commands are in a user namespace as well, where kiln cannot help: nothing of its own may be root's there.
#[test]
fn a_command_makes_devices_as_an_ordinary_user() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\nRUN umask 027 && mknod /null c 1 3 && mknod -m 640 /disk b 259 70000 && mkfifo /p && \
                mkdir /r && mkdir /r/in && cd /r && mknod in/zero c 1 5 && ! mknod in/zero c 1 5 && ! mknod no/x c 1 5\n\
                RUN rm /r/in/zero && chmod 600 /null\n";
    let project = project.buildfile(text);
    let built = project.build(&[]);
    if is_root() {
        return built.fails(1, &["Buildfile:2"]);
    }
    let image = built.image();
    assert_eq!((&image.entry("null").kind, image.entry("null").mode), (&Kind::CharDevice(1, 3), 0o600));
    assert_eq!(
        (&image.entry("disk").kind, image.entry("disk").mode),
        (&Kind::BlockDevice(259, 70000), 0o640)
    );
    assert!(!image.has("r/in/zero"));
}

#[test]
fn the_owner_of_a_symlink_is_lost_with_a_warning() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile("FROM base\nRUN ln -s x /l && chown -h 3000000:7 /l\n");
    let built = project.build(&[]);
    let lost = built.log().contains("1 changes of owner of symlinks are left out of step");
    let expected = match () {
        () if is_root() => (3_000_000, 7),
        // Nobody is root where there is no other id.
        () if has_single_id(&built) => (0, 0),
        () => (65534, 7),
    };
    assert_eq!((owner(&built.image(), "l"), lost), (expected, !is_root()), "{}", built.log());
}

#[test]
fn kiln_answers_nobody_who_may_not_enter_every_directory() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile("FROM base\nRUN touch /f && { chown 3000000 /f || echo refused; }\n");
    let built = project.build(&["--cap-drop=DAC_OVERRIDE"]);
    built.succeeds();
    assert_eq!(built.said("refused"), !is_root(), "{}", built.log());
}
