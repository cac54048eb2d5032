//! Reads Rust source as far as the rules need it: which paths it names, in which module, on which line.
//!
//! Comments, strings and characters are left out, groups of imports are unfolded, and `super` and `self` are resolved, so
//! that a room cannot be reached by climbing.

/// A piece of source.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Word(String),
    Mark(char),
}

#[derive(Debug, Clone)]
struct Token {
    line: usize,
    piece: Piece,
}

/// A path as somebody wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Where, from 1.
    pub line: usize,
    /// Ours begin with `crate`, resolved from the root; all others as written.
    pub path: String,
}

/// What a file says.
#[derive(Debug, Default)]
pub struct Source {
    /// Every path of two segments or more.
    pub paths: Vec<Named>,
    /// Every macro called, without its `!`.
    pub macros: Vec<Named>,
    /// Every word that stands alone, keywords among them.
    pub words: Vec<Named>,
}

/// Reads a file whose module is `module`, as segments from the root.
pub fn read(module: &[String], text: &str) -> Source {
    let mut reader = Reader {
        tokens: tokens(text),
        at: 0,
        module: module.to_vec(),
        depth: 0,
        inline: Vec::new(),
        found: Source::default(),
    };
    reader.read();
    reader.found
}

struct Reader {
    tokens: Vec<Token>,
    at: usize,
    module: Vec<String>,
    depth: usize,
    /// The depths at which inline modules were opened.
    inline: Vec<usize>,
    found: Source,
}

impl Reader {
    fn word(&self, at: usize) -> Option<&str> {
        match &self.tokens.get(at)?.piece {
            Piece::Word(word) => Some(word),
            Piece::Mark(_) => None,
        }
    }

    fn is_mark(&self, at: usize, mark: char) -> bool {
        self.tokens
            .get(at)
            .is_some_and(|token| token.piece == Piece::Mark(mark))
    }

    fn is_colons(&self, at: usize) -> bool {
        self.is_mark(at, ':') && self.is_mark(at + 1, ':')
    }

    fn read(&mut self) {
        while self.at < self.tokens.len() {
            match self.tokens[self.at].piece.clone() {
                Piece::Mark('{') => self.depth += 1,
                Piece::Mark('}') => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.inline.last() == Some(&self.depth) {
                        self.inline.pop();
                        self.module.pop();
                    }
                }
                Piece::Word(word) => {
                    if self.open_module(&word) {
                        continue;
                    }
                    self.read_word(word);
                    continue;
                }
                Piece::Mark(_) => {}
            }
            self.at += 1;
        }
    }

    /// `mod name {` is a module of its own, from where `super` climbs one step less far.
    fn open_module(&mut self, word: &str) -> bool {
        let Some(name) = (word == "mod").then(|| self.word(self.at + 1)).flatten() else {
            return false;
        };
        if !self.is_mark(self.at + 2, '{') {
            return false;
        }
        self.module.push(name.to_owned());
        self.inline.push(self.depth);
        self.depth += 1;
        self.at += 3;
        true
    }

    fn read_word(&mut self, word: String) {
        let line = self.tokens[self.at].line;
        if self.is_mark(self.at + 1, '!') && !self.is_mark(self.at + 2, '=') {
            self.found.macros.push(Named {
                line,
                path: word.clone(),
            });
        }
        if self.is_colons(self.at + 1) {
            let mut leaves = Vec::new();
            self.at = self.leaves(self.at, &[], &mut leaves);
            for (line, segments) in leaves {
                self.name(line, &segments);
            }
            return;
        }
        // `use crate as product` would rename the root.
        if word == "crate" && self.word(self.at + 1) == Some("as") {
            self.found.paths.push(Named {
                line,
                path: "crate".into(),
            });
        }
        self.found.words.push(Named { line, path: word });
        self.at += 1;
    }

    /// The paths that begin at `at`, one for each leaf of their groups, and where reading goes on.
    fn leaves(
        &self,
        mut at: usize,
        before: &[String],
        leaves: &mut Vec<(usize, Vec<String>)>,
    ) -> usize {
        let line = self.tokens[at].line;
        let mut segments = before.to_vec();
        loop {
            if let Some(word) = self.word(at) {
                segments.push(word.to_owned());
                at += 1;
            } else if self.is_mark(at, '{') {
                at += 1;
                while at < self.tokens.len() && !self.is_mark(at, '}') {
                    at = match self.word(at) {
                        Some("as") => at + 2,
                        Some(_) => self.leaves(at, &segments, leaves),
                        None if self.is_mark(at, '{') || self.is_mark(at, '*') => {
                            self.leaves(at, &segments, leaves)
                        }
                        None => at + 1,
                    };
                }
                return at + 1;
            } else {
                if self.is_mark(at, '*') {
                    segments.push("*".into());
                    at += 1;
                }
                break;
            }
            if !self.is_colons(at) || self.is_mark(at + 2, '<') {
                break;
            }
            at += 2;
        }
        leaves.push((line, segments));
        at
    }

    fn name(&mut self, line: usize, segments: &[String]) {
        let Some(first) = segments.first() else {
            return;
        };
        if let Some(called) = segments.last()
            && self.is_mark(self.at, '!')
        {
            self.found.macros.push(Named {
                line,
                path: called.clone(),
            });
        }
        let climbs = segments.iter().take_while(|word| *word == "super").count();
        let from_root: Option<Vec<String>> = match first.as_str() {
            // `engageninja` is the library, as the program sees it.
            "crate" | "engageninja" => Some(segments[1..].to_vec()),
            "super" => {
                let kept = self.module.len().saturating_sub(climbs);
                Some([&self.module[..kept], &segments[climbs..]].concat())
            }
            "self" if segments.get(1).is_some_and(|word| word == "super") => {
                let climbs = segments[1..].iter().take_while(|w| *w == "super").count();
                let kept = self.module.len().saturating_sub(climbs);
                Some([&self.module[..kept], &segments[climbs + 1..]].concat())
            }
            "self" => Some([&self.module[..], &segments[1..]].concat()),
            _ => None,
        };
        let path = match from_root {
            Some(mut path) => {
                path.retain(|word| word != "self");
                path.insert(0, "crate".into());
                path.join("::")
            }
            None => segments.join("::"),
        };
        self.found.paths.push(Named { line, path });
    }
}

fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let (start, next) = (at, |n: usize| chars.get(at + n).copied().unwrap_or('\0'));
        let c = chars[at];
        if c == '/' && next(1) == '/' {
            at = skip_to(&chars, at, '\n');
        } else if c == '/' && next(1) == '*' {
            at = skip_block_comment(&chars, at);
        } else if c == '"' {
            at = skip_string(&chars, at);
        } else if c == '\'' {
            at = skip_quote(&chars, at);
        } else if is_word(c) {
            let mut word = String::new();
            while at < chars.len() && is_word(chars[at]) {
                word.push(chars[at]);
                at += 1;
            }
            at = skip_literal_tail(&chars, at, &word);
            if at == start + word.len() && !word.starts_with(|c: char| c.is_ascii_digit()) {
                tokens.push(Token {
                    line,
                    piece: Piece::Word(word),
                });
            }
        } else {
            if !c.is_whitespace() {
                tokens.push(Token {
                    line,
                    piece: Piece::Mark(c),
                });
            }
            at += 1;
        }
        line += chars[start..at.min(chars.len())]
            .iter()
            .filter(|c| **c == '\n')
            .count();
    }
    tokens
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

fn skip_to(chars: &[char], from: usize, wanted: char) -> usize {
    (from..chars.len())
        .find(|at| chars[*at] == wanted)
        .unwrap_or(chars.len())
}

fn skip_block_comment(chars: &[char], from: usize) -> usize {
    let (mut at, mut depth) = (from, 0);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => {
                (depth, at) = (depth - 1, at + 2);
                if depth == 0 {
                    break;
                }
            }
            _ => at += 1,
        }
    }
    at
}

/// Past a string that begins at `from`.
fn skip_string(chars: &[char], from: usize) -> usize {
    let mut at = from + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// Past a character; of a lifetime only the quote is skipped, and its name read as a word does no harm.
fn skip_quote(chars: &[char], from: usize) -> usize {
    if chars.get(from + 1) == Some(&'\\') {
        return skip_to(chars, from + 3, '\'') + 1;
    }
    if chars.get(from + 2) == Some(&'\'') {
        from + 3
    } else {
        from + 1
    }
}

/// Past the string that `word` is the prefix of: `b"…"`, `r#"…"#`; stays where it is when it is none.
fn skip_literal_tail(chars: &[char], at: usize, word: &str) -> usize {
    if !matches!(word, "r" | "b" | "br" | "c" | "cr") {
        return at;
    }
    let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
    match chars.get(at + hashes) {
        Some('"') if word.contains('r') => {
            let end: Vec<char> = std::iter::once('"')
                .chain(std::iter::repeat_n('#', hashes))
                .collect();
            (at + hashes + 1..chars.len())
                .find(|from| chars[*from..].starts_with(&end))
                .map_or(chars.len(), |from| from + end.len())
        }
        Some('"') if hashes == 0 => skip_string(chars, at),
        Some('\'') if word == "b" => skip_quote(chars, at),
        _ => at,
    }
}
