//! A UDF of the values of a group, as DataFusion's own: the values are kept, as lists in the partial state, and handed over when the
//! group is done. A state as large as its values: for groups that are small or windows that are short.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, new_empty_array};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::ScalarValue;
use datafusion::common::utils::SingleRowListArrayBuilder;
use datafusion::error::Result;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};

use super::called::Called;

/// As an aggregate of DataFusion's.
pub(super) fn of(called: Arc<Called>) -> AggregateUDF {
    let signature = Signature::exact(called.arg_types.clone(), Volatility::Immutable);
    AggregateUDF::from(Aggregate { called, signature })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Aggregate {
    called: Arc<Called>,
    signature: Signature,
}

impl AggregateUDFImpl for Aggregate {
    fn name(&self) -> &str {
        &self.called.said.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.called.result_type.clone())
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let refused = |what: &str| {
            Err(self
                .called
                .failed(format!("takes no {what}; leave it out"), None)
                .into())
        };
        if args.is_distinct {
            return refused("DISTINCT");
        }
        if !args.order_bys.is_empty() {
            return refused("ORDER BY");
        }
        let values = vec![Vec::new(); self.called.arg_types.len()];
        Ok(Box::new(Values {
            called: self.called.clone(),
            values,
        }))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let fields = self.called.said.args.iter().zip(&self.called.arg_types);
        Ok(fields
            .map(|(arg, kind)| {
                let item = Field::new_list_field(kind.clone(), true);
                Arc::new(Field::new_list(format_state_name(args.name, &arg.name), item, true))
            })
            .collect())
    }
}

/// The values of a group so far, by argument.
#[derive(Debug)]
struct Values {
    called: Arc<Called>,
    values: Vec<Vec<ArrayRef>>,
}

impl Values {
    /// One array by argument.
    fn whole(&mut self) -> Result<Vec<ArrayRef>> {
        for (parts, kind) in self.values.iter_mut().zip(&self.called.arg_types) {
            let refs: Vec<&dyn Array> = parts.iter().map(|a| &**a).collect();
            let whole = match refs.len() {
                0 => new_empty_array(kind),
                _ => concat(&refs)?,
            };
            *parts = vec![whole];
        }
        Ok(self.values.iter().flatten().cloned().collect())
    }
}

impl Accumulator for Values {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for (parts, part) in self.values.iter_mut().zip(values) {
            parts.push(part.clone());
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let whole = self.whole()?;
        let result = self.called.call(&whole)?;
        ScalarValue::try_from_array(&result, 0)
    }

    fn size(&self) -> usize {
        let arrays = self.values.iter().flatten();
        size_of_val(self) + arrays.map(|a| a.get_array_memory_size()).sum::<usize>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let list = |whole| SingleRowListArrayBuilder::new(whole).build_list_scalar();
        Ok(self.whole()?.into_iter().map(list).collect())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for (parts, lists) in self.values.iter_mut().zip(states) {
            parts.extend(lists.as_list::<i32>().iter().flatten());
        }
        Ok(())
    }
}
