//! `soma.Sbom`: see `avro/soma/Sbom.avsc`, which this mirrors field by field.

use serde::{Deserialize, Serialize};

use crate::values::Timestamp;

/// A component, the subject itself among them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SbomComponent {
    /// Its name.
    pub name: String,
    /// Its version; empty when none is given.
    pub version: String,
    /// Package URL; empty when none is given.
    pub purl: String,
    /// SPDX expressions, or names where it gives no expression. All of them hold.
    pub licences: Vec<String>,
}

/// What a tool or a capsule is made of: the parts of a CycloneDX bill of materials that policy looks at, or word that it counts no more.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sbom {
    /// `tool:` and a tool's name, or `capsule:` and a capsule's, with `@version` or for all versions.
    pub subject: String,
    /// SHA-256 of the bill of materials as it was read, 64 hex digits.
    pub digest: String,
    /// Its format, for example `CycloneDX 1.6`.
    pub format: String,
    /// Its components, each once.
    pub components: Vec<SbomComponent>,
    /// It counts no more.
    #[serde(default)]
    pub withdrawn: bool,
    /// Why it was published or withdrawn.
    pub reason: String,
    /// Who published or withdrew it.
    pub actor: String,
    /// When.
    pub published_at: Timestamp,
}

crate::record!(Sbom, "Sbom");
