//! The key with which fingerprints of secrets are made, so that a fingerprint in a cache key says nothing of the
//! secret to whoever sees the key.
//!
//! Invariants: the key never leaves its file, which only the store's owner can read; a bare hash of a secret is made
//! nowhere.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::{Store, StoreError};
use crate::base::digest::Digest;

/// Below the store. Two stores with equal files share the results of steps that depend on secrets.
const FILE: &str = "secret-key";
const KEY_BYTES: usize = 32;

impl Store {
    /// A keyed fingerprint of the value of the secret `id`.
    pub fn secret_fingerprint(&self, id: &str, value: &[u8]) -> Result<Digest, StoreError> {
        let key = self.secret_key()?;
        let mut mac = Hmac::<Sha256>::new_from_slice(&key)
            .map_err(|_| StoreError::Malformed(format!("`{FILE}` holds no key")))?;
        mac.update(b"kiln/secret/v1\0");
        mac.update(&(id.len() as u64).to_le_bytes());
        mac.update(id.as_bytes());
        mac.update(value);
        Ok(Digest::from_bytes(mac.finalize().into_bytes().into()))
    }

    fn secret_key(&self) -> Result<[u8; KEY_BYTES], StoreError> {
        let path = self.root.join(FILE);
        let mut key = [0; KEY_BYTES];
        match File::open(&path) {
            Ok(mut file) => {
                file.read_exact(&mut key).map_err(StoreError::io("read", &path))?;
                return Ok(key);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::io("open", &path)(error)),
        }
        let filled = rustix::rand::getrandom(&mut key, rustix::rand::GetRandomFlags::empty());
        filled.map_err(|e| StoreError::io("draw a random key for", &path)(e.into()))?;
        let dir = self.temporary()?;
        let fresh = dir.path().join(FILE);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&fresh)
            .map_err(StoreError::io("create", &fresh))?;
        file.write_all(&key).and_then(|()| file.sync_all()).map_err(StoreError::io("write", &fresh))?;
        // Of two processes that come here at once the first one's key holds.
        match fs::hard_link(&fresh, &path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.secret_key(),
            linked => linked.map(|()| key).map_err(StoreError::io("create", &path)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn fingerprints_depend_on_value_name_and_store() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("a")).unwrap();
        let other = Store::open(&dir.path().join("b")).unwrap();
        let print = |store: &Store, id: &str, value: &[u8]| store.secret_fingerprint(id, value).unwrap();
        let first = print(&store, "id", b"value");
        assert_eq!(print(&store, "id", b"value"), first);
        for different in
            [print(&store, "id", b"valu"), print(&store, "i", b"dvalue"), print(&other, "id", b"value")]
        {
            assert_ne!(different, first);
        }
        let mode = fs::metadata(store.path(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::copy(store.path(FILE), other.path(FILE)).unwrap();
        assert_eq!(print(&other, "id", b"value"), first, "stores that share the key share results");
    }

    #[test]
    fn a_damaged_key_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("a")).unwrap();
        fs::write(store.path(FILE), "short").unwrap();
        assert!(store.secret_fingerprint("id", b"value").is_err());
    }
}
