//! `soma constitution`: documents signed and published on `soma.constitutions`, their history verified, compared and rolled back. It
//! holds no key of the platform: whoever signs keeps their own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kernel::ConfigFault;
use kernel::members::EVERY;
use schemas::records::Constitution;
use schemas::{Timestamp, topics};
use serde_json::json;
use stages::policy_gate::constitution::{self, Document, Signers};

use super::constitution_history::{Version, changes, faults, history, latest, pick, signers};
use super::context::{Context, now};
use super::failure::{Done, FAILED, Failure, OK};
use super::{out, when};
use crate::{govern, keyring};

pub(super) const SIGNERS: &str = "SOMA_CONSTITUTION_SIGNERS_FILE";

/// Signs, publishes and looks into constitutions.
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Makes a signing key, or shows the public key of one
    #[command(after_help = "Examples:
  soma constitution key acme.key                   makes the file if it is not there; prints the public key
  soma constitution key acme.key --trust acme      and lets it sign for acme, in $SOMA_CONSTITUTION_SIGNERS_FILE
  soma constitution key board.key --trust '*'      for every tenant, and for all of them at once

Keep the file where only the signer reads it: the platform needs the public key alone.")]
    Key {
        /// File of the secret key
        file: PathBuf,
        /// Tenant it may sign for from now on
        #[arg(long, value_name = "TENANT")]
        trust: Option<String>,
    },
    /// Checks a document and signs it; writes nothing to any topic
    #[command(after_help = "Example:
  soma constitution sign acme.yaml --key acme.key -o acme.signed.json

  tenant: acme
  version: 1
  title: What agents may do here
  issued_at: 2026-01-31T12:00:00Z
  expires_at: 2027-01-31T12:00:00Z               nothing is allowed afterwards until a new version is published
  principles:
    - { id: agency, title: People decide, body: What cannot be undone is decided by people. }
  requirements:
    - id: two_for_destruction                    the rule is constitution.two_for_destruction in verdicts
      principle: agency
      text: Two of the release team approve what destroys infrastructure.
      when: { tools: [terraform], operations: [destroy] }
      escalate: { roles: [release], quorum: 2 }
    - { id: no_tokens, text: Tokens are not kept., when: { tools: [http] }, oblige: { redact: [/json/token] } }
  precedence: [base, tenant, capsule]            a rule may waive what a weaker source says; none of it: nothing is waived")]
    Sign {
        /// The document, YAML or JSON
        document: PathBuf,
        /// File of the secret key
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Where to, instead of stdout
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Puts a signed document in force
    #[command(after_help = "Example:
  soma constitution publish acme.signed.json --reason 'yearly review'

Refused, with nothing written: unsigned, altered, signed by one who may not, over, or not the next version after the one in force.")]
    Publish {
        /// What `soma constitution sign` wrote
        signed: PathBuf,
        #[command(flatten)]
        why: Why,
    },
    /// Verifies a signed document, or the whole history on the topic
    #[command(after_help = "Examples:
  soma constitution verify acme.signed.json
  soma constitution verify --tenant acme     every version: signature, signer, and the chain to the one before

Exit code: 0 all is well, 1 something is not.")]
    Verify {
        /// What `soma constitution sign` wrote; without it the topic
        signed: Option<PathBuf>,
        /// Of this tenant alone
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Lists every version, and which is in force
    #[command(after_help = "Example:\n  soma constitution list")]
    List,
    /// Shows a version
    #[command(after_help = "Examples:
  soma constitution show --tenant acme                 the one in force
  soma constitution show --tenant acme --version 1")]
    Show {
        /// Tenant; `*` for that of all
        #[arg(long)]
        tenant: String,
        /// Version instead of the one in force
        #[arg(long)]
        version: Option<i64>,
    },
    /// Shows what changed between two versions
    #[command(after_help = "Example:
  soma constitution diff --tenant acme --from 1 --to 2     without numbers: from the one before to the one in force

Exit code: 0 nothing, 1 something.")]
    Diff {
        /// Tenant; `*` for that of all
        #[arg(long)]
        tenant: String,
        /// The older version
        #[arg(long)]
        from: Option<i64>,
        /// The newer version
        #[arg(long)]
        to: Option<i64>,
    },
    /// Brings the content of an older version back, as a new version, signed
    #[command(after_help = "Example:
  soma constitution rollback --tenant acme --to 1 --key acme.key --reason 'version 2 was too strict'

An older version itself never comes back in force: it could be replayed by anybody who kept it.")]
    Rollback {
        /// Tenant; `*` for that of all
        #[arg(long)]
        tenant: String,
        /// Version whose content comes back
        #[arg(long)]
        to: i64,
        /// File of the secret key
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// New end: a time, or a duration from now (default: that of the version)
        #[arg(long, value_name = "WHEN")]
        expires: Option<String>,
        #[command(flatten)]
        why: Why,
    },
}

/// Why, and who says so.
#[derive(clap::Args)]
pub(super) struct Why {
    /// Why
    #[arg(long, short)]
    pub(super) reason: String,
    /// Who says so (default: $USER)
    #[arg(long = "as", value_name = "WHO")]
    pub(super) who: Option<String>,
}

pub(super) fn run(command: &Command, cx: &Context) -> Done {
    match command {
        Command::Key { file, trust } => key(file, trust.as_deref(), cx),
        Command::Sign { document, key, output } => sign(document, key, output.as_deref(), cx),
        Command::Publish { signed, why } => publish(read_signed(signed)?, why, cx),
        Command::Verify { signed: Some(file), .. } => verify_file(file, cx),
        Command::Verify { signed: None, tenant } => verify(tenant.as_deref(), cx),
        Command::List => list(cx),
        Command::Show { tenant, version } => show(tenant, *version, cx),
        Command::Diff { tenant, from, to } => diff(tenant, *from, *to, cx),
        Command::Rollback {
            tenant,
            to,
            key,
            expires,
            why,
        } => rollback(tenant, *to, key, expires.as_deref(), why, cx),
    }
}

pub(super) fn refused(faults: Vec<ConfigFault>) -> Failure {
    let lines: Vec<_> = faults.iter().map(ToString::to_string).collect();
    let help = "nothing was written; mend these and try again (soma constitution sign --help shows a document)";
    Failure::input("CONSTITUTION_REFUSED", lines.join("\n"), help)
}

fn unreadable(path: &Path, e: impl std::fmt::Display) -> Failure {
    Failure::input(
        "FILE_UNREADABLE",
        format!("{}: {e}", path.display()),
        "name another file",
    )
}

fn secret(path: &Path) -> Result<[u8; 32], Failure> {
    govern::key(path, "key").map_err(|faults| {
        let lines: Vec<_> = faults.iter().map(ToString::to_string).collect();
        Failure::input(
            "KEY_UNREADABLE",
            lines.join("\n"),
            "`soma constitution key FILE` makes one",
        )
    })
}

fn key(file: &Path, trust: Option<&str>, cx: &Context) -> Done {
    if !file.exists() {
        let made = keyring::random().and_then(|secret| keyring::private(file, &hex::encode(secret)));
        made.map_err(|e| {
            Failure::input(
                "FILE_UNWRITABLE",
                format!("{}: {e}", file.display()),
                "name another file",
            )
        })?;
    }
    let public = hex::encode(stages::policy_gate::public_key(secret(file)?));
    if let Some(tenant) = trust {
        let signers = PathBuf::from(cx.variable(SIGNERS)?);
        let text = std::fs::read_to_string(&signers).map_err(|e| unreadable(&signers, e))?;
        // Read before and after: a file that is not understood is not written over.
        Signers::parse(&text).map_err(refused)?;
        let mut all: BTreeMap<String, Vec<String>> =
            serde_yaml_ng::from_str(&text).map_err(|e| unreadable(&signers, e))?;
        let keys = all.entry(tenant.to_owned()).or_default();
        if !keys.contains(&public) {
            keys.push(public.clone());
        }
        let text = serde_yaml_ng::to_string(&all).map_err(|e| unreadable(&signers, e))?;
        let part = signers.with_extension("part");
        keyring::private(&part, &text)
            .and_then(|()| std::fs::rename(&part, &signers))
            .map_err(|e| unreadable(&signers, e))?;
    }
    if cx.json {
        out::json(&json!({"public_key": public, "trusted_for": trust}))?;
        return Ok(OK);
    }
    out::line(public)?;
    if let Some(tenant) = trust {
        let whose = if tenant == EVERY { "every tenant" } else { tenant };
        out::note(format!("it may sign for {whose} from now on"));
    }
    Ok(OK)
}

/// Reads a document as people write it.
pub(super) fn document(file: &Path) -> Result<Document, Failure> {
    let text = std::fs::read_to_string(file).map_err(|e| unreadable(file, e))?;
    // YAML reads JSON too.
    serde_yaml_ng::from_str(&text)
        .map_err(|e| refused(vec![ConfigFault::new(file.display().to_string(), e.to_string())]))
}

fn sign(document: &Path, key: &Path, output: Option<&Path>, cx: &Context) -> Done {
    let signed = self::document(document)?.sign(secret(key)?).map_err(refused)?;
    let text = serde_json::to_string_pretty(&json!(signed)).map_err(|e| unreadable(document, e))?;
    match output {
        None => out::line(text)?,
        Some(path) => {
            std::fs::write(path, text + "\n").map_err(|e| unreadable(path, e))?;
            if cx.json {
                out::json(
                    &json!({"tenant": signed.tenant, "version": signed.version, "hash": signed.hash, "signer": signed.signer}),
                )?;
            } else {
                out::line(format!(
                    "{} version {} hash {} signed by {}",
                    signed.tenant, signed.version, signed.hash, signed.signer
                ))?;
            }
        }
    }
    Ok(OK)
}

fn read_signed(path: &Path) -> Result<Constitution, Failure> {
    let text = std::fs::read_to_string(path).map_err(|e| unreadable(path, e))?;
    serde_json::from_str(&text).map_err(|e| {
        let help = "give what `soma constitution sign` wrote";
        Failure::input("CONSTITUTION_REFUSED", format!("{}: {e}", path.display()), help)
    })
}

fn next_in_line(record: &Constitution, cx: &Context) -> Result<(), Failure> {
    let read = constitution::read(record, &signers(cx)?)
        .map_err(|why| refused(vec![ConfigFault::new(&record.tenant, why)]))?;
    let all = history(cx)?;
    let last = latest(&all, &record.tenant);
    let (version, hash) = last.map_or((0, None), |l| (l.document.version, Some(l.hash.clone())));
    if read.document.version != version + 1 || read.document.previous != hash {
        let text = format!(
            "{}: version {} is in force; the next one is version {} with previous: {}",
            record.tenant,
            version,
            version + 1,
            hash.as_deref().unwrap_or("(none)")
        );
        return Err(Failure::input(
            "CONSTITUTION_REFUSED",
            text,
            "correct version and previous, sign again",
        ));
    }
    Ok(())
}

fn publish(mut record: Constitution, why: &Why, cx: &Context) -> Done {
    if why.reason.trim().is_empty() {
        return Err(Failure::input(
            "USAGE",
            "--reason is empty",
            "soma constitution publish --help",
        ));
    }
    record.reason.clone_from(&why.reason);
    record.actor = cx.actor(why.who.as_deref())?;
    record.published_at = now();
    next_in_line(&record, cx)?;
    let key = format!("{}:{}", record.tenant, record.version);
    let writer = cx.writer()?;
    writer.write(topics::CONSTITUTIONS, &key, "", &record, None)?;
    writer.flush()?;
    if cx.json {
        out::json(&json!({"tenant": record.tenant, "version": record.version, "hash": record.hash}))?;
    } else {
        out::line(format!(
            "version {} of {} is in force, hash {}",
            record.version, record.tenant, record.hash
        ))?;
    }
    Ok(OK)
}

fn verify_file(file: &Path, cx: &Context) -> Done {
    let mut record = read_signed(file)?;
    record.published_at = now();
    let read = constitution::read(&record, &signers(cx)?)
        .map_err(|why| refused(vec![ConfigFault::new(&record.tenant, why)]))?;
    if cx.json {
        out::json(
            &json!({"tenant": record.tenant, "version": record.version, "hash": read.hash, "signer": read.signer}),
        )?;
    } else {
        out::line(format!(
            "good: {} version {} hash {} signed by {}",
            record.tenant, record.version, read.hash, read.signer
        ))?;
    }
    Ok(OK)
}

fn verify(tenant: Option<&str>, cx: &Context) -> Done {
    let mut all = history(cx)?;
    all.retain(|(t, _), _| tenant.is_none_or(|only| only == t));
    let faults = faults(&all);
    if cx.json {
        let bad: Vec<_> = faults
            .iter()
            .map(|((t, v), why)| json!({"tenant": t, "version": v, "fault": why}))
            .collect();
        out::json(&json!({"versions": all.len(), "faults": bad}))?;
    } else {
        for (place, why) in &faults {
            out::line(format!(
                "{} {} version {} at {}: {why}",
                out::paint(out::RED, "BAD"),
                place.0,
                place.1,
                all[place].position
            ))?;
        }
        out::line(format!("constitutions versions={} faults={}", all.len(), faults.len()))?;
    }
    Ok(if faults.is_empty() { OK } else { FAILED })
}

fn list(cx: &Context) -> Done {
    let all = history(cx)?;
    let state = |tenant: &str, v: &Version| match &v.read {
        Err(_) => "refused".to_owned(),
        Ok(read) if latest(&all, tenant).is_some_and(|l| l.hash == read.hash) => {
            let over = read.document.expires_at.is_some_and(|end| end <= now());
            if over {
                "EXPIRED: nothing is allowed"
            } else {
                "in force"
            }
            .to_owned()
        }
        Ok(_) => "-".to_owned(),
    };
    if cx.json {
        let row = |((tenant, version), v): (&(String, i64), &Version)| json!({"tenant": tenant, "version": version, "hash": v.record.hash, "state": state(tenant, v), "signer": v.record.signer, "published_at": v.record.published_at, "actor": v.record.actor, "reason": v.record.reason});
        out::json(&json!(all.iter().map(row).collect::<Vec<_>>()))?;
        return Ok(OK);
    }
    if all.is_empty() {
        out::line("no constitution is published")?;
        return Ok(OK);
    }
    let row = |((tenant, version), v): (&(String, i64), &Version)| {
        let end = v.read.as_ref().ok().and_then(|r| r.document.expires_at);
        vec![
            tenant.clone(),
            version.to_string(),
            state(tenant, v),
            v.record.hash.clone(),
            end.map_or_else(|| "-".to_owned(), when::shown),
            when::shown(v.record.published_at),
            v.record.actor.clone(),
            out::short(&v.record.reason, 60),
        ]
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    out::table(
        &[
            "TENANT",
            "VERSION",
            "STATE",
            "HASH",
            "ENDS",
            "PUBLISHED",
            "BY",
            "REASON",
        ],
        &rows,
    )?;
    Ok(OK)
}

fn show(tenant: &str, version: Option<i64>, cx: &Context) -> Done {
    let all = history(cx)?;
    let found = pick(&all, tenant, version)?;
    if cx.json {
        out::json(&json!({"document": found.document, "hash": found.hash, "signer": found.signer}))?;
        return Ok(OK);
    }
    let text =
        serde_yaml_ng::to_string(&found.document).map_err(|e| Failure::failed("INTERNAL", e.to_string(), "--json"))?;
    out::line(format!("# hash {} signed by {}", found.hash, found.signer))?;
    out::line(text.trim_end())?;
    Ok(OK)
}

fn diff(tenant: &str, from: Option<i64>, to: Option<i64>, cx: &Context) -> Done {
    let all = history(cx)?;
    let newer = pick(&all, tenant, to)?;
    let older = pick(&all, tenant, Some(from.unwrap_or(newer.document.version - 1)))?;
    let found = changes(&older.document, &newer.document);
    if cx.json {
        let rows: Vec<_> = found
            .iter()
            .map(|(path, before, after)| json!({"path": path, "before": before, "after": after}))
            .collect();
        out::json(&json!({"from": older.document.version, "to": newer.document.version, "changes": rows}))?;
    } else {
        out::line(format!(
            "{tenant} version {} -> {}",
            older.document.version, newer.document.version
        ))?;
        for (path, before, after) in &found {
            for (sign, text, colour) in [("-", before, out::RED), ("+", after, out::GREEN)] {
                if let Some(text) = text {
                    out::line(out::paint(colour, &format!("{sign} {path}: {text}")))?;
                }
            }
        }
    }
    Ok(if found.is_empty() { OK } else { FAILED })
}

fn rollback(tenant: &str, to: i64, key: &Path, expires: Option<&str>, why: &Why, cx: &Context) -> Done {
    let all = history(cx)?;
    let (last, old) = (pick(&all, tenant, None)?, pick(&all, tenant, Some(to))?);
    if last.document.version == to {
        return Err(Failure::failed(
            "NOTHING_CHANGES",
            format!("version {to} of {tenant} is in force"),
            "soma constitution list",
        ));
    }
    let until = |text: &str| {
        let usage = |e: String| Failure::input("USAGE", e, "write for example 365d or 2027-01-31T12:00:00Z");
        when::ahead(text, now()).map_err(usage)
    };
    let expires_at: Option<Timestamp> = expires.map(until).transpose()?.or(old.document.expires_at);
    let document = Document {
        version: last.document.version + 1,
        previous: Some(last.hash.clone()),
        rollback_of: Some(to),
        issued_at: now(),
        expires_at,
        ..old.document.clone()
    };
    publish(document.sign(secret(key)?).map_err(refused)?, why, cx)
}
