//! Writing data to stdout and talk to stderr.
//!
//! Invariants: a reader that went away (`kiln images | head -1`) is not an error; every other write error is.

use std::io::{self, Write};

/// Writes one line of data to stdout.
pub fn line(text: impl AsRef<str>) -> io::Result<()> {
    let mut bytes = text.as_ref().as_bytes().to_vec();
    bytes.push(b'\n');
    data(&bytes)
}

/// Writes bytes to stdout as they are.
pub fn data(bytes: &[u8]) -> io::Result<()> {
    write_to(&mut io::stdout().lock(), bytes)
}

/// Writes text to stderr, with a line end when it lacks one. Errors are dropped: nobody is left to tell.
pub fn talk(text: impl AsRef<str>) {
    let text = text.as_ref();
    let mut bytes = text.as_bytes().to_vec();
    if !text.ends_with('\n') {
        bytes.push(b'\n');
    }
    let _ = write_to(&mut io::stderr().lock(), &bytes);
}

fn write_to(out: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Failing(io::ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn only_a_broken_pipe_is_forgiven() {
        assert!(write_to(&mut Failing(io::ErrorKind::BrokenPipe), b"x").is_ok());
        assert!(write_to(&mut Failing(io::ErrorKind::StorageFull), b"x").is_err());
    }
}
