use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Args, Command, CommandFactory};

use crate::{Cli, error::Error, output::Output};

/// Write the manual pages into a folder
#[derive(Debug, Args)]
#[command(hide = true)]
pub(crate) struct Man {
    /// The folder, which must exist
    folder: PathBuf,
    /// The date of the pages, like 2026-11-29
    date: String,
}

impl Man {
    pub(crate) fn exec(&self) -> Result<Output, Error> {
        let mut command = Cli::command().disable_help_subcommand(true);
        command.build();
        write_pages(&command, &self.folder, &self.date).map_err(Error::Print)?;
        Ok(Output::printed())
    }
}

/// Writes the page of a command, and those of its commands.
fn write_pages(command: &Command, folder: &Path, date: &str) -> io::Result<()> {
    for sub in shown(command) {
        write_pages(sub, folder, date)?;
    }
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    fs::write(folder.join(format!("{name}.8")), page(command, name, date)?)
}

/// The commands that are not hidden.
fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|sub| !sub.is_hide_set())
}

fn page(command: &Command, name: &str, date: &str) -> io::Result<String> {
    let man = clap_mangen::Man::new(command.clone())
        .title(name.to_uppercase())
        .section("8")
        .date(date)
        .source(format!("byway {}", env!("CARGO_PKG_VERSION")))
        .manual("System Administration");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if shown(command).next().is_some() {
        man.render_subcommands_section(&mut page)?;
    }
    // Before the possible values of a word there is more space than mandoc(1) likes.
    let mut page = String::from_utf8_lossy(&page).replace(".br\n\n.br\n", ".sp\n");
    if let Some(help) = command.get_after_help() {
        page += &sections(&help.to_string());
    }
    let others = if name == "byway" { "" } else { ".BR byway (8),\n" };
    page += &format!(".SH SEE ALSO\n{others}.BR byway.toml (5)\n");
    Ok(page)
}

/// The text after the options, as sections. Lines that are indented stay as they are.
fn sections(help: &str) -> String {
    let mut page = String::new();
    let mut is_verbatim = false;
    // A paragraph begins, unless a section does.
    let mut is_new = false;
    for line in help.lines() {
        let (indented, text) = match line.strip_prefix("  ") {
            Some(text) => (true, text),
            None => (false, line),
        };
        if is_verbatim && !indented {
            page += ".RE\n.fi\n";
            is_verbatim = false;
        }
        let section = match text {
            "" => {
                is_new = true;
                continue;
            }
            "Examples:" => Some("EXAMPLES"),
            text if text.starts_with("Exit codes:") => Some("EXIT STATUS"),
            _ if page.is_empty() => Some("NOTES"),
            _ => None,
        };
        if let Some(section) = section {
            page += &format!(".SH {section}\n");
            is_new = false;
        }
        if text == "Examples:" {
            continue;
        }
        if is_new {
            page += ".PP\n";
            is_new = false;
        }
        if indented && !is_verbatim {
            page += ".nf\n.RS 4\n";
            is_verbatim = true;
        }
        page += &format!("{}\n", escaped(text));
    }
    if is_verbatim {
        page += ".RE\n.fi\n";
    }
    page
}

/// The text without what groff_man(7) takes for a request or an escape.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_stay_as_they_are() {
        let page = sections("They count.\n\nExamples:\n  byway show --watch\n\nExit codes: 0 done");
        assert_eq!(
            page,
            ".SH NOTES\nThey count.\n.SH EXAMPLES\n.nf\n.RS 4\nbyway show \\-\\-watch\n.RE\n.fi\n.SH EXIT STATUS\nExit codes: 0 done\n"
        );
    }
}
