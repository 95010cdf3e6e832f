//! What a configuration points at: do the folders, secrets and libraries exist, and are they guarded?
//!
//! Logs in to no token, asks no server and opens no key, so that it can be run beside a working server. What is found is
//! as of now and for the user who asks; run it as the user of the server.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use keymanager::memory::Protection;
use keymanager::{Pkcs11Store, SealKey, SecretSource};
use mintmark_signer::AdminSocket;
use serde::Serialize;

use crate::config::{Admin, Backend, KeySettings, Pkcs11Settings, Settings, SoftwareSettings};
use crate::keys;

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

/// Looks at everything that the settings name, in the order of the file, and at what the system permits.
pub async fn inspect(settings: &Settings, protection: &Protection) -> Vec<Finding> {
    let mut findings = vec![socket(&settings.admin).of("[server.admin] socket")];
    let domain = settings.trust_domain.name();
    for (name, store) in &settings.keys {
        let section = format!("[keys.{name}]");
        match &store.backend {
            Backend::Software(SoftwareSettings { dir, seal_key }) => {
                findings.push(guarded_folder(dir, REACH).of(&format!("{section} dir")));
                findings.push(seal(seal_key).await.of(&format!("{section} seal_key")));
            }
            Backend::Pkcs11(settings) => {
                let library = library(&settings.module);
                // A library that others may change is not loaded.
                let is_sound = library.verdict == Verdict::Good;
                findings.push(library.of(&format!("{section} module")));
                if is_sound {
                    findings.push(token(settings).await.of(&format!("{section} token")));
                }
                findings.push(secret(&settings.pin).await.of(&format!("{section} pin")));
            }
            Backend::AwsKms(account) => {
                findings.push(unasked(store, domain, "AWS KMS").of(&section));
                if let Some(file) = &account.credentials_file {
                    let file = SecretSource::File(file.clone());
                    findings.push(secret(&file).await.of(&format!("{section} credentials_file")));
                }
            }
            Backend::Transit(engine) => {
                findings.push(unasked(store, domain, &engine.address).of(&section));
                if let Some(file) = &engine.ca_file {
                    findings.push(readable(file).of(&format!("{section} ca_file")));
                }
                let token = secret(&engine.access_token).await;
                findings.push(token.of(&format!("{section} access_token")));
            }
        }
    }
    findings.push(guarded_folder(&settings.store_dir, WRITE).of("[store] dir"));
    findings.extend(settings.metrics.map(|address| watchers(address).of("[metrics] listen")));
    findings.push(memory(protection).of("memory"));
    findings
}

impl Finding {
    fn of(self, setting: &str) -> Self {
        Self { setting: setting.to_owned(), ..self }
    }
}

fn good(detail: String) -> Finding {
    Finding { setting: String::new(), verdict: Verdict::Good, detail }
}

fn fault(detail: String) -> Finding {
    Finding { setting: String::new(), verdict: Verdict::Fault, detail }
}

/// The socket's folder is made at the first start if the one above it is there.
fn socket(admin: &Admin) -> Finding {
    if let Err(error) = AdminSocket::check(&admin.socket, admin.group.as_deref()) {
        return fault(error.to_string());
    }
    let folder = admin.socket.parent().unwrap_or(Path::new("/"));
    if folder.exists() {
        return writable(folder);
    }
    match folder.parent() {
        Some(above) if !above.exists() => fault(format!(
            "{} is not there; make it, owned by root or the server's user",
            above.display()
        )),
        _ => creatable(folder),
    }
}

/// Mode bits that let others into a folder, or let them change what is in it.
const REACH: u32 = 0o077;
const WRITE: u32 = 0o022;

/// A folder in which others may not do what `forbidden` names.
fn guarded_folder(folder: &Path, forbidden: u32) -> Finding {
    match fs::metadata(folder) {
        Ok(found) if !found.is_dir() => fault(format!("{} is no folder", folder.display())),
        Ok(found) if found.mode() & forbidden != 0 => fault(format!(
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

async fn seal(source: &SecretSource) -> Finding {
    if let Some(finding) = later_credential(source) {
        return finding;
    }
    match SealKey::read(source).await {
        Ok(_) => good(format!("{source} holds a key")),
        Err(error) => fault(error.to_string()),
    }
}

async fn secret(source: &SecretSource) -> Finding {
    if let Some(finding) = later_credential(source) {
        return finding;
    }
    match source.check().await {
        Ok(()) => good(format!("{source} is set and guarded")),
        Err(error) => fault(error.to_string()),
    }
}

/// A credential exists only while the service manager runs the server; elsewhere there is nothing to see.
fn later_credential(source: &SecretSource) -> Option<Finding> {
    let SecretSource::Credential(name) = source else { return None };
    std::env::var_os("CREDENTIALS_DIRECTORY").is_none().then(|| {
        good(format!(
            "credential {name} comes from systemd when it starts the server; not looked at"
        ))
    })
}

/// A key store on the network: what can be told without asking it.
fn unasked(store: &KeySettings, trust_domain: &str, place: &str) -> Finding {
    match keys::check(store, trust_domain) {
        Ok(()) => good(format!("well formed; {place} was not asked")),
        Err(error) => fault(error.to_string()),
    }
}

fn readable(file: &Path) -> Finding {
    match fs::File::open(file) {
        Ok(_) => good(format!("{} is there", file.display())),
        Err(error) => fault(format!("cannot read {}: {error}", file.display())),
    }
}

async fn token(settings: &Pkcs11Settings) -> Finding {
    match Pkcs11Store::find_token(&settings.module, &settings.token).await {
        Ok(place) => good(format!("{place} is there; its PIN was not tried")),
        Err(error) => fault(error.to_string()),
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

/// Whether the address is free is not tried: a server that runs has it.
fn watchers(address: SocketAddr) -> Finding {
    good(if address.ip().is_loopback() {
        format!("{address}, for this machine alone; whether it is free was not tried")
    } else {
        format!(
            "{address} tells whoever reaches it the names of keys and how much is minted; let the \
             network keep others away"
        )
    })
}

/// No fault: a server starts without. A service manager may permit more, or less, than it is here.
fn memory(protection: &Protection) -> Finding {
    let gaps = protection.gaps().iter().map(|gap| format!("; {gap}"));
    good(format!("as started here, {protection}{}", gaps.collect::<String>()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    fn with_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_folder_is_private_or_can_be_made() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("a/b");
        assert_eq!(guarded_folder(&folder, REACH).verdict, Verdict::Good);
        fs::create_dir_all(&folder).unwrap();
        with_mode(&folder, 0o755);
        let finding = guarded_folder(&folder, REACH);
        assert_eq!(finding.verdict, Verdict::Fault);
        assert!(finding.detail.contains("chmod 700 "), "{}", finding.detail);
        with_mode(&folder, 0o700);
        assert_eq!(guarded_folder(&folder, REACH).verdict, Verdict::Good);
    }

    #[tokio::test]
    async fn a_secret_is_a_file_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pin");
        let source = SecretSource::File(path.clone());
        assert_eq!(secret(&source).await.verdict, Verdict::Fault);
        fs::write(&path, "1234\n").unwrap();
        with_mode(&path, 0o640);
        assert!(secret(&source).await.detail.contains("chmod 600 "));
        with_mode(&path, 0o600);
        let found = secret(&source).await;
        assert_eq!(found.verdict, Verdict::Good);
        assert!(!found.detail.contains("1234"));
        assert!(seal(&source).await.detail.contains("64 hexadecimal digits"));
        fs::write(&path, "\n").unwrap();
        assert!(secret(&source).await.detail.contains("it is empty"));
    }

    #[test]
    fn a_socket_in_a_folder_that_anyone_may_write_to_is_a_fault() {
        let folder = tempfile::tempdir().unwrap();
        let mut admin = Admin { socket: folder.path().join("admin.sock"), group: None };
        assert_eq!(socket(&admin).verdict, Verdict::Good);
        with_mode(folder.path(), 0o777);
        assert!(socket(&admin).detail.contains("chmod go-w "));
        with_mode(folder.path(), 0o700);
        admin.group = Some("no-such-group".to_owned());
        assert!(socket(&admin).detail.contains("no-such-group"));
        admin = Admin { socket: folder.path().join("a/b/admin.sock"), group: None };
        assert!(socket(&admin).detail.contains("/a is not there"));
    }

    #[test]
    fn an_address_that_others_reach_is_told_as_such() {
        assert!(watchers(([127, 0, 0, 1], 9464).into()).detail.contains("this machine alone"));
        let open = watchers("[::]:9464".parse().unwrap());
        assert_eq!(open.verdict, Verdict::Good);
        assert!(open.detail.contains("whoever reaches it"), "{}", open.detail);
    }

    #[test]
    fn a_library_that_is_missing_says_what_to_install() {
        let finding = library(Path::new("/nowhere/libpkcs11.so"));
        assert_eq!(finding.verdict, Verdict::Fault);
        assert!(finding.detail.contains("install the vendor's"), "{}", finding.detail);
    }
}
