//! A directory of sealed keys, one file each: `<authority>+<generation>.sealed`.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ca_core::key::{KeyError, KeyName, KeyType};

use super::seal::{self, LONGEST, SealKey, Unsealed, sync_parent};

/// Ends the file name of every sealed key.
const SUFFIX: &str = ".sealed";

/// The sealed keys of one trust domain. Every call blocks on the disk.
pub(super) struct SealedDirectory {
    path: PathBuf,
    seal: SealKey,
    trust_domain: String,
    place: String,
}

impl SealedDirectory {
    /// Makes the directory, and those above it (mode 0700), if it is not there; refuses one that others can
    /// reach.
    pub(super) fn open(
        path: PathBuf,
        seal: SealKey,
        trust_domain: String,
    ) -> Result<Self, KeyError> {
        let place = format!("sealed files in {}", path.display());
        let directory = Self { path, seal, trust_domain, place };
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&directory.path);
        match made.and_then(|()| sync_parent(&directory.path)) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(directory.failed("cannot make the directory", error));
            }
            _ => {}
        }
        directory.check_guarded()?;
        Ok(directory)
    }

    /// For people.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    fn check_guarded(&self) -> Result<(), KeyError> {
        let setup = |reason| KeyError::Setup { place: self.place.clone(), reason };
        let metadata =
            fs::metadata(&self.path).map_err(|error| self.failed("cannot look at it", error))?;
        let shown = self.path.display();
        if !metadata.is_dir() {
            return Err(setup(format!("{shown} is not a directory; move it away")));
        }
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(setup(format!(
                "others can reach it (mode {mode:04o}); run: chmod 700 {shown}"
            )));
        }
        let user = rustix::process::geteuid().as_raw();
        if metadata.uid() != user {
            let owner = metadata.uid();
            return Err(setup(format!("it belongs to user {owner}; run: chown {user} {shown}")));
        }
        Ok(())
    }

    /// Refuses a name that is taken, before the work of making a key.
    pub(super) fn check_vacant(&self, name: &KeyName) -> Result<(), KeyError> {
        match fs::symlink_metadata(self.path_of(name)) {
            Ok(_) => Err(KeyError::Exists(name.clone())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(self.failed("cannot look for the key", error)),
        }
    }

    /// Seals a new key. Either the whole file is there under its name and on the disk, or nothing is;
    /// an existing file is never replaced.
    pub(super) fn write_new(
        &self,
        name: &KeyName,
        key_type: KeyType,
        pkcs8: &[u8],
    ) -> Result<(), KeyError> {
        let sealed = self.seal.seal(&self.bound(name), key_type, pkcs8)?;
        let path = self.path_of(name);
        let draft = self.path.join(draft_name()?);
        let written = write_draft(&draft, &sealed).and_then(|()| fs::hard_link(&draft, &path));
        // The draft is a second name of the file by now, or a part of it after a failure.
        let removed = fs::remove_file(&draft);
        match written {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                return Err(KeyError::Exists(name.clone()));
            }
            Err(error) => return Err(self.failed("cannot write the key", error)),
            Ok(()) => {}
        }
        removed
            .and_then(|()| File::open(&self.path)?.sync_all())
            .map_err(|error| self.failed("cannot make the new file permanent", error))
    }

    /// The key of that name, or `None` if there is no such file.
    pub(super) fn read(&self, name: &KeyName) -> Result<Option<Unsealed>, KeyError> {
        let path = self.path_of(name);
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let opened =
            OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(&path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed("cannot open the key", error)),
        };
        let mut sealed = Vec::new();
        file.take(LONGEST as u64 + 1)
            .read_to_end(&mut sealed)
            .map_err(|error| self.failed("cannot read the key", error))?;
        self.seal.open(&self.bound(name), &sealed).map(Some)
    }

    /// Removes the file of that name for good, and says so. Its bytes may stay on the disk until it reuses
    /// them: sealed, as a lost backup would be.
    pub(super) fn remove(&self, name: &KeyName) -> Result<String, KeyError> {
        let path = self.path_of(name);
        match fs::remove_file(&path).and_then(|()| File::open(&self.path)?.sync_all()) {
            Ok(()) => Ok(format!("removed {}", path.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(KeyError::NotFound(name.clone()))
            }
            Err(error) => Err(self.failed("cannot remove the key", error)),
        }
    }

    /// The names that have a file, in order.
    pub(super) fn names(&self) -> Result<Vec<KeyName>, KeyError> {
        let read = || -> io::Result<Vec<KeyName>> {
            let mut names = Vec::new();
            for entry in fs::read_dir(&self.path)? {
                names.extend(entry?.file_name().to_str().and_then(|file| self.name_of(file)));
            }
            Ok(names)
        };
        let mut names = read().map_err(|error| self.failed("cannot list the keys", error))?;
        names.sort();
        Ok(names)
    }

    fn bound<'a>(&'a self, name: &'a KeyName) -> seal::Place<'a> {
        seal::Place { trust_domain: &self.trust_domain, name, path: self.path_of(name) }
    }

    /// The directory serves one trust domain, so a file name need not hold it, and stays short.
    pub(super) fn path_of(&self, name: &KeyName) -> PathBuf {
        self.path.join(format!("{}+{}{SUFFIX}", name.authority(), name.generation()))
    }

    fn name_of(&self, file: &str) -> Option<KeyName> {
        let (authority, generation) = file.strip_suffix(SUFFIX)?.split_once('+')?;
        KeyName::parse(&format!("mintmark/{}/{authority}/{generation}", self.trust_domain)).ok()
    }

    fn failed(&self, what: &str, error: io::Error) -> KeyError {
        let place = self.place.clone();
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                let reason = format!("{what}: {error}; free some space and try again");
                KeyError::Unavailable { place, reason }
            }
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                let user = rustix::process::geteuid().as_raw();
                let reason = format!("{what}: {error}; let user {user} write there");
                KeyError::Setup { place, reason }
            }
            ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename => {
                let parent = self.path.parent().unwrap_or(Path::new("/")).display();
                let reason = format!("{what}: {error}; make {parent} first, or name another");
                KeyError::Setup { place, reason }
            }
            _ => KeyError::Unavailable { place, reason: format!("{what}: {error}") },
        }
    }
}

fn write_draft(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// A name that no other creation uses and that [`SealedDirectory::names`] skips.
fn draft_name() -> Result<String, KeyError> {
    let mut random = [0; 8];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| KeyError::Unavailable {
        place: "the cryptography library".to_owned(),
        reason: "it gives no random bytes".to_owned(),
    })?;
    Ok(format!(".{:016x}.draft", u64::from_be_bytes(random)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> Result<SealedDirectory, KeyError> {
        let key = path.with_extension("seal");
        let seal =
            tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
                let _ = fs::remove_file(&key);
                SealKey::create_file(&key).await
            })?;
        SealedDirectory::open(path.to_owned(), seal, "a.test".to_owned())
    }

    #[test]
    fn a_full_disk_is_unavailable_and_a_read_only_one_a_matter_of_set_up() {
        let parent = tempfile::tempdir().unwrap();
        let directory = open(&parent.path().join("keys")).unwrap();
        let failed = |kind: ErrorKind| directory.failed("cannot write the key", kind.into());
        assert!(matches!(failed(ErrorKind::StorageFull), KeyError::Unavailable { .. }));
        assert!(failed(ErrorKind::StorageFull).to_string().contains("free some space"));
        assert!(matches!(failed(ErrorKind::ReadOnlyFilesystem), KeyError::Setup { .. }));
        assert!(matches!(failed(ErrorKind::PermissionDenied), KeyError::Setup { .. }));
    }

    #[test]
    fn file_names_and_key_names_belong_together() {
        let parent = tempfile::tempdir().unwrap();
        let directory = open(&parent.path().join("keys")).unwrap();
        let name = KeyName::parse("mintmark/a.test/x509/3").unwrap();
        let path = directory.path_of(&name);
        assert_eq!(path.file_name().unwrap(), "x509+3.sealed");
        assert_eq!(directory.name_of("x509+3.sealed"), Some(name));
        for file in
            ["x509+3", "x509.sealed", "X+1.sealed", "x509+1+2.sealed", ".0.draft", "+.sealed"]
        {
            assert_eq!(directory.name_of(file), None, "{file}");
        }
    }
}
