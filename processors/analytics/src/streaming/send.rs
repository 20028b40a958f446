//! What the local half of one source partition sends at a commit: each view's partial rows to the partition their key belongs to,
//! and how far the source partition has come to all of them.

use std::sync::Arc;

use arrow::array::UInt32Array;
use arrow::compute::take_record_batch;
use kernel::{Fault, Headers, RawEmit};

use super::frame::{self, Head, Mark, PIECE, Section};
use super::local::{Local, Setup, failed};
use super::windows::Window;
use super::{keys, sessions};

/// By partition of the repartition topic: pieces of rows.
pub(crate) type Sections = Vec<Vec<(Section, Vec<u8>)>>;

/// The partial rows since the last commit; the local half holds none afterwards.
pub(crate) fn sections(local: &mut Local, setup: &Setup, partitions: i32) -> Result<Sections, Fault> {
    let count = usize::try_from(partitions.max(1)).unwrap_or(1);
    let mut out: Sections = (0..count).map(|_| Vec::new()).collect();
    for (reads, groups) in setup.reads.iter().zip(&mut local.groups) {
        let Some(groups) = groups.take().filter(|g| g.len() > 0) else {
            continue;
        };
        let (view, aggregate) = (&reads.view, &reads.view.aggregate);
        let mut rows = groups.rows(aggregate).map_err(failed)?;
        if let Window::Session { gap } = view.window {
            let found = sessions::find(aggregate, &[rows], gap).map_err(failed)?;
            rows = found
                .groups(aggregate, &|_| true)
                .and_then(|g| g.rows(aggregate))
                .map_err(failed)?;
        }
        let mut homes: Vec<Vec<u32>> = vec![Vec::new(); count];
        let columns: Vec<_> = view.home.iter().map(|i| rows.column(*i)).collect();
        let one = count == 1 || columns.is_empty();
        if !one {
            let texts = keys::texts(&columns, rows.num_rows()).map_err(|e| failed(e.into()))?;
            for (row, text) in (0u32..).zip(&texts) {
                homes[usize::try_from(keys::partition(text, partitions)).unwrap_or(0)].push(row);
            }
        }
        let home = usize::try_from(keys::partition("", partitions)).unwrap_or(0);
        for (target, chosen) in homes.into_iter().enumerate() {
            let part = match (one, chosen.is_empty()) {
                (true, _) if target == home => rows.clone(),
                (false, false) => take_record_batch(&rows, &UInt32Array::from(chosen)).map_err(|e| failed(e.into()))?,
                _ => continue,
            };
            for piece in frame::pieces(&part)? {
                let section = Section {
                    view: view.name.clone(),
                    mark: view.mark,
                    bytes: piece.len(),
                };
                out[target].push((section, piece));
            }
        }
    }
    Ok(out)
}

/// Frames for every partition that has rows, or, where the mark `moved`, for all.
pub(crate) fn frames(
    topic: &Arc<str>,
    from: (&str, i32),
    come: Mark,
    moved: bool,
    sections: Sections,
) -> Result<Vec<RawEmit>, Fault> {
    let mut out = Vec::new();
    for (target, sections) in (0i32..).zip(sections) {
        if sections.is_empty() && !moved {
            continue;
        }
        let (mut heads, mut bodies, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut send = |come, sections, bodies: &mut Vec<Vec<u8>>| {
            let head = Head {
                topic: from.0.to_owned(),
                partition: from.1,
                come,
                sections,
            };
            let value = frame::write(&head, bodies)?;
            bodies.clear();
            out.push(RawEmit {
                topic: Arc::clone(topic),
                partition: Some(target),
                key: format!("{}|{}", from.0, from.1),
                value: Some(value.into()),
                headers: Headers::default(),
            });
            Ok::<(), Fault>(())
        };
        for (section, body) in sections {
            if bytes > 0 && bytes + body.len() > PIECE {
                // Only the last frame says how far: everything before that point is in it and in those before.
                send(None, std::mem::take(&mut heads), &mut bodies)?;
                bytes = 0;
            }
            bytes += body.len();
            heads.push(section);
            bodies.push(body);
        }
        send(Some(come), heads, &mut bodies)?;
    }
    Ok(out)
}
