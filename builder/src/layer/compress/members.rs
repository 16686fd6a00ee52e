//! Gzip members made on several threads and written in order.
//!
//! Invariants:
//! - members are written in the order in which their blocks came, whichever thread finishes first;
//! - at most two blocks per thread are under way.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use libdeflater::{CompressionLvl, Compressor};

use super::density::Density;

/// Writes blocks to `W`, each as a gzip member of its own (RFC 1952, 2.2).
pub(in crate::layer) struct Members<W: Write> {
    inner: W,
    level: CompressionLvl,
    threads: usize,
    pool: Option<Pool>,
    /// Members under way, oldest first.
    queue: VecDeque<Receiver<Done>>,
    spare: Vec<Vec<u8>>,
    /// Where each written member begins.
    offsets: Vec<u64>,
    written: u64,
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

impl<W: Write> Members<W> {
    pub(in crate::layer) fn new(inner: W, level: u32, threads: usize) -> io::Result<Self> {
        let level = i32::try_from(level)
            .ok()
            .and_then(|level| CompressionLvl::new(level).ok())
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no such gzip level"))?;
        Ok(Self {
            inner,
            level,
            threads: threads.max(1),
            pool: None,
            queue: VecDeque::new(),
            spare: Vec::new(),
            offsets: Vec::new(),
            written: 0,
        })
    }

    /// Hands a block to a thread, waiting for the oldest member when enough are under way. Gives an empty buffer for
    /// the next block.
    pub(in crate::layer) fn push(&mut self, block: Vec<u8>) -> io::Result<Vec<u8>> {
        while self.queue.len() >= self.threads * 2 {
            self.collect()?;
        }
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
        Ok(self.spare.pop().unwrap_or_default())
    }

    /// Writes a last block, on this thread.
    pub(in crate::layer) fn push_last(&mut self, block: &[u8]) -> io::Result<()> {
        self.wait()?;
        let member = Worker::new(self.level)?.compress(block)?;
        self.put(&member)
    }

    /// Waits until everything is written; gives where each member begins.
    pub(in crate::layer) fn wait(&mut self) -> io::Result<&[u64]> {
        while !self.queue.is_empty() {
            self.collect()?;
        }
        Ok(&self.offsets)
    }

    /// Bytes written so far.
    pub(in crate::layer) fn written_bytes(&self) -> u64 {
        self.written
    }

    /// True before the first block.
    pub(in crate::layer) fn is_unused(&self) -> bool {
        self.pool.is_none() && self.offsets.is_empty()
    }

    pub(in crate::layer) fn finish(mut self) -> io::Result<W> {
        self.wait()?;
        drop(self.pool.take());
        self.inner.flush()?;
        Ok(self.inner)
    }

    /// Writes the oldest member.
    fn collect(&mut self) -> io::Result<()> {
        let Some(receiver) = self.queue.pop_front() else { return Ok(()) };
        let mut done = receiver.recv().map_err(|_| lost())?;
        self.put(&done.member?)?;
        done.block.clear();
        self.spare.push(done.block);
        Ok(())
    }

    fn put(&mut self, member: &[u8]) -> io::Result<()> {
        self.inner.write_all(member)?;
        self.offsets.push(self.written);
        self.written += member.len() as u64;
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
            let mut worker = Worker::new(level)?;
            let work = move || {
                loop {
                    let job = match receiver.lock() {
                        Ok(receiver) => receiver.recv(),
                        Err(_) => return,
                    };
                    let Ok(job) = job else { return };
                    let member = worker.compress(&job.block);
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

/// Makes members.
struct Worker {
    compressor: Compressor,
    /// Level 0: the block as it is.
    storer: Compressor,
    density: Density,
}

impl Worker {
    fn new(level: CompressionLvl) -> io::Result<Self> {
        let none = CompressionLvl::new(0).map_err(|_| io::Error::other("libdeflate has no level 0"))?;
        Ok(Self {
            compressor: Compressor::new(level),
            storer: Compressor::new(none),
            density: Density::new(),
        })
    }

    fn compress(&mut self, block: &[u8]) -> io::Result<Vec<u8>> {
        let dense = self.density.is_dense(block);
        let compressor = if dense { &mut self.storer } else { &mut self.compressor };
        let mut member = vec![0; compressor.gzip_compress_bound(block.len())];
        let size = compressor.gzip_compress(block, &mut member).map_err(io::Error::other)?;
        member.truncate(size);
        Ok(member)
    }
}

fn lost() -> io::Error {
    io::Error::other("a compression thread ended early")
}
