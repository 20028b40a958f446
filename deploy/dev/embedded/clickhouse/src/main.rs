//! soma-dev-clickhouse: ClickHouse's HTTP interface over chDB, the same engine as a library. A development server for
//! one machine: real engine, real protocol, data on disk. Not a cluster node, and not meant for production.

mod blocks;
mod cli;
mod coding;
mod execute;
mod failure;
mod ffi;
mod formats;
mod reply;
mod request;
mod server;
mod sql;

use cli::Options;
use execute::Engine;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use request::Credentials;
use server::{STATEMENTS_MAX, Server};
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

const DRAIN_MAX: Duration = Duration::from_secs(10);

fn main() {
    let options = match cli::parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{}", cli::USAGE);
            return;
        }
        Err(fault) => fail(&fault),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(STATEMENTS_MAX + 4)
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(serve(options)),
        Err(error) => Err(format!("the async runtime did not start: {error}")),
    };
    match ended {
        Ok(()) => ffi::exit_now(0),
        Err(fault) => fail(&fault),
    }
}

fn fail(fault: &str) -> ! {
    eprintln!("soma-dev-clickhouse: {fault}");
    ffi::exit_now(1)
}

async fn serve(options: Options) -> Result<(), String> {
    // The port first: it is the cheapest to find taken.
    let listen = options.listen;
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|e| format!("--listen {listen} cannot be used ({e}); choose a free port or stop what holds it"))?;
    let _lock = claim(&options)?;
    let engine = start_engine(&options)?;
    let version = engine.identity.version.clone();
    let server = Arc::new(Server::new(
        engine,
        Credentials {
            user: options.user,
            password: options.password,
        },
    ));
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| e.to_string())?;
    let address = listener.local_addr().map_err(|e| e.to_string())?;
    println!("soma-dev-clickhouse: ClickHouse {version} is ready at http://{address}");

    let graceful = GracefulShutdown::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    socket.set_nodelay(true).unwrap_or(());
                    let server = server.clone();
                    let service = service_fn(move |request| server.clone().handle(request));
                    let connection = http1::Builder::new().serve_connection(TokioIo::new(socket), service);
                    let watched = graceful.watch(connection);
                    // An error here is a client that left or broke the protocol: it alone is concerned.
                    tokio::spawn(async move { watched.await.unwrap_or(()) });
                }
                // Out of descriptors, most likely: those in use will come back.
                Err(error) => {
                    eprintln!("soma-dev-clickhouse: cannot accept a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    drop(listener);
    let drained = tokio::time::timeout(DRAIN_MAX, async {
        graceful.shutdown().await;
        server.idle().await;
    });
    match drained.await {
        Ok(()) => println!("soma-dev-clickhouse: stopped"),
        Err(_) => eprintln!("soma-dev-clickhouse: stopped; statements that ran over 10 s were cut off unanswered"),
    }
    Ok(())
}

/// Makes the data folder and holds it alone: two engines on one folder would destroy it.
fn claim(options: &Options) -> Result<File, String> {
    let path = options.path.display();
    std::fs::create_dir_all(&options.path)
        .map_err(|e| format!("--path {path} cannot be made ({e}); choose a folder that can be written"))?;
    let lock = File::create(options.path.join("soma-dev-clickhouse.lock"))
        .map_err(|e| format!("--path {path} is not writable ({e}); choose a folder that can be written"))?;
    lock.try_lock()
        .map_err(|_| format!("--path {path} is in use by another server; stop it or choose another folder"))?;
    Ok(lock)
}

fn start_engine(options: &Options) -> Result<Engine, String> {
    let lib = options.lib.display();
    if !options.lib.is_file() {
        return Err(format!(
            "--lib {lib} is not there; give libchdb.so of npm @chdb/lib-linux-x64-gnu 26.7.3-stable.1"
        ));
    }
    let chdb = ffi::Chdb::open(&options.lib).map_err(|e| format!("--lib {lib} cannot be used: {e}"))?;
    let server_bytes = options.memory_mb << 20;
    let path = options
        .path
        .canonicalize()
        .map_err(|e| format!("--path {}: {e}", options.path.display()))?;
    let arguments = vec![
        "clickhouse".to_owned(),
        format!("--path={}", path.display()),
        format!("--max_server_memory_usage={server_bytes}"),
        format!("--max_memory_usage={}", server_bytes / 4 * 3),
        format!("--mark_cache_size={}", server_bytes / 16),
    ];
    Engine::start(chdb, arguments).map_err(|e| format!("--path {}: {e}", options.path.display()))
}
