//! What numbers begin with, as people type it into a search.

use rlibphonenumber::PHONE_NUMBER_UTIL;

use super::{Country, E164, clean};

/// Digits of the longest number, E.164.
const DIGITS_MAX: usize = 15;

/// What a number may begin with, in E.164, when its beginning, or all of it, is `written` by somebody in `country`.
///
/// The likeliest comes first; there are five at most, and none for what is no part of a number. Where [`E164::read`]
/// refuses to choose between two readings, both are here: a search shows what it found, and writes to nobody.
pub fn beginnings(written: &str, country: Country) -> Vec<String> {
    let mut found = Vec::new();
    let Ok(text) = clean(written) else {
        return found;
    };
    // An extension is no part of a number, letters are no digits of it.
    if text.chars().any(|char| char.is_alphabetic() || char == '#') {
        return found;
    }
    let is_international = text.contains('+');
    // `+44 (0)7400`: the zero is for those who dial from within.
    let text = if is_international {
        text.replace("(0)", "")
    } else {
        text
    };
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let mut add = |digits: &str| {
        let beginning = format!("+{digits}");
        let fits = (1..=DIGITS_MAX).contains(&digits.len()) && !digits.starts_with('0');
        if fits && !found.contains(&beginning) {
            found.push(beginning);
        }
    };
    if is_international {
        add(&digits);
        return found;
    }
    if let Ok(number) = E164::read(written, country) {
        add(&number.as_str()[1..]);
    }
    if digits.is_empty() {
        return found;
    }
    if let Some(code) = PHONE_NUMBER_UTIL.get_country_code_for_region(country.0) {
        if let Some(rest) = digits.strip_prefix(international_prefix(code)) {
            add(rest);
        }
        if let Some(rest) = trunk_prefix(code).and_then(|prefix| digits.strip_prefix(prefix)) {
            add(&format!("{code}{rest}"));
        }
        add(&format!("{code}{digits}"));
    }
    add(&digits);
    found
}

/// What is dialled before a number of another country.
///
/// Source: ITU-T Operational Bulletin 994, "Dialling procedures"; exceptions to 00 that a search is worth.
fn international_prefix(code: i32) -> &'static str {
    match code {
        1 => "011",
        7 => "810",
        61 => "0011",
        81 => "010",
        _ => "00",
    }
}

/// What is dialled before a number within a country, and stands in no E.164 number.
///
/// Source: ITU-T Operational Bulletin 994, "Dialling procedures". Italy and some others have numbers that begin with the
/// zero; those of the other countries without a prefix do not.
fn trunk_prefix(code: i32) -> Option<&'static str> {
    match code {
        1 => Some("1"),
        7 | 375 => Some("8"),
        36 => Some("06"),
        39 | 225 | 241 | 242 | 378 => None,
        _ => Some("0"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(written: &str, country: &str) -> Vec<String> {
        beginnings(written, country.parse().unwrap())
    }

    #[test]
    fn a_beginning_is_read_as_the_country_writes_numbers() {
        let cases: &[(&str, &str, &[&str])] = &[
            ("+1 (305) 404", "US", &["+1305404"]),
            ("+1 (305) 404", "DE", &["+1305404"]),
            ("415 555 01", "US", &["+141555501", "+41555501"]),
            ("(305) 404-8480", "US", &["+13054048480", "+3054048480"]),
            ("1305", "US", &["+1305", "+11305"]),
            ("011 49 151", "US", &["+49151", "+101149151"]),
            ("0151 2345", "DE", &["+491512345"]),
            ("151", "DE", &["+49151", "+151"]),
            ("0049 151", "DE", &["+49151"]),
            (
                "4915123456789",
                "DE",
                &["+4915123456789", "+494915123456789"],
            ),
            ("07400 123456", "GB", &["+447400123456"]),
            ("+44 (0)7400", "GB", &["+447400"]),
            ("06 30", "HU", &["+3630", "+360630"]),
            ("8 912", "RU", &["+7912", "+78912", "+8912"]),
            ("06 698", "IT", &["+3906698"]),
            ("+", "US", &[]),
            ("+0", "US", &[]),
        ];
        for (written, country, wanted) in cases {
            let got = of(written, country);
            for beginning in *wanted {
                assert!(
                    got.iter().any(|one| one == beginning),
                    "{written:?} in {country}: {got:?}"
                );
            }
            assert_eq!(
                got.first().map(String::as_str),
                wanted.first().copied(),
                "{written:?}: {got:?}"
            );
            assert!(got.len() <= 5, "{got:?}");
        }
    }

    #[test]
    fn what_is_no_part_of_a_number_has_no_beginning() {
        for text in [
            "",
            " ",
            "Ann",
            "1-800-FLOWERS",
            "12 ext",
            "_",
            "%",
            "a1",
            "+1+2",
            "12#3",
        ] {
            assert_eq!(of(text, "US"), Vec::<String>::new(), "{text:?}");
        }
        assert_eq!(of(&"1".repeat(5000), "US"), Vec::<String>::new());
        assert_eq!(of(&"2".repeat(20), "US"), Vec::<String>::new());
    }
}
