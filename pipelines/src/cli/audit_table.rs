//! The copy of the audit in ClickHouse, verified row by row: an entry's Avro bytes are made again of its columns, so that a change
//! of any column shows.

use std::collections::BTreeMap;

use schemas::records::{AuditEntry, Checkpoint};
use schemas::{Record, Timestamp};
use serde_json::Value as Json;
use sinks::clickhouse::{Reader, Table};
use stages::audit::verify::{Verifier, by_chain};

use super::context::{Context, now};
use super::failure::Failure;
use super::sql;

/// Rows asked for at once.
const PAGE: usize = 20_000;
/// How far the copy may be behind, milliseconds.
const BEHIND_MS: i64 = 60_000;

/// What the copy holds of a chain.
pub(super) struct Kept {
    pub(super) entries: i64,
    /// Hash of its last entry.
    pub(super) head: String,
}

const ENTRY: &str = "previous, chain, seq, toUnixTimestamp64Micro(chained_at), record, topic, offset, toUnixTimestamp64Micro(written_at), \
                     tenant, run_id, subject, fact, digest, key_id, body";

fn text(row: &[Json], i: usize) -> String {
    row.get(i).and_then(Json::as_str).unwrap_or_default().to_owned()
}

fn number(row: &[Json], i: usize) -> i64 {
    row.get(i).and_then(Json::as_i64).unwrap_or_default()
}

fn entry(row: &[Json]) -> AuditEntry {
    AuditEntry {
        previous: text(row, 0),
        chain: i32::try_from(number(row, 1)).unwrap_or(-1),
        seq: number(row, 2),
        chained_at: Timestamp(number(row, 3)),
        record: text(row, 4),
        topic: text(row, 5),
        offset: number(row, 6),
        written_at: Timestamp(number(row, 7)),
        tenant: text(row, 8),
        run_id: text(row, 9),
        subject: text(row, 10),
        fact: text(row, 11),
        digest: text(row, 12),
        key_id: text(row, 13),
        body: text(row, 14),
    }
}

fn checkpoint(row: &[Json]) -> Checkpoint {
    Checkpoint {
        chain: i32::try_from(number(row, 0)).unwrap_or(-1),
        number: number(row, 1),
        first_seq: number(row, 2),
        last_seq: number(row, 3),
        head: text(row, 4),
        root: text(row, 5),
        previous: text(row, 6),
        signed_at: Timestamp(number(row, 7)),
        public_key: text(row, 8),
        signature: text(row, 9),
    }
}

/// Verifies the copy; what it holds of each chain, and what is wrong.
pub(super) fn verify(
    signed: &[Checkpoint],
    believed: &[String],
    cx: &Context,
) -> Result<(BTreeMap<i32, Kept>, Vec<String>), Failure> {
    let reader = Reader::new(&sql::config(cx)?)?;
    let ask = |sql: String| -> Result<Table, Failure> { Ok(cx.runtime()?.block_on(reader.query_json(&sql))?) };
    let mut broken = Vec::new();
    let rows = ask(
        "SELECT chain, number, first_seq, last_seq, head, root, previous, toUnixTimestamp64Micro(signed_at), public_key, signature FROM checkpoints ORDER BY chain, number".to_owned(),
    )?;
    let copies: Vec<Checkpoint> = rows.rows.iter().map(|row| checkpoint(row)).collect();
    let due = now().plus_ms(-BEHIND_MS);
    // What must have arrived by now.
    let settled: Vec<_> = signed.iter().filter(|c| c.signed_at < due).cloned().collect();
    for copy in copies.iter().filter(|c| !signed.contains(c)) {
        broken.push(format!(
            "table checkpoints: checkpoint {} of chain {} is not the one on the topic",
            copy.number, copy.chain
        ));
    }
    for missing in settled.iter().filter(|c| !copies.contains(c)) {
        broken.push(format!(
            "table checkpoints: checkpoint {} of chain {} is missing",
            missing.number, missing.chain
        ));
    }
    let chains = ask("SELECT DISTINCT chain FROM audit ORDER BY chain".to_owned())?;
    let settled = by_chain(settled);
    let mut todo: std::collections::BTreeSet<i32> = settled.keys().copied().collect();
    todo.extend(chains.rows.iter().filter_map(|row| i32::try_from(number(row, 0)).ok()));
    let mut kept = BTreeMap::new();
    for chain in todo {
        let mut verifier = Verifier::new(chain, settled.get(&chain).cloned().unwrap_or_default(), believed);
        let verified = loop {
            // With ties: a second row of the same number must not slip through between two pages.
            let sql = format!(
                "SELECT {ENTRY} FROM audit WHERE chain = {chain} AND seq > {} ORDER BY seq LIMIT {PAGE} WITH TIES",
                verifier.seq()
            );
            let page = ask(sql)?;
            let taken = page.rows.iter().try_for_each(|row| {
                let avro = entry(row).to_avro().map_err(|e| verifier.wrong(e.0))?;
                verifier.entry(&avro)
            });
            match taken {
                Err(b) => break Err(b),
                Ok(()) if page.rows.len() < PAGE => break Ok(verifier),
                Ok(()) => {}
            }
        };
        let finished = verified.and_then(|v| {
            let (entries, head) = (v.seq(), v.head());
            v.finish().map(|_| Kept { entries, head })
        });
        match finished {
            Ok(found) => _ = kept.insert(chain, found),
            Err(b) => broken.push(format!("table audit: {b}")),
        }
    }
    Ok((kept, broken))
}
