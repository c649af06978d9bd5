//! Packages out of files: .deb, .rpm, a tarball and an image.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{
    Release,
    archive::{lay_out, open_folders, tar, write},
    binary::debian_architecture,
    files::File,
    image,
};
use crate::{run, workspace::Workspace};

/// Builds them all, and returns the .deb.
pub(super) fn build(workspace: &Workspace, release: &Release, files: &[File], out: &Path) -> Result<PathBuf> {
    let packaging = workspace.root.join("packaging");
    for service in ["byway.service", "byway-agent.service"] {
        let service = packaging.join(service);
        // It looks for the command and the pages on this machine, so only what it says about the file counts.
        run::output(
            Command::new("systemd-analyze")
                .args(["security", "--offline=true", "--threshold=25"])
                .arg(&service),
            "",
        )?;
    }
    tarball(release, files, out)?;
    let deb = deb(&packaging.join("debian"), release, files, out)?;
    rpm(&packaging.join("rpm"), release, files, out)?;
    image::image(release, files, out)?;
    for folder in ["man", "tree", "rpm"] {
        fs::remove_dir_all(out.join(folder)).with_context(|| format!("removing {folder}"))?;
    }
    let sums = run::output(Command::new("sh").current_dir(out).args(["-c", "sha256sum byway*"]), "")?;
    fs::write(out.join("SHA256SUMS"), sums)?;
    Ok(deb)
}

fn tarball(release: &Release, files: &[File], out: &Path) -> Result<()> {
    let name = format!("byway-{}-{}-linux", release.version, release.machine);
    lay_out(files.iter().map(|it| (it.path.as_str(), it)), &out.join("tree").join(&name))?;
    let file = out.join(format!("{name}.tar.gz"));
    tar(release, &out.join("tree"), &name, &file, Some("gzip -n9"))
}

fn deb(packaging: &Path, release: &Release, files: &[File], out: &Path) -> Result<PathBuf> {
    let tree = out.join("tree");
    lay_out(files.iter().map(|it| (it.path.as_str(), it)), &tree)?;
    let read =
        |name: &str| fs::read_to_string(packaging.join(name)).with_context(|| format!("reading {name}"));
    let doc = tree.join("usr/share/doc/byway");
    let entry = format!(
        "byway ({}-1) unstable; urgency=medium\n\n  * What changes is in changelog.gz.\n\n -- {}  {}\n",
        release.version,
        release.maintainer,
        release.time("--rfc-email")?
    );
    write(&doc.join("changelog.Debian"), 0o644, entry.as_bytes())?;
    run::output(Command::new("gzip").args(["-n", "-9"]).arg(doc.join("changelog.Debian")), "")?;
    write(&tree.join("usr/share/lintian/overrides/byway"), 0o644, read("lintian-overrides")?.as_bytes())?;

    let sums = "find . -type f ! -path './DEBIAN/*' -printf '%P\\0' | sort -z | xargs -0 md5sum";
    let sums = run::output(Command::new("sh").current_dir(&tree).args(["-c", sums]), "")?;
    let size: u64 = files.iter().map(|it| it.bytes.len() as u64).sum();
    let control = read("control")?
        .replace("@VERSION@", release.version)
        .replace("@DEB_ARCH@", debian_architecture(&release.machine))
        .replace("@MAINTAINER@", &release.maintainer)
        .replace("@SIZE@", &size.div_ceil(1024).to_string());
    let debian = tree.join("DEBIAN");
    write(&debian.join("control"), 0o644, control.as_bytes())?;
    write(&debian.join("md5sums"), 0o644, sums.as_bytes())?;
    write(&debian.join("conffiles"), 0o644, read("conffiles")?.as_bytes())?;
    for script in ["postinst", "prerm", "postrm"] {
        write(&debian.join(script), 0o755, read(script)?.as_bytes())?;
    }
    open_folders(&tree)?;
    let mut dpkg = Command::new("dpkg-deb");
    dpkg.args(["--root-owner-group", "-Zxz", "--build"]).env("SOURCE_DATE_EPOCH", &release.epoch);
    run::output(dpkg.arg(&tree).arg(out), "")?;
    let package =
        out.join(format!("byway_{}-1_{}.deb", release.version, debian_architecture(&release.machine)));
    run::visibly(
        Command::new("lintian").args(["--allow-root", "--fail-on", "error,warning"]).arg(&package),
        "lintian(1) finds fault with the package.",
    )?;
    Ok(package)
}

/// Where Fedora's zsh looks, as opposed to Debian's.
const ZSH: (&str, &str) = ("usr/share/zsh/vendor-completions/", "usr/share/zsh/site-functions/");

fn rpm(packaging: &Path, release: &Release, files: &[File], out: &Path) -> Result<()> {
    let tree = out.join("tree");
    // ifupdown is Debian's.
    let files: Vec<(String, &File)> = files
        .iter()
        .filter(|it| !it.path.starts_with("etc/network/"))
        .map(|it| (it.path.replace(ZSH.0, ZSH.1), it))
        .collect();
    lay_out(files.iter().map(|(path, file)| (path.as_str(), *file)), &tree)?;
    let list: String = files.iter().map(|(path, _)| format!("{}\"/{path}\"\n", kind(path))).collect();
    let list = format!(
        "%defattr(-,root,root)\n%dir /etc/byway\n%dir /usr/libexec/byway\n%dir /usr/share/doc/byway\n%dir /usr/share/doc/byway/examples\n{list}"
    );
    let folder = out.join("rpm");
    write(&folder.join("files"), 0o644, list.as_bytes())?;
    let spec = fs::read_to_string(packaging.join("byway.spec")).context("reading byway.spec")?;
    let spec = spec
        .replace("@VERSION@", release.version)
        .replace("@TREE@", &tree.display().to_string())
        .replace("@FILES@", &folder.join("files").display().to_string());
    write(&folder.join("byway.spec"), 0o644, spec.as_bytes())?;

    let mut rpmbuild = Command::new("rpmbuild");
    rpmbuild.args(["-bb", "--target", &release.machine]).env("SOURCE_DATE_EPOCH", &release.epoch);
    for (name, value) in [
        ("_topdir", folder.display().to_string().as_str()),
        ("_rpmdir", &out.display().to_string()),
        ("_rpmfilename", "%{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}.rpm"),
        ("_buildhost", "byway"),
        ("_binary_payload", "w9.xzdio"),
        ("use_source_date_epoch_as_buildtime", "1"),
        ("clamp_mtime_to_source_date_epoch", "1"),
        ("_build_id_links", "none"),
    ] {
        rpmbuild.arg("--define").arg(format!("{name} {value}"));
    }
    run::output(rpmbuild.arg(folder.join("byway.spec")), "")?;
    Ok(())
}

/// What rpm(8) has to know about a file.
fn kind(path: &str) -> &'static str {
    match path {
        _ if path.starts_with("etc/") => "%config(noreplace) ",
        _ if path.starts_with("usr/share/doc/") => "%doc ",
        _ => "",
    }
}
