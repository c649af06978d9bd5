//! Lays files out, and packs them, the same way whoever does it, and whenever.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
};

use anyhow::{Context, Result};

use super::{Release, files::File};
use crate::run;

/// Lays out the files in a new folder.
pub(super) fn lay_out<'a>(files: impl Iterator<Item = (&'a str, &'a File)>, tree: &Path) -> Result<()> {
    if tree.exists() {
        fs::remove_dir_all(tree)?;
    }
    for (path, file) in files {
        write(&tree.join(path), file.mode, &file.bytes)?;
    }
    open_folders(tree)
}

/// Gives the folders the mode that they have in packages, whatever this user's umask.
pub(super) fn open_folders(tree: &Path) -> Result<()> {
    run::output(Command::new("find").arg(tree).args(["-type", "d", "-exec", "chmod", "755", "{}", "+"]), "")?;
    Ok(())
}

pub(super) fn write(path: &Path, mode: u32, bytes: &[u8]) -> Result<()> {
    let writing = || format!("writing {}", path.display());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(writing)?;
    }
    fs::write(path, bytes).with_context(writing)?;
    fs::set_permissions(path, Permissions::from_mode(mode)).with_context(writing)
}

/// Packs what is `name` in a folder, the same way whoever does it, and whenever.
pub(super) fn tar(
    release: &Release,
    folder: &Path,
    name: &str,
    file: &Path,
    compress: Option<&str>,
) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args(["--format=gnu", "--sort=name", "--owner=0", "--group=0", "--numeric-owner"]);
    // Not what this user's umask makes of them.
    tar.arg("--mode=u=rwX,go=rX");
    tar.arg(format!("--mtime=@{}", release.epoch)).arg("-C").arg(folder);
    tar.args(compress.map(|program| format!("--use-compress-program={program}")));
    run::output(tar.arg("-cf").arg(file).arg(name), "")?;
    Ok(())
}
