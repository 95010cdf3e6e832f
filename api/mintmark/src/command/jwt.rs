//! `mintmark jwt …`

use std::path::Path;

use ca_core::clock::Timestamp;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::cli::{MintJwt, Output};
use crate::client::AdminClient;
use crate::exit::Failure;
use crate::output::Screen;

/// A minted token, as programs see it.
#[derive(Serialize)]
struct Minted<'a> {
    spiffe_id: &'a str,
    token: &'a str,
    issued_at: String,
    expires_at: String,
}

/// Mints a JWT-SVID and prints it: to people the token alone, so that `$(…)` takes it.
pub(super) async fn mint(
    arguments: MintJwt,
    socket: &Path,
    screen: &mut Screen<'_>,
) -> Result<(), Failure> {
    let MintJwt { spiffe_id, audience, ttl, shown: _ } = arguments;
    let client = AdminClient::connect(socket).await?;
    let svid = client.mint_jwt(&spiffe_id, audience, ttl).await?;
    // A bearer token: the copies that are ours are wiped.
    let token = Zeroizing::new(svid.token);
    match screen.form() {
        Output::Table => screen.text(&Zeroizing::new(format!("{}\n", token.as_str()))),
        Output::Json => screen.json(&Minted {
            spiffe_id: spiffe_id.as_str(),
            token: &token,
            issued_at: Timestamp::from_unix(svid.issued_at).to_string(),
            expires_at: Timestamp::from_unix(svid.expires_at).to_string(),
        }),
    }
}
