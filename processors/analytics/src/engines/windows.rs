//! Window table functions, and the aggregate over one.

use super::expr::{self, Scope, quoted};
use super::shape::{Shape, Window};

type Did<T> = Result<T, String>;

/// The event time, in milliseconds, which is what Flink's event time has.
pub(super) const TIME: &str = "soma_time";

/// The function over a relation; a session's is by the keys.
pub(super) fn function(window: Window, from: &str, keys: &[String]) -> Did<String> {
    let time = format!("DESCRIPTOR({})", quoted(TIME));
    let from = quoted(from);
    Ok(match window {
        Window::Tumble { width } => format!("TUMBLE(TABLE {from}, {time}, {})", expr::interval(width)?),
        Window::Hop { slide, width } if width % slide == 0 => {
            format!(
                "HOP(TABLE {from}, {time}, {}, {})",
                expr::interval(slide)?,
                expr::interval(width)?
            )
        }
        Window::Hop { .. } => return Err("Flink's HOP wants a width that is a multiple of the slide".to_owned()),
        // Records exactly a gap apart are one session, there as here.
        Window::Session { gap } => {
            let by = if keys.is_empty() {
                String::new()
            } else {
                format!(" PARTITION BY ({})", keys.join(", "))
            };
            format!("SESSION(TABLE {from}{by}, {time}, {})", expr::interval(gap)?)
        }
    })
}

/// The aggregate over the window function.
pub(super) fn rows(shape: &Shape<'_>, window: Window, scope: &Scope<'_>, from: &str) -> Did<String> {
    let keys = shape
        .keys
        .iter()
        .map(|key| expr::text(key, scope))
        .collect::<Did<Vec<_>>>()?;
    let function = function(window, from, &keys)?;
    let mut parts = vec![
        "`window_start` AS `soma_start`".to_owned(),
        "`window_end` AS `soma_end`".to_owned(),
    ];
    parts.extend(
        keys.iter()
            .enumerate()
            .map(|(i, key)| format!("{key} AS `soma_key_{i}`")),
    );
    for (i, item) in shape.items.iter().enumerate() {
        parts.push(format!("{} AS `soma_{i}`", expr::text(item.expr, scope)?));
    }
    if shape.all {
        return Err("SELECT * has no meaning over a window".to_owned());
    }
    let having = shape
        .having
        .map(|h| expr::text(h, scope))
        .transpose()?
        .map(|h| format!(" HAVING {h}"))
        .unwrap_or_default();
    let by = ["`window_start`".to_owned(), "`window_end`".to_owned()]
        .into_iter()
        .chain(keys)
        .collect::<Vec<_>>()
        .join(", ");
    Ok(format!(
        "SELECT {}\n  FROM TABLE({function})\n  GROUP BY {by}{having}",
        parts.join(", ")
    ))
}
