//! `kiln graph`.

use serde_json::Value;

use crate::project::{Ended, Project};

const FILE: &str = "FROM alpine AS tools\nRUN apk add make\nFROM golang:1 AS build\nWORKDIR /src\nCOPY . .\n\
                    RUN --mount=type=bind,from=tools,target=/t make\nFROM scratch\nCOPY --link --from=build /src/app /\n";

fn graph(project: &Project, args: &[&str]) -> Ended {
    project.run(&[&["graph"], args].concat())
}

#[test]
fn a_plan_is_drawn_without_images() {
    let project = Project::new().buildfile(FILE);
    let svg = graph(&project, &["context"]).ok().stdout;
    for part in ["<svg ", ">build</text>", ">tools</text>", ">golang:1</text>", "image linux/"] {
        assert!(svg.contains(part), "{part}\n{svg}");
    }
    assert!(!svg.contains("http:") || svg.matches("http:").count() == 1, "nothing but the name space");
    let dot = graph(&project, &["--format=dot", "context"]).ok().stdout;
    assert!(dot.starts_with("digraph \"Steps of context/Buildfile\" {"), "{dot}");
    let mermaid = graph(&project, &["--format=mermaid", "context"]).ok().stdout;
    assert!(mermaid.starts_with("flowchart TD\n") && mermaid.contains("subgraph g1[\"build\"]"), "{mermaid}");
    assert!(!project.store().exists(), "drawing made a store");
    graph(&project, &["-o", "out.svg", "context"]).ok();
    assert_eq!(std::fs::read_to_string(project.path("out.svg")).expect("file"), svg);
}

#[test]
fn programs_get_vertices_and_what_they_need() {
    let project = Project::new().buildfile(FILE);
    let found: Value =
        serde_json::from_str(&graph(&project, &["--format=json", "context"]).ok().stdout).expect("JSON");
    let vertices = found["vertices"].as_array().expect("vertices");
    let find = |label: &str| {
        vertices
            .iter()
            .find(|vertex| vertex["label"] == label)
            .unwrap_or_else(|| panic!("{label}: {found:#}"))
    };
    let make = find("RUN --mount=type=bind,from=tools,target=/t make");
    assert_eq!((&make["stage"], &make["line"], &make["kind"]), (&"build".into(), &6.into(), &"run".into()));
    let inputs = make["inputs"].as_array().expect("inputs");
    let uses: Vec<(&str, &str)> = inputs
        .iter()
        .map(|input| {
            let label =
                vertices[input["vertex"].as_u64().expect("id") as usize]["label"].as_str().expect("label");
            (label, input["use"].as_str().expect("use"))
        })
        .collect();
    assert!(
        uses.contains(&("COPY . .", "base")) && uses.contains(&("RUN apk add make", "files")),
        "{uses:?}"
    );
    let last = vertices.last().expect("a vertex");
    assert_eq!(found["results"][0]["vertex"], last["id"]);
    // Only what the target needs.
    let tools: Value =
        serde_json::from_str(&graph(&project, &["--format=json", "--target=tools", "context"]).ok().stdout)
            .expect("JSON");
    assert_eq!(tools["vertices"].as_array().map(Vec::len), Some(2));
}

#[test]
fn several_platforms_and_mistakes() {
    let project = Project::new().buildfile("FROM a AS one\nRUN x\n");
    let svg = graph(&project, &["--platform=linux/amd64,linux/arm64", "context"]).ok().stdout;
    assert!(svg.contains(">one linux/arm64</text>") && svg.contains(">image linux/amd64</text>"), "{svg}");
    project.write("Buildfile", "FROM a\nNOPE x\n");
    graph(&project, &["context"]).fails(1, &["NOPE", "Buildfile:2"]);
    graph(&project, &["--format=gif", "context"]).fails(2, &["svg"]);
    graph(&project, &["none"]).fails(1, &["none"]);
}
