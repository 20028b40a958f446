//! The write side: each memory into its run's and its tenant's history, once, however often it is delivered.

use std::collections::BTreeMap;

use kernel::{Decoder, Fault, Pending, RawRecord, Rejected, Sink};
use redis::Pipeline;
use schemas::records::Memory;
use schemas::topics;

use super::history::{beginning, member, read, run_key, tenant_key};
use super::{Config, Server};
use crate::memories::{self, Changes};

/// Memories of one history at a time.
const CHUNK: usize = 100;
/// Histories per round trip.
const ROUND: usize = 200;

/// Keeps memories in one history: older texts of the same ones go, then the oldest beyond the limit. However many they are, the history is
/// read once.
/// KEYS 1: history. ARGV: length, seconds to live, and of each memory how its members begin, its score, its member.
const KEEP: &str = "
local new = {}
for i = 3, #ARGV, 3 do new[ARGV[i]] = ARGV[i + 2] end
for _, m in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local now = new[string.match(m, '^{[^,]*,') or '']
  if now and now ~= m then redis.call('ZREM', KEYS[1], m) end
end
for i = 3, #ARGV, 3 do redis.call('ZADD', KEYS[1], ARGV[i + 1], ARGV[i + 2]) end
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -ARGV[1] - 1)
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1";

/// The members of one memory in one history. With ARGV 2 = 'drop' they are removed too.
const FIND: &str = "
local found = {}
for _, m in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if string.sub(m, 1, #ARGV[1]) == ARGV[1] then
    found[#found + 1] = m
    if ARGV[2] == 'drop' then redis.call('ZREM', KEYS[1], m) end
  end
end
return found";

/// Keeps `soma.memories` as histories.
pub struct RedisSink {
    server: Server,
    config: Config,
}

impl RedisSink {
    /// Makes the sink and sees whether Redis is there and knows us.
    ///
    /// # Errors
    /// `CONFIG_INVALID`; `STORE_UNAVAILABLE` when it does not answer; `STORE_REFUSED` when it does not know us.
    pub async fn connect(config: &Config) -> Result<Self, Fault> {
        let sink = Self {
            server: Server::new(config)?,
            config: config.clone(),
        };
        sink.probe().await?;
        Ok(sink)
    }

    /// Whether Redis answers.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`, `STORE_REFUSED`.
    pub async fn probe(&self) -> Result<(), Fault> {
        self.server.probe().await
    }

    async fn keep(&self, changes: Changes) -> Result<(), Fault> {
        let mut kept = Vec::new();
        for ((tenant, id), memory) in changes {
            match memory {
                Some(memory) => kept.push(memory),
                None => self.forget(&tenant, &id).await?,
            }
        }
        let mut histories: BTreeMap<(String, u64), Vec<&Memory>> = BTreeMap::new();
        for memory in &kept {
            let tenant = (tenant_key(&memory.tenant), self.config.tenant_ttl_s);
            histories.entry(tenant).or_default().push(memory);
            // A note may belong to no run.
            if !memory.run_id.is_empty() {
                let run = (run_key(&memory.run_id), self.config.run_ttl_s);
                histories.entry(run).or_default().push(memory);
            }
        }
        let chunks = |(history, of): (_, &Vec<_>)| {
            of.chunks(CHUNK)
                .map(move |some| (history, some.to_vec()))
                .collect::<Vec<_>>()
        };
        let work: Vec<_> = histories.iter().flat_map(chunks).collect();
        for round in work.chunks(ROUND) {
            let mut pipe = redis::pipe();
            for ((key, ttl_s), memories) in round {
                self.add(&mut pipe, key, *ttl_s, memories)?;
            }
            let mut connection = self.server.connection();
            self.server
                .run("writing histories", async { pipe.exec_async(&mut connection).await })
                .await?;
        }
        Ok(())
    }

    fn add(&self, pipe: &mut Pipeline, key: &str, ttl_s: u64, memories: &[&Memory]) -> Result<(), Fault> {
        pipe.cmd("EVAL").arg(KEEP).arg(1).arg(key);
        pipe.arg(self.config.length_max).arg(ttl_s).ignore();
        for memory in memories {
            pipe.arg(beginning(&memory.memory_id))
                .arg(memory.created_at.0)
                .arg(member(memory)?);
        }
        Ok(())
    }

    /// The tenant's history says which run it was; it is cleared last, so that a repeat after a crash still finds it.
    async fn forget(&self, tenant: &str, memory_id: &str) -> Result<(), Fault> {
        let key = tenant_key(tenant);
        for text in self.find(&key, memory_id, "look").await? {
            self.find(&run_key(&read(&key, &text)?.run_id), memory_id, "drop")
                .await?;
        }
        self.find(&key, memory_id, "drop").await.map(drop)
    }

    async fn find(&self, key: &str, memory_id: &str, mode: &str) -> Result<Vec<String>, Fault> {
        let mut connection = self.server.connection();
        let mut command = redis::cmd("EVAL");
        command.arg(FIND).arg(1).arg(key).arg(beginning(memory_id)).arg(mode);
        let work = async { command.query_async::<Vec<String>>(&mut connection).await };
        self.server.run(&format!("forgetting in {key}"), work).await
    }
}

impl Sink for RedisSink {
    fn name(&self) -> &'static str {
        "redis_sink"
    }

    fn topics(&self) -> Vec<&'static str> {
        vec![topics::MEMORIES.name]
    }

    fn write<'a>(
        &'a mut self,
        batch: &'a [RawRecord],
        decoder: &'a dyn Decoder,
    ) -> Pending<'a, Result<Vec<Rejected>, Fault>> {
        Box::pin(async move {
            let (changes, rejected) = memories::changes(batch, decoder)?;
            self.keep(changes).await.map(|()| rejected)
        })
    }

    fn reassigned(&mut self) {}
}
