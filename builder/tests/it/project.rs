//! A directory with a context, a store and a base image, and the `kiln` that is run in it.
//!
//! Invariants: the environment of `kiln` is empty but for PATH and HOME, so that a test says all that it depends on.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use crate::base;
use crate::image::Image;

/// Tells why a test does nothing, past the test runner's capture of output.
pub fn skipped(why: &str) {
    use std::io::Write as _;
    let name = std::thread::current().name().unwrap_or("test").to_owned();
    let _ = writeln!(std::io::stderr(), "SKIPPED: {name}: {why}");
}

/// The binary under test. `KILN_TEST_BIN` names another, for instance a copy that another user may execute.
pub fn binary() -> PathBuf {
    std::env::var_os("KILN_TEST_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_kiln")), PathBuf::from)
}

/// A test's own world.
pub struct Project {
    dir: TempDir,
    has_base: bool,
    outputs: AtomicU32,
}

impl Project {
    /// An empty context and an empty store.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("kiln-it-").tempdir().expect("temporary directory");
        fs::create_dir(dir.path().join("context")).expect("context directory");
        Self { dir, has_base: false, outputs: AtomicU32::new(0) }
    }

    /// [`Project::new`] with an image `base` that has a shell. None, said aloud, where there is no static busybox.
    pub fn with_base() -> Option<Self> {
        let mut project = Self::new();
        if let Err(why) = base::write_layout(&project.path("base")) {
            skipped(&why);
            return None;
        }
        project.has_base = true;
        Some(project)
    }

    /// A path in the project, outside of the context.
    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// A path in the context.
    pub fn context(&self, below: &str) -> PathBuf {
        self.path("context").join(below)
    }

    /// The store.
    pub fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// Writes a file of the context, mode 0644.
    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        self.write(name, content);
        self
    }

    /// [`Project::file`] on a project that is in use.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.context(name);
        fs::create_dir_all(path.parent().expect("has a parent")).expect("parent directory");
        fs::write(&path, content).expect("context file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("mode of context file");
    }

    /// Writes a symlink of the context.
    pub fn symlink(self, name: &str, target: &str) -> Self {
        std::os::unix::fs::symlink(target, self.context(name)).expect("context symlink");
        self
    }

    /// The Buildfile.
    pub fn buildfile(self, text: &str) -> Self {
        self.file("Buildfile", text)
    }

    /// `kiln` with this project's store, not yet started.
    pub fn kiln<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(binary());
        command.args(args).current_dir(self.dir.path()).stdin(Stdio::null());
        command.env_clear().env("HOME", self.dir.path()).env("KILN_ROOT", self.store());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
    }

    /// `kiln build` with plain progress and `base` as a named context, not yet started.
    pub fn build_command<S: AsRef<OsStr>>(&self, flags: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.kiln(["build", "--progress=plain"]);
        if self.has_base {
            let layout = format!("base=oci-layout://{}", self.path("base").display());
            command.args(["--build-context", &layout]);
        }
        command.args(flags).arg("context");
        command
    }

    /// Builds into a new OCI archive.
    pub fn build(&self, flags: &[&str]) -> Built {
        self.build_with(flags, |_| {})
    }

    /// [`Project::build`] with changes to the command.
    pub fn build_with(&self, flags: &[&str], change: impl FnOnce(&mut Command)) -> Built {
        let number = self.outputs.fetch_add(1, Ordering::SeqCst);
        let archive = self.path(&format!("out{number}.tar"));
        let mut command = self.build_command(flags);
        command.arg("-o").arg(format!("type=oci,dest={}", archive.display()));
        change(&mut command);
        Built { ended: Ended::of(&mut command), archive }
    }

    /// Runs `kiln` to its end, with changes to the command.
    pub fn kiln_with<const N: usize>(&self, args: [&str; N], change: impl FnOnce(&mut Command)) -> Ended {
        let mut command = self.kiln(args);
        change(&mut command);
        Ended::of(&mut command)
    }

    /// Runs `kiln` to its end.
    pub fn run(&self, args: &[&str]) -> Ended {
        Ended::of(&mut self.kiln(args))
    }
}

impl Drop for Project {
    /// Files of subordinate ids can be removed only by root of a namespace that has these ids.
    fn drop(&mut self) {
        if !rustix::process::geteuid().is_root() {
            let mut command = Command::new("unshare");
            command.args(["--map-root-user", "--map-auto", "rm", "-rf"]).arg(self.store());
            // Without these flags the store stays behind in the temporary directory, which fails no test.
            let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
}

/// What a finished `kiln` said.
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// Runs a command to its end.
    pub fn of(command: &mut Command) -> Self {
        Self::from_output(command.output().expect("the command starts"))
    }

    pub fn from_output(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Checks that it succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "kiln failed:\n{}{}", self.stdout, self.stderr);
        self
    }

    /// Checks that it failed with `code` and that the message contains every one of `parts`.
    #[track_caller]
    pub fn fails(&self, code: i32, parts: &[&str]) {
        let stderr = &self.stderr;
        assert_eq!(self.code, Some(code), "another exit code was expected:\n{stderr}");
        assert!(!stderr.contains("panicked"), "kiln panicked:\n{stderr}");
        for part in parts {
            assert!(stderr.contains(part), "the message lacks `{part}`:\n{stderr}");
        }
    }
}

/// A finished build.
pub struct Built {
    pub ended: Ended,
    pub archive: PathBuf,
}

impl Built {
    /// The image of a build that must have succeeded.
    #[track_caller]
    pub fn image(&self) -> Image {
        self.succeeds();
        Image::read_archive(&self.archive)
    }

    #[track_caller]
    pub fn succeeds(&self) {
        assert_eq!(self.ended.code, Some(0), "the build failed:\n{}", self.ended.stderr);
    }

    /// Checks that the build failed with `code` and a message with every one of `parts`, and left no output.
    #[track_caller]
    pub fn fails(&self, code: i32, parts: &[&str]) {
        self.ended.fails(code, parts);
        assert!(!self.archive.exists(), "a failed build left {}", self.archive.display());
    }

    /// What the steps and kiln said.
    pub fn log(&self) -> &str {
        &self.ended.stderr
    }

    /// Whether a line of a step's own output is `line`.
    pub fn said(&self, line: &str) -> bool {
        self.log().lines().any(|l| output_of(l).is_some_and(|text| text == line))
    }

    /// Names of the steps that were executed, sources and internal steps left out.
    pub fn executed(&self) -> Vec<String> {
        let mut steps = Vec::new();
        for line in self.log().lines() {
            let Some((number, state)) = line.strip_prefix('#').and_then(|rest| rest.split_once(' ')) else {
                continue;
            };
            if !state.starts_with("DONE") {
                continue;
            }
            let header = format!("#{number} [");
            if let Some(name) = self.log().lines().find(|l| l.starts_with(&header)) {
                let name = name.split_once("] ").map_or(name, |(_, name)| name);
                if !name.starts_with("FROM ") && !line_is_internal(&header, self.log()) {
                    steps.push(name.to_owned());
                }
            }
        }
        steps
    }
}

/// Whether the step with this header is one that kiln added by itself.
fn line_is_internal(header: &str, log: &str) -> bool {
    log.lines().any(|line| line.starts_with(&format!("{header}internal]")))
}

/// The text of a line `#N 0.123 text`.
fn output_of(line: &str) -> Option<&str> {
    let (number, rest) = line.strip_prefix('#')?.split_once(' ')?;
    let (time, text) = rest.split_once(' ')?;
    (number.parse::<u32>().is_ok() && time.parse::<f64>().is_ok()).then_some(text)
}

/// Whether this process is root of the machine.
pub fn is_root() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    rustix::process::geteuid().is_root() && map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// All entries below a directory, as sorted relative paths.
pub fn tree(root: &Path) -> Vec<String> {
    let mut found: Vec<String> = walkdir::WalkDir::new(root)
        .min_depth(1)
        .into_iter()
        .map(|entry| {
            entry.expect("readable tree").path().strip_prefix(root).expect("below").display().to_string()
        })
        .collect();
    found.sort();
    found
}
