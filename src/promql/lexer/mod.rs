//! The lexer: from the text of a query to tokens.
//!
//! Knows quoting, numbers, comments, keywords and that braces and brackets have tokens of their own. Does not
//! know grammar. Path: **here** -> `parser`. Texts and positions of errors are Prometheus'.

mod number;
mod string;
mod token;

pub(crate) use token::{Keyword, Token, TokenKind};

use crate::ast::{BinaryOp, Span};
use crate::error::ParseError;
use crate::go_fmt::quote_rune;

/// What the next character is read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Statements,
    InsideBraces,
    Duration,
}

/// Reads one token after the other. Not to be used any more after an error.
#[derive(Debug)]
pub(crate) struct Lexer<'a> {
    input: &'a str,
    pos: usize,
    start: usize,
    state: State,
    paren_depth: usize,
    bracket_open: bool,
    got_colon: bool,
    got_duration: bool,
}

type Lexed = Result<Token, ParseError>;

impl<'a> Lexer<'a> {
    pub(crate) fn new(input: &'a str) -> Self {
        Self {
            input,
            pos: 0,
            start: 0,
            state: State::Statements,
            paren_depth: 0,
            bracket_open: false,
            got_colon: false,
            got_duration: false,
        }
    }

    /// The next token; after the last one always the end of the input.
    pub(crate) fn next_token(&mut self) -> Lexed {
        self.skip_blanks();
        self.start = self.pos;
        match self.state {
            State::Statements => self.statement(),
            State::InsideBraces => self.inside_braces(),
            State::Duration => self.duration(),
        }
    }

    fn skip_blanks(&mut self) {
        loop {
            match self.peek() {
                Some(' ' | '\t' | '\n' | '\r') => self.pos += 1,
                Some('#') if self.state != State::Duration => {
                    let rest = &self.input[self.pos..];
                    self.pos += rest.find(['\r', '\n']).unwrap_or(rest.len());
                }
                _ => return,
            }
        }
    }

    fn statement(&mut self) -> Lexed {
        let Some(c) = self.bump() else { return self.end() };
        match c {
            ',' => Ok(self.emit(TokenKind::Comma)),
            '@' => Ok(self.emit(TokenKind::At)),
            '=' | '!' | '<' | '>' => self.comparison(c),
            '0'..='9' => self.number_or_duration(),
            '.' if self.peek().is_some_and(|c| c.is_ascii_digit()) => self.number_or_duration(),
            '"' | '\'' => self.string(c),
            '`' => self.raw_string(),
            _ if is_alpha(c) || c == ':' => self.word(c),
            '(' => Ok(self.open_paren()),
            ')' => self.close_paren(),
            '{' => {
                self.state = State::InsideBraces;
                Ok(self.emit(TokenKind::LeftBrace))
            }
            '[' => self.open_bracket(),
            ']' => self.close_bracket(),
            _ => match arithmetic(c) {
                Some(op) => Ok(self.emit(TokenKind::Binary(op))),
                None => Err(self.error(format!("unexpected character: {}", quote_rune(Some(c))))),
            },
        }
    }

    fn end(&self) -> Lexed {
        if self.paren_depth != 0 {
            return Err(self.error("unclosed left parenthesis"));
        }
        if self.bracket_open {
            return Err(self.error("unclosed left bracket"));
        }
        Ok(self.emit(TokenKind::Eof))
    }

    fn comparison(&mut self, c: char) -> Lexed {
        let next = self.peek();
        let (op, length) = match (c, next) {
            ('=', Some('=')) => (BinaryOp::Eq, 1),
            ('=', Some('~')) => return Err(self.error("unexpected character after '=': '~'")),
            ('=', _) => return Ok(self.emit(TokenKind::Assign)),
            ('!', Some('=')) => (BinaryOp::Ne, 1),
            ('!', _) => {
                return Err(self.error(format!("unexpected character after '!': {}", quote_rune(next))));
            }
            ('<', Some('=')) => (BinaryOp::Le, 1),
            ('<', Some('/')) => (BinaryOp::TrimUpper, 1),
            ('<', _) => (BinaryOp::Lt, 0),
            (_, Some('=')) => (BinaryOp::Ge, 1),
            (_, Some('/')) => (BinaryOp::TrimLower, 1),
            _ => (BinaryOp::Gt, 0),
        };
        self.pos += length;
        Ok(self.emit(TokenKind::Binary(op)))
    }

    fn word(&mut self, first: char) -> Lexed {
        if self.bracket_open {
            return self.word_in_brackets(first);
        }
        self.accept_while(|c| is_alphanumeric(c) || c == ':');
        let word = &self.input[self.start..self.pos];
        let kind = match TokenKind::of_word(word) {
            // These are names unless a parenthesis follows, so that older queries keep their meaning.
            Some(TokenKind::Keyword(Keyword::Fill | Keyword::FillLeft | Keyword::FillRight))
                if !self.is_paren_next() =>
            {
                TokenKind::Identifier
            }
            Some(kind) => kind,
            None if word.contains(':') => TokenKind::MetricIdentifier,
            None => TokenKind::Identifier,
        };
        Ok(self.emit(kind))
    }

    fn word_in_brackets(&mut self, first: char) -> Lexed {
        if first == ':' {
            if self.got_colon {
                return Err(self.error("unexpected colon ':'"));
            }
            self.got_colon = true;
            return Ok(self.emit(TokenKind::Colon));
        }
        match self.duration_keyword() {
            Some(token) => Ok(token),
            None => {
                Err(self.error(format!("unexpected character: {}, expected ':'", quote_rune(Some(first)))))
            }
        }
    }

    /// One of `step`, `range`, `min_of`, `max_of`, of which the first character was read.
    fn duration_keyword(&mut self) -> Option<Token> {
        self.accept_while(is_alpha);
        match TokenKind::of_word(&self.input[self.start..self.pos]) {
            Some(kind @ TokenKind::Keyword(keyword)) if keyword.is_duration() => Some(self.emit(kind)),
            _ => None,
        }
    }

    fn open_paren(&mut self) -> Token {
        self.paren_depth += 1;
        self.emit(TokenKind::LeftParen)
    }

    fn close_paren(&mut self) -> Lexed {
        if self.paren_depth == 0 {
            return Err(self.error_at(self.pos, "unexpected right parenthesis ')'"));
        }
        self.paren_depth -= 1;
        Ok(self.emit(TokenKind::RightParen))
    }

    fn open_bracket(&mut self) -> Lexed {
        if self.bracket_open {
            return Err(self.error("unexpected left bracket '['"));
        }
        self.got_colon = false;
        self.bracket_open = true;
        self.state = State::Duration;
        Ok(self.emit(TokenKind::LeftBracket))
    }

    fn close_bracket(&mut self) -> Lexed {
        if !self.bracket_open {
            return Err(self.error("unexpected right bracket ']'"));
        }
        self.bracket_open = false;
        self.state = State::Statements;
        Ok(self.emit(TokenKind::RightBracket))
    }

    fn inside_braces(&mut self) -> Lexed {
        let Some(c) = self.bump() else { return Err(self.error("unexpected end of input inside braces")) };
        match c {
            _ if is_alpha(c) => {
                self.accept_while(is_alphanumeric);
                Ok(self.emit(TokenKind::Identifier))
            }
            ',' => Ok(self.emit(TokenKind::Comma)),
            '"' | '\'' => self.string(c),
            '`' => self.raw_string(),
            '=' if self.accept('~') => Ok(self.emit(TokenKind::EqualRegex)),
            '=' => Ok(self.emit(TokenKind::Assign)),
            '!' if self.accept('~') => Ok(self.emit(TokenKind::NotEqualRegex)),
            '!' if self.accept('=') => Ok(self.emit(TokenKind::Binary(BinaryOp::Ne))),
            '!' => {
                let next = quote_rune(self.peek());
                Err(self.error(format!("unexpected character after '!' inside braces: {next}")))
            }
            '{' => Err(self.error("unexpected left brace '{'")),
            '}' => {
                self.state = State::Statements;
                Ok(self.emit(TokenKind::RightBrace))
            }
            _ => Err(self.error(format!("unexpected character inside braces: {}", quote_rune(Some(c))))),
        }
    }

    /// Reads what follows a left bracket, until the first number.
    fn duration(&mut self) -> Lexed {
        let Some(c) = self.bump() else {
            return Err(self.error("unexpected end of input in duration expression"));
        };
        match c {
            ']' => {
                self.got_colon = false;
                self.close_bracket()
            }
            ':' if !self.got_duration => {
                let message = "unexpected colon before duration in duration expression";
                Err(self.error_at(self.pos, message))
            }
            ':' if self.got_colon => {
                Err(self.error_at(self.pos, "unexpected repeated colon in duration expression"))
            }
            ':' => {
                self.got_colon = true;
                Ok(self.emit(TokenKind::Colon))
            }
            '(' => Ok(self.open_paren()),
            ')' => self.close_paren(),
            ',' => Ok(self.emit(TokenKind::Comma)),
            '0'..='9' => self.first_number(),
            '.' if self.peek().is_some_and(|c| c.is_ascii_digit()) => self.first_number(),
            _ => self.duration_word_or_operator(c),
        }
    }

    fn first_number(&mut self) -> Lexed {
        self.got_duration = true;
        self.state = State::Statements;
        self.number_or_duration()
    }

    fn duration_word_or_operator(&mut self, c: char) -> Lexed {
        if let Some(op) = arithmetic(c) {
            return Ok(self.emit(TokenKind::Binary(op)));
        }
        if let Some(token) = is_alpha(c).then(|| self.duration_keyword()).flatten() {
            return Ok(token);
        }
        Err(self.error(format!("unexpected character in duration expression: {}", quote_rune(Some(c)))))
    }

    fn is_paren_next(&self) -> bool {
        self.input[self.pos..].trim_start_matches([' ', '\t', '\n', '\r']).starts_with('(')
    }

    fn peek(&self) -> Option<char> {
        self.input[self.pos..].chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.pos += c.len_utf8();
        Some(c)
    }

    fn accept(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.pos += wanted.len_utf8();
        }
        found
    }

    fn accept_while(&mut self, wanted: impl Fn(char) -> bool) {
        while self.peek().is_some_and(&wanted) {
            self.bump();
        }
    }

    fn emit(&self, kind: TokenKind) -> Token {
        Token { kind, span: Span::new(self.start, self.pos) }
    }

    fn error(&self, message: impl Into<String>) -> ParseError {
        self.error_at(self.start, message)
    }

    fn error_at(&self, start: usize, message: impl Into<String>) -> ParseError {
        ParseError::new(self.input, Span::new(start, self.input.len()), message)
    }
}

fn arithmetic(c: char) -> Option<BinaryOp> {
    Some(match c {
        '+' => BinaryOp::Add,
        '-' => BinaryOp::Sub,
        '*' => BinaryOp::Mul,
        '/' => BinaryOp::Div,
        '%' => BinaryOp::Mod,
        '^' => BinaryOp::Pow,
        _ => return None,
    })
}

pub(crate) fn is_alpha(c: char) -> bool {
    c == '_' || c.is_ascii_alphabetic()
}

pub(crate) fn is_alphanumeric(c: char) -> bool {
    is_alpha(c) || c.is_ascii_digit()
}
