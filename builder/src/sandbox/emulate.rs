//! Programs of other processors: which emulator runs them, and how it gets into a sandbox.
//!
//! | found | what a RUN gets |
//! | --- | --- |
//! | the processor runs them itself (386 on amd64) | nothing |
//! | the kernel has a handler that keeps its interpreter open (binfmt_misc, flag `F`) and the program's name (`P`) | nothing |
//! | a static qemu-user, and a kernel with binfmt_misc for each user namespace (Linux 6.7) | a handler of its own |
//! | the kernel has a handler that keeps its interpreter open | nothing; programs see their path as their name |
//! | the kernel has a handler that names a path | the interpreter at that path, for the time of the RUN |
//!
//! Invariants: nothing here is ever in a layer: a handler lives in the sandbox's user namespace, an interpreter on a
//! mount.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Where the kernel lists its handlers.
const HANDLERS: &str = "/proc/sys/fs/binfmt_misc";
/// The first kernel where a user namespace can have handlers of its own.
const NAMESPACED_SINCE: (u32, u32) = (6, 7);
/// Where emulators are looked for beside the directories of the caller.
const DIRECTORIES: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/bin"];
/// Bytes of an ELF header that say for which processor a program is.
const HEADER_BYTES: usize = 20;

/// How programs of a platform can be run here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Support {
    /// By the processor.
    Native,
    /// By a handler of the kernel that needs nothing inside.
    Registered,
    /// By a handler of the kernel whose interpreter has to be inside, at its path.
    Visible(PathBuf),
    /// By a handler that each sandbox registers for itself.
    Own(Handler),
    /// Not at all; what was found and is not enough.
    Missing(String),
}

/// A binfmt_misc handler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handler {
    /// Path of the emulator on the host.
    pub interpreter: String,
    /// What is written to `register` (kernel documentation, admin-guide/binfmt-misc).
    pub registration: String,
}

struct Machine {
    architecture: &'static str,
    /// As qemu calls it.
    qemu: &'static str,
    is_64_bit: bool,
    is_big_endian: bool,
    /// `e_machine` of elf(5).
    number: u16,
}

const fn machine(architecture: &'static str, qemu: &'static str, is_64_bit: bool, number: u16) -> Machine {
    Machine { architecture, qemu, is_64_bit, is_big_endian: false, number }
}

const MACHINES: [Machine; 9] = [
    machine("amd64", "x86_64", true, 0x3e),
    machine("386", "i386", false, 0x03),
    machine("arm64", "aarch64", true, 0xb7),
    machine("arm", "arm", false, 0x28),
    machine("riscv64", "riscv64", true, 0xf3),
    machine("ppc64le", "ppc64le", true, 0x15),
    machine("mips64le", "mips64el", true, 0x08),
    machine("loong64", "loongarch64", true, 0x102),
    Machine { is_big_endian: true, ..machine("s390x", "s390x", true, 0x16) },
];

impl Machine {
    fn of(architecture: &str) -> Option<&'static Self> {
        MACHINES.iter().find(|machine| machine.architecture == architecture)
    }

    /// The beginning of a program.
    fn header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(b"\x7fELF");
        header[4] = if self.is_64_bit { 2 } else { 1 };
        header[5] = if self.is_big_endian { 2 } else { 1 };
        header[6] = 1;
        let halves = |value: u16| if self.is_big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        header[16..18].copy_from_slice(&halves(2));
        header[18..20].copy_from_slice(&halves(self.number));
        header
    }

    /// Which bits of [`Self::header`] count: not those of the system interface, and position-independent programs
    /// (`e_type` 3) are meant as well.
    fn mask(&self) -> [u8; HEADER_BYTES] {
        let mut mask = [0xff; HEADER_BYTES];
        mask[7] = 0;
        mask[if self.is_big_endian { 17 } else { 16 }] = 0xfe;
        mask
    }
}

/// How programs for `architecture` (in the words of image configs) can be run on `host`; emulators are looked for in
/// `directories` first.
pub fn support(host: &str, architecture: &str, directories: &[PathBuf]) -> Support {
    if host == architecture || matches!((host, architecture), ("amd64", "386")) {
        return Support::Native;
    }
    let Some(machine) = Machine::of(architecture) else {
        return Support::Missing(format!("kiln knows no emulator for {architecture}"));
    };
    let registered = registered(Path::new(HANDLERS), machine);
    if let Some(Entry { is_open: true, keeps_name: true, .. }) = &registered {
        return Support::Registered;
    }
    let directories = directories.iter().cloned().chain(DIRECTORIES.map(PathBuf::from));
    let found = emulator(directories, machine.qemu);
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    match (found, registered) {
        (Some(program), _) if kernel_at_least(&release, NAMESPACED_SINCE) => own(machine, &program),
        (_, Some(Entry { is_open: true, .. })) => Support::Registered,
        (_, Some(entry)) => Support::Visible(entry.interpreter),
        (Some(program), None) => Support::Missing(format!(
            "`{}` is installed, but Linux {release} has to be told of it (binfmt_misc)",
            program.display()
        )),
        (None, None) => Support::Missing(format!("there is no static `qemu-{}`", machine.qemu)),
    }
}

/// Architectures that are no native ones and can be run, for `kiln info`.
pub fn emulated(host: &str, directories: &[PathBuf]) -> Vec<&'static str> {
    let usable = |architecture: &&str| {
        !matches!(support(host, architecture, directories), Support::Native | Support::Missing(_))
    };
    MACHINES.iter().map(|machine| machine.architecture).filter(usable).collect()
}

fn own(machine: &Machine, program: &Path) -> Support {
    let interpreter = program.display().to_string();
    let escaped = |bytes: &[u8]| bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
    // P: the program gets the name it was called by (`argv[0]`) and not its path, which decides what programs such as
    // busybox do; qemu learns of it from the kernel (5.12) and understands it since 5.2. O and C: the program is opened,
    // and its owner and set-user-id bit count, as without an emulator. F: the interpreter is opened now, so that it
    // need not be inside.
    let registration = format!(
        ":kiln-{}:M::{}:{}:{interpreter}:POCF",
        machine.qemu,
        escaped(&machine.header()),
        escaped(&machine.mask())
    );
    Support::Own(Handler { interpreter, registration })
}

/// The first static emulator. One that needs libraries would look for them inside.
fn emulator(directories: impl Iterator<Item = PathBuf>, name: &str) -> Option<PathBuf> {
    let names = [format!("qemu-{name}-static"), format!("qemu-{name}")];
    directories
        .flat_map(|directory| names.iter().map(move |name| directory.join(name)).collect::<Vec<_>>())
        // The kernel's format for handlers has colons.
        .find(|path| !path.display().to_string().contains(':') && is_static(path))
}

/// Whether a file is an ELF program without an interpreter of its own (`PT_INTERP`).
pub fn is_static(path: &Path) -> bool {
    use std::os::unix::fs::FileExt as _;
    const PROGRAM_HEADER_BYTES: usize = 56;
    const INTERPRETER: u32 = 3;
    let Ok(file) = fs::File::open(path) else { return false };
    let mut header = [0u8; 64];
    if file.read_exact_at(&mut header, 0).is_err() || header[..5] != *b"\x7fELF\x02" {
        return false;
    }
    let number = |at: usize, count: usize| {
        header[at..at + count].iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte))
    };
    let (offset, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    size as usize == PROGRAM_HEADER_BYTES
        && (0..count).all(|index| {
            let mut kind = [0u8; 4];
            let at = index.checked_mul(size).and_then(|below| below.checked_add(offset));
            at.is_some_and(|at| file.read_exact_at(&mut kind, at).is_ok())
                && u32::from_le_bytes(kind) != INTERPRETER
        })
}

/// A handler of the kernel.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    interpreter: PathBuf,
    /// The kernel holds the interpreter open (flag `F`).
    is_open: bool,
    /// Programs get the name they are called by (flag `P`).
    keeps_name: bool,
}

fn registered(handlers: &Path, machine: &Machine) -> Option<Entry> {
    let mut names: Vec<PathBuf> = fs::read_dir(handlers).ok()?.flatten().map(|entry| entry.path()).collect();
    names.sort();
    let switch = fs::read_to_string(handlers.join("status")).unwrap_or_default();
    if switch.trim() == "disabled" {
        return None;
    }
    let header = machine.header();
    let mut entries: Vec<Entry> = names
        .iter()
        .filter(|path| !path.ends_with("status") && !path.ends_with("register"))
        .filter_map(|path| entry(&fs::read_to_string(path).ok()?, &header))
        .collect();
    entries.sort_by_key(|entry| (!entry.is_open, !entry.keeps_name));
    entries.into_iter().next()
}

/// Reads what the kernel says of a handler; `None` when it is not for such programs.
fn entry(text: &str, header: &[u8]) -> Option<Entry> {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    if text.lines().next() != Some("enabled") || value("offset") != Some("0") {
        return None;
    }
    let magic = hex(value("magic")?)?;
    let mask = match value("mask") {
        Some(mask) => hex(mask)?,
        None => vec![0xff; magic.len()],
    };
    // Without the number of the processor in it, it is a handler for something else.
    let fits = magic.len() == HEADER_BYTES
        && magic.iter().zip(&mask).zip(header).all(|((magic, mask), byte)| magic & mask == byte & mask);
    let flags = value("flags:").unwrap_or_default();
    fits.then(|| Entry {
        interpreter: value("interpreter").unwrap_or_default().into(),
        is_open: flags.contains('F'),
        keeps_name: flags.contains('P'),
    })
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let pairs = digits.chunks(2).map(|pair| {
        let text = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
        u8::from_str_radix(text, 16).ok()
    });
    pairs.collect()
}

fn kernel_at_least(release: &str, wanted: (u32, u32)) -> bool {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= wanted,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Debian's qemu-user-static registers it.
    const AARCH64: &str = "enabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: POCF\noffset 0\n\
        magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n";

    #[test]
    fn handlers_are_told_apart_by_what_they_match() {
        let of = |text: &str, architecture: &str| {
            entry(text, &Machine::of(architecture).unwrap().header()).map(|entry| entry.is_open)
        };
        assert_eq!(of(AARCH64, "arm64"), Some(true));
        assert_eq!(of(&AARCH64.replace("OCF", "OC"), "arm64"), Some(false));
        let keeps_name =
            |text: &str| entry(text, &Machine::of("arm64").unwrap().header()).unwrap().keeps_name;
        assert!(keeps_name(AARCH64) && !keeps_name(&AARCH64.replace("POCF", "OCF")));
        for other in ["riscv64", "arm", "s390x", "amd64"] {
            assert_eq!(of(AARCH64, other), None, "{other}");
        }
        assert_eq!(of(&AARCH64.replace("enabled", "disabled"), "arm64"), None);
        assert_eq!(
            of("enabled\ninterpreter /usr/bin/python3\nflags: \noffset 0\nmagic 6f0d0d0a\n", "arm64"),
            None
        );
        assert_eq!(of("enabled\ninterpreter /bin/x\nflags: \nextension .exe\n", "arm64"), None);
        assert_eq!(of("", "arm64"), None);
    }

    #[test]
    fn a_directory_of_handlers() {
        let dir = tempfile::tempdir().unwrap();
        let machine = Machine::of("arm64").unwrap();
        assert_eq!(registered(dir.path(), machine), None);
        fs::write(dir.path().join("a"), AARCH64.replace("POCF", "").replace("qemu", "other")).unwrap();
        fs::write(dir.path().join("b"), AARCH64.replace("POCF", "OCF")).unwrap();
        fs::write(dir.path().join("c"), AARCH64).unwrap();
        let found = registered(dir.path(), machine).unwrap();
        assert!(found.keeps_name, "one that keeps names is better still");
        assert_eq!(found.interpreter, Path::new("/usr/bin/qemu-aarch64-static"), "an open one is better");
        fs::write(dir.path().join("status"), "disabled\n").unwrap();
        assert_eq!(registered(dir.path(), machine), None);
    }

    #[test]
    fn a_registration_matches_its_own_header() {
        for machine in &MACHINES {
            let (header, mask) = (machine.header(), machine.mask());
            let text = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            let said = format!(
                "enabled\ninterpreter /q\nflags: F\noffset 0\nmagic {}\nmask {}\n",
                text(&header),
                text(&mask)
            );
            for other in &MACHINES {
                let matches = entry(&said, &other.header()).is_some();
                assert_eq!(matches, machine.number == other.number, "{} {}", machine.qemu, other.qemu);
            }
        }
        let Support::Own(handler) = own(Machine::of("arm64").unwrap(), Path::new("/q")) else { panic!() };
        assert!(handler.registration.starts_with(r":kiln-aarch64:M::\x7f\x45\x4c\x46\x02\x01"));
        assert!(handler.registration.ends_with(":/q:POCF"));
    }

    #[test]
    fn versions_and_static_programs() {
        assert!(kernel_at_least("6.18.4-x", (6, 7)) && kernel_at_least("7.0", (6, 7)));
        assert!(!kernel_at_least("6.6.30", (6, 7)) && !kernel_at_least("x", (6, 7)));
        assert!(!is_static(Path::new("/etc/passwd")) && !is_static(Path::new("/none")));
        assert_eq!(support("arm64", "arm64", &[]), Support::Native);
        assert!(matches!(support("amd64", "vax", &[]), Support::Missing(_)));
    }
}
