//! Bodies in and out: a blocking reader over the request's frames, the decoders stacked on it, and the encoders of
//! answers. What cannot be read is refused here, before the engine sees a byte.

use crate::blocks;
use crate::failure::Failure;
use bytes::Bytes;
use std::io::{self, Read, Write};
use tokio::sync::mpsc;

pub type Input = Box<dyn Read + Send>;

/// The request's body for the blocking side; an interrupted upload is an error, never an early end.
pub struct ChannelReader {
    frames: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl ChannelReader {
    pub fn new(frames: mpsc::Receiver<io::Result<Bytes>>) -> Self {
        ChannelReader {
            frames,
            current: Bytes::new(),
        }
    }
}

impl Read for ChannelReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.frames.blocking_recv() {
                None => return Ok(0),
                Some(frame) => self.current = frame?,
            }
        }
        let n = out.len().min(self.current.len());
        out[..n].copy_from_slice(&self.current.split_to(n));
        Ok(n)
    }
}

/// Undoes `Content-Encoding`, then ClickHouse's own blocks.
pub fn decode(body: Input, content_encoding: Option<&str>, decompress: bool) -> Result<Input, Failure> {
    let named = content_encoding.map(|e| e.trim().to_ascii_lowercase());
    let plain: Input = match named.as_deref() {
        None | Some("" | "identity") => body,
        Some("gzip" | "x-gzip") => Box::new(flate2::read::MultiGzDecoder::new(body)),
        Some("deflate") => Box::new(flate2::read::ZlibDecoder::new(body)),
        Some("zstd") => Box::new(zstd::stream::read::Decoder::new(body)?),
        Some("lz4") => Box::new(lz4_flex::frame::FrameDecoder::new(body)),
        Some(other) => {
            let detail = format!("Content-Encoding {other} cannot be read; use gzip, deflate, zstd, lz4 or none");
            return Err(Failure::new(89, "UNKNOWN_COMPRESSION_METHOD", detail).with_status(415));
        }
    };
    Ok(if decompress {
        Box::new(blocks::BlockReader::new(plain))
    } else {
        plain
    })
}

/// How an answer is packed.
pub enum Encoder {
    Plain,
    Blocks,
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Zstd(Box<zstd::stream::write::Encoder<'static, Vec<u8>>>),
    Lz4(Box<lz4_flex::frame::FrameEncoder<Vec<u8>>>),
}

impl Encoder {
    /// `compress=1` wins; otherwise the first encoding the client accepts and we know, if HTTP compression is on.
    pub fn choose(blocks: bool, accept: Option<&str>) -> io::Result<Encoder> {
        if blocks {
            return Ok(Encoder::Blocks);
        }
        for part in accept.unwrap_or_default().split(',') {
            let mut pieces = part.trim().split(';');
            let name = pieces.next().unwrap_or_default().trim().to_ascii_lowercase();
            if pieces.any(|q| matches!(q.trim(), "q=0" | "q=0.0")) {
                continue;
            }
            match name.as_str() {
                "zstd" => {
                    return Ok(Encoder::Zstd(Box::new(zstd::stream::write::Encoder::new(
                        Vec::new(),
                        1,
                    )?)));
                }
                "lz4" => return Ok(Encoder::Lz4(Box::new(lz4_flex::frame::FrameEncoder::new(Vec::new())))),
                "gzip" => {
                    let level = flate2::Compression::fast();
                    return Ok(Encoder::Gzip(flate2::write::GzEncoder::new(Vec::new(), level)));
                }
                _ => {}
            }
        }
        Ok(Encoder::Plain)
    }

    pub fn content_encoding(&self) -> Option<&'static str> {
        match self {
            Encoder::Plain | Encoder::Blocks => None,
            Encoder::Gzip(_) => Some("gzip"),
            Encoder::Zstd(_) => Some("zstd"),
            Encoder::Lz4(_) => Some("lz4"),
        }
    }

    /// Packs a piece so that the reader can unpack it at once.
    pub fn push(&mut self, data: &[u8]) -> io::Result<Vec<u8>> {
        Ok(match self {
            Encoder::Plain => data.to_vec(),
            Encoder::Blocks => {
                let mut out = Vec::new();
                blocks::compress(data, &mut out);
                out
            }
            Encoder::Gzip(e) => write_flush(e, data).map(|()| std::mem::take(e.get_mut()))?,
            Encoder::Zstd(e) => write_flush(e, data).map(|()| std::mem::take(e.get_mut()))?,
            Encoder::Lz4(e) => write_flush(e, data).map(|()| std::mem::take(e.get_mut()))?,
        })
    }

    /// What ends the encoding.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Encoder::Plain | Encoder::Blocks => Ok(Vec::new()),
            Encoder::Gzip(e) => e.finish(),
            Encoder::Zstd(e) => e.finish(),
            Encoder::Lz4(e) => e.finish().map_err(io::Error::other),
        }
    }
}

fn write_flush(writer: &mut impl Write, data: &[u8]) -> io::Result<()> {
    writer.write_all(data)?;
    writer.flush()
}
