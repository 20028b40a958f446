//! A UDF of a row, as DataFusion's own.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use super::called::Called;

/// As a function of DataFusion's.
pub(super) fn of(called: Arc<Called>) -> ScalarUDF {
    // Immutable: a UDF reads nothing but its arguments (processors/udfs/README.md), so that a replay gives the same.
    let signature = Signature::exact(called.arg_types.clone(), Volatility::Immutable);
    ScalarUDF::from(Scalar { called, signature })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Scalar {
    called: Arc<Called>,
    signature: Signature,
}

impl ScalarUDFImpl for Scalar {
    fn name(&self) -> &str {
        &self.called.said.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.called.result_type.clone())
    }

    fn invoke_with_args(&self, given: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = given.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { given.number_rows };
        let args = given
            .args
            .iter()
            .map(|a| a.to_array(rows))
            .collect::<Result<Vec<_>>>()?;
        let result = self.called.call(&args)?;
        if constant {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?));
        }
        Ok(ColumnarValue::Array(result))
    }
}
