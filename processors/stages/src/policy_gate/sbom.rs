//! What tools and capsules are made of: bills of materials in CycloneDX, and what a constitution demands of them. Reading one and
//! judging it are pure; where it comes from, and that it tells the truth, is for who publishes it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use schemas::records::{Sbom, SbomComponent};
use serde::{Deserialize, Serialize};
use spdx::{Expression, ParseMode};

pub use super::cyclonedx::read;

/// Faults of one subject that a verdict names.
const NAMED_MAX: usize = 3;

/// What a constitution demands of the bills of materials of a step's tool and a run's capsule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Demand {
    /// Whose there must be: the tool's when left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub of: Vec<Of>,
    /// SPDX identifiers; every component's licence can be met with them alone. Any will do when left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub licences: Vec<String>,
    /// Names of licences, whole, that will do where a bill gives no SPDX expression.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Package URLs that may not be among them: `pkg:npm/event-stream`, of one version with `@1.2.3`, of all before with `@<1.2.3`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub denied: Vec<String>,
}

/// Whose bill of materials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Of {
    /// The tool's of the step.
    Tool,
    /// The capsule's of the run, where it is of one.
    Capsule,
}

/// The bills of materials in force, by subject.
#[derive(Clone, Debug, Default)]
pub(super) struct Held(BTreeMap<String, Arc<Known>>);

/// One of them, and what was found of it: demands change seldom, and it may have thousands of components.
#[derive(Debug)]
struct Known {
    sbom: Sbom,
    found: Mutex<BTreeMap<String, Option<String>>>,
}

impl Known {
    fn judged(&self, demand: &Demand) -> Option<String> {
        let key = serde_json::to_string(demand).unwrap_or_default();
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.entry(key).or_insert_with(|| demand.judge(&self.sbom)).clone()
    }
}

impl Held {
    pub(super) fn apply(&mut self, sbom: Sbom) {
        if sbom.withdrawn {
            self.0.remove(&sbom.subject);
        } else {
            let found = Mutex::default();
            self.0.insert(sbom.subject.clone(), Arc::new(Known { sbom, found }));
        }
    }
}

impl Demand {
    /// What is wrong with the demand itself.
    pub(super) fn fault(&self) -> Option<String> {
        let unknown = self.licences.iter().find(|id| spdx::license_id(id).is_none());
        if let Some(id) = unknown {
            return Some(format!("licences: `{id}` is no SPDX identifier"));
        }
        let wrong = self.denied.iter().find(|d| Denied::read(d).is_none());
        wrong.map(|d| format!("denied: `{d}` is no package URL such as pkg:npm/event-stream@<4.0.0"))
    }

    /// Why a tool, or the capsule it is called for, may not be used.
    pub(super) fn faults(&self, tool: &str, capsule: Option<&str>, held: &Held) -> Vec<String> {
        let of = if self.of.is_empty() {
            &[Of::Tool]
        } else {
            self.of.as_slice()
        };
        let mut faults = Vec::new();
        for of in of {
            // `name@version`: a bill may be for one version or for all.
            let subjects = match (of, capsule) {
                (Of::Tool, _) => vec![format!("tool:{tool}")],
                (Of::Capsule, None) => continue,
                (Of::Capsule, Some(capsule)) => {
                    let name = capsule.split('@').next().unwrap_or(capsule);
                    vec![format!("capsule:{capsule}"), format!("capsule:{name}")]
                }
            };
            match subjects.iter().find_map(|s| held.0.get(s)) {
                Some(known) => faults.extend(known.judged(self)),
                None => {
                    let subject = &subjects[0];
                    faults.push(format!(
                        "{subject} has no bill of materials; publish one with `soma sbom publish {subject} FILE`"
                    ));
                }
            }
        }
        faults
    }

    /// What of a bill of materials goes against the demand, the first few.
    pub fn judge(&self, sbom: &Sbom) -> Option<String> {
        let denied: Vec<_> = self.denied.iter().filter_map(|d| Denied::read(d)).collect();
        let mut faults = Vec::new();
        for part in &sbom.components {
            let name = format!("{} {}", part.name, part.version);
            if let Some(by) = denied.iter().find(|d| d.covers(&part.purl)) {
                faults.push(format!("{} is denied as `{}`", name.trim(), by.text));
            }
            if let Some(why) = self.unlicensed(part) {
                faults.push(format!("{}: {why}", name.trim()));
            }
        }
        let more = faults.len().saturating_sub(NAMED_MAX);
        let named = faults.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join("; ");
        let rest = if more > 0 {
            format!("; and {more} more")
        } else {
            String::new()
        };
        (!faults.is_empty()).then(|| format!("{} with {named}{rest}", sbom.subject))
    }

    fn unlicensed(&self, part: &SbomComponent) -> Option<String> {
        if self.licences.is_empty() && self.names.is_empty() {
            return None;
        }
        if part.licences.is_empty() {
            return Some("states no licence".to_owned());
        }
        let allowed = |text: &String| match Expression::parse_mode(text, ParseMode::LAX) {
            Ok(expression) => expression.evaluate(|wanted| {
                // An exception only adds permissions, so the licence alone decides.
                wanted
                    .license
                    .id()
                    .is_some_and(|id| self.licences.iter().any(|l| l == id.name))
            }),
            Err(_) => false,
        };
        let allowed = |text: &&String| self.names.contains(text) || allowed(text);
        let bad = part.licences.iter().find(|l| !allowed(l));
        bad.map(|licence| format!("licence `{licence}` is not among those allowed"))
    }
}

/// A package that may not be used.
struct Denied<'a> {
    text: &'a str,
    package: String,
    version: Option<&'a str>,
    /// All versions before it, not it alone.
    before: bool,
}

impl<'a> Denied<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let (package, version) = split(text)?;
        let before = version.is_some_and(|v| v.starts_with('<'));
        let version = version.map(|v| v.trim_start_matches('<').trim());
        (version != Some("")).then_some(Self {
            text,
            package,
            version,
            before,
        })
    }

    fn covers(&self, purl: &str) -> bool {
        let Some((package, version)) = split(purl) else {
            return false;
        };
        package == self.package
            && match (self.version, version) {
                (None, _) => true,
                // Without a version it may be any.
                (Some(_), None) => true,
                (Some(limit), Some(version)) if self.before => parts(version) < parts(limit),
                (Some(one), Some(version)) => one == version,
            }
    }
}

/// A package URL without qualifiers: package and version. `%40` is the `@` of an npm scope.
fn split(purl: &str) -> Option<(String, Option<&str>)> {
    let plain = purl.split(['?', '#']).next().unwrap_or_default();
    let rest = plain.strip_prefix("pkg:")?;
    let (package, version) = match rest.rsplit_once('@') {
        Some((package, version)) if !package.is_empty() && !version.contains('/') => (package, Some(version)),
        _ => (rest, None),
    };
    let package = package.to_lowercase().replace("%40", "@");
    package.contains('/').then_some((package, version))
}

/// A version to compare by: numbers as numbers. A pre-release comes before its release, as in semantic versions.
fn parts(version: &str) -> Vec<(u8, u64, String)> {
    let (release, pre) = match version.split_once('-') {
        Some((release, pre)) => (release, Some(pre)),
        None => (version, None),
    };
    let part = |p: &str| match p.parse::<u64>() {
        Ok(n) => (2, n, String::new()),
        Err(_) => (0, 0, p.to_owned()),
    };
    let mut all: Vec<_> = release.split(['.', '+', '_']).map(part).collect();
    while all.last() == Some(&(2, 0, String::new())) {
        all.pop();
    }
    match pre {
        Some(pre) => all.extend(pre.split('.').map(|p| {
            let (_, n, text) = part(p);
            (0, n, text)
        })),
        None => all.push((1, 0, String::new())),
    }
    all
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn part(purl: &str, licences: &[&str]) -> SbomComponent {
        SbomComponent {
            name: "x".into(),
            purl: purl.into(),
            licences: licences.iter().map(|l| (*l).to_owned()).collect(),
            ..SbomComponent::default()
        }
    }

    fn judged(demand: &Demand, parts: &[SbomComponent]) -> Option<String> {
        demand.judge(&Sbom {
            subject: "tool:t".into(),
            components: parts.to_vec(),
            ..Sbom::default()
        })
    }

    #[test]
    fn licences_are_met_by_those_allowed_whatever_the_expression() {
        let demand = Demand {
            licences: vec!["MIT".into(), "Apache-2.0".into()],
            ..Demand::default()
        };
        for (licences, fine) in [
            (&["MIT"][..], true),
            (&["GPL-3.0-only OR MIT"], true),
            (&["MIT/Apache-2.0"], true),
            (&["Apache-2.0 WITH LLVM-exception"], true),
            (&["MIT AND GPL-3.0-only"], false),
            (&["MIT", "GPL-3.0-only"], false),
            (&["Our Own Licence"], false),
            (&[], false),
        ] {
            assert_eq!(judged(&demand, &[part("", licences)]).is_none(), fine, "{licences:?}");
        }
        assert_eq!(judged(&Demand::default(), &[part("", &[])]), None);
    }

    #[test]
    fn a_bill_as_pypi_packages_give_it_is_met_with_its_licences_and_the_names_it_has_instead() {
        let sbom = read(
            "tool:stock",
            include_str!("../../../../tests/live/stock_client.cdx.json"),
        )
        .unwrap();
        assert_eq!(sbom.components.len(), 17);
        let ids = ["MIT", "MIT-0", "BSD-3-Clause", "Apache-2.0", "MPL-2.0", "PSF-2.0"];
        let mut demand = Demand {
            licences: ids.iter().map(|l| (*l).to_owned()).collect(),
            ..Demand::default()
        };
        let fault = demand.judge(&sbom).unwrap();
        assert!(
            fault.contains("License :: OSI Approved :: Apache Software License"),
            "{fault}"
        );
        demand.names = vec!["License :: OSI Approved :: Apache Software License".into()];
        assert_eq!(demand.judge(&sbom), None);
        demand.denied = vec!["pkg:pypi/attrs@<26".into()];
        assert!(demand.judge(&sbom).unwrap().contains("attrs 25.4.0 is denied"));
    }

    #[test]
    fn a_denied_package_is_found_by_name_version_and_all_before() {
        let denied = |text: &str, purl: &str| {
            let demand = Demand {
                denied: vec![text.into()],
                ..Demand::default()
            };
            assert_eq!(demand.fault(), None, "{text}");
            judged(&demand, &[part(purl, &["MIT"])]).is_some()
        };
        let log4j = "pkg:maven/org.apache.logging.log4j/log4j-core";
        assert!(denied(log4j, &format!("{log4j}@2.14.1?type=jar")));
        assert!(denied(&format!("{log4j}@2.14.1"), &format!("{log4j}@2.14.1")));
        assert!(!denied(&format!("{log4j}@2.14.1"), &format!("{log4j}@2.14.2")));
        assert!(denied(&format!("{log4j}@<2.17.1"), &format!("{log4j}@2.9.0")));
        assert!(denied(&format!("{log4j}@<2.17.1"), &format!("{log4j}@2.17.1-rc1")));
        assert!(!denied(&format!("{log4j}@<2.17.1"), &format!("{log4j}@2.17.1")));
        assert!(!denied(&format!("{log4j}@<2.17"), &format!("{log4j}@2.17.0")));
        assert!(denied(&format!("{log4j}@<2.17.1"), log4j), "no version may be any");
        assert!(denied("pkg:npm/%40acme/left", "pkg:npm/@acme/left@1.0.0"));
        assert!(!denied("pkg:npm/left", "pkg:npm/left-pad@1.0.0"));
        let nonsense = Demand {
            denied: vec!["log4j".into()],
            ..Demand::default()
        };
        assert!(nonsense.fault().unwrap().contains("log4j"));
    }

    #[test]
    fn what_is_demanded_must_be_there() {
        let mut held = Held::default();
        let tool = Demand::default();
        assert!(tool.faults("http", None, &held)[0].contains("tool:http has no bill of materials"));
        let of = |subject: &str, withdrawn| Sbom {
            subject: subject.into(),
            withdrawn,
            ..Sbom::default()
        };
        held.apply(of("tool:http", false));
        assert!(tool.faults("http", None, &held).is_empty());
        let both = Demand {
            of: vec![Of::Tool, Of::Capsule],
            ..Demand::default()
        };
        assert!(both.faults("http", None, &held).is_empty(), "a run without a capsule");
        assert_eq!(both.faults("http", Some("roll@1.0.0"), &held).len(), 1);
        held.apply(of("capsule:roll", false));
        assert!(both.faults("http", Some("roll@1.0.0"), &held).is_empty());
        held.apply(of("tool:http", true));
        assert_eq!(both.faults("http", Some("roll@1.0.0"), &held).len(), 1);
    }
}
