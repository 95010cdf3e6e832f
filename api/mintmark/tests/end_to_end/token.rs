//! A fresh SoftHSM token, and what OpenSC's `pkcs11-tool` says of the keys in it.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::site::Site;

/// The label of the key of the first X.509 authority.
pub(crate) const CA_KEY: &str = "mintmark/example.org/x509/1";

/// A token in a folder of its own.
pub(crate) struct Token {
    pub(crate) module: String,
    pub(crate) configuration: String,
    pub(crate) pin: String,
}

impl Token {
    /// Makes it with `softhsm/token.sh`, as people do.
    pub(crate) fn make(folder: &Path) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../softhsm/token.sh");
        let output = Command::new(script).arg(folder).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "no token (run: make test): {said}");
        let exports = String::from_utf8(output.stdout).unwrap();
        let module = exports.lines().find_map(|line| line.strip_prefix("export SOFTHSM2_MODULE="));
        let module = module.unwrap().trim_matches('\'').to_owned();
        let configuration = folder.join("softhsm2.conf").to_str().unwrap().to_owned();
        let pin = fs::read_to_string(folder.join("pin")).unwrap();
        assert_eq!(pin.len(), 24);
        Self { module, configuration, pin }
    }

    /// What `pkcs11-tool` prints, logged in.
    pub(crate) fn tool(&self, arguments: &[&str]) -> Vec<u8> {
        let login = ["--login", "--pin", "env:PIN"];
        self.tool_without_login(&[&login[..], arguments].concat())
    }

    fn tool_without_login(&self, arguments: &[&str]) -> Vec<u8> {
        let output = Command::new("pkcs11-tool")
            .args(["--module", &self.module, "--token-label", "mintmark"])
            .args(arguments)
            .env("SOFTHSM2_CONF", &self.configuration)
            .env("PIN", &self.pin)
            .output()
            .expect("pkcs11-tool is installed by `make test`");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        output.stdout
    }

    /// The private keys: a block of lines each.
    pub(crate) fn private_keys(&self) -> Vec<String> {
        let listing =
            String::from_utf8(self.tool(&["--list-objects", "--type", "privkey"])).unwrap();
        let blocks = listing.split("Private Key Object").skip(1);
        blocks.map(str::to_owned).collect()
    }

    /// Makes a P-256 key pair with another program.
    pub(crate) fn plant(&self, label: &str, more: &[&str]) {
        let pair = ["--keypairgen", "--key-type", "EC:prime256v1", "--usage-sign", "--label"];
        self.tool(&[&pair[..], &[label], more].concat());
    }

    /// Whether the last login failed, as the token tells everyone.
    pub(crate) fn remembers_a_wrong_pin(&self) -> bool {
        let slots = String::from_utf8(self.tool_without_login(&["--list-token-slots"])).unwrap();
        slots.contains("user PIN count low")
    }
}

#[test]
fn the_ca_key_was_made_in_the_token_and_never_leaves_it() {
    let site = Site::with_token();
    let server = site.start();
    let keys = site.token().private_keys();
    assert_eq!(keys.len(), 3, "{keys:?}");
    for key in &keys {
        let promises = "sensitive, always sensitive, never extractable, local\n";
        assert!(key.contains(promises) && key.contains("Usage:      sign\n"), "{key}");
    }
    assert!(keys.iter().any(|key| key.contains(CA_KEY)), "{keys:?}");
    server.stop();
}

#[test]
fn the_roots_key_is_the_one_in_the_token() {
    let site = Site::with_token();
    let server = site.start();
    let root = site.path("root.pem");
    fs::write(&root, site.mintmark(&["bundle", "show", "--format", "pem"]).succeeded()).unwrap();
    let root = root.to_str().unwrap();
    let pem = openssl(&["x509", "-in", root, "-noout", "-pubkey"]);
    fs::write(site.path("public.pem"), pem).unwrap();
    let public = site.path("public.pem");
    let of_root = openssl(&["pkey", "-pubin", "-in", public.to_str().unwrap(), "-outform", "DER"]);
    let of_token = site.token().tool(&["--read-object", "--type", "pubkey", "--label", CA_KEY]);
    assert!(!of_root.is_empty());
    assert_eq!(of_token, of_root);
    server.stop();
}

/// What `openssl` prints.
#[track_caller]
pub(crate) fn openssl(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("openssl").args(arguments).output();
    let output = output.expect("openssl is installed by `make test`");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments:?}: {said}");
    output.stdout
}
