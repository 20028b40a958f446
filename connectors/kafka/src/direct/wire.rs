//! A connection to one broker: a request out, its answer in.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, EndTxnRequest, EndTxnResponse, FindCoordinatorRequest,
    FindCoordinatorResponse, InitProducerIdRequest, InitProducerIdResponse, MetadataRequest, MetadataResponse,
    ProduceRequest, ProduceResponse, RequestHeader, ResponseHeader, TxnOffsetCommitRequest, TxnOffsetCommitResponse,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};

/// Longest a broker may be silent. It answers a produce request that waits for its replicas within [`super::ACKS_MS`].
const SILENT: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(3);
/// More than any answer to what is asked here; a length beyond it is not Kafka.
const ANSWER_MAX: usize = 64 << 20;

/// A request and its answer. The crate's own trait for it wants the broker's half of the protocol built as well.
pub(super) trait Request: Encodable + HeaderVersion {
    const KEY: ApiKey;
    type Response: Decodable + HeaderVersion;
}

macro_rules! requests {
    ($($key:ident: $request:ident, $response:ident;)*) => {
        $(impl Request for $request {
            const KEY: ApiKey = ApiKey::$key;
            type Response = $response;
        })*
    };
}
requests! {
    ApiVersions: ApiVersionsRequest, ApiVersionsResponse;
    EndTxn: EndTxnRequest, EndTxnResponse;
    FindCoordinator: FindCoordinatorRequest, FindCoordinatorResponse;
    InitProducerId: InitProducerIdRequest, InitProducerIdResponse;
    Metadata: MetadataRequest, MetadataResponse;
    Produce: ProduceRequest, ProduceResponse;
    TxnOffsetCommit: TxnOffsetCommitRequest, TxnOffsetCommitResponse;
}

pub(super) struct Wire {
    stream: TcpStream,
    client: StrBytes,
    /// Requests sent, which is the number of the last.
    sent: i32,
}

impl Wire {
    /// Connects to `host:port`.
    pub(super) fn open(address: &str, client: &StrBytes) -> io::Result<Self> {
        let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for each in address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&each, CONNECT) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(SILENT))?;
                    stream.set_write_timeout(Some(SILENT))?;
                    let client = client.clone();
                    return Ok(Self {
                        stream,
                        client,
                        sent: 0,
                    });
                }
                Err(e) => failed = e,
            }
        }
        Err(failed)
    }

    /// Sends a request. Its answer is the next to be received.
    pub(super) fn send<R: Request>(&mut self, version: i16, request: &R) -> io::Result<()> {
        self.sent = self.sent.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY as i16)
            .with_request_api_version(version)
            .with_correlation_id(self.sent)
            .with_client_id(Some(self.client.clone()));
        let mut out = BytesMut::new();
        out.put_i32(0);
        header
            .encode(&mut out, R::header_version(version))
            .and_then(|()| request.encode(&mut out, version))
            .map_err(io::Error::other)?;
        let length = i32::try_from(out.len() - size_of::<i32>()).map_err(io::Error::other)?;
        if let Some(first) = out.first_chunk_mut() {
            *first = length.to_be_bytes();
        }
        self.stream.write_all(&out)
    }

    /// The answer to the last request, which was one of this kind and version.
    pub(super) fn receive<R: Request>(&mut self, version: i16) -> io::Result<R::Response> {
        let mut length = [0; size_of::<i32>()];
        self.stream.read_exact(&mut length)?;
        let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > ANSWER_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "an answer that is none of Kafka's",
            ));
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        let mut body = Bytes::from(body);
        let header =
            ResponseHeader::decode(&mut body, R::Response::header_version(version)).map_err(io::Error::other)?;
        if header.correlation_id != self.sent {
            let detail = format!("answer {} to request {}", header.correlation_id, self.sent);
            return Err(io::Error::new(io::ErrorKind::InvalidData, detail));
        }
        R::Response::decode(&mut body, version).map_err(io::Error::other)
    }
}
