//! Bills of materials as CycloneDX writes them in JSON: the few fields that policy looks at.

use std::collections::BTreeSet;

use schemas::records::{Sbom, SbomComponent};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// Components a bill may have: it has to fit a Kafka record.
const COMPONENTS_MAX: usize = 5_000;

/// Reads a CycloneDX bill of materials in JSON: of a tool (`tool:http`) or a capsule (`capsule:service_rollout@1.0.0`).
///
/// # Errors
/// It is not one, names no component, or too many.
pub fn read(subject: &str, text: &str) -> Result<Sbom, String> {
    let named = subject
        .split_once(':')
        .filter(|(kind, name)| ["tool", "capsule"].contains(kind) && !name.is_empty());
    if named.is_none() {
        return Err(format!("`{subject}` is neither tool:<name> nor capsule:<name>"));
    }
    if text.trim_start().starts_with('<') {
        return Err("this is XML: write CycloneDX as JSON".to_owned());
    }
    let bom: Bom = serde_json::from_str(text).map_err(|e| format!("not CycloneDX in JSON: {e}"))?;
    if bom.bom_format != "CycloneDX" {
        return Err(format!("bomFormat is `{}`, not CycloneDX", bom.bom_format));
    }
    let mut all = BTreeSet::new();
    let mut waiting: Vec<_> = bom.metadata.component.into_iter().chain(bom.components).collect();
    while let Some(part) = waiting.pop() {
        if part.name.is_empty() {
            return Err("a component has no name".to_owned());
        }
        all.insert(SbomComponent {
            name: part.name,
            version: part.version,
            purl: part.purl,
            licences: licences(part.licenses),
        });
        waiting.extend(part.components);
    }
    if all.is_empty() || all.len() > COMPONENTS_MAX {
        return Err(format!(
            "it has {} components, not from 1 to {COMPONENTS_MAX}",
            all.len()
        ));
    }
    Ok(Sbom {
        subject: subject.to_owned(),
        digest: hex::encode(Sha256::digest(text.as_bytes())),
        format: format!("CycloneDX {}", bom.spec_version),
        components: all.into_iter().collect(),
        ..Sbom::default()
    })
}

/// What a component states, each once. PyPI's classifiers say in other words what an expression beside them says exactly.
fn licences(stated: Vec<Stated>) -> Vec<String> {
    let mut all: Vec<_> = stated.into_iter().filter_map(Stated::text).collect();
    let classifier = |text: &String| text.starts_with("License :: ");
    if !all.iter().all(classifier) {
        all.retain(|text| !classifier(text));
    }
    all.sort();
    all.dedup();
    all
}

/// What of CycloneDX is read (ECMA-424).
#[derive(Deserialize)]
struct Bom {
    #[serde(rename = "bomFormat")]
    bom_format: String,
    #[serde(rename = "specVersion")]
    spec_version: String,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    components: Vec<Part>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    component: Option<Part>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Part {
    name: String,
    version: String,
    purl: String,
    licenses: Vec<Stated>,
    components: Vec<Part>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Stated {
    Expression { expression: String },
    Licence { license: Licence },
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Licence {
    id: String,
    name: String,
}

impl Stated {
    fn text(self) -> Option<String> {
        let text = match self {
            Stated::Expression { expression } => expression,
            Stated::Licence { license } if license.id.is_empty() => license.name,
            Stated::Licence { license } => license.id,
        };
        (!text.trim().is_empty()).then_some(text)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn cyclonedx_is_read_with_its_nested_parts_and_refused_by_field() {
        let text = r#"{"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
            "metadata": {"component": {"type": "application", "name": "app", "version": "1", "licenses": [{"expression": "MIT OR Apache-2.0"}]}},
            "components": [{"type": "library", "name": "a", "version": "2", "purl": "pkg:cargo/a@2", "licenses": [{"license": {"id": "MIT"}}],
                "components": [{"type": "library", "name": "b", "licenses": [{"license": {"name": "Own"}}]}]}]}"#;
        let sbom = read("tool:http", text).unwrap();
        let shown: Vec<_> = sbom
            .components
            .iter()
            .map(|c| (c.name.as_str(), c.licences.join(",")))
            .collect();
        assert_eq!(
            shown,
            [
                ("a", "MIT".to_owned()),
                ("app", "MIT OR Apache-2.0".to_owned()),
                ("b", "Own".to_owned())
            ]
        );
        assert_eq!(sbom.format, "CycloneDX 1.5");
        for (subject, text, says) in [
            ("http", text, "neither tool:"),
            ("tool:", text, "neither tool:"),
            ("tool:http", "<bom/>", "XML"),
            ("tool:http", r#"{"spdxVersion": "SPDX-2.3"}"#, "bomFormat"),
            ("tool:http", r#"{"bomFormat": "Other", "specVersion": "1"}"#, "Other"),
            (
                "tool:http",
                r#"{"bomFormat": "CycloneDX", "specVersion": "1.5"}"#,
                "0 components",
            ),
        ] {
            let error = read(subject, text).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
