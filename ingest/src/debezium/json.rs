use std::borrow::Cow;

use crate::debezium::problem::Problem;

/// Brackets inside one another beyond this are refused, so that no input exhausts the stack.
const DEPTH: u32 = 64;

/// Reads JSON from its text, a value at a time, without making a tree: what is not asked for is
/// stepped over, numbers and strings are handed out as they are written.
#[derive(Debug, Clone)]
pub(crate) struct Json<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Json<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// The first byte of the next value.
    pub(crate) fn peek(&mut self) -> Result<u8, Problem> {
        let bytes = self.text.as_bytes();
        while let Some(&byte) = bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Ok(byte);
            }
            self.at += 1;
        }
        Err(self.expected("a value"))
    }

    /// What is left, from the next value on.
    pub(crate) fn rest(&mut self) -> Result<&'a str, Problem> {
        self.peek()?;
        Ok(self.text.get(self.at..).unwrap_or_default())
    }

    /// Steps over text that was seen before and is known to be one value.
    pub(crate) fn step_over(&mut self, known: &str) {
        self.at += known.len();
    }

    /// Nothing but blanks may be left.
    pub(crate) fn end(&mut self) -> Result<(), Problem> {
        if self.peek().is_ok() { Err(self.expected("the end")) } else { Ok(()) }
    }

    fn expected(&self, expected: &'static str) -> Problem {
        Problem::Json { at: self.at, expected }
    }

    fn take(&mut self, byte: u8, expected: &'static str) -> Result<(), Problem> {
        if self.peek().ok() != Some(byte) {
            return Err(self.expected(expected));
        }
        self.at += 1;
        Ok(())
    }

    /// Takes a `null`, if that is next.
    pub(crate) fn null(&mut self) -> Result<bool, Problem> {
        if self.peek()? != b'n' {
            return Ok(false);
        }
        self.word("null").map(|()| true)
    }

    /// A `true` or `false`.
    pub(crate) fn boolean(&mut self) -> Result<bool, Problem> {
        match self.peek()? {
            b't' => self.word("true").map(|()| true),
            b'f' => self.word("false").map(|()| false),
            _ => Err(self.expected("true or false")),
        }
    }

    fn word(&mut self, word: &'static str) -> Result<(), Problem> {
        if self.text.as_bytes().get(self.at..).is_some_and(|b| b.starts_with(word.as_bytes())) {
            self.at += word.len();
            return Ok(());
        }
        Err(self.expected(word))
    }

    /// A number as it is written, of any length.
    pub(crate) fn number(&mut self) -> Result<&'a str, Problem> {
        self.peek()?;
        let start = self.at;
        let bytes = self.text.as_bytes();
        while let Some(b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E') = bytes.get(self.at) {
            self.at += 1;
        }
        if start == self.at {
            return Err(self.expected("a number"));
        }
        Ok(self.text.get(start..self.at).unwrap_or_default())
    }

    /// A string, without its escapes.
    pub(crate) fn string(&mut self) -> Result<Cow<'a, str>, Problem> {
        let (written, escaped) = self.string_as_written()?;
        if escaped {
            unescape(written, self.at).map(Cow::Owned)
        } else {
            Ok(Cow::Borrowed(written))
        }
    }

    /// What is between the quotes, and whether it has escapes.
    fn string_as_written(&mut self) -> Result<(&'a str, bool), Problem> {
        self.take(b'"', "a string")?;
        let start = self.at;
        let bytes = self.text.as_bytes();
        let mut escaped = false;
        loop {
            let found = bytes.get(self.at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest));
            let Some(found) = found else { return Err(self.expected("the end of a string")) };
            self.at += found + 1;
            if bytes.get(self.at - 1) == Some(&b'"') {
                break;
            }
            escaped = true;
            self.at += 1;
        }
        Ok((self.text.get(start..self.at - 1).unwrap_or_default(), escaped))
    }

    /// Steps over the next value and answers its text.
    pub(crate) fn raw(&mut self) -> Result<&'a str, Problem> {
        let first = self.peek()?;
        let start = self.at;
        match first {
            b'"' => drop(self.string_as_written()?),
            b'{' | b'[' => self.skip_nested()?,
            b't' => self.word("true")?,
            b'f' => self.word("false")?,
            b'n' => self.word("null")?,
            _ => drop(self.number()?),
        }
        Ok(self.text.get(start..self.at).unwrap_or_default())
    }

    /// Steps over an object or array: strings and pairs of brackets are looked at, nothing else, as
    /// what is in them is read only when it is asked for.
    fn skip_nested(&mut self) -> Result<(), Problem> {
        let bytes = self.text.as_bytes();
        // A bit for each bracket that is open: set for an object.
        let mut open = 1_u64;
        let mut depth = 0;
        while let Some(&byte) = bytes.get(self.at) {
            match byte {
                b'"' => {
                    self.string_as_written()?;
                    continue;
                }
                b'{' | b'[' => {
                    depth += 1;
                    if depth >= DEPTH {
                        return Err(self.expected("fewer brackets inside one another"));
                    }
                    open = open << 1 | u64::from(byte == b'{');
                }
                b'}' | b']' => {
                    if open & 1 != u64::from(byte == b'}') {
                        return Err(self.expected("the other kind of bracket"));
                    }
                    open >>= 1;
                    depth -= 1;
                    if depth == 0 {
                        self.at += 1;
                        return Ok(());
                    }
                }
                _ => {}
            }
            self.at += 1;
        }
        Err(self.expected("a closing bracket"))
    }

    /// Goes into an object; [`Self::key`] follows.
    pub(crate) fn object(&mut self) -> Result<(), Problem> {
        self.take(b'{', "an object")
    }

    /// The next key of the object that was gone into, or none at its end; its value is next and has
    /// to be taken before the next key. `first` is whether it is the first.
    pub(crate) fn key(&mut self, first: bool) -> Result<Option<Cow<'a, str>>, Problem> {
        if !self.more(first, b'}')? {
            return Ok(None);
        }
        let key = self.string()?;
        self.take(b':', "a colon")?;
        Ok(Some(key))
    }

    /// Goes into an array; [`Self::more`] with `]` follows.
    pub(crate) fn array(&mut self) -> Result<(), Problem> {
        self.take(b'[', "an array")
    }

    /// Whether there is another element before `end`.
    pub(crate) fn more(&mut self, first: bool, end: u8) -> Result<bool, Problem> {
        let next = self.peek()?;
        if next == end {
            self.at += 1;
            return Ok(false);
        }
        if !first {
            self.take(b',', "a comma")?;
        }
        Ok(true)
    }
}

fn unescape(written: &str, at: usize) -> Result<String, Problem> {
    let wrong = || Problem::Json { at, expected: "an escape that JSON has" };
    let mut text = String::with_capacity(written.len());
    let mut rest = written;
    while let Some(slash) = memchr::memchr(b'\\', rest.as_bytes()) {
        text.push_str(rest.get(..slash).unwrap_or_default());
        let escape = rest.as_bytes().get(slash + 1).copied().ok_or_else(wrong)?;
        let mut taken = slash + 2;
        text.push(match escape {
            b'"' | b'\\' | b'/' => char::from(escape),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let high = hex4(rest, taken).ok_or_else(wrong)?;
                taken += 4;
                let pair = rest.as_bytes().get(taken..).is_some_and(|r| r.starts_with(b"\\u"));
                match (0xD800..0xDC00).contains(&high).then(|| hex4(rest, taken + 2)).flatten() {
                    Some(low @ 0xDC00..0xE000) if pair => {
                        taken += 6;
                        let code = 0x1_0000 + ((high - 0xD800) << 10) + (low - 0xDC00);
                        char::from_u32(code).ok_or_else(wrong)?
                    }
                    // Half of a pair is no character. Java writes such text all the same.
                    _ => char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER),
                }
            }
            _ => return Err(wrong()),
        });
        rest = rest.get(taken..).ok_or_else(wrong)?;
    }
    text.push_str(rest);
    Ok(text)
}

fn hex4(text: &str, at: usize) -> Option<u32> {
    let digits = text.get(at..at + 4)?;
    digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_read_without_their_escapes() {
        for (text, expected) in [
            (r#""plain""#, "plain"),
            (r#" "a\"b\\c\/\n" "#, "a\"b\\c/\n"),
            (r#""\u6b7b\ud83d\ude00""#, "死😀"),
            (r#""half \ud83d""#, "half \u{fffd}"),
            (r#""half \ud83d\u0041""#, "half \u{fffd}A"),
        ] {
            assert_eq!(Json::new(text).string().unwrap(), expected, "{text}");
        }
        for wrong in [r#""open"#, r#""\"#, r#""\u12""#, r#""\x""#, "7", ""] {
            assert!(Json::new(wrong).string().is_err(), "{wrong}");
        }
    }

    #[test]
    fn values_are_stepped_over_whole() {
        let text = r#"{"a":{"b":["}",{"c":1}]},"d":-1.5e3 , "e":null}"#;
        let mut json = Json::new(text);
        json.object().unwrap();
        let mut found = Vec::new();
        while let Some(key) = json.key(found.is_empty()).unwrap() {
            found.push((key.into_owned(), json.raw().unwrap()));
        }
        json.end().unwrap();
        let expected = [("a", r#"{"b":["}",{"c":1}]}"#), ("d", "-1.5e3"), ("e", "null")];
        assert_eq!(found, expected.map(|(k, v)| (k.to_owned(), v)));
        for wrong in ["{", "[1", "[}", "{]", "tru", "", &"[".repeat(1000)] {
            assert!(Json::new(wrong).raw().is_err(), "{wrong}");
        }
    }
}
