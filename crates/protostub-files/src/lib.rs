//! Folders and keys that only the user of this process can change, and files that appear whole.
//!
//! The host executes compiled code from disk, and trusts records of accepted versions and of
//! domains' keys. Another local user must not be able to write, replace or redirect them.
//! [`private_folder`] checks a folder with the whole path to it. [`secret_key`] returns the key
//! that authenticates the files in such folders. [`create_partial`] creates a file that has no name
//! until it is complete.
//!
//! On systems other than Unix, this crate knows nothing about other users and checks nothing:
//! [`CHECKS_OTHER_USERS`].

mod folder;
mod key;
#[cfg_attr(not(unix), path = "owner_unchecked.rs")]
mod owner;
mod partial;
mod writers;

pub use self::{
    folder::private_folder,
    key::{KEY_BYTES, Key, restore_secret_key, secret_key},
    partial::{create_partial, remove_abandoned},
    writers::OtherWriters,
};

/// `true` if this crate checks the access of other users. `false` on systems other than Unix, for
/// example Windows: there, the operator keeps other users away from the folders and keys.
pub const CHECKS_OTHER_USERS: bool = cfg!(unix);
