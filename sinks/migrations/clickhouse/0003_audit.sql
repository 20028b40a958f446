-- The audit chains and their checkpoints, as they are on the topics: `soma audit verify` compares the two. Kept for ever.

CREATE TABLE IF NOT EXISTS audit (
    previous String,
    chain Int32,
    seq Int64,
    chained_at DateTime64(6, 'UTC'),
    record LowCardinality(String),
    topic LowCardinality(String),
    offset Int64,
    written_at DateTime64(6, 'UTC'),
    tenant LowCardinality(String),
    run_id String,
    subject String,
    fact LowCardinality(String),
    digest String,
    key_id LowCardinality(String),
    body String,
    _topic LowCardinality(String),
    _partition Int32,
    _offset Int64,
    _at DateTime64(6, 'UTC'),
    INDEX by_run run_id TYPE bloom_filter(0.01) GRANULARITY 4,
    PROJECTION positions (SELECT _topic, _partition, count(), max(_offset), max(_at) GROUP BY _topic, _partition)
) ENGINE = MergeTree
ORDER BY (chain, seq)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS checkpoints (
    chain Int32,
    number Int64,
    first_seq Int64,
    last_seq Int64,
    head String,
    root String,
    previous String,
    signed_at DateTime64(6, 'UTC'),
    public_key LowCardinality(String),
    signature String,
    _topic LowCardinality(String),
    _partition Int32,
    _offset Int64,
    _at DateTime64(6, 'UTC'),
    PROJECTION positions (SELECT _topic, _partition, count(), max(_offset), max(_at) GROUP BY _topic, _partition)
) ENGINE = MergeTree
ORDER BY (chain, number)
SETTINGS non_replicated_deduplication_window = 10000;
