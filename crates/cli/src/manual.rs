//! Prints the completions for shells and the manual page.

use std::io::{self, Write as _};

use anyhow::Context as _;
use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::command::Config;
use crate::complete;
use crate::tool::TOOL;

pub(crate) fn completions(shell: Shell) -> anyhow::Result<bool> {
    write(&complete::script(shell)?)
}

/// One page: the command, then each subcommand with its own options.
pub(crate) fn page() -> anyhow::Result<bool> {
    let command = TOOL.command::<Config>();
    // Otherwise the page would show options that the short help hides, but without their text.
    let whole = command.clone().mut_args(|arg| arg.hide_short_help(false));
    let man = Man::new(whole.override_usage("jobs [OPTIONS] <COMMAND>"));
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    for render in [
        Man::render_name_section,
        Man::render_synopsis_section,
        Man::render_description_section,
        Man::render_options_section,
    ] {
        page.extend(own_lines(|text| render(&man, text))?.bytes());
    }
    for subcommand in command.get_subcommands() {
        section(TOOL.name, subcommand, &mut page)?;
    }
    write(&page)
}

fn section(parent: &str, command: &Command, page: &mut Vec<u8>) -> anyhow::Result<()> {
    let name = format!("{parent} {}", command.get_name());
    let own = command.clone().bin_name(&name);
    let man = Man::new(own);
    let has_options = command.get_arguments().next().is_some();
    let text = own_lines(|text| {
        man.render_synopsis_section(text)?;
        man.render_description_section(text)?;
        if has_options {
            man.render_options_section(text)?;
        }
        Ok(())
    })?;
    // Each command is a section of the page, so its own sections become subsections.
    let text = text.replace("\n.SH ", "\n.SS ");
    let text = text
        .strip_prefix(".SH ")
        .map_or(text.clone(), |rest| format!(".SS {rest}"));
    writeln!(page, ".SH \"{}\"", name.to_uppercase())?;
    page.extend(text.bytes());
    for subcommand in command.get_subcommands() {
        section(&name, subcommand, page)?;
    }
    Ok(())
}

/// The rendered text without the lines that define an apostrophe: each part begins with them, but the
/// page must have them only once.
fn own_lines(render: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> anyhow::Result<String> {
    let mut text = Vec::new();
    render(&mut text)?;
    let text = String::from_utf8(text)?;
    let own = |line: &&str| !line.starts_with(".ie ") && !line.starts_with(".el ");
    Ok(text.split_inclusive('\n').filter(own).collect())
}

fn write(text: &[u8]) -> anyhow::Result<bool> {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(text).and_then(|()| stdout.flush());
    written.context("cannot write to standard output")?;
    Ok(true)
}
