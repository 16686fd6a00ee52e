//! kiln's side of the sandbox: starts the zygote when the first command needs it and follows each command.
//!
//! Invariants: [`Sandboxes::run`] returns only when the command and everything that it started are gone.

use std::collections::BTreeSet;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, MemfdFlags, Mode, fchmod, fstat, memfd_create};
use rustix::pipe::{PipeFlags, pipe_with};

use super::cgroup::Hits;
use super::helper::NAMESPACE_SPOT;
use super::net::mechanism::{self, Chosen, Helper, Programs};
use super::net::{Channels, Policy, Proxy};
use super::spec::{Report, SandboxSpec, SetupFailure};
use super::supervisor::Supervisor;
use super::terminal::Relay;
use super::zygote::{ARGUMENT, DEVICE_SPOT, Hello, PROBE, Ready};
use crate::base::cancel::CancelToken;
use crate::base::events::Stream;
use crate::sys::override_stat::Ids;
use crate::sys::userns::IdMap;
use crate::sys::{message, mount, process};

/// Why a command could not be run. A command that runs and fails is not an error here: see [`Ended`].
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum SandboxError {
    #[error("cannot start the sandbox's helper process")]
    Zygote(#[source] io::Error),
    #[error("cannot prepare the sandbox: {0}")]
    Prepare(String),
    #[error("cannot talk to the sandbox")]
    Talk(#[source] io::Error),
    #[error("cannot {step}: {message}", step = .0.step, message = .0.message)]
    Setup(SetupFailure),
    #[error("cannot pass network connections of the sandbox on")]
    Network(#[source] super::net::NetError),
    #[error("no way to give commands a network: {0}")]
    NoNetwork(String),
    #[error("the sandbox's helper process went away")]
    Lost,
    #[error("the command took longer than {}", readable(*.0))]
    TimedOut(Duration),
    #[error("cancelled")]
    Cancelled,
}

/// A duration for people: `1h 30m`, `90s` as `1m 30s`, `250ms`.
pub fn readable(time: Duration) -> String {
    let seconds = time.as_secs();
    let parts = [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let mut text: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count}{unit}")).collect();
    if time.subsec_millis() > 0 || text.is_empty() {
        text.push(format!("{}ms", time.subsec_millis()));
    }
    text.join(" ")
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Exit code.
    pub code: Option<i32>,
    /// Signal that killed it.
    pub signal: Option<i32>,
    /// Limits that it met.
    pub hits: Hits,
    /// Mount points that had to be made in the upper directory, in the order made.
    pub made_mount_points: Vec<String>,
    /// How many changes of owner could not be kept: of symlinks, to ids that are not mapped.
    pub lost_owners: u64,
}

/// What ends a command before its time.
#[derive(Debug)]
pub struct Stop<'a> {
    /// The build is stopped.
    pub cancel: &'a CancelToken,
    /// It takes longer than this.
    pub timeout: Option<Duration>,
}

/// Where a command's streams go.
pub enum Streams<'a> {
    /// To a function; standard input is empty.
    Captured(&'a mut dyn FnMut(Stream, &[u8])),
    /// To kiln's own.
    Inherited,
    /// To the terminal that kiln's own are; the command has one of its own, see [`SandboxSpec::terminal`].
    Terminal,
}

/// What serves listening sockets that the sandbox hands over (ssh agents). The returned value lives as long as the
/// command.
pub type SocketServer<'a> = dyn Fn(Vec<OwnedFd>) -> Box<dyn Send> + Sync + 'a;

/// Starts commands. One per build.
pub struct Sandboxes {
    store: PathBuf,
    idmap: Option<IdMap>,
    /// Host devices, for commands that get them.
    devices: Vec<String>,
    zygote: Mutex<Option<Zygote>>,
    /// Ways into the network.
    programs: Programs,
    chosen: OnceLock<Chosen>,
    /// Texts of warnings that were given once already.
    said: Mutex<BTreeSet<String>>,
}

struct Zygote {
    socket: OwnedFd,
    process: std::process::Child,
}

impl Drop for Sandboxes {
    fn drop(&mut self) {
        let zygote = self.zygote.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Zygote { socket, mut process }) = zygote {
            drop(socket);
            let _ = process.wait();
        }
    }
}

impl Sandboxes {
    /// For the store at `store`; `idmap` when kiln is real root.
    pub fn new(store: &Path, idmap: Option<IdMap>) -> Self {
        Self {
            store: store.to_owned(),
            idmap,
            devices: Vec::new(),
            programs: Programs::default(),
            chosen: OnceLock::new(),
            zygote: Mutex::new(None),
            said: Mutex::default(),
        }
    }

    /// With devices of the host, by path, that [`Self::device_source`] makes usable.
    #[must_use]
    pub fn with_devices(mut self, devices: Vec<String>) -> Self {
        self.devices = devices;
        self
    }

    /// With programs that can bring connections out where the kernel cannot redirect them.
    #[must_use]
    pub fn with_network(mut self, programs: Programs) -> Self {
        self.programs = programs;
        self
    }

    /// The program that a private network needs here; `None` where connections are redirected. Found out once.
    ///
    /// # Errors
    /// When there is no way at all.
    pub fn network_helper(&self) -> Result<Option<Helper>, SandboxError> {
        if let Some(chosen) = self.chosen.get() {
            return Ok(chosen.helper.clone());
        }
        let mut lost = None;
        let chosen = mechanism::choose(&self.programs, || match self.probe() {
            Ok(said) if said.is_empty() => Ok(()),
            Ok(said) => Err(said),
            Err(error) => {
                lost = Some(error);
                Err(String::new())
            }
        });
        if let Some(error) = lost {
            return Err(error);
        }
        let chosen = chosen.map_err(SandboxError::NoNetwork)?;
        if chosen.helper.is_some() {
            // The zygote's view of the store belongs to other ids.
            std::fs::create_dir_all(self.store.join(NAMESPACE_SPOT)).map_err(SandboxError::Zygote)?;
        }
        Ok(self.chosen.get_or_init(|| chosen).helper.clone())
    }

    fn probe(&self) -> Result<String, SandboxError> {
        let (ours, theirs) = message::pair().map_err(SandboxError::Talk)?;
        self.tell(PROBE, &[theirs.as_fd()])?;
        drop(theirs);
        let Some((answer, _)) = message::receive(&ours).map_err(SandboxError::Talk)? else {
            return Err(SandboxError::Lost);
        };
        match serde_json::from_slice(&answer) {
            Ok(Report::Probed(said)) => Ok(said),
            _ => Err(SandboxError::Lost),
        }
    }

    /// What a sandbox mounts for one of its devices: the host's node, or where ids are shifted a node of its own.
    pub fn device_source(&self, device: &str) -> Option<String> {
        let number = self.devices.iter().position(|known| known == device)?;
        Some(match self.idmap {
            Some(_) => format!("{DEVICE_SPOT}/{number}"),
            None => device.to_owned(),
        })
    }

    /// True the first time that it is asked about this text: many steps can have the same to warn of.
    pub fn first_time(&self, text: &str) -> bool {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).insert(text.to_owned())
    }

    /// From which id on sandboxes hand changes of owner over; `None` where there are ids for all.
    pub fn handed_over_from(&self) -> Option<u32> {
        let ids = Ids::current();
        (self.idmap.is_none() && !ids.is_whole()).then(|| ids.first_special())
    }

    /// The id map that sandboxes get.
    pub fn ids(&self) -> io::Result<IdMap> {
        match &self.idmap {
            Some(map) => Ok(map.clone()),
            None => IdMap::of_current_namespace(),
        }
    }

    /// Runs one command to its end.
    ///
    /// # Errors
    /// When the command could not be started, took too long, or was cancelled.
    pub fn run(
        &self,
        spec: &SandboxSpec,
        policy: Policy,
        mut streams: Streams<'_>,
        sockets: &SocketServer<'_>,
        stop: &Stop<'_>,
    ) -> Result<Ended, SandboxError> {
        let deadline = stop.timeout.map(|timeout| (Instant::now() + timeout, timeout));
        let (ours, theirs) = message::pair().map_err(SandboxError::Talk)?;
        let (mut pipes, stdio) = stdio(&streams).map_err(|error| SandboxError::Prepare(error.to_string()))?;
        self.request(spec, &theirs, &stdio)?;
        drop((theirs, stdio));
        let mut follow = Follow {
            policy: Some(policy),
            proxy: None,
            served: Vec::new(),
            ended: None,
            made: Vec::new(),
            failure: None,
            relay: None,
            supervisor: None,
        };
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let done = follow.ended.is_some() && pipes.is_empty();
            if done {
                break;
            }
            let late = deadline.filter(|(at, _)| Instant::now() >= *at).map(|(_, timeout)| timeout);
            if late.is_some() || stop.cancel.is_cancelled() {
                // Closing the socket makes the zygote kill the command; end of file on the pipes says it is gone.
                drop(ours);
                if let Some(relay) = follow.relay.take() {
                    relay.finish();
                }
                for (stream, pipe) in &mut pipes {
                    while let Ok(count) = pipe.read(&mut buffer)
                        && count > 0
                    {
                        if let (Streams::Captured(sink), true) = (&mut streams, late.is_some()) {
                            sink(*stream, &buffer[..count]);
                        }
                    }
                }
                return Err(late.map_or(SandboxError::Cancelled, SandboxError::TimedOut));
            }
            let (report_ready, ready) =
                wait(&ours, &pipes, follow.ended.is_none()).map_err(SandboxError::Talk)?;
            let mut closed = Vec::new();
            // Standard output first: what came on both at once reads better so.
            for index in ready {
                let (stream, pipe) = &mut pipes[index];
                let count = pipe.read(&mut buffer).map_err(SandboxError::Talk)?;
                if count == 0 {
                    closed.push(index);
                } else if let Streams::Captured(sink) = &mut streams {
                    sink(*stream, &buffer[..count]);
                }
            }
            for index in closed.into_iter().rev() {
                pipes.remove(index);
            }
            if report_ready {
                match message::receive(&ours).map_err(SandboxError::Talk)? {
                    Some((data, fds)) => follow.take(&data, fds, sockets)?,
                    None => return Err(SandboxError::Lost),
                }
            }
        }
        drop(follow.proxy.take());
        if let Some(relay) = follow.relay.take() {
            relay.finish();
        }
        if let Some(failure) = follow.failure {
            return Err(SandboxError::Setup(failure));
        }
        let (code, signal, hits) = follow.ended.unwrap_or_default();
        let lost_owners = follow.supervisor.take().map_or(0, Supervisor::finish);
        Ok(Ended { code, signal, hits, made_mount_points: follow.made, lost_owners })
    }

    fn request(
        &self,
        spec: &SandboxSpec,
        report: &OwnedFd,
        stdio: &[OwnedFd; 3],
    ) -> Result<(), SandboxError> {
        let memory = || -> io::Result<OwnedFd> {
            let fd = memfd_create("kiln-sandbox", MemfdFlags::CLOEXEC)?;
            let mut file = std::fs::File::from(fd);
            serde_json::to_writer(io::BufWriter::new(&file), spec)?;
            io::Seek::rewind(&mut file)?;
            Ok(file.into())
        };
        let memory = memory().map_err(SandboxError::Talk)?;
        self.tell(
            b"run",
            &[memory.as_fd(), report.as_fd(), stdio[0].as_fd(), stdio[1].as_fd(), stdio[2].as_fd()],
        )
    }

    /// Sends a message to the zygote, which is started by the first one.
    fn tell(&self, what: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), SandboxError> {
        let mut zygote = self.zygote.lock().unwrap_or_else(PoisonError::into_inner);
        let running = match zygote.take() {
            Some(running) => running,
            None => self.start_zygote()?,
        };
        let sent = message::send(running.socket.as_fd(), what, fds);
        *zygote = Some(running);
        sent.map_err(|_| SandboxError::Lost)
    }

    fn start_zygote(&self) -> Result<Zygote, SandboxError> {
        let (ours, theirs) = message::pair().map_err(SandboxError::Zygote)?;
        let program = mount::own_executable().map_err(SandboxError::Zygote)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", program.as_raw_fd()));
        let child = Command::new(path)
            .arg0("kiln-zygote")
            .arg(ARGUMENT)
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(SandboxError::Zygote)?;
        let hello = Hello {
            store: self.store.display().to_string(),
            idmap: self.idmap.clone(),
            open_files: process::original_open_files(),
            devices: if self.idmap.is_some() { self.devices.clone() } else { Vec::new() },
        };
        if !hello.devices.is_empty() {
            // A store of an older kiln lacks it, and the zygote's view of the store belongs to other ids.
            std::fs::create_dir_all(self.store.join(DEVICE_SPOT)).map_err(SandboxError::Zygote)?;
        }
        let greet = || -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
            message::send(ours.as_fd(), &serde_json::to_vec(&hello)?, &[])?;
            message::receive(&ours)
        };
        let Some((answer, _)) = greet().map_err(SandboxError::Zygote)? else {
            return Err(SandboxError::Lost);
        };
        let ready: Ready = serde_json::from_slice(&answer).map_err(|e| SandboxError::Zygote(e.into()))?;
        match ready.error {
            Some(error) => Err(SandboxError::Prepare(error)),
            None => Ok(Zygote { socket: ours, process: child }),
        }
    }
}

type Pipes = Vec<(Stream, std::fs::File)>;

fn null() -> io::Result<OwnedFd> {
    Ok(std::fs::File::open("/dev/null")?.into())
}

fn stdio(streams: &Streams<'_>) -> io::Result<(Pipes, [OwnedFd; 3])> {
    match streams {
        Streams::Inherited => {
            let own = |fd: BorrowedFd<'_>| -> io::Result<OwnedFd> {
                // From an open directory of the host `..` leads to all of it.
                if FileType::from_raw_mode(fstat(fd)?.st_mode).is_dir() {
                    return Err(io::Error::other("a directory cannot be a standard stream of a command"));
                }
                fd.try_clone_to_owned()
            };
            let stdio =
                [own(rustix::stdio::stdin())?, own(rustix::stdio::stdout())?, own(rustix::stdio::stderr())?];
            Ok((Vec::new(), stdio))
        }
        Streams::Terminal => Ok((Vec::new(), [null()?, null()?, null()?])),
        Streams::Captured(_) => {
            let (out, out_write) = pipe_with(PipeFlags::CLOEXEC)?;
            let (err, err_write) = pipe_with(PipeFlags::CLOEXEC)?;
            for pipe in [&out_write, &err_write] {
                // They belong to kiln's user, whom the command is not; it opens them again as /dev/stdout.
                fchmod(pipe, Mode::from_raw_mode(0o666))?;
            }
            let null = null()?;
            let pipes = vec![(Stream::Stdout, out.into()), (Stream::Stderr, err.into())];
            Ok((pipes, [null, out_write, err_write]))
        }
    }
}

/// Waits for the report socket or any pipe: whether the socket is ready, and which pipes are.
fn wait(report: &OwnedFd, pipes: &Pipes, with_report: bool) -> io::Result<(bool, Vec<usize>)> {
    let mut fds: Vec<PollFd<'_>> = pipes.iter().map(|(_, pipe)| PollFd::new(pipe, PollFlags::IN)).collect();
    if with_report {
        fds.push(PollFd::new(report, PollFlags::IN));
    }
    // Cancellation is a flag that nobody can poll for.
    let timeout = Timespec::try_from(Duration::from_millis(50)).map_err(io::Error::other)?;
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
    let report_ready = with_report && fds.last().is_some_and(ready);
    Ok((report_ready, (0..pipes.len()).filter(|index| ready(&fds[*index])).collect()))
}

struct Follow {
    policy: Option<Policy>,
    proxy: Option<Proxy>,
    served: Vec<Box<dyn Send>>,
    ended: Option<(Option<i32>, Option<i32>, Hits)>,
    made: Vec<String>,
    failure: Option<SetupFailure>,
    relay: Option<Relay>,
    supervisor: Option<Supervisor>,
}

impl Follow {
    fn take(
        &mut self,
        data: &[u8],
        fds: Vec<OwnedFd>,
        sockets: &SocketServer<'_>,
    ) -> Result<(), SandboxError> {
        let report: Report = serde_json::from_slice(data).map_err(|e| SandboxError::Talk(e.into()))?;
        match report {
            Report::Probed(_) => {}
            Report::Network { direct } => {
                let channels = Channels::from_fds(fds, direct).map_err(SandboxError::Network)?;
                let policy = self.policy.take().unwrap_or_default();
                self.proxy = Some(Proxy::start(channels, policy).map_err(SandboxError::Network)?);
            }
            Report::Terminal => {
                let master = fds.into_iter().next().ok_or(SandboxError::Lost)?;
                self.relay = Some(Relay::start(master).map_err(SandboxError::Talk)?);
            }
            Report::Calls => {
                let mut fds = fds.into_iter();
                let (listener, namespace) = (fds.next(), fds.next());
                let (Some(listener), Some(namespace)) = (listener, namespace) else {
                    return Err(SandboxError::Lost);
                };
                self.supervisor = Some(Supervisor::start(listener, &namespace).map_err(SandboxError::Talk)?);
            }
            Report::Sockets => self.served.push(sockets(fds)),
            Report::MadeMountPoints(paths) => self.made.extend(paths),
            Report::SetupFailed(failure) => self.failure = Some(failure),
            Report::Exited { code, signal, hits } => self.ended = Some((code, signal, hits)),
        }
        Ok(())
    }
}
