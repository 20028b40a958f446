//! The live tier: a real pipeline process on real servers, started by `deploy/dev/live.sh` in a home of its own.
//! Nothing here stands in for a server, and nothing is skipped: without the servers these tests fail.

pub(crate) mod analytics;
mod approvals;
mod audit;
mod backfill;
mod bad_input;
mod constitution;
mod controls;
mod dead_man;
mod demo;
mod evolution;
pub(crate) mod harness;
mod kill9;
mod kill_switch;
mod layout;
mod limits;
mod membership;
mod moderation;
mod on_disk;
mod outages;
mod policy;
mod producers;
mod replay;
mod standby;
mod stock_client;
mod streaming;
mod taking_over;
mod transactions;
