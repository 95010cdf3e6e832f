//! What a configuration points at: do the folders, secrets and libraries exist, and are they guarded?
//!
//! Opens no key store and uses no PIN, so that it can be run beside a working server. What is found is
//! as of now and for the user who asks; run it as the user of the server.

use std::fs::{self, Metadata};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use keymanager::SecretSource;
use serde::Serialize;

use crate::config::{KeySettings, Pkcs11Settings, Settings, SoftwareSettings};

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The setting, as `[section] key`.
    pub setting: String,
    /// How bad it is.
    pub verdict: Verdict,
    /// What was found, and what to do.
    pub detail: String,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be, or made when it is needed.
    Good,
    /// The server would not start, or would not be safe.
    Fault,
}

/// Looks at everything that the settings name, in the order of the file.
#[must_use]
pub fn inspect(settings: &Settings) -> Vec<Finding> {
    let mut findings = vec![Finding {
        setting: "[server.admin] socket".to_owned(),
        ..socket(&settings.admin.socket)
    }];
    for (name, store) in &settings.keys {
        let section = format!("[keys.{name}]");
        match store {
            KeySettings::Software(software) => inspect_software(&section, software, &mut findings),
            KeySettings::Pkcs11(token) => inspect_token(&section, token, &mut findings),
        }
    }
    findings
        .push(Finding { setting: "[store] dir".to_owned(), ..private_folder(&settings.store_dir) });
    findings
}

fn inspect_software(section: &str, settings: &SoftwareSettings, findings: &mut Vec<Finding>) {
    let SoftwareSettings { dir, seal_key } = settings;
    findings.push(Finding { setting: format!("{section} dir"), ..private_folder(dir) });
    findings.push(Finding { setting: format!("{section} seal_key"), ..secret(seal_key) });
}

fn inspect_token(section: &str, settings: &Pkcs11Settings, findings: &mut Vec<Finding>) {
    findings.push(Finding { setting: format!("{section} module"), ..library(&settings.module) });
    findings.push(Finding { setting: format!("{section} pin"), ..secret(&settings.pin) });
}

fn good(detail: String) -> Finding {
    Finding { setting: String::new(), verdict: Verdict::Good, detail }
}

fn fault(detail: String) -> Finding {
    Finding { setting: String::new(), verdict: Verdict::Fault, detail }
}

/// The folder of a socket must keep strangers out, since the mode of a socket alone does not everywhere.
fn socket(path: &Path) -> Finding {
    let folder = path.parent().unwrap_or(Path::new("/"));
    match fs::metadata(folder) {
        Ok(found) if !found.is_dir() => fault(format!("{} is no folder", folder.display())),
        Ok(found) if found.mode() & 0o022 != 0 => fault(format!(
            "others may write to {} (mode {:04o}) and put a socket of their own there; run: chmod go-w {}",
            folder.display(),
            found.mode() & 0o7777,
            folder.display()
        )),
        Ok(_) => writable(folder),
        Err(_) => creatable(folder),
    }
}

/// A folder for what nobody else may read.
fn private_folder(folder: &Path) -> Finding {
    match fs::metadata(folder) {
        Ok(found) if !found.is_dir() => fault(format!("{} is no folder", folder.display())),
        Ok(found) if found.mode() & 0o077 != 0 => fault(format!(
            "others can reach {} (mode {:04o}); run: chmod 700 {}",
            folder.display(),
            found.mode() & 0o7777,
            folder.display()
        )),
        Ok(_) => writable(folder),
        Err(_) => creatable(folder),
    }
}

fn writable(folder: &Path) -> Finding {
    match rustix::fs::access(folder, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK) {
        Ok(()) => good(format!("{} is there", folder.display())),
        Err(error) => {
            fault(format!("cannot write to {}: {error}; run as its owner", folder.display()))
        }
    }
}

/// A folder that is not there can be made if the nearest one above it is writable.
fn creatable(folder: &Path) -> Finding {
    let above = folder.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    match rustix::fs::access(above, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK) {
        Ok(()) => good(format!("{} will be made at the first start", folder.display())),
        Err(error) => fault(format!(
            "{} is not there and cannot be made in {}: {error}; make it, owned by the server's user, mode 0700",
            folder.display(),
            above.display()
        )),
    }
}

fn secret(source: &SecretSource) -> Finding {
    match source {
        SecretSource::File(path) => match fs::metadata(path) {
            Ok(found) => secret_file(path, &found),
            Err(error) => fault(format!("cannot read {}: {error}", path.display())),
        },
        SecretSource::Environment(name) if std::env::var_os(name).is_some() => {
            good(format!("environment variable {name} is set"))
        }
        // The server may be started with another environment than this command.
        SecretSource::Environment(name) => fault(format!(
            "environment variable {name} is not set here; it must be where the server starts"
        )),
        SecretSource::Credential(name) => match std::env::var_os("CREDENTIALS_DIRECTORY") {
            Some(folder) if Path::new(&folder).join(name).is_file() => {
                good(format!("credential {name} is there"))
            }
            Some(_) => {
                fault(format!("credential {name} is not loaded; add LoadCredential={name}:PATH"))
            }
            None => good(format!(
                "credential {name} is given by systemd when it starts the server; not looked at"
            )),
        },
    }
}

fn secret_file(path: &Path, found: &Metadata) -> Finding {
    let mode = found.permissions().mode() & 0o7777;
    if !found.is_file() {
        fault(format!("{} is no file", path.display()))
    } else if mode & 0o077 != 0 {
        fault(format!(
            "others can reach {} (mode {mode:04o}); run: chmod 600 {}",
            path.display(),
            path.display()
        ))
    } else if found.len() == 0 {
        fault(format!("{} is empty", path.display()))
    } else {
        match rustix::fs::access(path, rustix::fs::Access::READ_OK) {
            Ok(()) => good(format!("{} is there (mode {mode:04o})", path.display())),
            Err(error) => fault(format!("cannot read {}: {error}", path.display())),
        }
    }
}

fn library(path: &Path) -> Finding {
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => fault(format!("{} is no file", path.display())),
        // Whoever can change the library runs inside the server.
        Ok(found) if found.mode() & 0o022 != 0 => fault(format!(
            "others may change {} (mode {:04o}), which would run inside the server; run: chmod go-w {}",
            path.display(),
            found.mode() & 0o7777,
            path.display()
        )),
        Ok(_) => good(format!("{} is there", path.display())),
        Err(error) => fault(format!(
            "cannot read {}: {error}; install the vendor's PKCS#11 library or correct the path",
            path.display()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;

    fn with_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_folder_is_private_or_can_be_made() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("a/b");
        assert_eq!(private_folder(&folder).verdict, Verdict::Good);
        fs::create_dir_all(&folder).unwrap();
        with_mode(&folder, 0o755);
        let finding = private_folder(&folder);
        assert_eq!(finding.verdict, Verdict::Fault);
        assert!(finding.detail.contains("chmod 700 "), "{}", finding.detail);
        with_mode(&folder, 0o700);
        assert_eq!(private_folder(&folder).verdict, Verdict::Good);
    }

    #[test]
    fn a_secret_is_a_file_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pin");
        let look = || secret(&SecretSource::File(path.clone()));
        assert!(look().detail.contains("No such file"));
        fs::write(&path, "1234").unwrap();
        with_mode(&path, 0o640);
        assert!(look().detail.contains("chmod 600 "), "{}", look().detail);
        with_mode(&path, 0o600);
        assert_eq!(look().verdict, Verdict::Good);
        assert!(!look().detail.contains("1234"));
        fs::write(&path, "").unwrap();
        assert!(look().detail.contains("is empty"));
    }

    #[test]
    fn a_socket_in_a_folder_that_anyone_may_write_to_is_a_fault() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        assert_eq!(socket(&path).verdict, Verdict::Good);
        with_mode(folder.path(), 0o777);
        assert!(socket(&path).detail.contains("chmod go-w "));
    }

    #[test]
    fn a_library_that_is_missing_says_what_to_install() {
        let finding = library(Path::new("/nowhere/libpkcs11.so"));
        assert_eq!(finding.verdict, Verdict::Fault);
        assert!(finding.detail.contains("install the vendor's"), "{}", finding.detail);
    }
}
