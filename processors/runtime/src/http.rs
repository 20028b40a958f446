//! `/health`, `/ready` and `/metrics` of a process. Nothing else is served here.

use std::convert::Infallible;
use std::net::SocketAddr;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use kernel::{Fault, FaultCode};
use tokio::net::TcpListener;

use crate::health::Health;
use crate::metrics::Metrics;

/// Binds and serves until the process ends.
///
/// # Errors
/// `CONFIG_INVALID` when the address cannot be bound; the text names it and the fix.
pub async fn serve(address: SocketAddr, health: Health, metrics: Metrics) -> Result<(), Fault> {
    let listener = TcpListener::bind(address).await.map_err(|e| {
        Fault::new(
            FaultCode::ConfigInvalid,
            format!("admin.listen {address}: {e}; choose a free port, 0 takes any"),
        )
    })?;
    if let Ok(bound) = listener.local_addr() {
        tracing::info!(address = %bound, "admin endpoint listens");
    }
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                continue;
            };
            let (health, metrics) = (health.clone(), metrics.clone());
            tokio::spawn(async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    let answer = answer(request.uri().path(), &health, &metrics);
                    async move { Ok::<_, Infallible>(answer) }
                });
                if let Err(e) = http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await
                {
                    tracing::debug!(error = %e, "admin connection");
                }
            });
        }
    });
    Ok(())
}

fn answer(path: &str, health: &Health, metrics: &Metrics) -> Response<Full<Bytes>> {
    let (status, kind, body) = match path {
        "/health" => (up(health.is_alive()), "application/json", health.to_json()),
        "/ready" => (up(health.is_ready()), "application/json", health.to_json()),
        "/metrics" => (StatusCode::OK, "text/plain; version=0.0.4", metrics.text()),
        _ => (
            StatusCode::NOT_FOUND,
            "text/plain",
            "try /health, /ready or /metrics\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert("content-type", hyper::header::HeaderValue::from_static(kind));
    response
}

fn up(ok: bool) -> StatusCode {
    if ok {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}
