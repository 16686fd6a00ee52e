//! The commands of a document, run by one bash in a directory of their own.
//!
//! Invariants: a command sees what the ones before it have left (directory, variables, `$?`); each has its own input and
//! its output is kept apart; host names of the documents stand for a registry in the test's process.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::document::{self, Part};
use crate::base;
use crate::project::{Project, binary};
use crate::registry::Registry;

/// Registries that documents name.
const HOSTS: [&str; 2] = ["registry.example", "registry.corp"];

/// A registry with images of a public one; `kiln.toml` of the project has kiln take it for that one.
pub fn public_registry(project: &Project) -> Registry {
    let registry = Registry::start();
    let busybox = base::busybox().expect("it was there a moment ago");
    for (repository, tag) in
        [("library/busybox", "latest"), ("library/busybox", "1"), ("library/debian", "12")]
    {
        registry.add(repository, tag, &busybox);
    }
    let mirror = format!("[registry.\"docker.io\"]\nmirrors = [\"{}\"]\n", registry.host());
    fs::write(project.path("kiln.toml"), mirror).expect("settings");
    registry
}

/// What became of a command.
pub struct Ran {
    /// None: the shell did not come to it.
    pub code: Option<i32>,
    pub lines: Vec<String>,
}

/// A place where a document's commands run.
pub struct Session {
    project: Project,
    registry: Registry,
}

impl Session {
    /// With what readers have: kiln, a directory, registries, an image `busybox` of a public one.
    pub fn new() -> Option<Self> {
        let project = Project::with_base()?;
        let registry = public_registry(&project);
        fs::create_dir_all(project.path("home/project")).expect("directory");
        fs::create_dir(project.path("session")).expect("directory");
        fs::create_dir(project.path("bin")).expect("directory");
        std::os::unix::fs::symlink(binary(), project.path("bin/kiln")).expect("link");
        Some(Self { project, registry })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.project.path("session").join(name)
    }

    /// Runs all parts in order; what each gave, by its place in `parts`.
    pub fn run(&self, parts: &[Part]) -> Vec<Ran> {
        let mut script = String::from("s=0\ndeclare -A words\n");
        for (number, part) in parts.iter().enumerate() {
            let (text, typed) = match part {
                Part::Command(command) | Part::Hidden(command) => {
                    (command.text.clone(), command.typed.join("\n"))
                }
                Part::File { name, content } => {
                    fs::write(self.file(&format!("{number}.content")), content).expect("file");
                    (
                        format!(
                            "mkdir -p \"$(dirname '{name}')\" && cp \"$SESSION/{number}.content\" '{name}'"
                        ),
                        String::new(),
                    )
                }
                Part::Word { word, command } => (format!("words[{word}]=$({command})"), String::new()),
                Part::Skipped(_) => continue,
            };
            let mut text = text;
            for host in HOSTS {
                text = text.replace(host, self.registry.host());
            }
            fs::write(self.file(&format!("{number}.sh")), text + "\n").expect("command");
            fs::write(self.file(&format!("{number}.in")), typed + "\n").expect("input");
            let place = format!("\"$SESSION\"/{number}");
            let _ = write!(
                script,
                "text=$(cat {place}.sh)\nfor w in \"${{!words[@]}}\"; do text=${{text//\"$w\"/\"${{words[$w]}}\"}}; done\n\
                 (exit $s)\neval \"$text\" > {place}.out 2>&1 < {place}.in\ns=$?\necho $s > {place}.code\n"
            );
        }
        fs::write(self.file("script"), script).expect("script");
        let path = std::env::var("PATH").unwrap_or_default();
        let home = self.project.path("home");
        // The limit is for a command that hangs.
        let mut bash = Command::new("timeout");
        bash.args(["900", "bash", "--noprofile", "--norc"]).arg(self.file("script"));
        bash.current_dir(home.join("project")).env_clear().stdin(Stdio::null());
        bash.env("HOME", &home)
            .env("KILN_ROOT", self.project.store())
            .env("SESSION", self.project.path("session"));
        bash.env("PATH", format!("{}:{}/bin:{path}", self.project.path("bin").display(), home.display()));
        bash.env("KILN_CONFIG", self.project.path("kiln.toml")).env("LC_ALL", "C.UTF-8");
        bash.status().expect("bash");
        (0..parts.len()).map(|number| self.ran(number)).collect()
    }

    fn ran(&self, number: usize) -> Ran {
        let read = |kind: &str| fs::read(self.file(&format!("{number}.{kind}"))).unwrap_or_default();
        let code = String::from_utf8_lossy(&read("code")).trim().parse().ok();
        let text = String::from_utf8_lossy(&read("out")).replace(self.registry.host(), HOSTS[0]);
        let home = self.project.path("home").display().to_string();
        let text = text.replace(&home, "~");
        Ran { code, lines: text.lines().map(str::to_owned).collect() }
    }
}

/// What a document shows that nobody types into a shell: its lines without those that are typed.
pub fn without_typed(shown: &[String]) -> Vec<String> {
    shown.iter().filter(|line| document::typed(line).is_none()).cloned().collect()
}
