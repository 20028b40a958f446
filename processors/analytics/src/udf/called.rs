//! A UDF and how it is called: what goes in and what comes out is checked against what it declares, and an error says which it was.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::DataType;
use datafusion::error::DataFusionError;

use super::foreign::{Ended, Foreign};
use super::said::Said;

/// What went wrong in a call of a UDF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Its name.
    pub udf: String,
    /// What went wrong.
    pub detail: String,
    /// The row it went wrong at, counted from 0 within its batch, where that is known.
    pub row: Option<usize>,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "udf `{}`: {}", self.udf, self.detail)?;
        self.row
            .map_or(Ok(()), |row| write!(f, " (row {row} of its batch, from 0)"))
    }
}

impl std::error::Error for Failed {}

impl Failed {
    /// What went wrong in a UDF, when it is that which a query failed of.
    pub fn of(error: &DataFusionError) -> Option<&Self> {
        match error.find_root() {
            DataFusionError::External(cause) => cause.downcast_ref(),
            _ => None,
        }
    }
}

impl From<Failed> for DataFusionError {
    fn from(failed: Failed) -> Self {
        DataFusionError::External(Box::new(failed))
    }
}

/// A loaded UDF.
pub(super) struct Called {
    pub(super) said: Said,
    pub(super) arg_types: Vec<DataType>,
    pub(super) result_type: DataType,
    path: PathBuf,
    foreign: Foreign,
}

impl Called {
    /// Opens a dylib and checks what it says of itself.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let (foreign, said) = Foreign::open(path)?;
        let said = Said::read(&said)?;
        Ok(Self {
            arg_types: said.arg_types(),
            result_type: said.result_type(),
            said,
            path: path.to_owned(),
            foreign,
        })
    }

    /// Calls it with so many rows and gives as many, or one for a group.
    ///
    /// # Errors
    /// The arguments are not as declared, it panicked, or what it gave is not as declared.
    pub(super) fn call(&self, args: &[ArrayRef]) -> Result<ArrayRef, Failed> {
        self.check(args)?;
        let rows = if self.said.aggregate { 1 } else { args[0].len() };
        match self.foreign.call(args, &self.result_type) {
            Ended::Gave(given) if given.len() == rows => Ok(given),
            Ended::Gave(given) => Err(self.failed(format!("gave {} values, not {rows}", given.len()), None)),
            Ended::Refused(detail) => Err(self.failed(detail, None)),
            Ended::Panicked => {
                let row = (!self.said.aggregate).then(|| self.panics_at(args)).flatten();
                Err(self.failed("panicked; what it said is on standard error", row))
            }
        }
    }

    fn check(&self, args: &[ArrayRef]) -> Result<(), Failed> {
        if args.len() != self.arg_types.len() {
            let detail = format!("takes {} arguments, not {}", self.arg_types.len(), args.len());
            return Err(self.failed(detail, None));
        }
        for (i, (arg, wanted)) in args.iter().zip(&self.arg_types).enumerate() {
            let wrong = match arg.data_type() {
                given if given != wanted => format!("is {given}, not {wanted}"),
                _ if !self.said.aggregate && arg.len() != args[0].len() => {
                    format!("has {} rows, the first {}", arg.len(), args[0].len())
                }
                _ => continue,
            };
            let name = &self.said.args[i].name;
            return Err(self.failed(format!("argument {} (`{name}`) {wrong}", i + 1), None));
        }
        Ok(())
    }

    /// The first row it panics at, found by halves: a function of a row does the same with it in any company.
    fn panics_at(&self, args: &[ArrayRef]) -> Option<usize> {
        let (mut from, mut rows) = (0, args[0].len());
        let panics = |from, rows| {
            let part: Vec<_> = args.iter().map(|a| a.slice(from, rows)).collect();
            matches!(self.foreign.call(&part, &self.result_type), Ended::Panicked)
        };
        while rows > 1 {
            let half = rows / 2;
            if panics(from, half) {
                rows = half;
            } else {
                from += half;
                rows -= half;
            }
        }
        (rows == 1 && panics(from, 1)).then_some(from)
    }

    pub(super) fn failed(&self, detail: impl Into<String>, row: Option<usize>) -> Failed {
        Failed {
            udf: self.said.name.clone(),
            detail: detail.into(),
            row,
        }
    }
}

impl fmt::Debug for Called {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.said, self.path.display())
    }
}

// Two are one when they are the same function of the same file: DataFusion compares expressions.
impl PartialEq for Called {
    fn eq(&self, other: &Self) -> bool {
        (&self.said, &self.path) == (&other.said, &other.path)
    }
}

impl Eq for Called {}

impl Hash for Called {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.said, &self.path).hash(state);
    }
}
