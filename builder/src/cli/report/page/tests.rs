use super::*;
use crate::base::digest::CacheKey;
use crate::base::digest::Digest;
use crate::build::layers::{FileCost, LayerCost, Waste, Why};
use crate::record::{Head, MissReason, StepRecord, Totals};

const HOSTILE: &str = "</pre><script>alert(1)</script>\"'&\u{1b}[31m\u{202e}";

fn step(number: u32, name: &str, kind: &str, inputs: &[u32], at: Option<(u64, u64)>) -> StepRecord {
    StepRecord {
        number,
        name: name.to_owned(),
        stage: if kind == "image" { String::new() } else { "app".to_owned() },
        platform: "linux/amd64".to_owned(),
        inputs: inputs.to_vec(),
        spec: serde_json::json!({ "kind": kind }),
        key: Some(CacheKey(Digest::of(name.as_bytes()))),
        outcome: if at.is_some() { StepOutcome::Ran } else { StepOutcome::Cached },
        started_ms: at.map(|(start, _)| start),
        took_ms: at.map_or(0, |(_, took)| took),
        ..StepRecord::default()
    }
}

fn record() -> BuildRecord {
    let mut steps = vec![
        step(1, "[app 1/4] FROM base", "image", &[], None),
        step(2, "[app 2/4] RUN quick", "run", &[1], Some((10, 100))),
        step(3, "[app 3/4] RUN slow", "run", &[1], Some((10, 2000))),
        step(4, "[app 4/4] COPY --from=x a b", "copy", &[2, 3], Some((2010, 5))),
    ];
    steps[2].log_bytes = 10;
    steps[2].miss = Some(MissReason::Command { was: "a".to_owned(), is: HOSTILE.to_owned() });
    let head = Head {
        id: "abc123".to_owned(),
        took_ms: 2100,
        result: BuildResult::Succeeded,
        image: Some(Digest::of(b"image")),
        totals: Totals { steps: 3, cached: 0, ran: 3, ..Totals::default() },
        ..Head::default()
    };
    BuildRecord { head, steps }
}

fn page(record: &BuildRecord) -> Page<'_> {
    Page {
        record,
        title: "app".to_owned(),
        began: "2026-11-26T00:00:00Z".to_owned(),
        costs: Err("This build gave no image.".to_owned()),
        findings: Ok(String::new()),
        logs: Vec::new(),
    }
}

fn costs() -> Costs {
    let layer = LayerCost {
        number: 0,
        created_by: Some(format!("RUN {HOSTILE}")),
        digest: String::new(),
        diff_id: String::new(),
        size: 500,
        unpacked: 2000,
        files: 2,
        wasted: 1500,
        largest: vec![FileCost { path: HOSTILE.to_owned(), size: 1500 }],
        waste: vec![Waste { path: HOSTILE.to_owned(), size: 1500, why: Why::Removed, by: 1 }],
    };
    Costs {
        image: String::new(),
        digest: String::new(),
        platform: String::new(),
        size: 500,
        unpacked: 2000,
        wasted: 1500,
        layers: vec![layer],
    }
}

#[test]
fn every_part_says_what_it_is_for() {
    let record = record();
    let html = render(&Page {
        costs: Ok(costs()),
        findings: Ok("warning: something".to_owned()),
        logs: vec![StepLog { step: 3, text: "one\ntwo".to_owned(), left_out: 1_500_000 }],
        ..page(&record)
    });
    for part in [
        "<span class=\"badge ok\">succeeded</span>",
        "<b>2.1 s</b><span>time</span>",
        "1.5kB (75.0%)",
        "<pre class=\"findings\">warning: something</pre>",
        "<a href=\"#log-3\">[app 3/4] RUN slow</a>",
        "id=\"log-3\"",
        "<pre>one\ntwo</pre>",
        "1.5MB before this are left out: kiln log abc123 --step 3",
        "removed by layer 1",
        "<svg ",
    ] {
        assert!(html.contains(part), "{part}\n{html}");
    }
}

#[test]
fn the_critical_chain_is_what_the_end_waited_for() {
    let record = record();
    let html = render(&page(&record));
    let critical =
        |number: u32| html.contains(&format!("<div class=\"row critical\" data-step=\"{number}\""));
    assert_eq!([critical(2), critical(3), critical(4)], [false, true, true]);
    assert!(!html.contains("data-step=\"1\""), "what was cached did not run");
    assert!(html.contains("left:0.48%;width:95.24%"), "{html}");
}

#[test]
fn nothing_of_a_build_becomes_markup() {
    let mut record = record();
    record.steps[1].name = format!("[app] RUN {HOSTILE}");
    record.steps[1].stage = HOSTILE.to_owned();
    record.steps[2].error = Some(HOSTILE.to_owned());
    record.head.error = Some(HOSTILE.to_owned());
    record.head.about.file = HOSTILE.to_owned();
    record.head.about.context = HOSTILE.to_owned();
    record.head.about.build_args = vec![HOSTILE.to_owned()];
    let html = render(&Page {
        title: HOSTILE.to_owned(),
        costs: Ok(costs()),
        findings: Ok(HOSTILE.to_owned()),
        logs: vec![StepLog { step: 2, text: HOSTILE.to_owned(), left_out: 0 }],
        ..page(&record)
    });
    assert_eq!(html.matches("<script>").count(), 1, "kiln's own");
    assert_eq!(html.matches("</pre>").count(), html.matches("<pre").count());
    assert!(!html.contains("alert(1)</script>") && !html.contains(['\u{1b}', '\u{202e}']));
    assert!(html.matches("&lt;script&gt;alert(1)").count() >= 12);
}

#[test]
fn builds_that_ran_nothing_or_ended_early_have_a_page() {
    let mut record = record();
    for step in &mut record.steps {
        (step.outcome, step.started_ms, step.took_ms) = (StepOutcome::Cached, None, 0);
    }
    assert!(render(&page(&record)).contains("No step ran"));
    let empty = BuildRecord::default();
    assert!(render(&page(&empty)).contains("not finished"));
}
