//! A blob of a registry as a reader: a thread pulls it while another one, who pushes or writes it, reads.
//!
//! Invariants: the reader's end is reported only after the blob was verified; a reader that is dropped early ends the
//! thread at its next write; what was handed on cannot be taken back, so a blob that a mirror may give is read to its end
//! into a temporary file first.

use std::io::{self, BufWriter, Read, Seek as _, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::base::sink::BlobSink;
use crate::image::manifest::Descriptor;
use crate::image::reference::Reference;
use crate::registry::{Client, RegistryError};

/// Pieces on their way between the threads; a piece is what one read of a connection gave, 16 KiB in most cases.
const PIECES: usize = 64;

enum Piece {
    Bytes(Vec<u8>),
    /// All of it came, and it is the right one.
    Verified,
    Failed(RegistryError),
}

pub(super) struct RemoteBlob {
    pieces: Receiver<Piece>,
    current: io::Cursor<Vec<u8>>,
    verified: bool,
}

impl RemoteBlob {
    pub(super) fn open(client: &Client, reference: &Reference, descriptor: &Descriptor) -> Self {
        let (sender, pieces) = sync_channel(PIECES);
        let (client, reference, descriptor) = (client.clone(), reference.clone(), descriptor.clone());
        let pull = move || {
            let mut sink = Sink(sender.clone());
            let pulled = match client.asks_mirrors(&reference) {
                true => by_way_of_a_file(&client, &reference, &descriptor, &mut sink),
                false => client.blob(&reference, &descriptor, &mut sink, &|_| ()),
            };
            // A reader that went away needs no answer.
            let _ = sender.send(pulled.map_or_else(Piece::Failed, |()| Piece::Verified));
        };
        // Without the thread the channel is closed at once, and the reader reports it.
        let _ = std::thread::Builder::new().name("pull".to_owned()).spawn(pull);
        Self { pieces, current: io::Cursor::default(), verified: false }
    }
}

fn by_way_of_a_file(
    client: &Client,
    reference: &Reference,
    descriptor: &Descriptor,
    sink: &mut Sink,
) -> Result<(), RegistryError> {
    let fail = |source| RegistryError::Sink { url: reference.familiar(), source };
    let mut file = BufWriter::with_capacity(256 * 1024, tempfile::tempfile().map_err(fail)?);
    client.blob(reference, descriptor, &mut file, &|_| ())?;
    file.rewind().map_err(fail)?;
    io::copy(file.get_mut(), sink).map(drop).map_err(fail)
}

impl Read for RemoteBlob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.current.read(buffer)?;
            if count > 0 || buffer.is_empty() || self.verified {
                return Ok(count);
            }
            match self.pieces.recv() {
                Ok(Piece::Bytes(bytes)) => self.current = io::Cursor::new(bytes),
                Ok(Piece::Verified) => self.verified = true,
                Ok(Piece::Failed(error)) => return Err(io::Error::other(error)),
                Err(_) => return Err(io::Error::other("the transfer ended early")),
            }
        }
    }
}

struct Sink(SyncSender<Piece>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.send(Piece::Bytes(bytes.to_vec()));
        sent.map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobSink for Sink {
    /// Nothing but a mirror's mistake asks for this, and mirrors do not write here.
    fn restart(&mut self) -> io::Result<()> {
        Err(io::Error::other("what was handed on cannot be taken back"))
    }
}
