//! Where PINs and seal keys are read from: a file of mode 0600, the environment, a systemd credential.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use ca_core::key::KeyError;
use zeroize::Zeroizing;

use crate::blocking;

/// The longest secret that is read, in bytes. A PIN has a few, a seal key at most 64.
const LONGEST: u64 = 4096;

/// Names the place of a secret; holds no secret itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A file that only its owner can read, the owner being this process's user or root.
    File(PathBuf),
    /// An environment variable. Visible to whoever may read this process's `/proc` entry.
    Environment(String),
    /// A credential of the service manager: a file name in `$CREDENTIALS_DIRECTORY` (systemd.exec(5)).
    Credential(String),
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Credential(name) => write!(f, "systemd credential {name}"),
        }
    }
}

impl SecretSource {
    /// Whether there is a secret at this place, guarded as it must be. What it is is not looked at.
    ///
    /// # Errors
    /// [`KeyError::Setup`] with what is wrong and what to do.
    pub async fn check(&self) -> Result<(), KeyError> {
        let source = self.clone();
        blocking::run(&self.to_string(), move || {
            let secret = source.read()?;
            if trim_line_end(&secret).is_empty() {
                return Err(source.unusable("it is empty".to_owned()));
            }
            Ok(())
        })
        .await
    }

    /// The bytes of the secret as they stand there, at most 4096. Blocks on files.
    pub(crate) fn read(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        match self {
            Self::File(path) => self.read_file(path, true),
            Self::Environment(name) => {
                let value = std::env::var_os(name).ok_or_else(|| {
                    self.unusable(format!("it is not set; export {name} or name another source"))
                })?;
                Ok(Zeroizing::new(value.into_encoded_bytes()))
            }
            Self::Credential(name) => {
                let directory = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
                    let hint = "add LoadCredential= to the unit, or use a file";
                    self.unusable(format!("CREDENTIALS_DIRECTORY is not set; {hint}"))
                })?;
                let mut parts = Path::new(name).components();
                if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
                    return Err(self.unusable("a credential is a plain file name".to_owned()));
                }
                // The service manager guards the directory, by access lists that mode bits do not show.
                self.read_file(&Path::new(&directory).join(name), false)
            }
        }
    }

    fn read_file(&self, path: &Path, guarded: bool) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let failed = |error: std::io::Error| {
            let next =
                if error.kind() == ErrorKind::NotFound { "; create it, mode 0600" } else { "" };
            self.unusable(format!("{error}{next}"))
        };
        // A pipe without a writer would hold an ordinary open for ever.
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
        // Of the open file, so that what was checked is what is read.
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(self.unusable("it is not a regular file".to_owned()));
        }
        if guarded {
            self.check_guarded(path, &metadata)?;
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST as usize + 1));
        file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > LONGEST {
            return Err(self.unusable(format!("it is longer than {LONGEST} bytes")));
        }
        Ok(bytes)
    }

    fn check_guarded(&self, path: &Path, metadata: &std::fs::Metadata) -> Result<(), KeyError> {
        let mode = metadata.permissions().mode() & 0o7777;
        let path = path.display();
        if mode & 0o077 != 0 {
            return Err(self.unusable(format!(
                "others can reach it (mode {mode:04o}); run: chmod 600 {path}"
            )));
        }
        let user = rustix::process::geteuid().as_raw();
        if metadata.uid() != user && metadata.uid() != 0 {
            return Err(self.unusable(format!(
                "it belongs to user {}, neither to us nor to root; run: chown {user} {path}",
                metadata.uid()
            )));
        }
        Ok(())
    }

    /// The error for a secret that cannot be used, naming its source and never its content.
    pub(crate) fn unusable(&self, reason: String) -> KeyError {
        KeyError::Setup { place: self.to_string(), reason }
    }
}

/// `bytes` without one line end at their end, as editors and `echo` leave it.
pub(crate) fn trim_line_end(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(mode: u32, content: &[u8]) -> (tempfile::TempDir, SecretSource) {
        use std::io::Write;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(mode);
        options.open(&path).unwrap().write_all(content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (directory, SecretSource::File(path))
    }

    #[test]
    fn a_file_that_others_can_reach_is_refused_with_the_command_that_helps() {
        for mode in [0o644, 0o640, 0o604, 0o660, 0o610] {
            let (_directory, source) = file(mode, b"4711");
            let error = source.read().unwrap_err().to_string();
            assert!(
                error.contains("chmod 600 /") && error.contains(&format!("{mode:04o}")),
                "{error}"
            );
            assert!(!error.contains("4711"), "{error}");
        }
        for mode in [0o600, 0o400] {
            let (_directory, source) = file(mode, b"4711\n");
            assert_eq!(trim_line_end(&source.read().unwrap()), b"4711");
        }
    }

    #[test]
    fn a_missing_or_endless_source_is_refused() {
        let (_directory, long) = file(0o600, &[b'x'; 4097]);
        assert!(long.read().unwrap_err().to_string().contains("longer than 4096"));
        for source in [
            SecretSource::File("/nonexistent/pin".into()),
            SecretSource::File("/dev".into()),
            SecretSource::Environment("MINTMARK_TEST_UNSET_VARIABLE".into()),
            SecretSource::Credential("../../etc/passwd".into()),
        ] {
            assert!(matches!(source.read(), Err(KeyError::Setup { .. })), "{source}");
        }
    }

    #[test]
    fn one_line_end_is_trimmed_and_nothing_else() {
        for (from, to) in
            [("a", "a"), ("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), (" a ", " a "), ("\n", "")]
        {
            assert_eq!(trim_line_end(from.as_bytes()), to.as_bytes());
        }
    }
}
