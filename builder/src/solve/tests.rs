use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::image::platform::Platform;
use crate::plan::graph::{CopySpec, Guards, LocalSpec, MkdirSpec, Unpack};
use crate::store::records::{FsState, StepResult};

/// Executes a vertex by hashing its spec: `Mkdir` gives what its path says, so two paths can give equal content.
#[derive(Default)]
struct Fake {
    stored: Mutex<BTreeMap<CacheKey, StepResult>>,
    ran: Mutex<Vec<VertexId>>,
    fail: Option<VertexId>,
    panic: Option<VertexId>,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

fn state(text: &str) -> StepResult {
    StepResult::source(FsState { layers: vec![], identity: Digest::of(text.as_bytes()), claimed: None })
}

impl Executor for Fake {
    type Error = String;

    fn outside(&self, _: &Graph, _: VertexId) -> Result<Option<Digest>, String> {
        Ok(None)
    }

    fn lookup(&self, key: &CacheKey) -> Result<Option<StepResult>, String> {
        Ok(self.stored.lock().unwrap().get(key).cloned())
    }

    fn save(&self, keys: &[CacheKey], result: &StepResult, _: &str, _: u64) -> Result<(), String> {
        let mut stored = self.stored.lock().unwrap();
        stored.extend(keys.iter().map(|key| (*key, result.clone())));
        Ok(())
    }

    fn contents(&self, _: &Graph, _: VertexId, inputs: &[VertexResult]) -> Result<Vec<Digest>, String> {
        Ok(inputs.iter().filter_map(|i| i.state()).map(|s| s.identity).collect())
    }

    fn execute(&self, graph: &Graph, id: VertexId, inputs: &[VertexResult]) -> Result<VertexResult, String> {
        let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(now, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(20));
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        self.ran.lock().unwrap().push(id);
        assert_ne!(self.panic, Some(id), "as asked");
        if self.fail == Some(id) {
            return Err("failed".to_owned());
        }
        assert_eq!(inputs.len(), graph.vertex(id).inputs.len());
        Ok(VertexResult::Fs(match &graph.vertex(id).op {
            Op::Mkdir(mkdir) => state(mkdir.path.trim_end_matches(|c: char| c.is_ascii_digit())),
            other => state(&format!("{other:?}{inputs:?}")),
        }))
    }
}

fn vertex(op: Op, inputs: &[u32]) -> Vertex {
    Vertex {
        op,
        inputs: inputs.iter().map(|i| VertexId(*i)).collect(),
        name: "step".to_owned(),
        stage: String::new(),
        ignore_cache: false,
        origin: None,
        platform: Platform::host(),
        guards: Guards::default(),
    }
}

fn mkdir(path: &str, input: u32) -> Vertex {
    vertex(Op::Mkdir(MkdirSpec { path: path.to_owned(), user: String::new() }), &[input])
}

fn options() -> Options {
    Options { jobs: 4, events: EventSink::none(), cancel: CancelToken::new() }
}

fn solve_last(graph: &Graph, fake: &Fake) -> Solved {
    fake.ran.lock().unwrap().clear();
    solve(graph, &[VertexId(graph.vertices.len() as u32 - 1)], fake, &options()).unwrap()
}

#[test]
fn second_build_runs_nothing() {
    let graph = Graph { vertices: vec![vertex(Op::Scratch, &[]), mkdir("/a", 0), mkdir("/b", 1)] };
    let fake = Fake::default();
    assert_eq!(solve_last(&graph, &fake).executed, 2);
    let again = solve_last(&graph, &fake);
    assert_eq!((again.executed, again.cached), (0, 1), "only the root is looked at");
    assert!(fake.ran.lock().unwrap().is_empty());
}

#[test]
fn equal_result_stops_the_rebuild() {
    let build =
        |path: &str| Graph { vertices: vec![vertex(Op::Scratch, &[]), mkdir(path, 0), mkdir("/b", 1)] };
    let fake = Fake::default();
    solve_last(&build("/a1"), &fake);
    let solved = solve_last(&build("/a2"), &fake);
    assert_eq!(*fake.ran.lock().unwrap(), [VertexId(1)]);
    assert_eq!((solved.executed, solved.cached), (1, 1));
    solve_last(&build("/other"), &fake);
    assert_eq!(fake.ran.lock().unwrap().len(), 2, "a different result runs what is below");
}

#[test]
fn forced_steps_do_not_reuse_what_reads_them() {
    let mut graph = Graph { vertices: vec![vertex(Op::Scratch, &[]), mkdir("/a", 0), mkdir("/b", 1)] };
    let fake = Fake::default();
    solve_last(&graph, &fake);
    graph.vertices[1].ignore_cache = true;
    let solved = solve_last(&graph, &fake);
    assert_eq!(*fake.ran.lock().unwrap(), [VertexId(1)], "equal content below stays cached");
    assert_eq!(solved.cached, 1);
}

#[test]
fn independent_steps_run_at_the_same_time() {
    let copy = CopySpec {
        sources: vec![],
        destination: "/".to_owned(),
        chown: None,
        chmod: None,
        parents: false,
        exclude: vec![],
        unpack: Unpack::Never,
        link: false,
    };
    let graph = Graph {
        vertices: vec![
            vertex(Op::Scratch, &[]),
            mkdir("/a", 0),
            mkdir("/b", 0),
            mkdir("/c", 0),
            vertex(Op::Local(LocalSpec { context: String::new() }), &[]),
            vertex(Op::Copy(copy), &[1, 2, 3, 4]),
        ],
    };
    let fake = Fake::default();
    solve_last(&graph, &fake);
    assert!(fake.most_at_once.load(Ordering::SeqCst) >= 2);
}

#[test]
fn a_failure_names_its_vertex_and_stops_the_rest() {
    let graph = Graph { vertices: vec![vertex(Op::Scratch, &[]), mkdir("/a", 0), mkdir("/b", 1)] };
    let fake = Fake { fail: Some(VertexId(1)), ..Fake::default() };
    let failure = solve(&graph, &[VertexId(2)], &fake, &options()).unwrap_err();
    assert_eq!((failure.vertex, failure.error.as_str()), (VertexId(1), "failed"));
    assert!(!fake.ran.lock().unwrap().contains(&VertexId(2)));
}

#[test]
fn what_nothing_needs_does_not_run() {
    let graph = Graph { vertices: vec![vertex(Op::Scratch, &[]), mkdir("/unused", 0), mkdir("/b", 0)] };
    let fake = Fake::default();
    solve_last(&graph, &fake);
    assert_eq!(*fake.ran.lock().unwrap(), [VertexId(0), VertexId(2)]);
}

#[test]
fn a_panic_ends_the_other_workers() {
    let graph = Graph {
        vertices: vec![vertex(Op::Scratch, &[]), mkdir("/a", 0), mkdir("/b", 0), vertex(Op::Merge, &[1, 2])],
    };
    let fake = Fake { panic: Some(VertexId(1)), ..Fake::default() };
    let solved = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        solve(&graph, &[VertexId(3)], &fake, &options())
    }));
    assert!(solved.is_err(), "the panic reaches the caller");
}

#[test]
fn a_failure_after_a_stop_from_outside_says_so() {
    let graph = Graph { vertices: vec![vertex(Op::Scratch, &[]), mkdir("/a", 0)] };
    let fake = Fake { fail: Some(VertexId(1)), ..Fake::default() };
    assert!(!solve(&graph, &[VertexId(1)], &fake, &options()).unwrap_err().interrupted);
    let failure = early(VertexId(1), "x", &{
        let options = options();
        options.cancel.cancel();
        options
    });
    assert!(failure.interrupted);
}
