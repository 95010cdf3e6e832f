//! SVIDs asked for over mTLS streams, by a client on the same cores, beside the same streams to a server that does the
//! bare cryptography and nothing else.

mod client;
mod handshake;
mod raw;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use ca_core::clock::{Clock, SystemClock};
use ca_core::csr::Csr;
use ca_core::frontend::{
    Certified, Enrolment, Existing, FrontEndName, FrontEnds, Grants, PathScope, Terms, Wanted,
};
use ca_core::mint::Mint;
use ca_core::policy;
use ca_core::store::Embedded;
use mintmark_proto::signing::v1::{
    JwtItem, MintRequest, NamedJwt, NamedX509, X509Item, jwt_item, x509_item,
};
use mintmark_signer::signing::{Limits, by_records};
use mintmark_signer::{ServiceMetrics, SigningListener, SigningServices};
use mintmark_transport::{Connector, Credential, FreshKey, Identity, Trust};
use rcgen::{CertificateParams, KeyPair};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::mint::{CALLER, urgency};
use crate::paired::{self, Row};
use crate::pipeline::{Bench, Log};
use client::{Client, Shape};
pub(crate) use handshake::handshake;
use raw::RawCrypto;

/// Where the workload is whose SVIDs are asked for.
const PATH: &str = "/ns/payments/sa/api";

/// From keys whose possession the front end has verified, so many in a message.
pub(crate) fn verified_key(batch: usize) -> anyhow::Result<Row> {
    let bench = Bench::new(Log::On)?;
    let raw = RawCrypto::sign(bench.certificate()?)?;
    let spki = ca_core::key::PublicKey::from_ec_point(raw.point())?.spki().to_vec();
    let item = X509Item { key: Some(x509_item::Key::Spki(spki.into())), ..named() };
    let message = MintRequest { x509: vec![item; batch], ..MintRequest::default() };
    compare(&format!("stream/verified-key/p256/batch-{batch}"), &bench, raw, message)
}

/// From CSRs, which the signer verifies.
pub(crate) fn csr(batch: usize) -> anyhow::Result<Row> {
    let bench = Bench::new(Log::On)?;
    let csr = bench.csr().clone();
    let raw = RawCrypto::verify_and_sign(&csr, bench.certificate()?)?;
    let item = X509Item { key: Some(x509_item::Key::Csr(csr)), ..named() };
    let message = MintRequest { x509: vec![item; batch], ..MintRequest::default() };
    compare(&format!("stream/csr/p256/batch-{batch}"), &bench, raw, message)
}

/// Tokens for one audience.
pub(crate) fn jwt(batch: usize) -> anyhow::Result<Row> {
    let bench = Bench::new(Log::On)?;
    let raw = RawCrypto::token(bench.token()?)?;
    let item = JwtItem {
        audience: vec!["ledger".to_owned()],
        subject: Some(jwt_item::Subject::Named(NamedJwt {
            path: PATH.to_owned(),
            ttl_seconds: 300,
        })),
        ..JwtItem::default()
    };
    let message = MintRequest { jwt: vec![item; batch], ..MintRequest::default() };
    compare(&format!("stream/jwt/es256/batch-{batch}"), &bench, raw, message)
}

fn named() -> X509Item {
    let named = NamedX509 { path: PATH.to_owned(), ttl_seconds: 3600, ..NamedX509::default() };
    X509Item { subject: Some(x509_item::Subject::Named(named)), ..X509Item::default() }
}

/// The same messages to both servers, which share a runtime and are never asked at once.
fn compare(name: &str, bench: &Bench, raw: RawCrypto, message: MintRequest) -> anyhow::Result<Row> {
    let mint = bench.pipeline().mint();
    let identities = Identities { mint, runtime: bench.runtime() };
    let front_end = identities.front_end()?;
    let services = SigningServices {
        pipeline: Arc::clone(bench.pipeline()),
        clock: Arc::new(SystemClock),
        gate: by_records(front_end.records, mint, Arc::new(SystemClock)),
        bundle: watch::channel(Arc::clone(mint.bundle())).1,
        metrics: ServiceMetrics::default(),
        limits: Limits::default(),
    };
    let listener = SigningListener::bind(([127, 0, 0, 1], 0).into())?;
    let address = listener.address();
    let listener = bench.runtime().block_on(listener.prepare(services))?;
    bench.runtime().spawn(listener.serve(std::future::pending()));
    let raw_address =
        bench.runtime().block_on(raw.serve(identities.signer()?, identities.trust()?))?;

    // A message alone shows what a stream is like; more of them share connections.
    let shape = match message.x509.len() + message.jwt.len() {
        1 => Shape { connections: 1, streams: 1, unanswered: 512 },
        items => Shape { connections: 2, streams: 2, unanswered: items.max(512) },
    };
    let connector = Connector::new(
        Identity::new(front_end.credential),
        identities.trust()?,
        mint.trust_domain().signer_id(),
        Arc::new(SystemClock),
        Duration::from_secs(10),
    )?;
    let mut ours = Client::connect(&connector, address, shape, message.clone())?;
    let mut limit = Client::connect(&connector, raw_address, shape, message)?;
    let row = paired::wall_rate(
        name,
        "the same streams, raw crypto behind them",
        |slice| ours.run_for(slice),
        |slice| limit.run_for(slice),
    );
    println!(
        "  server CPU per item: {:.2} us, of the limit {:.2} us; client {:.2} us, {:.2} us",
        ours.server_cost(),
        limit.server_cost(),
        ours.client_cost(),
        limit.client_cost()
    );
    Ok(row)
}

/// Makes the certificates of both ends.
struct Identities<'a> {
    mint: &'a Arc<Mint>,
    runtime: &'a Runtime,
}

/// A front end that may name every workload.
struct FrontEnd {
    records: Arc<FrontEnds>,
    credential: Credential,
}

impl Identities<'_> {
    fn trust(&self) -> anyhow::Result<Arc<Trust>> {
        Ok(Arc::new(Trust::of(self.mint.bundle())?))
    }

    fn signer(&self) -> anyhow::Result<Arc<Identity>> {
        let key = FreshKey::generate()?;
        let grant = policy::signer(self.mint.trust_domain(), key.public().clone());
        let minting = self.mint.x509(grant, CALLER, SystemClock.now(), urgency());
        let svid = self.runtime.block_on(minting)?;
        let chain = svid.chain().map(|der| der.to_vec().into()).collect();
        Ok(Identity::new(key.certified(chain)?))
    }

    fn front_end(&self) -> anyhow::Result<FrontEnd> {
        let key = KeyPair::generate()?;
        let csr = CertificateParams::default().serialize_request(&key)?;
        let csr = Csr::parse(csr.der())?.verify()?;
        let fingerprint = *csr.key.public_key().fingerprint();
        let name = FrontEndName::parse("bench")?;
        let grant = policy::frontend_svid(&name, self.mint.trust_domain(), csr)?;
        let now = SystemClock.now();
        let svid = self.runtime.block_on(self.mint.x509(grant, CALLER, now, urgency()))?;
        let terms = Terms::new(Wanted {
            path_scopes: vec![PathScope::parse("/")?],
            grants: Grants { named: true, ..Grants::default() },
            ..Wanted::default()
        })?;
        let enrolment = Enrolment { name, terms, existing: Existing::default() };
        let certified = Certified { fingerprint, serial: svid.serial, not_after: svid.expires_at };
        let store = Arc::new(Embedded::open(tempfile::tempdir()?.path())?);
        let records = self.runtime.block_on(async {
            let records = FrontEnds::load(store).await?;
            records.enroll(&enrolment, &certified, now).await?;
            anyhow::Ok(records)
        })?;
        let chain = svid.chain().map(|der| der.to_vec().into()).collect();
        let key = key.serialize_der().try_into().ok().context("rcgen writes PKCS#8")?;
        Ok(FrontEnd { records, credential: Credential::new(chain, key)? })
    }
}
