//! Finds Debian's kernel packages in the machine's own apt sources, or in neighbouring suites of the same
//! mirrors, and unpacks them. Nothing of it is installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::run;

/// Suites that carry kernels which the machine's own release lacks: the suite's name, and whether it lives on the
/// mirror of the security updates.
const OTHER_SUITES: [(&str, bool); 2] = [("bullseye-security", true), ("trixie-backports", false)];

/// The flavour for virtual machines: small, with all that a network test needs.
const FLAVOUR: &str = "-cloud-amd64";

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

const MEND: &str = "Kernels come from the Debian mirrors in this machine's apt sources: see that `apt-get update` \
                    works, and that the package debian-archive-keyring is up to date.";

/// An unpacked kernel package.
pub(crate) struct Kernel {
    /// What `uname -r` says in it.
    pub(crate) release: String,
    pub(crate) image: PathBuf,
    /// The folder whose `lib/modules` holds the modules.
    pub(crate) base: PathBuf,
}

/// Finds and unpacks the newest package of a version ("6.1", or "newest") into the cache.
pub(crate) fn fetch(version: &str, cache: &Path) -> Result<Kernel> {
    fs::create_dir_all(cache).with_context(|| format!("creating {}", cache.display()))?;
    let mut sources = vec![Apt { config: None }];
    let mut best: Option<(String, Apt)> = None;
    let mut other = OTHER_SUITES.iter();
    loop {
        for source in sources.drain(..) {
            let Some(package) = source.newest(version)? else { continue };
            if best.as_ref().is_none_or(|(known, _)| numbers(&package) > numbers(known)) {
                best = Some((package, source));
            }
        }
        // A named version is the machine's own, if that has it; the newest may be anywhere.
        if best.is_some() && version != "newest" {
            break;
        }
        let Some((suite, security)) = other.next() else { break };
        sources.push(Apt::suite(suite, *security, cache)?);
    }
    let Some((mut package, source)) = best else {
        bail!(
            "no package linux-image-{version}…{FLAVOUR} in this machine's apt sources or their neighbours\n{MEND}"
        )
    };

    if !cache.join(&package).is_dir() && source.unpack(&package, cache).is_err() {
        // The lists name what the mirror has replaced since.
        source.update();
        package = source.newest(version)?.unwrap_or(package);
        source.unpack(&package, cache)?;
    }
    Kernel::in_folder(&cache.join(&package))
}

impl Kernel {
    /// Looks at what a package brought, and lists the modules' dependencies as its installation would have done.
    fn in_folder(folder: &Path) -> Result<Kernel> {
        let bases = [folder.to_owned(), folder.join("usr")];
        for base in bases {
            let Ok(mut modules) = fs::read_dir(base.join("lib/modules")) else { continue };
            let Some(Ok(entry)) = modules.next() else { continue };
            let release = entry.file_name().to_string_lossy().into_owned();
            let images = [folder.join(format!("boot/vmlinuz-{release}")), entry.path().join("vmlinuz")];
            let Some(image) = images.into_iter().find(|image| image.is_file()) else { continue };
            if !entry.path().join("modules.dep").is_file() {
                run::output(Command::new("depmod").arg("-b").arg(&base).arg(&release), "")?;
            }
            return Ok(Kernel { release, image, base });
        }
        bail!("there is no kernel in {}: delete that folder", folder.display())
    }
}

/// apt, on the machine's own sources or, with a configuration file, on others beside them.
struct Apt {
    config: Option<PathBuf>,
}

impl Apt {
    /// apt on another suite of the machine's mirrors, with lists of its own so that the machine's stay as they are.
    fn suite(suite: &str, security: bool, cache: &Path) -> Result<Apt> {
        let folder = cache.join("apt").join(suite);
        let lists = folder.join("lists");
        for needed in [lists.join("partial"), folder.join("cache/archives/partial")] {
            fs::create_dir_all(&needed).with_context(|| format!("creating {}", needed.display()))?;
        }
        let mirror = mirror(security)?;
        // A machine's sources may be signed for its own release only.
        let signed =
            if Path::new(KEYRING).is_file() { format!(" signed-by={KEYRING}") } else { String::new() };
        let sources = folder.join("sources.list");
        let config = folder.join("apt.conf");
        // An old suite's lists may have run out; a kernel to test on may be old.
        let settings = format!(
            "Dir::Etc::sourcelist \"{}\";\n\
             Dir::Etc::sourceparts \"/dev/null\";\n\
             Dir::Etc::preferences \"/dev/null\";\n\
             Dir::Etc::preferencesparts \"/dev/null\";\n\
             Dir::State::lists \"{}\";\n\
             Dir::Cache \"{}\";\n\
             Acquire::Check-Valid-Until \"false\";\n",
            sources.display(),
            lists.display(),
            folder.join("cache").display()
        );
        let source = format!("deb [arch=amd64 target=Packages{signed}] {mirror} {suite} main\n");
        for (file, text) in [(&sources, source), (&config, settings)] {
            fs::write(file, text).with_context(|| format!("writing {}", file.display()))?;
        }
        Ok(Apt { config: Some(config) })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        if let Some(config) = &self.config {
            command.env("APT_CONFIG", config);
        }
        // apt's unprivileged user cannot read or write below the target folder.
        command.args(["-o", "APT::Sandbox::User=root"]);
        command
    }

    /// Fetches the lists anew. A failure is no matter: another source's may be the one that is needed.
    fn update(&self) {
        let _ = run::output(self.command("apt-get").arg("update"), MEND);
    }

    /// The newest kernel package of a version, with fresh lists where the present ones have none.
    fn newest(&self, version: &str) -> Result<Option<String>> {
        if let Some(package) = self.newest_listed(version)? {
            return Ok(Some(package));
        }
        self.update();
        self.newest_listed(version)
    }

    fn newest_listed(&self, version: &str) -> Result<Option<String>> {
        let names = run::output(self.command("apt-cache").args(["pkgnames", "linux-image-"]), MEND)?;
        let matching = names.lines().filter(|name| is_kernel(name, version));
        Ok(matching.max_by_key(|name| numbers(name)).map(str::to_owned))
    }

    /// Downloads a kernel and unpacks it into a folder of its package's name.
    fn unpack(&self, package: &str, cache: &Path) -> Result<()> {
        eprintln!("fetching {package}");
        let scratch = tempfile::tempdir_in(cache).context("creating a folder for the download")?;
        let (debs, unpacked) = (scratch.path().join("debs"), scratch.path().join("unpacked"));
        fs::create_dir(&debs).context("creating a folder for the download")?;
        let mut download = self.command("apt-get");
        run::output(download.arg("download").args(self.parts(package)?).current_dir(&debs), MEND)?;
        for deb in fs::read_dir(&debs).context("reading the folder of the download")? {
            let deb = deb.context("reading the folder of the download")?.path();
            run::output(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&unpacked), "")?;
        }
        fs::rename(&unpacked, cache.join(package)).context("moving the unpacked kernel into the cache")?;
        Ok(())
    }

    /// The packages that make up a kernel: newer ones keep image and modules in packages of the same version that the
    /// first depends on.
    fn parts(&self, package: &str) -> Result<Vec<String>> {
        let version = package.strip_prefix("linux-image").unwrap_or(package);
        let depends = run::output(self.command("apt-cache").args(["depends", package]), MEND)?;
        let parts = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        let parts = parts.filter(|part| part.ends_with(version)).map(str::to_owned);
        Ok(parts.chain([package.to_owned()]).collect())
    }
}

/// The code name of this machine's release of Debian.
pub(crate) fn codename() -> Result<String> {
    let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let codename = system.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    codename.map(str::to_owned).context("/etc/os-release names no release of Debian")
}

/// The mirror that the machine's own release comes from.
pub(crate) fn mirror(security: bool) -> Result<String> {
    let format = "$(REPO_URI) $(RELEASE) $(COMPONENT)";
    let targets = run::output(
        Command::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]),
        MEND,
    )?;
    let codename = codename()?;
    let wanted = if security { format!("{codename}-security") } else { codename };
    let found = targets.lines().find_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
        [uri, release, "main"] if release == wanted => Some(uri.to_owned()),
        _ => None,
    });
    found.with_context(|| format!("this machine's apt sources have no mirror of {wanted} main"))
}

/// Whether a package is a kernel of that version and of the flavour, and not a meta-package.
fn is_kernel(package: &str, version: &str) -> bool {
    let name = package.strip_prefix("linux-image-").and_then(|rest| rest.strip_suffix(FLAVOUR));
    let Some(name) = name else { return false };
    let matches = version == "newest"
        || name.strip_prefix(version).is_some_and(|rest| rest.starts_with(['.', '-', '+']));
    matches && name.starts_with(|first: char| first.is_ascii_digit()) && numbers(name).len() > 2
}

/// The numbers in a package's name, which order it among its kind: 6.1.0-9 comes before 6.1.0-10.
fn numbers(name: &str) -> Vec<u32> {
    let name = name.strip_suffix(FLAVOUR).unwrap_or(name);
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_matches_its_own_kernels_only() {
        assert!(is_kernel("linux-image-6.1.0-56-cloud-amd64", "6.1"));
        assert!(is_kernel("linux-image-6.12.9+deb12-cloud-amd64", "6.12"));
        assert!(is_kernel("linux-image-6.12.9+deb12-cloud-amd64", "newest"));
        for (package, version) in [
            ("linux-image-6.12.9+deb12-cloud-amd64", "6.1"),
            ("linux-image-6.1.0-56-cloud-amd64-dbg", "6.1"),
            ("linux-image-6.1.0-56-amd64", "6.1"),
            ("linux-image-6.12-cloud-amd64", "6.12"),
            ("linux-image-6.12-cloud-amd64", "newest"),
            ("linux-image-cloud-amd64", "newest"),
        ] {
            assert!(!is_kernel(package, version), "{package} is not a kernel {version}");
        }
    }

    #[test]
    fn kernels_are_ordered_by_number() {
        assert!(numbers("linux-image-6.1.0-10-cloud-amd64") > numbers("linux-image-6.1.0-9-cloud-amd64"));
        assert!(
            numbers("linux-image-6.12.9+deb12-cloud-amd64") > numbers("linux-image-6.1.0-56-cloud-amd64")
        );
    }
}
