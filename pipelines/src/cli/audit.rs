//! `soma audit`: whether the chains are whole, the evidence of one run, and erasing what a tenant's entries say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kafka::{From, Tail};
use schemas::records::{AuditEntry, Checkpoint};
use schemas::{Record, topics};
use serde_json::json;
use stages::audit::evidence::{Evidence, Proven, prove};
use stages::audit::verify::{Broken, Verifier, Whole, by_chain};
use stages::audit::{public_key, unseal};

use super::audit_table::Kept;
use super::context::{Context, now, read_to_end};
use super::failure::{Done, FAILED, Failure, OK};
use super::{out, runs, when};
use crate::keyring::KeyFiles;

/// Bytes of Confluent's frame: magic byte and schema id.
const FRAME: usize = 5;

/// Verifies, exports and erases.
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Verifies every chain: entries, checkpoints and the copy in ClickHouse against each other
    #[command(after_help = "Examples:
  soma audit verify
  soma audit verify --no-table --key 3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29

Checkpoints are believed when the key of SOMA_AUDIT_KEY_FILE signed them, or one given with --key. ClickHouse may be a minute behind.
Exit code: 0 all whole, 1 a chain is broken (the first broken link is named), 2 no key to believe, 3 a server does not answer.")]
    Verify(Verify),
    /// Shows what was chained of one run
    #[command(after_help = "Example:\n  soma audit show 3f2a91")]
    Show {
        /// Run id, or its beginning
        run: String,
    },
    /// Writes the evidence of one run: a JSON file anyone can check offline, and a page to read beside it
    #[command(after_help = "Examples:
  soma audit export 3f2a91 -o evidence.json      also writes evidence.html
  soma audit check evidence.json

Entries younger than the last checkpoint have no proof yet: export again a minute later.")]
    Export {
        /// Run id, or its beginning
        run: String,
        /// JSON file
        #[arg(short, long, value_name = "FILE")]
        out: PathBuf,
        /// Leave out what the records say: chain and proofs only
        #[arg(long)]
        without_words: bool,
    },
    /// Checks an evidence file without any server
    #[command(after_help = "Example:
  soma audit check evidence.json --key 3b6a27bc...     the key you know the platform by

Exit code: 0 everything holds, 1 something does not, 2 the file cannot be read.")]
    Check {
        /// JSON file of `soma audit export`
        file: PathBuf,
        /// Ed25519 public key that must have signed, 64 hex digits
        #[arg(long, value_name = "HEX")]
        key: Vec<String>,
    },
    /// Erases the key of a tenant: what its audit entries say can never be read again, the chains stay whole
    #[command(after_help = "Example:
  soma audit erase acme --reason 'contract ended, ticket 4711'

Needs SOMA_AUDIT_KEYS_DIR. Copies of the key in backups are yours to destroy.")]
    Erase {
        /// Tenant
        tenant: String,
        /// Why
        #[arg(long)]
        reason: String,
        /// Who asks (default: $USER)
        #[arg(long = "as", value_name = "WHO")]
        who: Option<String>,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

/// What to verify.
#[derive(clap::Args)]
pub(super) struct Verify {
    /// Leave the copy in ClickHouse out
    #[arg(long)]
    no_table: bool,
    /// Ed25519 public key whose checkpoints are believed, 64 hex digits; may be given several times
    #[arg(long, value_name = "HEX")]
    key: Vec<String>,
}

pub(super) fn run(command: &Command, cx: &Context) -> Done {
    match command {
        Command::Verify(args) => verify(args, cx),
        Command::Show { run } => show(run, cx),
        Command::Export {
            run,
            out,
            without_words,
        } => export(run, out, *without_words, cx),
        Command::Check { file, key } => check(file, key, cx),
        Command::Erase {
            tenant,
            reason,
            who,
            yes,
        } => erase((tenant, reason), who.as_deref(), *yes, cx),
    }
}

/// The entry's own bytes.
fn unframed(value: Option<&[u8]>) -> &[u8] {
    value.and_then(|v| v.get(FRAME..)).unwrap_or_default()
}

fn checkpoints(cx: &Context) -> Result<Vec<Checkpoint>, Failure> {
    let registry = cx.registry()?;
    let mut found = Vec::new();
    let mut tail = Tail::open(&cx.brokers()?, topics::CHECKPOINTS.name, From::Beginning)?;
    read_to_end(&mut tail, &mut |record| {
        if let Some(value) = &record.value {
            found.push(kernel::decode::<Checkpoint>(value, registry.as_ref())?);
        }
        Ok(true)
    })?;
    Ok(found)
}

/// Keys that are believed: those given, else the one of this environment.
fn believed(given: &[String], cx: &Context) -> Result<Vec<String>, Failure> {
    if !given.is_empty() {
        return Ok(given.to_vec());
    }
    let file = cx
        .env
        .get("SOMA_AUDIT_KEY_FILE")
        .filter(|f| !f.is_empty())
        .ok_or_else(|| {
            let help = "give the platform's public key with --key; `soma check` prints it";
            Failure::input("KEY_MISSING", "it is not known whose checkpoints to believe", help)
        })?;
    let secret = crate::govern::key(Path::new(file), "SOMA_AUDIT_KEY_FILE").map_err(|faults| {
        let lines: Vec<_> = faults.iter().map(ToString::to_string).collect();
        Failure::input(
            "KEY_UNREADABLE",
            lines.join("; "),
            "give the public key with --key instead",
        )
    })?;
    Ok(vec![public_key(secret)])
}

fn verify(args: &Verify, cx: &Context) -> Done {
    let believed = believed(&args.key, cx)?;
    let signed = checkpoints(cx)?;
    let mut broken: Vec<String> = Vec::new();
    let kept = if args.no_table {
        BTreeMap::new()
    } else {
        let (kept, wrong) = super::audit_table::verify(&signed, &believed, cx)?;
        broken.extend(wrong);
        kept
    };
    let (whole, wrong) = topic(&by_chain(signed), &kept, &believed, cx)?;
    broken.extend(wrong.iter().map(|b| format!("topic {}: {b}", topics::AUDIT.name)));
    let sum = |of: fn(&Whole) -> i64| whole.values().map(of).sum::<i64>();
    let (entries, unsealed) = (sum(|w| w.entries), sum(|w| w.unsealed));
    let sealed: usize = whole.values().map(|w| w.checkpoints).sum();
    if cx.json {
        let chains: Vec<_> = whole
            .iter()
            .map(|(chain, w)| json!({"chain": chain, "entries": w.entries, "head": w.head, "checkpoints": w.checkpoints, "unsealed": w.unsealed, "in_table": kept.get(chain).map(|k| k.entries)}))
            .collect();
        out::json(&json!({"whole": broken.is_empty(), "broken": broken, "chains": chains}))?;
    } else {
        let rows: Vec<_> = whole
            .iter()
            .map(|(chain, w)| {
                let kept = kept
                    .get(chain)
                    .map_or_else(|| "-".to_owned(), |k| k.entries.to_string());
                let sealed = w.checkpoints.to_string();
                vec![
                    chain.to_string(),
                    w.entries.to_string(),
                    kept,
                    sealed,
                    w.unsealed.to_string(),
                    w.head.clone(),
                ]
            })
            .collect();
        out::table(
            &[
                "CHAIN",
                "ENTRIES",
                "IN CLICKHOUSE",
                "CHECKPOINTS",
                "NOT YET SEALED",
                "HEAD",
            ],
            &rows,
        )?;
        broken.iter().try_for_each(|b| out::line(out::paint(out::RED, b)))?;
        out::line(format!(
            "audit entries={entries} chains={} checkpoints={sealed} unsealed={unsealed} broken={}",
            whole.len(),
            broken.len()
        ))?;
    }
    Ok(if broken.is_empty() { OK } else { FAILED })
}

/// Verifies what the topic holds, and that the copy ends with the same entry as the topic has there.
fn topic(
    signed: &BTreeMap<i32, Vec<Checkpoint>>,
    kept: &BTreeMap<i32, Kept>,
    believed: &[String],
    cx: &Context,
) -> Result<(BTreeMap<i32, Whole>, Vec<Broken>), Failure> {
    let fresh = |chain: i32| Verifier::new(chain, signed.get(&chain).cloned().unwrap_or_default(), believed);
    let mut chains: BTreeMap<i32, Verifier<'_>> = signed.keys().map(|c| (*c, fresh(*c))).collect();
    let mut broken: Vec<Broken> = Vec::new();
    let mut tail = Tail::open(&cx.brokers()?, topics::AUDIT.name, From::Beginning)?;
    read_to_end(&mut tail, &mut |record| {
        let chain = record.position.partition;
        if broken.iter().any(|b| b.chain == chain) {
            return Ok(true);
        }
        let verifier = chains.entry(chain).or_insert_with(|| fresh(chain));
        broken.extend(verifier.entry(unframed(record.value.as_deref())).err());
        let copy = kept.get(&chain).filter(|k| k.entries == verifier.seq());
        if copy.is_some_and(|copy| copy.head != verifier.head()) {
            broken.push(Broken {
                chain,
                seq: verifier.seq(),
                why: "the entry in ClickHouse is another".to_owned(),
            });
        }
        Ok(true)
    })?;
    let mut whole = BTreeMap::new();
    for (chain, verifier) in chains {
        if broken.iter().any(|b| b.chain == chain) {
            continue;
        }
        let seq = verifier.seq();
        match verifier.finish() {
            Ok(found) => _ = whole.insert(chain, found),
            Err(b) => broken.push(b),
        }
        if kept.get(&chain).is_some_and(|k| k.entries > seq) {
            let why = "ClickHouse has entries that the topic has not".to_owned();
            broken.push(Broken {
                chain,
                seq: seq + 1,
                why,
            });
        }
    }
    Ok((whole, broken))
}

/// Evidence of a run, from the topic.
fn evidence(run_id: &str, words: bool, cx: &Context) -> Result<Evidence, Failure> {
    let signed = by_chain(checkpoints(cx)?);
    let folder = cx.env.get("SOMA_AUDIT_KEYS_DIR").filter(|f| words && !f.is_empty());
    let keys = folder.map(|f| KeyFiles::open(Path::new(f))).transpose()?;
    let says = |e: &AuditEntry| {
        let key = keys.as_ref().and_then(|k| k.read(&e.tenant).ok().flatten())?;
        unseal(&key, (e.chain, e.seq), &e.body).ok()
    };
    let mine = |e: &AuditEntry| e.run_id == run_id;
    let proven = |period: &[Vec<u8>], by: Option<&Checkpoint>| {
        let found = prove(period, by, &mine, &says);
        found.map_err(|e| Failure::failed("AUDIT_UNREADABLE", e, "`soma audit verify` names the broken entry"))
    };
    let mut found = Evidence {
        version: 1,
        run_id: run_id.to_owned(),
        schema: AuditEntry::schema_text().to_owned(),
        ..Evidence::default()
    };
    let mut take = |chain: i32, period: &[Vec<u8>], by: Option<&Checkpoint>| -> Result<(), Failure> {
        let some: Vec<Proven> = proven(period, by)?;
        if !some.is_empty() {
            found.entries.extend(some);
            let known = |c: &Checkpoint| {
                found
                    .checkpoints
                    .iter()
                    .any(|k| (k.chain, k.number) == (chain, c.number))
            };
            let by = by.filter(|c| !known(c)).cloned();
            found.checkpoints.extend(by);
        }
        Ok(())
    };
    let mut open: BTreeMap<i32, (usize, Vec<Vec<u8>>)> = BTreeMap::new();
    let mut tail = Tail::open(&cx.brokers()?, topics::AUDIT.name, From::Beginning)?;
    read_to_end(&mut tail, &mut |record| {
        let chain = record.position.partition;
        let (sealed, period) = open.entry(chain).or_default();
        let bytes = unframed(record.value.as_deref());
        period.push(bytes.to_vec());
        let by = signed.get(&chain).and_then(|all| all.get(*sealed));
        let seq = stages::audit::verify::place(bytes).map_or(0, |(_, seq)| seq);
        if by.is_some_and(|c| c.last_seq == seq) {
            take(chain, period, by)?;
            *sealed += 1;
            period.clear();
        }
        Ok(true)
    })?;
    for (chain, (_, period)) in open {
        take(chain, &period, None)?;
    }
    found
        .entries
        .sort_by_key(|p| (p.entry.written_at, p.entry.chain, p.entry.seq));
    if found.entries.is_empty() {
        let help = "the audit stage chains records within a second; is it running? `soma stages` shows it";
        return Err(Failure::failed(
            "AUDIT_EMPTY",
            format!("nothing is chained of {run_id}"),
            help,
        ));
    }
    Ok(found)
}

fn show(run: &str, cx: &Context) -> Done {
    let run = runs::find(cx, run)?;
    let found = evidence(&run.run_id, false, cx)?;
    if cx.json {
        let entries: Vec<_> = found
            .entries
            .iter()
            .map(|p| json!({"checkpoint": p.checkpoint, "entry": p.entry}))
            .collect();
        out::json(&json!(entries))?;
        return Ok(OK);
    }
    let rows: Vec<_> = found
        .entries
        .iter()
        .map(|p| {
            let e = &p.entry;
            let at = format!("{}/{}", e.chain, e.seq);
            let sealed = if p.checkpoint == 0 {
                "not yet".to_owned()
            } else {
                p.checkpoint.to_string()
            };
            vec![
                at,
                when::shown(e.written_at),
                e.record.clone(),
                e.fact.clone(),
                out::short(&e.subject, 40),
                sealed,
            ]
        })
        .collect();
    out::table(&["ENTRY", "WRITTEN", "RECORD", "SAYS", "ABOUT", "CHECKPOINT"], &rows)?;
    Ok(OK)
}

fn export(run: &str, file: &Path, without_words: bool, cx: &Context) -> Done {
    let run = runs::find(cx, run)?;
    let found = evidence(&run.run_id, !without_words, cx)?;
    let checked = found
        .check()
        .map_err(|e| Failure::failed("EVIDENCE_WRONG", e, "`soma audit verify` says more"))?;
    let text = serde_json::to_string_pretty(&found).map_err(|e| Failure::failed("INTERNAL", e.to_string(), ""))?;
    let page = file.with_extension("html");
    for (path, text) in [(file, text), (&page, found.html())] {
        std::fs::write(path, text).map_err(|e| {
            Failure::input(
                "FILE_UNWRITABLE",
                format!("{}: {e}", path.display()),
                "name another with -o",
            )
        })?;
    }
    if cx.json {
        out::json(
            &json!({"file": file, "page": page, "entries": found.entries.len(), "proven": checked.proven, "unsealed": checked.unsealed}),
        )?;
    } else {
        out::line(format!(
            "{} and {}: {}",
            file.display(),
            page.display(),
            said(&found, &checked)
        ))?;
    }
    Ok(OK)
}

fn said(found: &Evidence, checked: &stages::audit::evidence::Checked) -> String {
    format!(
        "{} entries of {}, {} proven by {} checkpoints, {} not sealed yet, {} without words",
        found.entries.len(),
        found.run_id,
        checked.proven,
        found.checkpoints.len(),
        checked.unsealed,
        checked.silent
    )
}

fn check(file: &Path, keys: &[String], cx: &Context) -> Done {
    let unreadable = |e: String| {
        let text = format!("{}: {e}", file.display());
        Failure::input(
            "FILE_UNREADABLE",
            text,
            "give the JSON file that `soma audit export` wrote",
        )
    };
    let text = std::fs::read_to_string(file).map_err(|e| unreadable(e.to_string()))?;
    let found: Evidence = serde_json::from_str(&text).map_err(|e| unreadable(e.to_string()))?;
    let wrong = |why: String| Failure::failed("EVIDENCE_WRONG", why, "this file is not what the platform wrote");
    let checked = found.check().map_err(wrong)?;
    let strangers: Vec<_> = checked
        .keys
        .iter()
        .filter(|k| !keys.is_empty() && !keys.contains(k))
        .collect();
    if let Some(stranger) = strangers.first() {
        return Err(wrong(format!(
            "a checkpoint is signed by {stranger}, which is not among the keys given"
        )));
    }
    if cx.json {
        out::json(
            &json!({"run_id": found.run_id, "entries": found.entries.len(), "proven": checked.proven, "unsealed": checked.unsealed, "silent": checked.silent, "keys": checked.keys}),
        )?;
        return Ok(OK);
    }
    out::line(format!("holds: {}", said(&found, &checked)))?;
    for key in checked.keys.iter().filter(|_| keys.is_empty()) {
        out::line(format!(
            "signed by {key}: compare it with the key you know, or give that with --key"
        ))?;
    }
    Ok(OK)
}

fn erase((tenant, reason): (&str, &str), who: Option<&str>, yes: bool, cx: &Context) -> Done {
    let who = cx.actor(who)?;
    let folder = cx.variable("SOMA_AUDIT_KEYS_DIR")?;
    let keys = KeyFiles::open(Path::new(&folder))?;
    if keys.read(tenant)?.is_none() {
        out::note(format!(
            "there is no key of {tenant}; it is marked as erased all the same"
        ));
    }
    if !yes
        && !out::confirm(&format!(
            "Erase for good what all audit entries of {tenant} say, as {who}?"
        ))?
    {
        return Err(Failure::input(
            "NOT_CONFIRMED",
            "nothing was erased",
            "answer y, or add -y",
        ));
    }
    let mark = json!({"tenant": tenant, "erased_by": who, "reason": reason, "at": now()});
    keys.erase(tenant, &format!("{mark:#}\n"))?;
    out::line(format!(
        "erased: entries of {tenant} stay in their chains, what they say is gone"
    ))?;
    Ok(OK)
}
