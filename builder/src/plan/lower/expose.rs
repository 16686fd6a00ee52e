//! EXPOSE: ports, ranges and protocols (language.md 1.9, fact 68).
//!
//! Invariants: the words are sorted before they are expanded, as BuildKit does it, and a word may expand to several;
//! an address or host port is checked and then ignored.

use std::net::IpAddr;

use kiln_grammar::ast::Word;
use kiln_grammar::diagnostic::Diagnostic;
use kiln_grammar::expand;

use crate::image::config::Empty;

use super::super::history;
use super::Lowering;

impl Lowering<'_, '_> {
    /// Lowers EXPOSE.
    pub(super) fn expose(&mut self, words: &[Word]) -> Result<(), Diagnostic> {
        let mut sorted: Vec<&Word> = words.iter().collect();
        sorted.sort_by(|a, b| a.value.cmp(&b.value));
        let mut ports = Vec::new();
        for word in sorted {
            let (specs, _) =
                expand::words(&word.value, self.session.escape, &self.state.env).map_err(|error| {
                    self.site.error(word.span, format!("failed to expand `{}`: {error}", word.value))
                })?;
            for spec in specs {
                ports.extend(parse(&spec).map_err(|message| {
                    self.site
                        .error(word.span, message)
                        .with_hint("write PORT[-LAST][/tcp|udp|sctp], for instance 8000-8010/udp")
                })?);
            }
        }
        self.record(format!("EXPOSE {}", history::list(&ports)), None);
        self.state.config.config.exposed_ports.extend(ports.into_iter().map(|port| (port, Empty {})));
        Ok(())
    }
}

/// `[ip:][host:]port[-last][/proto]`, as EXPOSE takes it, as a list of `port/proto`.
pub fn parse(spec: &str) -> Result<Vec<String>, String> {
    let mut parts = spec.rsplitn(3, ':');
    let container = parts.next().unwrap_or_default();
    let host = parts.next().unwrap_or_default();
    let address = parts.next().unwrap_or_default();
    let (ports, protocol) = container.split_once('/').unwrap_or((container, ""));
    if ports.is_empty() {
        return Err(format!("invalid port: {spec:?}: no port specified"));
    }
    let protocol = match protocol.to_lowercase() {
        empty if empty.is_empty() => "tcp".to_owned(),
        known if matches!(known.as_str(), "tcp" | "udp" | "sctp") => known,
        _ => return Err(format!("invalid port: {spec:?}: invalid proto: {protocol}")),
    };
    if !address.is_empty() {
        let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
        bare.parse::<IpAddr>().map_err(|_| format!("invalid IP address: {address}"))?;
    }
    let (first, last) = range(ports).ok_or_else(|| format!("invalid containerPort: {ports}"))?;
    if !host.is_empty() {
        let (host_first, host_last) = range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?;
        if first != last && last - first != host_last - host_first {
            return Err(format!("invalid ranges specified for container and host Ports: {ports} and {host}"));
        }
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

/// A decimal number; Go's parser also takes a plus sign.
fn number(text: &str) -> Option<u16> {
    let digits = text.strip_prefix('+').unwrap_or(text);
    if digits.starts_with('+') { None } else { digits.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn ports() {
        assert_eq!(parse("80").unwrap(), ["80/tcp"]);
        assert_eq!(parse("80/UDP").unwrap(), ["80/udp"]);
        assert_eq!(parse("80-82/sctp").unwrap(), ["80/sctp", "81/sctp", "82/sctp"]);
        assert_eq!(parse("127.0.0.1:8080:80").unwrap(), ["80/tcp"]);
        assert_eq!(parse("[::1]:8080:80").unwrap(), ["80/tcp"]);
        assert_eq!(parse("8080:80").unwrap(), ["80/tcp"]);
        assert_eq!(parse("0/").unwrap(), ["0/tcp"]);
        for (bad, message) in [
            ("eighty", "invalid containerPort: eighty"),
            ("9000-8000", "invalid containerPort: 9000-8000"),
            ("65536", "invalid containerPort: 65536"),
            ("80/http", "invalid port: \"80/http\": invalid proto: http"),
            ("/tcp", "invalid port: \"/tcp\": no port specified"),
            ("x:80:80", "invalid IP address: x"),
            ("1-2:80-85", "invalid ranges specified for container and host Ports: 80-85 and 1-2"),
        ] {
            assert_eq!(parse(bad).unwrap_err(), message);
        }
    }
}
