//! Logs as JSON lines on stderr, and traces to an OTLP collector when one is configured.

use kernel::{Fault, FaultCode};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::EnvFilter;

use crate::config::Pipeline;

/// Exports what is left when dropped.
pub(crate) struct Telemetry(Option<SdkTracerProvider>);

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(Err(e)) = self.0.as_ref().map(SdkTracerProvider::shutdown) {
            tracing::warn!(error = %e, "traces left unsent");
        }
    }
}

/// Starts logging and, with a URL, exporting.
///
/// # Errors
/// `CONFIG_INVALID` for a filter or a URL that cannot be used.
pub(crate) fn start(pipeline: &Pipeline) -> Result<Telemetry, Fault> {
    let config = &pipeline.telemetry;
    let filter = if config.log.is_empty() { "info" } else { &config.log };
    let filter = EnvFilter::try_new(filter)
        .map_err(|e| Fault::new(FaultCode::ConfigInvalid, format!("telemetry.log `{filter}`: {e}")))?;
    let subscriber = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if subscriber.try_init().is_err() {
        tracing::debug!("logging was set up before");
    }
    if config.otlp_url.is_empty() {
        return Ok(Telemetry(None));
    }
    let exporter = SpanExporter::builder()
        .with_http()
        .with_endpoint(&config.otlp_url)
        .with_protocol(Protocol::HttpBinary)
        .build()
        .map_err(|e| {
            Fault::new(
                FaultCode::ConfigInvalid,
                format!("telemetry.otlp_url {}: {e}", config.otlp_url),
            )
        })?;
    let resource = Resource::builder()
        .with_service_name(format!("soma.{}", pipeline.pipeline))
        .build();
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .build();
    opentelemetry::global::set_tracer_provider(provider.clone());
    runtime::export_traces();
    Ok(Telemetry(Some(provider)))
}
