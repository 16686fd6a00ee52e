//! Private keys in memory: reading OpenSSH's format (crate ssh-key) and signing (crate ring).
//!
//! Invariants:
//! - a key that was loaded can sign: it was tried once;
//! - nothing of a private key is in a message, in a `Debug` text or in a file of kiln's.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use ring::rand::SystemRandom;
use ring::rsa::{KeyPair as RsaKeyPair, KeyPairComponents, PublicKeyComponents};
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair};
use ssh_key::PrivateKey;
use ssh_key::private::{EcdsaKeypair, KeypairData, RsaKeypair};

use super::container::with_whole_number;
use super::protocol::put;

/// Larger than any key.
const MAX_KEY_BYTES: u64 = 64 * 1024;
/// Flags of a sign request: which hash an RSA signature is made with.
const RSA_SHA2_256: u32 = 2;
const RSA_SHA2_512: u32 = 4;

/// Why a file is not a key that can be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum KeyError {
    #[error("cannot read `{path}`")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("`{path}` is neither an agent's socket nor a private key in OpenSSH's format")]
    NotAKey { path: PathBuf },
    #[error("`{path}` is a public key; the private one is needed")]
    Public { path: PathBuf },
    #[error("`{path}` is a private key in an old format")]
    OldFormat { path: PathBuf },
    #[error("the private key `{path}` is encrypted")]
    Encrypted { path: PathBuf },
    #[error("the private key `{path}` is damaged")]
    Damaged {
        path: PathBuf,
        #[source]
        source: ssh_key::Error,
    },
    #[error("kiln cannot sign with the key `{path}`: {kind}")]
    Kind { path: PathBuf, kind: String },
}

impl KeyError {
    /// What to do.
    pub fn hint(&self) -> String {
        match self {
            Self::Read { .. } | Self::NotAKey { .. } | Self::Damaged { .. } => {
                "name a key that ssh-keygen made, or the socket of an agent".to_owned()
            }
            Self::Public { path } => {
                let path = path.display().to_string();
                format!("the private key is probably `{}`", path.strip_suffix(".pub").unwrap_or(&path))
            }
            Self::OldFormat { path } => {
                format!("ssh-keygen -p -f {} writes it in the new format", path.display())
            }
            Self::Encrypted { path } | Self::Kind { path, .. } => format!(
                "give it to an agent, which is then passed on: eval \"$(ssh-agent)\" && ssh-add {}, then --ssh default",
                path.display()
            ),
        }
    }
}

/// The keys of one `--ssh id=KEY,KEY`.
#[derive(Debug)]
pub struct KeyRing(Vec<Key>);

/// A key.
pub(super) struct Key {
    /// The public key as the protocol has it.
    pub(super) public: Vec<u8>,
    pub(super) comment: String,
    signer: Signer,
}

enum Signer {
    Ed25519(Ed25519KeyPair),
    /// Name of the algorithm and of the curve's signature.
    Ecdsa(&'static str, EcdsaKeyPair),
    Rsa(Box<RsaKeyPair>),
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("comment", &self.comment).finish_non_exhaustive()
    }
}

impl KeyRing {
    /// Reads keys.
    ///
    /// # Errors
    /// The first file that is no usable key.
    pub fn load(paths: &[PathBuf]) -> Result<Self, KeyError> {
        paths.iter().map(|path| load(path)).collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn all(&self) -> &[Key] {
        &self.0
    }
}

impl Key {
    /// The algorithm's name and the signature. `None` for SHA-1, which nobody should accept any more.
    pub(super) fn sign(&self, data: &[u8], flags: u32) -> Option<(&'static str, Vec<u8>)> {
        let random = SystemRandom::new();
        match &self.signer {
            Signer::Ed25519(pair) => Some(("ssh-ed25519", pair.sign(data).as_ref().to_vec())),
            Signer::Ecdsa(name, pair) => {
                let signature = pair.sign(&random, data).ok()?;
                let (r, s) = signature.as_ref().split_at(signature.as_ref().len() / 2);
                let mut both = Vec::new();
                put(&mut both, &positive(r));
                put(&mut both, &positive(s));
                Some((name, both))
            }
            Signer::Rsa(pair) => {
                let (name, padding): (_, &dyn signature::RsaEncoding) = if flags & RSA_SHA2_512 != 0 {
                    ("rsa-sha2-512", &signature::RSA_PKCS1_SHA512)
                } else if flags & RSA_SHA2_256 != 0 {
                    ("rsa-sha2-256", &signature::RSA_PKCS1_SHA256)
                } else {
                    return None;
                };
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(padding, &random, data, &mut signature).ok()?;
                Some((name, signature))
            }
        }
    }
}

fn load(path: &Path) -> Result<Key, KeyError> {
    let read = |source| KeyError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_KEY_BYTES + 1).read_to_end(&mut bytes)).map_err(read)?;
    let owned = || path.to_owned();
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_start();
    if bytes.len() as u64 > MAX_KEY_BYTES || !text.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----") {
        let public = ["ssh-", "ecdsa-", "sk-"].iter().any(|prefix| text.starts_with(prefix));
        return Err(match text {
            _ if public => KeyError::Public { path: owned() },
            text if text.starts_with("-----BEGIN ENCRYPTED ") || text.contains("Proc-Type: 4,ENCRYPTED") => {
                KeyError::Encrypted { path: owned() }
            }
            text if text.starts_with("-----BEGIN ") && text.contains(" PRIVATE KEY-----") => {
                KeyError::OldFormat { path: owned() }
            }
            _ => KeyError::NotAKey { path: owned() },
        });
    }
    let damaged = |source| KeyError::Damaged { path: owned(), source };
    let key = PrivateKey::from_openssh(text).or_else(|error| match with_whole_number(text) {
        Some(bytes) => PrivateKey::from_bytes(&bytes),
        None => Err(error),
    });
    let key = key.map_err(damaged)?;
    if key.is_encrypted() {
        return Err(KeyError::Encrypted { path: owned() });
    }
    let signer = signer(key.key_data()).map_err(|kind| KeyError::Kind { path: owned(), kind })?;
    let public = key.public_key().to_bytes().map_err(damaged)?;
    let key = Key { public, comment: key.comment().to_owned(), signer };
    match key.sign(b"kiln", RSA_SHA2_512) {
        Some(_) => Ok(key),
        None => Err(KeyError::Kind { path: owned(), kind: "its parts do not fit together".to_owned() }),
    }
}

/// The signing form of a key, or why there is none.
fn signer(data: &KeypairData) -> Result<Signer, String> {
    let rejected = |error: ring::error::KeyRejected| error.to_string();
    match data {
        KeypairData::Ed25519(pair) => {
            let seed = pair.private.to_bytes();
            let pair =
                Ed25519KeyPair::from_seed_and_public_key(&seed, pair.public.as_ref()).map_err(rejected)?;
            Ok(Signer::Ed25519(pair))
        }
        KeypairData::Ecdsa(pair) => {
            let (name, algorithm) = match pair {
                EcdsaKeypair::NistP256 { .. } => {
                    ("ecdsa-sha2-nistp256", &signature::ECDSA_P256_SHA256_FIXED_SIGNING)
                }
                EcdsaKeypair::NistP384 { .. } => {
                    ("ecdsa-sha2-nistp384", &signature::ECDSA_P384_SHA384_FIXED_SIGNING)
                }
                EcdsaKeypair::NistP521 { .. } => {
                    return Err("the curve P-521 is not supported".to_owned());
                }
            };
            let (private, public) = (pair.private_key_bytes(), pair.public_key_bytes());
            let random = SystemRandom::new();
            let pair = EcdsaKeyPair::from_private_key_and_public_key(algorithm, private, public, &random);
            Ok(Signer::Ecdsa(name, pair.map_err(rejected)?))
        }
        KeypairData::Rsa(pair) => rsa(pair).map(|pair| Signer::Rsa(Box::new(pair))),
        other => {
            let name = other.algorithm().map_or_else(|_| "unknown".to_owned(), |name| name.to_string());
            Err(format!("keys of the kind {name} are not supported"))
        }
    }
}

fn rsa(pair: &RsaKeypair) -> Result<RsaKeyPair, String> {
    let part = |number: &ssh_key::Mpint| {
        number.as_positive_bytes().map(<[u8]>::to_vec).ok_or_else(|| "a part is negative".to_owned())
    };
    let (n, e, d) = (part(&pair.public.n)?, part(&pair.public.e)?, part(&pair.private.d)?);
    let (mut p, mut q, mut inverse) =
        (part(&pair.private.p)?, part(&pair.private.q)?, part(&pair.private.iqmp)?);
    // ring wants every number of the private half in the primes' own length.
    let length = p.len().max(q.len());
    let (exponent_p, exponent_q) = (remainder(&d, &less_one(&p)), remainder(&d, &less_one(&q)));
    for number in [&mut p, &mut q, &mut inverse] {
        *number = padded(number, length);
    }
    let components = KeyPairComponents {
        public_key: PublicKeyComponents { n, e },
        d,
        p,
        q,
        dP: padded(&exponent_p, length),
        dQ: padded(&exponent_q, length),
        qInv: inverse,
    };
    RsaKeyPair::from_components(&components)
        .map_err(|error| format!("{error}; RSA keys of 2048 to 4096 bits are supported"))
}

/// A number of the protocol: no zeros in front, but one where the first bit is set.
fn positive(number: &[u8]) -> Vec<u8> {
    let first = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    let digits = number.get(first..).unwrap_or_default();
    let sign = digits.first().is_some_and(|byte| byte & 0x80 != 0);
    let mut bytes = if sign { vec![0] } else { Vec::new() };
    bytes.extend_from_slice(digits);
    bytes
}

/// `number` with zeros in front, `length` bytes long.
pub(super) fn padded(number: &[u8], length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length.saturating_sub(number.len())];
    bytes.extend_from_slice(number);
    bytes
}

/// An odd number less one.
fn less_one(odd: &[u8]) -> Vec<u8> {
    let mut bytes = odd.to_vec();
    if let Some(last) = bytes.last_mut() {
        *last &= 0xfe;
    }
    bytes
}

/// `number` modulo `modulus`, both most significant byte first: long division bit by bit. OpenSSH's format leaves
/// these two exponents out, and they are computed once for a key.
fn remainder(number: &[u8], modulus: &[u8]) -> Vec<u8> {
    // One byte more, for the bit that is shifted out.
    let modulus = padded(modulus, modulus.len() + 1);
    let mut rest = vec![0u8; modulus.len()];
    for bit in number.iter().flat_map(|byte| (0..8).rev().map(move |shift| (byte >> shift) & 1)) {
        let mut carry = bit;
        for digit in rest.iter_mut().rev() {
            let out = *digit >> 7;
            *digit = (*digit << 1) | carry;
            carry = out;
        }
        if rest >= modulus {
            let mut borrow = false;
            for (digit, less) in rest.iter_mut().zip(&modulus).rev() {
                let (first, under) = digit.overflowing_sub(*less);
                let (second, again) = first.overflowing_sub(u8::from(borrow));
                *digit = second;
                borrow = under || again;
            }
        }
    }
    rest.get(1..).unwrap_or_default().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remainders_are_those_of_u128() {
        for (number, modulus) in [(0u128, 7u128), (1 << 100, 12_345), (u128::MAX, 0xffff_ffff_ffff), (5, 9)] {
            let bytes = remainder(&number.to_be_bytes(), &modulus.to_be_bytes());
            let result = bytes.iter().fold(0u128, |sum, byte| (sum << 8) | u128::from(*byte));
            assert_eq!(result, number % modulus, "{number} % {modulus}");
        }
    }

    #[test]
    fn numbers_of_the_protocol() {
        assert_eq!(positive(&[0, 0, 1]), [1]);
        assert_eq!(positive(&[0, 0x80]), [0, 0x80]);
        assert!(positive(&[0, 0]).is_empty());
    }
}
