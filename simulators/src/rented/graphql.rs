//! A small reader of GraphQL documents: one operation with fields, arguments, aliases and variables. No fragments and no
//! directives; whoever sends them is told so.

use serde_json::{Map, Value};

/// A document's only operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// Whether it is a mutation.
    pub is_mutation: bool,
    /// Its name.
    pub name: Option<String>,
    /// Its variables, with their types as written: `String!`, `[MetricTag!]`.
    pub variables: Vec<(String, String)>,
    /// What it selects.
    pub fields: Vec<Field>,
}

/// A selected field.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// The name in the answer, where it differs.
    pub alias: Option<String>,
    /// The field's name.
    pub name: String,
    /// Its arguments.
    pub arguments: Vec<(String, Argument)>,
    /// What is selected of it; empty for scalars.
    pub fields: Vec<Field>,
}

/// The value of an argument.
#[derive(Clone, Debug, PartialEq)]
pub enum Argument {
    /// `$name`
    Variable(String),
    /// A string, a number, `true`, `false` or `null`.
    Literal(Value),
    /// A value of an enum.
    Enum(String),
    /// `[…]`
    List(Vec<Argument>),
    /// `{name: …}`
    Object(Vec<(String, Argument)>),
}

impl Field {
    /// Its name in the answer.
    pub fn key(&self) -> &str {
        self.alias.as_deref().unwrap_or(&self.name)
    }
}

impl Argument {
    /// The value, with variables put in; `None` if it is a variable that was left out.
    pub fn value(&self, variables: &Map<String, Value>) -> Option<Value> {
        match self {
            Self::Variable(name) => variables.get(name).cloned(),
            Self::Literal(value) => Some(value.clone()),
            Self::Enum(name) => Some(Value::from(name.as_str())),
            Self::List(items) => items.iter().map(|item| item.value(variables)).collect(),
            Self::Object(fields) => {
                let fields =
                    fields.iter().filter_map(|(name, value)| Some((name.clone(), value.value(variables)?)));
                Some(Value::Object(fields.collect()))
            }
        }
    }
}

/// Reads a document; the error says what is wrong.
pub fn parse(text: &str) -> Result<Operation, String> {
    let mut reader = Reader { tokens: tokens(text)?, at: 0 };
    let operation = reader.operation()?;
    match reader.peek() {
        None => Ok(operation),
        Some(token) => Err(format!("one operation is the most, but there is {token:?}")),
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Name(String),
    Mark(char),
    Literal(Value),
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let take = |fits: fn(char) -> bool| rest.find(|next| !fits(next)).unwrap_or(rest.len());
        let length = match first {
            ' ' | '\n' | '\r' | '\t' | ',' => 1,
            '#' => rest.find('\n').unwrap_or(rest.len()),
            '{' | '}' | '(' | ')' | '[' | ']' | ':' | '!' | '$' | '=' => {
                tokens.push(Token::Mark(first));
                1
            }
            '"' => {
                let end = rest[1..].find('"').ok_or("a string without an end")? + 2;
                let value = serde_json::from_str(&rest[..end]).map_err(|error| error.to_string())?;
                tokens.push(Token::Literal(value));
                end
            }
            '-' | '0'..='9' => {
                let end = take(|next| matches!(next, '-' | '+' | '.' | 'e' | 'E' | '0'..='9'));
                let value = serde_json::from_str(&rest[..end]).map_err(|error| error.to_string())?;
                tokens.push(Token::Literal(value));
                end
            }
            '_' | 'a'..='z' | 'A'..='Z' => {
                let end = take(|next| next == '_' || next.is_ascii_alphanumeric());
                tokens.push(Token::Name(rest[..end].to_owned()));
                end
            }
            other => return Err(format!("unexpected {other:?}")),
        };
        rest = &rest[length..];
    }
    Ok(tokens)
}

struct Reader {
    tokens: Vec<Token>,
    at: usize,
}

impl Reader {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Result<Token, String> {
        let token = self.peek().cloned().ok_or("the document ends too early")?;
        self.at += 1;
        Ok(token)
    }

    /// Takes a mark if it is next.
    fn takes(&mut self, mark: char) -> bool {
        let is_next = self.peek() == Some(&Token::Mark(mark));
        self.at += usize::from(is_next);
        is_next
    }

    fn mark(&mut self, mark: char) -> Result<(), String> {
        if self.takes(mark) { Ok(()) } else { Err(format!("expected {mark:?}, got {:?}", self.peek())) }
    }

    fn name(&mut self) -> Result<String, String> {
        match self.next()? {
            Token::Name(name) => Ok(name),
            other @ (Token::Mark(_) | Token::Literal(_)) => Err(format!("expected a name, got {other:?}")),
        }
    }

    fn operation(&mut self) -> Result<Operation, String> {
        let is_mutation = match self.name()?.as_str() {
            "query" => false,
            "mutation" => true,
            other => return Err(format!("expected query or mutation, got {other}")),
        };
        let name = if let Some(Token::Name(_)) = self.peek() { Some(self.name()?) } else { None };
        let mut variables = Vec::new();
        if self.takes('(') {
            while !self.takes(')') {
                self.mark('$')?;
                let name = self.name()?;
                self.mark(':')?;
                variables.push((name, self.kind()?));
            }
        }
        Ok(Operation { is_mutation, name, variables, fields: self.selection()? })
    }

    fn kind(&mut self) -> Result<String, String> {
        let mut text = if self.takes('[') {
            let inner = self.kind()?;
            self.mark(']')?;
            format!("[{inner}]")
        } else {
            self.name()?
        };
        if self.takes('!') {
            text.push('!');
        }
        Ok(text)
    }

    fn selection(&mut self) -> Result<Vec<Field>, String> {
        self.mark('{')?;
        let mut fields = Vec::new();
        while !self.takes('}') {
            fields.push(self.field()?);
        }
        if fields.is_empty() { Err("an empty selection".to_owned()) } else { Ok(fields) }
    }

    fn field(&mut self) -> Result<Field, String> {
        let first = self.name()?;
        let (alias, name) = if self.takes(':') { (Some(first), self.name()?) } else { (None, first) };
        let arguments = if self.takes('(') { self.pairs(')')? } else { Vec::new() };
        let fields = if self.peek() == Some(&Token::Mark('{')) { self.selection()? } else { Vec::new() };
        Ok(Field { alias, name, arguments, fields })
    }

    fn pairs(&mut self, end: char) -> Result<Vec<(String, Argument)>, String> {
        let mut pairs = Vec::new();
        while !self.takes(end) {
            let name = self.name()?;
            self.mark(':')?;
            pairs.push((name, self.argument()?));
        }
        Ok(pairs)
    }

    fn argument(&mut self) -> Result<Argument, String> {
        match self.next()? {
            Token::Mark('$') => Ok(Argument::Variable(self.name()?)),
            Token::Mark('{') => Ok(Argument::Object(self.pairs('}')?)),
            Token::Mark('[') => {
                let mut items = Vec::new();
                while !self.takes(']') {
                    items.push(self.argument()?);
                }
                Ok(Argument::List(items))
            }
            Token::Literal(value) => Ok(Argument::Literal(value)),
            Token::Name(name) => Ok(match name.as_str() {
                "true" => Argument::Literal(Value::Bool(true)),
                "false" => Argument::Literal(Value::Bool(false)),
                "null" => Argument::Literal(Value::Null),
                _ => Argument::Enum(name),
            }),
            Token::Mark(other) => Err(format!("expected a value, got {other:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_read() {
        let text = "query Q($a: [ID!]!, $b: In) { # why\n x: things(ids: $a, in: {k: [ONE, \"two\"], n: -1.5, o: $b}) { id } up }";
        let got = parse(text).unwrap();
        assert_eq!((got.is_mutation, got.name.as_deref()), (false, Some("Q")));
        assert_eq!(got.variables[0], ("a".to_owned(), "[ID!]!".to_owned()));
        assert_eq!((got.fields[0].key(), got.fields[0].name.as_str(), got.fields.len()), ("x", "things", 2));
        let variables = serde_json::json!({ "a": [7] });
        let variables = variables.as_object().unwrap();
        let value = |place: usize| got.fields[0].arguments[place].1.value(variables);
        assert_eq!(value(0), Some(serde_json::json!([7])));
        assert_eq!(value(1), Some(serde_json::json!({ "k": ["ONE", "two"], "n": -1.5 })));
    }

    #[test]
    fn what_is_no_document_is_refused() {
        for text in [
            "",
            "query",
            "{ x }",
            "query { }",
            "query { x(a 1) }",
            "query { x } query { y }",
            "query { ...F }",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
