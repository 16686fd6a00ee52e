//! The figures as a table and as JSON.

use serde_json::json;

use crate::measure::Figures;

/// One builder in one phase of a workload.
pub struct Row {
    pub workload: &'static str,
    pub phase: &'static str,
    pub builder: &'static str,
    pub store_bytes: u64,
    pub figures: Figures,
}

/// A Markdown table: one line for each phase, kiln beside each peer.
pub fn markdown(rows: &[Row]) -> String {
    let mut peers: Vec<&str> = Vec::new();
    for row in rows {
        if row.builder != "kiln" && !peers.contains(&row.builder) {
            peers.push(row.builder);
        }
    }
    let mut text = String::from("| workload | phase | kiln: wall, cpu, peak, store |");
    let mut rule = String::from("| --- | --- | --- |");
    for peer in &peers {
        text.push_str(&format!(" {peer}: wall, cpu, peak, store | ratio |"));
        rule.push_str(" --- | --- |");
    }
    text = format!("{text}\n{rule}\n");
    for row in rows.iter().filter(|row| row.builder == "kiln") {
        text.push_str(&format!("| {} | {} | {} |", row.workload, row.phase, cell(row)));
        for peer in &peers {
            let other = rows
                .iter()
                .find(|o| o.builder == *peer && o.workload == row.workload && o.phase == row.phase);
            let ratio = other.map_or(f64::NAN, |o| row.figures.median_seconds() / o.figures.median_seconds());
            let ratio = if ratio.is_finite() { format!("{ratio:.3}") } else { "-".to_owned() };
            text.push_str(&format!(" {} | {ratio} |", other.map_or_else(|| "-".to_owned(), cell)));
        }
        text.push('\n');
    }
    text
}

fn cell(row: &Row) -> String {
    if let Some(failure) = &row.figures.failure {
        return failure.replace('|', "/").chars().take(80).collect();
    }
    let (least, most) = row.figures.least_and_most();
    format!(
        "{} ({} to {}), {:.2}s, {} MiB, {} MiB",
        time(row.figures.median_seconds()),
        time(least),
        time(most),
        row.figures.median_cpu_seconds(),
        row.figures.peak_bytes() >> 20,
        row.store_bytes >> 20
    )
}

fn time(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.0} ms", seconds * 1000.0) } else { format!("{seconds:.2} s") }
}

/// Every single run.
pub fn json(rows: &[Row]) -> String {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "workload": row.workload,
                "phase": row.phase,
                "builder": row.builder,
                "store_bytes": row.store_bytes,
                "median_seconds": row.figures.median_seconds(),
                "failure": row.figures.failure,
                "runs": row.figures.samples.iter().map(|s| json!({
                    "wall_seconds": s.wall_seconds, "cpu_seconds": s.cpu_seconds, "peak_bytes": s.peak_bytes,
                })).collect::<Vec<_>>(),
            })
        })
        .collect();
    format!("{:#}\n", json!({ "load": crate::measure::load(), "rows": rows }))
}
