//! HTTP: the driver any HTTP-speaking tool shares, and the `http` tool itself.
//!
//! [`Driver`] sends, authenticates, caps and classifies; it knows no vendor. A later manifest-driven adapter builds an
//! [`Outgoing`] from its manifest, hands it to the driver and reads the [`Incoming`].

mod arguments;
mod client;
mod driver;
mod expect;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod live_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
pub(crate) mod nginx;
mod tool;

pub(crate) use arguments::{headers, url};
pub(crate) use client::percent_encoded;
pub use client::{HttpLimits, client};
pub(crate) use driver::place;
pub use driver::{Auth, Body, Driver, Incoming, Outgoing};
pub use expect::Expect;
pub(crate) use tool::Http;
