//! One stream of lines from many processes.

use std::env;
use std::io::{self, IsTerminal as _, Write};

/// The colours of the prefixes, as in codes of terminals; each process has one of its own as long
/// as they last.
const COLOURS: [&str; 10] = ["36", "33", "32", "35", "34", "96", "93", "92", "95", "94"];

/// Writes lines, each behind the name of the process that it came from.
///
/// There is one writer, so no line is ever cut by another.
pub(crate) struct Printer<W> {
    out: W,
    prefixes: Vec<String>,
}

impl Printer<io::Stdout> {
    /// Writes to standard output; coloured if that is a terminal and nobody asked for no colour.
    pub(crate) fn to_stdout(names: &[String]) -> Self {
        let out = io::stdout();
        let no_colour = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colours = out.is_terminal() && !no_colour;
        Self::new(out, names, colours)
    }
}

impl<W: Write> Printer<W> {
    fn new(out: W, names: &[String], colours: bool) -> Self {
        let width = names.iter().map(String::len).max().unwrap_or(0);
        let prefix = |(index, name): (usize, &String)| {
            let prefix = format!("{name:width$}  | ");
            if colours {
                format!("\x1b[{}m{prefix}\x1b[0m", COLOURS[index % COLOURS.len()])
            } else {
                prefix
            }
        };
        Self {
            out,
            prefixes: names.iter().enumerate().map(prefix).collect(),
        }
    }

    /// Writes a line of the process with this index in the list of names.
    pub(crate) fn line(&mut self, process: usize, line: &[u8]) -> io::Result<()> {
        let parts = [self.prefixes[process].as_bytes(), line, b"\n"];
        self.write(&parts.concat())
    }

    /// Writes a line of our own, without a prefix.
    pub(crate) fn say(&mut self, line: &str) -> io::Result<()> {
        self.write(format!("{line}\n").as_bytes())
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        self.out.write_all(line)?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        ["nats", "consumer_1", "status-service"]
            .map(str::to_owned)
            .into()
    }

    fn print(colours: bool) -> String {
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, &names(), colours);
        printer.line(0, b"ready").unwrap();
        printer.line(1, b"job \xff done").unwrap();
        printer.line(2, b"").unwrap();
        printer.say("stopping").unwrap();
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn prefixes_are_aligned() {
        assert_eq!(
            print(false),
            "nats            | ready\n\
             consumer_1      | job \u{fffd} done\n\
             status-service  | \n\
             stopping\n"
        );
    }

    #[test]
    fn prefixes_alone_are_coloured() {
        let text = print(true);
        assert!(
            text.starts_with("\x1b[36mnats            | \x1b[0mready\n"),
            "{text:?}"
        );
        assert!(text.ends_with("stopping\n"), "{text:?}");
    }
}
