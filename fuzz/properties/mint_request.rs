//! What holds of any bytes that a front end sends as a message of items.

use ca_core::id::{TrustDomain, WorkloadId};
use ca_core::pipeline::Wish;
use mintmark_proto::signing::v1::MintRequest;
use mintmark_signer::signing::FrontEndView;
use mintmark_signer::signing::authorise::{Item, authorise};
use prost::Message as _;

/// Reads `data` and decides on each item; says whether there were some and all were granted. Panics if a promise is
/// broken.
pub(crate) fn holds(data: &[u8]) -> bool {
    let Ok(request) = MintRequest::decode(data) else { return false };
    assert_eq!(MintRequest::decode(&request.encode_to_vec()[..]).as_ref(), Ok(&request));
    let trust_domain = TrustDomain::parse("td.test").expect("a name");
    let front_end = FrontEndView { name: "one".into(), trust_domain };
    let x509 = request.x509.into_iter().map(Item::X509);
    let items: Vec<_> = x509.chain(request.jwt.into_iter().map(Item::Jwt)).collect();
    let none = items.is_empty();
    let granted = items.into_iter().map(|item| is_granted(&front_end, item));
    // Each is looked at, whatever became of the one before.
    granted.fold(!none, |all, granted| all && granted)
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
