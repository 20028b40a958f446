//! Where each record went: late, early, twice, idle, null, garbage, from the future.
