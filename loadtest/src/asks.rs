//! What is asked for, made before the clock starts: ids, keys and CSRs.

use bytes::Bytes;
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData as _, SanType};
use thiserror::Error;

use crate::plan::{Document, Plan, SpiffeId};

/// Whom the tokens are for: nobody.
pub const AUDIENCE: &str = "mintmark-load";

/// Most keys of a run; longer runs begin again with the first. Enough that no cache of a server can take one
/// for another, few enough to be made in about a second.
const MOST_KEYS: u64 = 4_096;

/// The questions of a run, which take turns.
#[derive(Debug)]
pub struct Asks {
    /// What is wanted.
    pub document: Document,
    all: Vec<Ask>,
}

/// One question.
#[derive(Debug)]
pub struct Ask {
    /// For whom.
    pub id: SpiffeId,
    /// For which key; of an X509-SVID alone.
    pub key: Option<AskedKey>,
}

/// A P-256 key whose private half nobody keeps.
#[derive(Debug)]
pub struct AskedKey {
    /// DER of the SubjectPublicKeyInfo.
    pub public: Bytes,
    /// DER of a CSR by it, for the ask's ID.
    pub csr: Bytes,
}

/// A key or a CSR could not be made.
#[derive(Debug, Error)]
#[error("cannot make a CSR for {id}: {source}")]
pub struct AskError {
    /// The ID it was for.
    id: SpiffeId,
    /// What rcgen said.
    source: rcgen::Error,
}

impl Asks {
    /// Makes what `plan` needs.
    pub fn make(plan: &Plan) -> Result<Self, AskError> {
        let most = plan.shape.most_requests();
        let count = match plan.document {
            Document::X509Svid => most.min(MOST_KEYS.max(plan.ids.into())),
            Document::JwtSvid => most.min(plan.ids.into()),
        };
        let all = (0..count).map(|index| Ask::make(plan, index)).collect::<Result<_, _>>()?;
        Ok(Self { document: plan.document, all })
    }

    /// How many there are, at least 1.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.all.len()).expect("a plan has at most 100,000 ids")
    }

    /// The one at `place`, which is below [`count`](Self::count).
    #[must_use]
    pub fn at(&self, place: u32) -> &Ask {
        &self.all[place as usize]
    }
}

impl Ask {
    fn make(plan: &Plan, index: u64) -> Result<Self, AskError> {
        let SpiffeId { trust_domain, mut path } = plan.spiffe_id.clone();
        if plan.ids > 1 {
            path = format!("{path}/{}", index % u64::from(plan.ids));
        }
        let id = SpiffeId { trust_domain, path };
        let key = match plan.document {
            Document::X509Svid => {
                Some(AskedKey::make(&id).map_err(|source| AskError { id: id.clone(), source })?)
            }
            Document::JwtSvid => None,
        };
        Ok(Self { id, key })
    }
}

impl AskedKey {
    fn make(id: &SpiffeId) -> Result<Self, rcgen::Error> {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names.push(SanType::URI(Ia5String::try_from(id.to_string())?));
        let csr = params.serialize_request(&pair)?.der().to_vec().into();
        Ok(Self { public: pair.subject_public_key_info().into(), csr })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_cert::der::{Decode, Encode};
    use x509_cert::request::CertReq;

    fn plan(what: &str, ids: u32, rate: u32) -> Plan {
        let mut settings = crate::plan::Settings::default();
        let text = format!(
            "[ask]\nwhat = \"{what}\"\nspiffe_id = \"spiffe://load.test/web\"\nids = {ids}\n\
             [load]\nrate = {rate}\nduration = \"1s\""
        );
        settings.read("p.toml".as_ref(), &text).unwrap();
        Plan::check(settings).unwrap()
    }

    #[test]
    fn each_csr_names_its_id_and_has_a_key_of_its_own() {
        let asks = Asks::make(&plan("x509", 3, 6)).unwrap();
        assert_eq!(asks.count(), 6);
        let keys = (0..6).map(|place| {
            let ask = asks.at(place);
            assert_eq!(ask.id.to_string(), format!("spiffe://load.test/web/{}", place % 3));
            let AskedKey { public, csr } = ask.key.as_ref().unwrap();
            let id = ask.id.to_string();
            assert!(csr.windows(id.len()).any(|part| part == id.as_bytes()));
            let info = CertReq::from_der(csr).unwrap().info;
            assert!(info.subject.is_empty());
            assert_eq!(&info.public_key.to_der().unwrap(), public);
            public.clone()
        });
        assert_eq!(keys.collect::<std::collections::BTreeSet<_>>().len(), 6);
    }

    #[test]
    fn a_single_id_is_named_as_it_is() {
        let asks = Asks::make(&plan("jwt", 1, 1_000)).unwrap();
        assert_eq!((asks.count(), &*asks.at(0).id.to_string()), (1, "spiffe://load.test/web"));
    }
}
