//! ClickHouse's compressed blocks (`compress=1`, `decompress=1`): 16 bytes of CityHash128 v1.0.2 over what follows,
//! one method byte, the compressed size with its 9 byte header, the plain size, the data.

use crate::failure::Failure;
use cityhash_rs::cityhash_102_128;
use std::io::{self, Read};

const HEADER: usize = 9;
const CHECKSUM: usize = 16;
const BLOCK_BYTES: usize = 1 << 20;
/// A header may claim 4 GiB; no client sends blocks over a few MiB.
const BLOCK_BYTES_MAX: usize = 256 << 20;
const NONE: u8 = 0x02;
const LZ4: u8 = 0x82;
const ZSTD: u8 = 0x90;

fn checksum(data: &[u8]) -> [u8; CHECKSUM] {
    cityhash_102_128(data).rotate_right(64).to_le_bytes()
}

/// Appends `data` to `out` as LZ4 blocks.
pub fn compress(data: &[u8], out: &mut Vec<u8>) {
    for piece in data.chunks(BLOCK_BYTES) {
        let packed = lz4_flex::block::compress(piece);
        let mut block = Vec::with_capacity(HEADER + packed.len());
        block.push(LZ4);
        block.extend_from_slice(&((HEADER + packed.len()) as u32).to_le_bytes());
        block.extend_from_slice(&(piece.len() as u32).to_le_bytes());
        block.extend_from_slice(&packed);
        out.extend_from_slice(&checksum(&block));
        out.extend_from_slice(&block);
    }
}

/// Reads a sequence of blocks as plain bytes; every checksum is verified before a byte is handed on.
pub struct BlockReader<R> {
    inner: R,
    plain: Vec<u8>,
    at: usize,
}

impl<R: Read> BlockReader<R> {
    pub fn new(inner: R) -> Self {
        BlockReader {
            inner,
            plain: Vec::new(),
            at: 0,
        }
    }

    fn next_block(&mut self) -> io::Result<bool> {
        let mut head = [0_u8; CHECKSUM + HEADER];
        let mut have = 0;
        while have < head.len() {
            match self.inner.read(&mut head[have..])? {
                0 if have == 0 => return Ok(false),
                0 => return Err(refuse(33, "CANNOT_READ_ALL_DATA", "a compressed block ends in its header").into()),
                n => have += n,
            }
        }
        let size = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
        let (method, packed, plain) = (head[CHECKSUM], size(CHECKSUM + 1), size(CHECKSUM + 5));
        if !(HEADER..=BLOCK_BYTES_MAX).contains(&packed) || plain > BLOCK_BYTES_MAX {
            return Err(refuse(246, "CORRUPTED_DATA", "a compressed block claims an impossible size").into());
        }
        let mut block = vec![0_u8; packed];
        block[..HEADER].copy_from_slice(&head[CHECKSUM..]);
        self.inner
            .read_exact(&mut block[HEADER..])
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => {
                    refuse(33, "CANNOT_READ_ALL_DATA", "a compressed block is shorter than it says").into()
                }
                _ => error,
            })?;
        if checksum(&block) != head[..CHECKSUM] {
            return Err(refuse(
                40,
                "CHECKSUM_DOESNT_MATCH",
                "the checksum of a compressed block is wrong",
            )
            .into());
        }
        self.plain = unpack(method, &block[HEADER..], plain)?;
        self.at = 0;
        Ok(true)
    }
}

fn unpack(method: u8, data: &[u8], size: usize) -> Result<Vec<u8>, Failure> {
    let plain = match method {
        NONE => Ok(data.to_vec()),
        LZ4 => lz4_flex::block::decompress(data, size).map_err(|e| e.to_string()),
        ZSTD => zstd::bulk::decompress(data, size).map_err(|e| e.to_string()),
        other => {
            let detail = format!("compression method 0x{other:02x} is not one of 0x02, 0x82 (LZ4), 0x90 (ZSTD)");
            return Err(refuse(89, "UNKNOWN_COMPRESSION_METHOD", &detail));
        }
    };
    match plain {
        Ok(plain) if plain.len() == size => Ok(plain),
        Ok(plain) => {
            let detail = format!("a compressed block holds {} bytes, not {size}", plain.len());
            Err(refuse(246, "CORRUPTED_DATA", &detail))
        }
        Err(error) => Err(refuse(271, "CANNOT_DECOMPRESS", &error)),
    }
}

fn refuse(code: u32, name: &str, detail: &str) -> Failure {
    Failure::new(code, name, detail).with_status(400)
}

impl<R: Read> Read for BlockReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.at == self.plain.len() {
            if !self.next_block()? {
                return Ok(0);
            }
        }
        let n = out.len().min(self.plain.len() - self.at);
        out[..n].copy_from_slice(&self.plain[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_read_back_and_a_flipped_bit_is_refused() {
        let data: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let mut packed = Vec::new();
        compress(&data, &mut packed);
        let mut back = Vec::new();
        BlockReader::new(packed.as_slice()).read_to_end(&mut back).unwrap();
        assert!(back == data);

        packed[100] ^= 1;
        let error = Failure::from(BlockReader::new(packed.as_slice()).read_to_end(&mut back).unwrap_err());
        assert_eq!((error.code, error.status()), (40, 400));
    }

    #[test]
    fn a_cut_block_is_refused() {
        let mut packed = Vec::new();
        compress(b"hello", &mut packed);
        for cut in [3, packed.len() - 1] {
            let error = BlockReader::new(&packed[..cut])
                .read_to_end(&mut Vec::new())
                .unwrap_err();
            assert_eq!(Failure::from(error).code, 33);
        }
    }
}
