use std::io;

use crate::base::events::{Outcome, Stream};

use super::*;

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Buffer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

/// Runs events at their times (in milliseconds) through one mode.
fn shown(mode: Mode, size: Size, events: Vec<(u64, Event)>) -> String {
    let buffer = Buffer::default();
    let out = Box::new(buffer.clone());
    let target = match mode {
        Mode::Tty => Target::Terminal { out, size: Box::new(move || size), colour: false },
        _ => Target::Writer(out),
    };
    let mut inner =
        Inner { steps: state::Steps::default(), display: Display::new(mode, target), finished: false };
    let mut last = 0;
    for (at, event) in events {
        for tick in (last..at).step_by(100) {
            inner.tick(Duration::from_millis(tick));
        }
        inner.handle(event, Duration::from_millis(at));
        last = at;
    }
    inner.finish(Duration::from_millis(last));
    buffer.text()
}

fn plain(events: Vec<(u64, Event)>) -> String {
    shown(Mode::Plain, terminal::DEFAULT_SIZE, events)
}

fn planned(step: StepNumber, name: &str) -> Event {
    Event::Planned { step, name: name.to_owned() }
}

fn log(step: StepNumber, at_ms: u64, data: &[u8]) -> Event {
    Event::Log { step, stream: Stream::Stdout, at: Duration::from_millis(at_ms), data: data.to_vec() }
}

fn progress(step: StepNumber, done_bytes: u64, total_bytes: Option<u64>) -> Event {
    Event::Progress { step, what: "sha256:0123456789ab".to_owned(), done_bytes, total_bytes }
}

fn finished(step: StepNumber, outcome: Outcome, took_ms: u64) -> Event {
    Event::Finished { step, outcome, took: Duration::from_millis(took_ms) }
}

#[test]
fn plain_tells_of_a_registry_that_takes_its_time() {
    let ask = |image: Option<&str>| Event::LookingUp { image: image.map(str::to_owned) };
    let build = |answered| {
        plain(vec![
            (0, ask(Some("debian:12"))),
            (answered, ask(None)),
            (9000, finished(1, Outcome::Cached, 0)),
        ])
    };
    assert_eq!(build(7000).matches("looking up debian:12\n").count(), 1);
    assert!(!build(2000).contains("looking up"));
}

fn small_build() -> Vec<(u64, Event)> {
    vec![
        (0, planned(1, "[1/2] FROM debian:12")),
        (0, planned(2, "[2/2] RUN make")),
        (3, finished(1, Outcome::Cached, 0)),
        (4, Event::Started { step: 2 }),
        (130, log(2, 126, b"cc -c a.c\n")),
        (200, progress(2, 10, None)),
        (900, finished(2, Outcome::Failed("exit status 2".to_owned()), 896)),
        (901, Event::Warning { message: "disk is nearly full".to_owned() }),
    ]
}

#[test]
fn plain_reads_like_buildx() {
    insta::assert_snapshot!(plain(small_build()), @r"
    #1 [1/2] FROM debian:12
    #1 CACHED

    #2 [2/2] RUN make
    #2 0.126 cc -c a.c
    #2 sha256:0123456789ab 10B 0.0s
    #2 ERROR: exit status 2
    WARNING: disk is nearly full

    1 warning found
    ");
}

#[test]
fn plain_keeps_the_lines_of_a_step_together() {
    insta::assert_snapshot!(
        plain(vec![
            (0, planned(1, "[a] RUN one")),
            (0, planned(2, "[b] RUN two")),
            (0, Event::Started { step: 1 }),
            (0, Event::Started { step: 2 }),
            (100, log(1, 100, b"one: first\n")),
            (110, log(2, 110, b"two: waits\n")),
            (120, log(1, 120, b"one: half")),
            (130, log(1, 130, b" line\n")),
            (400, log(2, 400, b"two: no newline")),
            (500, finished(1, Outcome::Done, 500)),
            (600, finished(2, Outcome::Cancelled, 600)),
        ]),
        @r"
    #1 [a] RUN one
    #1 0.100 one: first
    #1 0.130 one: half line
    #1 DONE 0.5s

    #2 [b] RUN two
    #2 0.110 two: waits
    #2 0.400 two: no newline
    #2 CANCELED
    "
    );
}

#[test]
fn plain_gives_a_waiting_step_its_turn() {
    let mut events = vec![
        (0, planned(1, "[a] RUN busy")),
        (0, planned(2, "[b] RUN quiet")),
        (0, Event::Started { step: 1 }),
        (0, log(1, 0, b"busy 0\n")),
        (10, Event::Started { step: 2 }),
    ];
    events.extend((1..=7).map(|n| (n * 800, log(1, n * 800, format!("busy {}\n", n * 800).as_bytes()))));
    events.push((6000, log(2, 5990, b"quiet\n")));
    events.push((9000, finished(1, Outcome::Done, 9000)));
    events.push((9000, finished(2, Outcome::Done, 8990)));
    insta::assert_snapshot!(plain(events), @r"
    #1 [a] RUN busy
    #1 0.000 busy 0
    #1 0.800 busy 800
    #1 1.600 busy 1600
    #1 2.400 busy 2400
    #1 3.200 busy 3200
    #1 4.000 busy 4000
    #1 4.800 busy 4800

    #2 [b] RUN quiet
    #2 5.990 quiet

    #1 [a] RUN busy
    #1 5.600 busy 5600
    #1 DONE 9.0s

    #2 [b] RUN quiet
    #2 DONE 9.0s
    ");
}

#[test]
fn plain_reduces_progress_bars_and_reports_transfers() {
    insta::assert_snapshot!(
        plain(vec![
            (0, planned(1, "FROM debian")),
            (0, Event::Started { step: 1 }),
            (10, log(1, 10, b"get 1%\rget 50%\rget 100%\r\n\x1b[32mok\x1b[0m\n")),
            (100, progress(1, 1_000_000, Some(29_000_000))),
            (2000, progress(1, 5_000_000, Some(29_000_000))),
            (3200, progress(1, 9_000_000, Some(29_000_000))),
            (4000, progress(1, 29_000_000, Some(29_000_000))),
            (4100, finished(1, Outcome::Done, 4100)),
        ])
        .replace('\u{1b}', "ESC"),
        @r"
    #1 FROM debian
    #1 0.010 get 100%
    #1 0.010 ESC[32mokESC[0m
    #1 sha256:0123456789ab 9MB / 29MB 3.1s
    #1 sha256:0123456789ab 29MB / 29MB 3.9s done
    #1 DONE 4.1s
    "
    );
}

#[test]
fn json_lines_keep_their_schema() {
    insta::assert_snapshot!(shown(Mode::RawJson, terminal::DEFAULT_SIZE, small_build()), @r#"
    {"event":"begin","ms":0,"version":1}
    {"event":"planned","ms":0,"step":1,"name":"[1/2] FROM debian:12"}
    {"event":"planned","ms":0,"step":2,"name":"[2/2] RUN make"}
    {"event":"finished","ms":3,"step":1,"outcome":"cached","error":null,"took_ms":0}
    {"event":"started","ms":4,"step":2}
    {"event":"log","ms":130,"step":2,"stream":"stdout","at_ms":126,"text":"cc -c a.c\n"}
    {"event":"progress","ms":200,"step":2,"what":"sha256:0123456789ab","done_bytes":10,"total_bytes":null}
    {"event":"finished","ms":900,"step":2,"outcome":"failed","error":"exit status 2","took_ms":896}
    {"event":"warning","ms":901,"message":"disk is nearly full"}
    {"event":"end","ms":901,"planned":2,"cached":1,"executed":0,"failed":1,"cancelled":0,"warnings":1}
    "#);
}

#[test]
fn json_never_splits_a_character() {
    let text = shown(
        Mode::RawJson,
        terminal::DEFAULT_SIZE,
        vec![
            (0, log(1, 0, "a\u{6f22}".as_bytes().get(..3).unwrap())),
            (1, log(1, 1, "\u{6f22}b".as_bytes().get(2..).unwrap())),
            (2, log(1, 2, b"\xff\xe6")),
            (3, finished(1, Outcome::Done, 3)),
        ],
    );
    let logs: Vec<String> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|line| line["event"] == "log")
        .map(|line| line["text"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(logs, ["a", "\u{6f22}b", "\u{fffd}", "\u{fffd}"]);
}

/// What a terminal shows after `text`: cursor up and down, erase line, without scrolling.
fn terminal_rows(text: &str) -> Vec<String> {
    let mut rows = vec![String::new()];
    let mut row = 0;
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        if let Some(sequence) = rest.strip_prefix("\x1b[") {
            let end = sequence.find(|c: char| c.is_ascii_alphabetic()).unwrap();
            match &sequence[end..=end] {
                "A" => row -= sequence[..end].parse::<usize>().unwrap(),
                "B" => row += 1,
                "K" if &sequence[..end] == "2" => rows[row].clear(),
                // Lines are written from the first column and erased at their end.
                "K" => {}
                other => panic!("unexpected sequence {other}"),
            }
            rows.resize(rows.len().max(row + 1), String::new());
            rest = &sequence[end + 1..];
            continue;
        }
        rest = &rest[character.len_utf8()..];
        match character {
            '\r' => rows[row].clear(),
            '\n' => {
                row += 1;
                rows.resize(rows.len().max(row + 1), String::new());
                rows[row].clear();
            }
            character => rows[row].push(character),
        }
    }
    rows
}

#[test]
fn tty_leaves_one_line_for_each_step() {
    let size = Size { columns: 50, rows: 10 };
    insta::assert_snapshot!(terminal_rows(&shown(Mode::Tty, size, small_build())).join("\n"), @r"
    => CACHED [1/2] FROM debian:12
    => ERROR [2/2] RUN make                     0.9s
       exit status 2
    WARNING: disk is nearly full
    ");
}

/// The frame in the middle of a build with two transfers and two steps.
fn middle(size: Size) -> String {
    middle_with(size, 1)
}

fn middle_with(size: Size, log_lines: usize) -> String {
    let mut steps = state::Steps::default();
    let events = [
        (0, planned(1, "[base 1/3] FROM docker.io/library/debian:12")),
        (0, planned(2, "[base 2/3] RUN apt-get update")),
        (0, planned(3, "[web 1/1] COPY \u{1b}[2J\u{6f22}\u{5b57} /")),
        (5, finished(1, Outcome::Cached, 0)),
        (10, Event::Started { step: 2 }),
        (20, Event::Started { step: 3 }),
        (30, log(2, 20, b"Get:1 http://deb.debian.org/debian bookworm InRelease [151 kB]\n\x1b[33mGet:2")),
        (100, progress(3, 0, Some(29_000_000))),
        (2100, progress(3, 10_000_000, Some(29_000_000))),
    ];
    for (at, event) in events {
        steps.handle(&event, Duration::from_millis(at));
    }
    let lines = tty::frame(&steps, size, Duration::from_millis(2100), log_lines);
    for line in &lines {
        assert!(crate::ui::text::width(&line.text) < size.columns.max(2), "{line:?}");
    }
    assert!(lines.len() < size.rows.max(2));
    lines.into_iter().map(|line| line.text + "\n").collect()
}

#[test]
fn tty_frames_fit() {
    insta::assert_snapshot!(middle(Size { columns: 80, rows: 24 }), @r"
    [+] 1/3 steps, 1 cached                                                    2.1s
     => [base 2/3] RUN apt-get update                                          2.1s
        Get:2
     => [web 1/1] COPY \x1b[2J漢字 /                                           2.1s
        sha256:0123456789ab                [======>             ] 10MB / 29MB 5MB/s
    ");
    insta::assert_snapshot!(middle(Size { columns: 40, rows: 24 }), @r"
    [+] 1/3 steps, 1 cached            2.1s
     => [base 2/3] RUN apt-get update  2.1s
        Get:2
     => [web 1/1] COPY \x1b[2J漢字 /   2.1s
        sha256:0123456... 10MB / 29MB 5MB/s
    ");
    insta::assert_snapshot!(middle(Size { columns: 80, rows: 3 }), @r"
    [+] 1/3 steps, 1 cached                                                    2.1s
     ... and 2 more running
    ");
    insta::assert_snapshot!(middle_with(Size { columns: 40, rows: 6 }, 9), @r"
    [+] 1/3 steps, 1 cached            2.1s
     => [base 2/3] RUN apt-get update  2.1s
        Get:1 http://deb.debian.org/debi...
        Get:2
     => [web 1/1] COPY \x1b[2J漢字 /   2.1s
    ");
    for columns in 0..60 {
        for rows in 0..6 {
            middle(Size { columns, rows });
        }
    }
}

#[test]
fn tty_erases_what_a_narrower_terminal_wrapped() {
    let buffer = Buffer::default();
    let mut screen = screen::Screen::new(Output::new(Box::new(buffer.clone())));
    let line = |text: &str| screen::Styled { text: text.to_owned(), colour: screen::Colour::Plain };
    screen.draw(&[], &[line("0123456789"), line("01234")], 20);
    let before = buffer.text().len();
    screen.draw(&[line("above")], &[line("x")], 4);
    assert_eq!(
        &buffer.text()[before..],
        "\x1b[5A\r\x1b[2K\x1b[B\x1b[2K\x1b[B\x1b[2K\x1b[B\x1b[2K\x1b[B\x1b[2K\x1b[B\x1b[5A\
         above\x1b[K\nx\x1b[K\n\x1b[2K\x1b[B\x1b[2K\x1b[B\x1b[2K\x1b[B\x1b[3A"
    );
}

#[test]
fn tails_are_kept_in_every_mode() {
    let progress = Progress::new(Mode::None, Target::Stderr);
    let sink = progress.sink();
    sink.send(planned(1, "RUN x"));
    for n in 0..100 {
        sink.send(log(1, 0, format!("line {n}\n").as_bytes()));
    }
    sink.send(log(1, 0, b"last"));
    let tail = progress.tail(1);
    assert_eq!(tail.len(), TAIL_LINES);
    assert_eq!(tail.first().map(String::as_str), Some("line 61"));
    assert_eq!(tail.last().map(String::as_str), Some("last"));
    assert_eq!(progress.tail(2), Vec::<String>::new());
    sink.send(finished(1, Outcome::Failed("x".to_owned()), 1));
    assert_eq!(progress.tail(1).last().map(String::as_str), Some("last"));
    assert_eq!(progress.name(1).as_deref(), Some("RUN x"));
    assert_eq!(progress.totals().failed, 1);
}

struct Broken(Arc<Mutex<u32>>);

impl Write for Broken {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        *self.0.lock().unwrap() += 1;
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_broken_pipe_only_silences() {
    for mode in [Mode::Plain, Mode::RawJson] {
        let writes = Arc::new(Mutex::new(0));
        let progress = Progress::new(mode, Target::Writer(Box::new(Broken(writes.clone()))));
        let sink = progress.sink();
        for (_, event) in small_build() {
            sink.send(event);
        }
        progress.finish();
        progress.finish();
        sink.send(log(2, 0, b"late\n"));
        assert_eq!(*writes.lock().unwrap(), 1);
        assert_eq!(progress.totals().cached, 1);
    }
}
