//! The admin socket: a unix socket whose file permissions say who may call, and whose kernel says who
//! does.

mod connection;
mod directory;
mod group;

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, chmod, chown, fchmod};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};
use thiserror::Error;
use tokio::sync::oneshot;

pub(crate) use self::connection::caller;
use self::directory::Directory;
use self::group::Group;
use crate::audit::Audit;
use crate::services::Services;

/// Longest path of a unix socket in bytes: `sun_path` holds 108 with the final NUL (unix(7)).
pub const LONGEST_PATH: usize = 107;

/// How many connections the kernel holds while all places are taken.
const BACKLOG: i32 = 128;

/// How long calls under way may take to end once the socket closes. As long as a call may take at all
/// would keep a stop waiting for a client that is gone.
const GRACE: Duration = Duration::from_secs(5);

/// A bound admin socket. Its file goes when it is dropped, if it is still this one.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    file: SocketFile,
}

/// Why the admin socket cannot be had.
#[derive(Debug, Error)]
pub enum SocketError {
    /// The path does not fit into a socket address.
    #[error(
        "path {path} of the admin socket has {length} bytes; unix sockets take {LONGEST_PATH}, so choose a \
         shorter path"
    )]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// How long it is.
        length: usize,
    },
    /// Another process listens there.
    #[error(
        "admin socket {0} is in use by a running server; stop that server, or choose another path"
    )]
    InUse(PathBuf),
    /// Something that is no socket is in the way.
    #[error(
        "{0} exists and is not a socket; move it away, or choose another path for the admin socket"
    )]
    Occupied(PathBuf),
    /// Another server is binding a socket in the same directory.
    #[error("another server is starting in {0}; try again when it is done")]
    Starting(PathBuf),
    /// The directory does not keep others from taking the socket's place.
    #[error("directory {directory} is not safe for the admin socket: {reason}")]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// Who could do what, and how to mend it.
        reason: String,
    },
    /// No such group.
    #[error(
        "group {0:?} of the admin socket is not in /etc/group; create it, or give a group's number"
    )]
    Group(String),
    /// The operating system refused a step.
    #[error("{path}: cannot {action}: {source}")]
    System {
        /// The file or directory.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl AdminSocket {
    /// Binds the socket at `path`, for this user alone or, with `group` (a name of `/etc/group`, or a
    /// number), for that group too.
    ///
    /// A missing directory is made, mode 0700 (0750 with a group); one that is there must keep others
    /// from replacing the socket. What a dead process left behind is removed.
    pub fn bind(path: &Path, group: Option<&str>) -> Result<Self, SocketError> {
        let group = admissible(path, group)?;
        let directory = Directory::prepare(path, group)?;
        // Two servers that start at once must not both take the socket for a dead one's.
        let claim = directory.claim()?;
        remove_stale(path)?;
        let (listener, file) = listen_at(path)?;
        if let Some(group) = group {
            chown(path, None, Some(group.gid())).map_err(system(path, "give it to the group"))?;
            chmod(path, Mode::from_raw_mode(0o660)).map_err(system(path, "set its mode"))?;
        }
        drop(claim);
        Ok(Self { listener, file })
    }

    /// Whether path, group and the directory, if it is there, would do for [`bind`](Self::bind). Changes
    /// nothing, and does not mind a server that listens there.
    pub fn check(path: &Path, group: Option<&str>) -> Result<(), SocketError> {
        Directory::look(path, admissible(path, group)?)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Answers until `shutdown` resolves. Then the file goes, calls under way get a few seconds to end.
    /// What is left then lives until the runtime ends, as the process is about to.
    pub async fn serve(
        self,
        services: Services,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), SocketError> {
        let Self { listener, file } = self;
        let path = file.path.clone();
        let listener = tokio::net::UnixListener::from_std(listener).map_err(|source| {
            SocketError::System { path: path.clone(), action: "listen", source }
        })?;
        let audit = Arc::new(Audit::new(services.metrics.clone(), Instant::now()));
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = services
            .router(&audit)
            .serve_with_incoming_shutdown(connection::incoming(listener), async {
                stopped.await.unwrap_or(())
            });
        let ending = async {
            shutdown.await;
            drop((file, stop));
            tokio::time::sleep(GRACE).await;
        };
        let ended = tokio::select! {
            served = serving => served.map_err(|error| SocketError::System {
                path,
                action: "serve",
                source: io::Error::other(error),
            }),
            () = ending => {
                tracing::warn!("admin socket: calls did not end in time; they end with the process");
                Ok(())
            }
        };
        audit.close();
        ended
    }
}

/// Refuses a path that no socket can have, and finds the group.
fn admissible(path: &Path, group: Option<&str>) -> Result<Option<Group>, SocketError> {
    let length = path.as_os_str().as_bytes().len();
    if length > LONGEST_PATH {
        return Err(SocketError::PathTooLong { path: path.to_owned(), length });
    }
    group.map(Group::find).transpose()
}

fn system<E: Into<io::Error>>(path: &Path, action: &'static str) -> impl FnOnce(E) -> SocketError {
    move |error| SocketError::System { path: path.to_owned(), action, source: error.into() }
}

/// Removes a socket on which nobody listens; anything else there is an error.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(system(path, "look at it")(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SocketError::Occupied(path.to_owned()));
        }
        Ok(_) => {}
    }
    let (probe, address) = new_socket(path)?;
    match connect(&probe, &address) {
        Err(Errno::CONNREFUSED) => std::fs::remove_file(path).map_err(system(path, "remove it")),
        // It listens, and its backlog may be full.
        Ok(()) | Err(Errno::AGAIN) => Err(SocketError::InUse(path.to_owned())),
        Err(error) => Err(system(path, "tell whether a server listens there")(error)),
    }
}

fn listen_at(path: &Path) -> Result<(UnixListener, SocketFile), SocketError> {
    let mode = Mode::from_raw_mode(0o600);
    let (socket, address) = new_socket(path)?;
    // Linux makes the file with the mode of the socket: at no time may others connect.
    fchmod(&socket, mode).map_err(system(path, "set its mode"))?;
    bind(&socket, &address).map_err(system(path, "bind it"))?;
    let file = SocketFile::of(path)?;
    // The umask may have taken more away.
    chmod(path, mode).map_err(system(path, "set its mode"))?;
    listen(&socket, BACKLOG).map_err(system(path, "listen"))?;
    Ok((UnixListener::from(socket), file))
}

fn new_socket(path: &Path) -> Result<(OwnedFd, SocketAddrUnix), SocketError> {
    let address = SocketAddrUnix::new(path).map_err(system(path, "use it as an address"))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(system(path, "make a socket"))?;
    Ok((socket, address))
}

/// The file of the socket, removed on drop unless another has taken its place.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn of(path: &Path) -> Result<Self, SocketError> {
        let found = path.symlink_metadata().map_err(system(path, "look at it"))?;
        Ok(Self { path: path.to_owned(), device: found.dev(), inode: found.ino() })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = self
            .path
            .symlink_metadata()
            .is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode));
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "admin socket cannot be removed");
        }
    }
}
