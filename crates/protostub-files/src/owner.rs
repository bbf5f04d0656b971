//! Checks of the users that own, or can write to, files.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, absolute},
};

use crate::writers::OtherWriters;

/// The superuser can write everywhere.
const ROOT: u32 = 0;
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// In such a folder, only the owner of a file can rename or remove it.
const STICKY: u32 = 0o1000;
/// Maximum number of links that a path leads over, as on Linux.
const MAX_LINKS: usize = 40;

/// Rejects a path with a symbolic link that a user other than this one and the superuser can change
/// or, unless `writers` allows it, replace. The path need not exist.
pub(crate) fn check_links(path: &Path, writers: OtherWriters) -> io::Result<()> {
    check_further_links(path, writers, &mut 0)
}

fn check_further_links(path: &Path, writers: OtherWriters, links: &mut usize) -> io::Result<()> {
    let me = rustix::process::geteuid().as_raw();
    for ancestor in absolute(path)?.ancestors() {
        let Ok(metadata) = fs::symlink_metadata(ancestor) else { continue };
        if !metadata.is_symlink() {
            continue;
        }
        let (owner, link) = (metadata.uid(), ancestor.display());
        if owner != me && owner != ROOT {
            return refuse(format!(
                "{link} is a link of the user {owner}, who could point it elsewhere; remove it, or choose another folder"
            ));
        }
        *links += 1;
        if *links > MAX_LINKS {
            return refuse(format!("{link} leads over more than {MAX_LINKS} links; choose a path with fewer"));
        }
        let folder = ancestor.parent().unwrap_or(ancestor);
        check_way(&folder.canonicalize()?, me, writers)?;
        check_further_links(&folder.join(fs::read_link(ancestor)?), writers, links)?;
    }
    Ok(())
}

/// Makes a folder of this user readable and writable for this user only. Rejects a folder of
/// another user, and a folder that another user can replace, unless `writers` allows it. The path
/// must be canonical.
pub(crate) fn close_folder(path: &Path, writers: OtherWriters) -> io::Result<()> {
    let me = user_of_new_files(path);
    let metadata = fs::metadata(path)?;
    let (owner, folder) = (metadata.uid(), path.display());
    // Before the mode is changed: a link could have led to any folder.
    if owner != me && owner == ROOT {
        return refuse(format!("{folder} belongs to the superuser; choose a folder of your own, for example one in this folder"));
    }
    if owner != me {
        return refuse(format!(
            "{folder} belongs to the user {owner}, who could replace its content; choose a folder of your own"
        ));
    }
    if metadata.permissions().mode() & 0o777 != 0o700 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    }
    check_way(path, me, writers)
}

/// Rejects a folder for a key in which another user can replace the key, unless `writers` allows
/// it. The path must be canonical.
pub(crate) fn check_folder_of_key(path: &Path, writers: OtherWriters) -> io::Result<()> {
    check_way(path, user_of_new_files(path), writers)
}

/// Rejects a key in this folder that other users can read or write. If `writers` allows others,
/// only closes a key of this user that its group can read or write.
pub(crate) fn close_key(key: &fs::File, folder: &Path, writers: OtherWriters) -> io::Result<()> {
    let metadata = key.metadata()?;
    let (owner, mode) = (metadata.uid(), metadata.permissions().mode() & 0o7777);
    let is_own = owner == user_of_new_files(folder);
    if is_own && mode & 0o077 == 0 {
        return Ok(());
    }
    // Kubernetes gives the group of a volume access to all files with each mount.
    if is_own && mode & 0o007 == 0 && writers == OtherWriters::Allowed {
        return key.set_permissions(fs::Permissions::from_mode(0o600));
    }
    refuse(format!("other users may open the file (mode {mode:o}, user {owner}); run `chmod 600`, or remove the file"))
}

/// Returns the user who owns new files in a folder. On some network file systems that is not the
/// user of the process.
fn user_of_new_files(folder: &Path) -> u32 {
    let made = tempfile::tempfile_in(folder).and_then(|file| file.metadata());
    made.map_or_else(|_| rustix::process::geteuid().as_raw(), |metadata| metadata.uid())
}

/// Rejects a canonical path to a folder in which a user other than this one and the superuser can
/// replace this user's files.
fn check_way(folder: &Path, me: u32, writers: OtherWriters) -> io::Result<()> {
    if writers == OtherWriters::Allowed {
        return Ok(());
    }
    for ancestor in folder.ancestors() {
        let metadata = fs::metadata(ancestor)?;
        let (owner, mode) = (metadata.uid(), metadata.permissions().mode() & 0o7777);
        let ancestor = ancestor.display();
        if owner != me && owner != ROOT {
            return refuse(format!(
                "{ancestor} belongs to the user {owner}, who could replace its content; choose a folder of your own, or see \
                 `allow-other-writers` in `[cache]`"
            ));
        }
        if mode & WRITABLE_BY_OTHERS != 0 && mode & STICKY == 0 {
            return refuse(format!(
                "{ancestor} can be written to by other users (mode {mode:o}); run `chmod go-w` on it, choose another folder, or \
                 see `allow-other-writers` in `[cache]`"
            ));
        }
    }
    Ok(())
}

fn refuse<T>(problem: String) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::PermissionDenied, problem))
}

#[cfg(test)]
pub(crate) mod for_tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, lchown},
        path::Path,
    };

    /// A user who is neither this one nor the superuser.
    const STRANGER: u32 = 12_345;

    pub(crate) fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    pub(crate) fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    /// Gives a file to the stranger. Returns `false` if this user may not do that.
    pub(crate) fn give_away(path: &Path) -> bool {
        lchown(path, Some(STRANGER), None).is_ok()
    }
}
