use clap::{Args, ValueEnum};

use super::answer;
use crate::{error::Error, options::Options, output::Output};

/// Print the completions for a shell
///
/// They complete commands, options and the words of rules, and what this host has: interfaces, groups, next hops, and
/// sources of rules. A package installs them by itself.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  byway completion bash > /etc/bash_completion.d/byway
  byway completion zsh > /usr/local/share/zsh/site-functions/_byway
  byway completion fish > /etc/fish/completions/byway.fish")]
pub(crate) struct Completion {
    /// The shell
    #[arg(value_name = "bash|zsh|fish")]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Completion {
    pub(crate) fn exec(&self, options: &Options) -> Result<Output, Error> {
        let script = match self.shell {
            Shell::Bash => include_str!("../../../../packaging/completions/byway.bash"),
            Shell::Zsh => include_str!("../../../../packaging/completions/byway.zsh"),
            Shell::Fish => include_str!("../../../../packaging/completions/byway.fish"),
        };
        answer::stream(options, |out| {
            std::io::Write::write_all(out, script.as_bytes()).map_err(Error::Print)
        })?;
        Ok(Output::printed())
    }
}
