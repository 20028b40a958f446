//! Rows of a batch that are alike, found before the table of groups is asked: events of few tenants and types repeat the same few groups, and the
//! table hashes and compares each column of each row (`make bench-analytics`, view `per_tenant`).

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{ArrowPrimitiveType, DataType, Int32Type, Int64Type, TimeUnit};
use arrow::datatypes::{TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType};

/// Places for first rows; at most half are taken, so that one that is taken already is seldom met.
const PLACES: usize = 1 << 11;
/// So many rows are looked at before it is known whether they repeat.
const TRIED: usize = 512;

/// Finds rows that are alike; its memory is kept from batch to batch, what it found is not.
#[derive(Default)]
pub(crate) struct Distinct {
    hashes: Vec<u64>,
    /// By place, number of a first row in its batch, and one more; 0 for none.
    places: Vec<u32>,
    /// Rows unlike all before them.
    pub(crate) firsts: Vec<u32>,
    /// By row, which of the first rows it is like.
    pub(crate) like: Vec<u32>,
}

/// The values of a column, as far as whether two are equal goes.
enum Values<'a> {
    Int(&'a [i32]),
    Long(&'a [i64]),
    /// Equal views of one array show equal texts; the other way round need not be.
    Text(&'a [u128]),
}

struct Column<'a> {
    values: Values<'a>,
    nulls: Option<&'a NullBuffer>,
}

impl<'a> Column<'a> {
    fn of(array: &'a ArrayRef) -> Option<Self> {
        fn long<T: ArrowPrimitiveType<Native = i64>>(array: &ArrayRef) -> Option<Values<'_>> {
            let array: &PrimitiveArray<T> = array.as_primitive_opt()?;
            Some(Values::Long(array.values()))
        }
        let values = match array.data_type() {
            DataType::Int32 => Values::Int(array.as_primitive::<Int32Type>().values()),
            DataType::Int64 => long::<Int64Type>(array)?,
            DataType::Timestamp(TimeUnit::Millisecond, _) => long::<TimestampMillisecondType>(array)?,
            DataType::Timestamp(TimeUnit::Microsecond, _) => long::<TimestampMicrosecondType>(array)?,
            DataType::Timestamp(TimeUnit::Nanosecond, _) => long::<TimestampNanosecondType>(array)?,
            DataType::Utf8View => Values::Text(array.as_string_view().views()),
            _ => return None,
        };
        let nulls = array.nulls().filter(|n| n.null_count() > 0);
        Some(Self { values, nulls })
    }

    fn hash(&self, into: &mut [u64]) {
        fn mix(hash: &mut u64, value: u64) {
            // The odd number nearest to 2^64 by the golden ratio; rows that begin at one place cost time, not truth.
            *hash = (hash.rotate_left(23) ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        }
        match &self.values {
            Values::Int(v) => into
                .iter_mut()
                .zip(*v)
                .for_each(|(h, v)| mix(h, u64::from(v.cast_unsigned()))),
            Values::Long(v) => into.iter_mut().zip(*v).for_each(|(h, v)| mix(h, v.cast_unsigned())),
            Values::Text(v) => into.iter_mut().zip(*v).for_each(|(h, v)| {
                let [low, high] = [*v as u64, (*v >> 64) as u64];
                mix(h, low ^ high.rotate_left(32));
            }),
        }
    }

    fn same(&self, one: usize, other: usize) -> bool {
        if let Some(nulls) = self.nulls
            && (nulls.is_null(one) || nulls.is_null(other))
        {
            return nulls.is_null(one) && nulls.is_null(other);
        }
        match &self.values {
            Values::Int(v) => v[one] == v[other],
            Values::Long(v) => v[one] == v[other],
            Values::Text(v) => v[one] == v[other],
        }
    }
}

impl Distinct {
    /// Whether rows of these columns repeat so much that it is worth it; `firsts` and `like` are filled then.
    pub(crate) fn find(&mut self, columns: &[ArrayRef]) -> bool {
        let rows = columns.first().map_or(0, |c| c.len());
        // The table has a way of its own for a single number.
        if columns.len() < 2 || rows < TRIED || u32::try_from(rows).is_err() {
            return false;
        }
        let Some(columns) = columns.iter().map(Column::of).collect::<Option<Vec<_>>>() else {
            return false;
        };
        self.hashes.clear();
        self.hashes.resize(rows, 0);
        columns.iter().for_each(|column| column.hash(&mut self.hashes));
        self.places.clear();
        self.places.resize(PLACES, 0);
        self.firsts.clear();
        self.like.clear();
        for row in 0..rows {
            if row == TRIED && self.firsts.len() > TRIED / 4 || self.firsts.len() > PLACES / 2 {
                return false;
            }
            let hash = self.hashes[row];
            // The upper bits have been mixed best.
            let mut place = (hash >> 53) as usize;
            let nth = loop {
                let Some(nth) = self.places[place].checked_sub(1) else {
                    self.firsts.push(row as u32);
                    self.places[place] = self.firsts.len() as u32;
                    break self.firsts.len() as u32 - 1;
                };
                let first = self.firsts[nth as usize] as usize;
                if self.hashes[first] == hash && columns.iter().all(|column| column.same(row, first)) {
                    break nth;
                }
                place = (place + 1) % PLACES;
            };
            self.like.push(nth);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{BooleanArray, Int64Array, StringViewArray};
    use std::sync::Arc;

    fn columns(rows: usize, tenants: usize) -> Vec<ArrayRef> {
        let pane = Int64Array::from_iter_values((0..rows).map(|r| (r / 700) as i64));
        // Nulls, behind which lies what a view of nothing looks like, and one long text, which lies there anew for each row.
        let text = |r: usize| match r % tenants {
            0 => None,
            1 => Some(String::new()),
            3 => Some("a tenant of a long name".to_owned()),
            n => Some(format!("t{n}")),
        };
        let tenant: StringViewArray = (0..rows).map(text).collect();
        vec![Arc::new(pane), Arc::new(tenant)]
    }

    #[test]
    fn rows_taken_for_alike_are_equal_in_every_column() {
        let given = columns(3000, 9);
        let mut distinct = Distinct::default();
        assert!(distinct.find(&given));
        assert_eq!(distinct.like.len(), 3000);
        let texts = given[1].as_string_view();
        let panes = given[0].as_primitive::<Int64Type>();
        for (row, like) in distinct.like.iter().enumerate() {
            let first = distinct.firsts[*like as usize] as usize;
            assert_eq!(panes.value(row), panes.value(first));
            assert_eq!(texts.is_null(row), texts.is_null(first), "{row} like {first}");
            assert!(texts.is_null(row) || texts.value(row) == texts.value(first));
        }
        // Eight tenants in five panes, each once.
        let short = distinct
            .firsts
            .iter()
            .filter(|r| texts.is_null(**r as usize) || texts.value(**r as usize).len() < 13);
        assert_eq!(short.count(), 8 * 5);
    }

    #[test]
    fn what_does_not_repeat_or_is_not_known_goes_the_long_way() {
        let mut distinct = Distinct::default();
        assert!(!distinct.find(&columns(5000, 4000)), "each row is another");
        assert!(!distinct.find(&columns(100, 2)), "too few to be worth it");
        assert!(!distinct.find(&columns(5000, 9)[..1]), "a single column");
        let flags: ArrayRef = Arc::new(BooleanArray::from(vec![true; 5000]));
        assert!(
            !distinct.find(&[flags, columns(5000, 9)[0].clone()]),
            "a type it does not know"
        );
        // And once more what does, with the same memory.
        assert!(distinct.find(&columns(5000, 3)));
    }
}
