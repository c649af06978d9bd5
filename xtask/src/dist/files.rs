//! The files of the packages, and where each belongs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{
    Release,
    binary::target,
    components,
    page::{self, Head},
};
use crate::{run, workspace::Workspace};

/// A file of a package.
pub(super) struct File {
    /// Where it belongs, without the slash at the beginning.
    pub(super) path: String,
    pub(super) mode: u32,
    pub(super) bytes: Vec<u8>,
}

/// The files in the repository that are packaged as they are.
const SCRIPTS: &[(&str, &str)] = &[
    ("packaging/hooks/network-changed", "usr/libexec/byway/network-changed"),
    ("packaging/hooks/networkmanager", "usr/lib/NetworkManager/dispatcher.d/90-byway"),
    ("packaging/hooks/networkd-dispatcher", "usr/lib/networkd-dispatcher/carrier.d/50-byway"),
    ("packaging/hooks/networkd-dispatcher", "usr/lib/networkd-dispatcher/degraded.d/50-byway"),
    ("packaging/hooks/networkd-dispatcher", "usr/lib/networkd-dispatcher/routable.d/50-byway"),
    ("packaging/hooks/ifupdown", "etc/network/if-up.d/byway"),
];
const PLAIN: &[(&str, &str)] = &[
    ("packaging/byway.toml", "etc/byway/byway.toml"),
    ("packaging/byway.service", "usr/lib/systemd/system/byway.service"),
    ("packaging/byway-agent.service", "usr/lib/systemd/system/byway-agent.service"),
    ("packaging/completions/byway.bash", "usr/share/bash-completion/completions/byway"),
    ("packaging/completions/byway.zsh", "usr/share/zsh/vendor-completions/_byway"),
    ("packaging/completions/byway.fish", "usr/share/fish/vendor_completions.d/byway.fish"),
];
/// The folders of the pages and their charts, and of the examples, each with where its files belong in the package's folder of
/// documents.
const DOCUMENTS: &[(&str, &str)] =
    &[("docs", ""), ("docs/performance", "performance/"), ("examples", "examples/")];

/// Reads and makes all files.
pub(super) fn all(workspace: &Workspace, release: &Release, binary: &Path, out: &Path) -> Result<Vec<File>> {
    let repository = |path: &str| read(&workspace.root.join(path));
    let mut files = Vec::new();
    let mut add = |path: String, mode: u32, bytes: Vec<u8>| files.push(File { path, mode, bytes });
    add("usr/bin/byway".to_owned(), 0o755, read(binary)?);
    for (from, to) in SCRIPTS {
        add((*to).to_owned(), 0o755, repository(from)?);
    }
    for (from, to) in PLAIN {
        add((*to).to_owned(), 0o644, repository(from)?);
    }
    let doc = |name: &str| format!("usr/share/doc/byway/{name}");
    for (folder, to) in DOCUMENTS {
        for file in listed(&workspace.root.join(folder))?.into_iter().filter(|file| file.is_file()) {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let bytes = match name.ends_with(".md") {
                true => with_links(&String::from_utf8(read(&file)?)?).into_bytes(),
                false => read(&file)?,
            };
            add(doc(&format!("{to}{name}")), 0o644, bytes);
        }
    }

    let components = components::find(workspace, &target(&release.machine))?;
    let bill = components::bill(&components, release.version, &release.time("+%FT%TZ")?);
    let licences = components::licences(&components)?;
    add(doc("changelog.gz"), 0o644, zipped(&repository("CHANGELOG.md")?, out)?);
    add(doc("byway.cdx.json.gz"), 0o644, zipped(bill.as_bytes(), out)?);
    add(doc("third-party-licences.gz"), 0o644, zipped(licences.as_bytes(), out)?);
    let copyright = String::from_utf8(repository("packaging/copyright")?)?;
    let mit = String::from_utf8(repository("LICENSE-MIT")?)?;
    add(doc("copyright"), 0o644, copyright.replace("@MIT@", &indented(&mit)).into_bytes());

    for page in manual(workspace, release, out)? {
        let name = page.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let section = name.rsplit('.').next().unwrap_or_default();
        add(format!("usr/share/man/man{section}/{name}.gz"), 0o644, zipped(&read(&page)?, out)?);
    }
    // The bill is for others as well, without unpacking anything.
    fs::write(out.join(format!("byway-{}.cdx.json", release.version)), bill)?;
    Ok(files)
}

/// Writes the manual pages, and lets mandoc(1) look for mistakes in them.
fn manual(workspace: &Workspace, release: &Release, out: &Path) -> Result<Vec<PathBuf>> {
    let folder = out.join("man");
    fs::create_dir_all(&folder)?;
    let date = release.time("+%F")?;
    // Without the demo, as in the binary that is packaged.
    let mut cargo = workspace.cargo();
    cargo.args([
        "run",
        "--quiet",
        "--locked",
        "--package",
        "byway-cli",
        "--no-default-features",
        "--features",
        "man",
    ]);
    run::visibly(cargo.args(["--", "man"]).arg(&folder).arg(&date), "")?;
    let head = Head {
        name: "byway.toml",
        section: 5,
        about: "the configuration of byway",
        manual: "File Formats",
        date: &date,
        source: &format!("byway {}", release.version),
        see_also: &[("byway", 8), ("byway-apply", 8), ("byway-check", 8), ("byway-diff", 8)],
    };
    let configuration = String::from_utf8(read(&workspace.root.join("docs/configuration.md"))?)?;
    fs::write(folder.join("byway.toml.5"), page::page(&head, &configuration))?;
    let pages = listed(&folder)?;
    // References to its own pages are looked for among those that are installed: those are messages of style.
    run::output(
        Command::new("mandoc").args(["-Tlint", "-Wwarning"]).args(&pages),
        "mandoc(1) finds fault with a manual page.",
    )?;
    Ok(pages)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// What is in a folder, by name.
fn listed(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || format!("reading {}", folder.display());
    let entries: std::io::Result<Vec<_>> = fs::read_dir(folder).with_context(read)?.collect();
    let mut paths: Vec<PathBuf> = entries.with_context(read)?.iter().map(fs::DirEntry::path).collect();
    paths.sort();
    Ok(paths)
}

/// The bytes as `gzip -n` packs them: without a name and a time.
fn zipped(bytes: &[u8], out: &Path) -> Result<Vec<u8>> {
    let file = out.join("zipped");
    fs::write(&file, bytes)?;
    run::output(Command::new("gzip").args(["-n", "-9", "--force"]).arg(&file), "")?;
    let zipped = file.with_extension("gz");
    let bytes = read(&zipped)?;
    fs::remove_file(&zipped)?;
    Ok(bytes)
}

/// A page whose links lead from where it is in a package: those to the rest of the repository lead nowhere there, and become
/// plain text.
fn with_links(page: &str) -> String {
    let mut text = String::with_capacity(page.len());
    let mut rest = page;
    while let Some((before, after)) = rest.split_once("](../") {
        let (target, behind) = after.split_once(')').unwrap_or((after, ""));
        match before.rfind('[').filter(|_| !target.starts_with("examples")) {
            Some(start) => text += &[&before[..start], &before[start + 1..]].concat(),
            None => text += &format!("{before}]({target})"),
        }
        rest = behind;
    }
    text + rest
}

/// The text as a field of Debian's copyright file.
fn indented(text: &str) -> String {
    let lines: Vec<String> = text
        .trim()
        .lines()
        .map(|line| if line.is_empty() { " .".to_owned() } else { format!(" {line}") })
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    #[test]
    fn all_that_is_packaged_is_there() {
        for (path, _) in SCRIPTS.iter().chain(PLAIN) {
            assert!(root().join(path).is_file(), "{path}");
        }
    }

    #[test]
    fn links_of_a_packaged_page_lead_to_packaged_files() {
        let packaged = |folder: &str| -> Vec<String> {
            let files = listed(&root().join(folder)).expect("it is a folder");
            let names = files.iter().filter(|file| file.is_file()).map(|file| file.file_name());
            names.map(|name| name.expect("it has a name").to_string_lossy().into_owned()).collect()
        };
        let mut all: Vec<String> = vec!["examples".to_owned()];
        for (folder, to) in DOCUMENTS {
            all.extend(packaged(folder).into_iter().map(|name| format!("{to}{name}")));
        }
        let mut links = 0;
        for page in packaged("docs") {
            let text = fs::read_to_string(root().join("docs").join(&page)).expect("it is there");
            for link in with_links(&text).split("](").skip(1) {
                let target = link.split([')', '#']).next().unwrap_or("");
                if !target.is_empty() && !target.contains("://") {
                    assert!(all.iter().any(|it| it == target), "{page} leads to {target}");
                    links += 1;
                }
            }
        }
        assert!(links > 50, "{links}");
        assert_eq!(with_links("a [b](../c.md) [d](../examples/e)"), "a b [d](examples/e)");
    }

    /// What a package installs changes nothing. Without the signs of comments it is an example.
    #[test]
    fn the_installed_configuration_says_nothing() {
        let text = fs::read_to_string(root().join("packaging/byway.toml")).expect("it is there");
        let folder = tempfile::tempdir().expect("there is room");
        // Prose has a space behind the `#`.
        let example: String = text
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(key) if key.starts_with(|it: char| it == '[' || it.is_ascii_lowercase()) => {
                    format!("{key}\n")
                }
                _ => format!("{line}\n"),
            })
            .collect();
        for (name, text, rules) in [("installed", &text, 0), ("example", &example, 1)] {
            let path = folder.path().join(format!("{name}.toml"));
            fs::write(&path, text).expect("there is room");
            let reading = byway::read_config(&path).expect("it can be read");
            assert!(reading.problems.is_empty(), "{name}: {:?}", reading.problems);
            assert_eq!(reading.config.map(|it| it.rule_count()), Some(rules), "{name}");
        }
        assert!(text.lines().all(|line| line.is_empty() || line.starts_with('#')));
    }
}
