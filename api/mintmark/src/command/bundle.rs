//! `mintmark bundle …`

use std::path::Path;
use std::time::Duration;

use ca_core::bundle::{Bundle, Surface};
use ca_core::clock::Timestamp;
use serde::Serialize;

use crate::cli::{BundleFormat, Output, ShowBundle};
use crate::client::AdminClient;
use crate::config::Period;
use crate::exit::Failure;
use crate::output::{Screen, columns};

/// What is in a bundle, as programs see it.
#[derive(Serialize)]
struct Contents {
    trust_domain: String,
    sequence_number: u64,
    refresh_hint_seconds: u64,
    x509_authorities: Vec<Authority>,
    jwt_authorities: Vec<Authority>,
}

#[derive(Serialize)]
struct Authority {
    id: String,
    key: String,
    expires_at: String,
    tainted: bool,
}

/// Shows what is in the bundle, or the bundle itself in one of its forms.
pub(super) async fn show(
    arguments: &ShowBundle,
    socket: &Path,
    screen: &mut Screen<'_>,
) -> Result<(), Failure> {
    let bundle = AdminClient::connect(socket).await?.bundle().await?;
    match arguments.format {
        Some(BundleFormat::Spiffe) => screen.text(&format!("{}\n", bundle.jwks(Surface::Spiffe))),
        Some(BundleFormat::Jwks) => screen.text(&format!("{}\n", bundle.jwks(Surface::Jwt))),
        Some(BundleFormat::Pem) => screen.text(&bundle.pem()),
        None => show_contents(&Contents::of(&bundle), screen),
    }
}

impl Contents {
    fn of(bundle: &Bundle) -> Self {
        let x509 = bundle.x509_authorities.iter().map(|authority| Authority {
            id: authority.certificate.key_id().to_string(),
            key: authority.certificate.key().kind().to_string(),
            expires_at: authority.certificate.not_after().to_string(),
            tainted: authority.tainted,
        });
        let jwt = bundle.jwt_authorities.iter().map(|authority| Authority {
            id: authority.kid.clone(),
            key: authority.key.kind().to_string(),
            // The wire's 0: no end is told.
            expires_at: match authority.expires_at {
                Timestamp::EPOCH => "never".to_owned(),
                instant => instant.to_string(),
            },
            tainted: authority.tainted,
        });
        Self {
            trust_domain: bundle.trust_domain.name().to_owned(),
            sequence_number: bundle.sequence,
            refresh_hint_seconds: bundle.refresh_hint.as_secs(),
            x509_authorities: x509.collect(),
            jwt_authorities: jwt.collect(),
        }
    }
}

fn show_contents(contents: &Contents, screen: &mut Screen<'_>) -> Result<(), Failure> {
    if screen.form() == Output::Json {
        return screen.json(contents);
    }
    let rows = vec![
        ("Trust domain", contents.trust_domain.clone()),
        ("Sequence number", contents.sequence_number.to_string()),
        ("Refresh hint", Period(Duration::from_secs(contents.refresh_hint_seconds)).to_string()),
    ];
    screen.show(contents, rows)?;
    let line = |kind: &str, authority: &Authority| {
        let state = if authority.tainted { "tainted" } else { "trusted" };
        let Authority { id, key, expires_at, .. } = authority;
        [kind.to_owned(), key.clone(), expires_at.clone(), state.to_owned(), id.clone()]
    };
    let x509 = contents.x509_authorities.iter().map(|authority| line("X.509", authority));
    let jwt = contents.jwt_authorities.iter().map(|authority| line("JWT", authority));
    let table = columns(["Authority", "Key", "Ends", "State", "Id"], x509.chain(jwt).collect());
    screen.text(&format!("\n{table}\n"))
}
