//! Quoted strings: where they end and whether their escapes are well formed.

use super::{Lexed, Lexer, TokenKind};
use crate::error::ParseError;
use crate::go_fmt::unicode;

impl Lexer<'_> {
    /// A string in `quote`, which was read.
    pub(super) fn string(&mut self, quote: char) -> Lexed {
        loop {
            match self.bump() {
                Some('\\') => self.escape(quote)?,
                Some('\u{fffd}') => return Err(self.error("invalid UTF-8 rune")),
                None | Some('\n') => return Err(self.error("unterminated quoted string")),
                Some(c) if c == quote => return Ok(self.emit(TokenKind::String)),
                Some(_) => {}
            }
        }
    }

    /// A string in backquotes, the first of which was read.
    pub(super) fn raw_string(&mut self) -> Lexed {
        loop {
            match self.bump() {
                Some('\u{fffd}') => return Err(self.error("invalid UTF-8 rune")),
                None => return Err(self.error("unterminated raw string")),
                Some('`') => return Ok(self.emit(TokenKind::String)),
                Some(_) => {}
            }
        }
    }

    fn escape(&mut self, quote: char) -> Result<(), ParseError> {
        let Some(c) = self.bump() else { return Err(self.error("escape sequence not terminated")) };
        let (digits, base, max) = match c {
            'a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '\\' => return Ok(()),
            _ if c == quote => return Ok(()),
            '0'..='7' => {
                self.pos -= 1;
                (3, 8, 255)
            }
            'x' => (2, 16, 255),
            'u' => (4, 16, u32::from(char::MAX)),
            'U' => (8, 16, u32::from(char::MAX)),
            _ => return Err(self.error(format!("unknown escape sequence {}", unicode(c)))),
        };
        let code = self.escape_digits(digits, base)?;
        if code > max || (0xd800..0xe000).contains(&code) {
            return Err(self.error("escape sequence is an invalid Unicode code point"));
        }
        Ok(())
    }

    fn escape_digits(&mut self, digits: usize, base: u32) -> Result<u32, ParseError> {
        let mut code = 0u32;
        for _ in 0..digits {
            let Some(c) = self.bump() else { return Err(self.error("escape sequence not terminated")) };
            let Some(digit) = c.to_digit(base) else {
                let message = format!("illegal character {} in escape sequence", unicode(c));
                return Err(self.error(message));
            };
            code = code.wrapping_mul(base).wrapping_add(digit);
        }
        Ok(code)
    }
}
