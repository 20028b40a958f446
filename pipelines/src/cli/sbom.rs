//! `soma sbom`: bills of materials of tools and capsules on `soma.sboms`, and what a constitution says of one before it is published.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemas::records::Sbom;
use schemas::topics;
use serde_json::json;
use stages::policy_gate::sbom;

use super::constitution::{self, Why};
use super::context::{Context, now};
use super::failure::{Done, FAILED, Failure, OK};
use super::{out, when};

/// Publishes and looks into bills of materials.
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Puts a bill of materials in force, in place of the one that was
    #[command(after_help = "Examples:
  cargo cyclonedx --format json                                    writes one of a crate
  soma sbom publish tool:terraform terraform.cdx.json --reason 'version 1.12.6'
  soma sbom publish capsule:service_rollout@1.0.0 rollout.cdx.json --reason 'reviewed'

CycloneDX in JSON. A constitution demands one with `oblige: { sbom: ... }`: see `soma sbom check --help`.")]
    Publish {
        /// tool:<name> or capsule:<name>, with @version or for all of them
        subject: String,
        /// The bill of materials
        file: PathBuf,
        #[command(flatten)]
        why: Why,
    },
    /// Says what a constitution's demands find in one; publishes nothing
    #[command(after_help = "Example:
  soma sbom check tool:terraform terraform.cdx.json --constitution acme.yaml

  requirements:
    - id: known_parts
      text: Only what is made of known parts may change anything.
      when: { tools: [terraform] }
      oblige: { sbom: { of: [tool, capsule], licences: [MIT, Apache-2.0, MPL-2.0], denied: ['pkg:golang/golang.org/x/net@<0.38.0'] } }

Exit code: 0 nothing, 1 something.")]
    Check {
        /// tool:<name> or capsule:<name>
        subject: String,
        /// The bill of materials
        file: PathBuf,
        /// The document, YAML or JSON
        #[arg(long, value_name = "FILE")]
        constitution: PathBuf,
    },
    /// Lists those in force
    #[command(after_help = "Example:\n  soma sbom list")]
    List,
    /// Shows one with its components
    #[command(after_help = "Example:\n  soma sbom show tool:terraform")]
    Show {
        /// tool:<name> or capsule:<name>
        subject: String,
    },
    /// Takes one out of force
    #[command(after_help = "Example:
  soma sbom withdraw tool:terraform --reason 'of the wrong build'

Where a constitution demands one, the tool is denied from then on.")]
    Withdraw {
        /// tool:<name> or capsule:<name>
        subject: String,
        #[command(flatten)]
        why: Why,
    },
}

pub(super) fn run(command: &Command, cx: &Context) -> Done {
    match command {
        Command::Publish { subject, file, why } => publish(read(subject, file)?, why, cx),
        Command::Check {
            subject,
            file,
            constitution,
        } => check(&read(subject, file)?, constitution, cx),
        Command::List => list(cx),
        Command::Show { subject } => show(subject, cx),
        Command::Withdraw { subject, why } => {
            let held = one(subject, cx)?;
            let gone = Sbom {
                withdrawn: true,
                components: Vec::new(),
                ..held
            };
            publish(gone, why, cx)
        }
    }
}

fn read(subject: &str, file: &Path) -> Result<Sbom, Failure> {
    let bad = |why: String| {
        Failure::input(
            "SBOM_INVALID",
            format!("{}: {why}", file.display()),
            "soma sbom publish --help",
        )
    };
    let text = std::fs::read_to_string(file).map_err(|e| bad(e.to_string()))?;
    sbom::read(subject, &text).map_err(bad)
}

fn publish(sbom: Sbom, why: &Why, cx: &Context) -> Done {
    if why.reason.trim().is_empty() {
        return Err(Failure::input("USAGE", "--reason is empty", "soma sbom publish --help"));
    }
    let record = Sbom {
        reason: why.reason.clone(),
        actor: cx.actor(why.who.as_deref())?,
        published_at: now(),
        ..sbom
    };
    let writer = cx.writer()?;
    writer.write(topics::SBOMS, &record.subject, "", &record, None)?;
    writer.flush()?;
    if cx.json {
        out::json(
            &json!({"subject": record.subject, "digest": record.digest, "components": record.components.len(), "withdrawn": record.withdrawn}),
        )?;
    } else if record.withdrawn {
        out::line(format!("{} has no bill of materials any more", record.subject))?;
    } else {
        let (subject, format, parts) = (&record.subject, &record.format, record.components.len());
        out::line(format!(
            "{subject} is made of {parts} components ({format}, sha256 {})",
            record.digest
        ))?;
    }
    Ok(OK)
}

fn check(sbom: &Sbom, file: &Path, cx: &Context) -> Done {
    let document = constitution::document(file)?;
    let demands = document.requirements.iter().filter_map(|r| {
        let demand = r.oblige.as_ref()?.sbom.as_ref()?;
        Some((r.id.as_str(), demand))
    });
    let found: Vec<_> = demands.map(|(id, demand)| (id, demand.judge(sbom))).collect();
    let against = found.iter().filter(|(_, fault)| fault.is_some()).count();
    if cx.json {
        let rows: Vec<_> = found
            .iter()
            .map(|(id, fault)| json!({"requirement": id, "fault": fault}))
            .collect();
        out::json(&json!(rows))?;
    } else if found.is_empty() {
        out::line(format!("{} demands no bill of materials", file.display()))?;
    } else {
        for (id, fault) in &found {
            out::line(format!("{id}: {}", fault.as_deref().unwrap_or("met")))?;
        }
    }
    Ok(if against == 0 { OK } else { FAILED })
}

/// Those in force, by subject.
fn in_force(cx: &Context) -> Result<BTreeMap<String, Sbom>, Failure> {
    let mut all = BTreeMap::new();
    cx.each(topics::SBOMS, &mut |_, sbom| {
        if sbom.withdrawn {
            all.remove(&sbom.subject);
        } else {
            all.insert(sbom.subject.clone(), sbom);
        }
    })?;
    Ok(all)
}

fn one(subject: &str, cx: &Context) -> Result<Sbom, Failure> {
    in_force(cx)?.remove(subject).ok_or_else(|| {
        let text = format!("{subject} has no bill of materials");
        Failure::failed("NOT_FOUND", text, "soma sbom list")
    })
}

fn list(cx: &Context) -> Done {
    let all = in_force(cx)?;
    if cx.json {
        out::json(&json!(all.values().collect::<Vec<_>>()))?;
    } else if all.is_empty() {
        out::line("there is no bill of materials")?;
    } else {
        let row = |s: &Sbom| {
            let parts = s.components.len().to_string();
            let digest = s.digest.chars().take(12).collect();
            let at = when::shown(s.published_at);
            vec![
                s.subject.clone(),
                s.format.clone(),
                parts,
                digest,
                at,
                s.actor.clone(),
                out::short(&s.reason, 40),
            ]
        };
        let rows: Vec<_> = all.values().map(row).collect();
        out::table(
            &["SUBJECT", "FORMAT", "COMPONENTS", "SHA256", "PUBLISHED", "BY", "REASON"],
            &rows,
        )?;
    }
    Ok(OK)
}

fn show(subject: &str, cx: &Context) -> Done {
    let sbom = one(subject, cx)?;
    if cx.json {
        out::json(&json!(sbom))?;
        return Ok(OK);
    }
    let row = |c: &schemas::records::SbomComponent| {
        vec![
            c.name.clone(),
            c.version.clone(),
            c.licences.join(" AND "),
            c.purl.clone(),
        ]
    };
    let rows: Vec<_> = sbom.components.iter().map(row).collect();
    out::table(&["COMPONENT", "VERSION", "LICENCE", "PACKAGE URL"], &rows)?;
    Ok(OK)
}
