//! The boards as Grafana dashboards. The generated files are committed; a test holds that they are what the panels' files say.

use serde_json::{Value, json};

use super::{Board, Draw, Language, Panel};

/// File name, without suffix, and text of each board's dashboard.
pub fn dashboards(boards: &[Board]) -> Vec<(String, String)> {
    boards
        .iter()
        .map(|board| (board.name.to_owned(), dashboard(board)))
        .collect()
}

fn dashboard(board: &Board) -> String {
    let (mut x, mut y, mut tall) = (0, 0, 0);
    let mut panels = Vec::new();
    for (nth, panel) in board.panels.iter().enumerate() {
        let (width, height) = if panel.draw == Draw::Number { (6, 4) } else { (12, 8) };
        if x + width > 24 {
            (x, y, tall) = (0, y + tall, 0);
        }
        panels.push(drawn(panel, nth + 1, json!({"x": x, "y": y, "w": width, "h": height})));
        (x, tall) = (x + width, tall.max(height));
    }
    let source = |name: &str, label: &str, kind: &str| json!({"name": name, "label": label, "type": "datasource", "query": kind});
    let json = json!({
        "uid": format!("soma-{}", board.name),
        "title": format!("Soma · {}", board.title),
        "tags": ["soma"],
        "schemaVersion": 39,
        "editable": true,
        "refresh": "30s",
        "timezone": "utc",
        "time": {"from": "now-3h", "to": "now"},
        "links": [{"type": "dashboards", "tags": ["soma"], "asDropdown": true, "title": "Boards", "keepTime": true}],
        "templating": {"list": [
            source("clickhouse", "ClickHouse", "grafana-clickhouse-datasource"),
            source("prometheus", "Prometheus", "prometheus"),
        ]},
        "panels": panels,
    });
    format!("{json:#}\n")
}

fn drawn(panel: &Panel, id: usize, place: Value) -> Value {
    let (kind, options) = match panel.draw {
        Draw::Lines => (
            "timeseries",
            json!({"legend": {"displayMode": "table", "calcs": ["lastNotNull", "max"]}}),
        ),
        Draw::Bars => (
            "bargauge",
            json!({"orientation": "horizontal", "displayMode": "basic", "reduceOptions": {"values": true, "calcs": [], "fields": ""}}),
        ),
        Draw::Number => (
            "stat",
            json!({"reduceOptions": {"calcs": ["lastNotNull"]}, "graphMode": "none"}),
        ),
        Draw::Table => ("table", json!({"showHeader": true})),
    };
    json!({
        "id": id,
        "title": panel.title,
        "description": panel.about,
        "type": kind,
        "gridPos": place,
        "datasource": source(panel),
        "fieldConfig": {"defaults": {"unit": unit(&panel.unit)}, "overrides": []},
        "options": options,
        "targets": [target(panel)],
    })
}

fn source(panel: &Panel) -> Value {
    match panel.language {
        Language::Sql => json!({"type": "grafana-clickhouse-datasource", "uid": "${clickhouse}"}),
        Language::PromQl => json!({"type": "prometheus", "uid": "${prometheus}"}),
    }
}

fn target(panel: &Panel) -> Value {
    let lines = panel.draw == Draw::Lines;
    match panel.language {
        Language::Sql => {
            let sql = panel
                .query
                .replace("{from:DateTime}", "$__fromTime")
                .replace("{to:DateTime}", "$__toTime");
            let (kind, format) = if lines { ("timeseries", 0) } else { ("table", 1) };
            json!({"refId": "A", "datasource": source(panel), "editorType": "sql", "queryType": kind, "format": format, "rawSql": sql})
        }
        Language::PromQl => {
            let expr = panel.query.replace("$interval", "$__rate_interval");
            let format = if lines { "time_series" } else { "table" };
            json!({"refId": "A", "datasource": source(panel), "expr": expr, "range": lines, "instant": !lines, "format": format})
        }
    }
}

/// Grafana's name of a unit; words of ours are put behind the value.
fn unit(unit: &str) -> String {
    match unit {
        "" => "short".to_owned(),
        "%" => "percentunit".to_owned(),
        "s" | "ms" | "bytes" => unit.to_owned(),
        "usd" => "currencyUSD".to_owned(),
        words => format!("suffix: {words}"),
    }
}
