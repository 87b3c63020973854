//! Holds the tree of dependencies to deny.toml without cargo-deny: licences, bans, sources. Advisories are cargo-deny's, since
//! they change from day to day.
//!
//! Nothing is fetched: Cargo.lock names every crate of every platform, and those that are built here were fetched for that.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::path::Path;
use std::process::Command;

use serde::Deserialize;
use spdx::{Expression, ParseMode};
use xxhash_rust::xxh32::xxh32;

/// What deny.toml says, as far as it is held here; a section or key that is not known is an error.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    #[serde(rename = "graph")]
    _graph: toml::Table,
    licenses: Licenses,
    bans: Bans,
    sources: Sources,
    /// Not held here.
    #[serde(rename = "advisories")]
    _advisories: toml::Table,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Licenses {
    allow: Vec<String>,
    exceptions: Vec<Exception>,
    clarify: Vec<Clarification>,
    #[serde(rename = "confidence-threshold")]
    _confidence_threshold: f64,
    #[serde(rename = "unused-allowed-license")]
    _unused_allowed_license: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    #[serde(rename = "crate")]
    name: String,
    allow: Vec<String>,
}

/// What a crate's licence is that has no expression but a file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Clarification {
    #[serde(rename = "crate")]
    name: String,
    expression: String,
    license_files: Vec<LicenseFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LicenseFile {
    path: String,
    /// XXH32 of its text, with newlines as Unix has them.
    hash: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Bans {
    deny: Vec<Ban>,
    wildcards: String,
    #[serde(rename = "multiple-versions")]
    _multiple_versions: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Sources {
    unknown_registry: String,
    unknown_git: String,
    allow_registry: Vec<String>,
}

/// A crate, as `cargo metadata` tells of it.
#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    manifest_path: String,
    /// `None` for our own.
    source: Option<String>,
}

/// A crate, as Cargo.lock has it.
#[derive(Deserialize)]
struct Locked {
    name: String,
    source: Option<String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read<T: serde::de::DeserializeOwned>(file: &str) -> T {
    let text = std::fs::read_to_string(root().join(file)).unwrap();
    toml::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn locked() -> Vec<Locked> {
    #[derive(Deserialize)]
    struct Lock {
        package: Vec<Locked>,
    }
    read::<Lock>("Cargo.lock").package
}

/// The crates that are built on this platform.
fn packages() -> Vec<Package> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    let told = |command: &mut Command| {
        let output = command.current_dir(root()).output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{command:?}: {words}");
        String::from_utf8(output.stdout).unwrap()
    };
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let version = told(Command::new(rustc).arg("-vV"));
    let platform = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .unwrap();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.args(["metadata", "--format-version", "1", "--locked", "--offline"]);
    let metadata = told(cargo.args(["--filter-platform", platform]));
    let packages = serde_json::from_str::<Metadata>(&metadata).unwrap().packages;
    assert!(packages.len() > 100, "{} crates", packages.len());
    packages
}

impl Licenses {
    /// Why a crate may not be used.
    fn refusal(&self, package: &Package) -> Option<String> {
        let of = |words: String| Some(format!("{} {}: {words}", package.name, package.version));
        let clarified = self.clarify.iter().find(|it| it.name == package.name);
        let expression = match (&package.license, clarified) {
            (Some(license), _) => license,
            (None, Some(clarified)) => {
                let changed = clarified.license_files.iter().find(|file| !file.is_in(package));
                if let Some(file) = changed {
                    return of(format!("{} is not the one that was read", file.path));
                }
                &clarified.expression
            }
            (None, None) => return of("no licence is said".to_owned()),
        };
        let parsed = match Expression::parse_mode(expression, ParseMode::LAX) {
            Ok(parsed) => parsed,
            Err(error) => return of(format!("`{expression}` is no licence: {}", error.reason)),
        };
        let own = self.exceptions.iter().filter(|it| it.name == package.name);
        let allowed: Vec<_> = own.flat_map(|it| &it.allow).chain(&self.allow).collect();
        let is_allowed = parsed.evaluate(|licence| allowed.contains(&&licence.to_string()));
        (!is_allowed)
            .then(|| of(format!("{expression} is not allowed")))
            .flatten()
    }
}

impl LicenseFile {
    fn is_in(&self, package: &Package) -> bool {
        let directory = Path::new(&package.manifest_path).parent().unwrap();
        let text = std::fs::read_to_string(directory.join(&self.path)).unwrap_or_default();
        xxh32(text.replace("\r\n", "\n").as_bytes(), 0) == self.hash
    }
}

#[test]
fn every_licence_is_one_that_deny_toml_allows() {
    let rules: Rules = read("deny.toml");
    let foreign = |package: &&Package| package.source.is_some();
    let packages = packages();
    let refused = packages
        .iter()
        .filter(foreign)
        .filter_map(|it| rules.licenses.refusal(it));
    let refused: Vec<_> = refused.collect();
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

#[test]
fn no_crate_is_banned_and_all_come_from_where_they_may() {
    let Rules { bans, sources, .. } = read("deny.toml");
    assert_eq!([&*sources.unknown_registry, &*sources.unknown_git], ["deny"; 2]);
    let mut refused = Vec::new();
    for package in locked() {
        let name = &package.name;
        if let Some(ban) = bans.deny.iter().find(|ban| ban.name == *name) {
            refused.push(format!("{name} is banned: {}", ban.reason));
        }
        let allowed = match &package.source {
            None => name == env!("CARGO_PKG_NAME"),
            Some(source) => sources
                .allow_registry
                .iter()
                .any(|url| *source == format!("registry+{url}")),
        };
        if !allowed {
            refused.push(format!("{name} comes from {:?}", package.source));
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

#[test]
fn every_dependency_says_which_versions_it_takes() {
    let Rules { bans, .. } = read("deny.toml");
    assert_eq!(bans.wildcards, "deny");
    let manifest: toml::Table = read("Cargo.toml");
    for table in ["dependencies", "dev-dependencies"] {
        for (name, dependency) in manifest[table].as_table().unwrap() {
            let version = dependency.get("version").unwrap_or(dependency).as_str();
            let version = version.unwrap_or_else(|| panic!("{name} has no version"));
            assert!(!version.contains('*'), "{name} takes any version");
        }
    }
}

#[test]
fn a_licence_that_is_not_allowed_is_found() {
    let Rules { licenses, .. } = read("deny.toml");
    let package = |name: &str, license: Option<&str>| Package {
        name: name.to_owned(),
        version: "1.0.0".to_owned(),
        license: license.map(str::to_owned),
        manifest_path: "/nowhere/Cargo.toml".to_owned(),
        source: None,
    };
    for license in [
        "MIT",
        "MIT/Apache-2.0",
        "GPL-3.0-only OR MIT",
        "(MIT OR Zlib) AND Unicode-3.0",
    ] {
        assert_eq!(licenses.refusal(&package("a", Some(license))), None);
    }
    for license in [
        Some("GPL-3.0-only"),
        Some("MIT AND SSPL-1.0"),
        Some("free"),
        Some("MPL-2.0"),
        None,
    ] {
        assert!(licenses.refusal(&package("a", license)).is_some(), "{license:?}");
    }
    assert_eq!(licenses.refusal(&package("option-ext", Some("MPL-2.0"))), None);
    // Its file is not the one that was read.
    assert!(licenses.refusal(&package("temporalio-sdk", None)).is_some());
}
