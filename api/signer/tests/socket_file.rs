//! The admin socket as a file: who may reach it, what it replaces, what it leaves behind.

#![expect(clippy::unwrap_used, reason = "a test states its expectations by unwrapping")]

use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use mintmark_signer::{AdminSocket, SocketError};
use rustix::fs::{FlockOperation, flock};
use rustix::process::getegid;
use tempfile::TempDir;

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn socket_and_new_directory_are_for_this_user_alone() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("mintmark/admin.sock");
    let socket = AdminSocket::bind(&path, None).unwrap();
    assert_eq!(socket.path(), path);
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
}

#[test]
fn a_group_may_enter_the_new_directory_and_use_the_socket() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("mintmark/admin.sock");
    let group = getegid().as_raw();
    let _socket = AdminSocket::bind(&path, Some(&group.to_string())).unwrap();
    for (path, expected) in [(path.as_path(), 0o660), (path.parent().unwrap(), 0o750)] {
        assert_eq!(mode(path), expected);
        assert_eq!(fs::metadata(path).unwrap().gid(), group);
    }
}

#[test]
fn an_unknown_group_is_refused_before_anything_is_made() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("mintmark/admin.sock");
    let error = AdminSocket::bind(&path, Some("no-such-group")).unwrap_err();
    assert!(error.to_string().contains("\"no-such-group\""), "{error}");
    assert!(!path.parent().unwrap().exists());
}

#[test]
fn a_directory_that_the_group_cannot_enter_is_refused() {
    let place = TempDir::new().unwrap();
    set_mode(place.path(), 0o700);
    let path = place.path().join("admin.sock");
    let group = getegid().as_raw().to_string();
    let error = AdminSocket::bind(&path, Some(&group)).unwrap_err();
    assert!(error.to_string().contains("cannot enter"), "{error}");
    set_mode(place.path(), 0o750);
    AdminSocket::bind(&path, Some(&group)).unwrap();
}

#[test]
fn what_a_dead_process_left_is_replaced() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("admin.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let _socket = AdminSocket::bind(&path, None).unwrap();
    assert_eq!(mode(&path), 0o600);
}

#[test]
fn a_live_socket_is_left_alone_and_named() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("admin.sock");
    let first = AdminSocket::bind(&path, None).unwrap();
    let error = AdminSocket::bind(&path, None).unwrap_err();
    assert!(matches!(error, SocketError::InUse(_)));
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    UnixStream::connect(first.path()).unwrap();
}

#[test]
fn a_live_socket_with_a_full_queue_is_not_taken_for_dead() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("admin.sock");
    let _first = AdminSocket::bind(&path, None).unwrap();
    let waiting: Vec<_> = std::iter::from_fn(|| connect_at_once(&path)).take(1000).collect();
    assert!(waiting.len() < 1000, "the queue never filled");
    assert!(matches!(AdminSocket::bind(&path, None), Err(SocketError::InUse(_))));
}

/// A connection, unless the queue is full.
fn connect_at_once(path: &Path) -> Option<std::os::fd::OwnedFd> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
    let socket = rustix::net::socket_with(family, kind, SocketFlags::NONBLOCK, None).unwrap();
    rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).ok().map(|()| socket)
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("admin.sock");
    fs::write(&path, "precious").unwrap();
    assert!(matches!(AdminSocket::bind(&path, None), Err(SocketError::Occupied(_))));
    assert_eq!(fs::read(&path).unwrap(), b"precious");

    let link = place.path().join("link.sock");
    std::os::unix::fs::symlink("elsewhere", &link).unwrap();
    assert!(matches!(AdminSocket::bind(&link, None), Err(SocketError::Occupied(_))));
}

#[test]
fn a_path_of_107_bytes_is_the_longest() {
    let place = TempDir::new().unwrap();
    let taken = place.path().as_os_str().as_bytes().len() + 1;
    let path = place.path().join("s".repeat(107 - taken));
    AdminSocket::bind(&path, None).unwrap();

    let path = place.path().join("s".repeat(108 - taken));
    let error = AdminSocket::bind(&path, None).unwrap_err().to_string();
    assert!(error.contains("108 bytes") && error.contains("107"), "{error}");
    assert!(error.contains(path.to_str().unwrap()) && error.contains("shorter path"), "{error}");
}

#[test]
fn a_directory_that_others_may_write_to_is_refused() {
    let place = TempDir::new().unwrap();
    for open in [0o777, 0o1777, 0o702, 0o770, 0o775] {
        set_mode(place.path(), open);
        let error = AdminSocket::bind(&place.path().join("admin.sock"), None).unwrap_err();
        assert!(matches!(error, SocketError::Directory { .. }), "{error}");
        assert!(error.to_string().contains("chmod go-w"), "{error}");
    }
    set_mode(place.path(), 0o755);
    AdminSocket::bind(&place.path().join("admin.sock"), None).unwrap();
}

#[test]
fn a_file_in_the_place_of_the_directory_is_named() {
    let place = TempDir::new().unwrap();
    let file = place.path().join("file");
    fs::write(&file, "").unwrap();
    let error = AdminSocket::bind(&file.join("admin.sock"), None).unwrap_err();
    assert!(error.to_string().contains("/file: cannot open the directory"), "{error}");
}

#[test]
fn a_directory_is_made_only_where_its_parent_exists() {
    let place = TempDir::new().unwrap();
    let error = AdminSocket::bind(&place.path().join("a/b/admin.sock"), None).unwrap_err();
    assert!(error.to_string().contains("/a/b: cannot create the directory"), "{error}");
    assert!(!place.path().join("a").exists());
}

#[test]
fn servers_that_start_together_take_turns() {
    let place = TempDir::new().unwrap();
    let directory = fs::File::open(place.path()).unwrap();
    flock(&directory, FlockOperation::LockExclusive).unwrap();
    let path = place.path().join("admin.sock");
    assert!(matches!(AdminSocket::bind(&path, None), Err(SocketError::Starting(_))));
    drop(directory);
    let _first = AdminSocket::bind(&path, None).unwrap();
    // The turn ends with the binding.
    AdminSocket::bind(&place.path().join("other.sock"), None).unwrap();
}

#[test]
fn the_file_goes_with_the_socket_unless_another_took_its_place() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("admin.sock");
    drop(AdminSocket::bind(&path, None).unwrap());
    assert!(!path.exists());

    let old = AdminSocket::bind(&path, None).unwrap();
    fs::rename(&path, place.path().join("moved.sock")).unwrap();
    let _new = AdminSocket::bind(&path, None).unwrap();
    drop(old);
    assert!(path.exists());
}
