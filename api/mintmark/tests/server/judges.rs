//! Other people's software judges what the server mints: `openssl`, rustls-webpki, and by
//! `tests/judges` Python's `cryptography`, `spiffe` and PyJWT.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ca_core::clock::{Clock as _, SystemClock};
use mintmark::pem;
use mintmark::stranger::verify_x509;

use crate::site::{ID, Site, openssl, text};

const DNS_NAME: &str = "web.example.org";

/// Runs a judge of `tests/judges` with the interpreter that `make test` installs.
fn judged(judge: &str, arguments: &[&str]) {
    let python = std::env::var_os("MINTMARK_JUDGES_PYTHON")
        .expect("the judges are installed and named by `make test`; run that");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/judges").join(judge);
    let output = Command::new(python).arg("-B").arg(script).args(arguments).output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{judge} {arguments:?}: {said}");
}

/// A CSR as `openssl req` makes it, and its key.
fn request(site: &Site, name: &str, algorithm: &[&str]) -> (PathBuf, PathBuf) {
    let (key, csr) = (site.path(&format!("{name}.key")), site.path(&format!("{name}.csr")));
    let names = format!("subjectAltName=URI:{ID},DNS:{DNS_NAME}");
    openssl(&[&["genpkey", "-out", text(&key)], algorithm].concat());
    openssl(&[
        "req",
        "-new",
        "-key",
        text(&key),
        "-subj",
        "/O=Example",
        "-addext",
        &names,
        "-out",
        text(&csr),
    ]);
    (key, csr)
}

/// Mints for a CSR and has every judge look at the result.
fn mint_and_judge(site: &Site, name: &str, algorithm: &[&str]) {
    let (key, csr) = request(site, name, algorithm);
    site.succeeds(&["x509", "mint", "--csr", text(&csr), "--write", name]);
    let (svid, bundle) = (site.path(name).join("svid.pem"), site.path(name).join("bundle.pem"));
    openssl(&["verify", "-x509_strict", "-CAfile", text(&bundle), text(&svid)]);
    let chain = pem::read(&svid, pem::CERTIFICATE).unwrap();
    let roots = pem::read(&bundle, pem::CERTIFICATE).unwrap();
    verify_x509(&chain, &roots, ID, SystemClock.now()).unwrap();
    judged(
        "x509_judge.py",
        &[
            "--bundle",
            text(&bundle),
            "--svid",
            text(&svid),
            "--spiffe-id",
            ID,
            "--key",
            text(&key),
            "--dns",
            DNS_NAME,
        ],
    );
}

#[test]
fn svids_for_csrs_of_openssl_are_accepted_everywhere() {
    let site = Site::new();
    let _server = site.start();
    for (name, algorithm) in [
        ("p256", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"][..]),
        ("p384", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"]),
        ("rsa2048", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]),
        ("rsa4096", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:4096"]),
        ("ed25519", &["-algorithm", "ED25519"]),
    ] {
        mint_and_judge(&site, name, algorithm);
    }
}

#[test]
fn authorities_of_every_kind_are_accepted_everywhere() {
    for key_type in ["ec-p256", "ec-p384", "rsa-2048"] {
        let site = Site::with(&format!("[issuing]\nca_key_type = \"{key_type}\"\n"));
        let _server = site.start();
        mint_and_judge(&site, "p256", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);

        let token = site.succeeds(&["jwt", "mint", "--spiffe-id", ID, "--audience", "db"]);
        fs::write(site.path("token"), token.trim_end()).unwrap();
        for format in ["jwks", "spiffe"] {
            let bundle = site.succeeds(&["bundle", "show", "--format", format]);

            fs::write(site.path(format), bundle).unwrap();
            judged(
                "jwt_judge.py",
                &[
                    "--jwks",
                    text(&site.path(format)),
                    "--token-file",
                    text(&site.path("token")),
                    "--audience",
                    "db",
                    "--spiffe-id",
                    ID,
                ],
            );
        }
    }
}
