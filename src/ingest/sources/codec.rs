//! How the value of a record is compressed, beside what Kafka does with its batches.
//!
//! Knows codecs and how they are recognised. Does not know what a value holds.
//! Path: [`super::decode`] -> **here**.
//! C1: never more bytes come out than the limit, and each piece is taken of the source's room before it is allocated.

use crate::in_flight::{Held, NoRoom};
use bytes::Bytes;
use std::io::Read;

/// Bytes that are decompressed at once.
const PIECE: usize = 64 << 10;
/// Largest window of zstd, as a power of two: 16 MiB, more than any level takes by itself.
const ZSTD_WINDOW: u32 = 24;

/// A codec of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    Plain,
    Gzip,
    /// A bare block, which nothing but a header or the format tells.
    SnappyBlock,
    SnappyFramed,
    Lz4,
    Zstd,
}

/// Why a value is not decompressed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CodecError {
    /// It never will be.
    Bad(String),
    /// There is no room now.
    NoRoom(NoRoom),
}

impl Codec {
    /// What a header `content-encoding` names, for this value.
    pub(super) fn named(name: &[u8], value: &[u8]) -> Result<Self, CodecError> {
        let text = String::from_utf8_lossy(name).trim().to_ascii_lowercase();
        Ok(match text.as_str() {
            "" | "identity" | "none" => Self::Plain,
            "gzip" | "x-gzip" => Self::Gzip,
            "snappy" if Self::of_magic(value) == Self::SnappyFramed => Self::SnappyFramed,
            "snappy" => Self::SnappyBlock,
            "x-snappy-framed" => Self::SnappyFramed,
            "lz4" => Self::Lz4,
            "zstd" => Self::Zstd,
            _ => {
                return Err(CodecError::Bad(format!(
                    "the content encoding {:?} is not known",
                    crate::refusal::cut(&text)
                )));
            }
        })
    }

    /// What the first bytes tell. None of these begins a text, JSON or a message that is taken here.
    pub(super) fn of_magic(value: &[u8]) -> Self {
        const MAGIC: [(&[u8], Codec); 4] = [
            (&[0x1f, 0x8b], Codec::Gzip),
            (&[0x28, 0xb5, 0x2f, 0xfd], Codec::Zstd),
            (&[0x04, 0x22, 0x4d, 0x18], Codec::Lz4),
            (b"\xff\x06\x00\x00sNaPpY", Codec::SnappyFramed),
        ];
        MAGIC.iter().find(|(magic, _)| value.starts_with(magic)).map_or(Self::Plain, |(_, codec)| *codec)
    }

    /// The value without this codec, at most `limit` bytes.
    pub(super) fn open(self, value: &Bytes, limit: usize, held: &mut Held) -> Result<Bytes, CodecError> {
        match self {
            Self::Plain if value.len() > limit => Err(too_large(limit)),
            Self::Plain => Ok(value.clone()),
            Self::Gzip => read("gzip", flate2::read::MultiGzDecoder::new(&value[..]), limit, held),
            Self::SnappyBlock => open_block(value, limit, held),
            Self::SnappyFramed => read("snappy", snap::read::FrameDecoder::new(&value[..]), limit, held),
            Self::Lz4 => read("lz4", lz4_flex::frame::FrameDecoder::new(&value[..]), limit, held),
            Self::Zstd => {
                let bad = |error: std::io::Error| CodecError::Bad(format!("the value is no zstd: {error}"));
                let mut decoder = zstd::stream::read::Decoder::with_buffer(&value[..]).map_err(bad)?;
                decoder.window_log_max(ZSTD_WINDOW).map_err(bad)?;
                read("zstd", decoder, limit, held)
            }
        }
    }
}

fn too_large(limit: usize) -> CodecError {
    CodecError::Bad(format!("the value takes more than the limit of {limit} bytes when decoded"))
}

fn read(codec: &str, mut from: impl Read, limit: usize, held: &mut Held) -> Result<Bytes, CodecError> {
    let mut out = Vec::new();
    loop {
        held.grow(PIECE).map_err(CodecError::NoRoom)?;
        out.reserve(PIECE);
        let read = (&mut from).take(PIECE as u64).read_to_end(&mut out);
        let read = read.map_err(|error| CodecError::Bad(format!("the value is no {codec}: {error}")))?;
        if out.len() > limit {
            return Err(too_large(limit));
        }
        if read < PIECE {
            return Ok(out.into());
        }
    }
}

fn open_block(value: &[u8], limit: usize, held: &mut Held) -> Result<Bytes, CodecError> {
    let mut buffer = crate::protocol::BodyBuffer::default();
    match buffer.decode(value, limit, held) {
        Ok(decoded) => Ok(Bytes::copy_from_slice(decoded)),
        Err(crate::protocol::BodyError::NoRoom(no_room)) => Err(CodecError::NoRoom(no_room)),
        Err(error) => Err(CodecError::Bad(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::in_flight::InFlight;
    use std::io::Write;

    fn compress(codec: Codec, value: &[u8]) -> Bytes {
        match codec {
            Codec::Plain => value.to_vec(),
            Codec::Gzip => {
                let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                out.write_all(value).unwrap();
                out.finish().unwrap()
            }
            Codec::SnappyBlock => snap::raw::Encoder::new().compress_vec(value).unwrap(),
            Codec::SnappyFramed => {
                let mut out = snap::write::FrameEncoder::new(Vec::new());
                out.write_all(value).unwrap();
                out.into_inner().unwrap()
            }
            Codec::Lz4 => {
                let mut out = lz4_flex::frame::FrameEncoder::new(Vec::new());
                out.write_all(value).unwrap();
                out.finish().unwrap()
            }
            Codec::Zstd => zstd::stream::encode_all(value, 3).unwrap(),
        }
        .into()
    }

    const ALL: [(Codec, &str); 6] = [
        (Codec::Plain, "identity"),
        (Codec::Gzip, "GZIP"),
        (Codec::SnappyBlock, "snappy"),
        (Codec::SnappyFramed, "snappy"),
        (Codec::Lz4, "lz4"),
        (Codec::Zstd, "zstd"),
    ];

    #[test]
    fn each_codec_is_known_by_its_name_and_most_by_their_first_bytes() {
        let value: Vec<u8> = (0..200_000u32).map(|at| (at % 251) as u8).collect();
        for (codec, name) in ALL {
            let packed = compress(codec, &value);
            assert_eq!(Codec::named(name.as_bytes(), &packed), Ok(codec));
            let by_magic = if codec == Codec::SnappyBlock { Codec::Plain } else { codec };
            assert_eq!(Codec::of_magic(&packed), by_magic);
            let mut held = InFlight::new(1 << 20).enter();
            assert_eq!(codec.open(&packed, value.len(), &mut held).unwrap(), value, "{codec:?}");
        }
        assert!(
            matches!(Codec::named(b"br", b""), Err(CodecError::Bad(reason)) if reason.contains("\"br\""))
        );
    }

    #[test]
    fn a_value_that_expands_is_given_up_at_the_limit() {
        let bomb = vec![0; 20 << 20];
        for (codec, _) in ALL {
            let packed = compress(codec, &bomb);
            let node = InFlight::new(64 << 20);
            let mut held = node.enter();
            let error = codec.open(&packed, 1 << 20, &mut held).unwrap_err();
            assert!(
                matches!(&error, CodecError::Bad(reason) if reason.contains("limit of 1048576")),
                "{error:?}"
            );
            assert!(node.used() <= (1 << 20) + 2 * PIECE, "{codec:?} took {}", node.used());
        }
    }

    #[test]
    fn what_finds_no_room_may_be_tried_again_and_what_is_broken_may_not() {
        let packed = compress(Codec::Gzip, &vec![0; 1 << 20]);
        let node = InFlight::new(300 << 10);
        let mut other = node.enter();
        other.grow(1).unwrap();
        let error = Codec::Gzip.open(&packed, 2 << 20, &mut node.enter()).unwrap_err();
        assert!(matches!(error, CodecError::NoRoom(_)));
        for (codec, _) in ALL.into_iter().skip(1) {
            let mut broken = compress(codec, b"some value that is long enough").to_vec();
            broken.truncate(broken.len() / 2);
            let error = codec.open(&broken.into(), 1 << 20, &mut Held::unbounded()).unwrap_err();
            assert!(matches!(error, CodecError::Bad(_)), "{codec:?}: {error:?}");
        }
    }
}
