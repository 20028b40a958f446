//! Weighted rules: a pattern in the goal or the arguments takes its weight off the score. The original's arithmetic and bands.

use kernel::ConfigFault;
use schemas::records::{Severity, Violation};
use serde::Deserialize;

/// Characters shown either side of a match.
const EXCERPT: usize = 40;

/// One rule of `rules.yaml`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WeightedRule {
    /// Name shown in verdicts.
    pub(super) name: String,
    /// Tenant it is for; `*` for all.
    #[serde(default = "everyone")]
    tenant: String,
    /// Text looked for, whatever its case.
    pub(super) pattern: String,
    /// The same in lower case.
    #[serde(skip)]
    wanted: String,
    /// The ASCII characters in that.
    #[serde(skip)]
    letters: u128,
    /// Taken off the score, 0 to 1.
    #[serde(default = "weight")]
    weight: f64,
    #[serde(default)]
    description: String,
    #[serde(default = "severity")]
    severity: Level,
    /// Ask a human instead of denying.
    #[serde(default)]
    pub(super) escalate: bool,
    /// A match counts against the actor.
    #[serde(default)]
    strike: bool,
}

/// Severity as policies write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Low,
    Medium,
    High,
    Critical,
}

impl Level {
    /// The severity of a name.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "low" => Some(Self::Low),
            "medium" => Some(Self::Medium),
            "high" => Some(Self::High),
            "critical" => Some(Self::Critical),
            _ => None,
        }
    }
}

impl From<Level> for Severity {
    fn from(level: Level) -> Self {
        match level {
            Level::Low => Severity::Low,
            Level::Medium => Severity::Medium,
            Level::High => Severity::High,
            Level::Critical => Severity::Critical,
        }
    }
}

fn everyone() -> String {
    "*".into()
}

/// Weight of a rule that names none.
pub(super) fn weight() -> f64 {
    0.35
}

/// Severity of a rule that names none.
pub(super) fn severity() -> Level {
    Level::Medium
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    rules: Vec<WeightedRule>,
}

/// Reads a `rules.yaml`, noting every fault.
pub(super) fn read(path: &str, text: &str, faults: &mut Vec<ConfigFault>) -> Vec<WeightedRule> {
    let mut rules = match serde_yaml_ng::from_str::<File>(text) {
        Ok(file) => file.rules,
        Err(error) => {
            faults.push(ConfigFault::new(path, format!("not a list of weighted rules: {error}")));
            return Vec::new();
        }
    };
    for rule in &mut rules {
        rule.wanted = rule.pattern.chars().map(lower).collect();
        rule.letters = letters(&rule.wanted);
    }
    for (i, rule) in rules.iter().enumerate() {
        let mut fault =
            |key: &str, detail: String| faults.push(ConfigFault::new(format!("{path}: rules[{i}].{key}"), detail));
        if rule.name.is_empty() {
            fault("name", "is empty: name the rule".into());
        }
        if rule.pattern.is_empty() {
            fault("pattern", "is empty and would match everything".into());
        }
        if !(0.0..=1.0).contains(&rule.weight) {
            fault("weight", format!("{} is not from 0 to 1", rule.weight));
        }
        if rules[..i]
            .iter()
            .any(|r| r.name == rule.name && r.tenant == rule.tenant)
        {
            fault(
                "name",
                format!("`{}` is used twice for tenant `{}`", rule.name, rule.tenant),
            );
        }
    }
    rules
}

impl WeightedRule {
    /// The violation, when the pattern occurs in the text of this tenant.
    pub(super) fn violation(&self, tenant: &str, text: &Text<'_>, step_id: Option<&str>) -> Option<Violation> {
        if self.tenant != "*" && self.tenant != tenant {
            return None;
        }
        if self.letters & !text.letters != 0 {
            return None;
        }
        let excerpt = text.excerpt(&self.wanted)?;
        let description = match self.description.as_str() {
            "" => format!("`{}` occurs in the text", self.pattern),
            text => text.to_owned(),
        };
        Some(Violation {
            rule: self.name.clone(),
            description,
            severity: self.severity.into(),
            weight: self.weight,
            excerpt,
            step_id: step_id.map(str::to_owned),
            source: String::new(),
            strike: self.strike && !self.escalate,
        })
    }
}

/// The first lower-case form of a character.
fn lower(c: char) -> char {
    c.to_lowercase().next().unwrap_or(c)
}

/// Which ASCII characters occur in a text, a bit for each.
fn letters(text: &str) -> u128 {
    let ascii = text.bytes().filter(u8::is_ascii);
    ascii.fold(0, |all, byte| all | (1_u128 << byte))
}

/// A text that patterns are looked for in.
pub(super) struct Text<'a> {
    text: &'a str,
    /// In lower case, when each character is a byte.
    plain: Option<String>,
    /// The ASCII characters in that: a pattern with another does not occur. All, when some character is none: its lower-case form may be.
    letters: u128,
}

impl<'a> Text<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        let plain = text.is_ascii().then(|| text.to_ascii_lowercase());
        Self {
            text,
            letters: plain.as_deref().map_or(u128::MAX, letters),
            plain,
        }
    }

    /// The first match with at most 40 characters either side.
    fn excerpt(&self, wanted: &str) -> Option<String> {
        if let Some(plain) = &self.plain {
            let at = plain.find(wanted)?;
            let end = (at + wanted.len() + EXCERPT).min(plain.len());
            return self.text.get(at.saturating_sub(EXCERPT)..end).map(str::to_owned);
        }
        let text: Vec<char> = self.text.chars().collect();
        let wanted: Vec<char> = wanted.chars().collect();
        let at = text
            .windows(wanted.len())
            .position(|w| w.iter().zip(&wanted).all(|(a, b)| lower(*a) == *b))?;
        let end = (at + wanted.len() + EXCERPT).min(text.len());
        Some(text[at.saturating_sub(EXCERPT)..end].iter().collect())
    }
}

/// 1 minus the weights, not below 0, six decimals.
pub(super) fn score(violations: &[Violation]) -> f64 {
    let sum: f64 = violations.iter().map(|v| v.weight).sum();
    ((1.0 - sum).max(0.0) * 1e6).round() / 1e6
}

/// Band of a score.
pub(super) fn band(score: f64) -> Severity {
    match score {
        s if s >= 0.8 => Severity::Low,
        s if s >= 0.5 => Severity::Medium,
        s if s >= 0.2 => Severity::High,
        _ => Severity::Critical,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_found_wherever_its_lower_case_form_stands() {
        let mut faults = Vec::new();
        for (pattern, text, found) in [
            ("rm -rf", "then RM -RF it", true),
            ("rm -rf", "then rm-rf it", false),
            ("RM", "a firm", true),
            ("\u{212a}ey", "the key", true),
            ("key", "the \u{212a}ey", true),
            ("key", "the kéy", false),
            ("é", "e", false),
            ("É", "café", true),
        ] {
            let rules = format!("rules: [{{name: n, pattern: {}}}]", serde_json::json!(pattern));
            let rules = read("rules.yaml", &rules, &mut faults);
            let violation = rules.first().and_then(|r| r.violation("acme", &Text::of(text), None));
            assert_eq!(violation.is_some(), found, "`{pattern}` in `{text}`: {violation:?}");
        }
        assert_eq!(faults, []);
    }
}
