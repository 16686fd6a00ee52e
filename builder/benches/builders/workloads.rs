//! What is built.
//!
//! Invariants: contexts are the same bytes on every machine: numbers come from a generator with a fixed seed.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the result goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Export {
    /// The builder's own store.
    Store,
    /// An OCI archive.
    Archive { compression: &'static str },
    /// A registry.
    Push,
}

/// What the workload's `$BASE` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// This machine's busybox; it is in the store before a build begins.
    Busybox,
    /// The layout of `--debian`; it is in the store before a build begins.
    Debian,
    /// An image in the registry that no store has.
    Registry,
}

/// What the machine offers beside the builders.
pub struct Site {
    /// OCI layouts of base images, tag `latest`.
    pub busybox: PathBuf,
    pub debian: Option<PathBuf>,
    /// `HOST:PORT`, plain HTTP.
    pub registry: Option<String>,
    /// Of sizes and counts.
    pub scale: f64,
}

impl Site {
    /// Why a workload cannot be run here.
    pub fn lacks(&self, workload: &Workload) -> Option<&'static str> {
        let registry = workload.export == Export::Push || workload.base == Base::Registry;
        match workload.base {
            _ if registry && self.registry.is_none() => Some("needs --registry"),
            Base::Debian if self.debian.is_none() => Some("needs --debian"),
            _ => None,
        }
    }

    /// The layout of a base that is in the store before a build begins.
    pub fn layout(&self, base: Base) -> Option<&Path> {
        match base {
            Base::Busybox => Some(&self.busybox),
            Base::Debian => self.debian.as_deref(),
            Base::Registry => None,
        }
    }

    /// The name of the image that [`Base::Registry`] means.
    pub fn pulled(&self) -> String {
        format!("{}/bench-base:latest", self.registry.as_deref().unwrap_or_default())
    }
}

/// From which state a build is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// An empty store, the base image excepted.
    Cold,
    /// Nothing changed.
    Warm,
    /// One small change.
    Change,
}

impl Phase {
    pub fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Warm => "warm",
            Self::Change => "change",
        }
    }
}

/// Makes a context.
type Prepare = Box<dyn Fn(&Path, &Site) -> Result<(), String>>;

/// A workload.
pub struct Workload {
    pub name: &'static str,
    pub shows: &'static str,
    pub phases: &'static [Phase],
    pub base: Base,
    pub export: Export,
    pub prepare: Prepare,
    pub change: fn(&Path, usize) -> Result<(), String>,
}

const ALL: &[Phase] = &[Phase::Cold, Phase::Warm, Phase::Change];
const ONCE: &[Phase] = &[Phase::Cold, Phase::Warm];
const COLD: &[Phase] = &[Phase::Cold];

/// All of them.
pub fn all() -> Vec<Workload> {
    use Base::{Busybox, Debian, Registry};
    type Made = fn(&Path, &Site) -> Result<(), String>;
    let of = |name, shows, phases, base, export, prepare: Made| Workload {
        name,
        shows,
        phases,
        base,
        export,
        prepare: Box::new(prepare),
        change: touch,
    };
    let archive = |compression| Export::Archive { compression };
    let store = Export::Store;
    vec![
        of("stages", "5 stages, 25 steps, a context of 5,000 files", ALL, Busybox, store, stages),
        of("deep", "100 RUN steps, one after the other", ALL, Busybox, store, deep),
        of("wide-16", "16 stages joined by COPY --from", ONCE, Busybox, store, |dir, _| wide(dir, 16)),
        of("wide-64", "64 stages", ONCE, Busybox, store, |dir, _| wide(dir, 64)),
        of("wide-128", "128 stages", ONCE, Busybox, store, |dir, _| wide(dir, 128)),
        of(
            "many-files",
            "50,000 small files copied, then COPY --from --chown",
            ALL,
            Busybox,
            store,
            many_files,
        ),
        of("big-gzip", "1 GiB incompressible and 512 MiB text, gzip", ONCE, Busybox, archive("gzip"), big),
        of("big-zstd", "the same, zstd", ONCE, Busybox, archive("zstd"), big),
        of("tar-many", "ADD of a tar with 50,000 files", ONCE, Busybox, store, tar_many),
        of("tar-big", "ADD of a tar with one file of 1 GiB", ONCE, Busybox, store, tar_big),
        of("apt", "apt-get update and install of gcc (--debian)", ONCE, Debian, store, apt),
        of("compile", "gcc compiles 300 files, COPY --from (--debian)", ONCE, Debian, store, compile),
        of("push", "an image of 500 MB to a registry (--registry)", ONCE, Busybox, Export::Push, push),
        of("unpack", "a RUN on a base of 4 layers, 600 MB (--registry)", COLD, Registry, store, unpack),
    ]
}

/// What is in a directory of directories with a Buildfile each, for a Debian base (`ARG BASE`). A `gen.sh` in one makes the
/// rest of its context.
pub fn found(directory: &Path) -> Result<Vec<Workload>, String> {
    let fail = |e: std::io::Error| format!("{}: {e}", directory.display());
    let mut names: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(directory).map_err(fail)? {
        names.push(entry.map_err(fail)?.path());
    }
    names.retain(|path| path.join("Buildfile").exists());
    names.sort();
    let workload = |source: PathBuf| Workload {
        // A handful for the whole run.
        name: Box::leak(
            source.file_name().unwrap_or_default().to_string_lossy().into_owned().into_boxed_str(),
        ),
        shows: "a Buildfile of --buildfiles",
        phases: ONCE,
        base: Base::Debian,
        export: Export::Store,
        prepare: Box::new(move |dir, _| {
            succeed(Command::new("cp").arg("-r").arg(source.join(".")).arg(dir))?;
            if dir.join("gen.sh").exists() {
                succeed(Command::new("bash").arg("gen.sh").current_dir(dir))?;
            }
            Ok(())
        }),
        change: touch,
    };
    Ok(names.into_iter().map(workload).collect())
}

fn succeed(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|e| format!("{command:?}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} failed")) }
}

/// The base image: this machine's static busybox, as an OCI layout with the tag `latest`.
pub fn write_base(layout: &Path) -> Result<(), String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let found = ["/usr/bin/busybox", "/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    let busybox = found.ok_or("a static busybox is needed (Debian: busybox-static)")?;
    let text = "FROM scratch\nCOPY busybox /bin/busybox\n\
                RUN [\"/bin/busybox\", \"sh\", \"-c\", \"/bin/busybox mkdir -p -m 1777 /tmp && /bin/busybox --install -s /bin\"]\n\
                ENV PATH=/bin\nCMD [\"/bin/sh\"]\n";
    fs::copy(busybox, dir.path().join("busybox")).map_err(|e| e.to_string())?;
    write(&dir.path().join("Buildfile"), text)?;
    kiln(&dir.path().join("store"), |command| {
        command.args(["-t", "base:latest", "-o"]);
        command.arg(format!("type=oci,dest={},tar=false,name=latest", layout.display())).arg(dir.path());
    })
}

fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<(), String> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|e| e.to_string())?;
    }
    fs::write(path, content).map_err(|e| format!("{}: {e}", path.display()))
}

/// One changed file, copied by the last COPY of the workloads that have this phase.
fn touch(dir: &Path, run: usize) -> Result<(), String> {
    write(&dir.join("src/changed"), format!("{run}\n"))
}

/// xorshift64*: fast, and bytes that no compressor shrinks.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            let word = self.next().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

fn noise_file(path: &Path, size: u64) -> Result<(), String> {
    let mut file = fs::File::create(path).map_err(|e| e.to_string())?;
    let (mut noise, mut buffer) = (Noise(0x9e37_79b9_7f4a_7c15), vec![0; 1 << 20]);
    let mut left = size;
    while left > 0 {
        let count = left.min(buffer.len() as u64);
        noise.fill(&mut buffer[..count as usize]);
        file.write_all(&buffer[..count as usize]).map_err(|e| e.to_string())?;
        left -= count;
    }
    Ok(())
}

fn text_file(path: &Path, size: u64) -> Result<(), String> {
    const WORDS: [&str; 16] = [
        "layer", "image", "the", "of", "build", "step", "and", "cache", "file", "a", "root", "to", "mount",
        "is", "stage", "copy",
    ];
    let file = fs::File::create(path).map_err(|e| e.to_string())?;
    let mut file = std::io::BufWriter::new(file);
    let (mut noise, mut written) = (Noise(7), 0);
    while written < size {
        let mut line = String::new();
        for _ in 0..12 {
            line.push_str(WORDS[(noise.next() >> 60) as usize]);
            line.push(' ');
        }
        line.push_str(&format!("{}\n", noise.next() % 100_000));
        written += line.len() as u64;
        file.write_all(line.as_bytes()).map_err(|e| e.to_string())?;
    }
    Ok(())
}

fn small_files(dir: &Path, count: usize) -> Result<(), String> {
    let mut noise = Noise(count as u64 | 1);
    for number in 0..count {
        let content = format!("{number} {:x}\n", noise.next()).repeat(1 + number % 8);
        write(&dir.join(format!("d{}/f{number}", number / 100)), content)?;
    }
    Ok(())
}

fn scaled(count: usize, scale: f64) -> usize {
    ((count as f64 * scale) as usize).max(1)
}

fn stages(dir: &Path, site: &Site) -> Result<(), String> {
    small_files(&dir.join("src"), scaled(5_000, site.scale).max(600))?;
    touch(dir, 0)?;
    let mut text = "ARG BASE\nFROM $BASE AS base\nENV A=1\nRUN echo base > /base\nWORKDIR /w\n".to_owned();
    for name in ["deps", "tools", "docs"] {
        text.push_str(&format!("FROM base AS {name}\n"));
        for step in 0..4 {
            text.push_str(&format!("RUN echo {name} {step} > /{name}{step}\n"));
        }
        text.push_str(&format!("COPY src/d{} /{name}/\n", name.len()));
    }
    text.push_str(
        "FROM base\nCOPY --from=deps /deps0 /\nCOPY --from=tools /tools0 /\nCOPY --from=docs /docs0 /\n",
    );
    text.push_str("RUN echo ready > /ready\nCOPY src /src\nLABEL done=yes\nCMD [\"sh\"]\n");
    write(&dir.join("Buildfile"), text)
}

fn deep(dir: &Path, site: &Site) -> Result<(), String> {
    touch(dir, 0)?;
    // Equal steps on an equal base would be one step.
    let steps: String =
        (0..scaled(100, site.scale)).map(|number| format!("RUN echo {number} > /f{number}\n")).collect();
    write(&dir.join("Buildfile"), format!("ARG BASE\nFROM $BASE\n{steps}COPY src /src\n"))
}

fn wide(dir: &Path, count: usize) -> Result<(), String> {
    let mut text = "ARG BASE\n".to_owned();
    for number in 0..count {
        text.push_str(&format!("FROM $BASE AS s{number}\nRUN echo {number} > /out{number}\n"));
    }
    text.push_str("FROM $BASE\n");
    for number in 0..count {
        text.push_str(&format!("COPY --from=s{number} /out{number} /all/\n"));
    }
    write(&dir.join("Buildfile"), text)
}

fn many_files(dir: &Path, site: &Site) -> Result<(), String> {
    small_files(&dir.join("src"), scaled(50_000, site.scale))?;
    touch(dir, 0)?;
    let text =
        "ARG BASE\nFROM $BASE AS a\nCOPY src /src\nFROM $BASE\nCOPY --from=a --chown=1000:1000 /src /own\n";
    write(&dir.join("Buildfile"), text)
}

fn big(dir: &Path, site: &Site) -> Result<(), String> {
    fs::create_dir_all(dir).map_err(|e| e.to_string())?;
    noise_file(&dir.join("noise"), scaled(1 << 30, site.scale) as u64)?;
    text_file(&dir.join("text"), scaled(512 << 20, site.scale) as u64)?;
    write(&dir.join("Buildfile"), "ARG BASE\nFROM $BASE\nCOPY noise text /data/\n")
}

fn tar_of(dir: &Path) -> Result<(), String> {
    let mut command = Command::new("tar");
    command.arg("-C").arg(dir).args(["--owner=0", "--group=0", "--remove-files", "-cf", "all.tar", "in"]);
    let status = command.current_dir(dir).status().map_err(|e| e.to_string())?;
    if !status.success() {
        return Err("tar failed".to_owned());
    }
    write(&dir.join("Buildfile"), "ARG BASE\nFROM $BASE\nADD all.tar /data/\n")
}

fn tar_many(dir: &Path, site: &Site) -> Result<(), String> {
    small_files(&dir.join("in"), scaled(50_000, site.scale))?;
    tar_of(dir)
}

fn tar_big(dir: &Path, site: &Site) -> Result<(), String> {
    fs::create_dir_all(dir.join("in")).map_err(|e| e.to_string())?;
    noise_file(&dir.join("in/noise"), scaled(1 << 30, site.scale) as u64)?;
    tar_of(dir)
}

fn push(dir: &Path, site: &Site) -> Result<(), String> {
    fs::create_dir_all(dir).map_err(|e| e.to_string())?;
    for number in 0..5 {
        noise_file(&dir.join(format!("noise{number}")), scaled(100_000_000 + number, site.scale) as u64)?;
    }
    let copies: String = (0..5).map(|number| format!("COPY noise{number} /{number}\n")).collect();
    write(&dir.join("Buildfile"), format!("ARG BASE\nFROM $BASE\n{copies}"))
}

fn apt(dir: &Path, _: &Site) -> Result<(), String> {
    let text = "ARG BASE\nFROM $BASE\nRUN apt-get update && \
                apt-get install -y --no-install-recommends gcc libc6-dev make\n";
    write(&dir.join("Buildfile"), text)
}

/// The compiler comes in a step of its own, so that `change` would not install it again.
fn compile(dir: &Path, _: &Site) -> Result<(), String> {
    let mut main = String::new();
    for number in 0..300 {
        let body: String = (0..40)
            .map(|line| format!("  x = (x * {}u + {line}u) ^ (x >> {});\n", number * 2 + 3, line % 13 + 1))
            .collect();
        let unit = format!("#include <stdio.h>\nunsigned f{number}(unsigned x) {{\n{body}  return x;\n}}\n");
        write(&dir.join(format!("src/f{number}.c")), unit)?;
        main.push_str(&format!("unsigned f{number}(unsigned);\n"));
    }
    let calls: String = (0..300).map(|number| format!("  x = f{number}(x);\n")).collect();
    main.push_str(&format!(
        "#include <stdio.h>\nint main(void) {{\n  unsigned x = 1;\n{calls}  printf(\"%u\\n\", x);\n}}\n"
    ));
    write(&dir.join("src/main.c"), main)?;
    write(
        &dir.join("src/Makefile"),
        "OBJ := $(patsubst %.c,%.o,$(wildcard *.c))\napp: $(OBJ)\n\tgcc -o $@ $^\n%.o: %.c\n\tgcc -O2 -c -o $@ $<\n",
    )?;
    let text = "ARG BASE\nFROM $BASE AS build\nRUN apt-get update && \
                apt-get install -y --no-install-recommends gcc libc6-dev make\n\
                COPY src /src\nRUN make -C /src -j2\nFROM $BASE\nCOPY --from=build /src/app /app\nRUN /app\n";
    write(&dir.join("Buildfile"), text)
}

/// Makes the base with kiln and puts it into the registry.
fn unpack(dir: &Path, site: &Site) -> Result<(), String> {
    let base = dir.join("base");
    let mut text = "FROM busybox\n".to_owned();
    for layer in 0..4 {
        let count = scaled(5_000, site.scale);
        small_files(&base.join(format!("l{layer}/small")), count)?;
        for part in 0..3 {
            text_file(&base.join(format!("l{layer}/text{part}")), scaled(25_000_000, site.scale) as u64)?;
            noise_file(&base.join(format!("l{layer}/noise{part}")), scaled(25_000_000, site.scale) as u64)?;
        }
        text.push_str(&format!("COPY l{layer} /l{layer}\n"));
    }
    write(&base.join("Buildfile"), text)?;
    kiln(&dir.join("store"), |command| {
        command.args(["--push", "--tls-verify=false", "-t"]).arg(site.pulled()).arg("--build-context");
        command.arg(format!("busybox=oci-layout://{}", site.busybox.display())).arg(&base);
    })?;
    fs::remove_dir_all(&base).map_err(|e| e.to_string())?;
    write(&dir.join("Buildfile"), "ARG BASE\nFROM $BASE\nRUN ls /l0 /l3 > /list\n")
}

/// Builds something that is needed first.
fn kiln(store: &Path, arguments: impl FnOnce(&mut Command)) -> Result<(), String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kiln"));
    command.arg("--root").arg(store).args(["build", "-q"]);
    arguments(&mut command);
    crate::measure::run(&mut command).map(drop)
}
