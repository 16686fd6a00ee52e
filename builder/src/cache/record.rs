//! The record of one step in a remote cache: the config of its artifact.
//!
//! | field | why |
//! | --- | --- |
//! | `version` | a kiln that does not know it takes the record for none |
//! | `keys` | a record that was copied under another key's tag is noticed |
//! | `epoch` | file times in the layers are clamped to it; part of the tag, and compared |
//! | `base` | diff_ids of the image that the step stands on; its layers are not in the cache, they come with the image |
//! | `layers` | what this build added to the base, bottom first, and where its blobs are |
//! | `identity` | what the result was equal to where it was made: other machines ask by it, and believe it in nothing else |
//! | `trail` | one entry for each step since the base: what the image's history is made from |
//!
//! A record names content by digest only: there is no path and no name of a snapshot in it.
//!
//! Invariants: reading is strict and bounded, an unknown field is an error; writing and reading agree.

use serde::{Deserialize, Serialize};

use crate::base::digest::{CacheKey, DiffId, Digest};
use crate::base::limits::MAX_LAYERS;
use crate::image::manifest::{Descriptor, media_type};

/// Media type of a record, which makes its manifest an artifact and no image.
pub const MEDIA_TYPE: &str = "application/vnd.kiln.cache.step.v1+json";
/// Largest record: one with all layers that a file system can have takes a fifth of it.
pub const MAX_RECORD_BYTES: u64 = 1024 * 1024;
/// Most steps since a base.
pub const MAX_TRAIL: usize = 4096;
/// Longest name of a compressor.
const MAX_COMPRESSOR_BYTES: usize = 200;
/// Last second of the year 9999, the last that RFC 3339 can write.
const MAX_TIME: i64 = 253_402_300_799;

const VERSION: u32 = 1;

/// What a step gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    version: u32,
    /// Keys that lead to it.
    pub keys: Vec<CacheKey>,
    /// File times of `layers` are not later than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
    /// Layers of the base image.
    pub base: Vec<DiffId>,
    /// Layers above it.
    pub layers: Vec<RecordLayer>,
    /// Equal for results of equal content.
    pub identity: Digest,
    /// Steps since the base.
    pub trail: Vec<RecordStep>,
}

/// A layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordLayer {
    /// Of the tar.
    pub diff_id: DiffId,
    /// OCI media type of the blob.
    pub media_type: String,
    /// Of the blob.
    pub digest: Digest,
    /// Of the blob.
    pub size_bytes: u64,
    /// What made the blob of the tar, so that an equal one need not be made again.
    pub compressor: String,
}

/// A step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordStep {
    /// Whether it added a layer.
    pub added_layer: bool,
    /// When it ran, in seconds since 1970.
    pub created: i64,
}

/// Why some bytes are no record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not the JSON of a record.
    #[error("it is not a record of a step")]
    Json(#[from] serde_json::Error),
    /// Something in it is impossible.
    #[error("it is not a possible record of a step: {0}")]
    Impossible(&'static str),
}

impl RecordLayer {
    /// The blob.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(&self.media_type, self.digest, self.size_bytes)
    }

    fn check(&self) -> Result<(), &'static str> {
        let known = [media_type::OCI_LAYER, media_type::OCI_LAYER_GZIP, media_type::OCI_LAYER_ZSTD];
        if !known.contains(&self.media_type.as_str()) {
            return Err("a layer has a media type that no layer has");
        }
        if i64::try_from(self.size_bytes).is_err() {
            return Err("a layer has an impossible size");
        }
        let printable = |byte: u8| (b' '..=b'~').contains(&byte);
        if self.compressor.len() > MAX_COMPRESSOR_BYTES || !self.compressor.bytes().all(printable) {
            return Err("a compressor has an impossible name");
        }
        Ok(())
    }
}

impl Record {
    /// A record of this version.
    pub fn new(
        keys: Vec<CacheKey>,
        epoch: Option<i64>,
        base: Vec<DiffId>,
        layers: Vec<RecordLayer>,
        identity: Digest,
        trail: Vec<RecordStep>,
    ) -> Self {
        Self { version: VERSION, keys, epoch, base, layers, identity, trail }
    }

    /// Reads a record.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() as u64 > MAX_RECORD_BYTES {
            return Err(RecordError::Impossible("it is too large"));
        }
        let record: Self = serde_json::from_slice(bytes)?;
        record.check().map_err(RecordError::Impossible)?;
        Ok(record)
    }

    /// The record's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("invariant: records are plain data and always serialise")
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.version != VERSION {
            return Err("it has another version");
        }
        // A step has a definition key and at most one content key.
        if self.keys.is_empty() || self.keys.len() > 2 {
            return Err("it has no key, or too many");
        }
        if self.base.len() + self.layers.len() > MAX_LAYERS {
            return Err("it has more layers than a file system can have");
        }
        if self.trail.len() > MAX_TRAIL {
            return Err("it has too many steps");
        }
        let times = self.trail.iter().map(|step| step.created).chain(self.epoch);
        if times.into_iter().any(|time| !(0..=MAX_TIME).contains(&time)) {
            return Err("it has a time before 1970 or after 9999");
        }
        self.layers.iter().try_for_each(RecordLayer::check)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest() -> impl Strategy<Value = Digest> {
        any::<[u8; 32]>().prop_map(Digest::from_bytes)
    }

    fn layer() -> impl Strategy<Value = RecordLayer> {
        let kind = prop_oneof![
            Just(media_type::OCI_LAYER),
            Just(media_type::OCI_LAYER_GZIP),
            Just(media_type::OCI_LAYER_ZSTD)
        ];
        (digest(), kind, digest(), 0..=i64::MAX as u64, "[ -~]{0,40}").prop_map(
            |(diff_id, kind, digest, size_bytes, compressor)| RecordLayer {
                diff_id: DiffId(diff_id),
                media_type: kind.to_owned(),
                digest,
                size_bytes,
                compressor,
            },
        )
    }

    prop_compose! {
        fn record()(
            keys in prop::collection::vec(digest().prop_map(CacheKey), 1..=2),
            epoch in prop::option::of(0..=MAX_TIME),
            base in prop::collection::vec(digest().prop_map(DiffId), 0..5),
            layers in prop::collection::vec(layer(), 0..5),
            identity in digest(),
            trail in prop::collection::vec(
                (any::<bool>(), 0..=MAX_TIME)
                    .prop_map(|(added_layer, created)| RecordStep { added_layer, created }),
                0..5,
            ),
        ) -> Record {
            Record::new(keys, epoch, base, layers, identity, trail)
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(record in record()) {
            prop_assert_eq!(Record::parse(&record.to_bytes()).unwrap(), record);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Record::parse(&bytes);
        }

        /// Whatever is read after damage is a record that would be written the same.
        #[test]
        fn a_damaged_record_is_refused_or_whole(
            record in record(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut bytes = record.to_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(read) = Record::parse(&bytes) {
                prop_assert_eq!(Record::parse(&read.to_bytes()).unwrap(), read);
            }
        }
    }

    #[test]
    fn impossible_records_are_refused() {
        let digest = Digest::of(b"x");
        let layer = RecordLayer {
            diff_id: DiffId(digest),
            media_type: media_type::OCI_LAYER_GZIP.to_owned(),
            digest,
            size_bytes: 1,
            compressor: "gzip".to_owned(),
        };
        let step = RecordStep { added_layer: true, created: 1 };
        let good = Record::new(
            vec![CacheKey(digest)],
            Some(5),
            vec![DiffId(digest)],
            vec![layer],
            digest,
            vec![step],
        );
        Record::parse(&good.to_bytes()).unwrap();
        type Damage = (&'static str, fn(&mut Record));
        let damages: [Damage; 10] = [
            ("version", |r| r.version = 2),
            ("no key", |r| r.keys.clear()),
            ("keys", |r| r.keys = vec![r.keys[0]; 3]),
            ("epoch", |r| r.epoch = Some(-1)),
            ("time", |r| r.trail[0].created = i64::MAX),
            ("trail", |r| r.trail = vec![r.trail[0]; MAX_TRAIL + 1]),
            ("layers", |r| r.layers = vec![r.layers[0].clone(); MAX_LAYERS]),
            ("media type", |r| r.layers[0].media_type = "text/html".to_owned()),
            ("size", |r| r.layers[0].size_bytes = u64::MAX),
            ("compressor", |r| r.layers[0].compressor = "a\u{1b}[31m".to_owned()),
        ];
        for (what, damage) in damages {
            let mut record = good.clone();
            damage(&mut record);
            assert!(matches!(Record::parse(&record.to_bytes()), Err(RecordError::Impossible(_))), "{what}");
        }
        let text = String::from_utf8(good.to_bytes()).unwrap();
        for (old, new) in [
            ("\"trail\"", "\"snapshot\":\"../../etc\",\"trail\""),
            ("\"added_layer\"", "\"path\":\"/etc\",\"added_layer\""),
            ("\"diff_id\"", "\"url\":\"http://h/\",\"diff_id\""),
            ("sha256:", "sha512:"),
        ] {
            let text = text.replace(old, new);
            assert!(matches!(Record::parse(text.as_bytes()), Err(RecordError::Json(_))), "{text}");
        }
        let large = vec![b' '; MAX_RECORD_BYTES as usize + 1];
        assert!(matches!(Record::parse(&large), Err(RecordError::Impossible(_))));
    }
}
