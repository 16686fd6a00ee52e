//! ExposeProtoCasing and ExposeInvalidFormat.
//!
//! Invariants: a port that the build refuses is no finding here.

use super::super::model::File;
use super::super::report::Report;
use crate::ast::Kind;

pub(super) fn check(file: &File<'_>, report: &mut Report<'_>) {
    for (_, step) in file.reached() {
        if !matches!(step.instruction.kind, Kind::Expose(_)) {
            continue;
        }
        for port in step.values.words() {
            let (host, container) = match port.rsplit_once(':') {
                Some((host, container)) => (host, container),
                None => ("", port.as_str()),
            };
            let (number, protocol) = container.split_once('/').unwrap_or((container, ""));
            let known = ["", "tcp", "udp", "sctp"].iter().any(|name| name.eq_ignore_ascii_case(protocol));
            if number.is_empty() || !known {
                return;
            }
            if protocol != protocol.to_lowercase() {
                let message = format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase");
                let hint = format!("write `{number}/{}`", protocol.to_lowercase());
                report.add("ExposeProtoCasing", step.site(file), message, &hint);
            }
            if host.contains(|c| c != ':') {
                let message = format!(
                    "EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
                );
                let hint =
                    format!("write `{container}`; the mapping belongs to the command that runs the image");
                report.add("ExposeInvalidFormat", step.site(file), message, &hint);
            }
        }
    }
}
