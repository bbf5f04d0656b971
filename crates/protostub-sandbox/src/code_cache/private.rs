//! A folder, and a file, that only the user of this process can write to.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use ring::rand::{SecureRandom as _, SystemRandom};

/// Length of a key, in bytes: as long as the output of SHA-256, as RFC 2104 advises.
const KEY_BYTES: usize = 32;

/// Makes the folder, for its owner only, if it is missing. Checks the folder and all its ancestors.
/// Returns its canonical path.
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

/// Returns the key in this file, and makes the file if it is missing. The file may not be in
/// `entries`: a user who can write there would have the key.
pub(super) fn key(path: &Path, entries: &Path) -> io::Result<Vec<u8>> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make(parent)?;
    let parent = parent.canonicalize()?;
    if parent.starts_with(entries) {
        return Err(io::Error::other("the cache's key may not be in the cache folder; set `key` in `[cache]` to a path outside"));
    }
    let name = path.file_name().ok_or_else(|| io::Error::other("the path of the key has no file name"))?;
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
        // If another process was quicker, its key is the key.
        match file.persist_noclobber(&path) {
            Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => return Err(error.error),
            _ => {}
        }
    }
    if !fs::symlink_metadata(&path)?.is_file() {
        return Err(io::Error::other("the key is not a regular file"));
    }
    let file = fs::File::open(&path)?;
    #[cfg(unix)]
    owner::check_secret(&file, me)?;
    let mut bytes = Vec::new();
    file.take(KEY_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() != KEY_BYTES {
        return Err(io::Error::other(format!(
            "a key has {KEY_BYTES} bytes, and this file does not; remove the file, and a new key is made"
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

    /// Returns the user who makes files here.
    pub(super) fn of_this_process(folder: &Path) -> io::Result<u32> {
        Ok(tempfile::tempfile_in(folder)?.metadata()?.uid())
    }

    /// Rejects a folder in which a user other than this one and the superuser can replace this
    /// user's files.
    pub(super) fn check_way(folder: &Path, me: u32) -> io::Result<()> {
        for ancestor in folder.ancestors() {
            let metadata = fs::metadata(ancestor)?;
            let (owner, mode) = (metadata.uid(), metadata.permissions().mode());
            let refuse = |problem: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, problem));
            let ancestor = ancestor.display();
            if owner != me && owner != ROOT {
                return refuse(format!(
                    "{ancestor} belongs to the user {owner}, who could replace its content; choose a folder of your own"
                ));
            }
            if mode & WRITABLE_BY_OTHERS != 0 && mode & STICKY == 0 {
                let mode = mode & 0o7777;
                return refuse(format!(
                    "{ancestor} can be written to by other users (mode {mode:o}); run `chmod go-w` on it, or choose another folder"
                ));
            }
        }
        Ok(())
    }

    /// Rejects a file that other users can read or write.
    pub(super) fn check_secret(file: &fs::File, me: u32) -> io::Result<()> {
        let metadata = file.metadata()?;
        let mode = metadata.permissions().mode() & 0o7777;
        if metadata.uid() != me || mode & 0o077 != 0 {
            let problem = format!(
                "other users may open the file (mode {mode:o}, user {}); run `chmod 600`, or remove the file",
                metadata.uid()
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, problem));
        }
        Ok(())
    }
}
