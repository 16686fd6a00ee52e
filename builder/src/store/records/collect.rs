//! All rows that name data, and forgetting some of them at once.
//!
//! Invariants: rows that name what is forgotten go in the same transaction.

use std::collections::BTreeSet;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::{LayerRef, MountRecord, SnapshotId, StepResult, digest, is_whole};
use crate::base::causes::one_line;
use crate::base::digest::{DiffId, Digest};
use crate::store::{Database, StoreError};

/// A step's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct StepRow {
    pub key: String,
    pub name: String,
    pub last_used: i64,
    /// `None`: another version of kiln wrote it, and nobody can read it.
    pub layers: Option<Vec<LayerRef>>,
}

/// A snapshot's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct SnapshotRow {
    pub id: SnapshotId,
    pub content: Digest,
    pub size_bytes: u64,
    pub created: i64,
}

/// Everything that names data.
#[derive(Debug, Default)]
pub(in crate::store) struct Rows {
    pub snapshots: Vec<SnapshotRow>,
    pub steps: Vec<StepRow>,
    /// Chain and snapshot.
    pub chains: Vec<(String, SnapshotId)>,
    /// Identity and snapshot.
    pub results: Vec<(String, SnapshotId)>,
    /// Snapshot, whether it came with an image, diff_id.
    pub layers: Vec<(SnapshotId, bool, DiffId)>,
    /// diff_id, compressor, digest, size.
    pub blobs: Vec<(DiffId, String, Digest, u64)>,
    /// Name and digest.
    pub images: Vec<(String, Digest)>,
    /// Manifests that names stood for.
    pub resolved: Vec<Digest>,
    /// Bodies of URLs.
    pub downloads: Vec<Digest>,
    pub mounts: Vec<MountRecord>,
}

/// What is to be forgotten.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::store) struct Doomed {
    pub snapshots: BTreeSet<SnapshotId>,
    pub blobs: BTreeSet<Digest>,
    /// Keys of steps, besides those that have one of the snapshots.
    pub steps: BTreeSet<String>,
    /// Cache mounts: id and directory.
    pub mounts: BTreeSet<(String, String)>,
}

impl Database {
    /// What is wrong with the file: what SQLite finds, texts that are none, records that cannot be read or do not have
    /// the sum that they should have.
    pub(in crate::store) fn problems(&self) -> Result<Vec<String>, StoreError> {
        let look = || -> Result<Vec<String>, StoreError> {
            let found = self.with(|c| {
                let mut statement = c.prepare("PRAGMA integrity_check(20)")?;
                statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()
            })?;
            let found: Vec<String> = found.into_iter().filter(|line| line != "ok").collect();
            if !found.is_empty() {
                return Ok(found);
            }
            if self.with(|c| schema(c))? != crate::store::database::fresh_schema()? {
                return Ok(vec!["the tables are other ones than kiln makes".to_owned()]);
            }
            self.with(|c| read_texts(c))?;
            self.rows()?;
            self.with(|c| wrong_sums(c))
        };
        match look() {
            Err(error) if error.is_damaged_database() => Ok(vec![one_line(&error)]),
            found => found,
        }
    }

    /// Every row that names data, all of one moment.
    pub(in crate::store) fn rows(&self) -> Result<Rows, StoreError> {
        self.with(|c| {
            let transaction = c.transaction()?;
            let raw = Raw::read(&transaction)?;
            transaction.commit()?;
            Ok(raw)
        })?
        .parse()
    }

    /// Forgets what `decide` says, which sees the rows as they are then: nobody can write any in between.
    pub(in crate::store) fn collect(
        &self,
        decide: impl FnOnce(&Rows) -> Doomed,
    ) -> Result<Doomed, StoreError> {
        self.with(|c| {
            let transaction = c.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let rows = match Raw::read(&transaction)?.parse() {
                Ok(rows) => rows,
                Err(error) => return Ok(Err(error)),
            };
            let doomed = decide(&rows);
            forget(&transaction, &rows, &doomed)?;
            transaction.commit()?;
            Ok(Ok(doomed))
        })?
    }

    /// Forgets snapshots with everything that stands on them.
    pub(in crate::store) fn forget_snapshots(&self, ids: &[String]) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        let snapshots = ids.iter().cloned().map(SnapshotId).collect();
        self.collect(|_| Doomed { snapshots, ..Doomed::default() }).map(drop)
    }
}

/// What the tables were made by.
pub(in crate::store) fn schema(connection: &Connection) -> rusqlite::Result<Vec<(String, String)>> {
    let mut statement =
        connection.prepare("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name")?;
    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// Reads all texts of all tables.
fn read_texts(connection: &Connection) -> rusqlite::Result<()> {
    let mut names = connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")?;
    let tables: Vec<String> = names.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for table in tables {
        let mut statement =
            connection.prepare(&format!("SELECT * FROM \"{}\"", table.replace('"', "\"\"")))?;
        let columns = statement.column_count();
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            for column in 0..columns {
                if let ValueRef::Text(text) = row.get_ref(column)? {
                    std::str::from_utf8(text).map_err(|error| rusqlite::Error::Utf8Error(column, error))?;
                }
            }
        }
    }
    Ok(())
}

/// Rows that say something else of themselves than they should.
fn wrong_sums(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    const TABLES: [(&str, &str); 6] = [
        ("steps", "key, result"),
        ("blobs", "diff_id, compressor, media_type, digest, size_bytes || ''"),
        ("layers", "snapshot, epoch, diff_id"),
        ("seekable", "plain_diff_id, compressor, diff_id, toc_digest"),
        ("chains", "chain, snapshot"),
        ("results", "result, snapshot"),
    ];
    let mut wrong = Vec::new();
    for (table, columns) in TABLES {
        let mut statement =
            connection.prepare(&format!("SELECT sum, {columns} FROM {table} WHERE sum IS NOT NULL"))?;
        let count = statement.column_count();
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let texts: Vec<String> = (0..count).map(|at| row.get(at)).collect::<rusqlite::Result<_>>()?;
            let columns: Vec<&str> = texts.iter().skip(1).map(String::as_str).collect();
            if !is_whole(texts.first().map(String::as_str), &columns) {
                wrong.push(format!("the row of {} in {table} was changed", columns.first().unwrap_or(&"?")));
            }
        }
    }
    Ok(wrong)
}

fn forget(transaction: &Transaction<'_>, rows: &Rows, doomed: &Doomed) -> rusqlite::Result<()> {
    let each = |sql: &str, texts: &mut dyn Iterator<Item = String>| -> rusqlite::Result<()> {
        let mut statement = transaction.prepare_cached(sql)?;
        for text in texts {
            statement.execute([text])?;
        }
        Ok(())
    };
    let has_doomed = |step: &&StepRow| {
        let layers = step.layers.iter().flatten();
        layers.into_iter().any(|layer| doomed.snapshots.contains(&layer.snapshot))
    };
    let steps = rows.steps.iter().filter(has_doomed).map(|step| step.key.clone());
    each("DELETE FROM steps WHERE key = ?1", &mut steps.chain(doomed.steps.iter().cloned()))?;
    for table in
        ["snapshots WHERE id", "results WHERE snapshot", "chains WHERE snapshot", "layers WHERE snapshot"]
    {
        let ids = &mut doomed.snapshots.iter().map(|id| id.0.clone());
        each(&format!("DELETE FROM {table} = ?1"), ids)?;
    }
    for table in ["blobs", "resolved", "downloads"] {
        let digests = &mut doomed.blobs.iter().map(Digest::to_string);
        each(&format!("DELETE FROM {table} WHERE digest = ?1"), digests)?;
    }
    for (id, directory) in &doomed.mounts {
        transaction
            .prepare_cached("DELETE FROM cache_mounts WHERE id = ?1 AND directory = ?2")?
            .execute(params![id, directory])?;
    }
    Ok(())
}

/// The rows before their digests are read.
struct Raw {
    snapshots: Vec<(String, String, i64, i64)>,
    steps: Vec<(String, String, i64, String)>,
    chains: Vec<(String, String)>,
    results: Vec<(String, String)>,
    layers: Vec<(String, String, String)>,
    blobs: Vec<(String, String, String, i64)>,
    images: Vec<(String, String)>,
    resolved: Vec<String>,
    downloads: Vec<String>,
    mounts: Vec<MountRecord>,
}

impl Raw {
    fn read(transaction: &Transaction<'_>) -> rusqlite::Result<Self> {
        fn all<T>(
            transaction: &Transaction<'_>,
            sql: &str,
            read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
        ) -> rusqlite::Result<Vec<T>> {
            transaction.prepare_cached(sql)?.query_map([], read)?.collect()
        }
        let t = transaction;
        Ok(Self {
            snapshots: all(t, "SELECT id, content, size_bytes, created FROM snapshots", |r| {
                Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?))
            })?,
            steps: all(t, "SELECT key, name, last_used, result FROM steps", |r| {
                Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?))
            })?,
            chains: all(t, "SELECT chain, snapshot FROM chains", |r| Ok((r.get(0)?, r.get(1)?)))?,
            results: all(t, "SELECT result, snapshot FROM results", |r| Ok((r.get(0)?, r.get(1)?)))?,
            layers: all(t, "SELECT snapshot, epoch, diff_id FROM layers", |r| {
                Ok((r.get(0)?, r.get(1)?, r.get(2)?))
            })?,
            blobs: all(t, "SELECT diff_id, compressor, digest, size_bytes FROM blobs", |r| {
                Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?))
            })?,
            images: all(t, "SELECT name, digest FROM images ORDER BY name", |r| Ok((r.get(0)?, r.get(1)?)))?,
            resolved: all(t, "SELECT digest FROM resolved", |r| r.get(0))?,
            downloads: all(t, "SELECT digest FROM downloads", |r| r.get(0))?,
            mounts: all(t, &format!("{} ORDER BY id", super::mounts::SELECT), super::mounts::mount)?,
        })
    }

    fn parse(self) -> Result<Rows, StoreError> {
        let of_pair = |(text, id): (String, String)| (text, SnapshotId(id));
        let digests =
            |texts: Vec<String>| texts.iter().map(|text| digest(text)).collect::<Result<Vec<_>, _>>();
        Ok(Rows {
            snapshots: self
                .snapshots
                .into_iter()
                .map(|(id, content, size, created)| {
                    let content = digest(&content)?;
                    Ok(SnapshotRow { id: SnapshotId(id), content, size_bytes: size as u64, created })
                })
                .collect::<Result<_, StoreError>>()?,
            steps: self
                .steps
                .into_iter()
                .map(|(key, name, last_used, text)| {
                    let result: Option<StepResult> = serde_json::from_str(&text).ok();
                    StepRow { key, name, last_used, layers: result.map(|result| result.state.layers) }
                })
                .collect(),
            chains: self.chains.into_iter().map(of_pair).collect(),
            results: self.results.into_iter().map(of_pair).collect(),
            layers: self
                .layers
                .into_iter()
                .map(|(id, epoch, text)| Ok((SnapshotId(id), epoch == "any", DiffId(digest(&text)?))))
                .collect::<Result<_, StoreError>>()?,
            blobs: self
                .blobs
                .into_iter()
                .map(|(diff_id, compressor, text, size)| {
                    Ok((DiffId(digest(&diff_id)?), compressor, digest(&text)?, size as u64))
                })
                .collect::<Result<_, StoreError>>()?,
            images: self
                .images
                .into_iter()
                .map(|(name, text)| Ok((name, digest(&text)?)))
                .collect::<Result<_, StoreError>>()?,
            resolved: digests(self.resolved)?,
            downloads: digests(self.downloads)?,
            mounts: self.mounts,
        })
    }
}
