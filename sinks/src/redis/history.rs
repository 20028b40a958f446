//! Keys and members of a history, and the read side.

use kernel::{Fault, FaultCode};
use schemas::Timestamp;
use schemas::records::Memory;

use super::{Config, Server};

/// Whose history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose<'a> {
    /// A tenant's, over all runs.
    Tenant(&'a str),
    /// A run's. The tenant is asked for too: nobody sees another's.
    Run {
        /// Tenant of the run.
        tenant: &'a str,
        /// Run.
        run_id: &'a str,
    },
}

impl Whose<'_> {
    fn key(self) -> String {
        match self {
            Whose::Tenant(tenant) => tenant_key(tenant),
            Whose::Run { run_id, .. } => run_key(run_id),
        }
    }

    fn tenant(&self) -> &str {
        match self {
            Whose::Tenant(tenant) | Whose::Run { tenant, .. } => tenant,
        }
    }
}

/// Key of a tenant's history.
pub(crate) fn tenant_key(tenant: &str) -> String {
    format!("soma:history:tenant:{tenant}")
}

/// Key of a run's history.
pub(crate) fn run_key(run_id: &str) -> String {
    format!("soma:history:run:{run_id}")
}

/// A memory as a member: the same memory is always the same text.
///
/// # Errors
/// `INTERNAL`; a memory can always be written as JSON.
pub(crate) fn member(memory: &Memory) -> Result<String, Fault> {
    serde_json::to_string(memory).map_err(|e| Fault::new(FaultCode::Internal, format!("memory as JSON: {e}")))
}

/// How every member of one memory begins, whatever else it says.
pub(crate) fn beginning(memory_id: &str) -> String {
    format!("{{\"memory_id\":\"{memory_id}\",")
}

/// The memory of a member.
///
/// # Errors
/// `STORE_REFUSED`: somebody else writes under our keys.
pub(crate) fn read(key: &str, member: &str) -> Result<Memory, Fault> {
    serde_json::from_str(member).map_err(|e| {
        Fault::new(
            FaultCode::StoreRefused,
            format!("Redis: a member of {key} is not a memory: {e}"),
        )
    })
}

/// Reads histories.
#[derive(Clone)]
pub struct Reader {
    server: Server,
}

impl Reader {
    /// A reader; connects when asked. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// `CONFIG_INVALID`.
    pub fn new(config: &Config) -> Result<Self, Fault> {
        Ok(Self {
            server: Server::new(config)?,
        })
    }

    /// Whether Redis answers.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`, `STORE_REFUSED`.
    pub async fn probe(&self) -> Result<(), Fault> {
        self.server.probe().await
    }

    /// The newest `n` memories, newest first, without those that have expired at `now`.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`, `STORE_REFUSED`.
    pub async fn recent(&self, whose: Whose<'_>, n: usize, now: Timestamp) -> Result<Vec<Memory>, Fault> {
        let key = whose.key();
        let mut connection = self.server.connection();
        // All of it: what has expired is left out only after reading, and a history is short.
        let mut command = redis::cmd("ZREVRANGE");
        command.arg(&key).arg(0).arg(-1);
        let work = async { command.query_async::<Vec<String>>(&mut connection).await };
        let members = self.server.run(&format!("ZREVRANGE {key}"), work).await?;
        let memories = members.iter().map(|m| read(&key, m)).collect::<Result<Vec<_>, _>>()?;
        let alive = |m: &Memory| m.tenant == whose.tenant() && m.expires_at.is_none_or(|at| at > now);
        Ok(memories.into_iter().filter(alive).take(n).collect())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_member_begins_with_its_memorys_id_and_reads_back() {
        let memory = testing::memory("acme", 1, "a \"quoted\" text");
        let text = member(&memory).unwrap();
        assert!(text.starts_with(&beginning(&memory.memory_id)), "{text}");
        assert_eq!(read("k", &text).unwrap(), memory);
        assert!(read("k", "{}").unwrap_err().detail.contains("member of k"));
    }
}
