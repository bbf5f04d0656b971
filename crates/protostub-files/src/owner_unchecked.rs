//! The checks of [`CHECKS_OTHER_USERS`](crate::CHECKS_OTHER_USERS) on systems without them. Access
//! lists of such systems are the operator's.

#![expect(clippy::unnecessary_wraps, reason = "on Unix there is something to check")]

use std::{fs, io, path::Path};

use crate::writers::OtherWriters;

pub(crate) fn check_links(_: &Path, _: OtherWriters) -> io::Result<()> {
    Ok(())
}

pub(crate) fn close_folder(_: &Path, _: OtherWriters) -> io::Result<()> {
    Ok(())
}

pub(crate) fn check_folder_of_key(_: &Path, _: OtherWriters) -> io::Result<()> {
    Ok(())
}

pub(crate) fn close_key(_: &fs::File, _: &Path, _: OtherWriters) -> io::Result<()> {
    Ok(())
}
