use std::{
    env, fs, io,
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use tokio::net::{UnixListener, UnixStream};

/// A listening socket. Its file is removed with it.
pub(crate) struct Socket {
    pub(crate) listener: UnixListener,
    pub(crate) path: PathBuf,
    /// Device and inode number of the file.
    file: (u64, u64),
}

impl Socket {
    /// Listens at `path`, for this user only. Replaces a socket file without a listener. Leaves any
    /// other file untouched, and fails.
    pub(crate) async fn listen(path: &Path) -> anyhow::Result<Self> {
        let context = || format!("failed to listen for commands at {}", path.display());
        let folder = folder_of(path);
        if !folder.exists() {
            private_folder(folder).with_context(context)?;
        }
        // The lock prevents two runtimes that start at the same time from replacing each other's
        // sockets.
        let turn = fs::File::open(folder).with_context(context)?;
        let _in_turn = turn.lock();
        remove_stale_socket(path).await.with_context(context)?;
        let listener = UnixListener::bind(path).with_context(context)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).with_context(context)?;
        let metadata = fs::symlink_metadata(path).with_context(context)?;
        Ok(Self { listener, path: path.to_owned(), file: (metadata.dev(), metadata.ino()) })
    }

    /// Listens in the user's own folder, under a unique name.
    pub(crate) async fn listen_by_default() -> anyhow::Result<Self> {
        let folder = default_folder()?;
        if !folder.exists() {
            private_folder(&folder).with_context(|| format!("failed to create the folder {}", folder.display()))?;
        }
        check_private(&folder)?;
        // Killed runtimes leave their socket files behind.
        for path in sockets_in(&folder)? {
            let _ = remove_stale_socket(&path).await;
        }
        Self::listen(&folder.join(format!("{}.sock", std::process::id()))).await
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.file);
        if ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Connects to all sockets in the user's own folder that have a listener of this user, or of root.
pub(crate) async fn listening() -> anyhow::Result<Vec<(PathBuf, UnixStream)>> {
    let folder = default_folder()?;
    let mut found = Vec::new();
    if folder.exists() {
        check_private(&folder)?;
        for path in sockets_in(&folder)? {
            // Only root can put the socket of another user into this folder.
            if let Ok(stream) = UnixStream::connect(&path).await
                && is_trusted(&stream)
            {
                found.push((path, stream));
            }
        }
    }
    Ok(found)
}

/// Returns `true` if the peer is a process of this user, or of root.
pub(crate) fn is_trusted(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || own_uid().is_ok_and(|own| own == peer.uid()))
}

/// Returns the default folder of sockets, which only this user can read.
fn default_folder() -> anyhow::Result<PathBuf> {
    let of_session = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|folder| folder.is_absolute());
    Ok(match of_session {
        Some(folder) => folder.join("protostub"),
        None => env::temp_dir().join(format!("protostub-{}", own_uid()?)),
    })
}

fn own_uid() -> io::Result<u32> {
    let (one, _other) = UnixStream::pair()?;
    Ok(one.peer_cred()?.uid())
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn private_folder(folder: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        outcome => outcome,
    }
}

/// Rejects a folder that others can write to: there, any user could pose as the runtime.
fn check_private(folder: &Path) -> anyhow::Result<()> {
    let metadata =
        fs::symlink_metadata(folder).with_context(|| format!("failed to read the metadata of {}", folder.display()))?;
    if !metadata.is_dir() || metadata.uid() != own_uid()? || metadata.mode() & 0o077 != 0 {
        bail!(
            "{} is not a folder that only this user can use; remove it, or choose another socket with --socket",
            folder.display()
        );
    }
    Ok(())
}

fn sockets_in(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("failed to list the folder {}", folder.display()))?;
    let mut sockets: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "sock"))
        .collect();
    sockets.sort();
    Ok(sockets)
}

/// Removes a socket file without a listener.
async fn remove_stale_socket(path: &Path) -> anyhow::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if !metadata.file_type().is_socket() {
        bail!("the path exists, but is not a socket; choose another path");
    }
    if metadata.uid() != own_uid()? {
        bail!("the socket belongs to another user; choose another path");
    }
    match UnixStream::connect(path).await {
        Ok(_) => bail!("another runtime listens at this path; choose another path"),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(fs::remove_file(path)?),
        Err(error) => Err(error.into()),
    }
}
