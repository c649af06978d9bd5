//! What the binary is made of: the crates, their licences, and a CycloneDX bill of materials.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{run, workspace::Workspace};

/// A crate of others in the binary.
pub(super) struct Component {
    name: String,
    version: String,
    /// An SPDX expression.
    licence: String,
    /// Of the crate as published.
    sha256: Option<String>,
    folder: PathBuf,
    /// The crates that it needs, as far as they are in the binary.
    needs: BTreeSet<String>,
}

impl Component {
    fn reference(&self) -> String {
        reference(&self.name, &self.version)
    }
}

/// A package URL (<https://github.com/package-url/purl-spec>).
fn reference(name: &str, version: &str) -> String {
    format!("pkg:cargo/{name}@{}", version.replace('+', "%2B"))
}

/// Returns the crates in the binary, and those in the eBPF object that it embeds.
pub(super) fn find(workspace: &Workspace, target: &str) -> Result<Vec<Component>> {
    let command = ["--package", "byway-cli", "--no-default-features", "--target", target];
    let programs = ["--manifest-path", "crates/byway-ebpf/Cargo.toml", "--target", "all"];
    let mut components = of(workspace, &command, &[], "Cargo.lock")?;
    components.extend(of(workspace, &programs, &programs[..2], "crates/byway-ebpf/Cargo.lock")?);
    components.sort_by_key(Component::reference);
    components.dedup_by_key(|it| it.reference());
    Ok(components)
}

fn of(workspace: &Workspace, tree: &[&str], manifest: &[&str], lock: &str) -> Result<Vec<Component>> {
    // `cargo metadata` does not know which features one package is built with; `cargo tree` does.
    let mut command = workspace.cargo();
    command.args([
        "tree",
        "--locked",
        "--edges",
        "normal,no-proc-macro",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]);
    let listed = run::output(command.args(tree), "")?;
    // "NAME vVERSION", with more behind it where it is not from a registry
    let listed: BTreeSet<String> = listed
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            Some(reference(words.next()?, words.next()?.strip_prefix('v')?))
        })
        .collect();

    let mut command = workspace.cargo();
    let metadata =
        run::output(command.args(["metadata", "--locked", "--format-version=1"]).args(manifest), "")?;
    let metadata: Value = serde_json::from_str(&metadata).context("reading cargo's metadata")?;
    let checksums = checksums(&fs::read_to_string(workspace.root.join(lock))?);
    let packages = metadata["packages"].as_array().context("cargo's metadata has no packages")?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let by_id: BTreeMap<String, String> = packages
        .iter()
        .filter_map(|it| Some((text(&it["id"])?, reference(it["name"].as_str()?, it["version"].as_str()?))))
        .collect();
    let nodes = metadata["resolve"]["nodes"].as_array().context("cargo's metadata has no nodes")?;

    let mut components = Vec::new();
    // Those without a source are the workspace's own.
    for package in packages.iter().filter(|it| it["source"].is_string()) {
        let (Some(id), Some(name), Some(version), Some(manifest)) = (
            text(&package["id"]),
            text(&package["name"]),
            text(&package["version"]),
            text(&package["manifest_path"]),
        ) else {
            bail!("cargo's metadata has a package without an id, a name, a version or a manifest");
        };
        if !listed.contains(&reference(&name, &version)) {
            continue;
        }
        let licence = text(&package["license"])
            .with_context(|| format!("{name} {version} does not say under which licence it is"))?;
        let needs =
            nodes.iter().filter(|node| node["id"] == *id).flat_map(|node| node["dependencies"].as_array());
        let needs: BTreeSet<String> = needs
            .flatten()
            .filter_map(|it| by_id.get(it.as_str()?))
            .filter(|it| listed.contains(*it))
            .cloned()
            .collect();
        components.push(Component {
            sha256: checksums.get(&reference(&name, &version)).cloned(),
            name,
            version,
            // The older way to write a choice.
            licence: licence.replace('/', " OR "),
            folder: Path::new(&manifest).parent().map(Path::to_owned).unwrap_or_default(),
            needs,
        });
    }
    Ok(components)
}

/// The checksums of a Cargo.lock, by package URL.
fn checksums(lock: &str) -> BTreeMap<String, String> {
    let value = |package: &str, key: &str| {
        package.lines().find_map(|line| {
            Some(line.strip_prefix(key)?.strip_prefix(" = \"")?.trim_end_matches('"').to_owned())
        })
    };
    lock.split("[[package]]")
        .filter_map(|it| {
            Some((reference(&value(it, "name")?, &value(it, "version")?), value(it, "checksum")?))
        })
        .collect()
}

/// The bill of materials, as CycloneDX 1.5 (<https://cyclonedx.org/docs/1.5/json/>).
pub(super) fn bill(components: &[Component], version: &str, time: &str) -> String {
    let root = reference("byway-cli", version);
    let all: Vec<Value> = components
        .iter()
        .map(|it| {
            let hashes: Vec<Value> =
                it.sha256.iter().map(|hash| json!({ "alg": "SHA-256", "content": hash })).collect();
            json!({
                "type": "library",
                "bom-ref": it.reference(),
                "name": it.name,
                "version": it.version,
                "purl": it.reference(),
                "licenses": [{ "expression": it.licence }],
                "hashes": hashes,
            })
        })
        .collect();
    let mut needs: Vec<Value> =
        components.iter().map(|it| json!({ "ref": it.reference(), "dependsOn": it.needs })).collect();
    let of_root: Vec<String> = components.iter().map(Component::reference).collect();
    needs.push(json!({ "ref": root, "dependsOn": of_root }));
    let bill = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": time,
            "component": {
                "type": "application",
                "bom-ref": root,
                "name": "byway",
                "version": version,
                "licenses": [{ "expression": "MIT OR Apache-2.0" }],
            },
        },
        "components": all,
        "dependencies": needs,
    });
    format!("{bill:#}\n")
}

/// The licences of all crates: a list, and each text once.
pub(super) fn licences(components: &[Component]) -> Result<String> {
    let mut list = String::from("The byway command contains these crates:\n\n");
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for component in components {
        let title = format!("{} {}", component.name, component.version);
        list += &format!("{title}: {}\n", component.licence);
        let mut files: Vec<PathBuf> = fs::read_dir(&component.folder)
            .with_context(|| format!("looking into {}", component.folder.display()))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.is_file() && is_licence(path))
            .collect();
        files.sort();
        for file in files {
            let text = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
            texts.entry(String::from_utf8_lossy(&text).trim().to_owned()).or_default().push(title.clone());
        }
    }
    for (text, titles) in &texts {
        list += &format!("\n{}\n{}:\n\n{text}\n", "-".repeat(78), titles.join(", "));
    }
    Ok(list)
}

fn is_licence(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
    ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"]
        .iter()
        .any(|it| name.starts_with(it))
}
