//! `soma deploy --engine`: a pipeline's streaming SQL on a distributed engine. Rendering is the analytics crate's; here it is shown or
//! sent: statements to Flink's SQL gateway, two requests to Arroyo.

use std::sync::Arc;
use std::time::Duration;

use analytics::engines::{Arroyo, Engine, Flink, Post, Script};
use serde_json::{Value as Json, json};

use super::context::Context;
use super::failure::{Done, Failure, OK};
use super::pipeline::file_of;
use super::{out, topics};
use crate::config::Pipeline;
use crate::streaming::{self, Planned};

/// An engine waits for its planner; the first statement of a fresh gateway loads it.
const STATEMENT_S: u64 = 120;
const REQUEST: Duration = Duration::from_secs(60);

/// Which engine runs the pipeline's streaming SQL.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(super) enum Which {
    /// Apache Flink, through its SQL gateway at SOMA_FLINK_URL
    Flink,
    /// Arroyo, through its REST API at SOMA_ARROYO_URL; not yet run against a live cluster
    Arroyo,
}

/// How it is to run there.
#[derive(clap::Args)]
pub(super) struct Options {
    /// Run the pipeline's streaming SQL on this engine instead of here
    #[arg(long)]
    pub(super) engine: Option<Which>,
    /// Print what would be sent; send nothing
    #[arg(long, requires = "engine")]
    dry_run: bool,
    /// Slots or subtasks
    #[arg(long, requires = "engine", default_value_t = 4, value_name = "N")]
    parallelism: u32,
    /// Flink: read what is in the topics now, close every window, end
    #[arg(long, requires = "engine")]
    bounded: bool,
    /// Flink: stop a job of the same name first; the new one reads from the beginning
    #[arg(long, requires = "engine")]
    replace: bool,
}

/// Deploys every stage of streaming SQL of a pipeline.
pub(super) fn deploy(pipeline: &str, which: Which, options: &Options, cx: &Context) -> Done {
    let file = file_of(pipeline)?;
    let pipeline = Pipeline::load(&file, &cx.env).map_err(|faults| refused(&faults))?;
    let stages = pipeline.stages.iter().filter(|s| s.component == streaming::COMPONENT);
    let planned: Vec<Arc<Planned>> = stages
        .map(|entry| streaming::plan(entry, &pipeline))
        .collect::<Result<_, _>>()
        .map_err(|faults| refused(&faults))?;
    if planned.is_empty() {
        let text = format!(
            "{} has no stage with `use: {}`",
            pipeline.pipeline,
            streaming::COMPONENT
        );
        return Err(Failure::input(
            "STAGE_UNKNOWN",
            text,
            "only streaming SQL runs on a distributed engine",
        ));
    }
    if let Some(name) = pipeline.connections.kafka.properties.keys().next() {
        let text =
            format!("connections.kafka.properties.{name} is librdkafka's and is not translated for another engine");
        return Err(Failure::input(
            "CONFIG_INVALID",
            text,
            "give the cluster its own credentials, and a pipeline file without them",
        ));
    }
    if !options.dry_run {
        topics::apply_all(std::slice::from_ref(&file), false, cx)?;
    }
    for stage in &planned {
        match which {
            Which::Flink => flink(stage, &pipeline, options, cx)?,
            Which::Arroyo => arroyo(stage, &pipeline, options, cx)?,
        }
    }
    Ok(OK)
}

fn refused(faults: &[kernel::ConfigFault]) -> Failure {
    let lines: Vec<_> = faults.iter().map(ToString::to_string).collect();
    Failure::input(
        "CONFIG_INVALID",
        lines.join("\n   "),
        "`soma sql check` lists them with their places",
    )
}

fn name_of(stage: &Planned) -> String {
    format!("{}.{}", stage.settings.pipeline, stage.settings.stage)
}

/// Lines that say, for each statement, what an engine does with it.
pub(super) fn verdicts(sql: &str) -> Vec<String> {
    use analytics::engines::Verdict;
    let Ok(all) = analytics::engines::support(sql) else {
        return Vec::new();
    };
    let mut lines = Vec::new();
    for engine in Engine::ALL {
        let of = || all.iter().filter(move |(_, e, _)| *e == engine);
        let runs = |(statement, _, verdict): &&(String, Engine, Verdict)| {
            statement.starts_with("insert") && !matches!(verdict, Verdict::No(_))
        };
        let results = of().filter(|(statement, ..)| statement.starts_with("insert")).count();
        let unproven = if engine == Engine::Arroyo {
            ", not yet run against a live cluster"
        } else {
            ""
        };
        lines.push(format!(
            "{}: {} of {results} results{unproven}",
            engine.name(),
            of().filter(runs).count()
        ));
        for (statement, _, verdict) in of() {
            match verdict {
                Verdict::Same => {}
                Verdict::Differs(notes) => lines.extend(notes.iter().map(|note| format!("  {statement}: {note}"))),
                Verdict::No(why) => lines.push(format!("  {statement}: no: {why}")),
            }
        }
    }
    lines
}

fn flink(stage: &Planned, pipeline: &Pipeline, options: &Options, cx: &Context) -> Result<(), Failure> {
    let job = name_of(stage);
    let rendered = Flink {
        job: &job,
        brokers: &pipeline.connections.kafka.bootstrap,
        registry: &pipeline.connections.registry.url,
        parallelism: options.parallelism,
        bounded: options.bounded,
        sources: &stage.sources,
        results: &stage.program.results(),
    };
    let script = rendered.render(&stage.sql).map_err(|faults| refused(&faults))?;
    for (result, why) in &script.left_out {
        out::note(format!("left out: {result}: {why}"));
    }
    if options.dry_run {
        return shown(&script, cx);
    }
    let gateway = cx.variable("SOMA_FLINK_URL")?;
    let id = cx
        .runtime()?
        .block_on(submit(&gateway, &script, &job, options.replace))?;
    if cx.json {
        return out::json(&json!({"engine": "flink", "job": job, "id": id, "left_out": script.left_out}));
    }
    out::line(format!("flink runs {job} as job {id}"))
}

fn shown(script: &Script, cx: &Context) -> Result<(), Failure> {
    if cx.json {
        return out::json(&json!({"engine": "flink", "statements": script.statements, "left_out": script.left_out}));
    }
    script
        .statements
        .iter()
        .try_for_each(|statement| out::line(format!("{statement};\n")))
}

/// Opens a session, executes the statements, gives the job's id.
async fn submit(gateway: &str, script: &Script, job: &str, replace: bool) -> Result<String, Failure> {
    let client = Client::new()?;
    let opened = client.post(&format!("{gateway}/v1/sessions"), &json!({})).await?;
    let session = format!(
        "{gateway}/v1/sessions/{}",
        opened["sessionHandle"].as_str().unwrap_or_default()
    );
    let done = statements(&client, &session, script, job, replace).await;
    // The job goes on without the session; a gateway that forgets to close one closes it by itself later.
    let _closed = client.send(client.http.delete(&session), &session).await;
    done
}

async fn statements(
    client: &Client,
    session: &str,
    script: &Script,
    job: &str,
    replace: bool,
) -> Result<String, Failure> {
    let jobs = execute(client, session, "SHOW JOBS").await?;
    let running = jobs["results"]["data"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| &row["fields"]);
    for row in running.filter(|row| row[1] == job && row[2] == "RUNNING") {
        let id = row[0].as_str().unwrap_or_default();
        if !replace {
            let text = format!("{job} runs already on this cluster, as job {id}");
            return Err(Failure::failed(
                "JOB_RUNNING",
                text,
                "--replace stops it and reads the topics from the beginning",
            ));
        }
        execute(client, session, &format!("STOP JOB '{id}'")).await?;
    }
    let mut last = Json::Null;
    for statement in &script.statements {
        last = execute(client, session, statement).await?;
    }
    let id = last["jobID"]
        .as_str()
        .or_else(|| last["results"]["data"][0]["fields"][0].as_str());
    id.map(str::to_owned).ok_or_else(|| {
        Failure::failed(
            "ENGINE_REFUSED",
            format!("nothing of {job} was left to run"),
            "`soma sql check` says which statement Flink supports, and why not",
        )
    })
}

/// One statement, waited for; its first page of results.
async fn execute(client: &Client, session: &str, statement: &str) -> Result<Json, Failure> {
    let begun = client
        .post(&format!("{session}/statements"), &json!({"statement": statement}))
        .await?;
    let operation = format!(
        "{session}/operations/{}",
        begun["operationHandle"].as_str().unwrap_or_default()
    );
    let until = std::time::Instant::now() + Duration::from_secs(STATEMENT_S);
    loop {
        let status = client.get(&format!("{operation}/status")).await?;
        match status["status"].as_str().unwrap_or_default() {
            "FINISHED" | "ERROR" | "CANCELED" | "TIMEOUT" | "CLOSED" => break,
            _ if std::time::Instant::now() > until => {
                let text = format!("Flink did not answer within {STATEMENT_S} s: {statement}");
                return Err(Failure::unreachable(
                    "ENGINE_UNAVAILABLE",
                    text,
                    "the gateway's log says what it waits for",
                ));
            }
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    // An error is said here, not in the status.
    client
        .get(&format!("{operation}/result/0?rowFormat=JSON"))
        .await
        .map_err(|mut failure| {
            failure.text = format!("{}\n   in: {statement}", failure.text);
            failure
        })
}

fn arroyo(stage: &Planned, pipeline: &Pipeline, options: &Options, cx: &Context) -> Result<(), Failure> {
    let name = name_of(stage);
    let rendered = Arroyo {
        name: &name,
        brokers: &pipeline.connections.kafka.bootstrap,
        registry: &pipeline.connections.registry.url,
        parallelism: options.parallelism,
        udfs: &[],
    };
    let posts = rendered.render(&stage.sql).map_err(|faults| refused(&faults))?;
    if options.dry_run {
        let shown = posts
            .iter()
            .map(|p| json!({"method": "POST", "path": p.path, "body": p.body}))
            .collect();
        return out::json(&Json::Array(shown));
    }
    let url = cx.variable("SOMA_ARROYO_URL")?;
    let id = cx.runtime()?.block_on(send(&url, &posts))?;
    out::line(format!("arroyo runs {name} as pipeline {id}"))
}

async fn send(url: &str, posts: &[Post]) -> Result<String, Failure> {
    let client = Client::new()?;
    let mut last = Json::Null;
    for post in posts {
        last = client.post(&format!("{url}{}", post.path), &post.body).await?;
    }
    Ok(last["id"].as_str().unwrap_or("without an id").to_owned())
}

/// Requests with JSON both ways; an answer that is not 2xx is a failure with the engine's own words.
struct Client {
    http: reqwest::Client,
}

impl Client {
    fn new() -> Result<Self, Failure> {
        let http = reqwest::Client::builder().timeout(REQUEST).build();
        let http = http.map_err(|e| {
            Failure::failed(
                "INTERNAL",
                format!("HTTP client: {e}"),
                "see deploy/runbooks/INTERNAL.md",
            )
        })?;
        Ok(Self { http })
    }

    async fn post(&self, url: &str, body: &Json) -> Result<Json, Failure> {
        self.send(self.http.post(url).json(body), url).await
    }

    async fn get(&self, url: &str) -> Result<Json, Failure> {
        self.send(self.http.get(url), url).await
    }

    async fn send(&self, request: reqwest::RequestBuilder, url: &str) -> Result<Json, Failure> {
        let gone = |e: reqwest::Error| {
            let help = "is the cluster up? `python3 deploy/dev/flink.py up` starts one beside the dev stack and prints its address";
            Failure::unreachable("ENGINE_UNAVAILABLE", format!("{url}: {e}"), help)
        };
        let answer = request.send().await.map_err(gone)?;
        let status = answer.status();
        let text = answer.text().await.map_err(gone)?;
        if !status.is_success() {
            return Err(Failure::failed(
                "ENGINE_REFUSED",
                format!("{status}: {}", cause(&text)),
                "`--dry-run` prints everything that is sent",
            ));
        }
        Ok(serde_json::from_str(&text).unwrap_or(Json::Null))
    }
}

/// What was wrong, out of a Java stack trace.
fn cause(text: &str) -> String {
    let parsed: Json = serde_json::from_str(text).unwrap_or(Json::Null);
    let listed: Vec<_> = parsed["errors"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Json::as_str)
        .collect();
    let said = if listed.is_empty() {
        text.to_owned()
    } else {
        listed.join("\n")
    };
    let lines: Vec<_> = said
        .lines()
        .filter(|l| !l.trim_start().starts_with("at ") && !l.trim_start().starts_with("..."))
        .collect();
    let from = lines.iter().rposition(|l| l.starts_with("Caused by:")).unwrap_or(0);
    lines[from..].iter().take(12).copied().collect::<Vec<_>>().join("\n   ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_cause_is_what_is_told() {
        let trace = "{\"errors\":[\"Internal server error.\",\"<Exception on server side:\\norg.A: outer\\n\\tat x.y(Z.java)\\nCaused by: org.B: inner\\n\\nUnsupported options:\\n\\nfoo\\n\\tat x.y(Z.java)\\n\\t... 3 more\\n\"]}";
        assert_eq!(
            cause(trace),
            "Caused by: org.B: inner\n   \n   Unsupported options:\n   \n   foo"
        );
        assert_eq!(cause("plain words"), "plain words");
    }
}
