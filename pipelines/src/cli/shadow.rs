//! `soma policy shadow`: a candidate bundle beside the live one. It follows what is put before the gate and what the gate says, judges
//! the same with the candidate, and writes that to a side topic. It is part of no pipeline: nothing waits for it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kafka::{Admin, From, Registry, Tail, Writer};
use kernel::members::Members;
use schemas::Record;
use schemas::records::{Plan, Proposal, Verdict};
use schemas::topics::{self, Topic};
use serde_json::json;
use stages::policy_gate::{Bundle, PolicyGate};

use super::context::{Context, now};
use super::failure::{Done, Failure};
use super::policy::{read, refused, summary};
use super::{members, out, policies, reprocess, when};
use crate::backtest::{Backtest, Put, judge};
use crate::govern;

/// How long a plan or proposal waits for its verdict, and a verdict for what it is about: the three topics are read each at its own pace.
const WAIT: Duration = Duration::from_secs(60);

/// What to try.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Folder of the bundle to try
    #[arg(long, value_name = "DIR")]
    bundle: PathBuf,
    /// One tenant only
    #[arg(long)]
    tenant: Option<String>,
    /// End after so long (default: at Ctrl-C)
    #[arg(long = "for", value_parser = when::duration_ms, value_name = "DURATION")]
    length: Option<i64>,
    /// Prefix of the side topic (default: shadow.REVISION)
    #[arg(long, value_name = "PREFIX")]
    into: Option<String>,
}

/// Something of a run that waits for its counterpart.
struct Waits<T> {
    by_run: BTreeMap<String, Vec<(Instant, T)>>,
}

impl<T> Waits<T> {
    fn new() -> Self {
        Self {
            by_run: BTreeMap::new(),
        }
    }

    fn put(&mut self, run: &str, item: T) {
        self.by_run
            .entry(run.to_owned())
            .or_default()
            .push((Instant::now(), item));
    }

    /// Takes out what fits.
    fn take(&mut self, run: &str, fits: impl Fn(&T) -> bool) -> Option<T> {
        let items = self.by_run.get_mut(run)?;
        let at = items.iter().position(|(_, item)| fits(item))?;
        let (_, item) = items.remove(at);
        if items.is_empty() {
            self.by_run.remove(run);
        }
        Some(item)
    }

    /// How many have waited too long and are given up.
    fn give_up(&mut self, after: Duration) -> usize {
        let mut given = 0;
        self.by_run.retain(|_, items| {
            let before = items.len();
            items.retain(|(since, _)| since.elapsed() < after);
            given += before - items.len();
            !items.is_empty()
        });
        given
    }
}

/// A topic followed from now on.
struct Followed<R> {
    tail: Tail,
    registry: Arc<Registry>,
    record: std::marker::PhantomData<R>,
}

impl<R: Record> Followed<R> {
    fn open(cx: &Context, topic: Topic<R>) -> Result<Self, Failure> {
        Ok(Self {
            tail: Tail::open(&cx.brokers()?, topic.name, From::End)?,
            registry: cx.registry()?,
            record: std::marker::PhantomData,
        })
    }

    /// The next record there is. A broker that is away is waited for.
    fn next(&mut self, wait_ms: u64) -> Result<Option<R>, Failure> {
        let Ok(Some(record)) = self.tail.next(wait_ms) else {
            return Ok(None);
        };
        let Some(value) = record.value else { return Ok(None) };
        match kernel::decode::<R>(&value, self.registry.as_ref()) {
            Ok(read) => Ok(Some(read)),
            Err(fault) if fault.blame == kernel::Blame::Dependency => Err(fault.into()),
            // What cannot be read was not judged either.
            Err(_) => Ok(None),
        }
    }
}

struct Shadow {
    gate: PolicyGate,
    members: Members,
    writer: Writer,
    registry: Arc<Registry>,
    topic: String,
    tenant: Option<String>,
    puts: Waits<Put>,
    verdicts: Waits<Verdict>,
    found: Backtest,
}

impl Shadow {
    fn is_wanted(&self, tenant: &str) -> bool {
        self.tenant.as_deref().is_none_or(|only| only == tenant)
    }

    fn put(&mut self, run: &str, put: Put) -> Result<(), Failure> {
        match self.verdicts.take(run, |v| put.was_judged(v)) {
            Some(verdict) => self.judge(&put, &verdict),
            None => {
                self.puts.put(run, put);
                Ok(())
            }
        }
    }

    fn verdict(&mut self, verdict: Verdict) -> Result<(), Failure> {
        match self.puts.take(&verdict.run_id, |p| p.was_judged(&verdict)) {
            Some(put) => self.judge(&put, &verdict),
            None => {
                let run = verdict.run_id.clone();
                self.verdicts.put(&run, verdict);
                Ok(())
            }
        }
    }

    fn judge(&mut self, put: &Put, then: &Verdict) -> Result<(), Failure> {
        let before = self.found.changes.len();
        let verdict = judge(&self.gate, &self.members, put, then, &mut self.found)?;
        let avro = verdict
            .to_avro()
            .map_err(|e| Failure::failed("INTERNAL", e.to_string(), ""))?;
        let value = self.registry.framed(&self.topic, Verdict::schema_text(), &avro)?;
        let headers = kafka::cloud_event("soma/shadow", Verdict::NAME, now(), &verdict.tenant, None);
        self.writer
            .write_raw(&self.topic, &verdict.run_id, Some(&value), &headers)?;
        for c in &self.found.changes[before..] {
            let rules = |new: &[String], sign: &str| new.iter().map(|r| format!(" {sign}{r}")).collect::<String>();
            out::note(format!(
                "{} {} {}: {} -> {}{}{}",
                c.tenant,
                c.run_id,
                c.subject_id,
                c.before,
                c.after,
                rules(&c.rules_new, "+"),
                rules(&c.rules_gone, "-")
            ));
        }
        Ok(())
    }
}

pub(super) fn run(args: &Args, cx: &Context) -> Done {
    let bundle = Bundle::parse(&read(&args.bundle)?).map_err(refused)?;
    let revision = bundle.revision().to_owned();
    let into = args
        .into
        .clone()
        .unwrap_or_else(|| format!("shadow.{}", &revision[..12]));
    let topic = format!("{into}.{}", topics::VERDICTS.name);
    let admin = Admin::open(&cx.brokers()?)?;
    let existing = admin.partitions()?;
    let side = reprocess::side(topic.clone(), "soma policy shadow");
    cx.runtime()?.block_on(admin.apply(&side, &existing))?;
    let mut shadow = Shadow {
        gate: govern::trial(bundle).with_shelf(policies::shelf(cx)?),
        members: members::as_they_stand(cx)?,
        writer: cx.writer()?,
        registry: cx.registry()?,
        topic: topic.clone(),
        tenant: args.tenant.clone(),
        puts: Waits::new(),
        verdicts: Waits::new(),
        found: Backtest::default(),
    };
    follow(&mut shadow, args.length, cx)?;
    shadow.writer.flush()?;
    let more = json!({"revision": revision, "side_topic": topic});
    summary("shadow", &shadow.found, &more, &format!("side_topic={topic}"), cx)
}

/// Follows until Ctrl-C or the end of the time given.
fn follow(shadow: &mut Shadow, length: Option<i64>, cx: &Context) -> Result<(), Failure> {
    let ended = Arc::new(AtomicBool::new(false));
    let pressed = ended.clone();
    cx.runtime()?.spawn(async move {
        // Without a handler the default one ends the process, and the summary with it.
        if tokio::signal::ctrl_c().await.is_ok() {
            pressed.store(true, Ordering::SeqCst);
        }
    });
    let mut plans = Followed::<Plan>::open(cx, topics::PLANS)?;
    let mut proposals = Followed::<Proposal>::open(cx, topics::PROPOSALS)?;
    let mut verdicts = Followed::<Verdict>::open(cx, topics::VERDICTS)?;
    out::note(format!("judging beside the running pipeline, into {}", shadow.topic));
    let length = length.map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or_default()));
    let began = Instant::now();
    while !ended.load(Ordering::SeqCst) && length.is_none_or(|length| began.elapsed() < length) {
        while let Some(plan) = plans.next(0)? {
            if shadow.is_wanted(&plan.tenant) {
                shadow.put(&plan.run_id.clone(), Put::plan(plan))?;
            }
        }
        while let Some(proposal) = proposals.next(0)? {
            if shadow.is_wanted(&proposal.tenant) {
                shadow.put(&proposal.run_id.clone(), Put::proposal(proposal))?;
            }
        }
        // The verdicts' wait is the loop's pace.
        if let Some(verdict) = verdicts.next(50)?
            && shadow.is_wanted(&verdict.tenant)
        {
            shadow.verdict(verdict)?;
        }
        // What was put before it began is not in the topics read: its verdict is nobody's.
        shadow.verdicts.give_up(WAIT);
        shadow.found.unmatched += shadow.puts.give_up(WAIT);
    }
    shadow.found.unmatched += shadow.puts.give_up(Duration::ZERO);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_taken_by_what_fits_or_given_up() {
        let mut waits = Waits::new();
        waits.put("a", 1);
        waits.put("a", 2);
        waits.put("b", 3);
        assert_eq!(
            (waits.take("a", |n| *n == 2), waits.take("a", |n| *n == 2)),
            (Some(2), None)
        );
        assert_eq!(waits.give_up(Duration::from_secs(60)), 0);
        assert_eq!((waits.give_up(Duration::ZERO), waits.by_run.len()), (2, 0));
    }
}
