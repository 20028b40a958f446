//! Service level objectives, declared in a file, as Prometheus rules: for each, the share of what went wrong over several windows,
//! and alerts when the error budget burns too fast over a long and a short window at once. Pure but for reading the file.

use std::path::Path;

use serde::Deserialize;

/// What the file declares.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Objectives {
    objectives: Vec<Objective>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Objective {
    /// Part of the rules' names.
    name: String,
    /// What is promised, in words.
    says: String,
    /// Share that must be good, below 1.
    target: f64,
    /// What went wrong, per second over `$window`.
    bad: String,
    /// All of it, per second over `$window`.
    all: String,
}

/// Burn rate, long window, short window, how long it must last, severity: 2 % of a month's budget in an hour, 5 % in six, 10 % in three days.
const BURNS: [(f64, &str, &str, &str, &str); 3] = [
    (14.4, "1h", "5m", "2m", "page"),
    (6.0, "6h", "30m", "15m", "page"),
    (1.0, "3d", "6h", "1h", "ticket"),
];
const WINDOWS: [&str; 5] = ["5m", "30m", "1h", "6h", "3d"];

impl Objectives {
    /// Reads the file.
    ///
    /// # Errors
    /// It cannot be read, or an objective is not one.
    pub fn load(file: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
        Self::parse(&text).map_err(|e| format!("{}: {e}", file.display()))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let all: Self = serde_yaml_ng::from_str(text).map_err(|e| e.to_string())?;
        for one in &all.objectives {
            let name_is_fine = one.name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            if one.name.is_empty() || !name_is_fine {
                return Err(format!("name `{}`: a-z and _ only", one.name));
            }
            if !(0.5..1.0).contains(&one.target) {
                return Err(format!(
                    "{}: target {} is not from 0.5 to below 1",
                    one.name, one.target
                ));
            }
            if !one.bad.contains("[$window]") || !one.all.contains("[$window]") {
                return Err(format!("{}: `bad` and `all` are rates over [$window]", one.name));
            }
        }
        Ok(all)
    }
}

/// The rules of all objectives, as the text of a Prometheus rule file.
pub fn rules(objectives: &Objectives) -> String {
    let mut text = "# Made by `soma dash --generate` from deploy/prometheus/objectives.yaml: change that file, not this one.\ngroups:\n".to_owned();
    for one in &objectives.objectives {
        text += &format!("  - name: objective_{}\n    rules:\n", one.name);
        for window in WINDOWS {
            let over = |expression: &str| expression.trim().replace("$window", window);
            text += &format!("      - record: {}\n", recorded(one, window));
            text += &format!(
                "        expr: ({})\n          / ({} > 0)\n",
                over(&one.bad),
                over(&one.all)
            );
        }
        for burn in BURNS {
            text += &alert(one, burn);
        }
    }
    text
}

fn recorded(one: &Objective, window: &str) -> String {
    format!("soma:{}:bad_ratio_{window}", one.name)
}

fn alert(one: &Objective, (burn, long, short, lasts, severity): (f64, &str, &str, &str, &str)) -> String {
    let budget = 1.0 - one.target;
    let limit = format!("{burn} * {budget:.5}");
    let (long_rule, short_rule) = (recorded(one, long), recorded(one, short));
    format!(
        "      - alert: SomaObjectiveBurns\n        \
           expr: {long_rule} > {limit} and {short_rule} > {limit}\n        \
           for: {lasts}\n        \
           labels: {{ severity: {severity}, objective: {name}, window: {long} }}\n        \
           annotations:\n          \
             summary: \"{says}: {target} % is promised, and the budget burns at {burn} times what a month allows ({long} and {short})\"\n          \
             runbook: deploy/runbooks/alerts/SomaObjectiveBurns.md\n",
        name = one.name,
        says = one.says,
        target = (one.target * 1e5).round() / 1e3,
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn an_objective_that_is_none_is_refused_by_name() {
        let file = |target: &str, bad: &str| {
            format!("objectives: [{{ name: fresh, says: x, target: {target}, bad: \"{bad}\", all: \"b[$window]\" }}]")
        };
        assert!(Objectives::parse(&file("0.99", "a[$window]")).is_ok());
        assert!(
            Objectives::parse(&file("1.0", "a[$window]"))
                .unwrap_err()
                .contains("fresh: target 1")
        );
        assert!(
            Objectives::parse(&file("0.9", "a[5m]"))
                .unwrap_err()
                .contains("[$window]")
        );
    }

    #[test]
    fn each_objective_has_its_windows_and_three_alerts() {
        let text = "objectives: [{ name: fresh, says: x, target: 0.99, bad: \"a[$window]\", all: \"b[$window]\" }]";
        let rules = rules(&Objectives::parse(text).unwrap());
        assert!(
            rules.contains("record: soma:fresh:bad_ratio_3d\n        expr: (a[3d])\n          / (b[3d] > 0)"),
            "{rules}"
        );
        assert!(
            rules.contains("soma:fresh:bad_ratio_1h > 14.4 * 0.01000 and soma:fresh:bad_ratio_5m > 14.4 * 0.01000")
        );
        assert_eq!(rules.matches("alert: ").count(), 3);
        let _: serde_json::Value = serde_yaml_ng::from_str(&rules).unwrap();
    }
}
