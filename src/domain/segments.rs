//! How many segments a text is billed as, and which character makes it dear.

/// The largest number of segments one message may have: the concatenation header counts in one octet.
pub const SEGMENTS_MAX: usize = 255;

/// The basic table of GSM-7, one septet each.
///
/// Source: 3GPP TS 23.038 §6.2.1.
const BASIC: &str = "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡\
    ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà";
/// What follows an escape: two septets each.
///
/// Source: 3GPP TS 23.038 §6.2.1.1.
const EXTENSION: &str = "\u{c}^{}\\[~]|€";

/// How a text is written on the air.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Seven bits a character, two of them for nine special ones.
    Gsm7,
    /// Two octets a code unit; two units for what lies outside the basic plane.
    Ucs2,
}

/// What a text comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segments {
    /// From 1 to 255.
    pub count: u8,
    /// Of the whole text: one character decides for all.
    pub encoding: Encoding,
    /// Septets of GSM-7, code units of UCS-2.
    pub units: usize,
    /// The first character that GSM-7 lacks.
    pub forced_by: Option<char>,
}

/// Why a text cannot be a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyRefusal {
    /// There is nothing to send.
    #[error("the text is empty")]
    Empty,
    /// More than 255 segments.
    #[error("the text needs {segments} segments, more than the {SEGMENTS_MAX} a message may have")]
    TooLong {
        /// How many it would need.
        segments: usize,
    },
}

/// Number of segments `body` is billed as, from 1 to 255.
///
/// GSM-7 text fits 160 septets in one segment and 153 in each of several; one character outside
/// that table turns the whole body into UCS-2, with 70 and 67 code units.
///
/// # Errors
/// [`BodyRefusal::TooLong`] above 255 segments, [`BodyRefusal::Empty`] for none.
///
/// Source: 3GPP TS 23.038 §6.2 and TS 23.040 §9.2.3.24.1.
pub fn segment_count(body: &str) -> Result<u8, BodyRefusal> {
    measure(body).map(|segments| segments.count)
}

/// As [`segment_count`], with what a composer shows beside it.
pub fn measure(body: &str) -> Result<Segments, BodyRefusal> {
    if body.is_empty() {
        return Err(BodyRefusal::Empty);
    }
    let forced_by = body.chars().find(|char| septets(*char).is_none());
    let (encoding, single, part) = match forced_by {
        // 153, not 160: six octets go to the concatenation header.
        None => (Encoding::Gsm7, 160, 153),
        Some(_) => (Encoding::Ucs2, 70, 67),
    };
    let width = |char: char| match encoding {
        Encoding::Gsm7 => septets(char).unwrap_or(1),
        Encoding::Ucs2 => char.len_utf16(),
    };
    let units = body.chars().map(width).sum();
    let count = if units <= single {
        1
    } else {
        count_parts(body.chars().map(width), part)
    };
    match u8::try_from(count) {
        Ok(count) => Ok(Segments {
            count,
            encoding,
            units,
            forced_by,
        }),
        Err(_) => Err(BodyRefusal::TooLong { segments: count }),
    }
}

/// An escape and what it escapes stay together, and so do the halves of a surrogate pair; so a part may
/// end one unit early.
fn count_parts(widths: impl Iterator<Item = usize>, part: usize) -> usize {
    let (mut parts, mut used) = (1, 0);
    for width in widths {
        if used + width > part {
            parts += 1;
            used = 0;
        }
        used += width;
    }
    parts
}

/// Septets of a character in GSM-7, none when the table lacks it.
fn septets(char: char) -> Option<usize> {
    // Nearly every character of nearly every text, without a search.
    let is_common = matches!(char, 'a'..='z' | 'A'..='Z' | '0'..='9' | ' ' | '.' | ',' | '!' | '?');
    if is_common || BASIC.contains(char) {
        Some(1)
    } else if EXTENSION.contains(char) {
        Some(2)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_follow_the_tables_of_the_standard() {
        let cases = [
            ("a", 1, 1, 1),
            ("a", 160, 160, 1),
            ("a", 161, 161, 2),
            ("a", 306, 306, 2),
            ("a", 307, 307, 3),
            // Two septets each.
            ("€", 80, 160, 1),
            ("€", 81, 162, 2),
            // 76 pairs fit a part of 153: the escape is not parted from what it escapes.
            ("€", 152, 304, 2),
            ("€", 153, 306, 3),
            // UCS-2.
            ("я", 70, 70, 1),
            ("я", 71, 71, 2),
            ("я", 134, 134, 2),
            ("я", 135, 135, 3),
            // Surrogate pairs: 35 in one, 33 in a part of 67.
            ("😀", 35, 70, 1),
            ("😀", 36, 72, 2),
            ("😀", 66, 132, 2),
            ("😀", 67, 134, 3),
            ("a", 153 * 255, 153 * 255, 255),
            ("я", 67 * 255, 67 * 255, 255),
        ];
        for (char, times, units, count) in cases {
            let segments = measure(&char.repeat(times)).unwrap();
            assert_eq!(
                (segments.units, segments.count),
                (units, count),
                "{char} × {times}"
            );
        }
    }

    #[test]
    fn one_character_outside_the_table_turns_the_whole_text() {
        for plain in [
            "Grüße, £5 für Ñandù à Ærø!",
            "a\nb\r\n",
            "[x] {y} ~ ^ | \\ €",
            BASIC,
        ] {
            assert_eq!(measure(plain).unwrap().forced_by, None, "{plain:?}");
            assert_eq!(measure(plain).unwrap().encoding, Encoding::Gsm7);
        }
        // Look-alikes that word processors put in, and the letter that GSM-7 has in upper case only.
        let cases = [
            ("it’s", '’'),
            ("“so”", '“'),
            ("a – b", '–'),
            ("ça", 'ç'),
            ("a\tb", '\t'),
            ("ok👍", '👍'),
        ];
        for (text, char) in cases {
            let segments = measure(text).unwrap();
            assert_eq!(segments.forced_by, Some(char));
            assert_eq!(segments.encoding, Encoding::Ucs2);
        }
    }

    #[test]
    fn the_basic_table_has_its_127_characters() {
        assert_eq!(BASIC.chars().count(), 127); // The escape itself is the 128th.
        assert_eq!(EXTENSION.chars().count(), 10);
    }

    #[test]
    fn more_than_255_segments_are_refused() {
        let refusal = segment_count(&"a".repeat(153 * 255 + 1));
        assert_eq!(refusal, Err(BodyRefusal::TooLong { segments: 256 }));
        assert_eq!(segment_count(""), Err(BodyRefusal::Empty));
    }
}
