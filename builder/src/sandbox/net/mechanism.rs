//! How a RUN's connections get out: kiln's own way, or a program where the kernel lacks what that needs.
//!
//! | | nftables (redirect and splice) | pasta, slirp4netns |
//! |---|---|---|
//! | needs | nf_tables with NAT in the kernel | the program, `/dev/net/tun` |
//! | TCP | IPv4 and IPv6, passed on by kiln | IPv4, passed on by the program |
//! | UDP | DNS only, the rest is refused at once | all |
//! | who refuses the host and link-local addresses | kiln, for each connection | routes of the namespace, which a command cannot change or go around: it has neither CAP_NET_ADMIN nor CAP_NET_RAW |
//! | `host-gateway` | yes | no |
//! | DNS | kiln's forwarder | kiln's forwarder |
//!
//! Invariants: the choice is made by trying, once for a build, and only when a RUN wants a network.
#![forbid(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{NetworkMode, configure_namespace};
use crate::sys::userns::{self, IdMap};

/// What both programs need.
const TUN: &str = "/dev/net/tun";

/// A way into the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Connections are redirected to kiln.
    Nftables,
    /// passt's program for namespaces.
    Pasta,
    /// The same with libslirp's TCP.
    Slirp,
}

impl Kind {
    /// As programs and people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Pasta => "pasta",
            Self::Slirp => "slirp4netns",
        }
    }

    /// The inverse of [`Kind::name`].
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Nftables, Self::Pasta, Self::Slirp].into_iter().find(|kind| kind.name() == name)
    }
}

/// What there is to choose from beside the kernel.
#[derive(Debug, Clone, Default)]
pub struct Programs {
    /// Take this one and no other.
    pub forced: Option<Kind>,
    /// Where pasta is.
    pub pasta: Option<PathBuf>,
    /// Where slirp4netns is.
    pub slirp: Option<PathBuf>,
}

/// A program that brings connections out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Helper {
    /// Which one.
    pub kind: Kind,
    /// Where it is.
    pub program: String,
}

/// The choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// `None` is nftables.
    pub helper: Option<Helper>,
    /// Why nothing better was chosen; empty when this is the best, or was forced.
    pub reason: String,
}

impl Chosen {
    /// One line for people.
    pub fn describe(&self) -> String {
        let Some(helper) = &self.helper else {
            return "nftables: TCP and DNS are redirected to kiln, which connects from the host".to_owned();
        };
        let why = if self.reason.is_empty() {
            "as KILN_NETWORK says".to_owned()
        } else {
            format!("because nftables does not work: {}", self.reason)
        };
        format!("{} ({}), IPv4 only, {why}", helper.kind.name(), helper.program)
    }
}

/// Chooses; `probe` tries nftables and says why it does not work.
///
/// # Errors
/// What is missing.
pub fn choose(programs: &Programs, probe: impl FnOnce() -> Result<(), String>) -> Result<Chosen, String> {
    choose_with(programs, probe, Path::new(TUN).exists())
}

fn choose_with(
    programs: &Programs,
    probe: impl FnOnce() -> Result<(), String>,
    has_tun: bool,
) -> Result<Chosen, String> {
    let helper = |kind: Kind, program: &Option<PathBuf>| {
        let program = program.as_ref()?.to_str()?.to_owned();
        Some(Helper { kind, program })
    };
    let found = match programs.forced {
        Some(Kind::Nftables) => {
            return probe().map(|()| Chosen { helper: None, reason: String::new() });
        }
        Some(kind @ (Kind::Pasta | Kind::Slirp)) => {
            let program = if kind == Kind::Pasta { &programs.pasta } else { &programs.slirp };
            let found = helper(kind, program);
            let found = found.ok_or_else(|| format!("{} is not in PATH", kind.name()))?;
            (found, String::new())
        }
        None => {
            let Err(reason) = probe() else { return Ok(Chosen { helper: None, reason: String::new() }) };
            let any = helper(Kind::Pasta, &programs.pasta).or_else(|| helper(Kind::Slirp, &programs.slirp));
            let Some(found) = any else {
                return Err(format!(
                    "{reason}; and neither pasta (package passt) nor slirp4netns is in PATH"
                ));
            };
            (found, reason)
        }
    };
    let (helper, reason) = found;
    if !has_tun {
        return Err(format!("{} needs {TUN}, which is not here", helper.kind.name()));
    }
    Ok(Chosen { helper: Some(helper), reason })
}

/// Tries kiln's own way in a namespace that ends at once. The inner result says why it does not work. Call it in a
/// process with one thread.
///
/// # Errors
/// When no namespace could be made.
pub fn probe(ids: &IdMap) -> io::Result<Result<(), String>> {
    let said = userns::run_inside(ids, libc::CLONE_NEWNET, || {
        match configure_namespace(NetworkMode::Private { ipv6: false }) {
            Ok(_) => String::new(),
            Err(error) => {
                let cause = std::error::Error::source(&error);
                let causes = std::iter::successors(cause, |cause| cause.source());
                causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
            }
        }
    })?;
    Ok(if said.is_empty() { Ok(()) } else { Err(said) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs(forced: Option<Kind>, pasta: bool, slirp: bool) -> Programs {
        let path = |there: bool, name: &str| there.then(|| PathBuf::from(format!("/bin/{name}")));
        Programs { forced, pasta: path(pasta, "pasta"), slirp: path(slirp, "slirp4netns") }
    }

    #[test]
    fn the_best_that_works_is_chosen() {
        let choice = |forced, works: bool, pasta, slirp| {
            let probe = || if works { Ok(()) } else { Err("no nft".to_owned()) };
            choose_with(&programs(forced, pasta, slirp), probe, true)
                .map(|chosen| (chosen.helper.map(|helper| helper.kind), chosen.reason))
        };
        let best = Ok((None, String::new()));
        assert_eq!(choice(None, true, true, true), best);
        assert_eq!(choice(None, false, true, true), Ok((Some(Kind::Pasta), "no nft".to_owned())));
        assert_eq!(choice(None, false, false, true), Ok((Some(Kind::Slirp), "no nft".to_owned())));
        assert!(choice(None, false, false, false).is_err_and(|reason| reason.contains("passt")));
        assert_eq!(choice(Some(Kind::Slirp), true, true, true), Ok((Some(Kind::Slirp), String::new())));
        assert_eq!(choice(Some(Kind::Nftables), true, true, true), best);
        assert!(choice(Some(Kind::Nftables), false, true, true).is_err());
        assert!(choice(Some(Kind::Pasta), true, false, true).is_err());
        let no_tun = choose_with(&programs(None, true, true), || Err(String::new()), false);
        assert!(no_tun.is_err_and(|reason| reason.contains(TUN)));
    }

    #[test]
    fn names_are_read_back() {
        for kind in [Kind::Nftables, Kind::Pasta, Kind::Slirp] {
            assert_eq!(Kind::parse(kind.name()), Some(kind));
        }
        assert_eq!(Kind::parse("slirp"), None);
    }
}
