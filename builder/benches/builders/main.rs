//! Whole builds by kiln and by every other builder on PATH, in turn, on the same files.
//!
//! ```text
//! cargo bench -p kiln --bench builders -- [--only NAME,…] [--peers NAME,…|none] [--runs N] [--json FILE] [--list]
//!                                         [--registry HOST:PORT] [--debian LAYOUT] [--scale F] [--buildfiles DIR]
//! ```
//!
//! Invariants:
//! - what is compared ran in one go, kiln and peers in turn, each from the state that the phase says;
//! - a figure is the median of the runs, with the least and the most beside it;
//! - a peer that fails a workload is told as failed, never left out.

mod builders;
mod measure;
mod report;
mod workloads;

use std::path::PathBuf;
use std::process::ExitCode;

use builders::{Builder, Job};
use measure::Figures;
use workloads::{Phase, Site, Workload};

struct Options {
    only: Vec<String>,
    peers: Option<Vec<String>>,
    runs: usize,
    json: Option<PathBuf>,
    registry: Option<String>,
    debian: Option<PathBuf>,
    scale: f64,
    buildfiles: Option<PathBuf>,
    list: bool,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        only: vec![],
        peers: None,
        runs: 5,
        json: None,
        registry: None,
        debian: None,
        scale: 1.0,
        buildfiles: None,
        list: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        let list = |text: String| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        match word.as_str() {
            // cargo passes this one.
            "--bench" => {}
            "--only" => options.only = list(value()?),
            "--peers" => options.peers = Some(list(value()?)),
            "--runs" => options.runs = value()?.parse().map_err(|_| "--runs needs a number")?,
            "--scale" => options.scale = value()?.parse().map_err(|_| "--scale needs a number")?,
            "--json" => options.json = Some(value()?.into()),
            "--debian" => options.debian = Some(value()?.into()),
            "--registry" => options.registry = Some(value()?),
            "--buildfiles" => options.buildfiles = Some(value()?.into()),
            "--list" => options.list = true,
            other => return Err(format!("unknown option {other}")),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    match options().and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    let all = match &options.buildfiles {
        Some(directory) => workloads::found(directory)?,
        None => workloads::all(),
    };
    let wanted = |w: &Workload| options.only.is_empty() || options.only.iter().any(|name| name == w.name);
    if options.list || !all.iter().any(wanted) {
        all.iter().for_each(|w| println!("{:<12} {}", w.name, w.shows));
        return Ok(());
    }
    let workloads: Vec<Workload> = all.into_iter().filter(wanted).collect();
    // Lower case only: buildah makes a name of the path of a layout.
    let prefix = format!("kiln-bench-{}", std::process::id());
    let dir = tempfile::Builder::new().prefix(&prefix).rand_bytes(0).tempdir().map_err(|e| e.to_string())?;
    let base = dir.path().join("base");
    workloads::write_base(&base)?;
    let site = Site {
        busybox: base,
        debian: options.debian.clone(),
        registry: options.registry.clone(),
        scale: options.scale,
    };
    let mut builders: Vec<Builder> = builders::found(dir.path());
    if let Some(wanted) = &options.peers {
        builders.retain(|b| b.name == "kiln" || wanted.iter().any(|name| name == b.name));
    }
    let names: Vec<&str> = builders.iter().map(|b| b.name).collect();
    eprintln!("builders: {}; {} runs of each; load {}", names.join(", "), options.runs, measure::load());
    let mut rows = Vec::new();
    for workload in &workloads {
        if let Some(lacking) = site.lacks(workload) {
            eprintln!("{:<12} {lacking}", workload.name);
            continue;
        }
        let context = dir.path().join(workload.name);
        std::fs::create_dir_all(&context).map_err(|e| e.to_string())?;
        (workload.prepare)(&context, &site)?;
        let job = Job { workload, context: &context, site: &site };
        builders.iter().try_for_each(|builder| builder.reset(&job))?;
        for phase in workload.phases {
            rows.extend(measure_phase(&job, *phase, &builders, options.runs)?);
        }
        std::fs::remove_dir_all(&context).map_err(|e| e.to_string())?;
    }
    for builder in &builders {
        builder.remove();
    }
    println!("{}", report::markdown(&rows));
    if let Some(path) = &options.json {
        std::fs::write(path, report::json(&rows)).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

/// Runs one phase of a workload, the builders in turn.
fn measure_phase(
    job: &Job<'_>,
    phase: Phase,
    builders: &[Builder],
    runs: usize,
) -> Result<Vec<report::Row>, String> {
    let workload = job.workload;
    let mut figures: Vec<Figures> = builders.iter().map(|_| Figures::default()).collect();
    for run in 0..runs {
        for (builder, figures) in builders.iter().zip(&mut figures) {
            if figures.failure.is_some() {
                continue;
            }
            match phase {
                Phase::Cold => builder.reset(job)?,
                Phase::Warm | Phase::Change if run == 0 => {
                    // Not measured: it brings the store to where the phase begins.
                    if let Err(failure) = builder.build(job).map(drop) {
                        figures.failure = Some(failure);
                        continue;
                    }
                }
                Phase::Warm | Phase::Change => {}
            }
            if phase == Phase::Change {
                (workload.change)(job.context, run + 1)?;
            }
            match builder.build(job) {
                Ok(sample) => figures.add(sample),
                Err(failure) => figures.failure = Some(failure),
            }
        }
    }
    let rows = builders.iter().zip(figures).map(|(builder, figures)| {
        let seconds = figures.median_seconds();
        let told = figures.failure.clone().unwrap_or_else(|| format!("{seconds:.3}s"));
        eprintln!("{:<12} {:<7} {:<8} {told}", workload.name, phase.name(), builder.name);
        report::Row {
            workload: workload.name,
            phase: phase.name(),
            builder: builder.name,
            store_bytes: builder.store_bytes(),
            figures,
        }
    });
    Ok(rows.collect())
}
