//! RUN for another processor. Needs an emulator on this machine; the programs are made here, instruction by instruction.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::project::{Project, skipped};

/// movz x`register`, #`value`
fn set(register: u32, value: u32) -> u32 {
    0xd280_0000 | (value << 5) | register
}

/// adr x`register`, #`distance`, a multiple of four
fn address(register: u32, distance: u32) -> u32 {
    0x1000_0000 | ((distance / 4) << 5) | register
}

const CALL: u32 = 0xd400_0001;
const WRITE: u32 = 64;
const EXIT: u32 = 93;
const EXECVE: u32 = 221;

/// An ELF program for arm64 of these instructions and, behind them, this text.
fn program(code: &[u32], text: &[u8]) -> Vec<u8> {
    const HEADERS: u64 = 64 + 56;
    const BASE: u64 = 0x40_0000;
    let size = HEADERS + 4 * code.len() as u64 + text.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    for half in [2u16, 0xb7] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend(1u32.to_le_bytes());
    for word in [BASE + HEADERS, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    // One segment, readable and executable.
    elf.extend(1u32.to_le_bytes());
    elf.extend(5u32.to_le_bytes());
    for word in [0, BASE, BASE, size, size, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(code.iter().flat_map(|instruction| instruction.to_le_bytes()));
    elf.extend(text);
    elf
}

/// Says hello and exits with `status`.
fn hello(status: u32) -> Vec<u8> {
    let text = b"hello from arm64\n";
    let code = [
        set(0, 1),
        address(1, 28),
        set(2, text.len() as u32),
        set(8, WRITE),
        CALL,
        set(0, status),
        set(8, EXIT),
        CALL,
    ];
    program(&code, text)
}

/// Becomes `/hello`.
fn starter() -> Vec<u8> {
    program(&[address(0, 20), set(1, 0), set(2, 0), set(8, EXECVE), CALL], b"/hello\0")
}

/// Says the first four bytes of the name that it was called by.
fn name() -> Vec<u8> {
    const LOAD_NAME: u32 = 0xf940_07e1; // ldr x1, [sp, #8]
    let write = |bytes: u32, load: u32| [set(0, 1), load, set(2, bytes), set(8, WRITE), CALL];
    let exit = [set(0, 0), set(8, EXIT), CALL];
    // From the load of the address, the second instruction of the second write, to the text.
    let code = [&write(4, LOAD_NAME)[..], &write(1, address(1, 4 * 7)), &exit].concat();
    program(&code, b"\n")
}

fn project(status: u32, run: &str) -> Project {
    let project = Project::new()
        .file("hello", hello(status))
        .file("start", starter())
        .buildfile(&format!("FROM scratch\nCOPY hello start /\nRUN {run}\n"));
    for name in ["hello", "start"] {
        fs::set_permissions(project.context(name), fs::Permissions::from_mode(0o755)).expect("mode");
    }
    project
}

/// Whether this machine can run the programs; `kiln info` says so.
fn emulates() -> bool {
    let project = Project::new();
    let info = project.run(&["info", "--json"]).ok();
    let info: serde_json::Value = serde_json::from_str(&info.stdout).expect("JSON");
    let can =
        std::env::consts::ARCH == "aarch64" || info["emulated"].as_str().is_some_and(|s| s.contains("arm64"));
    if !can {
        skipped("there is no emulator for arm64 (qemu-user-static)");
    }
    can
}

#[test]
fn a_step_for_another_processor() {
    if !emulates() {
        return;
    }
    let project = project(0, "[\"/start\"]");
    let built = project.build(&["--platform=linux/arm64"]);
    assert!(built.said("hello from arm64"), "{}", built.log());
    let image = built.image();
    assert_eq!(image.config["architecture"], "arm64");
    let names: Vec<&String> = image.files.keys().collect();
    assert_eq!(names, ["hello", "start"], "the emulator is in no layer");
}

#[test]
fn a_program_for_another_processor_keeps_its_name() {
    if !emulates() {
        return;
    }
    let project = Project::new()
        .file("name", name())
        .buildfile("FROM scratch\nCOPY --chmod=755 name /\nENV PATH=/\nRUN [\"name\"]\n");
    let built = project.build(&["--platform=linux/arm64"]);
    built.succeeds();
    assert!(built.log().lines().any(|line| line.ends_with(" name")), "{}", built.log());
}

#[test]
fn a_step_for_another_processor_that_fails() {
    if !emulates() {
        return;
    }
    project(3, "[\"/hello\"]")
        .build(&["--platform=linux/arm64"])
        .fails(1, &["exit code: 3", "hello from arm64"]);
}

#[test]
fn a_processor_that_cannot_be_run() {
    let project = project(0, "[\"/hello\"]");
    let built = project.build_with(&["--platform=linux/wasm"], |_| {});
    built.fails(
        1,
        &[
            "programs for linux/wasm cannot be run on this machine",
            "--platform=$BUILDPLATFORM",
            "Buildfile:3",
        ],
    );
}

#[test]
fn what_is_equal_for_all_platforms_runs_once() {
    use crate::image::{Image, json_of, layout_of_archive};
    let text = "FROM --platform=$BUILDPLATFORM base AS shared\nRUN echo shared > /shared\n\
        FROM shared AS cross\nARG TARGETPLATFORM TARGETARCH BUILDPLATFORM\n\
        RUN echo $BUILDPLATFORM to $TARGETPLATFORM $TARGETARCH > /out\nFROM scratch\nCOPY --from=cross /shared /out /\n";
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile(text);
    let built = project.build(&["--platform=linux/amd64,linux/arm64"]);
    built.succeeds();
    let runs = |what: &str| built.executed().iter().filter(|step| step.contains(what)).count();
    assert_eq!((runs("echo shared"), runs("echo $BUILDPLATFORM")), (1, 2), "{}", built.log());
    let layout = layout_of_archive(&built.archive);
    let root = json_of(&layout, "index.json")["manifests"][0]["digest"].as_str().expect("digest").to_owned();
    let index = json_of(&layout, &format!("blobs/sha256/{}", root.trim_start_matches("sha256:")));
    let manifests = index["manifests"].as_array().expect("manifests");
    assert_eq!(manifests.len(), 2);
    let here = crate::base::architecture();
    for (descriptor, architecture) in manifests.iter().zip(["amd64", "arm64"]) {
        assert_eq!(descriptor["platform"]["architecture"], architecture);
        let image = Image::read(&layout, descriptor);
        assert_eq!(image.config["architecture"], architecture);
        assert_eq!(image.text("shared"), "shared\n");
        assert_eq!(image.text("out"), format!("linux/{here} to linux/{architecture} {architecture}\n"));
    }
}
