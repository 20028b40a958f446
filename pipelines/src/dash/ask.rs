//! Asks a panel's question: SQL of ClickHouse, PromQL of Prometheus. Both answers have the same form.

use serde::Deserialize;
use serde_json::Value;
use sinks::clickhouse::Reader;

use super::{Draw, Language, Panel};

/// The time asked for, Unix seconds.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// First second.
    pub from_s: i64,
    /// First second after it.
    pub to_s: i64,
}

/// What came back: lines have the columns time, series and value; times are Unix seconds.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Rows in the order of the columns.
    pub rows: Vec<Vec<Value>>,
}

/// Whom to ask.
pub struct Asker {
    reader: Reader,
    prometheus: String,
    client: reqwest::Client,
}

/// Points of a line that Prometheus is asked for.
const POINTS: i64 = 120;

#[derive(Deserialize)]
struct Reply {
    #[serde(default)]
    error: String,
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Data {
    result: Vec<Series>,
}

#[derive(Deserialize)]
struct Series {
    #[serde(default)]
    metric: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    values: Vec<(f64, String)>,
    value: Option<(f64, String)>,
}

impl Asker {
    /// Asks ClickHouse through `reader`, Prometheus at `prometheus`.
    ///
    /// # Errors
    /// The HTTP client cannot be made.
    pub fn new(reader: Reader, prometheus: &str) -> Result<Self, String> {
        // The client wants to know a TLS library, though Prometheus here speaks plain HTTP; that one is there already is fine.
        rustls::crypto::ring::default_provider().install_default().ok();
        let limit = std::time::Duration::from_secs(30);
        let client = reqwest::Client::builder()
            .timeout(limit)
            .build()
            .map_err(|e| e.to_string())?;
        Ok(Self {
            reader,
            prometheus: prometheus.trim_end_matches('/').to_owned(),
            client,
        })
    }

    /// The answer to a panel's question.
    ///
    /// # Errors
    /// The server's own words.
    pub async fn ask(&self, panel: &Panel, span: Span) -> Result<Answer, String> {
        match panel.language {
            Language::Sql => self.sql(panel, span).await,
            Language::PromQl => self.promql(panel, span).await,
        }
    }

    async fn sql(&self, panel: &Panel, span: Span) -> Result<Answer, String> {
        let literal = |seconds: i64| format!("toDateTime({seconds}, 'UTC')");
        let sql = panel
            .query
            .replace("{from:DateTime}", &literal(span.from_s))
            .replace("{to:DateTime}", &literal(span.to_s));
        let table = self.reader.query_json(&sql).await.map_err(|e| e.to_string())?;
        let mut answer = Answer {
            columns: table.columns.into_iter().map(|c| c.name).collect(),
            rows: table.rows,
        };
        if panel.draw == Draw::Lines {
            answer.rows.iter_mut().try_for_each(|row| timed(row, &panel.title))?;
        }
        Ok(answer)
    }

    async fn promql(&self, panel: &Panel, span: Span) -> Result<Answer, String> {
        let lines = panel.draw == Draw::Lines;
        let (from, to) = (span.from_s.to_string(), span.to_s.to_string());
        let step = ((span.to_s - span.from_s) / POINTS).max(15).to_string();
        let query = panel.query.replace("$interval", "2m");
        let (path, words) = if lines {
            (
                "query_range",
                vec![("query", &query), ("start", &from), ("end", &to), ("step", &step)],
            )
        } else {
            ("query", vec![("query", &query), ("time", &to)])
        };
        let url = format!("{}/api/v1/{path}", self.prometheus);
        let asked = async { self.client.get(&url).query(&words).send().await?.json::<Reply>().await };
        let reply = asked
            .await
            .map_err(|e| format!("Prometheus at {}: {e}", self.prometheus))?;
        let data = reply.data.ok_or_else(|| format!("Prometheus: {}", reply.error))?;
        Ok(answer(data.result, lines))
    }
}

fn answer(result: Vec<Series>, lines: bool) -> Answer {
    let mut rows = Vec::new();
    for series in result {
        let name = label(&series.metric);
        let number = |text: &str| text.parse::<f64>().ok().filter(|n| n.is_finite());
        for (at, value) in series.values.iter().chain(&series.value) {
            if let Some(value) = number(value) {
                let mut row = vec![Value::from(name.as_str()), Value::from(value)];
                if lines {
                    row.insert(0, Value::from(*at as i64));
                }
                rows.push(row);
            }
        }
    }
    let columns: &[&str] = if lines {
        &["time", "series", "value"]
    } else {
        &["series", "value"]
    };
    Answer {
        columns: columns.iter().map(|c| (*c).to_owned()).collect(),
        rows,
    }
}

/// What tells a series from the others; the name of the metric is in the query.
fn label(metric: &std::collections::BTreeMap<String, String>) -> String {
    let told: Vec<_> = metric
        .iter()
        .filter(|(key, _)| !["__name__", "job", "instance", "pipeline"].contains(&key.as_str()))
        .map(|(_, value)| value.as_str())
        .collect();
    told.join(" ")
}

/// Puts Unix seconds in place of ClickHouse's text, and an empty series where there is none.
fn timed(row: &mut Vec<Value>, title: &str) -> Result<(), String> {
    if row.len() == 2 {
        row.insert(1, Value::from(""));
    }
    let text = row.first().and_then(Value::as_str).unwrap_or_default();
    let at = chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S")
        .map_err(|_| format!("panel `{title}`: its first column, `{text}`, is not a time"))?;
    row[0] = Value::from(at.and_utc().timestamp());
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn times_of_both_become_seconds() {
        let mut row = vec![json!("2026-01-31 12:00:00"), json!(7)];
        timed(&mut row, "t").unwrap();
        assert_eq!(row, [json!(1_769_860_800), json!(""), json!(7)]);
        assert!(timed(&mut vec![json!("x"), json!(1)], "t").unwrap_err().contains("`x`"));
        let reply: Reply =
            serde_json::from_value(json!({"status": "success", "data": {"resultType": "matrix", "result": [
            {"metric": {"__name__": "up", "stage": "intake"}, "values": [[1.5, "3"], [2, "NaN"]]}]}}))
            .unwrap();
        let answer = answer(reply.data.unwrap().result, true);
        assert_eq!(answer.rows, [vec![json!(1), json!("intake"), json!(3.0)]]);
    }
}
