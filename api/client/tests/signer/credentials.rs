//! The folder of a front end.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use ca_core::clock::{Clock as _, SystemClock};
use mintmark_client::{Credentials, CredentialsError};
use rcgen::{KeyPair, PublicKeyData as _};
use rustls_pki_types::CertificateDer;
use tempfile::TempDir;
use zeroize::Zeroizing;

use crate::stage::{Ca, FRONT_END, leaf};

fn load(folder: &Path) -> Result<Credentials, CredentialsError> {
    Credentials::load(folder, SystemClock.now())
}

fn folder(ca: &Ca) -> TempDir {
    let folder = TempDir::new().unwrap();
    ca.folder(folder.path(), leaf(FRONT_END));
    folder
}

/// A further certificate of the front end, and its key.
fn next(ca: &Ca, uri: &str) -> (Vec<CertificateDer<'static>>, Zeroizing<Vec<u8>>, KeyPair) {
    let pair = KeyPair::generate().unwrap();
    let chain = vec![ca.issue(&leaf(uri), &pair).into()];
    (chain, Zeroizing::new(pair.serialize_der()), pair)
}

/// Whether key and chain in the folder are of each other, and of `pair`.
fn holds(folder: &Path, pair: &KeyPair) -> bool {
    let key = fs::read_to_string(folder.join("key.pem")).unwrap();
    let svid = fs::read(folder.join("svid.pem")).unwrap();
    let spki = pair.subject_public_key_info();
    let der = rustls_pki_types::pem::PemObject::from_pem_slice(&svid);
    let der: CertificateDer<'_> = der.unwrap();
    key == pair.serialize_pem() && der.windows(spki.len()).any(|part| part == spki)
}

#[test]
fn a_folder_as_enrolment_makes_it_says_who_a_front_end_is() {
    let ca = Ca::new();
    let folder = folder(&ca);
    let credentials = load(folder.path()).unwrap();
    assert_eq!(credentials.id().as_str(), FRONT_END);
    assert_eq!(credentials.trust_domain().name(), "client.test");
    let life = credentials.life();
    assert_eq!(life.until.since(life.since), Duration::from_secs(3660));
    assert_eq!(life.half().since(life.since), Duration::from_secs(1830));
    assert!(!format!("{credentials:?}").contains("PRIVATE"));
}

#[test]
fn each_fault_of_a_folder_is_a_sentence_with_the_file_and_the_next_step() {
    let ca = Ca::new();
    let harmed = |harm: &dyn Fn(&Path)| {
        let folder = folder(&ca);
        harm(folder.path());
        load(folder.path()).unwrap_err().to_string()
    };
    let other = |name: &'static str| {
        let from = folder(&Ca::new());
        move |folder: &Path| {
            fs::copy(from.path().join(name), folder.join(name)).unwrap();
        }
    };
    let write = |name: &'static str, text: &'static str| {
        move |folder: &Path| fs::write(folder.join(name), text).unwrap()
    };
    let remove =
        |name: &'static str| move |folder: &Path| fs::remove_file(folder.join(name)).unwrap();
    let open = |folder: &Path| {
        fs::set_permissions(folder.join("key.pem"), fs::Permissions::from_mode(0o640)).unwrap();
    };
    let ended = |folder: &Path| {
        let mut params = leaf(FRONT_END);
        params.not_before = rcgen::date_time_ymd(2019, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        ca.folder(folder, params);
    };
    let huge = |folder: &Path| fs::write(folder.join("svid.pem"), vec![b'a'; 2 << 20]).unwrap();
    for (harm, file, reason) in [
        (
            &remove("key.pem") as &dyn Fn(&Path),
            "key.pem",
            "`mintmark frontend enroll NAME --write DIR` makes it",
        ),
        (&remove("svid.pem"), "svid.pem", "makes it"),
        (&remove("bundle.pem"), "bundle.pem", "makes it"),
        (&open, "key.pem", "(mode 0640); run `chmod 600 "),
        (&other("key.pem"), "svid.pem", "the private key is not that of the first certificate"),
        (&other("bundle.pem"), "svid.pem", "does not lead to an authority of the bundle"),
        (&write("key.pem", "no key"), "key.pem", "cannot be read as PEM"),
        (&write("svid.pem", ""), "svid.pem", "there is no certificate"),
        (&write("bundle.pem", ""), "bundle.pem", "there is no certificate in it"),
        (&ended, "svid.pem", "has ended at 2020-01-01T00:00:00Z"),
        (&huge, "svid.pem", "it has 2097152 bytes"),
    ] {
        let said = harmed(harm);
        assert!(
            said.contains(&format!("{file} ")) || said.contains(&format!("{file}: ")),
            "{said}"
        );
        assert!(said.contains(reason), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(
            ["makes it", "chmod", "enrol the front end again"]
                .iter()
                .any(|step| said.contains(step)),
            "{said}"
        );
    }
}

#[test]
fn what_is_renewed_is_in_the_folder_and_the_old_is_gone() {
    let ca = Ca::new();
    let folder = folder(&ca);
    let credentials = load(folder.path()).unwrap();
    let (chain, key, pair) = next(&ca, FRONT_END);
    credentials.replace(chain, &key, SystemClock.now()).unwrap();
    assert!(holds(folder.path(), &pair));
    let mode = fs::metadata(folder.path().join("key.pem")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "nothing lies beside them");
    load(folder.path()).unwrap();
}

#[test]
fn what_is_not_this_front_ends_changes_nothing() {
    let ca = Ca::new();
    let folder = TempDir::new().unwrap();
    let pair = ca.folder(folder.path(), leaf(FRONT_END));
    let credentials = load(folder.path()).unwrap();
    let (other, key, _) = next(&ca, "spiffe://client.test/mintmark/frontend/two");
    let (stranger, strangers_key, _) = next(&Ca::new(), FRONT_END);
    let (chain, _, _) = next(&ca, FRONT_END);
    for (chain, key) in
        [(other, &key), (stranger, &strangers_key), (chain, &key), (Vec::new(), &key)]
    {
        let error = credentials.replace(chain, key, SystemClock.now()).unwrap_err();
        assert!(matches!(error, CredentialsError::Issued(_)), "{error}");
        assert!(holds(folder.path(), &pair));
    }
}

#[test]
fn wherever_a_renewal_is_cut_off_the_folder_has_one_whole_pair() {
    let ca = Ca::new();
    let folder = TempDir::new().unwrap();
    let old = ca.folder(folder.path(), leaf(FRONT_END));
    let place = |name: &str| folder.path().join(name);
    let (chain, _, new) = next(&ca, FRONT_END);
    let chain = ca_core::bundle::certificate_pem(&chain[0]);
    // The steps of a renewal, each followed by a start.
    fs::write(place(".svid.pem.next"), &chain[..40]).unwrap();
    load(folder.path()).unwrap();
    fs::write(place(".svid.pem.next"), &chain).unwrap();
    load(folder.path()).unwrap();
    fs::write(place(".key.pem.next"), new.serialize_pem()).unwrap();
    fs::set_permissions(place(".key.pem.next"), fs::Permissions::from_mode(0o600)).unwrap();
    load(folder.path()).unwrap();
    assert!(holds(folder.path(), &old));
    fs::rename(place(".key.pem.next"), place("key.pem")).unwrap();
    load(folder.path()).unwrap();
    assert!(holds(folder.path(), &new));
    assert!(!place(".svid.pem.next").exists());
}

#[test]
fn the_chain_that_a_cut_off_renewal_has_left_outlives_the_next_one() {
    let ca = Ca::new();
    let folder = folder(&ca);
    let place = |name: &str| folder.path().join(name);
    let block = |name: &str| fs::create_dir_all(place(name).join("in the way")).unwrap();
    let unblock = |name: &str| fs::remove_dir_all(place(name)).unwrap();
    let credentials = load(folder.path()).unwrap();
    // Cut off when the key had its name and the chain had not.
    let (chain, _, first) = next(&ca, FRONT_END);
    let beside = ca_core::bundle::certificate_pem(&chain[0]);
    fs::write(place(".svid.pem.next"), &beside).unwrap();
    fs::write(place("key.pem"), first.serialize_pem()).unwrap();

    // While it cannot be given its name, nothing is written over it.
    let (chain, key, second) = next(&ca, FRONT_END);
    let before = fs::read(place("svid.pem")).unwrap();
    fs::remove_file(place("svid.pem")).unwrap();
    block("svid.pem");
    let error = credentials.replace(chain.clone(), &key, SystemClock.now()).unwrap_err();
    assert!(error.to_string().contains("svid.pem"), "{error}");
    assert_eq!(fs::read_to_string(place(".svid.pem.next")).unwrap(), beside);
    unblock("svid.pem");
    fs::write(place("svid.pem"), before).unwrap();

    // Another renewal is cut off before the key has its name.
    block(".key.pem.next");
    credentials.replace(chain.clone(), &key, SystemClock.now()).unwrap_err();
    assert!(holds(folder.path(), &first));
    load(folder.path()).unwrap();
    unblock(".key.pem.next");
    credentials.replace(chain, &key, SystemClock.now()).unwrap();
    assert!(holds(folder.path(), &second));
}
