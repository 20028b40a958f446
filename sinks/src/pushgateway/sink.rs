//! The write side: a batch changes boards, each changed board is put as a whole. Putting it again changes nothing.

use std::collections::{BTreeMap, HashMap};

use kernel::{Blame, Decoder, Fault, FaultCode, Pending, RawRecord, Rejected, Sink};
use reqwest::StatusCode;
use schemas::records::Metric;
use schemas::topics;

use super::board::Board;
use super::restore::{self, Answer};
use super::{Config, Server, refused, silent, text};
use crate::batch;

/// Keeps the latest windows of `soma.metrics`.
pub struct PushgatewaySink {
    server: Server,
    boards: HashMap<String, Board>,
    /// End of the newest window seen, and of the newest when old groups were last looked for, microseconds.
    newest: i64,
    swept: i64,
}

/// Old groups are looked for when so much of the windows' time has passed, microseconds.
const SWEEP_EVERY: i64 = 60_000_000;

impl PushgatewaySink {
    /// Makes the sink and sees whether Pushgateway is ready.
    ///
    /// # Errors
    /// `CONFIG_INVALID`; `STORE_UNAVAILABLE` when it does not answer; `STORE_REFUSED` when it does not know us.
    pub async fn connect(config: &Config) -> Result<Self, Fault> {
        let sink = Self {
            server: Server::new(config.clone())?,
            boards: HashMap::new(),
            newest: i64::MIN,
            swept: i64::MIN,
        };
        sink.probe().await?;
        Ok(sink)
    }

    /// Whether Pushgateway is ready.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`, `STORE_REFUSED`.
    pub async fn probe(&self) -> Result<(), Fault> {
        self.server.probe().await
    }

    async fn keep(&mut self, batch: &[RawRecord], decoder: &dyn Decoder) -> Result<Vec<Rejected>, Fault> {
        let mut rejected = Vec::new();
        let mut views: BTreeMap<String, Vec<(usize, Metric)>> = BTreeMap::new();
        for (index, raw) in batch.iter().enumerate() {
            let read = batch::decode::<Metric>(raw, decoder).and_then(|metric| {
                metric.iter().try_for_each(|metric| text::check(raw, metric))?;
                Ok(metric)
            });
            if let Some(metric) = batch::or_reject(read, index, &mut rejected)?.flatten() {
                self.newest = self.newest.max(metric.window_end.0);
                views.entry(metric.name.clone()).or_default().push((index, metric));
            }
        }
        for (view, metrics) in views {
            if let Err(fault) = self.show(&view, &metrics).await {
                // What is on the board and what Pushgateway shows may differ now: look again next time.
                self.boards.remove(&view);
                if fault.blame != Blame::Input {
                    return Err(fault);
                }
                rejected.extend(metrics.iter().map(|(index, _)| Rejected {
                    index: *index,
                    fault: fault.clone(),
                }));
            }
        }
        if self.newest.saturating_sub(SWEEP_EVERY) >= self.swept {
            self.swept = self.newest;
            // Tried again with the next minute: what is shown of living views does not wait for it.
            if let Err(fault) = self.sweep().await {
                tracing::warn!(code = %fault.code, "old groups are not deleted: {}", fault.detail);
            }
        }
        rejected.sort_by_key(|r| r.index);
        Ok(rejected)
    }

    /// Deletes the groups of views that nobody computes any more.
    async fn sweep(&mut self) -> Result<(), Fault> {
        let config = &self.server.config;
        let forget_us = i64::try_from(config.forget_after_s)
            .unwrap_or(i64::MAX)
            .saturating_mul(1_000_000);
        let oldest = self.newest.saturating_sub(forget_us);
        for labels in restore::stale(&self.groups().await?, &config.pipeline, oldest) {
            let path = text::path_of(&labels);
            let answer = self
                .server
                .send(self.server.client.delete(format!("{}{path}", config.url)))
                .await?;
            if !answer.status().is_success() {
                return Err(refused(&format!("DELETE {path}"), answer).await);
            }
            if let Some(view) = labels.get("view") {
                self.boards.remove(view);
            }
            tracing::info!(path, "deleted a group that nobody computes any more");
        }
        Ok(())
    }

    async fn show(&mut self, view: &str, metrics: &[(usize, Metric)]) -> Result<(), Fault> {
        let board = match self.boards.remove(view) {
            Some(board) => board,
            None => self.look(view).await?,
        };
        let board = self.boards.entry(view.to_owned()).or_insert(board);
        let changed = metrics
            .iter()
            .fold(false, |changed, (_, metric)| board.take(metric) || changed);
        if !changed {
            return Ok(());
        }
        let shown = board.shown();
        self.put(view, text::exposition(view, &shown)).await
    }

    /// The board of a view as Pushgateway shows it.
    async fn look(&self, view: &str) -> Result<Board, Fault> {
        let config = &self.server.config;
        let answer = self.groups().await?;
        let max = usize::try_from(config.label_sets_max).unwrap_or(usize::MAX);
        let stale_us = i64::try_from(config.stale_after_s)
            .unwrap_or(i64::MAX)
            .saturating_mul(1_000_000);
        let mut board = Board::new(max, stale_us);
        for (labels, sample) in restore::samples(&answer, &config.pipeline, view) {
            board.put(labels, sample);
        }
        Ok(board)
    }

    /// Every group that Pushgateway has.
    async fn groups(&self) -> Result<Answer, Fault> {
        let url = format!("{}/api/v1/metrics", self.server.config.url);
        let answer = self.server.send(self.server.client.get(url)).await?;
        if !answer.status().is_success() {
            return Err(refused("GET /api/v1/metrics", answer).await);
        }
        let bytes = answer.bytes().await.map_err(|e| silent(&e))?;
        serde_json::from_slice(&bytes).map_err(|e| {
            Fault::new(
                FaultCode::StoreRefused,
                format!("Pushgateway, GET /api/v1/metrics: not its API: {e}"),
            )
        })
    }

    /// Replaces a view's group.
    ///
    /// # Errors
    /// `RECORD_INVALID` when Pushgateway cannot take this view (it would never, so it must not block the others);
    /// `STORE_UNAVAILABLE`, `STORE_REFUSED`.
    async fn put(&self, view: &str, body: String) -> Result<(), Fault> {
        let path = text::path(&self.server.config.pipeline, view);
        let request = self
            .server
            .client
            .put(format!("{}{path}", self.server.config.url))
            .header("content-type", "text/plain; version=0.0.4; charset=utf-8")
            .body(body);
        let answer = self.server.send(request).await?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            StatusCode::BAD_REQUEST => {
                let fault = refused(&format!("PUT {path}"), answer).await;
                Err(Fault::new(FaultCode::RecordInvalid, fault.detail))
            }
            _ => Err(refused(&format!("PUT {path}"), answer).await),
        }
    }
}

impl Sink for PushgatewaySink {
    fn name(&self) -> &'static str {
        "pushgateway_sink"
    }

    fn topics(&self) -> Vec<&'static str> {
        vec![topics::METRICS.name]
    }

    fn write<'a>(
        &'a mut self,
        batch: &'a [RawRecord],
        decoder: &'a dyn Decoder,
    ) -> Pending<'a, Result<Vec<Rejected>, Fault>> {
        Box::pin(self.keep(batch, decoder))
    }

    fn reassigned(&mut self) {
        self.boards.clear();
    }
}
