use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{owner, writers::OtherWriters};

/// Creates a folder, for its owner only, if it is missing, and closes an existing one to other
/// users. Returns its canonical path.
///
/// Blocks.
///
/// # Errors
/// If the folder cannot be created or changed, or does not belong to this user, or a user other
/// than this one and the superuser
/// * owns a folder on the path to it, unless `writers` allows that;
/// * can replace a folder on the path, because others may write to the folder and it is not sticky,
///   unless `writers` allows that;
/// * owns a symbolic link on the path, and can therefore point it elsewhere.
pub fn private_folder(path: &Path, writers: OtherWriters) -> io::Result<PathBuf> {
    owner::check_links(path, writers)?;
    create(path)?;
    let path = path.canonicalize()?;
    owner::close_folder(&path, writers)?;
    Ok(path)
}

/// Creates a folder with its missing parents, for their owner only.
pub(crate) fn create(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::owner::for_tests::{give_away, mode, set_mode};

    const REFUSED: OtherWriters = OtherWriters::Refused;

    #[test]
    fn folder_is_created_and_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        assert_eq!(private_folder(&path, REFUSED).unwrap(), path.canonicalize().unwrap());
        assert_eq!(mode(&path), 0o700);
        set_mode(&path, 0o777);
        private_folder(&path, REFUSED).unwrap();
        assert_eq!(mode(&path), 0o700);
        // The mode of `/tmp`: only its owner can replace a folder there.
        set_mode(dir.path(), 0o1777);
        private_folder(&path, REFUSED).unwrap();
        set_mode(dir.path(), 0o770);
        let error = private_folder(&path, REFUSED).unwrap_err().to_string();
        assert!(error.contains("can be written to by other users (mode 770); run `chmod go-w` on it"), "{error}");
        assert!(error.contains("`allow-other-writers` in `[cache]`"), "{error}");
    }

    #[test]
    fn folder_of_a_stranger_is_refused_and_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("planted");
        fs::create_dir(&path).unwrap();
        set_mode(&path, 0o777);
        if give_away(&path) {
            for writers in [REFUSED, OtherWriters::Allowed] {
                let error = private_folder(&path, writers).unwrap_err().to_string();
                assert!(error.contains("planted belongs to the user 12345, who could replace its content"), "{error}");
                assert_eq!(mode(&path), 0o777);
            }
            assert!(private_folder(&path.join("below"), REFUSED).is_err());
        }
    }

    /// Another user's link leads to a folder of this user. This user's own link is allowed, unless
    /// another user can replace it, or the path goes on over another user's link.
    #[test]
    fn link_of_a_stranger_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (own, link) = (dir.path().join("own"), dir.path().join("link"));
        fs::create_dir(&own).unwrap();
        set_mode(&own, 0o755);
        symlink(&own, &link).unwrap();
        let over = dir.path().join("over");
        symlink("link/../link", &over).unwrap();
        if give_away(&link) {
            for path in [link.clone(), link.join("below"), link.join("../link/below"), over.clone(), over.join("below")] {
                for writers in [REFUSED, OtherWriters::Allowed] {
                    let error = private_folder(&path, writers).unwrap_err().to_string();
                    assert!(error.contains("link is a link of the user 12345, who could point it elsewhere"), "{error}");
                }
            }
            assert!(crate::secret_key(&link.join("key"), &[], REFUSED).is_err());
            assert_eq!((mode(&own), fs::read_dir(&own).unwrap().count()), (0o755, 0));
        }
        fs::remove_file(&link).unwrap();
        symlink(&own, &link).unwrap();
        assert_eq!(private_folder(&over, REFUSED).unwrap(), own.canonicalize().unwrap());
        let shared = dir.path().join("shared");
        fs::create_dir(&shared).unwrap();
        symlink(&own, shared.join("link")).unwrap();
        private_folder(&shared.join("link"), REFUSED).unwrap();
        set_mode(&shared, 0o777);
        let error = private_folder(&shared.join("link"), REFUSED).unwrap_err().to_string();
        assert!(error.contains("shared can be written to by other users"), "{error}");
        private_folder(&shared.join("link"), OtherWriters::Allowed).unwrap();
        symlink("loop", dir.path().join("loop")).unwrap();
        let error = private_folder(&dir.path().join("loop"), REFUSED).unwrap_err().to_string();
        assert!(error.contains("leads over more than 40 links"), "{error}");
    }

    /// The volumes of Kubernetes: of the superuser and for all, or for a group. The process cannot
    /// change their modes.
    #[test]
    fn folder_in_a_volume_of_others_is_private() {
        for open_to in [0o777, 0o2775, 0o2777] {
            let dir = tempfile::tempdir().unwrap();
            let (volume, path) = (dir.path().join("volume"), dir.path().join("volume/cache/keys"));
            fs::create_dir(&volume).unwrap();
            set_mode(&volume, open_to);
            give_away(&volume);
            assert!(private_folder(&path, REFUSED).is_err(), "{open_to:o}");
            private_folder(&path, OtherWriters::Allowed).unwrap();
            assert_eq!((mode(&volume), mode(&path) & 0o777), (open_to, 0o700));
            // With each mount, the volume's group gets access to all folders.
            set_mode(&path, 0o2770);
            private_folder(&path, OtherWriters::Allowed).unwrap();
            assert_eq!(mode(&path) & 0o777, 0o700);
        }
    }
}
