//! Who a front end is: the folder that `mintmark frontend enroll NAME --write DIR` makes, and what becomes of it when
//! the certificate is renewed.
//!
//! Chain and key are two files, and a rename replaces one. So the next chain lies whole beside the old one
//! (`.svid.pem.next`) before the next key takes its name, and takes its own after that. Whatever was cut off between the two has left
//! a key and the chain that belongs to it: the one beside, to which [`Credentials::load`], or the next renewal, then gives
//! its name. What was cut off before has left the old pair.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ca_core::bundle::{Bundle, certificate_pem};
use ca_core::certificate::TbsView;
use ca_core::clock::Timestamp;
use ca_core::der::{self, DerError, Reader, tag};
use ca_core::id::{SpiffeId, TrustDomain};
use mintmark_transport::{
    Credential, CredentialError, Identity, Rejected, Side, Trust, TrustError,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::key;

/// The chain, leaf first, without the root.
const SVID: &str = "svid.pem";
/// The private key of the leaf, PKCS#8.
const KEY: &str = "key.pem";
/// The X.509 authorities that a signer is verified by.
const BUNDLE: &str = "bundle.pem";
/// Largest file in bytes that is read: a bundle of a hundred RSA roots has half of it.
const LARGEST_FILE: u64 = 1 << 20;

/// What a front end shows, and by what it knows its signer. Connections that are opened later see what was replaced.
#[derive(Debug)]
pub struct Credentials {
    folder: PathBuf,
    id: SpiffeId,
    trust_domain: TrustDomain,
    identity: Arc<Identity>,
    trust: Arc<Trust>,
    shown: Mutex<Shown>,
    /// Whoever writes to the folder; on threads that may block.
    writing: Mutex<()>,
    /// Whoever renews. The one lock that is held across awaits: it is the renewal itself, which has its own bounds.
    renewing: tokio::sync::Mutex<()>,
}

/// Which certificate connections show.
#[derive(Debug, Clone, Copy)]
struct Shown {
    life: Life,
    /// How often it was replaced.
    edition: u64,
}

/// From when to when a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// Its first second.
    pub since: Timestamp,
    /// Its last second.
    pub until: Timestamp,
}

impl Life {
    /// Half of it: when the next certificate is due.
    #[must_use]
    pub fn half(self) -> Timestamp {
        self.since.plus(self.until.since(self.since) / 2)
    }
}

/// Why the credentials of a front end cannot be used, or be replaced.
#[derive(Debug, Error)]
pub enum CredentialsError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}; `mintmark frontend enroll NAME --write DIR` makes it", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others can read the private key.
    #[error("{} can be read by others than its owner (mode {mode:04o}); run `chmod 600 {}`", path.display(), path.display())]
    Open {
        /// The key.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A file is not what it should be.
    #[error("{} cannot be used: {reason}; enrol the front end again, with `mintmark frontend enroll NAME --write DIR`", path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
        /// What is wrong with it; nothing of a key.
        reason: String,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {source}; what was there before is still in use", path.display())]
    Unwritable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What was issued is not what was asked for.
    #[error("the certificate that the signer has issued cannot be used: {0}")]
    Issued(String),
}

impl Credentials {
    /// Reads the folder and holds what is in it against every rule that a signer has for it, at `now`. Blocks.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn load(folder: &Path, now: Timestamp) -> Result<Self, CredentialsError> {
        let (credential, chain) = read_pair(folder)?;
        let path = folder.join(SVID);
        let unusable = |reason: String| CredentialsError::Unusable { path: path.clone(), reason };
        let (id, life) = read_leaf(&chain).map_err(|error| unusable(error.to_string()))?;
        let trust_domain = TrustDomain::parse(id.trust_domain_name())
            .map_err(|error| unusable(error.to_string()))?;
        let trust = read_bundle(folder, &trust_domain)?;
        trust
            .verify(&chain, Side::Client, now)
            .map_err(|rejected: Rejected| unusable(rejected.to_string()))?;
        Ok(Self {
            folder: folder.to_owned(),
            id,
            trust_domain,
            identity: Identity::new(credential),
            trust: Arc::new(trust),
            shown: Mutex::new(Shown { life, edition: 0 }),
            writing: Mutex::default(),
            renewing: tokio::sync::Mutex::default(),
        })
    }

    /// Where they are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The front end's ID.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Its trust domain, which is the signer's.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// What connections show.
    #[must_use]
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// By whom signers are verified.
    #[must_use]
    pub fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// The validity of the certificate that is shown.
    #[must_use]
    pub fn life(&self) -> Life {
        self.shown().life
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores a new chain, leaf first, with its key in PKCS#8, and shows them from now on. Blocks.
    ///
    /// # Errors
    /// If they are not this front end's at `now`, or cannot be written; then the old ones stay in use, in the folder too.
    pub fn replace(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: &Zeroizing<Vec<u8>>,
        now: Timestamp,
    ) -> Result<(), CredentialsError> {
        let issued = |reason: String| CredentialsError::Issued(reason);
        let peer = self.trust.verify(&chain, Side::Client, now);
        let peer = peer.map_err(|rejected| issued(rejected.to_string()))?;
        if peer.id != self.id {
            return Err(issued(format!(
                "it is for {}, not for {}",
                peer.id.as_str(),
                self.id.as_str()
            )));
        }
        let text = chain.iter().fold(String::new(), |text, der| text + &certificate_pem(der));
        let (_, life) = read_leaf(&chain).map_err(|error| issued(error.to_string()))?;
        let credential = Credential::new(chain, PrivatePkcs8KeyDer::from(key.to_vec()).into())
            .map_err(|error| issued(error.to_string()))?;
        let _writing = self.writing();
        self.store(&text, &key::to_pem(key))?;
        self.identity.replace(credential);
        let mut shown = self.shown();
        *shown = Shown { life, edition: shown.edition + 1 };
        Ok(())
    }

    /// In the order that the head of this module explains.
    fn store(&self, chain: &str, key: &str) -> Result<(), CredentialsError> {
        finish(&self.folder)?;
        let svid = Next::write(&self.folder, SVID, chain.as_bytes(), 0o644)?;
        let key = Next::write(&self.folder, KEY, key.as_bytes(), 0o600)?;
        sync(&self.folder)?;
        key.place()?;
        // From here on a start finds the new pair, so it is the one to show, whatever becomes of the rest.
        let placed =
            sync(&self.folder).and_then(|()| svid.place()).and_then(|()| sync(&self.folder));
        if let Err(CredentialsError::Unwritable { path, source }) = placed {
            let path = path.display();
            tracing::warn!(%path, error = %source, "the next chain lies beside the one before; the next renewal or start gives it its name");
        }
        Ok(())
    }

    /// Verifies signers by that bundle from now on. [`keep`](Self::keep) is for the next start.
    ///
    /// # Errors
    /// If it is of another trust domain, has no X.509 authority or one that cannot be read; then nothing changes.
    pub fn follow(&self, bundle: &Bundle) -> Result<(), CredentialsError> {
        let path = self.folder.join(BUNDLE);
        let unusable = |reason: String| CredentialsError::Unusable { path: path.clone(), reason };
        if bundle.trust_domain != self.trust_domain {
            let found = bundle.trust_domain.name();
            return Err(unusable(format!(
                "the signer's bundle is of another trust domain, {found:?}"
            )));
        }
        if bundle.x509_authorities.is_empty() {
            return Err(unusable("the signer's bundle has no X.509 authority".to_owned()));
        }
        self.trust.follow(bundle).map_err(|error: TrustError| unusable(error.to_string()))
    }

    /// Writes a bundle that is [followed](Self::follow) to the folder, for the next start. Blocks.
    ///
    /// # Errors
    /// If it cannot be written; then the one before stays there.
    pub fn keep(&self, bundle: &Bundle) -> Result<(), CredentialsError> {
        let _writing = self.writing();
        Next::write(&self.folder, BUNDLE, bundle.pem().as_bytes(), 0o644)?.place()?;
        sync(&self.folder)
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Credentials {
    /// How often they were replaced: what is shown from now on is of that edition or a later one.
    pub(crate) fn edition(&self) -> u64 {
        self.shown().edition
    }

    /// Waits until nobody else renews, and until it is dropped nobody does.
    pub(crate) async fn renewing(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.renewing.lock().await
    }

    /// Does on a thread that may wait what blocks.
    pub(crate) async fn blocking<F>(&self, work: F) -> Result<(), CredentialsError>
    where
        F: FnOnce() -> Result<(), CredentialsError> + Send + 'static,
    {
        let path = || self.folder.clone();
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
            let source = io::Error::other(error);
            Err(CredentialsError::Unwritable { path: path(), source })
        })
    }
}

type Pair = (Credential, Vec<CertificateDer<'static>>);

/// Chain and key; if a renewal was cut off between the two, it is ended here.
fn read_pair(folder: &Path) -> Result<Pair, CredentialsError> {
    let key_path = folder.join(KEY);
    let key = read_key(&key_path)?;
    let svid = read(&folder.join(SVID))?;
    let (path, error) = match pair(&svid, &key) {
        Ok(pair) => return Ok(pair),
        Err(error @ CredentialError::Key(_)) => (key_path, error),
        Err(error @ CredentialError::Pem { what: "the private key", .. }) => (key_path, error),
        Err(error) => (folder.join(SVID), error),
    };
    if let CredentialError::Mismatch(_) = error
        && let Some(pair) = placed_beside(folder, &key)?
    {
        return Ok(pair);
    }
    Err(CredentialsError::Unusable { path, reason: error.to_string() })
}

/// Ends a renewal that was cut off, if one was: what is written next takes the place of the chain that it has left.
fn finish(folder: &Path) -> Result<(), CredentialsError> {
    match read_pair(folder) {
        // It may lie there, and cannot be seen or moved.
        Err(error @ CredentialsError::Unwritable { .. }) => Err(error),
        Err(CredentialsError::Unreadable { path, source })
            if source.kind() != io::ErrorKind::NotFound =>
        {
            Err(CredentialsError::Unreadable { path, source })
        }
        // Whole, or nothing that could be made whole.
        _ => Ok(()),
    }
}

/// The chain that lies beside, given its name, if it is that of the key.
fn placed_beside(folder: &Path, key: &[u8]) -> Result<Option<Pair>, CredentialsError> {
    let path = next_path(folder, SVID);
    let text = match read(&path) {
        Err(CredentialsError::Unreadable { source, .. })
            if source.kind() == io::ErrorKind::NotFound =>
        {
            return Ok(None);
        }
        text => text?,
    };
    let Ok(pair) = pair(&text, key) else { return Ok(None) };
    Next { path, place: folder.join(SVID) }.place()?;
    sync(folder)?;
    Ok(Some(pair))
}

fn pair(svid: &[u8], key: &[u8]) -> Result<Pair, CredentialError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(svid).collect();
    let chain = chain
        .map_err(|error| CredentialError::Pem { what: "the chain", reason: error.to_string() })?;
    Ok((Credential::new(chain.clone(), key::from_pem(key)?)?, chain))
}

fn read_bundle(folder: &Path, trust_domain: &TrustDomain) -> Result<Trust, CredentialsError> {
    let path = folder.join(BUNDLE);
    let text = read(&path)?;
    let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let unusable = |reason: String| CredentialsError::Unusable { path: path.clone(), reason };
    let roots = roots.map_err(|error| unusable(error.to_string()))?;
    if roots.is_empty() {
        return Err(unusable("there is no certificate in it".to_owned()));
    }
    Trust::of_roots(trust_domain.clone(), &roots).map_err(|error| unusable(error.to_string()))
}

/// Whose the leaf of a chain says that it is, and for how long. Nothing is verified by this.
fn read_leaf(chain: &[CertificateDer<'_>]) -> Result<(SpiffeId, Life), Rejected> {
    let leaf = chain.first().ok_or(Rejected::NoCertificate)?;
    let mut outer = der::sole(leaf, tag::SEQUENCE, "certificate")?;
    let view = TbsView::read(outer.expect(tag::SEQUENCE, "TBSCertificate")?.whole)?;
    let mut names = Reader::new(view.extensions.subject_alt_name.map_or(&[], |(_, names)| names));
    while !names.is_empty() {
        let name = names.any("subject alternative name")?;
        if name.tag == tag::context(6) {
            let uri = std::str::from_utf8(name.value).map_err(|_| DerError::Value("URI name"))?;
            let life = Life { since: view.not_before.0, until: view.not_after.0 };
            return Ok((SpiffeId::parse(uri)?, life));
        }
    }
    Err(Rejected::Uris(0))
}

fn read_key(path: &Path) -> Result<Zeroizing<Vec<u8>>, CredentialsError> {
    let unreadable = |source| CredentialsError::Unreadable { path: path.to_owned(), source };
    let mode = fs::metadata(path).map_err(unreadable)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(CredentialsError::Open { path: path.to_owned(), mode });
    }
    read(path)
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, CredentialsError> {
    // Of its final size from the start: a vector that grows leaves copies behind.
    let mut text = Zeroizing::new(Vec::new());
    let mut reading = || {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        if size > LARGEST_FILE {
            return Err(io::Error::other(format!(
                "it has {size} bytes; at most {LARGEST_FILE} are read"
            )));
        }
        text.reserve_exact(usize::try_from(size).expect("a mebibyte") + 1);
        file.take(LARGEST_FILE).read_to_end(&mut text)
    };
    match reading() {
        Ok(_) => Ok(text),
        Err(source) => Err(CredentialsError::Unreadable { path: path.to_owned(), source }),
    }
}

/// A file that is whole and has not got its name yet.
struct Next {
    path: PathBuf,
    place: PathBuf,
}

impl Next {
    fn write(
        folder: &Path,
        name: &str,
        content: &[u8],
        mode: u32,
    ) -> Result<Self, CredentialsError> {
        let (path, place) = (next_path(folder, name), folder.join(name));
        let write = || {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
            file.write_all(content)?;
            file.sync_all()
        };
        match write() {
            Ok(()) => Ok(Self { path, place }),
            Err(source) => Err(CredentialsError::Unwritable { path, source }),
        }
    }

    fn place(self) -> Result<(), CredentialsError> {
        fs::rename(&self.path, &self.place)
            .map_err(|source| CredentialsError::Unwritable { path: self.place, source })
    }
}

fn next_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!(".{name}.next"))
}

fn sync(folder: &Path) -> Result<(), CredentialsError> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|source| CredentialsError::Unwritable { path: folder.to_owned(), source })
}
