//! Rows for each UDF of a row, and what the plain function gives for each of them. A NULL in any argument gives NULL: that is what
//! an argument that is not an `Option` means.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};

use super::Random;
use super::plain::{cost_usd, json_path, latency_bucket, redact, risk_band, tenant_tier};

/// Arguments, and what is right.
pub(super) struct Batch {
    pub(super) args: Vec<ArrayRef>,
    pub(super) right: ArrayRef,
}

/// Makes a batch: of the rows that were thought of, or of so many by chance.
pub(super) type Make = fn(Option<(&mut Random, usize)>) -> Batch;

/// Every UDF of a row.
pub(super) const SUBJECTS: [(&str, Make); 6] = [
    ("risk_band", bands),
    ("latency_bucket", buckets),
    ("cost_usd", costs),
    ("redact", redacted),
    ("tenant_tier", tiers),
    ("json_path", paths),
];

type Text = Option<&'static str>;

fn texts<S: AsRef<str>>(rows: impl IntoIterator<Item = Option<S>>) -> ArrayRef {
    Arc::new(rows.into_iter().collect::<StringArray>())
}

fn rows<T>(of: Option<(&mut Random, usize)>, thought: Vec<T>, by_chance: impl Fn(&mut Random) -> T) -> Vec<T> {
    match of {
        None => thought,
        Some((random, n)) => (0..n).map(|_| by_chance(random)).collect(),
    }
}

fn bands(of: Option<(&mut Random, usize)>) -> Batch {
    let edges = [
        0.8,
        0.5,
        0.2,
        0.0,
        1.0,
        -0.0,
        -1.0,
        2.0,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::MIN_POSITIVE,
    ];
    let mut thought: Vec<Option<f64>> = edges.into_iter().map(Some).collect();
    thought.extend([0.8, 0.5, 0.2].map(|e: f64| Some(e.next_down())));
    thought.push(None);
    let rows = rows(of, thought, |r| match r.below(10) {
        0 => None,
        1 => Some(r.bits()),
        _ => Some(r.below(1_000_001) as f64 / 1e6),
    });
    Batch {
        right: texts(rows.iter().map(|r| r.and_then(risk_band::plain))),
        args: vec![Arc::new(Float64Array::from(rows))],
    }
}

fn buckets(of: Option<(&mut Random, usize)>) -> Batch {
    let mut thought = vec![None, Some(i64::MIN), Some(-1), Some(0), Some(1), Some(i64::MAX)];
    for bound in [500, 1_000, 2_500, 50_000, 1_000_000, 10_000_000, 60_000_000] {
        thought.extend([Some(bound - 1), Some(bound), Some(bound + 1)]);
    }
    let rows = rows(of, thought, |r| (r.below(10) > 0).then(|| r.whole()));
    Batch {
        right: texts(rows.iter().map(|r| r.and_then(latency_bucket::plain))),
        args: vec![Arc::new(Int64Array::from(rows))],
    }
}

fn costs(of: Option<(&mut Random, usize)>) -> Batch {
    const MODELS: [&str; 8] = [
        "gpt-4o",
        "gpt-4o-mini",
        "claude-haiku-4-5",
        "mistral-large-latest",
        "zai-glm-latest",
        "GPT-4o",
        "",
        "ours",
    ];
    let thought: Vec<(Text, Option<i64>, Option<i64>)> = vec![
        (Some("gpt-4o"), Some(1_000_000), Some(1_000_000)),
        (Some("gpt-4o-mini"), Some(1), Some(0)),
        (Some("text-embedding-3-large"), Some(8_191), Some(5)),
        (Some("nobody-sells-this"), Some(10), Some(10)),
        (Some("gpt-4o"), Some(-1), Some(1)),
        (Some("gpt-4o"), Some(1), Some(-1)),
        (Some("gpt-4o"), Some(i64::MAX), Some(i64::MAX)),
        (Some("gpt-4o"), Some(0), Some(0)),
        (None, Some(1), Some(1)),
        (Some("gpt-4o"), None, Some(1)),
        (Some("gpt-4o"), Some(1), None),
        (None, None, None),
    ];
    let rows = rows(of, thought, |r| {
        let count = |r: &mut Random| (r.below(10) > 0).then(|| r.whole());
        (r.maybe(&MODELS), count(r), count(r))
    });
    let right = rows
        .iter()
        .map(|(model, i, o)| cost_usd::plain((*model)?, (*i)?, (*o)?));
    Batch {
        right: Arc::new(right.collect::<Float64Array>()),
        args: vec![
            texts(rows.iter().map(|r| r.0)),
            Arc::new(rows.iter().map(|r| r.1).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|r| r.2).collect::<Int64Array>()),
        ],
    }
}

/// Words that mean something to `redact`, and some that do not.
const WORDS: [&str; 26] = [
    "mail ada@example.org now",
    "a@b",
    "@",
    "ünï@bücher.de",
    " ",
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_0123456789abcdefghijABCDEFGHIJ012345",
    "4111 1111 1111 1111",
    "4111-1111-1111-1112",
    "DE89 3704 0044 0532 0130 00",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmVk",
    "password=hunter2&x=1",
    "\"api_key\": \"k-1\"",
    "Authorization: Bearer abcdefgh12345678",
    "postgres://u:p@db/x",
    "日本語",
    "\n",
    "=",
    "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----",
    "\u{0}",
    "'",
    "0",
    "sk-",
    "://",
    "🙂",
];

fn redacted(of: Option<(&mut Random, usize)>) -> Batch {
    let mut thought: Vec<Option<String>> = WORDS.iter().map(|w| Some((*w).to_owned())).collect();
    thought.extend([
        None,
        Some(String::new()),
        Some("a".repeat(100_000)),
        Some("1".repeat(20_000)),
    ]);
    let rows = rows(of, thought, |r| {
        (r.below(10) > 0).then(|| (0..r.below(5)).map(|_| WORDS[r.below(WORDS.len())]).collect())
    });
    Batch {
        right: texts(rows.iter().map(|r| r.as_deref().map(redact::plain))),
        args: vec![texts(rows)],
    }
}

fn tiers(of: Option<(&mut Random, usize)>) -> Batch {
    const TENANTS: [&str; 5] = ["acme", "globex", "*", "", "ACME"];
    const TIERS: [&str; 7] = [
        r#"{"acme": "enterprise", "globex": "standard", "*": "basic"}"#,
        r#"{"acme": "enterprise"}"#,
        r#"{"acme": "first", "acme": "last"}"#,
        r#"{"acme": 1}"#,
        "{}",
        "",
        "[\"acme\"",
    ];
    let mut thought: Vec<(Text, Text)> = vec![(None, None), (None, Some(TIERS[0])), (Some("acme"), None)];
    for tenant in TENANTS {
        thought.extend(TIERS.iter().map(|tiers| (Some(tenant), Some(*tiers))));
    }
    two(
        rows(of, thought, |r| (r.maybe(&TENANTS), r.maybe(&TIERS))),
        tenant_tier::plain,
    )
}

fn paths(of: Option<(&mut Random, usize)>) -> Batch {
    const PATHS: [&str; 18] = [
        "$",
        "$.a",
        "$.a.b",
        "$['a']",
        "$[\"a b\"]",
        "$.list[0]",
        "$.list[-1]",
        "$.list[9]",
        "$.list[-9]",
        "$.list[0].x",
        "$.*",
        "$.list[*]",
        "",
        "a",
        "$.",
        "$[",
        "$['a'",
        "$.ü",
    ];
    const JSON: [&str; 14] = [
        r#"{"a": {"b": [1, 2.50, 1e400]}, "a b": "x", "list": [{"x": "deep \"q\" é"}, 2], "ü": "y"}"#,
        r#"{"a": null, "list": []}"#,
        r#"{"a": 1, "a": 12345678901234567890.10}"#,
        r#"{"a": true, "list": [ [ 1 , 2 ] ]}"#,
        r#""text""#,
        "12",
        "null",
        "[1, [2]]",
        "{",
        "",
        "nope",
        r#"{"a": "\ud83d\ude42 \n"}"#,
        r#"{"a": "\ud800"}"#,
        r#" {"a" : { "b" : -0.0 } } "#,
    ];
    let mut thought: Vec<(Text, Text)> = vec![(None, None), (None, Some("$")), (Some("1"), None)];
    for json in JSON {
        thought.extend(PATHS.iter().map(|path| (Some(json), Some(*path))));
    }
    two(
        rows(of, thought, |r| (r.maybe(&JSON), r.maybe(&PATHS))),
        json_path::plain,
    )
}

/// A function of two texts.
fn two(rows: Vec<(Text, Text)>, plain: fn(&str, &str) -> Option<String>) -> Batch {
    Batch {
        right: texts(rows.iter().map(|(a, b)| plain((*a)?, (*b)?))),
        args: vec![texts(rows.iter().map(|r| r.0)), texts(rows.iter().map(|r| r.1))],
    }
}
