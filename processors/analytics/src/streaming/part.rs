//! One partition of the repartition topic: how far every source partition has come, and the final half of each view.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use kernel::{Change, Fault, FaultCode, Flow, Headers, RawEmit, Slab};

use super::due::Room;
use super::finals::{Final, Finish};
use super::frame::{self, Mark};
use super::local::failed;
use super::pairs::Sides;

/// State of the partition.
pub(crate) struct Part {
    /// By topic, of each of its partitions; those that were not heard of hold the watermark.
    marks: BTreeMap<String, Vec<Mark>>,
    changed: bool,
    views: Vec<Final>,
    /// Views whose text is in the changelog.
    known: Vec<bool>,
    late: Vec<RawEmit>,
    pub(crate) woke: u64,
}

/// The watermark of a view: its source's; of a join, the lesser of both sides', unless one side is idle everywhere and the other not.
fn watermark_of(marks: &BTreeMap<String, Vec<Mark>>, finish: &Finish) -> Option<i64> {
    let of = |topic: &Arc<str>| marks.get(&**topic).map_or(&[][..], Vec::as_slice);
    let Some((_, _, topics)) = &finish.join else {
        return combined(of(&finish.source));
    };
    let sides = topics.each_ref().map(|topic| Mark {
        watermark: combined(of(topic)),
        idle: !of(topic).is_empty() && of(topic).iter().all(|mark| mark.idle),
    });
    combined(&sides)
}

/// The watermark of a topic: the least of the partitions that are waited for; where none is, the greatest.
fn combined(marks: &[Mark]) -> Option<i64> {
    let (mut least, mut greatest) = (None::<i64>, None::<i64>);
    for mark in marks {
        greatest = greatest.max(mark.watermark);
        if !mark.idle {
            let watermark = mark.watermark?;
            least = Some(least.map_or(watermark, |l| l.min(watermark)));
        }
    }
    least.or(greatest)
}

impl Part {
    pub(crate) fn new(views: usize) -> Self {
        Self {
            marks: BTreeMap::new(),
            changed: false,
            views: (0..views).map(|_| Final::default()).collect(),
            known: vec![false; views],
            late: Vec::new(),
            woke: 0,
        }
    }

    pub(crate) fn size(&self) -> usize {
        self.views.iter().map(|v| v.kept.size() + v.told.size()).sum()
    }

    /// How many views have windows to tell that the watermark has passed.
    pub(crate) fn behind(&self) -> usize {
        self.views.iter().filter(|view| view.is_behind()).count()
    }

    /// Takes frames in.
    pub(crate) fn take(
        &mut self,
        finishes: &[Finish],
        slab: &Slab,
        late: &Arc<str>,
        partitions: i32,
    ) -> Result<(), Fault> {
        for index in 0..slab.len() {
            let (head, bodies) = frame::read(slab.value(index))?;
            for (section, body) in head.sections.iter().zip(bodies) {
                // A view that the file had once: nobody asks for its rows any more.
                let Some(i) = finishes.iter().position(|f| f.view.name == section.view) else {
                    continue;
                };
                same_text(&finishes[i], section.mark)?;
                let rows = frame::rows(body, &finishes[i].view.aggregate.state_schema)?;
                let rows = self.in_time(i, &finishes[i], rows, slab.partition, late)?;
                if rows.num_rows() > 0 {
                    self.views[i].pending.push(rows);
                }
            }
            let Some(come) = head.come else { continue };
            let count = usize::try_from(partitions).unwrap_or(0);
            let marks = self.marks.entry(head.topic.clone()).or_default();
            marks.resize(marks.len().max(count), Mark::default());
            let Some(mark) = usize::try_from(head.partition).ok().and_then(|p| marks.get_mut(p)) else {
                let detail = format!(
                    "a frame of partition {} of `{}` came, which has {partitions}",
                    head.partition, head.topic
                );
                return Err(Fault::new(FaultCode::TopicsMismatched, detail));
            };
            mark.watermark = mark.watermark.max(come.watermark);
            mark.idle = come.idle;
            self.changed = true;
            for (view, finish) in self.views.iter_mut().zip(finishes) {
                let joined = finish
                    .join
                    .as_ref()
                    .is_some_and(|(_, _, of)| of.iter().any(|t| **t == *head.topic));
                if joined || *finish.source == *head.topic {
                    view.watermark = view.watermark.max(watermark_of(&self.marks, finish));
                }
            }
        }
        Ok(())
    }

    /// Leaves out rows whose window is gone, and tells them as late.
    fn in_time(
        &mut self,
        i: usize,
        finish: &Finish,
        rows: RecordBatch,
        partition: i32,
        late: &Arc<str>,
    ) -> Result<RecordBatch, Fault> {
        let aggregate = &finish.view.aggregate;
        let lasts = if aggregate.session {
            aggregate.lasts(&rows)
        } else {
            aggregate.panes(&rows)
        };
        let gone: Vec<bool> = lasts
            .values()
            .iter()
            .map(|last| self.views[i].gone(finish, *last))
            .collect();
        if !gone.contains(&true) {
            return Ok(rows);
        }
        for row in (0..rows.num_rows()).filter(|row| gone[*row]) {
            self.woke += 1;
            self.late.push(RawEmit {
                topic: Arc::clone(late),
                partition: Some(partition),
                key: String::new(),
                value: Some(Arc::from(json(finish, &rows, row).as_bytes())),
                headers: Headers::build(|put| {
                    put("soma-late-reason", b"woke");
                    put("soma-late-views", finish.view.name.as_bytes());
                }),
            });
        }
        let keep = BooleanArray::from(gone.into_iter().map(|g| !g).collect::<Vec<_>>());
        filter_record_batch(&rows, &keep).map_err(|e| failed(e.into()))
    }

    /// Tells windows, and gives the changes.
    pub(crate) fn flush(
        &mut self,
        finishes: &[Finish],
        partition: i32,
        flow: &mut Flow,
        room: &mut Room,
    ) -> Result<(), Fault> {
        let change = |key: String, value| Change { partition, key, value };
        let mut i = 0;
        while i < finishes.len() {
            let written = match (&finishes[i].join, &mut self.views[i..]) {
                (Some((_, how, _)), [left, right, ..]) => {
                    let finals = [left, right];
                    let finishes = [&finishes[i], &finishes[i + 1]];
                    let mut sides = Sides { finals, finishes, how };
                    sides.flush(&mut flow.emits)?.to_vec()
                }
                (_, [view, ..]) => vec![view.flush(&finishes[i], &mut flow.emits, room)?],
                (_, []) => break,
            };
            for written in written {
                let name = &finishes[i].view.name;
                if !written.is_empty() && !self.known[i] {
                    self.known[i] = true;
                    let mark = finishes[i].view.mark.to_le_bytes().to_vec();
                    flow.changes.push(change(format!("f|{name}|m"), Some(mark)));
                }
                let named = |(key, value)| change(format!("f|{name}|{key}"), value);
                flow.changes.extend(written.into_iter().map(named));
                i += 1;
            }
        }
        flow.emits.append(&mut self.late);
        if std::mem::take(&mut self.changed) {
            let all = serde_json::to_vec(&self.marks)
                .map_err(|e| Fault::new(FaultCode::Internal, format!("watermarks cannot be written: {e}")))?;
            flow.changes.push(change("m".to_owned(), Some(all)));
        }
        Ok(())
    }

    /// Takes back what [`Part::flush`] gave.
    pub(crate) fn restore(&mut self, finishes: &[Finish], key: &str, value: Option<&[u8]>) -> Result<(), Fault> {
        let wrong = |what: &str| Fault::new(FaultCode::StateUnreadable, format!("state under `{key}` {what}"));
        if key == "m" {
            let Some(value) = value else { return Ok(()) };
            self.marks = serde_json::from_slice(value).map_err(|e| wrong(&e.to_string()))?;
            return Ok(());
        }
        let rest = key.strip_prefix("f|").ok_or_else(|| wrong("is not known"))?;
        let (name, rest) = rest.split_once('|').ok_or_else(|| wrong("is cut off"))?;
        let Some(i) = finishes.iter().position(|f| f.view.name == name) else {
            return Ok(());
        };
        let view = &mut self.views[i];
        match (rest.split_once('|').unwrap_or((rest, "")), value) {
            (("m", _), Some(value)) => {
                self.known[i] = true;
                let mark = value.first_chunk::<8>().ok_or_else(|| wrong("is cut off"))?;
                same_text(&finishes[i], u64::from_le_bytes(*mark))
            }
            (("u", _), Some(value)) => view.reach(value).ok_or_else(|| wrong("is cut off")),
            (("r", rest), value) => view.kept.restore(&finishes[i].view.aggregate, rest, value),
            (("t", rest), value) => view.told.restore(rest, value),
            _ => Ok(()),
        }
    }
}

fn same_text(finish: &Finish, mark: u64) -> Result<(), Fault> {
    if mark == finish.view.mark {
        return Ok(());
    }
    Err(Fault::new(
        FaultCode::StateUnreadable,
        format!(
            "view `{}` has state of another text of its SQL: give the changed view another sink table's name, or delete the stage's state and partials topics and read its sources again",
            finish.view.name
        ),
    ))
}

/// A kept row as JSON text, for people and for counting.
fn json(finish: &Finish, rows: &RecordBatch, row: usize) -> String {
    let options = FormatOptions::new();
    let text = |column: usize| {
        let mut out = String::new();
        if let Ok(formatter) = ArrayFormatter::try_new(rows.column(column).as_ref(), &options) {
            let _written = write!(out, "{}", formatter.value(row));
        }
        serde_json::Value::String(out)
    };
    let aggregate = &finish.view.aggregate;
    let keys = (0..aggregate.keys()).filter(|i| *i != aggregate.pane);
    let keys: serde_json::Map<_, _> = finish.view.keys.iter().cloned().zip(keys.map(text)).collect();
    let states: Vec<_> = (aggregate.keys()..rows.num_columns()).map(text).collect();
    let start = schemas::Timestamp(aggregate.panes(rows).value(row)).to_string();
    serde_json::json!({"view": finish.view.name, "pane_start": start, "key": keys, "state": states}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_partitions_do_not_hold_the_watermark() {
        let mark = |watermark, idle| Mark { watermark, idle };
        for (given, wanted) in [
            (vec![mark(Some(5), false), mark(Some(3), false)], Some(3)),
            (vec![mark(Some(5), false), mark(Some(3), true)], Some(5)),
            (vec![mark(Some(5), false), mark(None, false)], None),
            (vec![mark(Some(5), false), mark(None, true)], Some(5)),
            (vec![mark(Some(5), true), mark(Some(3), true)], Some(5)),
            (vec![], None),
        ] {
            assert_eq!(combined(&given), wanted, "{given:?}");
        }
    }
}
