//! What each side asks of the other, over real sockets, with certificates that another library has made.

#![expect(clippy::unwrap_used, reason = "a test states its expectations by unwrapping")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use ca_core::clock::Timestamp;
use mintmark_transport::{
    Acceptor, Connector, Credential, HandshakeError, Identity, Peer, Rejected, Trust,
};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use support::{Authority, FRONT_END, SIGNER, StoppedClock, TRUST_DOMAIN, leaf, now};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

/// Long enough for the busiest machine.
const LONG: Duration = Duration::from_secs(60);

struct Stage {
    authority: Authority,
    trust: Arc<Trust>,
    clock: Arc<StoppedClock>,
}

impl Stage {
    fn set() -> Self {
        let authority = Authority::new(TRUST_DOMAIN);
        let trust = Arc::new(authority.trust());
        Self { authority, trust, clock: Arc::new(StoppedClock(now())) }
    }

    fn acceptor(&self, server: Credential) -> Acceptor {
        let (identity, trust) = (Identity::new(server), Arc::clone(&self.trust));
        Acceptor::new(identity, trust, self.clock.clone(), LONG).unwrap()
    }

    fn connector(&self, client: Credential) -> Connector {
        let (identity, trust) = (Identity::new(client), Arc::clone(&self.trust));
        let expected = trust.trust_domain().signer_id();
        Connector::new(identity, trust, expected, self.clock.clone(), LONG).unwrap()
    }

    fn signer(&self) -> Credential {
        self.authority.issue(leaf(SIGNER))
    }

    /// What each side says of a handshake between them.
    async fn meet(&self, client: Credential, server: Credential) -> (Outcome, Outcome) {
        let (ours, theirs) = sockets().await;
        let (acceptor, connector) = (self.acceptor(server), self.connector(client));
        let accepting = async { acceptor.accept(ours).await.map(|(_, peer)| peer) };
        let connecting = async { connector.connect(theirs).await.map(|(_, peer)| peer) };
        tokio::join!(accepting, connecting)
    }

    /// What the signer says of a client with that certificate.
    async fn client(&self, client: Credential) -> Outcome {
        self.meet(client, self.signer()).await.0
    }

    async fn rejected(&self, client: Credential) -> Rejected {
        match self.client(client).await {
            Err(HandshakeError::Rejected(rejected)) => rejected,
            other => panic!("{other:?}"),
        }
    }
}

type Outcome = Result<Peer, HandshakeError>;

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (accepted, connected) = tokio::join!(listener.accept(), TcpStream::connect(address));
    (accepted.unwrap().0, connected.unwrap())
}

#[tokio::test]
async fn two_members_of_a_trust_domain_know_each_other() {
    let stage = Stage::set();
    let client = stage.authority.issue_with_key(leaf(FRONT_END));
    let (server, fingerprint) = (stage.signer(), client.fingerprint);
    let (seen, signer) = stage.meet(client.credential, server).await;
    let (seen, signer) = (seen.unwrap(), signer.unwrap());
    assert_eq!(seen.id.as_str(), FRONT_END);
    assert_eq!(seen.key_fingerprint, fingerprint);
    assert_eq!(seen.not_after, now().plus(Duration::from_secs(3600)));
    assert_eq!(seen.serial, "1234");
    assert_eq!(signer.id.as_str(), SIGNER);
}

#[tokio::test]
async fn who_shows_no_certificate_is_not_let_in() {
    let stage = Stage::set();
    let mut roots = RootCertStore::empty();
    roots.add(stage.authority.certificate()).unwrap();
    let settings = ClientConfig::builder_with_provider(support::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(support::Credulous))
        .with_no_client_auth();
    let (seen, _) = raw(&stage, settings).await;
    assert!(matches!(seen, Err(HandshakeError::Rejected(Rejected::NoCertificate))), "{seen:?}");
}

#[tokio::test]
async fn tls_1_2_is_not_spoken() {
    let stage = Stage::set();
    let client = stage.authority.issue_with_key(leaf(FRONT_END));
    let settings = ClientConfig::builder_with_provider(support::provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(support::Credulous))
        .with_client_auth_cert(client.chain, client.key)
        .unwrap();
    let (seen, client) = raw(&stage, settings).await;
    assert!(matches!(seen, Err(HandshakeError::Tls(_))), "{seen:?}");
    assert!(client.is_err());
}

#[tokio::test]
async fn nothing_is_spoken_but_http2() {
    let stage = Stage::set();
    let client = stage.authority.issue_with_key(leaf(FRONT_END));
    let mut settings = eager(client.chain, client.key);
    settings.alpn_protocols = Vec::new();
    let (seen, _) = raw(&stage, settings).await;
    assert!(matches!(seen, Err(HandshakeError::NotHttp2)), "{seen:?}");
}

/// A client that would resume any session, and send early data in it.
fn eager(
    chain: Vec<rustls::pki_types::CertificateDer<'static>>,
    key: rustls::pki_types::PrivateKeyDer<'static>,
) -> ClientConfig {
    let mut settings = ClientConfig::builder_with_provider(support::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(support::Credulous))
        .with_client_auth_cert(chain, key)
        .unwrap();
    settings.alpn_protocols = vec![b"h2".to_vec()];
    settings.enable_early_data = true;
    settings
}

#[tokio::test]
async fn no_session_is_resumed() {
    let stage = Stage::set();
    let client = stage.authority.issue_with_key(leaf(FRONT_END));
    let acceptor = stage.acceptor(stage.signer());
    let connector = TlsConnector::from(Arc::new(eager(client.chain, client.key)));
    for _ in 0..3 {
        let (ours, theirs) = sockets().await;
        let name = ServerName::try_from("signer.test").unwrap();
        let (seen, reached) = tokio::join!(acceptor.accept(ours), connector.connect(name, theirs));
        let (mut seen, mut reached) = (seen.unwrap().0, reached.unwrap());
        // A ticket would come with the first bytes.
        seen.write_all(b"x").await.unwrap();
        seen.flush().await.unwrap();
        reached.read_u8().await.unwrap();
        let tls = reached.get_ref().1;
        assert_eq!(tls.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert_eq!(tls.tls13_tickets_received(), 0);
        assert!(!tls.is_early_data_accepted());
    }
}

#[tokio::test]
async fn the_key_exchange_is_the_one_that_outlives_quantum_computers() {
    let stage = Stage::set();
    let (ours, theirs) = sockets().await;
    let acceptor = stage.acceptor(stage.signer());
    let connector = stage.connector(stage.authority.issue(leaf(FRONT_END)));
    let (seen, reached) = tokio::join!(acceptor.accept(ours), connector.connect(theirs));
    let (seen, _reached) = (seen.unwrap().0, reached.unwrap());
    let group = seen.get_ref().1.negotiated_key_exchange_group().unwrap();
    assert_eq!(group.name(), rustls::NamedGroup::X25519MLKEM768);
}

async fn raw(
    stage: &Stage,
    settings: ClientConfig,
) -> (Outcome, std::io::Result<tokio_rustls::client::TlsStream<TcpStream>>) {
    let (ours, theirs) = sockets().await;
    let acceptor = stage.acceptor(stage.signer());
    let connector = TlsConnector::from(Arc::new(settings));
    let accepting = async { acceptor.accept(ours).await.map(|(_, peer)| peer) };
    let name = ServerName::try_from("signer.test").unwrap();
    tokio::join!(accepting, connector.connect(name, theirs))
}

#[tokio::test]
async fn each_broken_rule_is_named() {
    let stage = Stage::set();
    let issue = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = leaf(FRONT_END);
        change(&mut params);
        stage.authority.issue(params)
    };
    let uri = |uri: &str| SanType::URI(uri.try_into().unwrap());
    let two = issue(&|params| params.subject_alt_names.push(uri("spiffe://td.test/other")));
    assert_eq!(stage.rejected(two).await, Rejected::Uris(2));
    let none = issue(&|params| params.subject_alt_names.clear());
    assert_eq!(stage.rejected(none).await, Rejected::Uris(0));
    let https = issue(&|params| params.subject_alt_names.push(uri("https://a.test/")));
    assert_eq!(stage.rejected(https).await, Rejected::Uris(2));
    let other = issue(&|params| params.subject_alt_names = vec![uri("https://a.test/")]);
    assert!(matches!(stage.rejected(other).await, Rejected::Id(_)));
    let foreign = issue(&|params| params.subject_alt_names = vec![uri("spiffe://other.test/a")]);
    assert!(matches!(stage.rejected(foreign).await, Rejected::TrustDomain { .. }));
    let domain = issue(&|params| params.subject_alt_names = vec![uri("spiffe://td.test")]);
    assert!(matches!(stage.rejected(domain).await, Rejected::NoPath(_)));
    let ca = issue(&|params| params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
    assert!(matches!(stage.rejected(ca).await, Rejected::Ca(_)));
    let signs = issue(&|params| params.key_usages.push(KeyUsagePurpose::KeyCertSign));
    assert!(matches!(stage.rejected(signs).await, Rejected::KeyUsage(_)));
    let silent = issue(&|params| params.key_usages.clear());
    assert!(matches!(stage.rejected(silent).await, Rejected::KeyUsage(_)));
    let server =
        issue(&|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    assert!(matches!(
        stage.rejected(server).await,
        Rejected::Purpose { purpose: "clientAuth", .. }
    ));
    let ended = issue(&|params| support::ends(params, now().minus(Duration::from_secs(1))));
    assert!(matches!(stage.rejected(ended).await, Rejected::Ended { .. }));
    let early = issue(&|params| support::begins(params, now().plus(Duration::from_secs(1))));
    assert!(matches!(stage.rejected(early).await, Rejected::NotYet { .. }));
}

#[tokio::test]
async fn who_is_vouched_for_by_somebody_else_is_not_let_in() {
    let stage = Stage::set();
    // The same name and another key.
    let impostor = Authority::new(TRUST_DOMAIN).issue(leaf(FRONT_END));
    let rejected = stage.rejected(impostor).await;
    assert!(matches!(rejected, Rejected::Untrusted { .. }), "{rejected}");
}

#[tokio::test]
async fn who_is_certified_by_a_ca_below_the_authority_is_a_workload_and_nothing_of_the_service() {
    let stage = Stage::set();
    let below = stage.authority.below(|_| {});
    let workload = below.issue(leaf("spiffe://td.test/workload"));
    assert_eq!(stage.client(workload).await.unwrap().id.path(), "/workload");
    for path in ["/mintmark", "/mintmark/frontend/one", "/mintmark/signer", "/mintmark/x/y"] {
        let rejected = stage.rejected(below.issue(leaf(&format!("spiffe://td.test{path}")))).await;
        assert!(matches!(rejected, Rejected::NotOfAuthority(_)), "{path}: {rejected}");
    }
    let (_, reached) =
        stage.meet(stage.authority.issue(leaf(FRONT_END)), below.issue(leaf(SIGNER))).await;
    let Err(HandshakeError::Rejected(rejected)) = reached else { panic!("{reached:?}") };
    assert!(matches!(rejected, Rejected::NotOfAuthority(_)), "a signer of its own: {rejected}");
}

#[tokio::test]
async fn what_stands_between_a_leaf_and_an_authority_is_a_ca() {
    let stage = Stage::set();
    let rejected = async |change: fn(&mut CertificateParams)| {
        let below = stage.authority.below(change);
        stage.rejected(below.issue(leaf("spiffe://td.test/workload"))).await
    };
    for change in [
        (|params: &mut CertificateParams| params.key_usages = vec![KeyUsagePurpose::CrlSign])
            as fn(&mut _),
        |params| params.key_usages.clear(),
        |params| params.is_ca = IsCa::ExplicitNoCa,
        |params| params.is_ca = IsCa::NoCa,
    ] {
        let rejected = rejected(change).await;
        assert!(matches!(rejected, Rejected::NotCa(2, _)), "{rejected}");
    }
}

#[tokio::test]
async fn the_ca_itself_is_not_let_in() {
    let stage = Stage::set();
    let rejected = stage.rejected(stage.authority.itself()).await;
    assert!(matches!(rejected, Rejected::NoPath(_) | Rejected::Ca(_)), "{rejected}");
}

#[tokio::test]
async fn a_long_chain_and_a_large_certificate_are_not_read() {
    let stage = Stage::set();
    let padded = stage.authority.issue_with_key(leaf(FRONT_END));
    let chain = |copies| vec![padded.chain[0].clone(); copies];
    let credential = Credential::new(chain(6), padded.key.clone_key()).unwrap();
    assert_eq!(stage.rejected(credential).await, Rejected::ChainTooLong(6));
    let mut params = leaf(FRONT_END);
    let names = (0..300).map(|n| format!("{n}.{}.test", "a".repeat(60)));
    let names = names.map(|name| SanType::DnsName(name.try_into().unwrap()));
    params.subject_alt_names.extend(names);
    let rejected = stage.rejected(stage.authority.issue(params)).await;
    assert!(matches!(rejected, Rejected::TooLarge(_)), "{rejected}");
}

#[tokio::test]
async fn an_rsa_modulus_of_a_megabyte_costs_the_bytes_of_a_message() {
    let stage = Stage::set();
    let giant = support::with_giant_modulus(&stage.authority, 1 << 20);
    let seen = raw(&stage, giant).await.0;
    // Larger than a handshake message may be: it is not even read to its end.
    assert!(seen.is_err(), "{seen:?}");
    let large = support::with_giant_modulus(&stage.authority, 8 << 10);
    match raw(&stage, large).await.0 {
        Err(HandshakeError::Rejected(rejected @ Rejected::Key(_))) => {
            assert!(rejected.to_string().contains("RSA modulus has 65536 bits"), "{rejected}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_server_that_is_not_the_signer_is_not_spoken_to() {
    let stage = Stage::set();
    for (path, server_auth) in [("/workload", true), ("/mintmark/signer/x", true), ("", false)] {
        let mut params = leaf(&format!("spiffe://{TRUST_DOMAIN}{path}"));
        if !server_auth {
            params = leaf(SIGNER);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        }
        let server = stage.authority.issue(params);
        let client = stage.authority.issue(leaf(FRONT_END));
        let (_, reached) = stage.meet(client, server).await;
        match (reached, server_auth) {
            (Err(HandshakeError::Rejected(Rejected::NotExpected { .. })), true)
            | (Err(HandshakeError::Rejected(Rejected::Purpose { .. })), false) => {}
            (other, _) => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn authorities_and_identities_change_while_a_listener_runs() {
    let stage = Stage::set();
    let next = Authority::new(TRUST_DOMAIN);
    let identity = Identity::new(stage.signer());
    let clock = stage.clock.clone();
    let acceptor = Acceptor::new(identity.clone(), Arc::clone(&stage.trust), clock, LONG).unwrap();
    let meet = async |connector: &Connector| {
        let (ours, theirs) = sockets().await;
        let (seen, reached) = tokio::join!(acceptor.accept(ours), connector.connect(theirs));
        (seen.map(|(_, peer)| peer), reached.map(|(_, peer)| peer))
    };
    let first = meet(&stage.connector(stage.authority.issue(leaf(FRONT_END)))).await;
    assert!(first.0.is_ok() && first.1.is_ok());
    stage.trust.follow(&support::bundle(&[&next])).unwrap();
    let old = meet(&stage.connector(stage.authority.issue(leaf(FRONT_END)))).await;
    assert!(old.1.is_err(), "the client trusts the new authority alone");
    identity.replace(next.issue(leaf(SIGNER)));
    let new = meet(&stage.connector(next.issue(leaf(FRONT_END)))).await;
    assert!(new.0.is_ok() && new.1.is_ok());
    let old = meet(&stage.connector(stage.authority.issue(leaf(FRONT_END)))).await;
    assert!(matches!(old.0, Err(HandshakeError::Rejected(Rejected::Untrusted { .. }))));
}

#[tokio::test]
async fn who_says_nothing_is_not_waited_for() {
    let stage = Stage::set();
    let (identity, trust) = (Identity::new(stage.signer()), Arc::clone(&stage.trust));
    let short = Duration::from_millis(50);
    let acceptor = Acceptor::new(identity, trust, stage.clock.clone(), short).unwrap();
    let (ours, _theirs) = sockets().await;
    let seen = acceptor.accept(ours).await.map(|(_, peer)| peer);
    assert!(matches!(seen, Err(HandshakeError::TooSlow(_))), "{seen:?}");
}

#[test]
fn the_library_that_verifies_agrees_with_the_rules_about_time() {
    let stage = Stage::set();
    let peer = stage.authority.issue_with_key(leaf(FRONT_END));
    let at = |time: Timestamp| {
        stage.trust.verify(&peer.chain, mintmark_transport::Side::Client, time).is_ok()
    };
    let end = now().plus(Duration::from_secs(3600));
    assert!(at(now()) && at(end), "a certificate is good in its last second");
    assert!(!at(end.plus(Duration::from_secs(1))));
}
