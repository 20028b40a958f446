//! The files of processors/udfs/src as they are, compiled here without their `#[udf]` wrappers: what the plain functions do, by
//! examples, and that the files are such as Arroyo takes.

#[allow(unreachable_pub, dead_code)]
#[path = "../../../../udfs/src/cost_usd.rs"]
pub(super) mod cost_usd;
#[allow(unreachable_pub, dead_code)]
#[path = "../../../../udfs/src/json_path.rs"]
pub(super) mod json_path;
#[allow(unreachable_pub, dead_code)]
#[path = "../../../../udfs/src/latency_bucket.rs"]
pub(super) mod latency_bucket;
#[allow(unreachable_pub, dead_code)]
#[path = "../../../../udfs/src/median_deviation.rs"]
pub(super) mod median_deviation;
#[allow(unreachable_pub, dead_code)]
// Posted to Arroyo as it is, whose compiler may be older than `is_multiple_of`.
#[allow(clippy::manual_is_multiple_of)]
#[path = "../../../../udfs/src/redact.rs"]
pub(super) mod redact;
#[allow(unreachable_pub, dead_code)]
#[path = "../../../../udfs/src/risk_band.rs"]
pub(super) mod risk_band;
#[allow(unreachable_pub, dead_code)]
#[path = "../../../../udfs/src/tenant_tier.rs"]
pub(super) mod tenant_tier;

use std::path::Path;

#[test]
fn bands_are_those_of_the_policy_gate() {
    for (score, band) in [
        (1.0, "low"),
        (0.8, "low"),
        (0.79, "medium"),
        (0.5, "medium"),
        (0.2, "high"),
        (0.1, "critical"),
    ] {
        assert_eq!(risk_band::plain(score).as_deref(), Some(band), "{score}");
    }
    assert_eq!(risk_band::plain(f64::NAN), None);
}

#[test]
fn costs_are_by_the_list_and_never_made_up() {
    // 2.50 and 10 dollars a million.
    assert_eq!(cost_usd::plain("gpt-4o", 1_000, 200), Some(0.0045));
    for (model, i, o) in [("gpt-99", 1, 1), ("", 1, 1), ("gpt-4o", -1, 1), ("gpt-4o", 1, -1)] {
        assert_eq!(cost_usd::plain(model, i, o), None, "{model} {i} {o}");
    }
    // Every line of the list is found: it is sorted.
    let source = include_str!("../../../../udfs/src/cost_usd.rs");
    let lines = source
        .lines()
        .filter_map(|l| l.trim().strip_prefix("(\"")?.split('"').next());
    let lines: Vec<_> = lines.collect();
    assert!(lines.len() > 150, "{}", lines.len());
    for model in lines {
        assert!(cost_usd::plain(model, 1, 0).is_some_and(|usd| usd > 0.0), "{model}");
    }
}

#[test]
fn what_must_not_be_kept_is_taken_out() {
    for (text, shown) in [
        ("ask ada.l+x@mail.example.org, or bob@x.io.", "ask [email], or [email]."),
        ("not@all, @handle, a@b, v1@2.3.4", "not@all, @handle, a@b, v1@2.3.4"),
        ("key AKIAIOSFODNN7EXAMPLE here", "key [token] here"),
        ("ghp_0123456789abcdefghijABCDEFGHIJ012345.", "[token]."),
        ("the task-force sk-learn and sk-", "the task-force sk-learn and sk-"),
        ("t eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmVk!", "t [token]!"),
        (
            "authorization: Bearer abcdefgh12345678==",
            "authorization: Bearer [token]",
        ),
        ("PASSWORD=hunter2&next=1", "PASSWORD=[password]&next=1"),
        (
            r#"{"password": "a \u0020b", "n": 1}"#,
            r#"{"password": "[password]", "n": 1}"#,
        ),
        (
            "x-api-key: k1, DB_PASSWORD='p w'",
            "x-api-key: [token], DB_PASSWORD='[password]'",
        ),
        ("tokens=12 passwords: two", "tokens=12 passwords: two"),
        (
            "postgres://soma:s3cret@db:5432/x",
            "postgres://soma:[password]@db:5432/x",
        ),
        ("https://example.org/a:b@c", "https://example.org/a:b@c"),
        ("card 4111 1111 1111 1111 ok", "card [card] ok"),
        (
            "card 4111111111111112 no, 378282246310005 yes",
            "card 4111111111111112 no, [card] yes",
        ),
        (
            "0000000000000000 and 20260131120000",
            "0000000000000000 and 20260131120000",
        ),
        ("IBAN DE89 3704 0044 0532 0130 00 thanks", "IBAN [iban] thanks"),
        ("DE89370400440532013001", "DE89370400440532013001"),
        (
            "a -----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY----- b",
            "a [private key] b",
        ),
        ("-----BEGIN CERTIFICATE-----\nMII", "-----BEGIN CERTIFICATE-----\nMII"),
        ("日本語 ünï 🙂", "日本語 ünï 🙂"),
    ] {
        assert_eq!(redact::plain(text), shown);
        assert_eq!(redact::plain(shown), shown, "once is enough");
    }
}

#[test]
fn redact_takes_time_by_the_length_alone() {
    for unit in [
        "a",
        "1 ",
        "password",
        "eyJ",
        "://",
        "-----BEGIN ",
        "a.",
        "sk-",
        "DE89",
        "\"",
        "Bearer ",
    ] {
        let start = std::time::Instant::now();
        redact::plain(&unit.repeat(400_000 / unit.len()));
        // Quadratic time is minutes here; a debug build on a busy machine is far below this.
        assert!(start.elapsed().as_secs() < 30, "{unit}: {:?}", start.elapsed());
    }
}

#[test]
fn tiers_buckets_and_paths() {
    let tiers = r#"{"acme": "enterprise", "*": "basic"}"#;
    assert_eq!(tenant_tier::plain("acme", tiers).as_deref(), Some("enterprise"));
    assert_eq!(tenant_tier::plain("other", tiers).as_deref(), Some("basic"));
    assert_eq!(tenant_tier::plain("other", r#"{"acme": "enterprise"}"#), None);
    assert_eq!(tenant_tier::plain("acme", "not json"), None);
    for (us, le) in [
        (0, "0.0005"),
        (500, "0.0005"),
        (501, "0.001"),
        (1_000_000, "1"),
        (60_000_000, "60"),
        (60_000_001, "+Inf"),
    ] {
        assert_eq!(latency_bucket::plain(us).as_deref(), Some(le), "{us}");
    }
    assert_eq!(latency_bucket::plain(-1), None);
    let json = r#"{"steps": [{"tool": "git"}, {"tool": "a \"b\""}], "n": 1.50, "o": {"k.v": [1, 2]}, "z": null}"#;
    for (path, value) in [
        ("$.steps[0].tool", Some("git")),
        ("$['steps'][-1]['tool']", Some("a \"b\"")),
        ("$.n", Some("1.50")),
        ("$.o['k.v']", Some("[1, 2]")),
        ("$.z", None),
        ("$.nope.at.all", None),
        ("$.steps[*].tool", None),
        ("steps", None),
    ] {
        assert_eq!(json_path::plain(json, path).as_deref(), value, "{path}");
    }
}

#[test]
fn deviations() {
    for (values, right) in [
        (vec![1.0, 1.0, 2.0, 2.0, 4.0, 6.0, 9.0], Some(1.0)),
        (vec![3.0], Some(0.0)),
        (vec![1.0, 3.0], Some(1.0)),
        (vec![f64::NAN], None),
        (vec![], None),
    ] {
        assert_eq!(median_deviation::plain(values.clone()), right, "{values:?}");
    }
}

/// Arroyo reads dependencies out of a comment of just this form, wants one `#[udf]`, and gives what it builds a manifest of its own.
#[test]
fn the_files_are_such_as_arroyo_takes() {
    let udfs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../udfs");
    let manifest = std::fs::read_to_string(udfs.join("Cargo.toml")).unwrap();
    let mut files = 0;
    for entry in std::fs::read_dir(udfs.join("plugins")).unwrap() {
        let name = entry.unwrap().file_name();
        let text = std::fs::read_to_string(udfs.join("src").join(&name)).unwrap();
        assert_eq!(text.matches("\n#[udf]\n").count(), 1, "{name:?}");
        for local in ["include!", "include_str!", "#[path", "\nmod ", "crate::"] {
            assert!(
                !text.contains(local),
                "{name:?} has `{local}`: it must be whole by itself"
            );
        }
        let asked = text
            .split("\n/*\n[dependencies]\n")
            .nth(1)
            .and_then(|t| t.split("*/").next());
        for line in asked.unwrap_or_default().lines() {
            assert!(
                manifest.contains(&format!("\n{line}\n")),
                "{name:?}: `{line}` is not in Cargo.toml"
            );
        }
        let uses = text.contains("serde_json::");
        assert_eq!(uses, asked.is_some(), "{name:?}: what it uses and what it asks for");
        files += 1;
    }
    assert!(files >= 7, "{files}");
}
