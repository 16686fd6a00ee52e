//! Parallel gzip: every [`BLOCK_BYTES`] of input become one gzip member (RFC 1952, 2.2: members may follow each
//! other), so blocks need nothing of one another.
//!
//! Invariants:
//! - members are written in the order of their blocks, whichever thread finishes first;
//! - at most two blocks per thread are under way;
//! - an empty input is one empty member: no reader takes nothing for gzip.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use libdeflater::{CompressionLvl, Compressor};

/// Input bytes of one member.
pub const BLOCK_BYTES: usize = 1024 * 1024;

/// Writes gzip to `W`.
pub(super) struct GzipWriter<W: Write> {
    inner: W,
    level: CompressionLvl,
    threads: usize,
    block: Vec<u8>,
    any: bool,
    pool: Option<Pool>,
    /// Members under way, oldest first.
    queue: VecDeque<Receiver<Done>>,
    spare: Vec<Vec<u8>>,
}

struct Job {
    block: Vec<u8>,
    done: Sender<Done>,
}

struct Done {
    member: io::Result<Vec<u8>>,
    /// The input's buffer, to be filled again.
    block: Vec<u8>,
}

struct Pool {
    jobs: Option<Sender<Job>>,
    workers: Vec<JoinHandle<()>>,
}

impl<W: Write> GzipWriter<W> {
    pub(super) fn new(inner: W, level: u32, threads: usize) -> io::Result<Self> {
        let level = i32::try_from(level)
            .ok()
            .and_then(|level| CompressionLvl::new(level).ok())
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no such gzip level"))?;
        Ok(Self {
            inner,
            level,
            threads,
            block: Vec::new(),
            any: false,
            pool: None,
            queue: VecDeque::new(),
            spare: Vec::new(),
        })
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        if self.pool.is_none() {
            // A single block: no thread was needed.
            if !self.block.is_empty() || !self.any {
                let member = compress(&mut Compressor::new(self.level), &self.block)?;
                self.inner.write_all(&member)?;
            }
        } else {
            if !self.block.is_empty() {
                self.submit()?;
            }
            while !self.queue.is_empty() {
                self.collect()?;
            }
        }
        drop(self.pool.take());
        self.inner.flush()?;
        Ok(self.inner)
    }

    /// Hands the block to a thread, waiting for the oldest member when enough are under way.
    fn submit(&mut self) -> io::Result<()> {
        self.any = true;
        while self.queue.len() >= self.threads * 2 {
            self.collect()?;
        }
        let next = self.spare.pop().unwrap_or_default();
        let block = std::mem::replace(&mut self.block, next);
        if self.pool.is_none() {
            self.pool = Some(Pool::start(self.threads, self.level)?);
        }
        let (done, receiver) = mpsc::channel();
        let jobs = self.pool.as_ref().and_then(|pool| pool.jobs.as_ref());
        let sent = jobs.is_some_and(|jobs| jobs.send(Job { block, done }).is_ok());
        if !sent {
            return Err(lost());
        }
        self.queue.push_back(receiver);
        Ok(())
    }

    /// Writes the oldest member.
    fn collect(&mut self) -> io::Result<()> {
        let Some(receiver) = self.queue.pop_front() else { return Ok(()) };
        let mut done = receiver.recv().map_err(|_| lost())?;
        self.inner.write_all(&done.member?)?;
        done.block.clear();
        self.spare.push(done.block);
        Ok(())
    }
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.block.len() == BLOCK_BYTES {
            self.submit()?;
        }
        let count = buf.len().min(BLOCK_BYTES - self.block.len());
        self.block.extend_from_slice(buf.get(..count).unwrap_or_default());
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Pool {
    fn start(threads: usize, level: CompressionLvl) -> io::Result<Self> {
        let (jobs, receiver) = mpsc::channel::<Job>();
        // Guards the receiving end: one idle worker waits in it, the others wait for the lock.
        let receiver = Arc::new(Mutex::new(receiver));
        let mut workers = Vec::new();
        for _ in 0..threads {
            let receiver = Arc::clone(&receiver);
            let work = move || {
                let mut compressor = Compressor::new(level);
                loop {
                    let job = match receiver.lock() {
                        Ok(receiver) => receiver.recv(),
                        Err(_) => return,
                    };
                    let Ok(job) = job else { return };
                    let member = compress(&mut compressor, &job.block);
                    // Nobody waits any more when the writer was dropped.
                    let _ = job.done.send(Done { member, block: job.block });
                }
            };
            workers.push(std::thread::Builder::new().name("gzip".to_owned()).spawn(work)?);
        }
        Ok(Self { jobs: Some(jobs), workers })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        drop(self.jobs.take());
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

fn compress(compressor: &mut Compressor, block: &[u8]) -> io::Result<Vec<u8>> {
    let mut member = vec![0; compressor.gzip_compress_bound(block.len())];
    let size = compressor.gzip_compress(block, &mut member).map_err(io::Error::other)?;
    member.truncate(size);
    Ok(member)
}

fn lost() -> io::Error {
    io::Error::other("a compression thread ended early")
}
