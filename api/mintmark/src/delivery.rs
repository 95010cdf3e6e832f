//! The files that a minted SVID is handed over in. Each is written whole under another name and then
//! renamed, so that a reader meets the old file or the new one and never half of either.

use std::fs::{self, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use thiserror::Error;
use zeroize::Zeroizing;

/// An X.509-SVID as PEM texts.
#[derive(Debug)]
pub struct Delivery {
    /// Leaf first, then intermediates; no root.
    pub svid: String,
    /// The X.509 authorities of the trust domain.
    pub bundle: String,
    /// The private key in PKCS#8, if it was made here.
    pub key: Option<PrivateKey>,
}

/// A private key in PEM, wiped when it goes; never shown by `Debug`.
pub struct PrivateKey(pub Zeroizing<String>);

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

/// Where the parts of a delivery are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Delivered {
    /// `svid.pem`
    pub svid: PathBuf,
    /// `bundle.pem`
    pub bundle: PathBuf,
    /// `key.pem`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

/// Why a delivery failed; what was there before is still there, whole.
#[derive(Debug, Error)]
#[error("cannot write {}: {source}", path.display())]
pub struct DeliveryError {
    path: PathBuf,
    source: io::Error,
}

impl Delivery {
    /// Writes the files into `folder`, which is made if it is missing. `key.pem` has mode 0600, the
    /// others 0644.
    pub fn write(&self, folder: &Path) -> Result<Delivered, DeliveryError> {
        fs::create_dir_all(folder)
            .map_err(|source| DeliveryError { path: folder.to_owned(), source })?;
        // All three lie ready before the first takes its place, and the key goes first: a full disk
        // changes nothing, and a new certificate is never beside an older key for longer than a rename.
        let key = self.key.as_ref().map(|key| Ready::new(folder, "key.pem", &key.0, 0o600));
        let key = key.transpose()?;
        let bundle = Ready::new(folder, "bundle.pem", &self.bundle, 0o644)?;
        let svid = Ready::new(folder, "svid.pem", &self.svid, 0o644)?;
        let key = key.map(Ready::place).transpose()?;
        Ok(Delivered { key, bundle: bundle.place()?, svid: svid.place()? })
    }
}

/// A file that is complete and has not got its name yet; gone if it never gets it.
struct Ready {
    file: tempfile::NamedTempFile,
    path: PathBuf,
}

impl Ready {
    fn new(folder: &Path, name: &str, content: &str, mode: u32) -> Result<Self, DeliveryError> {
        let path = folder.join(name);
        let write = || {
            let mut file = tempfile::Builder::new()
                .prefix(".mintmark-")
                .permissions(Permissions::from_mode(mode))
                .tempfile_in(folder)?;
            file.write_all(content.as_bytes())?;
            file.as_file().sync_all()?;
            Ok(file)
        };
        match write() {
            Ok(file) => Ok(Self { file, path }),
            Err(source) => Err(DeliveryError { path, source }),
        }
    }

    fn place(self) -> Result<PathBuf, DeliveryError> {
        match self.file.persist(&self.path) {
            Ok(_) => Ok(self.path),
            Err(error) => Err(DeliveryError { path: self.path, source: error.error }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(text: &str, with_key: bool) -> Delivery {
        let key = with_key.then(|| PrivateKey(Zeroizing::new(text.to_owned())));
        Delivery { svid: text.to_owned(), bundle: text.to_owned(), key }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_key_is_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a/b");
        let delivered = delivery("text", true).write(&target).unwrap();
        assert_eq!(mode(&delivered.key.unwrap()), 0o600);
        assert_eq!(mode(&delivered.svid) & 0o600, 0o600);
        assert_eq!(fs::read_to_string(delivered.bundle).unwrap(), "text");
        assert_eq!(fs::read_dir(&target).unwrap().count(), 3);
    }

    #[test]
    fn a_key_that_was_not_made_here_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("key.pem"), "theirs").unwrap();
        let delivered = delivery("new", false).write(folder.path()).unwrap();
        assert_eq!(delivered.key, None);
        assert_eq!(fs::read_to_string(folder.path().join("key.pem")).unwrap(), "theirs");
    }

    #[test]
    fn a_delivery_that_fails_leaves_no_trace() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("svid.pem"), "old").unwrap();
        // A folder in the place of the key cannot be replaced by a file.
        fs::create_dir(folder.path().join("key.pem")).unwrap();
        let error = delivery("new", true).write(folder.path()).unwrap_err().to_string();
        assert!(error.contains("key.pem"), "{error}");
        assert_eq!(fs::read_to_string(folder.path().join("svid.pem")).unwrap(), "old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn debug_output_holds_no_key() {
        let key = PrivateKey(Zeroizing::new("secret".into()));
        assert_eq!(format!("{key:?}"), "PrivateKey(..)");
    }
}
