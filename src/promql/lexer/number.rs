//! Where numbers and durations end. Whether they are valid is found out when they are converted.

use super::{Lexed, Lexer, TokenKind, is_alphanumeric};
use crate::go_fmt::quote;

impl Lexer<'_> {
    /// A number or a duration, of which the first character was read.
    pub(super) fn number_or_duration(&mut self) -> Lexed {
        self.pos = self.start;
        if self.scan_number() {
            return Ok(self.emit(TokenKind::Number));
        }
        if self.scan_duration_units() {
            return Ok(self.emit(TokenKind::Duration));
        }
        // As far as the scan went, and the character that stopped it.
        let text = &self.input[self.start..self.pos];
        Err(self.error(format!("bad number or duration syntax: {}", quote(text))))
    }

    fn scan_number(&mut self) -> bool {
        let is_hex = self.accept('0') && self.accept_any("xX");
        let digits = if is_hex { "0123456789abcdefABCDEF" } else { "0123456789" };
        if is_hex {
            self.accept('_');
        }
        self.accept('.');
        self.accept_any(digits);
        let (mut dot_seen, mut exponent_seen) = (false, false);
        while let Some(c) = self.peek() {
            let is_exponent = matches!(c, 'e' | 'E');
            if !(is_exponent || matches!(c, '.' | '_') || digits.contains(c)) {
                break;
            }
            if (c == '.' && dot_seen) || (is_exponent && exponent_seen) {
                self.bump();
                return false;
            }
            let is_well_formed = match c {
                '.' => {
                    dot_seen = true;
                    self.bump();
                    !self.accept_any("_.") && !is_hex
                }
                'e' | 'E' => {
                    exponent_seen = true;
                    self.bump();
                    self.accept_any("+-");
                    !self.accept_any("._eE") && self.peek().is_some()
                }
                '_' => {
                    self.bump();
                    !self.accept_any("._eE") && self.peek().is_some()
                }
                _ => {
                    self.accept_while(|c| digits.contains(c));
                    true
                }
            };
            if !is_well_formed {
                return false;
            }
        }
        !self.peek().is_some_and(is_alphanumeric)
    }

    /// The rest of a duration such as `5m30s` after its first number.
    fn scan_duration_units(&mut self) -> bool {
        if !self.accept_any("smhdwy") {
            return false;
        }
        self.accept('s');
        while self.peek().is_some_and(|c| c.is_ascii_digit()) {
            self.accept_while(|c| c.is_ascii_digit());
            if !self.accept_any("smhdw") {
                return false;
            }
            self.accept('s');
        }
        if self.peek().is_some_and(is_alphanumeric) {
            self.bump();
            return false;
        }
        true
    }

    fn accept_any(&mut self, wanted: &str) -> bool {
        let found = self.peek().is_some_and(|c| wanted.contains(c));
        if found {
            self.bump();
        }
        found
    }
}
