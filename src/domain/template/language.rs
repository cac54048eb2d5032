//! Which part of the template language is on offer.
//!
//! A name that only fails when it is reached would fail for some recipients and not for others, in the
//! middle of a campaign. So every name is checked when the template is made.

use super::TemplateRefusal;

/// Tags that neither assign nor define.
const TAGS: &[&str] = &["if", "elif", "else", "endif", "for", "endfor"];
/// Filters whose result is not larger than what they are given.
pub(super) const FILTERS: &[&str] = &[
    "capitalize",
    "default",
    "float",
    "int",
    "length",
    "lower",
    "round",
    "title",
    "trim",
    "upper",
];
/// Tests.
pub(super) const TESTS: &[&str] = &["defined", "undefined"];
/// Words that may stand before a bracket without calling anything.
const OPERATORS: &[&str] = &["and", "or", "not", "in", "if", "elif", "else"];

/// Refuses what is not on offer; says whether there is any code at all.
///
/// The source has compiled before, so that every delimiter has its end.
pub(super) fn check(source: &str) -> Result<bool, TemplateRefusal> {
    let mut rest = source;
    let mut has_code = false;
    while let Some((opening, code)) = next_code(rest) {
        has_code = true;
        rest = match opening {
            "{#" => code.split_once("#}").map_or("", |(_, after)| after),
            "{%" => {
                check_tag(code)?;
                check_tokens(code, "%}")?
            }
            _ => check_tokens(code, "}}")?,
        };
    }
    Ok(has_code)
}

fn next_code(source: &str) -> Option<(&str, &str)> {
    let starts = ["{{", "{%", "{#"].map(|opening| source.find(opening));
    let start = starts.into_iter().flatten().min()?;
    Some(source[start..].split_at(2))
}

fn check_tag(code: &str) -> Result<(), TemplateRefusal> {
    let code = code.trim_start_matches(['-', '+']).trim_start();
    let tag = &code[..word_len(code)];
    if TAGS.contains(&tag) {
        Ok(())
    } else {
        Err(TemplateRefusal::TagNotAvailable { tag: tag.into() })
    }
}

/// Looks at what stands up to the closing delimiter and returns what follows it.
fn check_tokens<'a>(code: &'a str, closing: &str) -> Result<&'a str, TemplateRefusal> {
    let (mut rest, mut last, mut before) = (code, "", "");
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix(closing) {
            return Ok(after);
        }
        let token = &rest[..token_len(rest)];
        if token.is_empty() {
            return Ok("");
        }
        rest = &rest[token.len()..];
        // `is not defined` is judged like `is defined`.
        if !(last == "is" && token == "not") {
            check_token(before, last, token)?;
            (before, last) = (last, token);
        }
    }
}

fn check_token(before: &str, last: &str, token: &str) -> Result<(), TemplateRefusal> {
    let is_word = word_len(token) > 0;
    if token == "*" {
        Err(TemplateRefusal::Multiplication)
    } else if last == "|" && is_word && !FILTERS.contains(&token) {
        Err(TemplateRefusal::UnknownFilter(token.into()))
    } else if last == "is" && is_word && !TESTS.contains(&token) {
        Err(TemplateRefusal::UnknownTest(token.into()))
    } else if token == "(" && calls(before, last) {
        Err(TemplateRefusal::Call(last.into()))
    } else {
        Ok(())
    }
}

/// Whether a bracket after `last` calls something other than a filter.
fn calls(before: &str, last: &str) -> bool {
    match last {
        ")" | "]" => true,
        _ => word_len(last) > 0 && before != "|" && !OPERATORS.contains(&last),
    }
}

/// A word, a string with its quotes, or one character.
fn token_len(text: &str) -> usize {
    let Some(first) = text.chars().next() else {
        return 0;
    };
    match first {
        '"' | '\'' => string_len(text, first),
        _ => word_len(text).max(first.len_utf8()),
    }
}

fn word_len(text: &str) -> usize {
    let is_word = |char: char| char.is_alphanumeric() || char == '_';
    text.find(|char| !is_word(char)).unwrap_or(text.len())
}

fn string_len(text: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, char) in text.char_indices().skip(1) {
        match char {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if char == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}
