//! A picture in the languages of Graphviz and Mermaid.
//!
//! Invariants: a name is always quoted and never ends its quotes.

use std::fmt::Write as _;

use super::{Kind, Picture, Use};
use crate::ui::text::{fit, visible};

/// Longest label; the whole of it is in Graphviz' tooltip.
const COLUMNS: usize = 60;

/// The stages in the order of their first steps, each with its nodes.
fn groups(picture: &Picture) -> Vec<(&str, Vec<usize>)> {
    let mut groups: Vec<(&str, Vec<usize>)> = Vec::new();
    for (index, node) in picture.nodes.iter().enumerate() {
        let Some(name) = node.group.as_deref() else { continue };
        match groups.iter_mut().find(|(known, _)| *known == name) {
            Some((_, members)) => members.push(index),
            None => groups.push((name, vec![index])),
        }
    }
    groups
}

/// For `dot -Tsvg`.
pub fn dot(picture: &Picture, title: &str) -> String {
    let quoted = |text: &str| format!("\"{}\"", visible(text).replace('\\', "\\\\").replace('"', "\\\""));
    let mut text = format!("digraph {} {{\n", quoted(title));
    text.push_str("  node [shape=box, style=rounded, fontname=monospace, fontsize=11];\n");
    let node = |text: &mut String, index: usize, indent: &str| {
        let Some(node) = picture.nodes.get(index) else { return };
        let style = match node.kind {
            Kind::Image | Kind::Context => ", style=filled, fillcolor=\"#eeeeee\"",
            Kind::Result => ", style=bold",
            Kind::Run | Kind::Copy | Kind::Other => "",
        };
        let (label, whole) = (quoted(&fit(&node.label, COLUMNS)), quoted(&node.label));
        let _ = writeln!(text, "{indent}n{index} [label={label}, tooltip={whole}{style}];");
    };
    for (number, (name, members)) in groups(picture).iter().enumerate() {
        let _ = writeln!(text, "  subgraph cluster_{number} {{\n    label={};", quoted(name));
        members.iter().for_each(|member| node(&mut text, *member, "    "));
        text.push_str("  }\n");
    }
    for (index, _) in picture.nodes.iter().enumerate().filter(|(_, node)| node.group.is_none()) {
        node(&mut text, index, "  ");
    }
    for edge in &picture.edges {
        let style = if edge.what == Use::Files { " [style=dashed]" } else { "" };
        let _ = writeln!(text, "  n{} -> n{}{style};", edge.from, edge.to);
    }
    text.push_str("}\n");
    text
}

/// For Markdown that renders Mermaid.
pub fn mermaid(picture: &Picture) -> String {
    // Entities as Mermaid has them; `#` begins one.
    let quoted = |text: &str| {
        let mut safe = String::new();
        for character in visible(text).chars() {
            match character {
                '#' | '"' | '<' | '>' | '&' | '`' | '\\' => {
                    let _ = write!(safe, "#{};", u32::from(character));
                }
                other => safe.push(other),
            }
        }
        format!("\"{safe}\"")
    };
    let mut text = "flowchart TD\n".to_owned();
    let node = |text: &mut String, index: usize, indent: &str| {
        let Some(node) = picture.nodes.get(index) else { return };
        let label = quoted(&fit(&node.label, COLUMNS));
        let (open, close) = match node.kind {
            Kind::Image | Kind::Context => ("[(", ")]"),
            Kind::Result => ("([", "])"),
            Kind::Run | Kind::Copy | Kind::Other => ("[", "]"),
        };
        let _ = writeln!(text, "{indent}n{index}{open}{label}{close}");
    };
    for (number, (name, members)) in groups(picture).iter().enumerate() {
        let _ = writeln!(text, "  subgraph g{number}[{}]", quoted(name));
        members.iter().for_each(|member| node(&mut text, *member, "    "));
        text.push_str("  end\n");
    }
    for (index, _) in picture.nodes.iter().enumerate().filter(|(_, node)| node.group.is_none()) {
        node(&mut text, index, "  ");
    }
    for edge in &picture.edges {
        let arrow = if edge.what == Use::Files { "-.->" } else { "-->" };
        let _ = writeln!(text, "  n{} {arrow} n{}", edge.from, edge.to);
    }
    text
}
