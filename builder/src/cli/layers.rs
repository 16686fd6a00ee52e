//! `kiln layers`.
//!
//! Invariants: exit 0: within the limits; 3: beyond one; anything else: it could not be found out.

use std::path::PathBuf;

use super::args::LayersArgs;
use super::args::look::WasteLimit;
use super::compare::{existing_store, failed, not_opened};
use super::store::printed;
use crate::build::compare::Image;
use crate::build::layers::{Costs, LayerCost, Waste, Why, costs};
use crate::image::platform::Platform;
use crate::ui::failure::{Failure, Kind};
use crate::ui::table::{Align, Table};
use crate::ui::{print, size, terminal, text};

/// Wasted files that are shown to people; JSON has all.
const MAX_WASTE_SHOWN: usize = 10;
/// Columns of an instruction where there is no terminal whose width counts.
const INSTRUCTION_COLUMNS: usize = 100;
/// Fewest columns of an instruction, however narrow the terminal is.
const MIN_INSTRUCTION_COLUMNS: usize = 24;

/// Shows what an image's layers cost, and judges it.
pub(super) fn layers(root: Option<PathBuf>, args: &LayersArgs) -> Result<u8, Failure> {
    let store = existing_store(root)?;
    let platform = args.platform.clone().unwrap_or_else(Platform::host);
    let image = Image::open(store.as_ref(), &args.image, &platform).map_err(|e| not_opened(&e))?;
    let costs = costs(&image, args.files).map_err(|e| failed(&e))?;
    let told = if args.json { format!("{:#}", serde_json::json!(costs)) } else { report(&costs) };
    printed(print::line(told.trim_end()))?;
    match exceeded(&costs, args) {
        None => Ok(0),
        Some(failure) => Err(failure),
    }
}

fn exceeded(costs: &Costs, args: &LayersArgs) -> Option<Failure> {
    let mut why = Vec::new();
    if let Some(limit) = args.max_size
        && costs.size > limit
    {
        why.push(format!(
            "its layers have {} ({} bytes), more than the {} of --max-size",
            size::human(costs.size),
            costs.size,
            size::human(limit)
        ));
    }
    let wasted = size::human(costs.wasted);
    match args.max_waste {
        Some(WasteLimit::Bytes(limit)) if costs.wasted > limit => {
            why.push(format!(
                "{wasted} ({} bytes) are wasted, more than the {} of --max-waste",
                costs.wasted,
                size::human(limit)
            ));
        }
        Some(WasteLimit::Percent(limit)) if costs.wasted_percent() > limit => {
            why.push(format!(
                "{wasted} ({:.1}%) are wasted, more than the {limit}% of --max-waste",
                costs.wasted_percent()
            ));
        }
        _ => {}
    }
    let (first, rest) = why.split_first()?;
    let mut failure = Failure::new(Kind::Limit, format!("`{}` is beyond its limits: {first}", costs.image));
    failure.causes = rest.to_vec();
    Some(failure)
}

/// The table, each layer followed by its largest files, and what is wasted.
fn report(costs: &Costs) -> String {
    let mut table = Table::new(&[
        ("LAYER", Align::Right),
        ("SIZE", Align::Right),
        ("UNPACKED", Align::Right),
        ("FILES", Align::Right),
        ("WASTED", Align::Right),
        ("MADE BY", Align::Left),
    ]);
    let files: u64 = costs.layers.iter().map(|layer| layer.files).sum();
    let numbers = |name: String, bytes: u64, unpacked: u64, files: u64, wasted: u64| {
        [name, size::human(bytes), size::human(unpacked), files.to_string(), size::human(wasted)]
    };
    for layer in &costs.layers {
        table.row(numbers(layer.number.to_string(), layer.size, layer.unpacked, layer.files, layer.wasted));
    }
    table.row(numbers("all".to_owned(), costs.size, costs.unpacked, files, costs.wasted));
    let rendered = table.render();
    let mut lines = rendered.lines();
    let heading = lines.next().unwrap_or_default();
    // Where the instructions begin: the table ends lines where their text ends.
    let indent = heading.find("MADE BY").unwrap_or(heading.len());
    let columns = match terminal::stdout_columns() {
        Some(columns) => columns.saturating_sub(indent).max(MIN_INSTRUCTION_COLUMNS),
        None => INSTRUCTION_COLUMNS,
    };
    let mut report = format!("{heading}\n");
    let mut layers = costs.layers.iter();
    for line in lines {
        let Some(layer) = layers.next() else {
            report.push_str(&format!("{line}\n"));
            continue;
        };
        let instruction = instruction(layer);
        report.push_str(&format!("{line:<indent$}{}\n", text::fit(&instruction, columns)));
        for file in layer.largest.iter().filter(|file| file.size > 0) {
            let told = format!("{:>8}  /{}", size::human(file.size), file.path);
            report.push_str(&format!("{:indent$}{}\n", "", text::fit(&told, columns)));
        }
    }
    report.push_str(&wasted(costs));
    report
}

/// What made a layer, on one line.
fn instruction(layer: &LayerCost) -> String {
    let told = layer.created_by.as_deref().unwrap_or("(its config does not say)");
    // Heredocs and continued lines.
    let line = told.split_whitespace().collect::<Vec<_>>().join(" ");
    // What every builder writes around every command.
    let line = line.strip_suffix(" # buildkit").unwrap_or(&line);
    match line.strip_prefix("RUN /bin/sh -c ") {
        Some(command) => format!("RUN {command}"),
        None => line.to_owned(),
    }
}

fn wasted(costs: &Costs) -> String {
    let mut all: Vec<(usize, &Waste)> = costs
        .layers
        .iter()
        .flat_map(|layer| layer.waste.iter().map(|waste| (layer.number, waste)))
        .filter(|(_, waste)| waste.size > 0)
        .collect();
    if all.is_empty() {
        return String::new();
    }
    all.sort_by(|(_, a), (_, b)| b.size.cmp(&a.size).then_with(|| a.path.cmp(&b.path)));
    let mut told = format!(
        "\nwasted: {} of {} ({:.1}%)\n",
        size::human(costs.wasted),
        size::human(costs.unpacked),
        costs.wasted_percent()
    );
    let mut table = Table::new(&[
        ("SIZE", Align::Right),
        ("LAYER", Align::Right),
        ("WHY", Align::Left),
        ("PATH", Align::Left),
    ]);
    for (layer, waste) in all.iter().take(MAX_WASTE_SHOWN) {
        let by = waste.by;
        let why = match waste.why {
            Why::Removed => format!("removed by {by}"),
            Why::Overwritten => format!("overwritten by {by}"),
            Why::Repeated => format!("same content again in {by}"),
        };
        table.row([size::human(waste.size), layer.to_string(), why, format!("/{}", waste.path)]);
    }
    told.push_str(&table.render());
    if all.len() > MAX_WASTE_SHOWN {
        told.push_str(&format!("... and {} more (--json shows all)\n", all.len() - MAX_WASTE_SHOWN));
    }
    told
}
