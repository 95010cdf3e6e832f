//! What holds of any bytes that come as a SPIFFE ID.

use ca_core::id::{LONGEST_ID, SpiffeId, TrustDomain, WorkloadId};

/// Reads `data`; says whether it was accepted. Panics if a promise is broken.
pub(crate) fn holds(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let _ = TrustDomain::parse(text);
    match SpiffeId::parse(text) {
        Err(error) => {
            let shown = error.to_string();
            assert!(shown.len() < 2048 && !shown.contains(char::is_control), "{shown}");
            false
        }
        Ok(id) => {
            assert_eq!(id.as_str(), text);
            assert!(text.len() <= LONGEST_ID);
            let domain = TrustDomain::parse(id.trust_domain_name()).expect("part of an id");
            assert_eq!(SpiffeId::from_parts(domain.name(), id.path()).as_ref(), Ok(&id));
            assert!(id.is_member_of(&domain));
            if let Ok(workload) = WorkloadId::new(id.clone(), &domain) {
                assert!(workload.id().path().len() > 1);
                assert_eq!(workload.into_id(), id);
            }
            true
        }
    }
}
