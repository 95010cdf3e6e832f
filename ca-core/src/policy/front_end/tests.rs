use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};

use super::*;
use crate::clock::Timestamp;
use crate::csr::Csr;
use crate::frontend::{
    Certified, DnsScope, Enrolment, Existing, Grants, KeyKinds, PathScope, Terms, Wanted,
};
use crate::key::{KeyKind, KeyType};
use crate::serial::Serial;

const HOUR: Duration = Duration::from_secs(3600);
const NAMED: Grants = Grants { named: true, downstream: false, publish: false, admin: false };

fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

/// A front end for `/ns/prod` and `*.prod.example.org` that may name IDs, but for what is changed.
fn front_end(change: impl FnOnce(&mut Wanted)) -> FrontEnd {
    let mut wanted = Wanted {
        path_scopes: vec![PathScope::parse("/ns/prod").unwrap()],
        dns_scopes: vec![DnsScope::parse("*.prod.example.org").unwrap()],
        grants: NAMED,
        ..Wanted::default()
    };
    change(&mut wanted);
    let (name, existing) = (FrontEndName::parse("edge").unwrap(), Existing::default());
    let enrolment = Enrolment { name, terms: Terms::new(wanted).unwrap(), existing };
    let serial = Serial::from_bytes([1; 20]);
    let key = Certified { fingerprint: [1; 32], serial, not_after: Timestamp::MAX };
    FrontEnd::enrolled(None, &enrolment, &key, Timestamp::EPOCH).unwrap()
}

fn csr(uris: &[&str]) -> VerifiedCsr {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    for &uri in uris {
        params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
    }
    params.subject_alt_names.push(SanType::DnsName("ignored.test".try_into().unwrap()));
    let csr = params.serialize_request(&KeyPair::generate().unwrap()).unwrap();
    Csr::parse(csr.der()).unwrap().verify().unwrap()
}

fn spki() -> PublicKey {
    csr(&[]).key.public_key().clone()
}

/// How it is known who holds the key.
enum Possession {
    Csr(VerifiedCsr),
    Word(PublicKey),
}

/// A certificate that is asked for.
struct Asked {
    key: Possession,
    id: SpiffeId,
    dns_names: Vec<String>,
    ttl_seconds: u32,
    profile: Profile,
}

fn frontend_x509(
    front_end: &FrontEnd,
    trust_domain: &TrustDomain,
    wanted: Asked,
    usual_ttl: Duration,
) -> Result<X509Grant, Refusal> {
    let Asked { key, id, dns_names, ttl_seconds, profile } = wanted;
    let wanted = NamedX509 { id, dns_names, ttl_seconds, profile };
    let names = frontend_names(front_end, trust_domain, wanted, usual_ttl)?;
    match key {
        Possession::Csr(csr) => names.proven(csr),
        Possession::Word(key) => names.vouched(key),
    }
}

fn x509(change: impl FnOnce(&mut Asked)) -> Asked {
    let mut wanted = Asked {
        key: Possession::Word(spki()),
        id: id("spiffe://example.org/ns/prod/web"),
        dns_names: Vec::new(),
        ttl_seconds: 0,
        profile: Profile::Workload,
    };
    change(&mut wanted);
    wanted
}

fn granted(front_end: &FrontEnd, wanted: Asked) -> X509Grant {
    frontend_x509(front_end, &domain(), wanted, HOUR).unwrap()
}

/// The refusal, if it says what is wrong and what to do.
#[track_caller]
fn refused(front_end: &FrontEnd, wanted: Asked, advice: &str) -> Refusal {
    let refusal = frontend_x509(front_end, &domain(), wanted, HOUR).unwrap_err();
    assert!(refusal.to_string().contains(advice), "{refusal}");
    refusal
}

fn refused_jwt(front_end: &FrontEnd, id: SpiffeId, audience: &[&str], ttl_seconds: u32) -> Refusal {
    let audience = audience.iter().map(|&name| name.to_owned()).collect();
    let wanted = NamedJwt { id, audience, ttl_seconds };
    frontend_jwt(front_end, &domain(), wanted, HOUR).unwrap_err()
}

#[test]
fn what_is_within_the_terms_is_granted_and_nothing_of_the_csr_but_its_key() {
    let front_end = front_end(|_| {});
    let key = spki();
    let grant = granted(
        &front_end,
        x509(|wanted| {
            wanted.key = Possession::Word(key.clone());
            wanted.dns_names = vec!["web.prod.example.org".into(), "*.a.prod.example.org".into()];
            wanted.ttl_seconds = 60;
        }),
    );
    assert_eq!(grant.id().as_str(), "spiffe://example.org/ns/prod/web");
    assert_eq!((grant.key(), grant.profile()), (&key, Profile::Workload));
    assert_eq!(grant.dns_names().len(), 2);
    assert_eq!(grant.subject().to_string(), "CN=web.prod.example.org");
    assert_eq!(grant.ttl(), Some(Duration::from_secs(60)));

    let proven = csr(&["spiffe://example.org/ns/prod/web"]);
    let key = proven.key.public_key().clone();
    let grant = granted(&front_end, x509(|wanted| wanted.key = Possession::Csr(proven)));
    assert_eq!(grant.key(), &key);
    assert!(grant.dns_names().is_empty() && grant.subject().is_empty());
    assert_eq!(grant.ttl(), None, "the usual life");
}

#[test]
fn nothing_is_named_without_the_grant() {
    let without = front_end(|wanted| wanted.grants = Grants { named: false, ..NAMED });
    let refusal = refused(&without, x509(|_| {}), "--allow-named");
    assert_eq!(refusal, Refusal::NamedNotGranted(without.name().clone()));
    let id = id("spiffe://example.org/ns/prod/web");
    assert_eq!(refused_jwt(&without, id, &["a"], 0), refusal);
}

#[test]
fn nothing_is_minted_for_a_front_end_that_was_withdrawn() {
    let withdrawn = front_end(|_| {}).withdrawn(Timestamp::EPOCH).unwrap();
    let refusal = refused(&withdrawn, x509(|_| {}), "withdrawn at 1970-01-01");
    let id = id("spiffe://example.org/ns/prod/web");
    assert_eq!(refused_jwt(&withdrawn, id, &["a"], 0), refusal);
}

#[test]
fn an_id_outside_of_its_paths_or_of_its_trust_domain_or_of_the_service_is_refused() {
    let everything = front_end(|wanted| wanted.path_scopes.push(PathScope::parse("/").unwrap()));
    let scoped = front_end(|_| {});
    for text in [
        "spiffe://example.org/ns/production",
        "spiffe://example.org/ns",
        "spiffe://example.org/ns/stage/web",
    ] {
        let other = || x509(|wanted| wanted.id = id(text));
        let refusal = refused(&scoped, other(), "outside the path scopes of front end edge");
        assert_eq!(refused_jwt(&scoped, id(text), &["a"], 0), refusal);
        granted(&everything, other());
    }
    for text in [
        "spiffe://other.org/ns/prod/web",
        "spiffe://example.org",
        "spiffe://example.org/spire/agent/x",
        "spiffe://example.org/mintmark/frontend/edge",
    ] {
        for front_end in [&scoped, &everything] {
            let refusal = refused(front_end, x509(|wanted| wanted.id = id(text)), "");
            assert!(matches!(refusal, Refusal::Id(_)), "{refusal}");
            assert_eq!(refused_jwt(front_end, id(text), &["a"], 0), refusal);
        }
    }
}

#[test]
fn a_dns_name_outside_of_its_scopes_is_refused() {
    let front_end = front_end(|_| {});
    for name in ["prod.example.org", "*.example.org", "web.stage.example.org", "ignored.test"] {
        let names = vec!["a.prod.example.org".to_owned(), name.to_owned()];
        let refusal = refused(&front_end, x509(|wanted| wanted.dns_names = names), "--dns-scope");
        assert!(matches!(refusal, Refusal::OutsideDnsScope { .. }), "{refusal}");
        assert!(refusal.to_string().contains(name), "{refusal}");
    }
    for names in [&["not a name"][..], &["a.prod.example.org", "*.prod.example.org"]] {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        let refusal = refused(&front_end, x509(|wanted| wanted.dns_names = names), "");
        assert!(matches!(refusal, Refusal::Dns(_)), "{refusal}");
    }
}

#[test]
fn where_csrs_are_required_a_key_alone_is_refused() {
    let strict = front_end(|wanted| wanted.require_csr = true);
    refused(&strict, x509(|_| {}), "send the workload's CSR");
    granted(&strict, x509(|wanted| wanted.key = Possession::Csr(csr(&[]))));
}

#[test]
fn a_csr_that_names_another_id_is_not_used_for_this_one() {
    let front_end = front_end(|_| {});
    let (own, other) = ("spiffe://example.org/ns/prod/web", "spiffe://example.org/ns/prod/db");
    for uris in [&[other][..], &[own, other], &["http://example.org"]] {
        let key = Possession::Csr(csr(uris));
        let refusal = refused(&front_end, x509(|wanted| wanted.key = key), "one without an ID");
        assert!(matches!(refusal, Refusal::CsrOfOther { .. }), "{refusal}");
    }
}

#[test]
fn a_key_of_a_kind_that_was_not_allowed_is_refused() {
    let rsa = front_end(|wanted| wanted.key_kinds = KeyKinds::of(&[KeyType::Rsa3072]).unwrap());
    let refusal = refused(&rsa, x509(|_| {}), "--allow-key");
    let (front_end, kind) = (rsa.name().clone(), KeyKind::EcP256);
    assert_eq!(refusal, Refusal::KeyKind { front_end, kind });
}

#[test]
fn no_life_is_longer_than_the_front_end_may_have_the_usual_one_neither() {
    let front_end = front_end(|wanted| wanted.max_ttl = Duration::from_secs(600));
    let asked = |seconds| x509(|wanted| wanted.ttl_seconds = seconds);
    let refusal = refused(&front_end, asked(601), "longer than the 600 s");
    assert_eq!(
        refused_jwt(&front_end, id("spiffe://example.org/ns/prod/web"), &["a"], 601),
        refusal
    );
    for (seconds, granted_seconds) in [(600, 600), (1, 1), (0, 600)] {
        let ttl = granted(&front_end, asked(seconds)).ttl();
        assert_eq!(ttl, Some(Duration::from_secs(granted_seconds)));
    }
}

#[test]
fn a_downstream_ca_needs_its_own_grant_and_has_the_id_of_the_trust_domain() {
    let ca = |change: fn(&mut Asked)| {
        let mut wanted = x509(|wanted| {
            wanted.profile = Profile::DownstreamCa;
            wanted.id = domain().id();
        });
        change(&mut wanted);
        wanted
    };
    let everything = |wanted: &mut Wanted| wanted.path_scopes.push(PathScope::parse("/").unwrap());
    let named = front_end(everything);
    let refusal = refused(&named, ca(|_| {}), "--allow-downstream");
    assert_eq!(refusal, Refusal::DownstreamNotGranted(named.name().clone()));

    let may = front_end(|wanted| {
        everything(wanted);
        wanted.grants.downstream = true;
    });
    let grant = granted(&may, ca(|_| {}));
    assert_eq!((grant.profile(), grant.id()), (Profile::DownstreamCa, &domain().id()));
    assert!(grant.subject().to_string().starts_with("SERIALNUMBER="));
    refused(&may, ca(|wanted| wanted.id = id("spiffe://example.org/ns/prod")), "has the ID");
    refused(&may, ca(|wanted| wanted.dns_names = vec!["a.prod.example.org".into()]), "no DNS name");
    let stolen = ca(|wanted| wanted.key = Possession::Csr(csr(&["spiffe://example.org/a"])));
    refused(&may, stolen, "one without an ID");

    let unnamed = front_end(|wanted| {
        everything(wanted);
        wanted.grants = Grants { downstream: true, ..Grants::default() };
    });
    refused(&unnamed, ca(|_| {}), "--allow-named");
}

#[test]
fn certificates_of_the_service_are_not_for_front_ends() {
    let all = |wanted: &mut Wanted| {
        wanted.path_scopes.push(PathScope::parse("/").unwrap());
        wanted.grants = Grants { named: true, downstream: true, publish: true, admin: true };
    };
    let front_end = front_end(all);
    for profile in [Profile::Agent, Profile::Server, Profile::IssuingCa, Profile::Root] {
        let refusal =
            refused(&front_end, x509(|wanted| wanted.profile = profile), "ask for workload");
        assert_eq!(refusal, Refusal::ProfileNotOffered(profile));
    }
}

#[test]
fn a_token_is_for_somebody_and_its_audiences_fit_a_header() {
    let front_end = front_end(|_| {});
    let web = || id("spiffe://example.org/ns/prod/web");
    assert_eq!(refused_jwt(&front_end, web(), &[], 0), Refusal::AudienceMissing);
    assert_eq!(refused_jwt(&front_end, web(), &["", ""], 0), Refusal::AudienceMissing);
    let long = "a".repeat(4097);
    assert_eq!(refused_jwt(&front_end, web(), &[&long], 0), Refusal::AudienceTooLong(4097));
    let audience = vec![String::new(), "db".to_owned()];
    let wanted = NamedJwt { id: web(), audience, ttl_seconds: 60 };
    let grant = frontend_jwt(&front_end, &domain(), wanted, HOUR).unwrap();
    assert_eq!((grant.id(), grant.audience()), (&web(), &["db".to_owned()][..]));
    assert_eq!(grant.ttl(), Some(Duration::from_secs(60)));
}

#[test]
fn a_front_ends_own_svid_is_for_its_name_alone() {
    let name = FrontEndName::parse("edge").unwrap();
    let own = "spiffe://example.org/mintmark/frontend/edge";
    for uris in [&[][..], &[own]] {
        let grant = frontend_svid(&name, &domain(), csr(uris)).unwrap();
        assert_eq!(grant.id().as_str(), own);
        assert_eq!((grant.profile(), grant.ttl()), (Profile::Server, Some(SVID_LIFE)));
        assert!(grant.dns_names().is_empty() && grant.subject().is_empty());
    }
    for other in ["spiffe://example.org/mintmark/frontend/other", "spiffe://example.org/a"] {
        let refusal = frontend_svid(&name, &domain(), csr(&[other])).unwrap_err();
        assert!(matches!(refusal, Refusal::CsrOfOther { .. }), "{refusal}");
    }
}
