use std::io::Read as _;

use super::*;
use crate::base::events::Stream;
use crate::image::platform::Platform;
use crate::plan::graph::{Guards, LocalSpec, MkdirSpec, Vertex};

fn recorder(root: &std::path::Path) -> (Recorder, EventSink, Shelf) {
    let shelf = Shelf::new(root);
    let recorder = Recorder::new(shelf.clone(), About::default()).unwrap();
    let sink = recorder.listen(EventSink::none());
    (recorder, sink, shelf)
}

fn vertex(op: Op, inputs: &[u32]) -> Vertex {
    Vertex {
        op,
        inputs: inputs.iter().map(|input| VertexId(*input)).collect(),
        name: "step".to_owned(),
        stage: "s".to_owned(),
        ignore_cache: false,
        origin: None,
        platform: Platform::host(),
        guards: Guards::default(),
    }
}

fn graph() -> Graph {
    let mkdir = |path: &str| Op::Mkdir(MkdirSpec { path: path.to_owned(), user: String::new() });
    let local = Op::Local(LocalSpec { context: String::new() });
    Graph {
        vertices: vec![
            vertex(Op::Scratch, &[]),
            vertex(mkdir("/a"), &[0]),
            vertex(mkdir("/b"), &[1]),
            vertex(local, &[]),
        ],
    }
}

fn ending(graph: &Graph, result: BuildResult) -> Ending<'_> {
    let noted = (0..4).map(|id| (VertexId(id), Noted::default())).collect();
    Ending { graph: Some(graph), counted: vec![VertexId(1), VertexId(2)], noted, result, ..Ending::default() }
}

fn log(step: u32, data: &[u8]) -> Event {
    Event::Log { step, stream: Stream::Stdout, at: Duration::ZERO, data: data.to_vec() }
}

fn finished(step: u32, outcome: Outcome) -> Event {
    Event::Finished { step, outcome, took: Duration::from_millis(7) }
}

fn read_log(shelf: &Shelf, step: u32) -> String {
    let mut text = String::new();
    let entry = shelf.find(None).unwrap();
    shelf.log(&entry, step).unwrap().unwrap().read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_build_that_finds_everything_writes_once_at_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let (recorder, sink, shelf) = recorder(dir.path());
    sink.send(Event::Planned { step: 3, name: "last".to_owned() });
    sink.send(finished(3, Outcome::Cached));
    assert_eq!(shelf.entries().unwrap(), []);
    let graph = graph();
    recorder.end(&ending(&graph, BuildResult::Succeeded));
    let record = shelf.read(&shelf.find(None).unwrap()).unwrap();
    assert_eq!(Some(&record), recorder.record().as_ref());
    let outcomes: Vec<StepOutcome> = record.steps.iter().map(|step| step.outcome).collect();
    assert_eq!(
        outcomes,
        [StepOutcome::Covered, StepOutcome::Covered, StepOutcome::Cached, StepOutcome::Covered]
    );
    assert_eq!(record.head.totals, Totals { steps: 2, cached: 2, ..Totals::default() });
}

#[test]
fn a_killed_build_leaves_its_log_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (_recorder, sink, shelf) = recorder(dir.path());
    sink.send(Event::Planned { step: 2, name: "[2/3] RUN x".to_owned() });
    sink.send(Event::Started { step: 2 });
    sink.send(log(2, b"half a line"));
    let head = shelf.head(&shelf.find(None).unwrap()).unwrap();
    assert_eq!(head.result, BuildResult::Unfinished);
    assert_eq!(read_log(&shelf, 2), "half a line");
    assert_eq!(shelf.read(&shelf.find(None).unwrap()).unwrap().steps[0].name, "[2/3] RUN x");
}

#[test]
fn failures_are_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let (recorder, sink, _) = recorder(dir.path());
    sink.send(Event::Started { step: 2 });
    sink.send(finished(2, Outcome::Failed("exit code: 3".to_owned())));
    let graph = graph();
    let mut ending = ending(&graph, BuildResult::Failed);
    ending.exit_codes = BTreeMap::from([(2, 3)]);
    ending.error = Some("no".to_owned());
    recorder.end(&ending);
    let record = recorder.record().unwrap();
    let step = record.step(2).unwrap();
    assert_eq!(
        (step.outcome, step.exit_code, step.error.as_deref()),
        (StepOutcome::Failed, Some(3), Some("exit code: 3"))
    );
    assert_eq!(step.miss, Some(crate::record::MissReason::FirstBuild));
    assert_eq!(record.step(3).unwrap().outcome, StepOutcome::NotReached);
    assert_eq!(record.step(1).unwrap().outcome, StepOutcome::NotReached);
    assert_eq!(record.head.error.as_deref(), Some("no"));
}

#[test]
fn long_logs_are_packed() {
    let dir = tempfile::tempdir().unwrap();
    let (recorder, sink, shelf) = recorder(dir.path());
    sink.send(Event::Started { step: 2 });
    sink.send(log(2, b"the first"));
    sink.send(log(2, b" and more"));
    sink.send(log(3, &b"0123456789\n".repeat(200_000)));
    for step in [2, 3] {
        sink.send(finished(step, Outcome::Done));
    }
    assert_eq!(read_log(&shelf, 2), "the first and more");
    assert_eq!(read_log(&shelf, 3).len(), 2_200_000);
    let entry = shelf.find(None).unwrap();
    assert!(!shelf.log_path(&entry, 3).exists(), "a long log is compressed");
    recorder.end(&ending(&graph(), BuildResult::Succeeded));
    assert_eq!(recorder.record().unwrap().step(3).unwrap().log_bytes, 2_200_000);
}

#[test]
fn what_cannot_be_written_is_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    // A file where the directory should be.
    std::fs::write(dir.path().join("records"), "").unwrap();
    let recorder = Recorder::new(Shelf::new(dir.path()), About::default()).unwrap();
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let seen = warnings.clone();
    let sink = recorder.listen(EventSink::new(move |event| {
        if let Event::Warning { message } = event {
            seen.lock().unwrap().push(message);
        }
    }));
    sink.send(Event::Started { step: 2 });
    sink.send(log(2, b"x"));
    sink.send(log(2, b"y"));
    sink.send(finished(2, Outcome::Done));
    recorder.end(&ending(&graph(), BuildResult::Succeeded));
    let warnings = warnings.lock().unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("record is not complete"), "{warnings:?}");
    assert!(recorder.record().is_some(), "the build's own explanation needs no disk");
}

#[test]
fn credentials_of_addresses_stay_out() {
    let dir = tempfile::tempdir().unwrap();
    let (recorder, _, shelf) = recorder(dir.path());
    let http = crate::plan::graph::HttpSpec { url: "https://me:pass@h/x".to_owned(), checksum: None };
    let graph = Graph { vertices: vec![vertex(Op::Http(http), &[])] };
    recorder.end(&ending(&graph, BuildResult::Succeeded));
    let text = std::fs::read_to_string(shelf.path(&shelf.find(None).unwrap()).join("build.json")).unwrap();
    assert!(text.contains("https://h/x") && !text.contains("pass"), "{text}");
}
