//! `soma backfill` on real servers: a part of the flights data set told by the stream, then computed again from its topic, a Parquet file
//! and a ClickHouse table beside the running stage, made wrong, put right, killed on the way. `make verify-backfill` does the same with more.

use super::streaming::verify;

#[test]
fn the_past_computed_again_is_what_stands_and_what_differs_is_put_right() {
    let options = "--rows 20000 --kills 2 --wait 120 --views per_hour busy";
    let options: Vec<&str> = options.split(' ').collect();
    let (line, shown) = verify("deploy/dev/verify_backfill.py", &options, "backfill windows checked=");
    assert!(line.contains(" wrong=0 ") && !line.contains("checked=0 "), "{shown}");
}
