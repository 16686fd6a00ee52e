//! A picture as SVG that stands for itself, in a file or inside of an HTML page.
//!
//! Invariants: no scripts, fonts, images or styles from elsewhere; every class begins with `kg-`, so that a page that
//! holds the picture is not touched by it.

use std::fmt::Write as _;

use super::layout::{self, Layout, Line, NODE_HEIGHT, NODE_WIDTH, Point};
use super::{Node, Picture, Use};
use crate::ui::text::{char_width, visible, width};

/// Columns of text in a node.
const COLUMNS: usize = 33;
/// Lines of text in a node.
const LINES: usize = 2;
/// Radius of the corners of edges.
const RADIUS: i32 = 5;
/// For the legend below the picture.
const LEGEND: i32 = 26;

const STYLE: &str = "\
.kg{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;font-size:12px}\
.kg-bg{fill:#fff}.kg text{fill:#1c2128}.kg-frame{fill:#f4f6f8;stroke:#ccd3da}.kg text.kg-title{fill:#57606a;font-weight:bold;paint-order:stroke;stroke:#f4f6f8;stroke-width:5px}\
.kg text.kg-note{fill:#57606a;font-size:10px}.kg-node{fill:#fff;stroke:#8c959f}.kg-edge{fill:none;stroke:#57606a;stroke-width:1.6}\
.kg-files{stroke:#3b82c4;stroke-width:1.2}.kg-tip{fill:#57606a}.kg-files-tip{fill:#3b82c4}\
.kg-image{fill:#7d8590}.kg-context{fill:#bf8700}.kg-run{fill:#2da44e}.kg-copy{fill:#3b82c4}.kg-other{fill:#8250df}.kg-result{fill:#cf222e}\
@media (prefers-color-scheme:dark){.kg-bg{fill:#0d1117}.kg text{fill:#e6edf3}.kg-frame{fill:#161b22;stroke:#30363d}\
.kg text.kg-title,.kg text.kg-note{fill:#9198a1}.kg text.kg-title{stroke:#161b22}.kg-node{fill:#0d1117;stroke:#6e7681}.kg-edge{stroke:#9198a1}\
.kg-files{stroke:#58a6ff}.kg-tip{fill:#9198a1}.kg-files-tip{fill:#58a6ff}}";

/// Draws a picture. `title` is for those who cannot see it.
pub fn render(picture: &Picture, title: &str) -> String {
    let places = layout::layout(picture);
    let (width, height) = (places.width.max(320), places.height + LEGEND);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"kg\" role=\"img\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\">\n<title>{}</title>\n<style>{STYLE}</style>\n\
         <rect class=\"kg-bg\" width=\"{width}\" height=\"{height}\"/>\n",
        escaped(title)
    );
    frames(&mut svg, &places);
    // Thin lines above thick ones, arrows above all.
    for what in [Use::Base, Use::Files] {
        places.lines.iter().filter(|line| line.edge.what == what).for_each(|line| edge(&mut svg, line));
    }
    titles(&mut svg, &places);
    for (place, shown) in places.nodes.iter().zip(&picture.nodes) {
        node(&mut svg, *place, shown);
    }
    for line in &places.lines {
        tip(&mut svg, line);
    }
    legend(&mut svg, height);
    svg.push_str("</svg>\n");
    svg
}

/// Text as markup, with what XML does not allow made visible.
pub fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for character in visible(text).chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // Not characters to XML (XML 1.0, 2.2).
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

fn frames(svg: &mut String, places: &Layout) {
    for frame in &places.frames {
        let _ = writeln!(
            svg,
            "<rect class=\"kg-frame\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"8\"/>",
            frame.x, frame.y, frame.width, frame.height
        );
    }
}

/// Names of stages, above the edges that come in there.
fn titles(svg: &mut String, places: &Layout) {
    for frame in &places.frames {
        let _ = writeln!(
            svg,
            "<text class=\"kg-title\" x=\"{}\" y=\"{}\">{}</text>",
            frame.x + 12,
            frame.y + 17,
            escaped(&cut(&frame.name, COLUMNS + 4))
        );
    }
}

fn node(svg: &mut String, Point { x, y }: Point, node: &Node) {
    let kind = node.kind.name();
    let _ = write!(
        svg,
        "<g><title>{}</title><rect class=\"kg-node\" x=\"{x}\" y=\"{y}\" width=\"{NODE_WIDTH}\" height=\"{NODE_HEIGHT}\" \
         rx=\"5\"/><rect class=\"kg-{kind}\" x=\"{x}\" y=\"{y}\" width=\"6\" height=\"{NODE_HEIGHT}\" rx=\"3\"/>",
        escaped(&node.label)
    );
    let lines = wrapped(&node.label);
    let first = y + if lines.len() == 1 { 27 } else { 19 };
    for (number, line) in lines.iter().enumerate() {
        let baseline = first + 16 * i32::try_from(number).unwrap_or(0);
        let _ = write!(svg, "<text x=\"{}\" y=\"{baseline}\">{}</text>", x + 15, escaped(line));
    }
    if let Some(note) = &node.note {
        let _ = write!(
            svg,
            "<text class=\"kg-note\" text-anchor=\"end\" x=\"{}\" y=\"{}\">{}</text>",
            x + NODE_WIDTH - 6,
            y + NODE_HEIGHT - 5,
            escaped(&cut(note, COLUMNS))
        );
    }
    svg.push_str("</g>\n");
}

/// A label on as many lines as there are, broken between words where that is possible.
fn wrapped(label: &str) -> Vec<String> {
    let words = label.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut rest = words.as_str();
    let mut lines = Vec::new();
    while !rest.is_empty() && lines.len() < LINES {
        if width(rest) <= COLUMNS || lines.len() + 1 == LINES {
            lines.push(cut(rest, COLUMNS));
            break;
        }
        let mut used = 0;
        let fits = rest.char_indices().find(|(_, character)| {
            used += char_width(*character);
            used > COLUMNS
        });
        let end = fits.map_or(rest.len(), |(at, _)| at);
        let head = rest.get(..end).unwrap_or(rest);
        let space = head.rfind(' ').filter(|at| *at > COLUMNS / 2);
        let end = space.unwrap_or(end);
        let (line, after) = rest.split_at(end);
        lines.push(line.to_owned());
        rest = after.trim_start();
    }
    if lines.is_empty() { vec![String::new()] } else { lines }
}

fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut used = 1;
    let mut shown: String = text
        .chars()
        .take_while(|character| {
            used += char_width(*character);
            used <= columns
        })
        .collect();
    shown.push('…');
    shown
}

fn edge(svg: &mut String, line: &Line) {
    let class = if line.edge.what == Use::Base { "kg-edge" } else { "kg-edge kg-files" };
    let Some(first) = line.points.first() else { return };
    let mut path = format!("M{} {}", first.x, first.y);
    for corner in line.points.windows(3) {
        let [before, at, after] = corner else { continue };
        let (into, out) = (toward(*at, *before), toward(*at, *after));
        let _ = write!(path, "L{} {}Q{} {} {} {}", into.x, into.y, at.x, at.y, out.x, out.y);
    }
    if let Some(last) = line.points.last() {
        let _ = write!(path, "L{} {}", last.x, last.y);
    }
    let _ = writeln!(svg, "<path class=\"{class}\" d=\"{path}\"/>");
}

/// A little way from a corner to the next one.
fn toward(corner: Point, other: Point) -> Point {
    let step = |from: i32, to: i32| from + (to - from).signum() * RADIUS.min((to - from).abs() / 2);
    Point { x: step(corner.x, other.x), y: step(corner.y, other.y) }
}

fn tip(svg: &mut String, line: &Line) {
    let [.., before, end] = &line.points[..] else { return };
    let class = if line.edge.what == Use::Base { "kg-tip" } else { "kg-files-tip" };
    let (dx, dy) = ((end.x - before.x).signum(), (end.y - before.y).signum());
    let (back_x, back_y) = (end.x - 8 * dx, end.y - 8 * dy);
    let _ = writeln!(
        svg,
        "<path class=\"{class}\" d=\"M{} {}L{} {}L{} {}Z\"/>",
        end.x,
        end.y,
        back_x - 4 * dy,
        back_y - 4 * dx,
        back_x + 4 * dy,
        back_y + 4 * dx
    );
}

fn legend(svg: &mut String, height: i32) {
    let y = height - 14;
    let _ = writeln!(
        svg,
        "<path class=\"kg-edge\" d=\"M16 {y}L40 {y}\"/><text class=\"kg-note\" x=\"46\" y=\"{}\">goes on with</text>\
         <path class=\"kg-edge kg-files\" d=\"M140 {y}L164 {y}\"/><text class=\"kg-note\" x=\"170\" y=\"{}\">reads files of</text>",
        y + 4,
        y + 4
    );
}
