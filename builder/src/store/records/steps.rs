//! Results of steps by their keys.

use std::collections::BTreeSet;

use rusqlite::{OptionalExtension as _, params};

use super::{StepResult, is_whole, now, sum};
use crate::base::digest::CacheKey;
use crate::store::{Database, StoreError};

impl Database {
    /// The stored result of a step, and when it was last used. Whoever uses it calls `Store::use_step`.
    pub(in crate::store) fn step(&self, key: &CacheKey) -> Result<Option<(StepResult, i64)>, StoreError> {
        let name = key.to_string();
        let row: Option<(String, i64, Option<String>)> = self.with(|c| {
            c.prepare_cached("SELECT result, last_used, sum FROM steps WHERE key = ?1")?
                .query_row([&name], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                .optional()
        })?;
        // A record that another version wrote, or that is damaged, is a miss: the step runs and its record is written
        // anew.
        let row = row.filter(|(text, _, stated)| is_whole(stated.as_deref(), &[&name, text]));
        Ok(row.and_then(|(text, used, _)| Some((serde_json::from_str(&text).ok()?, used))))
    }

    /// Says that these steps were used now.
    pub(in crate::store) fn use_steps(&self, keys: &BTreeSet<CacheKey>) -> Result<(), StoreError> {
        self.with(|c| {
            let transaction = c.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            for key in keys {
                transaction
                    .prepare_cached("UPDATE steps SET last_used = ?2 WHERE key = ?1")?
                    .execute(params![key.to_string(), now()])?;
            }
            transaction.commit()
        })
    }

    /// Stores the result of a step under all its keys.
    pub fn add_step(
        &self,
        keys: &[CacheKey],
        result: &StepResult,
        name: &str,
        took_ms: u64,
    ) -> Result<(), StoreError> {
        let text = serde_json::to_string(result).map_err(|e| StoreError::Malformed(e.to_string()))?;
        self.with(|c| {
            let transaction = c.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            for key in keys {
                let key = key.to_string();
                let sum = sum(&[&key, &text]);
                transaction
                    .prepare_cached("INSERT OR REPLACE INTO steps VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?6)")?
                    .execute(params![key, text, name, took_ms as i64, now(), sum])?;
            }
            transaction.commit()
        })
    }

    /// Forgets a step whose snapshots are gone.
    pub fn forget_step(&self, key: &CacheKey) -> Result<(), StoreError> {
        self.with(|c| c.execute("DELETE FROM steps WHERE key = ?1", [key.to_string()]).map(drop))
    }
}
