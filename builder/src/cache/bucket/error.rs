//! Why a bucket could not be used.
//!
//! Invariants: no message has a key or a signature in it.

use std::io;

use crate::base::digest::Digest;
use crate::net::NetError;

/// Why a bucket could not be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum BucketError {
    #[error(transparent)]
    Net(#[from] NetError),
    #[error("cannot {action} `{url}`: {status}{}", said(.code, .message))]
    Status { action: &'static str, url: String, status: u16, code: String, message: String },
    #[error("`{url}` refuses the keys ({status}){}", said(.code, .message))]
    Denied { url: String, status: u16, code: String, message: String },
    #[error("the object `{0}` cannot be named in a URL")]
    Name(String),
    #[error("the answer to an upload to `{url}` lacks {what}")]
    Answer { url: String, what: &'static str },
    #[error("the bucket does not have {0} any more")]
    NoBlob(Digest),
    #[error("`{url}` is larger than the {size} bytes that it should have")]
    TooLong { url: String, size: u64 },
    #[error("`{url}` broke off {attempts} times, the last time after {received} of {size} bytes")]
    Broken {
        url: String,
        received: u64,
        size: u64,
        attempts: u32,
        #[source]
        source: Option<NetError>,
    },
    #[error("cannot read the blob to be sent")]
    Source(#[source] io::Error),
    #[error("cannot keep what `{url}` sends")]
    Sink {
        url: String,
        #[source]
        source: io::Error,
    },
}

impl BucketError {
    /// Whether one blob or step is bad, and not the bucket out of reach.
    pub(in crate::cache) fn is_about_one_step(&self) -> bool {
        matches!(self, Self::NoBlob(_) | Self::TooLong { .. })
    }

    /// What the user can do.
    pub(in crate::cache) fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Net(error) => error.hint()?.to_owned(),
            Self::Denied { .. } => {
                "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, `region`, and what they may do \
                 with the bucket"
                    .to_owned()
            }
            Self::Status { status: 301 | 307, .. } => {
                "the bucket is elsewhere: check `region` and `endpoint_url`".to_owned()
            }
            _ => return None,
        })
    }
}

fn said(code: &str, message: &str) -> String {
    match (code, message) {
        ("", "") => String::new(),
        (code, "") => format!(": {code}"),
        (code, message) => format!(": {code}: {message}"),
    }
}
