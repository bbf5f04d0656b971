//! The contract's tracks: each folder of `wit/` is one.

mod frozen;
mod track;

use std::{collections::BTreeMap, fs, path::Path, process::ExitCode};

use anyhow::{Context as _, Result, bail};

use self::{
    frozen::{Frozen, Release},
    track::Track,
};

pub(crate) const HELP: &str = "\
usage: cargo xtask wit check
       cargo xtask wit freeze

A folder of wit/ (wit/0.1) is a track: everything in it is compatible with everything that was released in it.

`check` compares each track with the record of its last release in wit/frozen.toml. Comments may change. These additions need a greater patch version:
a new interface that the world imports, and a new function of an interface that the world imports already. Every other change needs a new track. The
command also checks that each interface and function is documented.

`freeze` checks, and then records the tracks as released. It is part of making a release.
";

pub(crate) fn check(root: &Path) -> Result<ExitCode> {
    let problems = problems(&tracks(root)?, &Frozen::read(root)?);
    for problem in &problems {
        println!("error: {problem}");
    }
    if problems.is_empty() {
        println!("The contract is complete, and compatible with the released versions.");
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}

pub(crate) fn freeze(root: &Path) -> Result<ExitCode> {
    let tracks = tracks(root)?;
    let problems = problems(&tracks, &Frozen::read(root)?);
    if !problems.is_empty() {
        bail!("the contract's shape was not recorded; correct these problems first:\n{}", problems.join("\n"));
    }
    let releases = tracks.into_iter().map(|(name, track)| (name, Release::of(track))).collect();
    Frozen { releases }.write(root)?;
    println!("The contract's shape is recorded in {}.", frozen::FILE);
    Ok(ExitCode::SUCCESS)
}

fn tracks(root: &Path) -> Result<BTreeMap<String, Track>> {
    let mut tracks = BTreeMap::new();
    for entry in fs::read_dir(root.join("wit")).context("reading wit/")? {
        let folder = entry?.path();
        if let Some(name) = folder.file_name().and_then(|name| name.to_str()).filter(|_| folder.is_dir()) {
            tracks.insert(name.to_owned(), Track::read(&folder).with_context(|| format!("reading wit/{name}"))?);
        }
    }
    Ok(tracks)
}

fn problems(tracks: &BTreeMap<String, Track>, frozen: &Frozen) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, track) in tracks {
        let own =
            track.problems(name).into_iter().chain(frozen.releases.get(name).into_iter().flat_map(|was| was.problems(track)));
        problems.extend(own.map(|problem| format!("wit/{name}: {problem}")));
    }
    let gone = frozen.releases.keys().filter(|name| !tracks.contains_key(*name));
    problems.extend(gone.map(|name| format!("wit/{name}: the track was released, and is gone")));
    problems
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Frozen, Release, Track, problems};

    const RELEASED: &str = "package a:b@0.1.0;
        /// Types.
        interface types { type text = string; variant event { open(text), closed } }
        /// Imported.
        interface bus { use types.{text}; record pair { left: text, right: u8 } /** Posts. */ post: func(pair: pair); }
        /// Exported.
        interface stub { use types.{event}; /** Handles. */ handle: func(events: list<event>); }
        /// The world.
        world protostub { import bus; export stub; }";

    /// Requires these problems, and no others, of the released track with these replacements.
    fn check(replacements: &[(&str, &str)], expected: &[&str]) {
        let changed = replacements.iter().fold(RELEASED.to_owned(), |text, (from, to)| {
            assert!(text.contains(from), "{from}");
            text.replace(from, to)
        });
        let track = |text: &str| Track::parse(text).unwrap();
        let frozen = Frozen { releases: BTreeMap::from([("0.1".to_owned(), Release::of(track(RELEASED)))]) };
        let found = problems(&BTreeMap::from([("0.1".to_owned(), track(&changed))]), &frozen);
        assert_eq!(found.len(), expected.len(), "{replacements:?}: {found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.contains(expected), "{replacements:?}: {found}");
        }
    }

    const LATER: (&str, &str) = ("@0.1.0", "@0.1.1");

    #[test]
    fn comments_may_change() {
        check(&[], &[]);
        check(&[("Handles.", "Handles all of them.")], &[]);
        check(&[("/** Handles. */", "")], &["stub.handle has no documentation"]);
    }

    #[test]
    fn functions_and_interfaces_may_be_added() {
        let function = ("/** Posts. */", "/** Reads. */ read: func(n: u8) -> text; /** Posts. */");
        let interface = [
            ("/// The world.", "/** New. */ interface new { record r { a: u8 } } /** The world. */"),
            ("import bus;", "import bus; import new;"),
        ];
        check(&[LATER, function], &[]);
        check(&[LATER, interface[0], interface[1]], &[]);
        check(&[function], &["the package's patch version has to be greater"]);
        check(&[LATER, interface[0]], &["`new.r` (`record { a: u8 }`) is new where nothing can be added"]);
    }

    #[test]
    fn shapes_may_not_change() {
        check(
            &[("closed }", "closed, lost }")],
            &["`types.event` was released as `variant { open(types.text), closed }` and is now"],
        );
        check(&[("right: u8", "right: u16")], &["`bus.pair` was released as"]);
        check(
            &[("pair: pair", "one: pair")],
            &["`bus.post` was released as `func(pair: bus.pair)` and is now `func(one: bus.pair)`"],
        );
        check(&[("type text = string", "type text = char")], &["`types.text` was released as `string`"]);
        check(&[("import bus;", "")], &["`protostub imports bus` was released and is gone"]);
    }

    #[test]
    fn types_and_exports_are_closed() {
        let export = ("/** Handles. */", "/** Stops. */ stop: func(); /** Handles. */");
        check(&[LATER, export], &["`stub.stop` (`func()`) is new where nothing can be added"]);
        check(&[LATER, ("type text", "type number = u8; type text")], &["`types.number` (`u8`) is new where"]);
        check(&[LATER, ("use types.{text};", "use types.{text}; record more { a: u8 }")], &["`bus.more`"]);
        check(&[LATER, ("export stub;", "export stub; export bus;")], &["`protostub exports bus` (`export`)"]);
    }

    #[test]
    fn a_folder_has_its_own_versions() {
        check(&[("@0.1.0", "@0.2.0")], &["the package's version is 0.2.0"]);
    }
}
