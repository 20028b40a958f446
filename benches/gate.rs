//! The policy gate on one core: Avro in to Avro out, beside the bare Rego engine over the same documents and an OPA server asked over HTTP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kernel::controls::Controls;
use kernel::{Delivery, Effects, Headers, Position, Processor};
use schemas::records::{Plan, Step, Verdict};
use schemas::{Record, Timestamp, Written, digest};
use stages::policy_gate::{Bundle, Input, PolicyGate, Rego};

use crate::common::{files, text};

const NOW: Timestamp = Timestamp(1_767_225_600_000_000);
/// Different plans put before it in turn.
const PLANS: usize = 64;

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Folder of the bundle.
    #[arg(long, default_value = "pipelines/policies/base")]
    bundle: PathBuf,
    /// OPA's binary.
    #[arg(long)]
    opa: PathBuf,
    /// Decisions of each contestant in a round.
    #[arg(long, default_value_t = 20_000)]
    decisions: usize,
    /// Rounds; the contestants take turns in each.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// The gate alone, for a profiler: no contestants.
    #[arg(long)]
    alone: bool,
}

/// Plans of one to three steps: probes, posts, a terraform rollout, a deletion; some are denied, some escalate.
fn plans() -> Result<Vec<Plan>, String> {
    let step = |id: usize, (tool, operation, arguments): (&str, &str, String)| Step {
        step_id: format!("s{id}"),
        tool: tool.to_owned(),
        operation: operation.to_owned(),
        arguments,
        ..Step::default()
    };
    let action = |n: usize| match n % 6 {
        0 | 1 => (
            "http",
            "request",
            format!(r#"{{"method":"GET","url":"http://127.0.0.1:8080/items/{n}"}}"#),
        ),
        2 => (
            "http",
            "request",
            format!(r#"{{"method":"POST","url":"http://127.0.0.1:8080/items","json":{{"name":"item {n}"}}}}"#),
        ),
        3 => (
            "terraform",
            "plan",
            format!(
                r#"{{"workspace":"web","variables":{{"replicas":"{}","region":"eu-west"}},"module":{{"main.tf":"resource \"terraform_data\" \"x\" {{}}"}}}}"#,
                n % 20
            ),
        ),
        4 => (
            "notify",
            "webhook",
            format!(r#"{{"url":"http://127.0.0.1:8080/hook","text":"done {n}"}}"#),
        ),
        _ => (
            "http",
            "request",
            format!(r#"{{"method":"DELETE","url":"http://127.0.0.1:8080/items/{n}"}}"#),
        ),
    };
    (0..PLANS)
        .map(|i| {
            let steps: Vec<_> = (0..=i % 3).map(|s| step(s, action(i + s))).collect();
            let run_id = format!("run_{i:032x}");
            Ok(Plan {
                plan_id: format!("plan_{i:032x}"),
                tenant: if i % 16 == 0 { "umbrella" } else { "acme" }.to_owned(),
                actor: "ada".to_owned(),
                goal: "keep the service up".to_owned(),
                digest: digest::plan(&run_id, &steps).map_err(text)?,
                run_id,
                steps,
                ..Plan::default()
            })
        })
        .collect()
}

/// Ends the server it started.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let ended = self.0.kill().and_then(|()| self.0.wait());
        drop(ended);
    }
}

fn serve(options: &Options) -> Result<(Server, TcpStream), String> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .map_err(text)?
        .port();
    let address = format!("127.0.0.1:{port}");
    let server = Command::new(&options.opa)
        .args([
            "run",
            "--server",
            "--log-level",
            "error",
            "--disable-telemetry",
            "--addr",
            &address,
            "--bundle",
        ])
        .arg(&options.bundle)
        .env("GOMAXPROCS", "1")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map(Server)
        .map_err(text)?;
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        match TcpStream::connect(&address) {
            Ok(stream) => {
                stream.set_nodelay(true).map_err(text)?;
                return Ok((server, stream));
            }
            Err(e) if Instant::now() > until => return Err(format!("OPA does not answer on {address}: {e}")),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// One question to OPA on a connection that stays open: both sets in one answer.
fn ask(stream: &mut BufReader<TcpStream>, body: &str) -> Result<Vec<u8>, String> {
    let head = format!(
        "POST /v1/data/soma/gate HTTP/1.1\r\nHost: opa\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream
        .get_mut()
        .write_all([head.as_bytes(), body.as_bytes()].concat().as_slice())
        .map_err(text)?;
    let (mut length, mut line) = (None, String::new());
    loop {
        line.clear();
        stream.read_line(&mut line).map_err(text)?;
        if let Some(n) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = Some(n.trim().parse().map_err(text)?);
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut answer = Vec::new();
    let mut part = |stream: &mut BufReader<TcpStream>, length: usize| {
        let from = answer.len();
        answer.resize(from + length, 0);
        stream.read_exact(&mut answer[from..]).map_err(text)
    };
    if let Some(length) = length {
        part(stream, length)?;
        return Ok(answer);
    }
    // An answer of a length not told beforehand comes in chunks, the last of which is empty.
    loop {
        line.clear();
        stream.read_line(&mut line).map_err(text)?;
        let length = usize::from_str_radix(line.trim(), 16).map_err(text)?;
        part(stream, length)?;
        line.clear();
        stream.read_line(&mut line).map_err(text)?;
        if length == 0 {
            return Ok(answer);
        }
    }
}

struct Contest {
    gate: PolicyGate,
    rego: Rego,
    documents: Vec<serde_json::Value>,
    /// The same as OPA is asked.
    bodies: Vec<String>,
    avro: Vec<Vec<u8>>,
    written: Written,
}

impl Contest {
    /// Avro of a plan in, Avro of its verdict and event out: what the stage does between two transactions.
    fn judge(&self, n: usize) -> Result<Vec<u8>, String> {
        let plan = Plan::from_written(&self.written, &self.avro[n % PLANS]).map_err(text)?;
        let controls = Controls::default();
        let key = plan.run_id.clone();
        let mut fx = Effects::new(NOW, &key, "bench", &controls);
        let delivery = Delivery {
            input: Input::Plan(Box::new(plan)),
            key: key.clone(),
            position: Position::default(),
            headers: Headers::default(),
            at: NOW,
        };
        self.gate.step(&mut (), &delivery, &mut fx).map_err(text)?;
        fx.emits
            .into_iter()
            .next()
            .map(|e| e.avro)
            .ok_or_else(|| "no verdict".to_owned())
    }
}

/// Seconds of each decision.
fn timed(decisions: usize, mut one: impl FnMut(usize) -> Result<(), String>) -> Result<Vec<f64>, String> {
    let mut took = Vec::with_capacity(decisions);
    for n in 0..decisions {
        let began = Instant::now();
        one(n)?;
        took.push(began.elapsed().as_secs_f64());
    }
    Ok(took)
}

#[allow(clippy::cast_precision_loss, reason = "decisions a second")]
fn per_s(took: &[f64]) -> f64 {
    took.len() as f64 / took.iter().sum::<f64>().max(1e-9)
}

fn p99_us(took: &mut [f64]) -> f64 {
    took.sort_by(f64::total_cmp);
    took.get(took.len() * 99 / 100).map_or(0.0, |s| s * 1e6)
}

/// How many rules a bundle has: findings it can give.
fn rules(files: &[(String, String)]) -> usize {
    let policies = files
        .iter()
        .filter(|(path, _)| path.ends_with(".rego") && !path.ends_with("_test.rego"));
    policies.map(|(_, text)| text.matches("\"rule\": \"").count()).sum()
}

pub(crate) fn run(options: &Options) -> Result<String, String> {
    let files = files(&options.bundle)?;
    let bundle = || Bundle::parse(&files).map_err(|f| f.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "));
    let gate = PolicyGate::new(bundle()?, [7; 32], || 0);
    let plans = plans()?;
    let documents: Vec<_> = plans
        .iter()
        .map(|p| gate.document(&Input::Plan(Box::new(p.clone())), NOW))
        .collect();
    let contest = Contest {
        rego: bundle()?.rego(),
        bodies: documents
            .iter()
            .map(|d| serde_json::json!({"input": d}).to_string())
            .collect(),
        documents,
        avro: plans
            .iter()
            .map(|p| p.to_avro().map_err(text))
            .collect::<Result<_, _>>()?,
        written: Written::with(Plan::schema().clone()),
        gate,
    };
    if options.alone {
        let mut took = timed(options.decisions, |n| contest.judge(n).map(drop))?;
        return Ok(format!(
            "gate_per_s={:.0} p99_us={:.0}",
            per_s(&took),
            p99_us(&mut took)
        ));
    }
    let (_server, stream) = serve(options)?;
    let mut stream = BufReader::new(stream);
    agree(&contest, &mut stream)?;
    let mut rego = contest.rego.clone();
    let (mut raw, mut whole, mut http) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        raw.extend(timed(options.decisions, |n| {
            rego.findings(&contest.documents[n % PLANS]).map(drop)
        })?);
        whole.extend(timed(options.decisions, |n| contest.judge(n).map(drop))?);
        http.extend(timed(options.decisions / 10, |n| {
            ask(&mut stream, &contest.bodies[n % PLANS]).map(drop)
        })?);
    }
    let (raw_s, gate_s, http_s) = (per_s(&raw), per_s(&whole), per_s(&http));
    Ok(format!(
        "rules={} raw_per_s={raw_s:.0} raw_p99_us={:.0} opa_http_per_s={http_s:.0} opa_http_p99_us={:.0}\n\
         gate_per_s={gate_s:.0} p99_us={:.0} ratio_to_regorus={:.2} ratio_to_opa_http={:.1}",
        rules(&files),
        p99_us(&mut raw),
        p99_us(&mut http),
        p99_us(&mut whole),
        gate_s / raw_s,
        gate_s / http_s
    ))
}

/// All three find the same in every plan: a contestant that finds nothing would be fast.
fn agree(contest: &Contest, stream: &mut BufReader<TcpStream>) -> Result<(), String> {
    let mut rego = contest.rego.clone();
    let names = |values: &[serde_json::Value]| {
        let mut all: Vec<_> = values
            .iter()
            .map(|f| f["rule"].as_str().unwrap_or_default().to_owned())
            .collect();
        all.sort();
        all
    };
    let mut found = 0;
    for n in 0..PLANS {
        let answer: serde_json::Value = serde_json::from_slice(&ask(stream, &contest.bodies[n])?).map_err(text)?;
        let set = |name: &str| answer["result"][name].as_array().cloned().unwrap_or_default();
        let theirs = names(&[set("deny"), set("escalate")].concat());
        let raw = names(&rego.findings(&contest.documents[n])?);
        let verdict = Verdict::from_avro(Verdict::schema(), &contest.judge(n)?).map_err(text)?;
        let mut ours: Vec<_> = verdict.violations.into_iter().map(|v| v.rule).collect();
        ours.sort();
        if theirs != raw || raw != ours {
            return Err(format!(
                "plan {n}: OPA finds {theirs:?}, regorus {raw:?}, the gate {ours:?}"
            ));
        }
        found += ours.len();
    }
    if found == 0 {
        return Err("no plan breaks a rule: the benchmark would measure nothing".to_owned());
    }
    Ok(())
}
