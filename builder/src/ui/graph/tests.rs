use std::collections::BTreeMap;

use proptest::prelude::*;

use super::layout::{Layout, NODE_HEIGHT, NODE_WIDTH, layout};
use super::*;

fn node(kind: Kind, label: &str, group: Option<&str>) -> Node {
    Node { kind, label: label.to_owned(), note: None, group: group.map(str::to_owned) }
}

fn small() -> Picture {
    let edge = |from, to, what| Edge { from, to, what };
    Picture {
        nodes: vec![
            node(Kind::Image, "debian:12", None),
            node(Kind::Context, "build context", None),
            node(Kind::Run, "RUN make \"all\" <&> # `x`", Some("build")),
            node(Kind::Image, "scratch", None),
            node(Kind::Copy, "COPY --from=build /a /b", Some("stage-1")),
            node(Kind::Result, "image linux/amd64", None),
        ],
        edges: vec![
            edge(0, 2, Use::Base),
            edge(1, 2, Use::Files),
            edge(3, 4, Use::Base),
            edge(2, 4, Use::Files),
            edge(4, 5, Use::Base),
        ],
    }
}

#[test]
fn a_small_picture_in_every_language() {
    let picture = small();
    insta::assert_snapshot!(text::dot(&picture, "t"), @r##"
    digraph "t" {
      node [shape=box, style=rounded, fontname=monospace, fontsize=11];
      subgraph cluster_0 {
        label="build";
        n2 [label="RUN make \"all\" <&> # `x`", tooltip="RUN make \"all\" <&> # `x`"];
      }
      subgraph cluster_1 {
        label="stage-1";
        n4 [label="COPY --from=build /a /b", tooltip="COPY --from=build /a /b"];
      }
      n0 [label="debian:12", tooltip="debian:12", style=filled, fillcolor="#eeeeee"];
      n1 [label="build context", tooltip="build context", style=filled, fillcolor="#eeeeee"];
      n3 [label="scratch", tooltip="scratch", style=filled, fillcolor="#eeeeee"];
      n5 [label="image linux/amd64", tooltip="image linux/amd64", style=bold];
      n0 -> n2;
      n1 -> n2 [style=dashed];
      n3 -> n4;
      n2 -> n4 [style=dashed];
      n4 -> n5;
    }
    "##);
    insta::assert_snapshot!(text::mermaid(&picture), @r##"
    flowchart TD
      subgraph g0["build"]
        n2["RUN make #34;all#34; #60;#38;#62; #35; #96;x#96;"]
      end
      subgraph g1["stage-1"]
        n4["COPY --from=build /a /b"]
      end
      n0[("debian:12")]
      n1[("build context")]
      n3[("scratch")]
      n5(["image linux/amd64"])
      n0 --> n2
      n1 -.-> n2
      n3 --> n4
      n2 -.-> n4
      n4 --> n5
    "##);
    let svg = svg::render(&picture, "a <title>");
    for part in
        ["<title>a &lt;title&gt;</title>", "&quot;all&quot; &lt;&amp;&gt;", ">stage-1</text>", "kg-files"]
    {
        assert!(svg.contains(part), "{part}");
    }
    assert_eq!(svg.matches("<g>").count(), picture.nodes.len());
    assert_eq!(svg.matches("<path class=\"kg-edge").count(), picture.edges.len() + 2, "edges and the legend");
}

#[test]
fn a_stage_is_a_straight_line() {
    let places = layout(&small());
    assert_eq!(places.nodes[0].x, places.nodes[2].x);
    assert_eq!((places.nodes[3].x, places.nodes[4].x), (places.nodes[5].x, places.nodes[5].x));
    let straight: Vec<usize> =
        places.lines.iter().enumerate().filter(|(_, line)| line.points.len() == 2).map(|(i, _)| i).collect();
    assert_eq!(straight, [0, 2, 4]);
    assert_eq!(
        places.frames.iter().map(|frame| frame.name.as_str()).collect::<Vec<_>>(),
        ["build", "stage-1"]
    );
}

#[test]
fn nothing_is_a_picture_too() {
    assert!(svg::render(&Picture::default(), "").ends_with("</svg>\n"));
}

fn pictures() -> impl Strategy<Value = Picture> {
    let nodes = proptest::collection::vec((0u8..8, 0usize..5, any::<[u8; 3]>()), 1..40);
    nodes.prop_map(|seeds| {
        let mut picture = Picture::default();
        for (index, (kind, group, inputs)) in seeds.into_iter().enumerate() {
            let (kind, group) = match kind {
                0 | 1 => (Kind::Image, None),
                2 => (Kind::Result, None),
                _ => (Kind::Run, Some(format!("s{group}"))),
            };
            picture.nodes.push(Node { kind, label: format!("RUN {index}"), note: None, group });
            let mut uses: BTreeMap<usize, Use> = BTreeMap::new();
            for (place, input) in inputs.into_iter().enumerate() {
                let from = usize::from(input);
                if from < index && kind != Kind::Image && picture.nodes[from].kind != Kind::Result {
                    uses.entry(from).or_insert(if place == 0 { Use::Base } else { Use::Files });
                }
            }
            picture.edges.extend(uses.into_iter().map(|(from, what)| Edge { from, to: index, what }));
        }
        picture
    })
}

/// Whether a horizontal or vertical piece touches the inside of a node.
fn crosses(places: &Layout, node: usize, a: layout::Point, b: layout::Point) -> bool {
    let corner = places.nodes[node];
    let (left, right) = (a.x.min(b.x), a.x.max(b.x));
    let (top, bottom) = (a.y.min(b.y), a.y.max(b.y));
    left < corner.x + NODE_WIDTH && right > corner.x && top < corner.y + NODE_HEIGHT && bottom > corner.y
}

proptest! {
    #[test]
    fn nothing_overlaps(picture in pictures()) {
        let places = layout(&picture);
        for (index, one) in places.nodes.iter().enumerate() {
            prop_assert!(one.x >= 0 && one.x + NODE_WIDTH <= places.width);
            prop_assert!(one.y >= 0 && one.y + NODE_HEIGHT <= places.height);
            for other in &places.nodes[index + 1..] {
                let apart = (one.x - other.x).abs() >= NODE_WIDTH || (one.y - other.y).abs() >= NODE_HEIGHT;
                prop_assert!(apart, "{one:?} {other:?}");
            }
        }
        for line in &places.lines {
            for piece in line.points.windows(2) {
                prop_assert!(piece[0].x == piece[1].x || piece[0].y == piece[1].y);
                for node in 0..picture.nodes.len() {
                    prop_assert!(!crosses(&places, node, piece[0], piece[1]), "{line:?} runs through {node}");
                }
            }
        }
        prop_assert_eq!(layout(&picture), places);
    }

    #[test]
    fn parallel_edges_have_tracks_of_their_own(picture in pictures()) {
        let places = layout(&picture);
        let mut vertical: Vec<(usize, i32, i32, i32)> = Vec::new();
        for line in places.lines.iter().filter(|line| line.points.len() > 2) {
            for piece in line.points.windows(2).filter(|piece| piece[0].x == piece[1].x) {
                vertical.push((line.edge.from, piece[0].x, piece[0].y.min(piece[1].y), piece[0].y.max(piece[1].y)));
            }
        }
        for (index, one) in vertical.iter().enumerate() {
            for other in &vertical[index + 1..] {
                let apart = one.0 == other.0 || one.1 != other.1 || one.3 <= other.2 || other.3 <= one.2;
                prop_assert!(apart, "{one:?} {other:?}");
            }
        }
    }
}
