//! Finding out the encoding of a file while it streams by, and decoding its chunks.

use std::borrow::Cow;

use super::{Encoding, FileRefusal, Layout, RECORD_BYTES_MAX, header};

/// How much of the beginning is kept to find header and delimiter in: one long header, and rows after it.
const HEAD_BYTES_MAX: usize = 4 * RECORD_BYTES_MAX;

/// Enough to know a file by: the longest entry of [`MAGIC`].
const START_BYTES_MIN: usize = 16;

/// Bytes that mean nothing in Windows-1252.
const UNDEFINED_1252: [u8; 5] = [0x81, 0x8d, 0x8f, 0x90, 0x9d];

/// First bytes of files that people take for CSV, with what to do about it.
const MAGIC: &[(&[u8], &str)] = &[
    (
        b"PK\x03\x04",
        "it is an Excel workbook or another zip archive; export it as CSV",
    ),
    (
        b"\xd0\xcf\x11\xe0",
        "it is an old Excel workbook; export it as CSV",
    ),
    (b"%PDF", "it is a PDF document"),
    (b"\x1f\x8b", "it is compressed with gzip; unpack it first"),
    (b"\xff\xd8\xff", "it is a picture"),
    (b"\x89PNG", "it is a picture"),
    (b"SQLite format 3", "it is a database"),
];

/// Looks at a whole file as it passes, in a few hundred kilobytes of memory.
#[derive(Debug, Default)]
pub struct Sniffer {
    /// Too few bytes to tell a mark from a beginning.
    start: Vec<u8>,
    head: Vec<u8>,
    offset: u64,
    /// The beginning of a character whose end has not come yet; at most 3 bytes.
    pending: Vec<u8>,
    mark: Option<Encoding>,
    characters: u64,
    broken: u64,
    first_broken: Option<(u64, u8)>,
    undefined: Option<u8>,
    high_surrogate: Option<u64>,
}

impl Sniffer {
    /// Has seen nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks at the next bytes.
    ///
    /// # Errors
    /// [`FileRefusal::NotText`] or [`FileRefusal::UnknownEncoding`], as soon as it is certain.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), FileRefusal> {
        if !self.head.is_empty() {
            return self.look(bytes);
        }
        self.start.extend_from_slice(bytes);
        if self.start.len() < START_BYTES_MIN {
            return Ok(());
        }
        let start = std::mem::take(&mut self.start);
        self.look(&start)
    }

    /// The layout of the file that has passed.
    ///
    /// # Errors
    /// [`FileRefusal`], with what was seen.
    pub fn finish(mut self) -> Result<Layout, FileRefusal> {
        let start = std::mem::take(&mut self.start);
        if !start.is_empty() {
            self.look(&start)?;
        }
        let encoding = self.encoding()?;
        let is_whole = self.offset <= self.head.len() as u64;
        let (text, _) = decode(encoding, without_mark(encoding, &self.head), is_whole)?;
        header::layout(encoding, &text, is_whole)
    }

    fn look(&mut self, bytes: &[u8]) -> Result<(), FileRefusal> {
        if self.head.is_empty() {
            self.look_at_start(bytes)?;
        }
        let room = HEAD_BYTES_MAX - self.head.len();
        self.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
        match self.mark {
            Some(Encoding::Utf16Le | Encoding::Utf16Be) => self.look_at_units(bytes)?,
            _ => self.look_at_bytes(bytes)?,
        }
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn look_at_start(&mut self, bytes: &[u8]) -> Result<(), FileRefusal> {
        if let Some((_, seen)) = MAGIC.iter().find(|(magic, _)| bytes.starts_with(magic)) {
            return Err(FileRefusal::NotText {
                seen: (*seen).into(),
            });
        }
        if bytes.starts_with(b"\xff\xfe\0\0") || bytes.starts_with(b"\0\0\xfe\xff") {
            let seen = "its byte-order mark says UTF-32".into();
            return Err(FileRefusal::UnknownEncoding { seen });
        }
        self.mark = match bytes {
            [0xef, 0xbb, 0xbf, ..] => Some(Encoding::Utf8),
            [0xff, 0xfe, ..] => Some(Encoding::Utf16Le),
            [0xfe, 0xff, ..] => Some(Encoding::Utf16Be),
            _ => None,
        };
        Ok(())
    }

    fn look_at_units(&mut self, bytes: &[u8]) -> Result<(), FileRefusal> {
        let mut at = self.offset - self.pending.len() as u64;
        let mut all = std::mem::take(&mut self.pending);
        all.extend_from_slice(bytes);
        let pairs = all.chunks_exact(2);
        self.pending = pairs.remainder().to_vec();
        for pair in pairs {
            let pair = [pair[0], pair[1]];
            let unit = match self.mark {
                Some(Encoding::Utf16Be) => u16::from_be_bytes(pair),
                _ => u16::from_le_bytes(pair),
            };
            self.look_at_unit(unit, at)?;
            at += 2;
        }
        Ok(())
    }

    fn look_at_unit(&mut self, unit: u16, at: u64) -> Result<(), FileRefusal> {
        if u8::try_from(unit).is_ok_and(is_control) {
            return Err(control(unit, at));
        }
        let is_low = (0xdc00..0xe000).contains(&unit);
        if is_low != self.high_surrogate.is_some() {
            return Err(half_a_pair(self.high_surrogate.unwrap_or(at)));
        }
        self.high_surrogate = (0xd800..0xdc00).contains(&unit).then_some(at);
        Ok(())
    }

    fn look_at_bytes(&mut self, bytes: &[u8]) -> Result<(), FileRefusal> {
        if let Some(place) = bytes.iter().position(|byte| is_control(*byte)) {
            return Err(control(bytes[place].into(), self.offset + place as u64));
        }
        if self.pending.is_empty() && bytes.is_ascii() {
            return Ok(());
        }
        let mut at = self.offset - self.pending.len() as u64;
        let mut all = std::mem::take(&mut self.pending);
        all.extend_from_slice(bytes);
        self.undefined = self.undefined.or_else(|| {
            bytes
                .iter()
                .copied()
                .find(|byte| UNDEFINED_1252.contains(byte))
        });
        let whole = all.len() - unfinished(&all);
        for piece in all[..whole].utf8_chunks() {
            let starts = piece.valid().bytes().filter(|byte| *byte >= 0xc0).count();
            self.characters += starts as u64;
            at += piece.valid().len() as u64;
            if let Some(byte) = piece.invalid().first() {
                self.broken += 1;
                self.first_broken.get_or_insert((at, *byte));
                at += piece.invalid().len() as u64;
            }
        }
        self.pending = all[whole..].to_vec();
        Ok(())
    }

    fn encoding(&mut self) -> Result<Encoding, FileRefusal> {
        if let Some(encoding @ (Encoding::Utf16Le | Encoding::Utf16Be)) = self.mark {
            let cut = (!self.pending.is_empty()).then_some(self.offset);
            return match cut.or(self.high_surrogate) {
                Some(at) => Err(half_a_pair(at)),
                None => Ok(encoding),
            };
        }
        if let Some(byte) = self.pending.first() {
            self.broken += 1;
            let at = self.offset - self.pending.len() as u64;
            self.first_broken.get_or_insert((at, *byte));
        }
        let Some((at, byte)) = self.first_broken else {
            return Ok(Encoding::Utf8);
        };
        // Damaged UTF-8 must not turn every accent into two strange characters.
        if self.mark.is_some() || self.characters > self.broken {
            let seen = format!("it is UTF-8 but for byte {byte:#04x} at offset {at}");
            return Err(FileRefusal::UnknownEncoding { seen });
        }
        match self.undefined {
            None => Ok(Encoding::Windows1252),
            Some(byte) => {
                let seen = format!("byte {byte:#04x} is in neither UTF-8 nor Windows-1252");
                Err(FileRefusal::UnknownEncoding { seen })
            }
        }
    }
}

/// Characters that no text has. Vertical tab and form feed do turn up, out of mail programs.
fn is_control(byte: u8) -> bool {
    byte < 0x20 && !matches!(byte, b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

fn control(unit: u16, at: u64) -> FileRefusal {
    let seen = match unit {
        0 => format!("a zero byte at offset {at}; if it is UTF-16, it lacks its byte-order mark"),
        unit => format!("the control character {unit:#04x} at offset {at}"),
    };
    FileRefusal::NotText { seen }
}

fn half_a_pair(at: u64) -> FileRefusal {
    let seen = format!("it is UTF-16 but for half a character at offset {at}");
    FileRefusal::UnknownEncoding { seen }
}

/// Bytes at the end that begin a character of UTF-8 and do not finish it.
fn unfinished(bytes: &[u8]) -> usize {
    for len in 1..=bytes.len().min(3) {
        let needed = match bytes[bytes.len() - len] {
            0x80..=0xbf => continue,
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => 1,
        };
        return if needed > len { len } else { 0 };
    }
    0
}

/// A file's bytes without its byte-order mark.
pub(super) fn without_mark(encoding: Encoding, bytes: &[u8]) -> &[u8] {
    let mark: &[u8] = match encoding {
        Encoding::Utf8 => b"\xef\xbb\xbf",
        Encoding::Utf16Le => b"\xff\xfe",
        Encoding::Utf16Be => b"\xfe\xff",
        Encoding::Windows1252 => b"",
    };
    bytes.strip_prefix(mark).unwrap_or(bytes)
}

/// The text of `bytes`, and how many at the end begin a character that they do not finish.
pub(super) fn decode(
    encoding: Encoding,
    bytes: &[u8],
    is_last: bool,
) -> Result<(Cow<'_, str>, usize), FileRefusal> {
    let left_over = match encoding {
        Encoding::Utf8 => unfinished(bytes),
        Encoding::Utf16Le | Encoding::Utf16Be => unfinished_units(encoding, bytes),
        Encoding::Windows1252 => 0,
    };
    let whole = &bytes[..bytes.len() - left_over];
    let decoder = match encoding {
        Encoding::Utf8 => encoding_rs::UTF_8,
        Encoding::Utf16Le => encoding_rs::UTF_16LE,
        Encoding::Utf16Be => encoding_rs::UTF_16BE,
        Encoding::Windows1252 => encoding_rs::WINDOWS_1252,
    };
    match decoder.decode_without_bom_handling_and_without_replacement(whole) {
        Some(text) if left_over == 0 || !is_last => Ok((text, left_over)),
        _ => {
            let seen = format!("it is no longer {encoding}");
            Err(FileRefusal::UnknownEncoding { seen })
        }
    }
}

fn unfinished_units(encoding: Encoding, bytes: &[u8]) -> usize {
    let odd = bytes.len() % 2;
    let Some(pair) = bytes[..bytes.len() - odd].last_chunk::<2>() else {
        return odd;
    };
    let high = if encoding == Encoding::Utf16Be {
        pair[0]
    } else {
        pair[1]
    };
    // A high surrogate waits for its low half.
    if (0xd8..0xdc).contains(&high) {
        odd + 2
    } else {
        odd
    }
}

/// How many bytes `text` takes in the file.
pub(super) fn encoded_len(encoding: Encoding, text: &str) -> usize {
    match encoding {
        Encoding::Utf8 => text.len(),
        Encoding::Utf16Le | Encoding::Utf16Be => text.encode_utf16().count() * 2,
        Encoding::Windows1252 => text.chars().count(),
    }
}
