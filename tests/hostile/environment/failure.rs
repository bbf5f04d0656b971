//! The failures of environments, and their recoveries.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use super::{names::Silence, process::Child};

/// Makes an environment fail, and returns the recovery.
pub(super) type Fail = fn(&Child, &Silence) -> io::Result<Recover>;

pub(super) type Recover = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// Numbers of free descriptors, one per turn. Each number makes another step of a deployment fail.
const FREE: [usize; 6] = [0, 2, 1, 4, 3, 0];
const TURN: Duration = Duration::from_millis(20);

/// Takes all descriptors but a few.
pub(super) fn few_descriptors(_: &Child, _: &Silence) -> io::Result<Recover> {
    let mut taken = vec![File::open("/dev/null")?];
    take_all(&mut taken);
    if taken.len() < 8 {
        return Err(io::Error::other("the process had too few descriptors from the start"));
    }
    let ended = Arc::new(AtomicBool::new(false));
    let end = Arc::clone(&ended);
    let turns = thread::spawn(move || {
        for free in FREE.into_iter().cycle() {
            if end.load(Ordering::Relaxed) {
                return;
            }
            take_all(&mut taken);
            taken.truncate(taken.len().saturating_sub(free));
            thread::sleep(TURN);
        }
    });
    Ok(Box::new(move || {
        ended.store(true, Ordering::Relaxed);
        turns.join().map_err(|_| io::Error::other("the thread that took descriptors has panicked"))
    }))
}

fn take_all(taken: &mut Vec<File>) {
    while let Ok(file) = File::open("/dev/null") {
        taken.push(file);
    }
}

/// Fills the disk of the cache directory.
pub(super) fn full_disk(child: &Child, _: &Silence) -> io::Result<Recover> {
    let path = child.cache().join("something-else");
    let mut file = File::create(&path)?;
    for size in [64 << 10, 1 << 10, 1] {
        while file.write_all(&vec![b'x'; size]).is_ok() {}
    }
    Ok(Box::new(move || fs::remove_file(path)))
}

/// Replaces each file by something that no program can read as a file.
fn replaced(child: &Child, replace: impl Fn(&Path) -> io::Result<()>) -> io::Result<Recover> {
    let mut files = Vec::new();
    find(&child.cache(), &mut files)?;
    if files.is_empty() {
        return Err(io::Error::other("the runtime has recorded nothing"));
    }
    let aside = child.folder.join("aside");
    fs::create_dir(&aside)?;
    let mut moved = Vec::new();
    for (n, path) in files.into_iter().enumerate() {
        let other = aside.join(n.to_string());
        fs::rename(&path, &other)?;
        replace(&path)?;
        moved.push((path, other));
    }
    Ok(Box::new(move || {
        for (path, other) in moved {
            // The runtime may have written a newer file.
            if !fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
                remove(&path)?;
                path.parent().map_or(Ok(()), fs::create_dir_all)?;
                fs::rename(other, path)?;
            }
        }
        Ok(())
    }))
}

/// Replaces each record by a folder (`EISDIR`).
pub(super) fn records_are_folders(child: &Child, _: &Silence) -> io::Result<Recover> {
    replaced(child, |path| {
        fs::create_dir(path)?;
        // A rename cannot replace a folder with contents.
        File::create(path.join("something-else")).map(drop)
    })
}

/// Replaces each record by a link to itself (`ELOOP`).
pub(super) fn records_are_loops(child: &Child, _: &Silence) -> io::Result<Recover> {
    replaced(child, |path| symlink(path.file_name().unwrap_or_default(), path))
}

/// Replaces each folder of records by a file (`ENOTDIR`).
pub(super) fn folders_are_files(child: &Child, _: &Silence) -> io::Result<Recover> {
    let mut moved = Vec::new();
    for entry in fs::read_dir(child.cache())? {
        let path = entry?.path();
        if path.is_dir() {
            let other = child.folder.join(format!("aside-{}", moved.len()));
            fs::rename(&path, &other)?;
            File::create(&path)?;
            moved.push((path, other));
        }
    }
    if moved.is_empty() {
        return Err(io::Error::other("the runtime has recorded nothing"));
    }
    Ok(Box::new(move || {
        for (path, other) in moved {
            if !path.is_dir() {
                remove(&path)?;
                fs::rename(other, path)?;
            }
        }
        Ok(())
    }))
}

/// Removes the cache directory and its contents.
pub(super) fn folders_are_gone(child: &Child, _: &Silence) -> io::Result<Recover> {
    fs::remove_dir_all(child.cache())?;
    Ok(Box::new(|| Ok(())))
}

/// Silences the name service.
pub(super) fn silent_names(_: &Child, silence: &Silence) -> io::Result<Recover> {
    silence.set(true);
    let silence = silence.clone();
    Ok(Box::new(move || {
        silence.set(false);
        Ok(())
    }))
}

/// Sets the clock back by a day. All records on disk are from the future then.
pub(super) fn clock_set_back(child: &Child, _: &Silence) -> io::Result<Recover> {
    let (clock, before) = (child.folder.join("clock"), SystemTime::now());
    set(&clock, "-1d")?;
    if SystemTime::now() > before {
        return Err(io::Error::other("libfaketime does not set the clock of this process"));
    }
    Ok(Box::new(move || set(&clock, "+0")))
}

/// Replaces the file at once: libfaketime reads it whenever the process reads the clock.
fn set(clock: &Path, offset: &str) -> io::Result<()> {
    let partial = clock.with_extension("partial");
    fs::write(&partial, format!("{offset}\n"))?;
    fs::rename(partial, clock)
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// Removes a file, a link, or a folder with its contents.
fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
