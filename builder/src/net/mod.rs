//! The network: one small async runtime and one set of HTTP clients behind a blocking face, shared by the registry
//! client and by `ADD https://…`.
//!
//! Invariants:
//! - no thread and no client exists before the first request;
//! - redirects are followed here and nowhere else: credentials and leniency about certificates stay with the
//!   origin they were meant for;
//! - bodies are what is on the wire: no content encoding is asked for and none is undone.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::Url;
use tokio::runtime::Runtime;

use crate::base::cancel::CancelToken;

pub(crate) mod date;
#[cfg(test)]
pub(crate) mod fake_server;
mod redact;
mod request;
pub(crate) mod retry;
mod trust;

pub use redact::redacted;
pub(crate) use request::{Request, Verify, body_within, error_body, failed, range_starts_at};
pub use trust::{KeyPair, Trust};

/// Most bytes of an error answer that are read.
pub(crate) const MAX_ERROR_BODY_BYTES: usize = 64 * 1024;
/// How often a waiting request looks at its cancel token.
const CANCEL_POLL: Duration = Duration::from_millis(50);
/// Largest file of CA certificates; the bundle that distributions ship has 220 KiB.
const MAX_CA_BYTES: u64 = 16 * 1024 * 1024;

/// How kiln talks to servers.
#[derive(Debug, Clone)]
pub struct NetOptions {
    /// Files of PEM certificates that are trusted besides the system's.
    pub ca_files: Vec<PathBuf>,
    /// Sent with every request.
    pub user_agent: String,
    /// How often a request that failed for a passing reason is tried again.
    pub retries: u32,
    /// Pause before the first retry; doubled for each further one.
    pub retry_delay: Duration,
    /// Longest time for a connection to come up.
    pub connect_timeout: Duration,
    /// Longest silence inside an answer.
    pub read_timeout: Duration,
}

impl Default for NetOptions {
    fn default() -> Self {
        Self {
            ca_files: Vec::new(),
            user_agent: concat!("kiln/", env!("CARGO_PKG_VERSION")).to_owned(),
            retries: 3,
            retry_delay: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(30),
            read_timeout: Duration::from_secs(60),
        }
    }
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// Threads could not be made.
    #[error("cannot start the network threads")]
    Runtime(#[source] io::Error),
    /// The TLS set-up failed.
    #[error(
        "cannot set up the HTTP client; if the system has no CA certificates, install them or name a CA file"
    )]
    Client(#[source] reqwest::Error),
    /// The CA file could not be read.
    #[error("cannot read the CA file `{}`", path.display())]
    CaFile {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The CA file has no certificates in it.
    #[error("the CA file `{}` holds no certificate in PEM form", .0.display())]
    CaFormat(PathBuf),
    /// The client's certificate or its key is not what it should be.
    #[error("`{}` and `{}` are no certificate with its key in PEM form", .0.display(), .1.display())]
    ClientCertificate(PathBuf, PathBuf),
    /// No answer, or the answer was cut.
    #[error("cannot {method} `{url}`")]
    Request {
        /// `GET`, ….
        method: String,
        /// Redacted.
        url: String,
        /// Why.
        source: reqwest::Error,
    },
    /// Redirects without end.
    #[error("`{0}` redirects more than {MAX_REDIRECTS} times")]
    TooManyRedirects(String),
    /// A redirect to something that is not fetched.
    #[error("`{url}` redirects to `{location}`, which is not an http or https URL")]
    BadRedirect {
        /// Redacted.
        url: String,
        /// As the server gave it, shortened.
        location: String,
    },
    /// The build was cancelled.
    #[error("cancelled")]
    Cancelled,
}

/// Most redirects of one request.
const MAX_REDIRECTS: usize = 10;

/// The shared handle. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Net(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    options: NetOptions,
    /// For every server.
    trust: Trust,
    /// Guards the start of the runtime; `None` until the first request.
    runtime: Mutex<Option<Arc<Runtime>>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Name look-ups run on threads that cannot be interrupted; an ordinary drop would wait for them.
        let runtime =
            self.runtime.get_mut().map_or_else(|poisoned| poisoned.into_inner().take(), Option::take);
        if let Some(runtime) = runtime.and_then(Arc::into_inner) {
            runtime.shutdown_background();
        }
    }
}

impl Net {
    /// Reads the CA files; starts nothing yet.
    pub fn new(options: NetOptions) -> Result<Self, NetError> {
        let trust = Trust::read(&options.ca_files, None)?;
        Ok(Self(Arc::new(Shared { options, trust, runtime: Mutex::default() })))
    }

    /// The options it was made with.
    pub(crate) fn options(&self) -> &NetOptions {
        &self.0.options
    }

    /// Runs `work` on the calling thread until it ends or `cancel` is set. `work` may block the calling thread
    /// (writing to a sink, say): connections are driven by the runtime's own threads.
    pub(crate) fn run<T, E: From<NetError>>(
        &self,
        cancel: &CancelToken,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        if cancel.is_cancelled() {
            return Err(NetError::Cancelled.into());
        }
        self.runtime()?.block_on(async {
            tokio::select! {
                biased;
                result = work => result,
                () = cancelled(cancel) => Err(NetError::Cancelled.into()),
            }
        })
    }

    fn runtime(&self) -> Result<Arc<Runtime>, NetError> {
        let mut slot = self.0.runtime.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(runtime) = &*slot {
            return Ok(Arc::clone(runtime));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("kiln-net")
            .enable_all()
            .build()
            .map_err(NetError::Runtime)?;
        Ok(Arc::clone(slot.insert(Arc::new(runtime))))
    }
}

async fn cancelled(cancel: &CancelToken) {
    while !cancel.is_cancelled() {
        tokio::time::sleep(CANCEL_POLL).await;
    }
}

/// Reads a whole file, refusing more than `max_bytes`.
pub(crate) fn read_bounded(path: &std::path::Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(max_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {max_bytes} bytes")));
    }
    Ok(bytes)
}

/// True for `localhost`, 127.0.0.0/8 and ::1.
pub(crate) fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// True when both URLs have the same scheme, host and port.
pub(crate) fn same_origin(one: &Url, other: &Url) -> bool {
    one.scheme() == other.scheme()
        && one.host_str() == other.host_str()
        && one.port_or_known_default() == other.port_or_known_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_hosts() {
        for host in ["localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]", "LOCALHOST"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example", "10.0.0.1", "127.0.0.1.example", "", "::2"] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn origins() {
        let url = |text: &str| Url::parse(text).unwrap();
        assert!(same_origin(&url("https://a/x"), &url("https://a:443/y")));
        assert!(!same_origin(&url("https://a/x"), &url("http://a/x")));
        assert!(!same_origin(&url("http://a:1/"), &url("http://a:2/")));
    }

    #[test]
    fn nothing_starts_before_it_is_needed() {
        let net = Net::default();
        assert!(net.0.runtime.lock().unwrap().is_none());
        let cancel = CancelToken::new();
        cancel.cancel();
        assert!(matches!(net.run(&cancel, async { Ok::<_, NetError>(()) }), Err(NetError::Cancelled)));
        assert!(net.0.runtime.lock().unwrap().is_none());
    }

    #[test]
    fn a_bad_ca_file_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "no certificate").unwrap();
        let options = NetOptions { ca_files: vec![file.path().to_owned()], ..NetOptions::default() };
        let error = Net::new(options).unwrap_err();
        assert!(error.to_string().contains(&*file.path().to_string_lossy()), "{error}");
    }
}
