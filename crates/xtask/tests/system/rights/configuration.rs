//! Who may do what by `deploy/nats.conf`.

use std::collections::BTreeMap;
use std::{fmt, fs, iter};

use serde_json::{Map, Value};
use test_support::project_root;

use super::recorded::Recorded;

/// What a user may do.
#[derive(Debug, Default)]
pub(crate) struct Rights {
    pub(crate) publish: Vec<Right>,
    pub(crate) subscribe: Vec<Right>,
    /// Whether it may answer what it is asked, besides.
    pub(crate) responses: bool,
}

/// One subject that a user may use, with wildcards, and for a subscription perhaps the queue group
/// that it has to be in.
#[derive(Debug)]
pub(crate) struct Right {
    subject: String,
    queue: Option<String>,
}

impl Rights {
    /// Where this user published though no right of its own covers it.
    pub(crate) fn not_granted<'a>(&'a self, used: &'a Recorded) -> impl Iterator<Item = &'a str> {
        let published = used.published.iter().map(String::as_str);
        published.filter(|subject| !self.publish.iter().any(|right| right.covers(subject, "")))
    }
}

impl Right {
    fn of(entry: &Value) -> Self {
        let entry = entry.as_str().expect("a subject is a text");
        let (subject, queue) = entry
            .split_once(' ')
            .map_or((entry, None), |(subject, queue)| (subject, Some(queue)));
        Self {
            subject: subject.to_owned(),
            queue: queue.map(str::to_owned),
        }
    }

    /// Whether this lets one publish or subscribe to a subject, which may have wildcards itself, in
    /// a queue group, or in none if that is empty.
    pub(crate) fn covers(&self, subject: &str, queue: &str) -> bool {
        if self.queue.as_deref().is_some_and(|only| only != queue) {
            return false;
        }
        let mut tokens = subject.split('.');
        for granted in self.subject.split('.') {
            match (granted, tokens.next()) {
                (">", Some(_)) => return true,
                ("*", Some(token)) if token != ">" => {}
                (granted, Some(token)) if granted == token => {}
                _ => return false,
            }
        }
        tokens.next().is_none()
    }
}

/// As it stands in the file.
impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.subject)?;
        self.queue
            .iter()
            .try_for_each(|queue| write!(f, " {queue}"))
    }
}

/// The users of the account `JOBS`, by their names.
///
/// Panics on rights that are not given as lists of what is allowed: no other kind is understood
/// here.
pub(crate) fn read() -> BTreeMap<String, Rights> {
    let text = fs::read_to_string(project_root().join("deploy/nats.conf")).unwrap();
    let file = parse(&text);
    let users = file["accounts"]["JOBS"]["users"].as_array().unwrap();
    users.iter().map(rights).collect()
}

fn rights(user: &Value) -> (String, Rights) {
    let name = user["user"].as_str().unwrap().to_owned();
    let mut rights = Rights::default();
    for (what, value) in user["permissions"].as_object().unwrap() {
        let allowed = || {
            let value = value.as_object().unwrap();
            let (only, list) = value.iter().next().unwrap();
            assert!(value.len() == 1 && only == "allow", "{name}: {value:?}");
            list.as_array().unwrap().iter().map(Right::of).collect()
        };
        match what.as_str() {
            "publish" => rights.publish = allowed(),
            "subscribe" => rights.subscribe = allowed(),
            "allow_responses" => rights.responses = true,
            _ => panic!("{name} has a right that is not understood: {what}"),
        }
    }
    (name, rights)
}

/// Reads as much of the format as this file uses: a value is a text, a list or a map, and commas,
/// line breaks and the signs behind a key mean nothing.
fn parse(text: &str) -> Value {
    let mut tokens = tokens(text);
    let file = map(&mut tokens);
    assert!(tokens.next().is_none(), "the file has more than its maps");
    file
}

fn map(tokens: &mut dyn Iterator<Item = Token>) -> Value {
    let mut map = Map::new();
    while let Some(token) = tokens.next() {
        let key = match token {
            Token::Text(key) => key,
            Token::Sign('}') => break,
            Token::Sign(sign) => panic!("{sign} in place of a key"),
        };
        let twin = map.insert(key.clone(), value(tokens).expect("a key has a value"));
        assert!(twin.is_none(), "{key} is there twice");
    }
    Value::Object(map)
}

/// The next value; nothing at the end of a list.
fn value(tokens: &mut dyn Iterator<Item = Token>) -> Option<Value> {
    match tokens.next().expect("the file ends well") {
        Token::Text(text) => Some(Value::String(text)),
        Token::Sign('{') => Some(map(tokens)),
        Token::Sign('[') => Some(iter::from_fn(|| value(tokens)).collect()),
        Token::Sign(']') => None,
        Token::Sign(sign) => panic!("{sign} in place of a value"),
    }
}

#[derive(Debug, PartialEq)]
enum Token {
    Text(String),
    /// One of `{}[]`.
    Sign(char),
}

fn tokens(text: &str) -> impl Iterator<Item = Token> {
    const APART: [char; 3] = [',', ':', '='];
    let mut rest = text;
    iter::from_fn(move || {
        loop {
            rest = rest.trim_start_matches(|c: char| c.is_whitespace() || APART.contains(&c));
            match rest.strip_prefix('#') {
                Some(comment) => rest = comment.split_once('\n').map_or("", |(_, rest)| rest),
                None => break,
            }
        }
        let first = rest.chars().next()?;
        if let Some(quoted) = rest.strip_prefix('"') {
            let (text, behind) = quoted.split_once('"').expect("a text ends");
            assert!(!text.contains('\\'), "{text} has an escape");
            rest = behind;
            return Some(Token::Text(text.to_owned()));
        }
        if "{}[]".contains(first) {
            rest = &rest[1..];
            return Some(Token::Sign(first));
        }
        let is_end = |c: char| c.is_whitespace() || APART.contains(&c) || "{}[]#\"".contains(c);
        let (text, behind) = rest.split_at(rest.find(is_end).unwrap_or(rest.len()));
        rest = behind;
        Some(Token::Text(text.to_owned()))
    })
}

#[test]
fn a_right_covers_what_the_server_lets_through() {
    let right = |entry: &str| Right::of(&Value::from(entry));
    for (granted, subject, queue, covered) in [
        ("jobs.create", "jobs.create", "", true),
        ("jobs.create", "jobs.create.a", "", false),
        ("jobs.create.>", "jobs.create", "", false),
        ("jobs.create.>", "jobs.create.a.b", "", true),
        ("jobs.create.>", "jobs.create.>", "any", true),
        ("jobs.cancel.*", "jobs.cancel.1", "", true),
        ("jobs.cancel.*", "jobs.cancel.*", "", true),
        ("jobs.cancel.*", "jobs.cancel.>", "", false),
        ("jobs.cancel.*", "jobs.cancel.1.2", "", false),
        ("jobs.create workers", "jobs.create", "workers", true),
        ("jobs.create workers", "jobs.create", "", false),
    ] {
        let right = right(granted);
        assert_eq!(right.covers(subject, queue), covered, "{right}: {subject}");
    }
}

#[test]
fn the_file_is_read_with_its_comments_and_lists() {
    let file = parse("a: 1MB # b: 2\nc { d: [\"x y\", z\n { e = \"#,\" } ] }\nf: $G, h [ ]");
    let read = r##"{"a":"1MB","c":{"d":["x y","z",{"e":"#,"}]},"f":"$G","h":[]}"##;
    assert_eq!(file.to_string(), read);
}
