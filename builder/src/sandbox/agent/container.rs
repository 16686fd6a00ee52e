//! The container of OpenSSH's private keys (PROTOCOL.key), as far as one thing has to be put right in it.
//!
//! Invariants: only unencrypted keys are looked into; whatever is not understood is left to the crate that reads keys.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::protocol::{put, take};

const MAGIC: &[u8] = b"openssh-key-v1\0";
/// What the private part is filled up to, where nothing is encrypted.
const BLOCK_BYTES: usize = 8;

/// The binary form of an ECDSA key, with the private number in its curve's full length. OpenSSH writes numbers without
/// zeros in front, and the crate takes no shorter ones: that is one key of 256, and one of four of the curve P-521.
/// `None` for everything else.
pub(super) fn with_whole_number(text: &str) -> Option<Vec<u8>> {
    let lines = text.lines().map(str::trim).skip_while(|line| !line.starts_with("-----BEGIN ")).skip(1);
    let body: String = lines.take_while(|line| !line.starts_with("-----")).collect();
    let bytes = BASE64.decode(body).ok()?;
    let mut rest = bytes.strip_prefix(MAGIC)?;
    let (cipher, kdf, options) = (take(&mut rest)?, take(&mut rest)?, take(&mut rest)?);
    let count = plain(&mut rest, 4)?;
    let (public, mut private) = (take(&mut rest)?, take(&mut rest)?);
    if cipher != b"none" || *count != [0, 0, 0, 1] {
        return None;
    }
    let checks = plain(&mut private, 8)?;
    let (kind, curve, point) = (take(&mut private)?, take(&mut private)?, take(&mut private)?);
    let length = match curve {
        b"nistp256" => 32,
        b"nistp384" => 48,
        b"nistp521" => 66,
        _ => return None,
    };
    let (number, comment) = (take(&mut private)?, take(&mut private)?);
    if number.len() >= length {
        return None;
    }
    let mut section = checks.to_vec();
    for part in [kind, curve, point, &super::keys::padded(number, length), comment] {
        put(&mut section, part);
    }
    let mut filler = 1..;
    while !section.len().is_multiple_of(BLOCK_BYTES) {
        section.extend(filler.next());
    }
    let mut whole = MAGIC.to_vec();
    for part in [cipher, kdf, options] {
        put(&mut whole, part);
    }
    whole.extend_from_slice(count);
    put(&mut whole, public);
    put(&mut whole, &section);
    Some(whole)
}

/// So many bytes.
fn plain<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(count)?;
    *rest = left;
    Some(taken)
}
