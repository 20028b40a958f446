//! The Prometheus text format, read as far as the runtime writes it. No types, no exemplars: samples only.

use std::collections::BTreeMap;

/// One line of the Prometheus text format.
#[derive(Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

impl Sample {
    pub(crate) fn label(&self, name: &str) -> &str {
        self.labels.get(name).map(String::as_str).unwrap_or_default()
    }
}

/// Reads the Prometheus text format, as far as the runtime writes it.
pub(crate) fn parse(text: &str) -> Vec<Sample> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(sample)
        .collect()
}

fn sample(line: &str) -> Option<Sample> {
    let (head, value) = line.trim().rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let (name, inner) = match head.split_once('{') {
        Some((name, rest)) => (name, rest.strip_suffix('}')?),
        None => (head, ""),
    };
    let mut labels = BTreeMap::new();
    let mut rest = inner;
    while let Some((key, after)) = rest.split_once("=\"") {
        let mut value = String::new();
        let mut chars = after.char_indices();
        let mut end = after.len();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => value.extend(chars.next().map(|(_, c)| if c == 'n' { '\n' } else { c })),
                '"' => {
                    end = at + 1;
                    break;
                }
                other => value.push(other),
            }
        }
        labels.insert(key.trim_start_matches(',').trim().to_owned(), value);
        rest = after.get(end..).unwrap_or_default();
    }
    Some(Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# HELP soma_stage x
soma_stage{pipeline="ct",stage="intake",what="state_keys"} 12
soma_records_total{outcome="ok",pipeline="ct",stage="intake",topic="soma.requests"} 40
soma_records_total{outcome="dead_lettered",pipeline="ct",stage="intake",topic="soma.requests"} 1
soma_faults_total{code="SCHEMA_UNKNOWN",pipeline="ct",stage="intake"} 1
odd{a="x\"y,z"} 1.5
bare 3
"#;

    #[test]
    fn the_text_format_is_read() {
        let samples = parse(TEXT);
        assert_eq!(samples.len(), 6);
        assert_eq!(samples[4].label("a"), "x\"y,z");
        assert_eq!((samples[5].name.as_str(), samples[5].value), ("bare", 3.0));
        assert!(sample("nonsense").is_none() && sample("a{b=\"c\" 1").is_none());
    }
}
