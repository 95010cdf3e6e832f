//! The directory of the admin socket. Whoever can write to it can put a socket of their own in place.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, fchmod, fchown, flock};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::group::Group;
use super::{SocketError, system};

/// Opens nothing but a directory.
const O_DIRECTORY: i32 = OFlags::DIRECTORY.bits().cast_signed();

/// A directory that has passed its checks.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    open: File,
}

/// Holds the right to bind in the directory until it is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    #[expect(dead_code, reason = "closing it gives the claim up")]
    open: File,
}

impl Directory {
    /// Makes the directory of `socket`, or checks the one that is there.
    pub(super) fn prepare(socket: &Path, group: Option<Group>) -> Result<Self, SocketError> {
        let path = of(socket);
        let made = make(&path)?;
        let directory = Self::open(path)?;
        match group {
            Some(group) if made => directory.give_to(group)?,
            _ => directory.check(group)?,
        }
        Ok(directory)
    }

    /// Checks the directory of `socket` if it is there, and changes nothing.
    pub(super) fn look(socket: &Path, group: Option<Group>) -> Result<(), SocketError> {
        let path = of(socket);
        if path.exists() { Self::open(path)?.check(group) } else { Ok(()) }
    }

    fn open(path: PathBuf) -> Result<Self, SocketError> {
        let open = OpenOptions::new()
            .read(true)
            .custom_flags(O_DIRECTORY)
            .open(&path)
            .map_err(system(&path, "open the directory"))?;
        Ok(Self { path, open })
    }

    /// Keeps other servers from binding in the directory at the same time.
    pub(super) fn claim(self) -> Result<Claim, SocketError> {
        match flock(&self.open, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Claim { open: self.open }),
            Err(Errno::WOULDBLOCK) => Err(SocketError::Starting(self.path)),
            Err(error) => Err(system(&self.path, "lock the directory")(error)),
        }
    }

    fn give_to(&self, group: Group) -> Result<(), SocketError> {
        fchown(&self.open, None, Some(group.gid()))
            .map_err(system(&self.path, "give the directory to the group"))?;
        fchmod(&self.open, Mode::from_raw_mode(0o750))
            .map_err(system(&self.path, "set the directory's mode"))
    }

    fn check(&self, group: Option<Group>) -> Result<(), SocketError> {
        let found = self.open.metadata().map_err(system(&self.path, "look at the directory"))?;
        let path = self.path.display();
        let unsafe_because =
            |reason: String| Err(SocketError::Directory { directory: self.path.clone(), reason });
        let us = geteuid().as_raw();
        if found.uid() != us && found.uid() != 0 {
            return unsafe_because(format!(
                "it belongs to uid {}; it has to belong to uid {us} or to root",
                found.uid(),
            ));
        }
        // Not even by our own group: on some systems it is that of every user.
        if found.mode() & 0o022 != 0 {
            return unsafe_because(format!(
                "others may write to it (mode {:04o}) and could put a socket of their own in place; run \
                 chmod go-w {path}, or choose another directory",
                found.mode() & 0o7777,
            ));
        }
        match group {
            Some(group) if !lets_in(&found, group) => unsafe_because(format!(
                "group {} cannot enter it (mode {:04o}); run chgrp {0} {path} and chmod g+x {path}",
                group.number(),
                found.mode() & 0o7777,
            )),
            _ => Ok(()),
        }
    }
}

/// The directory of a socket.
fn of(socket: &Path) -> PathBuf {
    match socket.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Makes the directory for this user alone, and says whether it was missing.
fn make(path: &Path) -> Result<bool, SocketError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(system(path, "create the directory")(error)),
    }
}

fn lets_in(found: &Metadata, group: Group) -> bool {
    let needed = if found.gid() == group.number() { 0o010 } else { 0o001 };
    found.mode() & needed != 0
}
