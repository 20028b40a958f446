//! The audit: how fast a chain is verified, and whether single changes to copies of the topic and of the table are found.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use kafka::{From, Tail, Writer};
use kernel::controls::Controls;
use kernel::{Delivery, Effects, Fault, Headers, Position, Processor, Timer};
use schemas::Record;
use schemas::records::{AuditEntry, Call, Checkpoint, Decision, Outcome, OutcomeStatus, Permit, Verdict};
use schemas::topics::{self, Cleanup};
use stages::audit::verify::Verifier;
use stages::audit::{Audit, Chain, Config, Input, Key, Keyring, Seen};

use crate::common::{brokers, create, now, registry, text, tokio};

/// Entries of the copies that are changed: many verifications of a short chain, rather than few of a long one.
const COPY: usize = 2_000;
/// Entries under a checkpoint.
const PERIOD: usize = 500;
const FRAME: usize = 5;

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Brokers.
    #[arg(long)]
    brokers: String,
    /// Schema registry.
    #[arg(long)]
    registry: String,
    /// ClickHouse, `http://HOST:PORT`.
    #[arg(long)]
    clickhouse: String,
    /// `user:password` there.
    #[arg(long)]
    clickhouse_user: String,
    /// Migration that makes the tables.
    #[arg(long)]
    tables: std::path::PathBuf,
    /// Entries of the chain that is verified for speed.
    #[arg(long, default_value_t = 1_000_000)]
    entries: usize,
    /// Random single changes, half to the topic's copy, half to the table's.
    #[arg(long, default_value_t = 1_000)]
    changes: usize,
    /// Where the random numbers begin.
    #[arg(long)]
    seed: Option<u64>,
}

struct OneKey;

impl Keyring for OneKey {
    fn key(&self, _: &str) -> Result<Option<Key>, Fault> {
        Ok(Some(Key {
            id: "key_bench".into(),
            secret: [3; 32],
        }))
    }
}

/// A record as a run leaves it: verdict, call, outcome by turns.
fn record(i: usize) -> Input {
    let (run_id, tenant) = (
        schemas::digest::id("run", &[&(i / 3).to_string()]),
        format!("tenant-{}", i % 4),
    );
    let arguments = format!(r#"{{"method":"GET","url":"http://127.0.0.1:8080/ok?{i}"}}"#);
    match i % 3 {
        0 => Input::Verdict(Box::new(Verdict {
            verdict_id: schemas::digest::id("ver", &[&run_id]),
            run_id,
            tenant,
            decision: Decision::Allow,
            score: 1.0,
            policy_revision: "5".repeat(64),
            digest: "d".repeat(64),
            decided_at: now(),
            ..Verdict::default()
        })),
        1 => Input::Call(Box::new(Call {
            call_id: schemas::digest::id("call", &[&run_id]),
            run_id,
            tenant,
            tool: "http".into(),
            operation: "request".into(),
            arguments,
            permit: Some(Permit::default()),
            requested_at: now(),
            ..Call::default()
        })),
        _ => Input::Outcome(Box::new(Outcome {
            call_id: schemas::digest::id("call", &[&run_id]),
            run_id,
            tenant,
            status: OutcomeStatus::Succeeded,
            result: r#"{"status":200,"body":"ok"}"#.into(),
            requested_at: now(),
            finished_at: now(),
            ..Outcome::default()
        })),
    }
}

/// A chain as the stage makes it, and its checkpoints.
fn chain(audit: &Audit, entries: usize) -> Result<(Vec<Vec<u8>>, Vec<Checkpoint>), String> {
    let (mut chain, controls) = (Chain::default(), Controls::default());
    let (mut written, mut checkpoints) = (Vec::with_capacity(entries), Vec::new());
    for i in 0..entries {
        let delivery = Delivery {
            input: Seen::Read(record(i)),
            key: String::new(),
            position: Position {
                topic: topics::VERDICTS.name.into(),
                partition: 0,
                offset: i64::try_from(i).unwrap_or(0),
            },
            headers: Headers::default(),
            at: now(),
        };
        let mut fx = Effects::new(now(), "chain", "", &controls);
        audit.step(&mut chain, &delivery, &mut fx).map_err(text)?;
        written.extend(fx.emits.into_iter().map(|e| e.avro));
        if (i + 1) % PERIOD == 0 {
            let timer = Timer {
                name: "checkpoint".into(),
                due: now(),
            };
            let mut fx = Effects::new(now(), "chain", "", &controls);
            audit.on_timer(&mut chain, &timer, &mut fx).map_err(text)?;
            for emit in fx.emits {
                checkpoints.push(Checkpoint::from_avro(Checkpoint::schema(), &emit.avro).map_err(text)?);
            }
        }
    }
    Ok((written, checkpoints))
}

fn is_whole<E: AsRef<[u8]>>(entries: &[E], checkpoints: &[Checkpoint], keys: &[String]) -> bool {
    let mut verifier = Verifier::new(0, checkpoints.to_vec(), keys);
    entries.iter().all(|e| verifier.entry(e.as_ref()).is_ok())
        && verifier
            .finish()
            .is_ok_and(|w| w.unsealed == 0 && w.checkpoints == checkpoints.len())
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % u64::try_from(n.max(1)).unwrap_or(1)).unwrap_or(0)
    }
}

/// Drops, doubles or swaps whole entries; false when the turn is for a change within one.
fn rearrange<T: Clone>(copy: &mut Vec<T>, random: &mut Random) -> bool {
    let (at, other) = (random.below(copy.len()), random.below(copy.len()));
    match random.below(4) {
        0 => _ = copy.remove(at),
        1 => copy.insert(at, copy[other].clone()),
        2 if at != other => copy.swap(at, other),
        _ => return false,
    }
    true
}

fn change_topic(copy: &mut Vec<Vec<u8>>, random: &mut Random) {
    if !rearrange(copy, random) {
        let at = random.below(copy.len());
        let byte = random.below(copy[at].len());
        copy[at][byte] ^= 1 << random.below(8);
    }
}

/// One bit of a text or a number of one row.
fn change_row(row: &mut AuditEntry, random: &mut Random) {
    let bit = |text: &mut String, random: &mut Random| {
        let mut bytes = std::mem::take(text).into_bytes();
        if bytes.is_empty() {
            bytes.push(b'x');
        } else {
            let at = random.below(bytes.len());
            // Stays ASCII, as a column of text would.
            bytes[at] ^= 1 << random.below(6);
        }
        *text = String::from_utf8_lossy(&bytes).into_owned();
    };
    let number = 1_i64 << random.below(40);
    match random.below(15) {
        0 => bit(&mut row.previous, random),
        1 => row.chain ^= 1 << random.below(30),
        2 => row.seq ^= number,
        3 => row.chained_at.0 ^= number,
        4 => bit(&mut row.record, random),
        5 => bit(&mut row.topic, random),
        6 => row.offset ^= number,
        7 => row.written_at.0 ^= number,
        8 => bit(&mut row.tenant, random),
        9 => bit(&mut row.run_id, random),
        10 => bit(&mut row.subject, random),
        11 => bit(&mut row.fact, random),
        12 => bit(&mut row.digest, random),
        13 => bit(&mut row.key_id, random),
        _ => bit(&mut row.body, random),
    }
}

impl Options {
    /// One statement to ClickHouse; its answer.
    fn sql(&self, statement: &str, data: &str) -> Result<String, String> {
        let mut curl = Command::new("curl");
        let encoded = format!("{}/?database=bench_audit", self.clickhouse);
        curl.args([
            "-sS",
            "--fail-with-body",
            "-u",
            &self.clickhouse_user,
            &encoded,
            "--data-binary",
            "@-",
        ]);
        let mut child = curl
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(text)?;
        let stdin = child.stdin.take().ok_or("no stdin")?;
        let body = format!("{statement}\n{data}");
        std::io::Write::write_all(&mut { stdin }, body.as_bytes()).map_err(text)?;
        let out = child.wait_with_output().map_err(text)?;
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        if out.status.success() {
            Ok(said)
        } else {
            Err(format!("{statement}: {said}"))
        }
    }

    /// Writes the chain into ClickHouse's table and reads it back.
    fn table(&self, entries: &[Vec<u8>]) -> Result<Vec<AuditEntry>, String> {
        let file = std::fs::read_to_string(&self.tables).map_err(text)?;
        let lines: String = file
            .lines()
            .filter(|l| !l.starts_with("--"))
            .collect::<Vec<_>>()
            .join("\n");
        for statement in lines.split(';').filter(|s| !s.trim().is_empty()) {
            self.sql(statement, "")?;
        }
        let mut rows = String::new();
        for (i, avro) in entries.iter().enumerate() {
            let entry = AuditEntry::from_avro(AuditEntry::schema(), avro).map_err(text)?;
            let mut row = serde_json::to_value(&entry).map_err(text)?;
            for (name, at) in [("chained_at", entry.chained_at), ("written_at", entry.written_at)] {
                row[name] = format!("{}.{:06}", at.0.div_euclid(1_000_000), at.0.rem_euclid(1_000_000)).into();
            }
            row["_topic"] = topics::AUDIT.name.into();
            row["_offset"] = i.into();
            rows.push_str(&row.to_string());
            rows.push('\n');
        }
        self.sql("INSERT INTO audit FORMAT JSONEachRow", &rows)?;
        let sql = "SELECT * REPLACE (toUnixTimestamp64Micro(chained_at) AS chained_at, toUnixTimestamp64Micro(written_at) AS written_at) \
                   FROM audit ORDER BY chain, seq SETTINGS output_format_json_quote_64bit_integers = 0 FORMAT JSONEachRow";
        let said = self.sql(sql, "")?;
        said.lines()
            .map(|line| serde_json::from_str(line).map_err(text))
            .collect()
    }

    /// Writes the chain to a topic and reads it back.
    fn topic(&self, entries: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, String> {
        let (at, runtime) = (brokers(&self.brokers), tokio()?);
        let registry = registry(&self.registry, &runtime)?;
        let topic = format!("bench.audit.{}", now().0);
        create(&at, &runtime, &topic, 1, Cleanup::Delete)?;
        let writer = Writer::open(&at, registry, "soma/bench").map_err(text)?;
        for avro in entries {
            let framed = [&[0; FRAME], avro.as_slice()].concat();
            writer
                .write_raw(&topic, "k", Some(&framed), &Headers::default())
                .map_err(text)?;
        }
        writer.flush().map_err(text)?;
        let mut tail = Tail::open(&at, &topic, From::Beginning).map_err(text)?;
        let mut copy = Vec::with_capacity(entries.len());
        while copy.len() < entries.len() {
            if let Some(record) = tail.next(1000).map_err(text)? {
                copy.push(
                    record
                        .value
                        .unwrap_or_default()
                        .get(FRAME..)
                        .unwrap_or_default()
                        .to_vec(),
                );
            }
        }
        Ok(copy)
    }
}

/// Runs the benchmark; the line to print last.
pub(crate) fn run(options: &Options) -> Result<String, String> {
    let seed = options.seed.unwrap_or_else(|| now().0.unsigned_abs());
    let audit = Audit::new(Config { checkpoint_s: 60 }, [7; 32], Arc::new(OneKey));
    let keys = [audit.public_key()];
    let entries = options.entries.max(COPY).next_multiple_of(PERIOD);
    let began = Instant::now();
    let (made, checkpoints) = chain(&audit, entries)?;
    let made_s = began.elapsed().as_secs_f64();
    let read = options.topic(&made)?;
    drop(made);
    let mut times: Vec<f64> = Vec::new();
    for _ in 0..3 {
        let began = Instant::now();
        if !is_whole(&read, &checkpoints, &keys) {
            return Err("the chain read back is not whole".into());
        }
        times.push(began.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    let (short, signed) = (&read[..COPY], &checkpoints[..COPY / PERIOD]);
    let rows = options.table(short)?;
    let again = |rows: &[AuditEntry]| {
        rows.iter()
            .map(|r| r.to_avro().map_err(text))
            .collect::<Result<Vec<_>, _>>()
    };
    if !is_whole(&again(&rows)?, signed, &keys) {
        return Err("the table read back is not whole".into());
    }
    let (mut random, mut found) = (Random(seed), 0);
    for nth in 0..options.changes {
        let whole = if nth % 2 == 0 {
            let mut copy = short.to_vec();
            change_topic(&mut copy, &mut random);
            is_whole(&copy, signed, &keys)
        } else {
            let mut copy = rows.clone();
            if !rearrange(&mut copy, &mut random) {
                let at = random.below(copy.len());
                change_row(&mut copy[at], &mut random);
            }
            is_whole(&again(&copy)?, signed, &keys)
        };
        if whole {
            crate::say(&format!("change {nth} of seed {seed} was not found"));
        }
        found += usize::from(!whole);
    }
    #[allow(clippy::cast_precision_loss, reason = "entries a second")]
    let per_s = |seconds: f64| entries as f64 / seconds;
    let bytes: usize = read.iter().map(Vec::len).sum();
    crate::say(&format!(
        "{entries} entries of {} bytes, a checkpoint every {PERIOD}; seed {seed}",
        bytes / entries
    ));
    Ok(format!(
        "tamper found={found}/{} verify_per_s={:.0} chain_per_s={:.0} entries={entries}",
        options.changes,
        per_s(times[1]),
        per_s(made_s)
    ))
}
