//! `soma dlq replay`: dead letters go back through the topic they came from, bytes untouched. It counts itself, never sends the
//! same letter twice unless told to, and is refused while a kill switch covers the record.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kafka::{From, Tail};
use serde_json::json;

use super::context::{Context, read_to_end};
use super::dlq::{as_json, letters};
use super::failure::{Done, FAILED, Failure, OK};
use super::letter::{Filter, Letter, REPLAYED_FROM};
use super::subscribe::decode;
use super::{control, out};

/// What to replay, and how.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    filter: Filter,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// A record that has been replayed so often stays where it is
    #[arg(long, default_value_t = 3, value_name = "N")]
    max_replays: u32,
    /// At most so many a second
    #[arg(long, default_value = "50/s", value_parser = rate, value_name = "N/s")]
    rate: u32,
    /// Replay letters that were replayed before, too
    #[arg(long)]
    again: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

/// What becomes of a letter.
#[derive(Debug, PartialEq)]
enum Fate {
    Replayed,
    /// Nothing is left to do for it.
    Skipped(String),
    /// It may not go back as things stand.
    Refused(String),
}

fn rate(text: &str) -> Result<u32, String> {
    let number = text
        .strip_suffix("/s")
        .unwrap_or(text)
        .parse::<u32>()
        .ok()
        .filter(|n| *n > 0);
    number.ok_or_else(|| "is not a rate; write for example 10/s".to_owned())
}

pub(super) fn run(options: &Args, cx: &Context) -> Done {
    let (found, _) = letters(&options.filter, cx)?;
    let controls = control::in_force(cx)?;
    let registry = cx.registry()?;
    let done_before = if options.again {
        BTreeSet::new()
    } else {
        replayed(&found, cx)?
    };
    let mut plan = Vec::new();
    for letter in found {
        let fate = if done_before.contains(&letter.record.position.to_string()) {
            Fate::Skipped("replayed before; --again replays it once more".to_owned())
        } else if letter.replays >= options.max_replays {
            let (times, max) = (letter.replays, options.max_replays);
            Fate::Refused(format!("replayed {times} times already; --max-replays allows {max}"))
        } else {
            let value = decode(&letter.record, registry.as_ref())?;
            match letter.stopped_by(&controls, &value) {
                Some(why) => Fate::Refused(format!("stopped by {why}")),
                None => Fate::Replayed,
            }
        };
        plan.push((letter, fate));
    }
    let due: Vec<_> = plan
        .iter()
        .filter(|(_, fate)| *fate == Fate::Replayed)
        .map(|(letter, _)| letter)
        .collect();
    if !due.is_empty() && !options.dry_run {
        let question = format!("Send {} of {} dead letters back?", due.len(), plan.len());
        if !options.yes && !out::confirm(&question)? {
            return Err(Failure::input(
                "NOT_CONFIRMED",
                "nothing was replayed",
                "answer y, or add -y",
            ));
        }
        send(&due, options.rate, cx)?;
    }
    report(&plan, options.dry_run, cx)
}

/// Letters that went back before, found on the topics they went to: the log itself remembers.
fn replayed(letters: &[Letter], cx: &Context) -> Result<BTreeSet<String>, Failure> {
    let mut oldest = BTreeMap::new();
    for letter in letters {
        oldest
            .entry(letter.topic.as_str())
            .and_modify(|at| *at = letter.at.min(*at))
            .or_insert(letter.at);
    }
    let mut done = BTreeSet::new();
    for (topic, since) in oldest {
        let mut tail = Tail::open(&cx.brokers()?, topic, From::Time(since))?;
        read_to_end(&mut tail, &mut |record| {
            done.extend(record.headers.text(REPLAYED_FROM).map(str::to_owned));
            Ok(true)
        })?;
    }
    Ok(done)
}

fn send(letters: &[&Letter], rate: u32, cx: &Context) -> Result<(), Failure> {
    let writer = cx.writer()?;
    let bar = out::progress(letters.len(), "replay");
    for letter in letters {
        let value = letter.record.value.as_deref();
        writer.write_raw(&letter.topic, &letter.record.key, value, &letter.replay_headers())?;
        bar.inc(1);
        std::thread::sleep(Duration::from_secs(1) / rate);
    }
    let flushed = writer.flush();
    bar.finish_and_clear();
    Ok(flushed?)
}

fn report(plan: &[(Letter, Fate)], dry_run: bool, cx: &Context) -> Done {
    let count = |wanted: fn(&Fate) -> bool| plan.iter().filter(|(_, fate)| wanted(fate)).count();
    let replayed = count(|f| *f == Fate::Replayed);
    let skipped = count(|f| matches!(f, Fate::Skipped(_)));
    let refused = count(|f| matches!(f, Fate::Refused(_)));
    let verb = if dry_run { "would be replayed" } else { "replayed" };
    let what = |letter: &Letter, fate: &Fate| match fate {
        Fate::Replayed => format!("{verb} to {}", letter.topic),
        Fate::Skipped(why) => format!("skipped {why}"),
        Fate::Refused(why) => format!("refused {why}"),
    };
    if cx.json {
        let lines: Vec<_> = plan
            .iter()
            .map(|(l, fate)| json!({"letter": as_json(l), "done": what(l, fate)}))
            .collect();
        let counts =
            json!({"dry_run": dry_run, "replayed": replayed, "skipped": skipped, "refused": refused, "letters": lines});
        out::json(&counts)?;
    } else {
        let row = |l: &Letter, fate: &Fate| {
            let key = out::short(&l.record.key, 44);
            vec![l.record.position.to_string(), l.code.clone(), key, what(l, fate)]
        };
        if !plan.is_empty() {
            let rows: Vec<_> = plan.iter().map(|(l, fate)| row(l, fate)).collect();
            out::table(&["LETTER", "CODE", "KEY", "WHAT WAS DONE"], &rows)?;
        }
        out::line(format!("{replayed} {verb}, {skipped} skipped, {refused} refused"))?;
    }
    Ok(if refused == 0 { OK } else { FAILED })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        assert_eq!((rate("10/s"), rate("7")), (Ok(10), Ok(7)));
        for bad in ["0/s", "fast", "-1/s", "10/m", ""] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }
}
