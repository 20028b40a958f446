//! What a dylib says of itself, in JSON under the symbol `__soma_udf`: read and checked before anything of it is called.

use std::fmt;

use arrow::datatypes::DataType;
use serde::Deserialize;

/// Version of this way of saying it.
const ABI: u32 = 1;
/// The plugin whose `__run` the host knows how to call, and knows to catch panics.
pub(super) const PLUGIN: &str = "0.2.0";

/// What a UDF says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
pub struct Said {
    abi: u32,
    plugin: String,
    panic: String,
    /// Name in SQL.
    pub name: String,
    /// What it does.
    pub doc: String,
    /// Its arguments.
    pub args: Vec<Arg>,
    /// What it gives.
    pub returns: Arg,
    /// Whether it takes the values of a group instead of those of a row.
    pub aggregate: bool,
    #[serde(rename = "async")]
    is_async: bool,
}

/// An argument, or the result, which has no name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
pub struct Arg {
    /// Name in the source.
    pub name: String,
    /// Arrow's name of the type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether the function is asked when this is NULL; if not, the result is NULL. For the values of a group: whether NULLs are
    /// among them.
    pub nullable: bool,
    /// Whether it takes all values of a group.
    pub list: bool,
}

impl Arg {
    /// The type; none that `#[udf]` cannot hand over.
    pub(super) fn data_type(&self) -> Option<DataType> {
        Some(match self.kind.as_str() {
            "Utf8" => DataType::Utf8,
            "Binary" => DataType::Binary,
            "Int8" => DataType::Int8,
            "Int16" => DataType::Int16,
            "Int32" => DataType::Int32,
            "Int64" => DataType::Int64,
            "UInt8" => DataType::UInt8,
            "UInt16" => DataType::UInt16,
            "UInt32" => DataType::UInt32,
            "UInt64" => DataType::UInt64,
            "Float32" => DataType::Float32,
            "Float64" => DataType::Float64,
            _ => return None,
        })
    }
}

impl Said {
    /// Reads and checks it.
    ///
    /// # Errors
    /// Why it cannot be called, with its name as far as that is known.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let said: Self = serde_json::from_str(text)
            .map_err(|e| format!("what it says of itself under `__soma_udf` cannot be read: {e}; {REBUILD}"))?;
        match said.wrong() {
            Some(wrong) => Err(format!("udf `{}`: {wrong}", said.name)),
            None => Ok(said),
        }
    }

    fn wrong(&self) -> Option<String> {
        let args = || self.args.iter().enumerate();
        if self.abi != ABI {
            return Some(format!(
                "speaks version {} of the interface, not {ABI}; {REBUILD}",
                self.abi
            ));
        }
        if self.plugin != PLUGIN {
            return Some(format!(
                "was built with arroyo-udf-plugin {}, not {PLUGIN}; {REBUILD}",
                self.plugin
            ));
        }
        if self.panic != "unwind" {
            let why = "a panic in it would end the process";
            return Some(format!(
                "was built with panic = `{}`: {why}; build it with `unwind`",
                self.panic
            ));
        }
        if self.is_async {
            return Some("is async, which only Arroyo can call; make it a plain function".to_owned());
        }
        // `#[udf]` takes the number of rows from the first argument.
        if self.args.is_empty() {
            return Some("has no argument; a UDF needs one at least".to_owned());
        }
        if let Some((i, arg)) = args().find(|(_, a)| a.data_type().is_none() || a.list != self.aggregate) {
            let list = if arg.list { "Vec of " } else { "" };
            return Some(format!(
                "argument {} (`{}`) is {list}{}, which cannot be handed over here",
                i + 1,
                arg.name,
                arg.kind
            ));
        }
        if self.returns.data_type().is_none() || self.returns.list {
            return Some(format!("gives {}, which cannot be handed over", self.returns.kind));
        }
        None
    }

    /// Types of its arguments, of one value each.
    pub(super) fn arg_types(&self) -> Vec<DataType> {
        self.args.iter().filter_map(Arg::data_type).collect()
    }

    /// Type of its result.
    pub(super) fn result_type(&self) -> DataType {
        self.returns.data_type().unwrap_or(DataType::Null)
    }
}

pub(super) const REBUILD: &str = "`make udfs` builds those of processors/udfs";

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let args: Vec<_> = self
            .args
            .iter()
            .map(|a| format!("{} {}{}", a.name, a.kind, if a.list { " of a group" } else { "" }))
            .collect();
        write!(f, "{}({}) -> {}", self.name, args.join(", "), self.returns.kind)
    }
}
