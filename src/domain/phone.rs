//! Phone numbers: read once, at the door, and kept as E.164 from then on.
//!
//! A number that could be meant in two ways is refused with the reason, never guessed: a wrong guess
//! is a text to a stranger.

pub mod beginnings;

use std::fmt;
use std::str::FromStr;

use rlibphonenumber::{
    NumberLengthType, PHONE_NUMBER_UTIL, ParseError, PhoneNumber, PhoneNumberFormat,
    PhoneNumberType, Region, ValidationError,
};
use serde::{Deserialize, Serialize};

/// Longest text that is looked at; the longest number with separators and country is far shorter.
const WRITTEN_CHARS_MAX: usize = 64;

/// A number as `+` and 7 to 15 digits that its country's numbering plan knows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct E164(String);

impl E164 {
    /// Reads a number as people write it; one without a country code is a number of `country`.
    ///
    /// # Errors
    /// [`PhoneRefusal`] says what is wrong with it.
    pub fn read(written: &str, country: Country) -> Result<Self, PhoneRefusal> {
        let text = clean(written)?;
        let number = PHONE_NUMBER_UTIL
            .parse(&text, Some(country.0))
            .map_err(|error| explain(&error, &text))?;
        if number.extension.as_ref().is_some_and(|it| !it.is_empty()) {
            return Err(PhoneRefusal::Extension);
        }
        if text.chars().any(char::is_alphabetic) {
            return Err(PhoneRefusal::Letters);
        }
        check_length(&number, &text)?;
        if !number.is_valid() {
            return Err(lost_plus(&text).unwrap_or(PhoneRefusal::NotANumber));
        }
        let number = choose_reading(number, &text)?;
        Ok(Self(number.format_as(PhoneNumberFormat::E164).into_owned()))
    }

    /// `+` and the digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for E164 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<E164> for String {
    fn from(number: E164) -> Self {
        number.0
    }
}

/// Takes what a row or another program holds: E.164 already, shape checked, numbering plan not.
impl TryFrom<String> for E164 {
    type Error = PhoneRefusal;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let digits = text.strip_prefix('+').unwrap_or_default();
        let is_e164 = (7..=15).contains(&digits.len())
            && digits.bytes().all(|byte| byte.is_ascii_digit())
            && !digits.starts_with('0');
        if is_e164 {
            Ok(Self(text))
        } else {
            Err(PhoneRefusal::NotANumber)
        }
    }
}

/// The country a number without a country code is read in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Country(Region);

impl FromStr for Country {
    type Err = UnknownCountry;

    /// Takes the two letters of ISO 3166-1, in either case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || UnknownCountry(text.into());
        let letters = text.trim().to_ascii_uppercase();
        if letters.len() != 2 || !letters.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return Err(unknown());
        }
        let region = Region::from_code(&letters).map_err(|_| unknown())?;
        PHONE_NUMBER_UTIL
            .get_country_code_for_region(region)
            .map(|_| Self(region))
            .ok_or_else(unknown)
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Two letters that are no country with telephones.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a country code of two letters, such as US")]
pub struct UnknownCountry(pub String);

/// Why a text is not read as a phone number. Shown to people as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PhoneRefusal {
    /// A spreadsheet rounded it; its last digits are gone.
    #[error("rounded by a spreadsheet; the last digits are lost")]
    Scientific,
    /// A text message cannot reach an extension.
    #[error("has an extension, which text messages cannot reach")]
    Extension,
    /// Words, or letters that stand for digits.
    #[error("contains letters")]
    Letters,
    /// Something that no written number contains.
    #[error("contains {0:?}")]
    UnexpectedCharacter(char),
    /// More than one number, or more than one `+`.
    #[error("looks like several numbers")]
    Several,
    /// It is a number of another country, had it kept its `+`.
    #[error("not a number of this country; as +{0} it would be valid, so its + seems lost")]
    LostPlus(String),
    /// With a `+` in front it is one number of its country, without it another.
    #[error("can be read as two numbers; write it with + and the country code")]
    TwoReadings,
    /// The digits after `+` begin with no country's code.
    #[error("the country code is unknown")]
    UnknownCountryCode,
    /// Too few digits for its country.
    #[error("too short")]
    TooShort,
    /// Too many digits for its country.
    #[error("too long")]
    TooLong,
    /// Right length, but a number that is never given out.
    #[error("not a number that exists in its country's numbering plan")]
    NotANumber,
}

/// Leaves what a number may be written with, or says what stands there instead.
fn clean(written: &str) -> Result<String, PhoneRefusal> {
    let mut text = String::with_capacity(written.len());
    for char in written.trim().chars() {
        match char {
            // Marks of writing direction, which address books paste along.
            '\u{200e}'
            | '\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
            | '\u{feff}' => {}
            // In front of a number: "this cell is text", a spreadsheet's mark.
            '\'' if text.is_empty() => {}
            char if char.is_whitespace() => text.push(' '),
            // Full-width forms, hyphens, dashes and the minus.
            '\u{ff0b}' => text.push('+'),
            '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{ff0d}' => text.push('-'),
            '/' | ';' | ',' | '|' => return Err(PhoneRefusal::Several),
            '+' | '(' | ')' | '-' | '.' | '#' => text.push(char),
            char if char.is_alphanumeric() => text.push(char),
            char => return Err(PhoneRefusal::UnexpectedCharacter(char)),
        }
    }
    if text.chars().count() > WRITTEN_CHARS_MAX {
        return Err(PhoneRefusal::TooLong);
    }
    if is_scientific(&text) {
        return Err(PhoneRefusal::Scientific);
    }
    if text.chars().skip(1).any(|char| char == '+') && !text.starts_with('(') {
        return Err(PhoneRefusal::Several);
    }
    // `12025550147.0` is a number that passed through a table of floats; the zero is no digit of it.
    if let Some((whole, fraction)) = text.split_once('.')
        && whole.len() >= 7
        && whole.bytes().all(|byte| byte.is_ascii_digit())
        && fraction.bytes().all(|byte| byte == b'0')
    {
        text.truncate(whole.len());
    }
    Ok(text)
}

/// `1.2E+10`, and what other locales and rounding make of it.
fn is_scientific(text: &str) -> bool {
    let Some((mantissa, exponent)) = text.split_once(['e', 'E']) else {
        return false;
    };
    let exponent = exponent.trim_start_matches(['+', '-']);
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
    is_digits(exponent) && is_digits(&mantissa.replacen('.', "", 1))
}

fn explain(error: &ParseError, text: &str) -> PhoneRefusal {
    if text.chars().any(char::is_alphabetic) {
        return PhoneRefusal::Letters;
    }
    match error {
        ParseError::InvalidCountryCode => PhoneRefusal::UnknownCountryCode,
        ParseError::TooShortAfterIdd | ParseError::TooShortNsn => PhoneRefusal::TooShort,
        ParseError::TooLongNsn => PhoneRefusal::TooLong,
        ParseError::NotANumber(_) => match text.chars().filter(char::is_ascii_digit).count() {
            0..3 => PhoneRefusal::TooShort,
            _ => PhoneRefusal::NotANumber,
        },
    }
}

fn check_length(number: &PhoneNumber, text: &str) -> Result<(), PhoneRefusal> {
    let refusal = match number.is_possible_with_reason() {
        Ok(NumberLengthType::IsPossible) => return Ok(()),
        // Seven digits that only neighbours may dial.
        Ok(NumberLengthType::IsPossibleLocalOnly) | Err(ValidationError::TooShort) => {
            PhoneRefusal::TooShort
        }
        Err(ValidationError::InvalidCountryCode) => PhoneRefusal::UnknownCountryCode,
        Err(ValidationError::TooLong) => PhoneRefusal::TooLong,
        Err(ValidationError::InvalidLength) => PhoneRefusal::NotANumber,
    };
    Err(lost_plus(text).unwrap_or(refusal))
}

/// Bare digits that begin with the country's own code may have lost their `+`, or may be a national number
/// that happens to begin so, where a country's numbers have many lengths. Mobile numbers are what people
/// are texted on, so the only mobile reading wins.
fn choose_reading(number: PhoneNumber, text: &str) -> Result<PhoneNumber, PhoneRefusal> {
    let code = number.country_code.to_string();
    if !number.national_number.to_string().starts_with(&code) || !text.starts_with(&code) {
        return Ok(number);
    }
    let other = PHONE_NUMBER_UTIL.parse(format!("+{text}"), None).ok();
    let Some(other) = other.filter(|other| *other != number && other.is_valid()) else {
        return Ok(number);
    };
    let is_mobile = |number: &PhoneNumber| number.get_type() == PhoneNumberType::Mobile;
    match (is_mobile(&number), is_mobile(&other)) {
        (true, false) => Ok(number),
        (false, true) => Ok(other),
        _ => Err(PhoneRefusal::TwoReadings),
    }
}

/// Whether bare digits would be a number of another country with a `+` in front of them.
fn lost_plus(text: &str) -> Option<PhoneRefusal> {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    if text.contains('+') || digits.starts_with('0') || digits.len() < 10 {
        return None;
    }
    let number = PHONE_NUMBER_UTIL.parse(format!("+{digits}"), None).ok()?;
    number.is_valid().then_some(PhoneRefusal::LostPlus(digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(written: &str, country: &str) -> Result<String, PhoneRefusal> {
        E164::read(written, country.parse().unwrap()).map(Into::into)
    }

    #[test]
    fn numbers_are_read_as_people_write_them() {
        let cases = [
            ("205-748-1542", "US", "+12057481542"),
            ("205.446.1486", "US", "+12054461486"),
            ("(213) 975-5604", "US", "+12139755604"),
            ("12027909593", "US", "+12027909593"),
            (" +1 813 266 0994 ", "US", "+18132660994"),
            ("+15128845685", "US", "+15128845685"),
            ("1-205-748-1542", "US", "+12057481542"),
            // Another country's number with its plus, or dialled as from here.
            ("+49 1512 3456789", "US", "+4915123456789"),
            ("011 49 1512 3456789", "US", "+4915123456789"),
            ("0049 1512 3456789", "DE", "+4915123456789"),
            // National form, and the own country's code whose plus is lost.
            ("01512 3456789", "DE", "+4915123456789"),
            ("4915123456789", "DE", "+4915123456789"),
            ("07400 123456", "GB", "+447400123456"),
            ("+44 (0)7400 123456", "GB", "+447400123456"),
            // The zero belongs to Italian numbers.
            ("06 6982 1234", "IT", "+390669821234"),
            // What spreadsheets and address books add.
            ("'+12057481542", "US", "+12057481542"),
            ("12057481542.0", "US", "+12057481542"),
            (
                "\u{202a}+1 (205) 748\u{2011}1542\u{202c}",
                "US",
                "+12057481542",
            ),
            ("205\u{a0}748\u{a0}1542", "US", "+12057481542"),
            ("\u{ff0b}1 205 748 1542", "US", "+12057481542"),
        ];
        for (written, country, e164) in cases {
            assert_eq!(read(written, country).as_deref(), Ok(e164), "{written:?}");
        }
    }

    #[test]
    fn what_is_not_surely_one_number_is_refused_with_the_reason() {
        use PhoneRefusal as R;
        let cases = [
            ("not a phone", "US", R::Letters),
            ("1-800-FLOWERS", "US", R::Letters),
            ("205-748-1542 ext. 12", "US", R::Extension),
            ("205-748-1542 x12", "US", R::Extension),
            ("205-748-1542 #12", "US", R::Extension),
            ("1.2E+10", "US", R::Scientific),
            ("1.20279E+10", "US", R::Scientific),
            ("4.9E12", "DE", R::Scientific),
            ("4915123456789", "US", R::LostPlus("4915123456789".into())),
            ("447400123456", "US", R::LostPlus("447400123456".into())),
            ("12057481542", "DE", R::LostPlus("12057481542".into())),
            ("12345", "US", R::TooShort),
            ("555-01", "US", R::TooShort),
            ("748-1542", "US", R::TooShort),
            ("1", "US", R::TooShort),
            ("++1415", "US", R::Several),
            ("205-748-1542 / 205-748-1543", "US", R::Several),
            ("+12057481542+12057481543", "US", R::Several),
            ("2057481542;2057481543", "US", R::Several),
            ("+1 000 000 0000", "US", R::NotANumber),
            ("+999 123456789", "US", R::UnknownCountryCode),
            ("+1 205 748 1542 99999", "US", R::TooLong),
            ("205_748_1542", "US", R::UnexpectedCharacter('_')),
            ("user@example.com", "US", R::UnexpectedCharacter('@')),
        ];
        for (written, country, refusal) in cases {
            assert_eq!(read(written, country), Err(refusal), "{written:?}");
        }
        let endless = "1".repeat(10_000);
        assert_eq!(read(&endless, "US"), Err(R::TooLong));
    }

    #[test]
    fn a_country_is_two_letters_that_have_telephones() {
        assert_eq!("us".parse::<Country>().unwrap().to_string(), "US");
        for text in ["", "U", "USA", "Q9", "QZ", "ZZ", "Ü"] {
            assert!(text.parse::<Country>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_stored_number_keeps_its_shape() {
        assert!(E164::try_from("+15005550006".to_owned()).is_ok());
        for text in [
            "15005550006",
            "+0500555",
            "+150055500061234567",
            "+1500x550006",
        ] {
            assert!(E164::try_from(text.to_owned()).is_err(), "{text:?}");
        }
    }
}
