//! The engine as a whole, over topics in memory and real flights.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]

mod backfill;
mod exact;
mod followed;
mod joins;
mod lookups;
mod meeting;
mod outcomes;
mod refusals;
mod short_way;
mod speed;
mod streams;
mod world;
