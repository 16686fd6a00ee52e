//! Bodies of answers, received piece by piece and over several connections.
//!
//! Invariants: a sink never gets more bytes than were asked for, nor any byte twice.

use std::io::{self, Write};

use reqwest::{Method, Response, StatusCode, Url};

use crate::net::{NetError, failed, range_starts_at};

/// How far a reader is.
pub(super) struct Place {
    pub(super) received: u64,
    pub(super) size: Size,
}

/// How much is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// So many bytes, no less and no more.
    Exactly(u64),
    /// Whatever there is, within this limit.
    AtMost(u64),
}

impl Size {
    pub(super) fn most(self) -> u64 {
        let (Self::Exactly(size) | Self::AtMost(size)) = self;
        size
    }
}

/// How a connection ended.
pub(super) enum End {
    /// All of it is there.
    Whole,
    /// By an error, or earlier than it should have.
    Broken(Option<NetError>),
    /// With another answer.
    Refused(Response),
    /// There is more than should be.
    TooLong,
    /// The sink failed.
    Sink(io::Error),
}

/// Receives an answer to a request for what begins at `at`.
pub(super) async fn receive(
    mut response: Response,
    url: &Url,
    at: &mut Place,
    sink: &mut dyn Write,
    progress: &dyn Fn(u64),
) -> End {
    // A server that ignores the range begins at the beginning.
    let mut skip = match response.status() {
        StatusCode::OK => at.received,
        StatusCode::PARTIAL_CONTENT if range_starts_at(response.headers(), at.received) => 0,
        _ => return End::Refused(response),
    };
    let most = at.size.most();
    loop {
        let chunk = match response.chunk().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) if at.received == most || matches!(at.size, Size::AtMost(_)) => return End::Whole,
            Ok(None) => return End::Broken(None),
            Err(source) => return End::Broken(Some(failed(&Method::GET, url, source))),
        };
        let skipped = skip.min(chunk.len() as u64);
        skip -= skipped;
        let fresh =
            usize::try_from(skipped).ok().and_then(|skipped| chunk.get(skipped..)).unwrap_or_default();
        if at.received + fresh.len() as u64 > most {
            return End::TooLong;
        }
        if let Err(error) = sink.write_all(fresh) {
            return End::Sink(error);
        }
        at.received += fresh.len() as u64;
        progress(at.received);
    }
}
