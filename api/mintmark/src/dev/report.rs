//! What `dev` has to show: which key is where, what was minted, what to try next.

use std::path::{Path, PathBuf};

use serde::Serialize;
use softhsm::Token;

use crate::delivery::Delivered;
use crate::output::columns;

/// Everything that `dev` shows. Holds no secret: the PIN and the private key are named by their files,
/// the token is not shown at all.
#[derive(Debug, Serialize)]
pub struct Report {
    pub(super) trust_domain: String,
    pub(super) folder: PathBuf,
    /// Whether the folder goes at the end.
    pub(super) temporary: bool,
    pub(super) socket: PathBuf,
    pub(super) keys: Vec<HeldKey>,
    pub(super) x509: Minted,
    pub(super) jwt: Minted,
    pub(super) files: Delivered,
    /// Whether the files are outside of the folder.
    pub(super) files_stay: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token: Option<TokenAccess>,
}

/// One key and what holds it.
#[derive(Debug, Serialize)]
pub(super) struct HeldKey {
    pub(super) purpose: &'static str,
    pub(super) kind: String,
    /// Its name in the key store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    pub(super) place: String,
    /// Whether its private half leaves that place.
    pub(super) leaves: &'static str,
}

/// An SVID that a stranger has accepted.
#[derive(Debug, Serialize)]
pub(super) struct Minted {
    pub(super) spiffe_id: String,
    pub(super) expires_at: String,
}

/// How other programs reach the token.
#[derive(Debug, Serialize)]
pub(super) struct TokenAccess {
    module: PathBuf,
    label: String,
    configuration: PathBuf,
    pin_file: PathBuf,
}

impl TokenAccess {
    pub(super) fn of(token: &Token) -> Self {
        Self {
            module: token.module().to_owned(),
            label: token.label().to_owned(),
            configuration: token.configuration().to_owned(),
            pin_file: token.pin_file().to_owned(),
        }
    }
}

impl Report {
    /// The report for people. `once` says that the server is about to end.
    #[must_use]
    pub fn text(&self, once: bool) -> String {
        let removed = if self.temporary { " (removed at the end)" } else { "" };
        let head = format!(
            "Trust domain  {}\nFolder        {}{removed}\nAdmin socket  {}\n",
            self.trust_domain,
            self.folder.display(),
            self.socket.display()
        );
        let next: String =
            self.next(once).into_iter().map(|command| format!("  {command}\n")).collect();
        let end = if once { "" } else { "\nServing; end it with Ctrl-C.\n" };
        format!("{head}\n{}\n\n{}\n\nTry next:\n{next}{end}", self.key_table(), self.svid_table())
    }

    fn key_table(&self) -> String {
        let rows = self
            .keys
            .iter()
            .map(|key| {
                let HeldKey { purpose, kind, place, leaves, .. } = key;
                [purpose, kind.as_str(), place, leaves].map(str::to_owned)
            })
            .collect();
        columns(["Key of", "Kind", "Held by", "Leaves it"], rows)
    }

    fn svid_table(&self) -> String {
        let row = |name: &str, minted: &Minted, judged: &str| {
            [name, &minted.spiffe_id, &minted.expires_at, judged].map(str::to_owned)
        };
        let rows = vec![
            row("X.509-SVID", &self.x509, "accepted: chain to bundle.pem"),
            row("JWT-SVID", &self.jwt, "accepted: key in the bundle's JWKS"),
        ];
        columns(["Minted", "For", "Valid until", "By a stranger"], rows)
    }

    /// Commands that can be pasted, as far as what they need will still be there.
    fn next(&self, once: bool) -> Vec<String> {
        let program = std::env::current_exe().map_or("mintmark".to_owned(), |path| quoted(&path));
        let folder_stays = !(once && self.temporary);
        let mut commands = Vec::new();
        if folder_stays || self.files_stay {
            commands.push(format!(
                "openssl verify -x509_strict -CAfile {bundle} -untrusted {svid} {svid}",
                bundle = quoted(&self.files.bundle),
                svid = quoted(&self.files.svid)
            ));
            commands.push(format!("{program} x509 show {}", quoted(&self.files.svid)));
        }
        if let Some(token) = self.token.as_ref().filter(|_| folder_stays) {
            commands.push(format!(
                "SOFTHSM2_CONF={} MINTMARK_PIN=\"$(cat {})\" pkcs11-tool --module {} --token-label {} \
                 --login --pin env:MINTMARK_PIN --list-objects",
                quoted(&token.configuration),
                quoted(&token.pin_file),
                quoted(&token.module),
                quoted(Path::new(&token.label)),
            ));
        }
        if !once {
            let id = format!("spiffe://{}/web", self.trust_domain);
            commands.push(format!(
                "{program} x509 mint --socket {} --spiffe-id {id} --write web",
                quoted(&self.socket)
            ));
        } else if self.temporary {
            commands.push(format!("{program} dev                # the same, and serves on"));
            commands.push(format!("{program} dev --dir DIR      # keeps keys and state in DIR"));
        }
        commands
    }
}

/// A path as a shell reads it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_quoted_for_the_shell_when_it_must_be() {
        assert_eq!(quoted(Path::new("/tmp/a-b_c.1")), "/tmp/a-b_c.1");
        assert_eq!(quoted(Path::new("mintmark dev")), "'mintmark dev'");
        assert_eq!(quoted(Path::new("/it's $x")), r"'/it'\''s $x'");
    }
}
