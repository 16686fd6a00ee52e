//! kiln killed at any moment, and many kilns at once: the next build gives the same image, and nothing is wrong with the
//! store.
//!
//! The sizes are small here; `scripts/reliability.sh` runs them in full. `KILN_TEST_KILLS` and `KILN_TEST_BUILDS` say how
//! many, `KILN_TEST_SEED` repeats the moments of an earlier run.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::base::{Member, image, tar};
use crate::project::{Built, Project, skipped};
use crate::server::Server;

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Numbers without a pattern (xorshift), the same ones for the same seed.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit.max(1)
    }
}

/// Times in the image are the epoch's, so that a step which runs again gives the same bytes.
const EPOCH: [&str; 2] = ["--source-date-epoch", "1700000000"];

/// A Buildfile with every kind of step, from a registry and a layout.
fn mixed(registry: &str) -> String {
    format!(
        "FROM {registry}/pulled:1 AS pulled\n\
         FROM base AS tools\n\
         RUN mkdir /tools && for i in 1 2 3 4 5 6 7 8; do echo $i > /tools/$i; done\n\
         RUN --mount=type=cache,id=mixed,target=/c date > /c/last; head -c 300000 /dev/zero > /tools/zeros\n\
         FROM base\n\
         WORKDIR /work/deep\n\
         COPY files files\n\
         COPY --from=pulled /data /data\n\
         COPY --link --from=tools /tools /tools\n\
         RUN ls -R / > /tmp/list; rm /tmp/list; echo done > done; chown 1000:1001 done\n\
         RUN rm -r /work/deep/files/sub; ln -s done link\n"
    )
}

fn mixed_project() -> Option<(Project, Server)> {
    let data = "data of the image\n".repeat(20_000);
    let layer = tar(&[Member::Directory("data", 0o755), Member::File("data/file", 0o644, data.as_bytes())]);
    let server = Server::registry(image(&layer, serde_json::json!({})));
    let project = Project::with_base()?.buildfile(&mixed(&server.address));
    for number in 0..40 {
        project.write(&format!("files/{number}"), format!("file {number}\n").repeat(number));
        project.write(&format!("files/sub/{number}"), "");
    }
    Some((project, server))
}

/// Makes the next build collect, and leave nothing that is not in use.
fn make_collection_due(project: &Project) {
    let stamp = project.store().join("collected");
    if let Ok(file) = std::fs::File::open(stamp) {
        file.set_modified(SystemTime::now() - Duration::from_secs(86_400)).expect("time");
    }
}

const COLLECT_ALL: &str = "unused=0s,max-used-space=0,min-free-space=0,reserved-space=0";

#[test]
fn killed_at_any_moment() {
    let Some((project, _server)) = mixed_project() else { return };
    let kills = number("KILN_TEST_KILLS", 12);
    let seed = number("KILN_TEST_SEED", std::process::id() as usize);
    let mut random = Random::new(seed as u64);
    let expected = project.build(&EPOCH).image().digest;
    // Everything again, from the registry on.
    let everything = || project.build_command(EPOCH.iter().chain(&["--no-cache", "--pull", "-t", "named"]));
    // What is not there any more, and a collection of all that is not in use at the end.
    let collecting = || {
        project.run(&["prune", "--all"]).ok();
        make_collection_due(&project);
        let archive = format!("type=oci,dest={}", project.path("killed.tar").display());
        let mut command = project.build_command(EPOCH.iter().chain(&["-o", archive.as_str()]));
        command.env("KILN_GC", COLLECT_ALL);
        command
    };
    let pruning = || project.kiln(["prune", "--all"]);
    let actions: [&dyn Fn() -> Command; 3] = [&everything, &collecting, &pruning];
    // The shorter of two: others use this machine, too, and a kill that comes too late says nothing.
    let length = |action: &dyn Fn() -> Command| {
        let mut command = action();
        let started = Instant::now();
        crate::project::Ended::of(&mut command).ok();
        started.elapsed()
    };
    let lengths = actions.map(|action| length(action).min(length(action)));
    let mut interrupted = 0;
    for kill in 0..kills {
        // Two in five of each kind of build, one in five prunes.
        let action = [0, 0, 1, 1, 2][random.below(5) as usize];
        let moment = lengths[action].mul_f64(random.below(1050) as f64 / 1000.0);
        let mut command = actions[action]();
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("kiln starts");
        std::thread::sleep(moment);
        interrupted += usize::from(child.try_wait().expect("status").is_none());
        child.kill().expect("kill");
        child.wait().expect("wait");
        let context = format!("kill {kill} after {moment:?}, seed {seed}");
        let next = project.build(&EPOCH);
        assert_eq!(next.ended.code, Some(0), "{context}: {}", next.log());
        assert_eq!(next.image().digest, expected, "{context}");
        let checked = project.run(&["fsck"]);
        assert_eq!(checked.code, Some(0), "{context}: {}{}", checked.stdout, checked.stderr);
        let _ = std::fs::remove_file(&next.archive);
    }
    eprintln!("{kills} kills, {interrupted} of them before the end, seed {seed}");
    assert!(interrupted * 10 > kills, "only {interrupted} of {kills} hit a running kiln");
}

/// Buildfiles that have steps in common.
fn overlapping(number: usize) -> String {
    let mut text = "FROM base AS one\nRUN echo common > /common\n".to_owned();
    for step in 0..number % 4 {
        text.push_str(&format!("RUN echo {step} > /step{step}\n"));
    }
    text.push_str("FROM base AS two\nCOPY file /\nRUN cat /file > /copy\n");
    // Steps that stand on different ones have different names, so that they can be counted by name.
    let (base, last) = (number % 4, number % 6);
    text.push_str(&format!("FROM one\nCOPY --from=two /copy /copy{base}\nRUN echo {base} {last} > /last\n"));
    text
}

/// Builds with eight kilns at once, while one prunes with `prune`. Gives how often each step ran.
fn many_at_once(project: &Project, builds: usize, prune: &[&str]) -> BTreeMap<String, usize> {
    const AT_ONCE: usize = 8;
    const KINDS: usize = 12;
    for kind in 0..KINDS {
        std::fs::write(project.path(&format!("Buildfile{kind}")), overlapping(kind)).expect("Buildfile");
    }
    let alone = Project::with_base().expect("as before").file("file", "content");
    let expected: Vec<String> = (0..KINDS)
        .map(|kind| {
            alone.write("Buildfile", overlapping(kind));
            alone.build(&EPOCH).image().digest
        })
        .collect();
    let (next, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
    let executed: Mutex<BTreeMap<String, usize>> = Mutex::default();
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::SeqCst);
            if number >= builds {
                return;
            }
            let kind = number % KINDS;
            let archive = project.path(&format!("many{number}.tar"));
            let buildfile = project.path(&format!("Buildfile{kind}")).display().to_string();
            let output = format!("type=oci,dest={}", archive.display());
            let mut command = project.build_command(EPOCH.iter().chain(&["-f", &buildfile, "-o", &output]));
            let built = Built { ended: crate::project::Ended::of(&mut command), archive };
            assert_eq!(built.image().digest, expected[kind], "build {number}: {}", built.log());
            let mut executed = executed.lock().expect("steps");
            for step in built.executed() {
                *executed.entry(step).or_default() += 1;
            }
            let _ = std::fs::remove_file(&built.archive);
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        let pruning = scope.spawn(|| {
            let mut count = 0;
            while !ended.load(Ordering::SeqCst) {
                project.run(prune).ok();
                count += 1;
                std::thread::sleep(Duration::from_millis(50));
            }
            count
        });
        let results: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        ended.store(true, Ordering::SeqCst);
        let pruned = pruning.join();
        // The first failure in full, whichever thread it was.
        for result in results {
            result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        let pruned = pruned.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert!(pruned > 0, "nothing was pruned beside");
    });
    executed.into_inner().expect("steps")
}

#[test]
fn eight_at_once_while_everything_unused_is_pruned() {
    let Some(project) = Project::with_base() else { return };
    let project = project.file("file", "content");
    many_at_once(&project, number("KILN_TEST_BUILDS", 24), &["prune", "--all"]);
    project.run(&["fsck"]).ok();
}

#[test]
fn eight_at_once_while_what_is_old_is_pruned() {
    let Some(project) = Project::with_base() else { return };
    let project = project.file("file", "content");
    let prune = ["prune", "--all", "--filter", "until=1h"];
    let executed = many_at_once(&project, number("KILN_TEST_BUILDS", 24), &prune);
    assert!(executed.len() >= 10, "{executed:?}");
    project.run(&["fsck"]).ok();
    let twice: Vec<_> = executed.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "these steps ran more than once: {twice:?}");
}

/// A machine that loses its power: the store says that another boot made what it has.
#[test]
fn what_another_boot_made_and_did_not_sync_runs_again() {
    let Some((project, _server)) = mixed_project() else { return };
    let expected = project.build(&EPOCH).image().digest;
    let database = project.store().join("kiln.db");
    let script = "import sqlite3,sys; c=sqlite3.connect(sys.argv[1]); \
                  c.execute(\"update snapshots set unsynced='another'\"); c.commit()";
    let done = Command::new("python3").args(["-c", script]).arg(&database).output();
    if !done.is_ok_and(|done| done.status.success()) {
        skipped("python3 is needed to change the database");
        return;
    }
    std::fs::write(project.store().join("boot"), "another").expect("boot");
    let again = project.build(&EPOCH);
    assert_eq!(again.image().digest, expected);
    assert!(again.executed().len() >= 6, "{:?}", again.executed());
    project.run(&["fsck", "--repair"]);
    project.run(&["fsck"]).ok();
    assert!(project.build(&EPOCH).executed().is_empty());
}
