//! What the tests of this crate share: records as bytes, and a decoder that knows the writer's schema without a registry.

use std::sync::Arc;

use kernel::{Decoder, Fault, FaultCode, Headers, Position, RawRecord};
use schemas::records::Memory;
use schemas::{Record, Timestamp, Written};

/// Reads frames whose writer used this build's schema of one record.
pub(crate) struct Plain {
    schema: Arc<Written>,
    silent: bool,
}

impl Plain {
    pub(crate) fn of<R: Record>() -> Self {
        Self {
            schema: Arc::new(Written::with(R::schema().clone())),
            silent: false,
        }
    }

    /// As if the registry did not answer.
    pub(crate) fn silent<R: Record>() -> Self {
        Self {
            silent: true,
            ..Self::of::<R>()
        }
    }
}

impl Decoder for Plain {
    fn unframe<'a>(&self, value: &'a [u8]) -> Result<(Arc<Written>, &'a [u8]), Fault> {
        if self.silent {
            return Err(Fault::new(FaultCode::RegistryUnavailable, "no answer"));
        }
        match value.split_first_chunk::<5>() {
            Some(([0, ..], avro)) => Ok((self.schema.clone(), avro)),
            _ => Err(Fault::new(FaultCode::RecordNotFramed, "no magic byte")),
        }
    }
}

/// A record on the log, at one second per offset.
pub(crate) fn raw<R: Record>(topic: &str, partition: i32, offset: i64, key: &str, record: &R) -> RawRecord {
    let mut value = vec![0, 0, 0, 0, 1];
    value.extend(
        record
            .to_avro()
            .unwrap_or_else(|e| panic!("{} does not fit its schema: {e}", R::NAME)),
    );
    RawRecord {
        value: Some(value),
        ..tombstone(topic, partition, offset, key)
    }
}

/// A record without a value.
pub(crate) fn tombstone(topic: &str, partition: i32, offset: i64, key: &str) -> RawRecord {
    RawRecord {
        position: Position {
            topic: topic.into(),
            partition,
            offset,
        },
        key: key.to_owned(),
        value: None,
        headers: Headers::default(),
        at: Timestamp(1_700_000_000_000_000 + offset * 1_000_000),
    }
}

/// A record that is not framed.
pub(crate) fn poison(topic: &str, partition: i32, offset: i64) -> RawRecord {
    RawRecord {
        value: Some(b"not avro".to_vec()),
        ..tombstone(topic, partition, offset, "k")
    }
}

/// A memory of a tenant.
pub(crate) fn memory(tenant: &str, n: u32, text: &str) -> Memory {
    Memory {
        memory_id: schemas::digest::id("mem", &[tenant, &n.to_string()]),
        tenant: tenant.to_owned(),
        run_id: format!("run_{tenant}_{n}"),
        text: text.to_owned(),
        attributes: [("tool".to_owned(), "http".to_owned())].into(),
        created_at: Timestamp(1_700_000_000_000_000 + i64::from(n)),
        ..Memory::default()
    }
}

/// A variable of `.soma/dev.env`; the test fails loudly when it is missing.
pub(crate) fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: `make up`, then load .soma/dev.env"))
}

/// A name no other test run uses.
pub(crate) fn unique(word: &str) -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map(|d| d.as_nanos())
        .unwrap_or(0);
    format!("{word}_{}_{now}", std::process::id())
}

/// A TCP relay to a real server that can be cut, muted (what we send arrives, no answer comes back) and mended: outages
/// without stopping a server that others use.
pub(crate) struct Relay {
    port: u16,
    state: Arc<tokio::sync::watch::Sender<Link>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Link {
    Whole,
    Cut,
    Mute,
}

#[allow(clippy::unwrap_used)]
impl Relay {
    /// A relay to the host of a URL.
    pub(crate) async fn new(url: &str) -> Self {
        let after_scheme = url.split("://").nth(1).unwrap();
        let host = after_scheme
            .rsplit('@')
            .next()
            .unwrap()
            .split('/')
            .next()
            .unwrap()
            .to_owned();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(tokio::sync::watch::Sender::new(Link::Whole));
        let watch = state.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *watch.borrow() == Link::Cut {
                    continue;
                }
                tokio::spawn(link(client, host.clone(), watch.subscribe()));
            }
        });
        Self { port, state }
    }

    /// The relay's URL for HTTP and gRPC.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The relay's port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Breaks every connection and refuses new ones.
    pub(crate) fn cut(&self) {
        self.state.send_replace(Link::Cut);
    }

    /// Lets requests through and swallows answers.
    pub(crate) fn mute(&self) {
        self.state.send_replace(Link::Mute);
    }

    /// As if nothing had been.
    pub(crate) fn mend(&self) {
        self.state.send_replace(Link::Whole);
    }
}

async fn link(client: tokio::net::TcpStream, host: String, mut state: tokio::sync::watch::Receiver<Link>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
    let Ok(server) = tokio::net::TcpStream::connect(host).await else {
        return;
    };
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let born_mute = state.clone();
    let up = async { copy(&mut from_client, &mut to_server).await };
    let down = async {
        let mut buffer = vec![0; 65_536];
        let mut muted = *born_mute.borrow() == Link::Mute;
        while let Ok(n @ 1..) = from_server.read(&mut buffer).await {
            muted |= *born_mute.borrow() == Link::Mute;
            if !muted && to_client.write_all(&buffer[..n]).await.is_err() {
                break;
            }
        }
        if muted {
            std::future::pending::<()>().await;
        }
    };
    let cut = async {
        // A muted connection stays useless; a new one is whole once the link is mended.
        if state.wait_for(|link| *link == Link::Cut).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! { _ = up => {}, () = down => {}, () = cut => {} }
}

/// Feature hashing of words: texts that share words are near. A real, if simple, way to embed; MiniLM, which this crate must
/// not know, is tried with Qdrant in `tests/live`.
pub(crate) struct Words(pub(crate) usize);

impl kernel::Embedder for Words {
    fn dimensions(&self) -> usize {
        self.0
    }

    fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, Fault> {
        let embed = |text: &String| {
            let mut vector = vec![0.0f32; self.0];
            for word in text.split_whitespace() {
                let digest = schemas::digest::sha256_hex(&[&word.to_lowercase()]);
                let place = usize::from_str_radix(&digest[..8], 16).unwrap_or_default() % self.0;
                vector[place] += 1.0;
            }
            let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
            vector.iter().map(|x| x / length).collect()
        };
        Ok(texts.iter().map(embed).collect())
    }
}
