//! kiln and the other builders: how each is started, and how its store is emptied.
//!
//! | builder | as it is run here |
//! | --- | --- |
//! | kiln | the release build beside this program, a store of its own, `-o type=image` unless the workload exports |
//! | buildah, podman | `--layers`, overlay, a store of its own; `KILN_BENCH_BUILDAH` adds arguments, e.g. `--runtime=runc` |
//! | docker | the daemon's BuildKit, emptied with `docker builder prune` |
//! | buildctl | the daemon at `BUILDKIT_HOST`, emptied with `buildctl prune` |

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::measure::{self, Sample};
use crate::workloads::{Export, Site, Workload};

/// A builder with a store.
pub struct Builder {
    pub name: &'static str,
    kind: Kind,
    store: PathBuf,
}

/// What is built.
pub struct Job<'a> {
    pub workload: &'a Workload,
    /// The directory with the Buildfile.
    pub context: &'a Path,
    pub site: &'a Site,
}

impl Job<'_> {
    /// The base's name for a builder that has it by the name of [`BASE`], or that fetches it.
    fn base(&self) -> String {
        match self.site.layout(self.workload.base) {
            Some(_) => BASE.to_owned(),
            None => self.site.pulled(),
        }
    }

    /// The value of `--build-context` that says where the base is.
    fn base_context(&self) -> Option<String> {
        let layout = self.site.layout(self.workload.base)?;
        Some(format!("{BASE}=oci-layout://{}", layout.display()))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Kiln,
    Buildah,
    Podman,
    Docker,
    Buildctl,
}

/// The image that workloads build from, by the name that the builders know it by.
const BASE: &str = "kiln-bench-base";

/// kiln, and what is on PATH.
pub fn found(dir: &Path) -> Vec<Builder> {
    let all = [
        ("kiln", Kind::Kiln),
        ("buildah", Kind::Buildah),
        ("podman", Kind::Podman),
        ("docker", Kind::Docker),
        ("buildctl", Kind::Buildctl),
    ];
    let usable = |name: &str, kind: Kind| match kind {
        Kind::Kiln => true,
        // Without its daemon it is no builder.
        Kind::Docker => quiet("docker", &["info"]),
        Kind::Buildctl => quiet("buildctl", &["debug", "workers"]),
        _ => quiet(name, &["--version"]),
    };
    all.into_iter()
        .filter(|(name, kind)| usable(name, *kind))
        .map(|(name, kind)| Builder { name, kind, store: dir.join(format!("store-{name}")) })
        .collect()
}

fn quiet(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

impl Builder {
    /// Empties the store, the base image excepted: bringing it is no part of a build unless the workload says so.
    pub fn reset(&self, job: &Job<'_>) -> Result<(), String> {
        match self.kind {
            Kind::Docker => drop(quiet("docker", &["builder", "prune", "--all", "--force"])),
            Kind::Buildctl => drop(quiet("buildctl", &["prune", "--all"])),
            _ => self.put_away()?,
        }
        if matches!(self.kind, Kind::Buildah | Kind::Podman) {
            let Some(layout) = job.site.layout(job.workload.base) else { return Ok(()) };
            let from = format!("oci:{}:latest", layout.display());
            let id = Command::new("buildah")
                .args(self.store_flags())
                .args(["pull", "-q", &from])
                .stderr(Stdio::null())
                .output()
                .map_err(|e| e.to_string())?;
            let id = String::from_utf8_lossy(&id.stdout).trim().to_owned();
            let mut tag = Command::new("buildah");
            tag.args(self.store_flags()).args(["tag", &id, BASE]);
            measure::run(&mut tag)?;
        }
        Ok(())
    }

    /// Gives the store another name. Removing it would slow down what follows: ext4 does not take inodes again that were
    /// freed within the last half minute, and searches past each of them.
    fn put_away(&self) -> Result<(), String> {
        if !self.store.exists() {
            return Ok(());
        }
        let overlay = self.store.join("root/overlay");
        // A mount that an earlier run of the peer left would be in the way.
        let _ = Command::new("umount").arg(&overlay).stderr(Stdio::null()).status();
        let number = (0..).find(|number| !self.trash(*number).exists()).unwrap_or(0);
        std::fs::rename(&self.store, self.trash(number)).map_err(|e| format!("{}: {e}", self.store.display()))
    }

    fn trash(&self, number: u32) -> PathBuf {
        self.store.with_extension(format!("old{number}"))
    }

    /// Removes all stores, also where they have files of other ids.
    pub fn remove(&self) {
        let _ = self.put_away();
        for trash in (0..).map(|number| self.trash(number)).take_while(|trash| trash.exists()) {
            let mut unmapped = Command::new("unshare");
            unmapped.args(["--map-root-user", "--map-auto", "rm", "-rf"]).arg(&trash).stderr(Stdio::null());
            if std::fs::remove_dir_all(&trash).is_err() && trash.exists() {
                let _ = unmapped.status();
            }
            if trash.exists() {
                break;
            }
        }
    }

    fn store_flags(&self) -> Vec<String> {
        let path = |name: &str| self.store.join(name).display().to_string();
        vec![
            "--root".to_owned(),
            path("root"),
            "--runroot".to_owned(),
            path("run"),
            "--storage-driver=overlay".to_owned(),
        ]
    }

    /// Builds a context.
    pub fn build(&self, job: &Job<'_>) -> Result<Sample, String> {
        let mut command = match self.kind {
            Kind::Kiln => self.kiln(job),
            Kind::Buildah | Kind::Podman => self.buildah(job),
            Kind::Docker => self.docker(job),
            Kind::Buildctl => self.buildctl(job),
        };
        measure::run(&mut command)
    }

    fn archive(&self) -> String {
        self.store.with_extension("tar").display().to_string()
    }

    /// The name by which the result is pushed.
    fn pushed(&self, job: &Job<'_>) -> String {
        format!("{}/bench-{}:latest", job.site.registry.as_deref().unwrap_or_default(), self.name)
    }

    fn kiln(&self, job: &Job<'_>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kiln"));
        command.arg("--root").arg(&self.store).args(["build", "-q", "--build-arg"]);
        command.arg(format!("BASE={}", job.base()));
        command.args(job.base_context().iter().flat_map(|value| ["--build-context", value]));
        match job.workload.export {
            Export::Store => command.args(["-t", "bench"]),
            Export::Archive { compression } => {
                command.arg("-o").arg(format!("type=oci,dest={},compression={compression}", self.archive()))
            }
            Export::Push => command.args(["--push", "-t", &self.pushed(job)]),
        };
        command.arg(job.context);
        command
    }

    fn buildah(&self, job: &Job<'_>) -> Command {
        let mut words = vec!["build".to_owned(), "-q".to_owned(), "--layers".to_owned()];
        words.extend(
            std::env::var("KILN_BENCH_BUILDAH")
                .iter()
                .flat_map(|text| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()),
        );
        words.extend([
            "--build-arg".to_owned(),
            match job.site.layout(job.workload.base) {
                Some(_) => format!("BASE=localhost/{BASE}"),
                None => format!("BASE={}", job.site.pulled()),
            },
            "--tls-verify=false".to_owned(),
            "-t".to_owned(),
            "bench".to_owned(),
        ]);
        words.extend(["-f".to_owned(), job.context.join("Buildfile").display().to_string()]);
        words.push(job.context.display().to_string());
        let flags = self.store_flags().join(" ");
        let build = format!("{} {flags} {}", self.name, words.join(" "));
        // An archive or a push is a second command, as its users have it.
        let then = match job.workload.export {
            Export::Store => String::new(),
            Export::Archive { compression } => format!(
                " && buildah {flags} push -q --compression-format {compression} bench oci-archive:{}",
                self.archive()
            ),
            Export::Push => {
                format!(" && buildah {flags} push -q --tls-verify=false bench docker://{}", self.pushed(job))
            }
        };
        let mut command = Command::new("sh");
        command.args(["-c", &format!("rm -f {}; {build}{then}", self.archive())]);
        command
    }

    fn docker(&self, job: &Job<'_>) -> Command {
        let mut command = Command::new("docker");
        command.args(["buildx", "build", "-q", "--build-arg"]).arg(format!("BASE={}", job.base()));
        command.args(job.base_context().iter().flat_map(|value| ["--build-context", value]));
        match job.workload.export {
            Export::Store => command.args(["-t", "bench"]),
            Export::Archive { compression } => {
                command.arg("-o").arg(format!("type=oci,dest={},compression={compression}", self.archive()))
            }
            Export::Push => command.args(["--push", "-t", &self.pushed(job)]),
        };
        command.arg("-f").arg(job.context.join("Buildfile")).arg(job.context);
        command
    }

    fn buildctl(&self, job: &Job<'_>) -> Command {
        let mut command = Command::new("buildctl");
        command.args([
            "build",
            "--progress=plain",
            "--frontend=dockerfile.v0",
            "--opt",
            "filename=Buildfile",
        ]);
        command.arg("--opt").arg(format!("build-arg:BASE={}", job.base()));
        if let Some(layout) = job.site.layout(job.workload.base) {
            command.arg("--oci-layout").arg(format!("base={}", layout.display()));
            command.arg("--opt").arg(format!("context:{BASE}=oci-layout://base"));
        }
        for name in ["context", "dockerfile"] {
            command.arg("--local").arg(format!("{name}={}", job.context.display()));
        }
        command.arg("--output");
        match job.workload.export {
            Export::Store => command.arg("type=image,name=bench"),
            Export::Archive { compression } => {
                command.arg(format!("type=oci,dest={},compression={compression}", self.archive()))
            }
            Export::Push => command.arg(format!("type=image,name={},push=true", self.pushed(job))),
        };
        command
    }

    /// What the store holds by now; 0 where a daemon has it.
    pub fn store_bytes(&self) -> u64 {
        use std::os::unix::fs::MetadataExt as _;
        let walk = walkdir::WalkDir::new(&self.store).into_iter().flatten();
        walk.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.blocks() * 512).sum()
    }
}
