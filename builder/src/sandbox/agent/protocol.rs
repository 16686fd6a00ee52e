//! The part of the agent protocol (RFC draft-ietf-sshm-ssh-agent) that a build needs.
//!
//! | request | from keys in memory | from another agent |
//! |---|---|---|
//! | 11 request identities | the keys | passed on |
//! | 13 sign | signed | passed on |
//! | 27 extension `session-bind@openssh.com` | failure | passed on: without it agents refuse keys bound to hosts |
//! | everything else | failure | failure, and not passed on |

use std::io::{self, Read, Write};

use super::keys::KeyRing;

/// Longest message, as OpenSSH's agent has it.
pub(super) const MAX_MESSAGE_BYTES: u32 = 256 * 1024;
/// The answer to what is not done.
pub(super) const FAILURE: &[u8] = &[5];

const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
const EXTENSION: u8 = 27;
const SESSION_BIND: &[u8] = b"session-bind@openssh.com";

/// Reads one message; `None` at the end between two.
pub(super) fn read(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = u32::from_be_bytes(length);
    if length == 0 || length > MAX_MESSAGE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a message of the agent protocol"));
    }
    let mut message = vec![0; length as usize];
    from.read_exact(&mut message)?;
    Ok(Some(message))
}

/// Writes one message.
pub(super) fn write(to: &mut impl Write, message: &[u8]) -> io::Result<()> {
    let mut frame = Vec::with_capacity(message.len() + 4);
    put(&mut frame, message);
    to.write_all(&frame)
}

/// Whether a request changes nothing about the agent.
pub(super) fn is_harmless(message: &[u8]) -> bool {
    match message.split_first() {
        Some((&(REQUEST_IDENTITIES | SIGN_REQUEST), _)) => true,
        Some((&EXTENSION, mut rest)) => take(&mut rest) == Some(SESSION_BIND),
        _ => false,
    }
}

/// Answers a request from keys.
pub(super) fn answer(keys: &KeyRing, message: &[u8]) -> Vec<u8> {
    let answer = match message.split_first() {
        Some((&REQUEST_IDENTITIES, _)) => Some(identities(keys)),
        Some((&SIGN_REQUEST, rest)) => sign(keys, rest),
        _ => None,
    };
    answer.unwrap_or_else(|| FAILURE.to_vec())
}

fn identities(keys: &KeyRing) -> Vec<u8> {
    let mut answer = vec![IDENTITIES_ANSWER];
    let all = keys.all();
    answer.extend_from_slice(&(all.len() as u32).to_be_bytes());
    for key in all {
        put(&mut answer, &key.public);
        put(&mut answer, key.comment.as_bytes());
    }
    answer
}

fn sign(keys: &KeyRing, mut rest: &[u8]) -> Option<Vec<u8>> {
    let public = take(&mut rest)?;
    let data = take(&mut rest)?;
    let flags = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?);
    let key = keys.all().iter().find(|key| key.public == public)?;
    let (algorithm, signature) = key.sign(data, flags)?;
    let mut inner = Vec::new();
    put(&mut inner, algorithm.as_bytes());
    put(&mut inner, &signature);
    let mut answer = vec![SIGN_RESPONSE];
    put(&mut answer, &inner);
    Some(answer)
}

/// Adds a string with its length.
pub(super) fn put(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    to.extend_from_slice(bytes);
}

/// Takes a string with its length.
pub(super) fn take<'m>(from: &mut &'m [u8]) -> Option<&'m [u8]> {
    let length = u32::from_be_bytes(from.get(..4)?.try_into().ok()?) as usize;
    let end = length.checked_add(4)?;
    let bytes = from.get(4..end)?;
    *from = from.get(end..)?;
    Some(bytes)
}
