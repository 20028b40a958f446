//! `soma memory search | recent`: what was remembered, by meaning from Qdrant, by time from Redis. The stores' read sides are the
//! sinks'; the model is the one the memories were written with.

use std::path::Path;
use std::sync::Arc;

use kernel::Embedder;
use schemas::records::Memory;
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};
use sinks::qdrant::{Filters, Hit};
use sinks::redis::Whose;

use super::context::{Context, now};
use super::failure::{Done, Failure, OK};
use super::{out, runs, when};

/// Finds what was remembered.
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Finds memories of a tenant by meaning, the nearest first
    #[command(after_help = "Examples:
  soma memory search 'rollouts of the shop that failed' --tenant acme
  soma memory search 'terraform destroyed something' --tenant acme --limit 5 --attribute tool=terraform

SCORE is the cosine between question and memory: near 1 says the same, below 0.2 has little to do with it.
There is no search across tenants.")]
    Search(Search),
    /// Shows the latest memories of a tenant or a run
    #[command(after_help = "Examples:
  soma memory recent --tenant acme
  soma memory recent --run 3f2a91 --json

The history is kept for a while only (a run's 7 days, a tenant's 30 days, unless configured otherwise).")]
    Recent(Recent),
}

/// What to look for.
#[derive(clap::Args)]
pub(super) struct Search {
    /// What you want to know, in words
    text: String,
    /// Whose memories
    #[arg(long)]
    tenant: String,
    /// At most so many
    #[arg(long, default_value_t = 10, value_name = "N")]
    limit: u64,
    /// Only memories of this run (its whole id)
    #[arg(long)]
    run: Option<String>,
    /// Only memories with this fact, for example tool=http or status=FAILED; may be repeated
    #[arg(long, value_parser = fact, value_name = "NAME=VALUE")]
    attribute: Vec<(String, String)>,
}

/// Whose history.
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("whose").required(true)))]
pub(super) struct Recent {
    /// A tenant's, over all its runs
    #[arg(long, group = "whose")]
    tenant: Option<String>,
    /// A run's: its id or the beginning of it
    #[arg(long, group = "whose")]
    run: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 20, value_name = "N")]
    limit: usize,
}

pub(super) fn run(command: &Command, cx: &Context) -> Done {
    match command {
        Command::Search(search) => {
            let hits = find(search, cx)?;
            let scores: Vec<_> = hits.iter().map(|h| Some(h.score)).collect();
            show(&hits.into_iter().map(|h| h.memory).collect::<Vec<_>>(), &scores, cx)
        }
        Command::Recent(recent) => show(&history(recent, cx)?, &[], cx),
    }
}

fn fact(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .ok_or("write NAME=VALUE, for example tool=http")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// A store's configuration from the environment, its defaults left to the sink.
fn config<T: DeserializeOwned>(json: Json, name: &str) -> Result<T, Failure> {
    serde_json::from_value(json).map_err(|e| {
        Failure::input(
            "CONFIG_INVALID",
            format!("{name}: {e}"),
            "see .soma/dev.env for an example",
        )
    })
}

fn find(search: &Search, cx: &Context) -> Result<Vec<Hit>, Failure> {
    let at = |name: &str| cx.variable(name);
    let (library, model, tokenizer) = (
        at("ORT_DYLIB_PATH")?,
        at("SOMA_MODEL_PATH")?,
        at("SOMA_TOKENIZER_PATH")?,
    );
    let key = cx.env.get("SOMA_QDRANT_API_KEY").unwrap_or_default();
    let config = config(
        json!({"url": at("SOMA_QDRANT_URL")?, "api_key": key}),
        "SOMA_QDRANT_URL",
    )?;
    let model = models::MiniLm::load(Path::new(&library), Path::new(&model), Path::new(&tokenizer), 1)?;
    let embedder: Arc<dyn Embedder> = Arc::new(model);
    let filters = Filters {
        run_id: search.run.clone(),
        attributes: search.attribute.iter().cloned().collect(),
        now: Some(now()),
        ..Filters::default()
    };
    let found = cx.runtime()?.block_on(async {
        let reader = sinks::qdrant::Reader::new(&config, embedder)?;
        reader
            .search(&search.tenant, &search.text, search.limit, &filters)
            .await
    });
    Ok(found?)
}

fn history(recent: &Recent, cx: &Context) -> Result<Vec<Memory>, Failure> {
    let config = config(json!({"url": cx.variable("SOMA_REDIS_URL")?}), "SOMA_REDIS_URL")?;
    // A run's history is read in the name of its tenant, which the run itself tells.
    let run = recent.run.as_deref().map(|run| runs::find(cx, run)).transpose()?;
    let whose = match (&run, &recent.tenant) {
        (Some(run), _) => Whose::Run {
            tenant: &run.tenant,
            run_id: &run.run_id,
        },
        (None, tenant) => Whose::Tenant(tenant.as_deref().unwrap_or_default()),
    };
    let found = cx.runtime()?.block_on(async {
        let reader = sinks::redis::Reader::new(&config)?;
        reader.recent(whose, recent.limit, now()).await
    });
    Ok(found?)
}

fn show(memories: &[Memory], scores: &[Option<f32>], cx: &Context) -> Done {
    if cx.json {
        let lines = memories
            .iter()
            .enumerate()
            .map(|(i, memory)| json!({"score": scores.get(i).copied().flatten(), "memory": memory}));
        out::json(&Json::Array(lines.collect()))?;
        return Ok(OK);
    }
    if memories.is_empty() {
        out::line("nothing is remembered")?;
        return Ok(OK);
    }
    for (i, memory) in memories.iter().enumerate() {
        let score = scores
            .get(i)
            .copied()
            .flatten()
            .map(|s| format!("{s:.3}  "))
            .unwrap_or_default();
        let step = if memory.step_id.is_empty() {
            String::new()
        } else {
            format!(" step {}", memory.step_id)
        };
        let head = format!("{score}{}  {}{step}", when::shown(memory.created_at), memory.run_id);
        out::line(out::paint(out::DIM, &head))?;
        out::line(format!("  {}", memory.text))?;
    }
    Ok(OK)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn facts() {
        assert_eq!(fact("tool=http"), Ok(("tool".into(), "http".into())));
        assert_eq!(fact("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(fact("tool").is_err() && fact("=x").is_err());
    }

    #[test]
    fn defaults_are_the_sinks() {
        let made: sinks::redis::Config = config(json!({"url": "redis://h:1"}), "SOMA_REDIS_URL").unwrap();
        assert_eq!(made.length_max, 200);
        let failure = config::<sinks::redis::Config>(json!({"url": 7}), "SOMA_REDIS_URL")
            .err()
            .unwrap();
        assert!(failure.text.contains("SOMA_REDIS_URL"));
    }
}
