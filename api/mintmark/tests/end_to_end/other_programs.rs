//! CSRs that another program made, and SVIDs that other programs judge: OpenSSL, rustls-webpki, and
//! the Python libraries `cryptography`, `spiffe` and PyJWT.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, aws_lc_rs as algorithms};

use crate::site::{Site, WORKLOAD};
use crate::token::openssl;

const DNS_NAME: &str = "web.example.org";

/// Each kind of key that a workload may have, as `openssl req` makes it.
const WORKLOAD_KEYS: [(&str, &[&str]); 5] = [
    ("p256", &["ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-sha256"]),
    ("p384", &["ec", "-pkeyopt", "ec_paramgen_curve:P-384", "-sha384"]),
    ("rsa-2048", &["rsa:2048"]),
    ("rsa-4096", &["rsa:4096"]),
    ("ed25519", &["ed25519"]),
];

#[test]
fn csrs_of_openssl_become_svids_that_everyone_accepts() {
    let site = Site::with_token();
    let server = site.start();
    for (name, key) in WORKLOAD_KEYS {
        mint_and_judge(&site, name, key);
    }
    server.stop();
}

#[test]
fn every_kind_of_ca_key_that_the_token_makes_is_accepted() {
    for (ca_key_type, judged_by_cryptography) in [
        ("ec-p384", true),
        ("rsa-2048", true),
        // The path validation of `cryptography` follows the WebPKI, which has no Ed25519.
        ("ed25519", false),
    ] {
        let mut site = Site::with_token();
        site.configuration.push_str(&format!("[issuing]\nca_key_type = \"{ca_key_type}\"\n"));
        let server = site.start();
        let (name, key) = WORKLOAD_KEYS[0];
        let folder = mint(&site, name, key);
        judge_by_openssl(&folder);
        judge_by_webpki(&folder);
        if judged_by_cryptography {
            judge_by_python(&folder);
        }
        judge_token(&site);
        server.stop();
    }
}

#[test]
fn tokens_are_accepted_by_the_keys_of_either_bundle() {
    let site = Site::with_token();
    let server = site.start();
    judge_token(&site);
    server.stop();
}

fn mint_and_judge(site: &Site, name: &str, key: &[&str]) {
    let folder = mint(site, name, key);
    judge_by_openssl(&folder);
    judge_by_webpki(&folder);
    judge_by_python(&folder);
}

/// Has `openssl req` make a key and a CSR, mints under it, and leaves all of it in a folder.
fn mint(site: &Site, name: &str, key: &[&str]) -> Delivered {
    let folder = site.path(name);
    fs::create_dir(&folder).unwrap();
    let delivered = Delivered { folder: folder.to_str().unwrap().to_owned() };
    let (csr, private) = (delivered.file("csr.pem"), delivered.file("workload.pem"));
    let names = format!("subjectAltName=URI:{WORKLOAD},DNS:{DNS_NAME}");
    let request = ["req", "-new", "-nodes", "-subj", "/O=Example", "-addext", &names, "-out", &csr];
    openssl(&[&request[..], &["-keyout", &private, "-newkey"], key].concat());
    let arguments = ["x509", "mint", "--csr", &csr, "--write", &delivered.folder];
    let shown = site.mintmark(&arguments).succeeded();
    assert!(shown.contains(WORKLOAD), "{shown}");
    assert!(!Path::new(&delivered.file("key.pem")).exists(), "the key is not ours");
    delivered
}

/// The files of a mint.
struct Delivered {
    folder: String,
}

impl Delivered {
    fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.folder)
    }

    fn certificates(&self, name: &str) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_file_iter(self.file(name)).unwrap().map(Result::unwrap).collect()
    }
}

fn judge_by_openssl(svid: &Delivered) {
    let (bundle, leaf) = (svid.file("bundle.pem"), svid.file("svid.pem"));
    for purpose in [&[][..], &["-purpose", "sslclient"], &["-purpose", "sslserver"]] {
        let strict = ["verify", "-x509_strict", "-CAfile", &bundle, "-untrusted", &leaf];
        openssl(&[&strict[..], purpose, &[&leaf]].concat());
    }
    let of_leaf = openssl(&["x509", "-in", &leaf, "-noout", "-pubkey"]);
    let of_workload = openssl(&["pkey", "-in", &svid.file("workload.pem"), "-pubout"]);
    assert_eq!(of_leaf, of_workload);
}

fn judge_by_webpki(svid: &Delivered) {
    const ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
        algorithms::ECDSA_P256_SHA256,
        algorithms::ECDSA_P384_SHA384,
        algorithms::RSA_PKCS1_2048_8192_SHA256,
        algorithms::ED25519,
    ];
    let (chain, roots) = (svid.certificates("svid.pem"), svid.certificates("bundle.pem"));
    let anchors: Vec<_> =
        roots.iter().map(|root| anchor_from_trusted_cert(root).unwrap()).collect();
    #[expect(clippy::disallowed_methods, reason = "the server under test goes by this clock too")]
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    for usage in [KeyUsage::client_auth(), KeyUsage::server_auth()] {
        EndEntityCert::try_from(&chain[0])
            .unwrap()
            .verify_for_usage(
                ALGORITHMS,
                &anchors,
                &chain[1..],
                UnixTime::since_unix_epoch(now),
                usage,
                None,
                None,
            )
            .unwrap();
    }
}

fn judge_by_python(svid: &Delivered) {
    let files = ["bundle.pem", "svid.pem", "workload.pem"].map(|name| svid.file(name));
    let [bundle, leaf, key] = &files;
    let files = ["--bundle", bundle, "--svid", leaf, "--key", key];
    judge("x509_judge.py", &[&files[..], &["--spiffe-id", WORKLOAD, "--dns", DNS_NAME]].concat());
}

/// Mints a JWT-SVID and has it judged by the keys of the plain JWKS and of the SPIFFE bundle.
fn judge_token(site: &Site) {
    let token = site.path("svid.jwt");
    fs::write(&token, site.jwt("spiffe://example.org/shop/db")).unwrap();
    for format in ["jwks", "spiffe"] {
        let keys = site.path(format);
        fs::write(&keys, site.mintmark(&["bundle", "show", "--format", format]).succeeded())
            .unwrap();
        let (keys, token) = (keys.to_str().unwrap(), token.to_str().unwrap());
        let audience = ["--audience", "spiffe://example.org/shop/db", "--spiffe-id", WORKLOAD];
        judge("jwt_judge.py", &[&["--jwks", keys, "--token-file", token][..], &audience].concat());
    }
}

/// Runs a judge; each claim that held is a line.
pub(crate) fn judge(name: &str, arguments: &[&str]) {
    let python = std::env::var("MINTMARK_JUDGES_PYTHON").unwrap_or_else(|_| {
        panic!(
            "MINTMARK_JUDGES_PYTHON is not set; run `make test`, or `set -a; . .ci/env; set +a` \
             before `cargo test`"
        )
    });
    let judge = format!("{}/tests/judges/{name}", env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(python)
        .arg(judge)
        .args(arguments)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("the judges are installed by `make test`");
    let verdict = String::from_utf8_lossy(&output.stdout);
    let reason = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {arguments:?}\n{verdict}{reason}");
    assert!(verdict.matches("ok ").count() > 5, "{verdict}");
}
