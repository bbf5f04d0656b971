use std::{collections::BTreeMap, fs, io, path::Path};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::track::Track;

/// File with the shapes of the released tracks, from the repository's root.
pub(crate) const FILE: &str = "wit/frozen.toml";

const INTRODUCTION: &str = "\
# The contract's shape as it was released, written by `cargo xtask wit freeze` and held by `cargo xtask wit check`. Not to be edited: each
# digest is that of the track's version and items.

";

/// The tracks as they were released.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Frozen {
    pub(crate) releases: BTreeMap<String, Release>,
}

/// The last release of a track.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Release {
    version: String,
    sha256: String,
    items: BTreeMap<String, String>,
}

impl Frozen {
    pub(crate) fn read(root: &Path) -> Result<Self> {
        match fs::read_to_string(root.join(FILE)) {
            Ok(text) => toml::from_str(&text).with_context(|| format!("reading {FILE}")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("reading {FILE}")),
        }
    }

    pub(crate) fn write(&self, root: &Path) -> Result<()> {
        let text = INTRODUCTION.to_owned() + &toml::to_string(self)?;
        fs::write(root.join(FILE), text).with_context(|| format!("writing {FILE}"))
    }
}

impl Release {
    pub(crate) fn of(track: Track) -> Self {
        let Track { version, items, .. } = track;
        Self { sha256: digest(&version, &items), version, items }
    }

    /// Returns the incompatibilities of the track with this release.
    pub(crate) fn problems(&self, track: &Track) -> Vec<String> {
        let mut problems = Vec::new();
        if digest(&self.version, &self.items) != self.sha256 {
            problems.push(format!("the record in {FILE} was edited: its digest does not match; restore the file"));
        }
        for (item, was) in &self.items {
            match track.items.get(item) {
                Some(is) if is == was => {}
                Some(is) => problems.push(format!("`{item}` was released as `{was}` and is now `{is}`; start a new track")),
                None => problems.push(format!("`{item}` was released and is gone; start a new track")),
            }
        }
        let mut added = track.items.iter().filter(|(item, _)| !self.items.contains_key(*item)).peekable();
        if added.peek().is_some() && !is_later(&track.version, &self.version) {
            problems.push(format!("the track has additions to {}: the package's patch version has to be greater", self.version));
        }
        for (item, shape) in added.filter(|(item, shape)| !self.may_add(item, shape, track)) {
            problems.push(format!("`{item}` (`{shape}`) is new where nothing can be added; add it in a new interface"));
        }
        problems
    }

    fn may_add(&self, item: &str, shape: &str, track: &Track) -> bool {
        let Some((interface, _)) = item.split_once('.') else { return shape == "import" };
        let is_new_interface = !self.items.keys().any(|released| released.split_once('.').is_some_and(|(of, _)| of == interface));
        track.growing.contains(interface) && (is_new_interface || shape.starts_with("func("))
    }
}

fn digest(version: &str, items: &BTreeMap<String, String>) -> String {
    let mut digest = Sha256::new_with_prefix(version);
    for (item, shape) in items {
        digest.update(format!("\n{item}: {shape}"));
    }
    format!("{:x}", digest.finalize())
}

/// Returns `true` if a version is later than another one of the same track.
fn is_later(version: &str, than: &str) -> bool {
    let patch = |version: &str| version.rsplit('.').next().and_then(|patch| patch.parse::<u64>().ok());
    patch(version) > patch(than)
}
