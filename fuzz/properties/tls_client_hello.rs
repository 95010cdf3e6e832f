//! What holds of any bytes that a stranger sends to a listener that speaks TLS.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use ca_core::clock::{Clock, Timestamp};
use ca_core::id::TrustDomain;
use mintmark_transport::{Acceptor, Credential, HandshakeError, Identity, Trust};
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio::runtime::Builder;

/// The content type of a record with a part of a handshake (RFC 8446 §5.1): the hello was answered.
const HANDSHAKE: u8 = 22;
/// How long a handshake may take.
const WITHIN: Duration = Duration::from_secs(5);
/// As long as the busiest machine needs for that, whose waiting is skipped.
const LONGEST_WORK: Duration = Duration::from_secs(20);

/// Sends `data` and nothing more; says whether it was answered by a hello, be it one that asks for another. Panics if a promise is broken.
pub(crate) fn holds(data: &[u8]) -> bool {
    static ACCEPTOR: OnceLock<Acceptor> = OnceLock::new();
    let acceptor = ACCEPTOR.get_or_init(acceptor);
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_all().start_paused(true).build().expect("a runtime");
    let begun = Instant::now();
    let received = runtime.block_on(async {
        let (ours, theirs) = duplex(64 * 1024);
        let (mut reader, mut writer) = tokio::io::split(theirs);
        let accepting = async {
            let Err(error) = acceptor.accept(ours).await else {
                panic!("nobody knows a key by chance")
            };
            let shown = error.to_string();
            assert!(shown.len() < 2048 && !shown.contains(char::is_control), "{shown}");
            // Whoever stops in the middle is waited for, and no longer than may be.
            assert!(!matches!(error, HandshakeError::NotHttp2), "it comes after the certificate");
        };
        let mut received = Vec::new();
        let sending = async {
            // It may end before all is sent.
            let _ = writer.write_all(data).await;
        };
        let all = async { tokio::join!(accepting, reader.read_to_end(&mut received), sending) };
        let ended = tokio::time::timeout(WITHIN * 2, all).await;
        assert!(ended.is_ok(), "every handshake ends");
        received
    });
    assert!(begun.elapsed() < LONGEST_WORK, "{:?}", begun.elapsed());
    received.first() == Some(&HANDSHAKE)
}

/// In January of 2027.
struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix(1_800_000_000)
    }
}

/// One that trusts itself alone.
fn acceptor() -> Acceptor {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["td.test".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key");
    let chain = vec![cert.der().clone()];
    let trust_domain = TrustDomain::parse("td.test").expect("a name");
    let trust = Arc::new(Trust::of_roots(trust_domain, &chain).expect("a root"));
    let identity = Identity::new(Credential::new(chain, key).expect("they go together"));
    Acceptor::new(identity, trust, Arc::new(Stopped), WITHIN).expect("settings of ours")
}
