//! Email addresses: what a mail server will take, kept as written and as compared.

use std::fmt;

use serde::{Deserialize, Serialize};

/// RFC 5321 §4.5.3.1.3: a path is at most 256 octets, two of them the angle brackets.
const ADDRESS_BYTES_MAX: usize = 254;
/// RFC 5321 §4.5.3.1.1.
const LOCAL_BYTES_MAX: usize = 64;
/// RFC 1035 §2.3.4.
const LABEL_BYTES_MAX: usize = 63;

/// An address, as written and as compared.
///
/// Two addresses are the same when they differ in case only, before the `@` too: the standard allows a
/// server to tell `Ann@` from `ann@`, none that people use does, and writing to both would be writing to
/// one person twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EmailAddress {
    written: String,
    normalized: String,
}

impl EmailAddress {
    /// Checks an address as written in a file or a form; space around it does not count.
    ///
    /// # Errors
    /// [`EmailRefusal`] says what is wrong with it.
    pub fn read(written: &str) -> Result<Self, EmailRefusal> {
        let written = written.trim();
        check(written)?;
        Ok(Self {
            written: written.to_owned(),
            normalized: written.to_ascii_lowercase(),
        })
    }

    /// As its owner writes it; this is what mail is sent to.
    pub fn as_str(&self) -> &str {
        &self.written
    }

    /// What is stored in `email_normalized` and compared.
    pub fn normalized(&self) -> &str {
        &self.normalized
    }
}

impl fmt::Display for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl From<EmailAddress> for String {
    fn from(address: EmailAddress) -> Self {
        address.written
    }
}

impl TryFrom<String> for EmailAddress {
    type Error = EmailRefusal;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::read(&text)
    }
}

/// Why a text is not an address that mail can be sent to. Shown to people as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EmailRefusal {
    /// No `@`.
    #[error("has no @")]
    NoAt,
    /// Two addresses in one field, or a name with an `@`.
    #[error("has more than one @")]
    SeveralAt,
    /// Nothing before the `@`.
    #[error("has nothing before the @")]
    NothingBefore,
    /// Nothing after the `@`.
    #[error("has nothing after the @")]
    NothingAfter,
    /// A character that may not stand there; space most often.
    #[error("contains {0:?}")]
    UnexpectedCharacter(char),
    /// Letters outside ASCII, which the mail service does not take.
    #[error("contains {0:?}; write the domain as xn--…, and the rest in plain letters")]
    NotAscii(char),
    /// A dot at an end, or two in a row.
    #[error("has a dot at the wrong place")]
    WrongDot,
    /// `name@host`: no mail gets there.
    #[error("its domain has no dot")]
    DomainWithoutDot,
    /// A part of the domain that no domain has.
    #[error("its domain is not one that can exist")]
    NotADomain,
    /// More than 254 characters, or 64 before the `@`.
    #[error("too long")]
    TooLong,
}

fn check(address: &str) -> Result<(), EmailRefusal> {
    if let Some(char) = address.chars().find(|char| char.is_whitespace()) {
        return Err(EmailRefusal::UnexpectedCharacter(char));
    }
    if let Some(char) = address.chars().find(|char| !char.is_ascii()) {
        return Err(EmailRefusal::NotAscii(char));
    }
    let (local, domain) = address.split_once('@').ok_or(EmailRefusal::NoAt)?;
    if domain.contains('@') {
        return Err(EmailRefusal::SeveralAt);
    }
    if address.len() > ADDRESS_BYTES_MAX || local.len() > LOCAL_BYTES_MAX {
        return Err(EmailRefusal::TooLong);
    }
    check_local(local)?;
    check_domain(domain)
}

/// An `atom` of RFC 5322 §3.2.3 with dots; quoted forms exist on paper only.
fn check_local(local: &str) -> Result<(), EmailRefusal> {
    if local.is_empty() {
        return Err(EmailRefusal::NothingBefore);
    }
    let is_atext =
        |char: char| char.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(char);
    if let Some(char) = local.chars().find(|char| !is_atext(*char)) {
        return Err(EmailRefusal::UnexpectedCharacter(char));
    }
    if local.split('.').any(str::is_empty) {
        return Err(EmailRefusal::WrongDot);
    }
    Ok(())
}

fn check_domain(domain: &str) -> Result<(), EmailRefusal> {
    if domain.is_empty() {
        return Err(EmailRefusal::NothingAfter);
    }
    let is_label_char = |char: char| char.is_ascii_alphanumeric() || char == '-' || char == '.';
    if let Some(char) = domain.chars().find(|char| !is_label_char(*char)) {
        return Err(EmailRefusal::UnexpectedCharacter(char));
    }
    if domain.split('.').any(str::is_empty) {
        return Err(EmailRefusal::WrongDot);
    }
    let Some((_, top)) = domain.rsplit_once('.') else {
        return Err(EmailRefusal::DomainWithoutDot);
    };
    let has_bad_label = domain.split('.').any(|label| {
        label.len() > LABEL_BYTES_MAX || label.starts_with('-') || label.ends_with('-')
    });
    // A last label of digits is an address of the other kind: 192.0.2.1.
    if has_bad_label || top.len() < 2 || top.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(EmailRefusal::NotADomain);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_kept_as_written_and_compared_without_case() {
        let cases = [
            ("user7.0@example.org", "user7.0@example.org"),
            (" Ann.Smith+news@Example.COM ", "ann.smith+news@example.com"),
            ("o'neil@example.co.uk", "o'neil@example.co.uk"),
            ("x@xn--mnchen-3ya.de", "x@xn--mnchen-3ya.de"),
            ("a@b-c.example", "a@b-c.example"),
        ];
        for (written, normalized) in cases {
            let address = EmailAddress::read(written).unwrap();
            assert_eq!(address.as_str(), written.trim());
            assert_eq!(address.normalized(), normalized);
        }
    }

    #[test]
    fn what_no_mail_reaches_is_refused_with_the_reason() {
        use EmailRefusal as R;
        let long_local = format!("{}@example.com", "a".repeat(65));
        let long_label = format!("a@{}.com", "b".repeat(64));
        let long_address = format!("a@{}com", "bcd.".repeat(70));
        let cases = [
            ("", R::NoAt),
            ("plain", R::NoAt),
            ("@example.com", R::NothingBefore),
            ("nobody@", R::NothingAfter),
            ("a b@example.com", R::UnexpectedCharacter(' ')),
            ("x@y..z", R::WrongDot),
            (".x@example.com", R::WrongDot),
            ("x.@example.com", R::WrongDot),
            ("x@example.com.", R::WrongDot),
            ("x@localhost", R::DomainWithoutDot),
            ("x@y@example.com", R::SeveralAt),
            ("Ann<ann@example.com>", R::UnexpectedCharacter('<')),
            ("ann@example.com,bob@example.com", R::SeveralAt),
            ("\"a\"@example.com", R::UnexpectedCharacter('"')),
            ("x@-example.com", R::NotADomain),
            ("x@192.0.2.1", R::NotADomain),
            ("x@example.c", R::NotADomain),
            ("x@münchen.de", R::NotAscii('ü')),
            ("zoë@example.com", R::NotAscii('ë')),
            (&long_local, R::TooLong),
            (&long_label, R::NotADomain),
            (&long_address, R::TooLong),
        ];
        for (written, refusal) in cases {
            assert_eq!(EmailAddress::read(written), Err(refusal), "{written:?}");
        }
    }
}
