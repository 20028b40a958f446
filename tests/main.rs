//! The one test binary. Tiers: tidy (the files), contract (schemas), cases (a pipeline's behaviour in YAML), simulation (the loop over a
//! simulated log, from one seed), live and chaos (real servers).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "tests fail by panicking"
)]

mod cases;
#[cfg(feature = "live")]
mod chaos;
mod contract;
#[cfg(feature = "live")]
mod live;
mod opa;
mod simulation;
mod tidy;
