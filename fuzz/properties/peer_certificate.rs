//! What holds of any bytes that a peer shows as its certificate.

use ca_core::clock::Timestamp;
use ca_core::id::TrustDomain;
use mintmark_transport::rules::{LARGEST_CERTIFICATE, Rejected, Side, examine};
use rustls_pki_types::CertificateDer;

/// Reads `data` as the leaf of a client and of a server; says whether it was accepted as both. Panics if a promise is
/// broken.
pub(crate) fn holds(data: &[u8]) -> bool {
    let chain = [CertificateDer::from(data)];
    let domain = TrustDomain::parse("td.test").expect("a name");
    // In January of 2027.
    let now = Timestamp::from_unix(1_800_000_000);
    let [client, server] =
        [Side::Client, Side::Server].map(|side| examine(&chain, side, &domain, now));
    for rejected in [&client, &server].into_iter().filter_map(|seen| seen.as_ref().err()) {
        let shown = rejected.to_string();
        assert!(shown.len() < 2048 && !shown.contains(char::is_control), "{shown}");
    }
    match (client, server) {
        (Ok(client), Ok(server)) => {
            assert_eq!(client, server);
            assert!(data.len() <= LARGEST_CERTIFICATE);
            assert!(client.id.is_member_of(&domain) && client.id.path().len() > 1);
            assert!(client.not_after >= now);
            assert!(client.serial.len() <= 42);
            true
        }
        (Err(_), Ok(_)) | (Ok(_), Err(_)) => false,
        (Err(client), Err(server)) => {
            // Purposes are the sides' only difference, and looked at before the key.
            let purposes = [&client, &server].map(|it| matches!(it, Rejected::Purpose { .. }));
            assert!(purposes.contains(&true) || client == server, "{client}, {server}");
            false
        }
    }
}
