//! The part of `mintmark.admin.v1.Admin` that is about front ends, and the minting of their SVIDs, for whoever asks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ca_core::clock::{Clock, Timestamp};
use ca_core::csr::{Csr, VerifiedCsr};
use ca_core::excerpt::Excerpt;
use ca_core::frontend::{
    Budgets, Certified, Checked, CheckedRenewal, DnsScope, EnrolledKey, Enrolment, Existing,
    FrontEnd, FrontEndError, FrontEndName, FrontEnds, Grants, KeyKinds, PathScope, Rate, Rates,
    Shown, Terms, TermsError, Wanted,
};
use ca_core::id::TrustDomain;
use ca_core::issuer::X509Svid;
use ca_core::key::KeyType;
use ca_core::log::Caller;
use ca_core::mint::MintError;
use ca_core::pipeline::admission::Class;
use ca_core::pipeline::{Minted, Order, Pipeline, Wish};
use ca_core::policy;
use ca_core::store::StoreError;
use mintmark_proto::admin::v1 as wire;
use prost::Message as _;

use crate::status::{Document, Failure};

/// How long an SVID may take to be minted, its wait included.
const LONGEST_MINT: Duration = Duration::from_secs(20);
/// How long it may take to be recorded.
const LONGEST_COMMIT: Duration = Duration::from_secs(20);
/// Most bytes of an answer that lists front ends, about. Clients take four times as much.
const LIST_BYTES: usize = 1 << 20;
/// Most front ends in an answer.
const LIST_ENTRIES: usize = 256;

/// The first SVID of a front end, or of a key of it. It is nobody's before its key is recorded.
pub(crate) struct Enrolling {
    checked: Checked,
    key: Certified,
    svid: X509Svid,
    asked_at: Timestamp,
}

/// The next SVID of a front end. It is nobody's before its key is recorded.
pub(crate) struct Renewal {
    checked: CheckedRenewal,
    key: Certified,
    svid: X509Svid,
    asked_at: Timestamp,
}

/// Enrols front ends, tells of them, and ends them.
#[derive(Clone)]
pub(crate) struct FrontEndDesk {
    front_ends: Arc<FrontEnds>,
    pipeline: Arc<Pipeline>,
    clock: Arc<dyn Clock>,
}

impl FrontEndDesk {
    pub(crate) fn new(
        front_ends: Arc<FrontEnds>,
        pipeline: Arc<Pipeline>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { front_ends, pipeline, clock }
    }

    /// Mints the SVID of an enrolment. Nothing is minted for who would not be recorded.
    pub(crate) async fn mint_first(
        &self,
        request: &wire::EnrollFrontEndRequest,
        caller: &Caller,
    ) -> Result<Enrolling, Failure> {
        let enrolment = enrolment(request)?;
        let csr = proven(&request.csr)?;
        let (fingerprint, asked_at) = (*csr.key.public_key().fingerprint(), self.clock.now());
        let checked = self.front_ends.check(&enrolment, &fingerprint, asked_at).await?;
        let (svid, key) = self.mint(checked.name(), csr, caller, Class::New).await?;
        Ok(Enrolling { checked, key, svid, asked_at })
    }

    /// Records an enrolment, and hands out its SVID: nothing is handed out that is not recorded.
    pub(crate) async fn enroll(
        &self,
        enrolling: Enrolling,
    ) -> Result<wire::EnrollFrontEndResponse, Failure> {
        let Enrolling { checked, key, svid, asked_at } = enrolling;
        let front_end = in_time(self.front_ends.enroll_checked(&checked, &key, asked_at)).await?;
        Ok(wire::EnrollFrontEndResponse {
            front_end: Some(self.told(&front_end)),
            cert_chain: svid.chain().cloned().collect(),
        })
    }

    /// Mints the next SVID of a front end, for an instance that has shown the present one. Like an enrolment, but for who
    /// asks and what its record says.
    pub(crate) async fn mint_next(
        &self,
        name: &FrontEndName,
        shown: &Shown,
        budgets: &Budgets,
        csr: &[u8],
        caller: &Caller,
    ) -> Result<Renewal, Failure> {
        let csr = proven(csr)?;
        let (fingerprint, asked_at) = (*csr.key.public_key().fingerprint(), self.clock.now());
        let checked = self.front_ends.check_renewal(name, shown, &fingerprint, asked_at).await?;
        budgets.take_renewal(Instant::now()).map_err(Failure::OverBudget)?;
        let (svid, key) = self.mint(name, csr, caller, Class::Refresh).await?;
        Ok(Renewal { checked, key, svid, asked_at })
    }

    /// Records the key of a renewal, and hands out its SVID.
    pub(crate) async fn renew(&self, renewal: Renewal) -> Result<X509Svid, Failure> {
        let Renewal { checked, key, svid, asked_at } = renewal;
        in_time(self.front_ends.renew_key(&checked, &key, asked_at)).await?;
        Ok(svid)
    }

    /// Mints a front end's own SVID by the road of all others.
    async fn mint(
        &self,
        name: &FrontEndName,
        csr: VerifiedCsr,
        caller: &Caller,
        class: Class,
    ) -> Result<(X509Svid, Certified), Failure> {
        let fingerprint = *csr.key.public_key().fingerprint();
        let grant = policy::frontend_svid(name, self.trust_domain(), csr)?;
        let deadline = Instant::now() + LONGEST_MINT;
        let order = Order { caller: caller.clone(), class, deadline };
        let document = Document::X509Svid;
        let minting = self.pipeline.one(Wish::X509(grant), &order);
        let minted = tokio::time::timeout(LONGEST_MINT, minting)
            .await
            .map_err(|_| Failure::TooSlow { document, limit: LONGEST_MINT })?
            .map_err(|error| Failure::of_mint(document, error))?;
        match minted {
            Minted::X509(svid) => {
                let (serial, not_after) = (svid.serial, svid.expires_at);
                Ok((svid, Certified { fingerprint, serial, not_after }))
            }
            Minted::Jwt(_) => Err(Failure::Mint(document, MintError::BrokenOff)),
        }
    }

    pub(crate) fn list(
        &self,
        request: &wire::ListFrontEndsRequest,
    ) -> Result<wire::ListFrontEndsResponse, Failure> {
        let after = Some(&request.after).filter(|after| !after.is_empty());
        let after = after.map(|after| FrontEndName::parse(after)).transpose()?;
        let (mut answer, mut bytes) = (wire::ListFrontEndsResponse::default(), 0);
        for front_end in self.front_ends.list(after.as_ref(), LIST_ENTRIES + 1) {
            if bytes >= LIST_BYTES || answer.front_ends.len() == LIST_ENTRIES {
                answer.more = true;
                break;
            }
            let told = self.told(&front_end);
            bytes += told.encoded_len();
            answer.front_ends.push(told);
        }
        Ok(answer)
    }

    pub(crate) fn get(&self, name: &str) -> Result<wire::FrontEnd, Failure> {
        let name = FrontEndName::parse(name)?;
        let found = self.front_ends.get(&name).ok_or(Failure::FrontEndMissing(name))?;
        Ok(self.told(&found))
    }

    pub(crate) async fn withdraw(&self, name: &str) -> Result<wire::FrontEnd, Failure> {
        let name = FrontEndName::parse(name)?;
        let withdrawn = in_time(self.front_ends.withdraw(&name, self.clock.now())).await?;
        Ok(self.told(&withdrawn))
    }

    fn trust_domain(&self) -> &TrustDomain {
        self.pipeline.mint().trust_domain()
    }

    fn told(&self, front_end: &FrontEnd) -> wire::FrontEnd {
        wire::FrontEnd {
            name: front_end.name().to_string(),
            terms: Some(told_terms(front_end.terms())),
            keys: front_end.keys().iter().map(told_key).collect(),
            enrolled_at: front_end.enrolled_at().unix(),
            withdrawn_at: front_end.withdrawn_at().map_or(0, |since| since.unix()),
            revision: front_end.revision(),
            spiffe_id: front_end.name().id(self.trust_domain()).as_str().to_owned(),
        }
    }
}

/// What is recorded, unless the store hangs: then nobody knows whether it was.
async fn in_time<T>(
    recording: impl Future<Output = Result<T, FrontEndError>>,
) -> Result<T, FrontEndError> {
    let unknown = |_| {
        let reason = format!("it has not answered within {} s", LONGEST_COMMIT.as_secs());
        FrontEndError::Store(StoreError::Indeterminate { reason })
    };
    tokio::time::timeout(LONGEST_COMMIT, recording).await.map_err(unknown)?
}

/// A CSR whose sender holds its key.
fn proven(csr: &[u8]) -> Result<VerifiedCsr, Failure> {
    if csr.is_empty() {
        return Err(Failure::CsrMissing);
    }
    Ok(Csr::parse(csr)?.verify()?)
}

/// What a request asks for, each part checked.
fn enrolment(request: &wire::EnrollFrontEndRequest) -> Result<Enrolment, Failure> {
    let wire::EnrollFrontEndRequest { name, terms, replace, again, .. } = request;
    let name = FrontEndName::parse(name)?;
    let terms = terms.as_ref().ok_or(Failure::Terms(TermsError::NoPath))?;
    let existing = Existing { replace: *replace, again: *again };
    Ok(Enrolment { name, terms: asked_terms(terms)?, existing })
}

fn asked_terms(terms: &wire::FrontEndTerms) -> Result<Terms, Failure> {
    let paths = terms.path_scopes.iter().map(|scope| PathScope::parse(scope));
    let names = terms.dns_scopes.iter().map(|scope| DnsScope::parse(scope));
    let wanted = Wanted {
        path_scopes: paths.collect::<Result<_, _>>()?,
        dns_scopes: names.collect::<Result<_, _>>()?,
        grants: Grants {
            named: terms.allow_named,
            downstream: terms.allow_downstream,
            publish: terms.allow_publish,
            admin: terms.allow_admin,
        },
        require_csr: terms.require_csr,
        max_ttl: match terms.max_ttl_seconds {
            0 => Terms::USUAL_MAX_TTL,
            seconds => Duration::from_secs(seconds.into()),
        },
        key_kinds: asked_key_kinds(&terms.key_types)?,
        rates: asked_rates(terms)?,
    };
    Ok(Terms::new(wanted)?)
}

fn asked_key_kinds(names: &[String]) -> Result<KeyKinds, Failure> {
    if names.is_empty() {
        return Ok(KeyKinds::default());
    }
    let known = |name: &String| {
        let known = KeyType::ALL.into_iter().find(|known| known.name() == name);
        known.ok_or_else(|| Failure::KeyTypeUnknown(Excerpt::of(name)))
    };
    let types = names.iter().map(known).collect::<Result<Vec<_>, _>>()?;
    Ok(KeyKinds::of(&types)?)
}

fn asked_rates(terms: &wire::FrontEndTerms) -> Result<Rates, Failure> {
    let rate = |rate: &wire::Rate| Rate::new(rate.per_second, rate.burst);
    let total = terms.budget.as_ref().map(rate).transpose()?;
    let mut rates = Rates { total, ..Rates::default() };
    for asked in &terms.class_budgets {
        let class = Class::ALL.into_iter().find(|class| class.name() == asked.class);
        let place = class.map(|class| &mut rates.classes[class as usize]);
        let free = place.filter(|place| place.is_none());
        let place = free.ok_or_else(|| Failure::ClassUnknown(Excerpt::of(&asked.class)))?;
        *place = Some(rate(&asked.rate.unwrap_or_default())?);
    }
    Ok(rates)
}

fn told_terms(terms: &Terms) -> wire::FrontEndTerms {
    let Grants { named, downstream, publish, admin } = terms.grants();
    let rate = |rate: Rate| wire::Rate { per_second: rate.per_second(), burst: rate.burst() };
    let classes = Class::ALL.into_iter().filter_map(|class| {
        let of_class = rate(terms.rates().of(class)?);
        Some(wire::ClassRate { class: class.name().to_owned(), rate: Some(of_class) })
    });
    wire::FrontEndTerms {
        path_scopes: terms.path_scopes().iter().map(PathScope::to_string).collect(),
        dns_scopes: terms.dns_scopes().iter().map(DnsScope::to_string).collect(),
        allow_named: named,
        allow_downstream: downstream,
        allow_publish: publish,
        allow_admin: admin,
        require_csr: terms.require_csr(),
        max_ttl_seconds: u32::try_from(terms.max_ttl().as_secs()).unwrap_or(u32::MAX),
        key_types: terms.key_kinds().types().iter().map(KeyType::to_string).collect(),
        budget: terms.rates().total.map(rate),
        class_budgets: classes.collect(),
    }
}

fn told_key(key: &EnrolledKey) -> wire::FrontEndKey {
    let bytes = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
    wire::FrontEndKey {
        sha256: bytes(&key.fingerprint),
        serial: bytes(key.serial.bytes()),
        not_after: key.not_after.unix(),
        enrolled_at: key.enrolled_at.unix(),
        renewed_from: key.renewed_from.as_ref().map(|key| bytes(key)).unwrap_or_default(),
    }
}
