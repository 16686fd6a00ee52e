//! What is known of a build however it ends, and what of it goes into the record.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::debug::Wreck;
use super::error::exit_codes;
use super::{BuildError, Report, Request};
use crate::plan::graph::{Graph, VertexId};
use crate::record::recorder::{Ending, Noted};
use crate::record::{BuildResult, Refused};
use crate::solve::{self, Account, Ledger, Look};

/// What is known of a build however it ends.
#[derive(Default)]
pub(super) struct Course {
    pub graph: Option<Graph>,
    pub ledger: Ledger,
    /// Names of build arguments that the file declares.
    pub arguments: BTreeSet<String>,
    /// The first step that failed, when it is to be entered.
    pub wreck: RefCell<Option<Wreck>>,
    /// Bytes that steps added.
    pub written: RefCell<BTreeMap<VertexId, u64>>,
}

impl Course {
    /// What the record has to know.
    pub(super) fn ending(&self, result: &Result<Report, BuildError>, request: &Request) -> Ending<'_> {
        let written = self.written.borrow();
        let forced = if request.plan.no_cache { Refused::NoCache } else { Refused::NoCacheFilter };
        let noted = |(id, account)| {
            let written_bytes = written.get(&id).copied().unwrap_or(0);
            (id, Noted { written_bytes, ..noted(account, forced) })
        };
        let noted = self.ledger.accounts().into_iter().map(noted).collect();
        let vertices = self.graph.iter().flat_map(|graph| graph.vertices.iter().enumerate());
        let steps = vertices.filter(|(_, vertex)| solve::is_counted(vertex));
        let (ended, error) = match result {
            Ok(_) => (BuildResult::Succeeded, None),
            Err(BuildError::Cancelled) => (BuildResult::Stopped, None),
            Err(error) => (BuildResult::Failed, Some(error.to_string())),
        };
        let image = result.as_ref().ok().and_then(|report| report.image.as_ref());
        Ending {
            graph: self.graph.as_ref(),
            counted: steps.map(|(at, _)| VertexId(u32::try_from(at).unwrap_or(u32::MAX))).collect(),
            noted,
            result: ended,
            error,
            exit_codes: result.as_ref().err().map(exit_codes).unwrap_or_default(),
            image: image.map(|image| image.descriptor.digest),
            arguments: self.arguments.clone(),
        }
    }
}

fn noted(account: Account, forced: Refused) -> Noted {
    let age = |ran: i64| u64::try_from(crate::store::records::now() - ran).unwrap_or(0);
    Noted {
        key: account.definition,
        outside: account.outside,
        content_key: account.content,
        contents: account.contents,
        result: account.result,
        written_bytes: 0,
        by_content: account.look == Look::Content,
        refused: match account.look {
            Look::Forced => Some(forced),
            Look::Expired(ran) => Some(Refused::Expired(age(ran))),
            _ => None,
        },
    }
}
