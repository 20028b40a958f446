//! `soma dlq list | show`: what could not be taken, and why. The way back is [`super::replay`].

use kafka::{Admin, From, Tail};
use schemas::topics::dlq_of;
use serde_json::{Value as Json, json};

use super::context::{Context, now, read_to_end};
use super::failure::{Done, Failure, OK};
use super::letter::{Filter, Letter};
use super::subscribe::{decode, document, headers};
use super::{out, replay, when};

/// Shows and replays dead letters.
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Lists dead letters, the latest first
    #[command(after_help = "Examples:
  soma dlq list
  soma dlq list --topic soma.requests --since 2h
  soma dlq list --code SCHEMA_UNKNOWN --json

Each code has a page in deploy/runbooks/<CODE>.md.")]
    List {
        #[command(flatten)]
        filter: Filter,
        /// At most so many
        #[arg(long, default_value_t = 50, value_name = "N")]
        limit: usize,
    },
    /// Shows one dead letter: why it died, all headers, and the record, or its bytes when it cannot be decoded
    #[command(after_help = "Example:
  soma dlq show soma.requests 0 17       partition and offset as `soma dlq list` shows them (of the .dlq topic)")]
    Show {
        /// Topic, with or without .dlq
        topic: String,
        /// Partition of the .dlq topic
        partition: i32,
        /// Offset in that partition
        offset: i64,
    },
    /// Sends dead letters back to the topic they came from
    #[command(after_help = "Examples:
  soma dlq replay --dry-run                              what would be done, and what is refused
  soma dlq replay --topic soma.requests --since 2h -y
  soma dlq replay --code RECORD_UNREADABLE --rate 10/s

The bytes go back untouched, with soma-dlq-replays one higher. Left out are letters that were replayed before (unless
--again), that have been replayed --max-replays times, or that a kill or cancel covers (`soma controls`).
Exit code: 0 all went back, 1 some were refused.")]
    Replay(replay::Args),
}

pub(super) fn run(command: &Command, cx: &Context) -> Done {
    match command {
        Command::List { filter, limit } => list(filter, *limit, cx),
        Command::Show {
            topic,
            partition,
            offset,
        } => show(topic, *partition, *offset, cx),
        Command::Replay(args) => replay::run(args, cx),
    }
}

/// Letters that pass, oldest first, and how many records on the topics are no letters.
pub(super) fn letters(filter: &Filter, cx: &Context) -> Result<(Vec<Letter>, usize), Failure> {
    let help = "write for example 2026-01-31T12:00:00Z or 2h";
    let since = filter.since(now()).map_err(|e| Failure::input("USAGE", e, help))?;
    let brokers = cx.brokers()?;
    let all = Admin::open(&brokers)?.partitions()?;
    let topics: Vec<_> = all.into_keys().filter(|t| t.ends_with(".dlq")).collect();
    if let Some(topic) = filter.topic().filter(|t| !topics.contains(&dlq_of(t))) {
        let text = format!("there is no topic {}", dlq_of(topic));
        return Err(Failure::input(
            "TOPIC_UNKNOWN",
            text,
            format!("there are {}", topics.join(", ")),
        ));
    }
    let (mut found, mut foreign) = (Vec::new(), 0);
    for topic in topics
        .iter()
        .filter(|t| filter.topic().is_none_or(|asked| **t == dlq_of(asked)))
    {
        let mut tail = Tail::open(&brokers, topic, From::Beginning)?;
        read_to_end(&mut tail, &mut |record| {
            match Letter::read(record) {
                Ok(letter) if filter.passes(&letter, since) => found.push(letter),
                Ok(_) => {}
                Err(_) => foreign += 1,
            }
            Ok(true)
        })?;
    }
    found.sort_by_key(|letter| (letter.at, letter.record.position.clone()));
    Ok((found, foreign))
}

fn list(filter: &Filter, limit: usize, cx: &Context) -> Done {
    let (found, foreign) = letters(filter, cx)?;
    let shown: Vec<_> = found.iter().rev().take(limit).collect();
    if cx.json {
        out::json(&Json::Array(shown.iter().map(|l| as_json(l)).collect()))?;
        return Ok(OK);
    }
    let rows: Vec<_> = shown
        .iter()
        .map(|l| {
            let position = &l.record.position;
            let at = format!("{} {} {}", l.topic, position.partition, position.offset);
            vec![
                at,
                when::shown(l.at),
                l.stage.clone(),
                l.code.clone(),
                l.replays.to_string(),
                out::short(&l.record.key, 44),
                out::short(&l.detail, 70),
            ]
        })
        .collect();
    if rows.is_empty() {
        out::line("no dead letters")?;
    } else {
        out::table(
            &[
                "TOPIC PARTITION OFFSET",
                "DIED",
                "STAGE",
                "CODE",
                "REPLAYS",
                "KEY",
                "WHY",
            ],
            &rows,
        )?;
        out::note(format!(
            "{} of {}; `soma dlq show TOPIC PARTITION OFFSET` shows one",
            rows.len(),
            found.len()
        ));
    }
    if foreign > 0 {
        out::note(format!(
            "{foreign} records on .dlq topics lack the headers of a dead letter; `soma subscribe` shows them"
        ));
    }
    Ok(OK)
}

pub(super) fn as_json(letter: &Letter) -> Json {
    let position = &letter.record.position;
    json!({
        "dlq": {"topic": &*position.topic, "partition": position.partition, "offset": position.offset},
        "topic": letter.topic, "partition": letter.partition, "offset": letter.offset, "stage": letter.stage, "code": letter.code,
        "detail": letter.detail, "attempts": letter.attempts, "replays": letter.replays, "at": letter.at, "key": letter.record.key,
    })
}

fn show(topic: &str, partition: i32, offset: i64, cx: &Context) -> Done {
    let topic = dlq_of(topic.strip_suffix(".dlq").unwrap_or(topic));
    let mut tail = Tail::open(&cx.brokers()?, &topic, From::Offset(offset))?;
    let mut found = None;
    read_to_end(&mut tail, &mut |record| {
        let hit = record.position.partition == partition && record.position.offset == offset;
        if hit {
            found = Some(record);
        }
        Ok(!hit)
    })?;
    let record = found.ok_or_else(|| {
        Failure::failed(
            "LETTER_UNKNOWN",
            format!("{topic}/{partition} has no record at offset {offset}"),
            "`soma dlq list` shows what there is",
        )
    })?;
    let value = decode(&record, cx.registry()?.as_ref())?;
    if cx.json {
        out::json(&document(&record, value, true))?;
        return Ok(OK);
    }
    match Letter::read(record.clone()) {
        Ok(letter) => {
            out::line(format!(
                "{} {}",
                out::paint(out::RED, &format!("{}:", letter.code)),
                letter.detail
            ))?;
            let from = format!("{}/{}@{}", letter.topic, letter.partition, letter.offset);
            out::line(format!(
                "stage {} could not take {from}, {}, {} attempts, {} replays",
                letter.stage, letter.at, letter.attempts, letter.replays
            ))?;
            out::line(format!("what to do: deploy/runbooks/{}.md", letter.code))?;
        }
        Err(why) => out::line(format!("not a dead letter of the runtime: {why}"))?,
    }
    let headers = headers(&record).as_object().cloned().unwrap_or_default();
    let rows: Vec<_> = headers
        .iter()
        .map(|(k, v)| vec![k.clone(), out::short(v.as_str().unwrap_or_default(), 120)])
        .collect();
    out::line("")?;
    out::table(&["HEADER", "VALUE"], &rows)?;
    out::line(format!("\nkey {}", record.key))?;
    if value.get("undecodable").is_some() {
        let bytes = record.value.unwrap_or_default();
        out::line(format!("{} bytes that cannot be decoded:", bytes.len()))?;
        return hex_dump(&bytes[..bytes.len().min(2048)])
            .iter()
            .try_for_each(out::line)
            .map(|()| OK);
    }
    out::json(&value)?;
    Ok(OK)
}

/// Sixteen bytes a line: offset, hex, text.
fn hex_dump(bytes: &[u8]) -> Vec<String> {
    let text = |row: &[u8]| {
        row.iter()
            .map(|b| {
                if b.is_ascii_graphic() || *b == b' ' {
                    char::from(*b)
                } else {
                    '.'
                }
            })
            .collect::<String>()
    };
    let hex = |row: &[u8]| row.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ");
    bytes
        .chunks(16)
        .enumerate()
        .map(|(i, row)| format!("{:06x}  {:<47}  {}", i * 16, hex(row), text(row)))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn dumps_line_up() {
        let dump = hex_dump(b"not avro at all, \x00\xff");
        assert_eq!(
            dump[0],
            "000000  6e 6f 74 20 61 76 72 6f 20 61 74 20 61 6c 6c 2c  not avro at all,"
        );
        assert!(dump[1].starts_with("000010  20 00 ff") && dump[1].ends_with("   .."));
    }
}
