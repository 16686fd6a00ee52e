//! What layers cost: sizes, largest files, and what nobody can see any more.

use std::fmt::Write as _;

use super::{escaped, note};
use crate::build::layers::{Costs, LayerCost, Why};
use crate::ui::size;

/// Wasted files of a layer that are shown.
const MAX_WASTE: usize = 20;

/// Appends one foldable row for each layer.
pub(super) fn render(html: &mut String, costs: &Costs) {
    if costs.layers.is_empty() {
        return note(html, "The image has no layers.");
    }
    let most = costs.layers.iter().map(|layer| layer.unpacked).max().unwrap_or(0).max(1);
    for layer in &costs.layers {
        let part = |bytes: u64| bytes as f64 * 100.0 / most as f64;
        let kept = layer.unpacked.saturating_sub(layer.wasted);
        let _ = writeln!(
            html,
            "<details class=\"layer\"><summary><span class=\"sizes\">{} <small>({} compressed{})</small></span>\
             <span class=\"share\"><b class=\"kept\" style=\"width:{:.2}%\"></b><b class=\"waste\" style=\"width:{:.2}%\"></b></span>\
             <span class=\"name\">{}</span></summary>",
            size::human(layer.unpacked),
            size::human(layer.size),
            if layer.wasted > 0 { format!(", {} wasted", size::human(layer.wasted)) } else { String::new() },
            part(kept),
            part(layer.wasted),
            escaped(layer.created_by.as_deref().unwrap_or("(no history)"))
        );
        files(html, layer);
        html.push_str("</details>\n");
    }
    note(html, "Sizes are of the files before compression; red is what a later layer deleted or replaced.");
}

fn files(html: &mut String, layer: &LayerCost) {
    html.push_str("<div class=\"columns\"><div><h3>Largest files</h3><table>");
    for file in layer.largest.iter().filter(|file| file.size > 0) {
        row(html, file.size, &file.path, "");
    }
    html.push_str("</table></div>");
    if !layer.waste.is_empty() {
        html.push_str("<div><h3>Wasted</h3><table>");
        for waste in layer.waste.iter().filter(|waste| waste.size > 0).take(MAX_WASTE) {
            let why = match waste.why {
                Why::Removed => "removed",
                Why::Overwritten => "overwritten",
                Why::Repeated => "written again",
            };
            row(html, waste.size, &waste.path, &format!("{why} by layer {}", waste.by));
        }
        html.push_str("</table></div>");
    }
    html.push_str("</div>");
}

fn row(html: &mut String, bytes: u64, path: &str, more: &str) {
    let _ = write!(
        html,
        "<tr><td class=\"number\">{}</td><td class=\"name\">/{} <span class=\"dim\">{}</span></td></tr>",
        size::human(bytes),
        escaped(path),
        escaped(more)
    );
}
