//! The pieces of a mint one by one, for finding out where time goes. Claims are in `mintmark-bench`.

use std::hint::black_box;
use std::time::Duration;

use ca_core::clock::Timestamp;
use ca_core::csr::Csr;
use ca_core::id::{SpiffeId, TrustDomain};
use ca_core::key::{PublicKey, SignatureAlgorithm};
use ca_core::lint::{self, Expectation};
use ca_core::name::{Attribute, Name};
use ca_core::profile::Profile;
use ca_core::serial::{RandomSerials, Serial, SerialSource};
use ca_core::template::{Fields, Template};
use criterion::{Criterion, criterion_group, criterion_main};
use rcgen::{CertificateParams, KeyPair, SanType};

fn pieces(criterion: &mut Criterion) {
    let trust_domain = TrustDomain::parse("bench.test").expect("a trust domain");
    let id = SpiffeId::from_parts("bench.test", "/ns/payments/sa/api").expect("an id");
    let pair = KeyPair::generate().expect("a key");
    let key = PublicKey::from_ec_point(pair.public_key_raw()).expect("a point");
    let name = Name::from_attributes(&[(Attribute::Organization, "bench")]).expect("a name");
    let root = Template::new(Profile::Root, SignatureAlgorithm::EcdsaP256Sha256, name, None);
    let now = Timestamp::from_unix(1_800_000_000);
    let serial = Serial::from_bytes([7; 20]);
    let domain_id = trust_domain.id();
    let subject = Name::from_attributes(&[(Attribute::Organization, "bench")]).expect("a name");
    let fields = Fields {
        serial: &serial,
        not_before: now,
        not_after: now.plus(Duration::from_secs(3600)),
        subject: &subject,
        key: &key,
        id: &domain_id,
        dns_names: &[],
    };
    let tbs = root.tbs(&fields);
    let expectation = Expectation {
        profile: Profile::Root,
        trust_domain: &trust_domain,
        id: &domain_id,
        key: &key,
        algorithm: SignatureAlgorithm::EcdsaP256Sha256,
        issuer: None,
    };
    let mut parameters = CertificateParams::default();
    parameters.subject_alt_names =
        vec![SanType::URI(id.as_str().try_into().expect("an id is ASCII"))];
    let csr = parameters.serialize_request(&pair).expect("a request").der().to_vec();
    let serials = RandomSerials::new();

    criterion.bench_function("id/parse", |b| b.iter(|| SpiffeId::parse(black_box(id.as_str()))));
    criterion.bench_function("csr/parse", |b| b.iter(|| Csr::parse(black_box(&csr)).map(|_| ())));
    criterion.bench_function("csr/parse+verify", |b| {
        b.iter(|| Csr::parse(black_box(&csr)).and_then(|csr| csr.verify()).map(|_| ()));
    });
    criterion.bench_function("serial/random", |b| b.iter(|| serials.next()));
    criterion.bench_function("template/tbs", |b| b.iter(|| root.tbs(black_box(&fields))));
    criterion.bench_function("lint/check", |b| {
        b.iter(|| lint::check(black_box(tbs.clone()), &expectation).map(|_| ()));
    });
    criterion.bench_function("key/id", |b| b.iter(|| black_box(&key).key_id()));
}

criterion_group!(benches, pieces);
criterion_main!(benches);
