//! The short way of reading gives what `arrow-avro` gives, also of values that are broken in every way chance finds.

use super::world::{Chance, lines};
use crate::streaming::flat::Flat;
use crate::streaming::reader::{decoder, prune};

const RICH: &str = r#"{"type":"record","name":"Rich","namespace":"t","fields":[
  {"name":"id","type":"string"},
  {"name":"tags","type":{"type":"map","values":"string"}},
  {"name":"when","type":["null",{"type":"long","logicalType":"timestamp-millis"}]},
  {"name":"marks","type":{"type":"array","items":"long"}},
  {"name":"n","type":["long","null"]},
  {"name":"kind","type":{"type":"enum","name":"Kind","symbols":["A","B"]}},
  {"name":"inner","type":{"type":"record","name":"Inner","fields":[{"name":"a","type":"int"},{"name":"b","type":["null","string"]}]}},
  {"name":"x","type":"double"},
  {"name":"four","type":{"type":"fixed","name":"Four","size":4}},
  {"name":"ok","type":"boolean"},
  {"name":"i","type":"int"},
  {"name":"text","type":"string"}]}"#;

/// A framed value of [`RICH`], by hand.
fn rich(chance: &mut Chance) -> Vec<u8> {
    let mut out = vec![0, 0, 0, 0, 7];
    out.extend(b"\x06abc");
    out.extend(b"\x02\x02k\x04vw\x00");
    out.extend(if chance.below(2) == 0 {
        &b"\x00"[..]
    } else {
        b"\x02\x80\xb4\xe5\xd0\xb5\x58"
    });
    // Three items, then two in a block that says its size.
    out.extend(b"\x06\x02\x04\x06\x03\x04\x08\x0a\x00");
    out.extend(if chance.below(2) == 0 {
        &b"\x02"[..]
    } else {
        b"\x00\xd7\x09"
    });
    out.extend(b"\x02\x05\x02\x04hi");
    out.extend(1.5f64.to_le_bytes());
    out.extend(b"four\x01\x13");
    let text = ["short", "a text of more than twelve bytes", "\u{e4}\u{f6}\u{fc}"][chance.below(3)];
    out.push((text.len() * 2) as u8);
    out.extend(text.as_bytes());
    out
}

fn damage(value: &mut Vec<u8>, chance: &mut Chance) {
    for _ in 0..chance.below(3) {
        match chance.below(4) {
            0 => value.truncate(5 + chance.below(value.len() - 4)),
            1 => value.push(chance.below(256) as u8),
            _ if value.len() > 5 => {
                let at = 5 + chance.below(value.len() - 5);
                value[at] = chance.below(256) as u8;
            }
            _ => {}
        }
    }
}

#[test]
fn the_short_way_and_the_long_way_agree() {
    let taken = ["when", "n", "x", "ok", "i", "text"];
    let wanted = prune(RICH, &|name| taken.contains(&name)).unwrap();
    let mut flat = Flat::new(RICH, &wanted).unwrap();
    let mut chance = Chance(5);
    let (mut both, mut neither, mut long_only) = (0, 0, 0);
    for _ in 0..20_000 {
        let mut value = rich(&mut chance);
        damage(&mut value, &mut chance);
        let short = flat.take(&value).then(|| flat.finish()).flatten().map(|columns| {
            let columns = columns.into_iter().map(|(name, array)| (name.to_owned(), array));
            let batch = arrow::array::RecordBatch::try_from_iter(columns).unwrap();
            lines(&batch).remove(0).replace('Z', "")
        });
        let mut long = decoder(7, RICH, Some(&wanted)).unwrap();
        let whole =
            matches!(long.decode(&value), Ok(n) if n == value.len()) && long.capacity() + 1 == long.batch_size();
        let long = whole
            .then(|| long.flush().ok().flatten())
            .flatten()
            .map(|batch| lines(&batch).remove(0).replace('Z', ""));
        match (&short, &long) {
            (None, None) => neither += 1,
            (None, Some(_)) => long_only += 1,
            _ => {
                assert_eq!(short, long, "{value:?}");
                both += 1;
            }
        }
    }
    assert!(
        both > 5_000 && neither > 1_000 && long_only < both / 20,
        "{both} {neither} {long_only}"
    );
}

#[test]
fn what_needs_rules_of_resolution_goes_the_long_way() {
    let wanted = |json: &str| prune(json, &|name| name == "i").unwrap();
    assert!(Flat::new(RICH, &wanted(RICH)).is_some());
    let wider = RICH.replace(r#""name":"i","type":"int""#, r#""name":"i","type":"long""#);
    assert!(Flat::new(RICH, &wanted(&wider)).is_none(), "another type");
    let named = RICH.replace(r#""name":"Rich""#, r#""name":"Richer""#);
    assert!(Flat::new(RICH, &wanted(&named)).is_none(), "another name");
    let less = RICH.replace(r#"{"name":"i","type":"int"},"#, "");
    assert!(
        Flat::new(&less, &wanted(RICH)).is_none(),
        "a field the writer does not have"
    );
}
