//! What holds of any bytes that a front end sends as a message of items.

use std::sync::Arc;
use std::time::Duration;

use ca_core::clock::Timestamp;
use ca_core::frontend::{
    Budgets, Certified, DnsScope, Enrolment, Existing, FrontEnd, FrontEndName, Grants, PathScope,
    Terms, Wanted,
};
use ca_core::id::{TrustDomain, WorkloadId};
use ca_core::pipeline::Wish;
use ca_core::serial::Serial;
use mintmark_proto::bounds::{Bounded as _, MOST_ITEMS, MOST_NAMES};
use mintmark_proto::signing::v1::{MintRequest, x509_item};
use mintmark_signer::signing::authorise::{Item, authorise};
use mintmark_signer::signing::{FrontEndView, UsualLives};
use prost::Message as _;

/// Reads `data` and decides on each item; says whether there were some and all were granted. Panics if a promise is
/// broken.
pub(crate) fn holds(data: &[u8]) -> bool {
    let may_be = MintRequest::check(data).is_ok();
    let Ok(request) = MintRequest::decode(data) else { return false };
    assert_eq!(may_be, is_small(&request), "what is counted in the bytes is what is there");
    assert_eq!(MintRequest::decode(&request.encode_to_vec()[..]).as_ref(), Ok(&request));
    let front_end = front_end();
    let x509 = request.x509.into_iter().map(Item::X509);
    let items: Vec<_> = x509.chain(request.jwt.into_iter().map(Item::Jwt)).collect();
    let none = items.is_empty();
    let granted = items.into_iter().map(|item| is_granted(&front_end, item));
    // Each is looked at, whatever became of the one before.
    granted.fold(!none, |all, granted| all && granted)
}

/// Whether it repeats no more than may be.
fn is_small(request: &MintRequest) -> bool {
    let names = request.x509.iter().map(|item| match &item.subject {
        Some(x509_item::Subject::Named(named)) => named.dns_names.len(),
        _ => 0,
    });
    let audiences = request.jwt.iter().map(|item| item.audience.len());
    let items = request.x509.len() + request.jwt.len();
    items <= MOST_ITEMS && names.chain(audiences).sum::<usize>() <= MOST_NAMES
}

/// One that may name any workload of `td.test`, and names of two domains.
fn front_end() -> FrontEndView {
    let dns_scope = |text| DnsScope::parse(text).expect("a scope");
    let wanted = Wanted {
        path_scopes: vec![PathScope::parse("/").expect("a scope")],
        dns_scopes: vec![dns_scope("a.test"), dns_scope("b.test")],
        grants: Grants { named: true, ..Grants::default() },
        ..Wanted::default()
    };
    let terms = Terms::new(wanted).expect("terms that can be had");
    let name = FrontEndName::parse("one").expect("a name");
    let enrolment = Enrolment { name, terms, existing: Existing::default() };
    let serial = Serial::from_bytes([1; 20]);
    let key = Certified { fingerprint: [1; 32], serial, not_after: Timestamp::MAX };
    let record = FrontEnd::enrolled(None, &enrolment, &key, Timestamp::EPOCH).expect("a record");
    let budgets = Arc::new(Budgets::full(*record.terms().rates()));
    let trust_domain = TrustDomain::parse("td.test").expect("a name");
    let hour = Duration::from_secs(3600);
    let usual = UsualLives { x509: hour, jwt: hour };
    FrontEndView { record: Arc::new(record), budgets, trust_domain, usual }
}

fn is_granted(front_end: &FrontEndView, item: Item) -> bool {
    let id = match authorise(front_end, item) {
        Err(refusal) => {
            let shown = refusal.to_string();
            assert!(shown.len() < 2048 && !shown.contains(char::is_control), "{shown}");
            return false;
        }
        Ok(Wish::X509(grant)) => grant.id().clone(),
        Ok(Wish::Proven { names, .. }) => names.id().clone(),
        Ok(Wish::Jwt(grant)) => grant.id().clone(),
        Ok(wish @ Wish::Csr { .. }) => panic!("what an administrator may: {wish:?}"),
    };
    WorkloadId::new(id, &front_end.trust_domain).expect("an ID that a workload may have");
    true
}
