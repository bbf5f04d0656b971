//! A folder, and a file, that only the user who runs this can write to.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use ring::rand::{SecureRandom as _, SystemRandom};

/// How long a key is, in bytes: as long as the output of SHA-256, as RFC 2104 advises.
const KEY_BYTES: usize = 32;

/// Makes the folder if it is not there, for its owner only, and checks it and all that it is in. Returns where it really is.
pub(super) fn folder(path: &Path) -> io::Result<PathBuf> {
    make(path)?;
    let path = path.canonicalize()?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let me = owner::of_this_process(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
        owner::check_way(&path, me)?;
    }
    Ok(path)
}

/// The key in this file, which is made if it is not there. It may not be in `entries`: whoever could write there would have it.
pub(super) fn key(path: &Path, entries: &Path) -> io::Result<Vec<u8>> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make(parent)?;
    let parent = parent.canonicalize()?;
    if parent.starts_with(entries) {
        return Err(io::Error::other("the key of a cache may not lie in it: set `cache_key` to another place"));
    }
    let name = path.file_name().ok_or_else(|| io::Error::other("it is not the path of a file"))?;
    let path = parent.join(name);
    #[cfg(unix)]
    let me = owner::of_this_process(&parent)?;
    #[cfg(unix)]
    owner::check_way(&parent, me)?;
    if !fs::exists(&path)? {
        let mut file = tempfile::Builder::new().prefix(".key-").tempfile_in(&parent)?;
        let mut bytes = [0; KEY_BYTES];
        SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("the system has no random numbers"))?;
        file.write_all(&bytes)?;
        file.as_file().sync_data()?;
        // Another process may have been quicker: then its key is the key.
        match file.persist_noclobber(&path) {
            Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => return Err(error.error),
            _ => {}
        }
    }
    if !fs::symlink_metadata(&path)?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let file = fs::File::open(&path)?;
    #[cfg(unix)]
    owner::check_secret(&file, me)?;
    let mut bytes = Vec::new();
    file.take(KEY_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() != KEY_BYTES {
        return Err(io::Error::other(format!(
            "a key has {KEY_BYTES} bytes, and it has others: remove it, and a new one is made"
        )));
    }
    Ok(bytes)
}

fn make(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

#[cfg(unix)]
mod owner {
    use std::{
        fs, io,
        os::unix::fs::{MetadataExt as _, PermissionsExt as _},
        path::Path,
    };

    /// The superuser can write everywhere.
    const ROOT: u32 = 0;
    const WRITABLE_BY_OTHERS: u32 = 0o022;
    /// In such a folder, only the owner of a file can rename or remove it.
    const STICKY: u32 = 0o1000;

    /// The user who makes files here.
    pub(super) fn of_this_process(folder: &Path) -> io::Result<u32> {
        Ok(tempfile::tempfile_in(folder)?.metadata()?.uid())
    }

    /// Whether nobody but this user, and the superuser, can put something else in the place of what is this user's in the folder.
    pub(super) fn check_way(folder: &Path, me: u32) -> io::Result<()> {
        for ancestor in folder.ancestors() {
            let metadata = fs::metadata(ancestor)?;
            let (owner, mode) = (metadata.uid(), metadata.permissions().mode());
            let refuse = |problem: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, problem));
            let ancestor = ancestor.display();
            if owner != me && owner != ROOT {
                return refuse(format!(
                    "{ancestor} belongs to the user {owner}, who could replace what is in it: choose a folder of your own"
                ));
            }
            if mode & WRITABLE_BY_OTHERS != 0 && mode & STICKY == 0 {
                let mode = mode & 0o7777;
                return refuse(format!(
                    "{ancestor} can be written to by others (mode {mode:o}): `chmod go-w` it, or choose another folder"
                ));
            }
        }
        Ok(())
    }

    /// Whether only this user can read and write the file.
    pub(super) fn check_secret(file: &fs::File, me: u32) -> io::Result<()> {
        let metadata = file.metadata()?;
        let mode = metadata.permissions().mode() & 0o7777;
        if metadata.uid() != me || mode & 0o077 != 0 {
            let problem = format!("others may open it (mode {mode:o}, user {}): `chmod 600` it, or remove it", metadata.uid());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, problem));
        }
        Ok(())
    }
}
