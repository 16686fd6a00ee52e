//! What is built.
//!
//! Invariants: contexts are the same bytes on every machine: numbers come from a generator with a fixed seed.

use std::fs;
use std::io::Write as _;
use std::path::Path;
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

/// A workload.
pub struct Workload {
    pub name: &'static str,
    pub shows: &'static str,
    pub phases: &'static [Phase],
    pub export: Export,
    pub prepare: fn(&Path, f64) -> Result<(), String>,
    pub change: fn(&Path, usize) -> Result<(), String>,
}

const ALL: &[Phase] = &[Phase::Cold, Phase::Warm, Phase::Change];
const ONCE: &[Phase] = &[Phase::Cold, Phase::Warm];

/// All of them.
pub fn all() -> Vec<Workload> {
    let of = |name, shows, phases, export, prepare| Workload {
        name,
        shows,
        phases,
        export,
        prepare,
        change: touch,
    };
    vec![
        of("stages", "5 stages, 25 steps, a context of 5,000 files", ALL, Export::Store, stages),
        of("deep", "100 RUN steps, one after the other", ALL, Export::Store, deep),
        of("wide-16", "16 stages joined by COPY --from", ONCE, Export::Store, |dir, _| wide(dir, 16)),
        of("wide-64", "64 stages", ONCE, Export::Store, |dir, _| wide(dir, 64)),
        of("wide-128", "128 stages", ONCE, Export::Store, |dir, _| wide(dir, 128)),
        of(
            "many-files",
            "50,000 small files copied, then COPY --from --chown",
            ALL,
            Export::Store,
            many_files,
        ),
        of(
            "big-gzip",
            "1 GiB incompressible and 512 MiB text, gzip",
            ONCE,
            Export::Archive { compression: "gzip" },
            big,
        ),
        of("big-zstd", "the same, zstd", ONCE, Export::Archive { compression: "zstd" }, big),
        of("tar-many", "ADD of a tar with 50,000 files", ONCE, Export::Store, tar_many),
        of("tar-big", "ADD of a tar with one file of 1 GiB", ONCE, Export::Store, tar_big),
        of("push", "an image of 500 MB to a registry (--registry)", ONCE, Export::Push, push),
    ]
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
    let status = Command::new(env!("CARGO_BIN_EXE_kiln"))
        .arg("--root")
        .arg(dir.path().join("store"))
        .args(["build", "-q", "-t", "base:latest", "-o"])
        .arg(format!("type=oci,dest={},tar=false,name=latest", layout.display()))
        .arg(dir.path())
        .stdout(std::process::Stdio::null())
        .status()
        .map_err(|e| e.to_string())?;
    if status.success() { Ok(()) } else { Err("the base image could not be built".to_owned()) }
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

fn stages(dir: &Path, scale: f64) -> Result<(), String> {
    small_files(&dir.join("src"), scaled(5_000, scale).max(600))?;
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

fn deep(dir: &Path, scale: f64) -> Result<(), String> {
    touch(dir, 0)?;
    let steps = "RUN true\n".repeat(scaled(100, scale));
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

fn many_files(dir: &Path, scale: f64) -> Result<(), String> {
    small_files(&dir.join("src"), scaled(50_000, scale))?;
    touch(dir, 0)?;
    let text =
        "ARG BASE\nFROM $BASE AS a\nCOPY src /src\nFROM $BASE\nCOPY --from=a --chown=1000:1000 /src /own\n";
    write(&dir.join("Buildfile"), text)
}

fn big(dir: &Path, scale: f64) -> Result<(), String> {
    fs::create_dir_all(dir).map_err(|e| e.to_string())?;
    noise_file(&dir.join("noise"), scaled(1 << 30, scale) as u64)?;
    text_file(&dir.join("text"), scaled(512 << 20, scale) as u64)?;
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

fn tar_many(dir: &Path, scale: f64) -> Result<(), String> {
    small_files(&dir.join("in"), scaled(50_000, scale))?;
    tar_of(dir)
}

fn tar_big(dir: &Path, scale: f64) -> Result<(), String> {
    fs::create_dir_all(dir.join("in")).map_err(|e| e.to_string())?;
    noise_file(&dir.join("in/noise"), scaled(1 << 30, scale) as u64)?;
    tar_of(dir)
}

fn push(dir: &Path, scale: f64) -> Result<(), String> {
    fs::create_dir_all(dir).map_err(|e| e.to_string())?;
    for number in 0..5 {
        noise_file(&dir.join(format!("noise{number}")), scaled(100_000_000 + number, scale) as u64)?;
    }
    let copies: String = (0..5).map(|number| format!("COPY noise{number} /{number}\n")).collect();
    write(&dir.join("Buildfile"), format!("ARG BASE\nFROM $BASE\n{copies}"))
}
