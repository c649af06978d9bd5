//! The container image: the binary and its licences in an OCI layout, made without a container engine
//! (<https://github.com/opencontainers/image-spec>).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{
    Release,
    archive::{lay_out, tar},
    binary::debian_architecture,
    files::File,
};
use crate::run;

/// What is in the image. The licences have to go wherever the binary goes.
const FILES: &[&str] =
    &["usr/bin/byway", "usr/share/doc/byway/copyright", "usr/share/doc/byway/third-party-licences.gz"];

/// Writes `byway-VERSION-MACHINE-oci.tar`.
pub(super) fn image(release: &Release, files: &[File], out: &Path) -> Result<()> {
    let tree = out.join("tree");
    let files = files.iter().filter(|it| FILES.contains(&it.path.as_str()));
    lay_out(files.map(|it| (it.path.as_str(), it)), &tree)?;
    let layout = Layout { folder: out.join("image") };
    let blobs = layout.blobs();
    fs::create_dir_all(&blobs).with_context(|| format!("creating {}", blobs.display()))?;

    let layer = layout.folder.join("layer.tar");
    tar(release, &tree, "usr", &layer, None)?;
    let unpacked = digest(&layer)?;
    run::output(Command::new("gzip").args(["-n", "-9"]).arg(&layer), "")?;
    let layer =
        layout.take(&layer.with_extension("tar.gz"), "application/vnd.oci.image.layer.v1.tar+gzip")?;

    let created = release.time("+%FT%TZ")?;
    let notes = json!({
        "org.opencontainers.image.title": "byway",
        "org.opencontainers.image.description": "egress redirection by source address",
        "org.opencontainers.image.version": release.version,
        "org.opencontainers.image.licenses": "(MIT OR Apache-2.0) AND LGPL-2.1-or-later",
    });
    let platform = json!({ "architecture": debian_architecture(&release.machine), "os": "linux" });
    let config = json!({
        "created": created,
        "architecture": platform["architecture"],
        "os": platform["os"],
        "config": { "Entrypoint": ["/usr/bin/byway"], "Env": ["PATH=/usr/bin"], "Labels": notes },
        "rootfs": { "type": "layers", "diff_ids": [unpacked] },
        "history": [{ "created": created, "created_by": "cargo xtask dist" }],
    });
    let config = layout.add(&config, "application/vnd.oci.image.config.v1+json")?;
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": manifest_type,
        "config": config,
        "layers": [layer],
        "annotations": notes,
    });
    let mut manifest = layout.add(&manifest, manifest_type)?;
    manifest["platform"] = platform;
    manifest["annotations"] =
        json!({ "org.opencontainers.image.ref.name": format!("byway:{}", release.version) });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [manifest],
    });
    fs::write(layout.folder.join("index.json"), index.to_string())?;
    fs::write(layout.folder.join("oci-layout"), json!({ "imageLayoutVersion": "1.0.0" }).to_string())?;

    let file = out.join(format!("byway-{}-{}-oci.tar", release.version, release.machine));
    tar(release, &layout.folder, ".", &file, None)?;
    fs::remove_dir_all(&layout.folder).with_context(|| format!("removing {}", layout.folder.display()))
}

/// A folder whose blobs are named after their contents.
struct Layout {
    folder: PathBuf,
}

impl Layout {
    fn blobs(&self) -> PathBuf {
        self.folder.join("blobs/sha256")
    }

    /// Moves a file among the blobs, and returns its descriptor.
    fn take(&self, file: &Path, media_type: &str) -> Result<Value> {
        let digest = digest(file)?;
        let size = file.metadata().with_context(|| format!("reading {}", file.display()))?.len();
        let name = digest.trim_start_matches("sha256:");
        fs::rename(file, self.blobs().join(name)).with_context(|| format!("moving {}", file.display()))?;
        Ok(json!({ "mediaType": media_type, "digest": digest, "size": size }))
    }

    fn add(&self, value: &Value, media_type: &str) -> Result<Value> {
        let file = self.folder.join("blob");
        fs::write(&file, value.to_string()).with_context(|| format!("writing {}", file.display()))?;
        self.take(&file, media_type)
    }
}

/// The digest of a file, as OCI writes it.
fn digest(file: &Path) -> Result<String> {
    let sum = run::output(Command::new("sha256sum").arg("--binary").arg(file), "")?;
    let sum = sum.split(' ').next().unwrap_or_default();
    Ok(format!("sha256:{sum}"))
}
