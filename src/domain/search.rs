//! What somebody looks for: one line of text, and everything that it may be.

use uuid::Uuid;

use crate::domain::contact::normalize_name;
use crate::domain::phone::Country;
use crate::domain::phone::beginnings::beginnings;

/// Everything that one line of text may be; each part is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sought {
    /// The beginning of a name, normalised.
    pub name: String,
    /// The whole id of something.
    pub id: Option<Uuid>,
    /// What a number may begin with, E.164, the likeliest first.
    pub phones: Vec<String>,
    /// The beginning of an email address, normalised.
    pub email: Option<String>,
    /// What a provider calls a message: all of it, as it is.
    pub provider_message_id: Option<String>,
}

impl Sought {
    /// Reads a line; numbers without a country code are `country`'s. None when nothing is left of it: characters that
    /// are not printed part words.
    pub fn read(text: &str, country: Country) -> Option<Self> {
        let text = text.replace(char::is_control, " ");
        let words: Vec<&str> = text.split_whitespace().collect();
        let only_word = match words[..] {
            [] => return None,
            [word] => Some(word),
            _ => None,
        };
        let line = words.join(" ");
        Some(Self {
            id: only_word.and_then(|word| Uuid::parse_str(word).ok()),
            phones: beginnings(&line, country),
            email: only_word.map(str::to_lowercase),
            provider_message_id: only_word.map(str::to_owned),
            name: normalize_name(Some(&line), None),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Sought> {
        Sought::read(text, "US".parse().unwrap())
    }

    #[test]
    fn a_line_is_everything_that_it_may_be() {
        let sought = read("  Ann \t Lee\n").unwrap();
        assert_eq!(sought.name, "ann lee");
        assert_eq!((sought.email, sought.id), (None, None));
        assert_eq!(sought.phones, Vec::<String>::new());

        let sought = read("Ann.Lee@Exa").unwrap();
        assert_eq!(sought.email.as_deref(), Some("ann.lee@exa"));

        let sought = read("415 555 01").unwrap();
        assert_eq!(sought.phones[0], "+141555501");
        assert_eq!(sought.email, None);

        let id = "019ac0b1-5c5e-7c34-8b3e-0c1d7f9a2e11";
        assert_eq!(read(id).unwrap().id, Some(id.parse().unwrap()));
        let sid = "SM0123456789abcdef0123456789ABCDEF";
        let sought = read(sid).unwrap();
        assert_eq!(sought.provider_message_id.as_deref(), Some(sid));
        assert_eq!(sought.id, None);
    }

    #[test]
    fn nothing_to_look_for_is_nothing() {
        for text in ["", "  ", "\u{0}\u{1}", "\n\t", "\u{a0}"] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    #[test]
    fn no_character_is_a_wildcard_and_none_that_is_not_printed_is_kept() {
        for (text, name) in [
            ("%", "%"),
            ("a_b", "a_b"),
            ("a\\", "a\\"),
            ("Ann\u{0}Lee", "ann lee"),
        ] {
            assert_eq!(read(text).unwrap().name, name, "{text:?}");
        }
    }
}
