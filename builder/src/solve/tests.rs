use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::base::digest::Digest;
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
    Options::new(4, EventSink::none(), CancelToken::new())
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
    assert_eq!((again.executed, again.cached), (0, 2), "what nobody looks at counts");
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

#[test]
fn keeping_going_runs_what_does_not_depend_on_a_failure() {
    let graph = Graph {
        vertices: vec![
            vertex(Op::Scratch, &[]),
            mkdir("/a", 0),
            mkdir("/b", 0),
            mkdir("/c", 2),
            mkdir("/d", 1),
            vertex(Op::Merge, &[3, 4]),
        ],
    };
    for jobs in [1, 4] {
        let fake = Fake { fail: Some(VertexId(1)), ..Fake::default() };
        let options = Options { keep_going: true, jobs, ..options() };
        let failure = solve(&graph, &[VertexId(5)], &fake, &options).unwrap_err();
        assert_eq!((failure.vertex, failure.interrupted, failure.others.len()), (VertexId(1), false, 0));
        let mut ran = fake.ran.lock().unwrap().clone();
        ran.sort();
        assert_eq!(ran, [0, 1, 2, 3].map(VertexId), "what depends on the failure does not run");
        assert!(!options.cancel.is_cancelled());
    }
}

#[test]
fn keeping_going_reports_every_failure() {
    struct Failing(Fake);
    impl Executor for Failing {
        type Error = String;
        fn outside(&self, graph: &Graph, id: VertexId) -> Result<Option<Digest>, String> {
            self.0.outside(graph, id)
        }
        fn lookup(&self, key: &CacheKey) -> Result<Option<StepResult>, String> {
            self.0.lookup(key)
        }
        fn save(&self, keys: &[CacheKey], result: &StepResult, name: &str, ms: u64) -> Result<(), String> {
            self.0.save(keys, result, name, ms)
        }
        fn contents(
            &self,
            graph: &Graph,
            id: VertexId,
            inputs: &[VertexResult],
        ) -> Result<Vec<Digest>, String> {
            self.0.contents(graph, id, inputs)
        }
        fn execute(
            &self,
            graph: &Graph,
            id: VertexId,
            inputs: &[VertexResult],
        ) -> Result<VertexResult, String> {
            if id.0 == 0 { self.0.execute(graph, id, inputs) } else { Err(format!("failed {}", id.0)) }
        }
    }
    let graph = Graph {
        vertices: vec![vertex(Op::Scratch, &[]), mkdir("/a", 0), mkdir("/b", 0), vertex(Op::Merge, &[1, 2])],
    };
    let failing = Failing(Fake::default());
    let options = Options { keep_going: true, ..options() };
    let failure = solve(&graph, &[VertexId(3)], &failing, &options).unwrap_err();
    let mut all = vec![failure.error];
    all.extend(failure.others.into_iter().map(|(_, error)| error));
    all.sort();
    assert_eq!(all, ["failed 1", "failed 2"]);
    let failure = solve(&graph, &[VertexId(3)], &failing, &super::tests::options()).unwrap_err();
    assert!(failure.others.is_empty(), "without it there is one");
}

#[test]
fn old_results_run_again_and_so_do_fresh_ones_above_them() {
    let graph = Graph { vertices: vec![vertex(Op::Scratch, &[]), mkdir("/a", 0), mkdir("/b", 1)] };
    let fake = Fake::default();
    solve_last(&graph, &fake);
    let age = |path: &str, ran: i64| {
        let wanted = state(path);
        for stored in fake.stored.lock().unwrap().values_mut() {
            if stored.state == wanted.state {
                stored.ran = ran;
            }
        }
    };
    let with = |oldest| {
        fake.ran.lock().unwrap().clear();
        let options = Options { oldest: Some(oldest), ..options() };
        let solved = solve(&graph, &[VertexId(2)], &fake, &options).unwrap();
        (fake.ran.lock().unwrap().clone(), solved.executed, options.ledger.accounts())
    };
    age("/a", 100);
    age("/b", 200);
    assert_eq!(with(100).0, [], "as old as allowed");
    let (ran, executed, accounts) = with(150);
    assert_eq!((ran, executed), (vec![VertexId(1)], 1), "equal content above stays cached: it is not old");
    assert_eq!(accounts[&VertexId(1)].look, Look::Expired(100));
    assert_eq!(accounts[&VertexId(2)].look, Look::Content);
}

#[test]
fn a_step_that_another_process_runs_is_waited_for_and_taken() {
    /// Somebody else has the step until the third question, and then its result is there.
    struct Busy {
        fake: Fake,
        asked: AtomicUsize,
        gives: bool,
    }
    impl Executor for Busy {
        type Error = String;
        fn outside(&self, graph: &Graph, id: VertexId) -> Result<Option<Digest>, String> {
            self.fake.outside(graph, id)
        }
        fn lookup(&self, key: &CacheKey) -> Result<Option<StepResult>, String> {
            self.fake.lookup(key)
        }
        fn claim(&self, key: &CacheKey) -> Result<Option<Box<dyn Send>>, String> {
            if self.asked.fetch_add(1, Ordering::SeqCst) < 3 {
                return Ok(None);
            }
            if self.gives {
                self.fake.stored.lock().unwrap().insert(*key, state("theirs"));
            }
            Ok(Some(Box::new(())))
        }
        fn save(&self, keys: &[CacheKey], result: &StepResult, name: &str, ms: u64) -> Result<(), String> {
            self.fake.save(keys, result, name, ms)
        }
        fn contents(
            &self,
            graph: &Graph,
            id: VertexId,
            inputs: &[VertexResult],
        ) -> Result<Vec<Digest>, String> {
            self.fake.contents(graph, id, inputs)
        }
        fn execute(
            &self,
            graph: &Graph,
            id: VertexId,
            inputs: &[VertexResult],
        ) -> Result<VertexResult, String> {
            self.fake.execute(graph, id, inputs)
        }
    }
    for gives in [true, false] {
        let graph = Graph { vertices: vec![vertex(Op::Scratch, &[]), mkdir("/a", 0)] };
        let busy = Busy { fake: Fake::default(), asked: AtomicUsize::new(0), gives };
        let waited = std::sync::Arc::new(AtomicUsize::new(0));
        let count = waited.clone();
        let events = EventSink::new(move |event| {
            count.fetch_add(usize::from(matches!(event, Event::Waiting { step: 2 })), Ordering::SeqCst);
        });
        let options = Options { events, ..options() };
        let solved = solve(&graph, &[VertexId(1)], &busy, &options).unwrap();
        let ran = busy.fake.ran.lock().unwrap().contains(&VertexId(1));
        assert_eq!((ran, solved.cached), (!gives, usize::from(gives)));
        assert_eq!(waited.load(Ordering::SeqCst), 1, "the user is told once");
    }
}

#[test]
fn equal_steps_of_one_build_run_once() {
    // Two bases of equal content, and the same step on each.
    let graph = Graph {
        vertices: vec![
            vertex(Op::Scratch, &[]),
            mkdir("/a1", 0),
            mkdir("/a2", 0),
            mkdir("/b", 1),
            mkdir("/b", 2),
            vertex(Op::Merge, &[3, 4]),
        ],
    };
    let fake = Fake::default();
    let solved = solve_last(&graph, &fake);
    let ran = fake.ran.lock().unwrap().iter().filter(|id| [3, 4].contains(&id.0)).count();
    assert_eq!((ran, solved.cached), (1, 1));
}
