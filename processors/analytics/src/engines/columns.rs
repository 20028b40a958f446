//! Texts that Flink's tables and rows are made of: times as counts and back, declared columns, options.

use super::avro::{Field, Unit};
use super::expr::{self, literal, quoted};
use crate::streaming::dialect;

/// A declared column, from the field it is read from.
pub(super) fn shown_as(field: &Field, column: &dialect::Column) -> Result<String, String> {
    let (wanted, _) = expr::kind(&column.kind)?;
    let name = quoted(&field.name);
    Ok(match field.time {
        Some(unit) if wanted == "TIMESTAMP(3)" => instant(&name, unit),
        _ if wanted == field.kind => name,
        _ => format!("CAST({name} AS {wanted})"),
    })
}

/// A counted time as a TIMESTAMP(3).
pub(super) fn instant(column: &str, unit: Unit) -> String {
    let millis = match unit {
        Unit::Millis => column.to_owned(),
        Unit::Micros => format!("{column} / 1000"),
    };
    format!("CAST(TO_TIMESTAMP_LTZ({millis}, 3) AS TIMESTAMP(3))")
}

/// A TIMESTAMP(3) as a count.
pub(super) fn count(column: &str, unit: Unit) -> String {
    let (second, milli) = match unit {
        Unit::Millis => (1000, 1),
        Unit::Micros => (1_000_000, 1000),
    };
    format!(
        "TIMESTAMPDIFF(SECOND, TIMESTAMP '1970-01-01 00:00:00', {column}) * CAST({second} AS BIGINT) + EXTRACT(MILLISECOND FROM {column}) * {milli}"
    )
}

/// A `WITH (...)`'s inside.
pub(super) fn with(options: &[(&str, String)]) -> String {
    options
        .iter()
        .map(|(name, value)| format!("{} = {}", literal(name), literal(value)))
        .collect::<Vec<_>>()
        .join(",\n  ")
}
