//! Package managers: DL3009, DL3014, DL3015, DL3019, DL3030, DL3032, DL3034, DL3035, DL3036, DL3038, DL3040, DL3042.
//!
//! Invariants:
//! - what a rule wants cleaned may also lie in a cache mount: then nothing of it is in the layer;
//! - what is left in a stage that the image is not made from does no harm.

use super::super::evaluate::has_cache;
use super::super::model::File;
use super::super::report::{Report, Site};
use super::super::script::{Call, Ran};

const DNF: [&str; 3] = ["dnf", "dnf5", "microdnf"];
const RPM_INSTALL: [&str; 6] = ["install", "groupinstall", "localinstall", "reinstall", "upgrade", "update"];
const ZYPPER_INSTALL: [&str; 8] =
    ["install", "in", "remove", "rm", "source-install", "si", "patch", "update"];

pub(super) fn check(file: &File<'_>, run: &Ran<'_, '_>, report: &mut Report<'_>) {
    let site = run.step.site(file);
    apt(run, site, report);
    apk(run, site, report);
    yum(run, site, report);
    dnf(run, site, report);
    zypper(run, site, report);
    pip(run, site, report);
}

impl Ran<'_, '_> {
    fn any(&self, wanted: impl Fn(&Call) -> bool) -> bool {
        self.calls.iter().any(wanted)
    }

    /// Something below `directory` is deleted.
    fn removes(&self, directory: &str) -> bool {
        self.any(|call| call.program() == "rm" && call.operands().any(|path| path.starts_with(directory)))
    }

    fn caches(&self, directory: &str) -> bool {
        has_cache(self.step.values.mounts(), directory)
    }
}

fn apt(run: &Ran<'_, '_>, site: Site<'_>, report: &mut Report<'_>) {
    let lists = "/var/lib/apt/lists";
    if run.stage.shipped
        && run.any(|call| call.is(&["apt-get", "apt", "aptitude"], &["update"]))
        && !run.removes("/var/lib/apt")
        && !run.caches(lists)
    {
        let hint =
            "end the RUN with `rm -rf /var/lib/apt/lists/*`, or use `--mount=type=cache,target=/var/lib/apt`";
        report.add("DL3009", site, "the lists of apt stay in the image", hint);
    }
    let installs = |call: &Call| call.is(&["apt-get"], &["install"]);
    let assumes_yes = |call: &Call| {
        call.has_option(Some('y'), &["yes", "assume-yes"])
            || call.arguments().iter().any(|word| matches!(word.as_str(), "-qq" | "-q=2"))
            || call.arguments().iter().filter(|word| matches!(word.as_str(), "-q" | "--quiet")).count() > 1
    };
    if run.any(|call| installs(call) && !assumes_yes(call)) {
        report.add("DL3014", site, "`apt-get install` asks, and nobody answers", "add `-y`");
    }
    let only_needed = |call: &Call| {
        call.has_option(None, &["no-install-recommends"])
            || call.arguments().iter().any(|word| {
                word.contains("APT::Install-Recommends=false") || word.contains("APT::Install-Recommends=0")
            })
    };
    if run.any(|call| installs(call) && !only_needed(call)) {
        let hint = "add `--no-install-recommends`";
        report.add(
            "DL3015",
            site,
            "`apt-get install` also installs packages that are only recommended",
            hint,
        );
    }
}

fn apk(run: &Ran<'_, '_>, site: Site<'_>, report: &mut Report<'_>) {
    let keeps = |call: &Call| call.is(&["apk"], &["add"]) && !call.has_option(None, &["no-cache"]);
    if run.any(keeps) && !run.caches("/var/cache/apk") && !run.caches("/etc/apk/cache") {
        let hint = "add `--no-cache`, or use `--mount=type=cache,target=/var/cache/apk`";
        report.add("DL3019", site, "the index of apk stays in the image", hint);
    }
}

/// Options that let yum and dnf go on without asking.
fn says_yes(call: &Call) -> bool {
    call.has_option(Some('y'), &["assumeyes", "yes"])
}

fn yum(run: &Ran<'_, '_>, site: Site<'_>, report: &mut Report<'_>) {
    let installs = |call: &Call| call.is(&["yum"], &RPM_INSTALL);
    if run.any(|call| installs(call) && !says_yes(call)) {
        report.add("DL3030", site, "`yum install` asks, and nobody answers", "add `-y`");
    }
    let cleaned = run.any(|call| call.is(&["yum"], &["clean"])) || run.removes("/var/cache/yum");
    if run.stage.shipped && run.any(installs) && !cleaned && !run.caches("/var/cache/yum") {
        let hint = "end the RUN with `yum clean all`, or use `--mount=type=cache,target=/var/cache/yum`";
        report.add("DL3032", site, "the cache of yum stays in the image", hint);
    }
}

fn dnf(run: &Ran<'_, '_>, site: Site<'_>, report: &mut Report<'_>) {
    let installs = |call: &Call| call.is(&DNF, &RPM_INSTALL);
    if run.any(|call| installs(call) && !says_yes(call)) {
        report.add("DL3038", site, "`dnf install` asks, and nobody answers", "add `-y`");
    }
    let cleaned = run.any(|call| call.is(&DNF, &["clean"]))
        || run.removes("/var/cache/dnf")
        || run.removes("/var/cache/libdnf5")
        || run.removes("/var/cache/yum");
    let cached = run.caches("/var/cache/dnf") || run.caches("/var/cache/libdnf5");
    if run.stage.shipped && run.any(installs) && !cleaned && !cached {
        let hint = "end the RUN with `dnf clean all`, or use `--mount=type=cache,target=/var/cache/dnf`";
        report.add("DL3040", site, "the cache of dnf stays in the image", hint);
    }
}

fn zypper(run: &Ran<'_, '_>, site: Site<'_>, report: &mut Report<'_>) {
    let installs = |call: &Call| call.is(&["zypper"], &ZYPPER_INSTALL);
    let silent =
        |call: &Call| says_yes(call) || call.has_option(Some('n'), &["non-interactive", "no-confirm"]);
    if run.any(|call| installs(call) && !silent(call)) {
        report.add("DL3034", site, "`zypper` asks, and nobody answers", "add `--non-interactive`");
    }
    if run.any(|call| call.is(&["zypper"], &["dist-upgrade", "dup"])) {
        let hint = "take a newer base image instead";
        report.add("DL3035", site, "`zypper dist-upgrade` changes the whole distribution", hint);
    }
    let cleaned = run.any(|call| call.is(&["zypper"], &["clean", "cc"])) || run.removes("/var/cache/zypp");
    if run.stage.shipped && run.any(installs) && !cleaned && !run.caches("/var/cache/zypp") {
        let hint = "end the RUN with `zypper clean`, or use `--mount=type=cache,target=/var/cache/zypp`";
        report.add("DL3036", site, "the cache of zypper stays in the image", hint);
    }
}

fn pip(run: &Ran<'_, '_>, site: Site<'_>, report: &mut Report<'_>) {
    let program = |name: &str| {
        let version = name.strip_prefix("pip").unwrap_or("x");
        version.chars().all(|c| c.is_ascii_digit() || c == '.')
    };
    let as_module = |call: &Call| {
        let words = call.arguments();
        call.program().starts_with("python")
            && words.windows(3).any(|three| three == ["-m", "pip", "install"])
    };
    let installs = |call: &Call| (program(call.program()) && call.action() == "install") || as_module(call);
    let keeps = |call: &Call| installs(call) && !call.has_option(None, &["no-cache-dir"]);
    let off = run.stage.end.env.value("PIP_NO_CACHE_DIR").is_some();
    let cached = run.step.values.mounts().iter().any(|mount| {
        mount.target.as_deref().is_some_and(|target| target.contains("pip") || target.ends_with(".cache"))
    });
    if run.stage.shipped && run.any(keeps) && !off && !cached {
        let hint = "add `--no-cache-dir`, or use `--mount=type=cache,target=/root/.cache/pip`";
        report.add("DL3042", site, "the cache of pip stays in the image", hint);
    }
}
