//! `mintmark.admin.v1.Admin`: what SPIRE's API has no words for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ca_core::authority::{AuthorityKind, KnownKey, Ledger, Retirement, Standing};
use ca_core::clock::{Clock, Timestamp};
use ca_core::excerpt::Excerpt;
use ca_core::key::{KeyName, KeyStore, PublicKey};
use ca_core::log::tree::Origin;
use ca_core::log::{Caller, identity};
use ca_core::mint::Mint;
use ca_core::store::StateStore;
use mintmark_proto::admin::v1::authority::State;
use mintmark_proto::admin::v1::{self as wire, admin_server, recorded_key};
use tonic::{Request, Response, Status};

use crate::admin_socket::caller;
use crate::audit::Audit;
use crate::front_ends::FrontEndDesk;
use crate::services::Services;
use crate::status::Failure;

#[derive(Clone)]
pub(crate) struct Admin {
    mint: Arc<Mint>,
    keys: Arc<dyn KeyStore>,
    record: Arc<dyn StateStore>,
    front_ends: FrontEndDesk,
    ca_ttl: Duration,
    log: Origin,
    clock: Arc<dyn Clock>,
    version: &'static str,
    audit: Arc<Audit>,
}

impl Admin {
    pub(crate) fn new(services: &Services, audit: Arc<Audit>) -> Self {
        let Services { pipeline, clock, keys, record, front_ends, ca_ttl, log, version, .. } =
            services.clone();
        let mint = Arc::clone(pipeline.mint());
        let front_ends = FrontEndDesk::new(front_ends, pipeline, Arc::clone(&clock));
        Self { mint, keys, record, front_ends, ca_ttl, log, clock, version, audit }
    }

    fn x509_authority(&self) -> wire::Authority {
        let authorities = self.mint.authorities();
        let certificate = authorities.x509.certificate();
        wire::Authority {
            authority_id: authorities.x509.authority().to_string(),
            state: State::Active.into(),
            key_name: authorities.x509_key.to_string(),
            key_algorithm: authorities.x509.algorithm().name().to_owned(),
            key_store: Some(self.key_store()),
            not_after: certificate.not_after().unix(),
        }
    }

    fn jwt_authority(&self) -> wire::Authority {
        let authorities = self.mint.authorities();
        wire::Authority {
            authority_id: authorities.jwt.kid().to_string(),
            state: State::Active.into(),
            key_name: authorities.jwt_key.to_string(),
            key_algorithm: authorities.jwt.algorithm().name().to_owned(),
            key_store: Some(self.key_store()),
            not_after: authorities.jwt.not_after().unix(),
        }
    }

    fn key_store(&self) -> wire::KeyStore {
        let description = self.keys.description();
        wire::KeyStore {
            kind: description.kind.to_owned(),
            place: description.place.clone(),
            hardware: description.hardware,
        }
    }

    async fn ledger(&self) -> Result<Ledger, Failure> {
        let mut ledger = Ledger::read(&*self.record).await?;
        // A key that signs here stays, whatever came over the record.
        ledger.mark_in_use(self.mint.authorities());
        Ok(ledger)
    }

    async fn retire(&self, request: wire::RetireKeyRequest) -> Result<Timestamp, Failure> {
        let trust_domain = self.mint.trust_domain().name();
        let key = KeyName::parse(&request.name).ok();
        let key = key.filter(|key| key.trust_domain() == trust_domain);
        let key = key.ok_or_else(|| Failure::KeyName(Excerpt::of(&request.name)))?;
        let spki = Some(request.public_key).filter(|spki| !spki.is_empty());
        let public_key = spki.map(|spki| PublicKey::from_spki(&spki)).transpose()?;
        let (signing, now) = (self.mint.authorities(), self.clock.now());
        let retirement = Retirement { key, public_key };
        let retired =
            retirement.carry_out(&*self.record, &*self.keys, Some(signing), self.ca_ttl, now);
        Ok(retired.await?)
    }

    async fn log_head(&self) -> Result<wire::GetLogHeadResponse, Failure> {
        let known = identity::known(&self.log, &*self.record).await?.ok_or(Failure::LogMissing)?;
        Ok(wire::GetLogHeadResponse {
            origin: self.log.as_str().to_owned(),
            verifier_key: known.key.vkey(),
            checkpoint: known.newest.map(|head| head.to_string()).unwrap_or_default(),
        })
    }

    /// Has it written down why something was not done.
    fn told<T>(
        &self,
        caller: &Caller,
        what: &str,
        subject: impl FnOnce() -> Option<Excerpt>,
        ended: Result<T, Failure>,
    ) -> Result<T, Status> {
        ended.map_err(|failure| {
            self.audit.refused(caller, what, subject, &failure, Instant::now());
            failure.into()
        })
    }
}

#[tonic::async_trait]
impl admin_server::Admin for Admin {
    async fn get_authorities(
        &self,
        _: Request<wire::GetAuthoritiesRequest>,
    ) -> Result<Response<wire::GetAuthoritiesResponse>, Status> {
        Ok(Response::new(wire::GetAuthoritiesResponse {
            trust_domain: self.mint.trust_domain().name().to_owned(),
            server_version: self.version.to_owned(),
            x509_authorities: vec![self.x509_authority()],
            jwt_authorities: vec![self.jwt_authority()],
        }))
    }

    async fn get_key_record(
        &self,
        request: Request<wire::GetKeyRecordRequest>,
    ) -> Result<Response<wire::GetKeyRecordResponse>, Status> {
        let caller = caller(&request)?;
        let ledger = self.ledger().await;
        let ledger = self.told(&caller, "the record of keys", || None, ledger)?;
        Ok(Response::new(wire::GetKeyRecordResponse {
            trust_domain: self.mint.trust_domain().name().to_owned(),
            x509_generation: ledger.generation(AuthorityKind::X509),
            jwt_generation: ledger.generation(AuthorityKind::Jwt),
            keys: ledger.known().iter().map(recorded).collect(),
        }))
    }

    async fn retire_key(
        &self,
        request: Request<wire::RetireKeyRequest>,
    ) -> Result<Response<wire::RetireKeyResponse>, Status> {
        let (admin, caller) = (self.clone(), caller(&request)?);
        let request = request.into_inner();
        to_its_end(async move {
            let key = Excerpt::of(&request.name);
            let end = admin.retire(request).await;
            let end = admin.told(&caller, "retirement of a key", || Some(key.clone()), end)?;
            tracing::info!(%caller, %key, certificates_end = %end, "key retired");
            Ok(wire::RetireKeyResponse { certificates_end: end.unix() })
        })
        .await
    }

    async fn get_log_head(
        &self,
        request: Request<wire::GetLogHeadRequest>,
    ) -> Result<Response<wire::GetLogHeadResponse>, Status> {
        let caller = caller(&request)?;
        let head = self.log_head().await;
        Ok(Response::new(self.told(&caller, "the head of the log", || None, head)?))
    }

    async fn enroll_front_end(
        &self,
        request: Request<wire::EnrollFrontEndRequest>,
    ) -> Result<Response<wire::EnrollFrontEndResponse>, Status> {
        let (admin, caller) = (self.clone(), caller(&request)?);
        let request = request.into_inner();
        let (name, replace, again) = (Excerpt::of(&request.name), request.replace, request.again);
        let (what, subject) = ("enrolment of a front end", || Some(name.clone()));
        let minted = self.front_ends.mint_first(&request, &caller).await;
        let minted = self.told(&caller, what, subject, minted)?;
        to_its_end(async move {
            let answer = admin.front_ends.enroll(minted).await;
            let answer = admin.told(&caller, what, || Some(name.clone()), answer)?;
            tracing::info!(%caller, front_end = %name, replace, again, "key of a front end enrolled");
            Ok(answer)
        })
        .await
    }

    async fn list_front_ends(
        &self,
        request: Request<wire::ListFrontEndsRequest>,
    ) -> Result<Response<wire::ListFrontEndsResponse>, Status> {
        let caller = caller(&request)?;
        let listed = self.front_ends.list(request.get_ref());
        Ok(Response::new(self.told(&caller, "the front ends", || None, listed)?))
    }

    async fn get_front_end(
        &self,
        request: Request<wire::GetFrontEndRequest>,
    ) -> Result<Response<wire::FrontEnd>, Status> {
        let caller = caller(&request)?;
        let name = || Some(Excerpt::of(&request.get_ref().name));
        let found = self.front_ends.get(&request.get_ref().name);
        Ok(Response::new(self.told(&caller, "a front end", name, found)?))
    }

    async fn withdraw_front_end(
        &self,
        request: Request<wire::WithdrawFrontEndRequest>,
    ) -> Result<Response<wire::FrontEnd>, Status> {
        let (admin, caller) = (self.clone(), caller(&request)?);
        let request = request.into_inner();
        to_its_end(async move {
            let name = Excerpt::of(&request.name);
            let ended = admin.front_ends.withdraw(&request.name).await;
            let subject = || Some(name.clone());
            let ended = admin.told(&caller, "withdrawal of a front end", subject, ended)?;
            tracing::info!(%caller, front_end = %name, "front end withdrawn");
            Ok(ended)
        })
        .await
    }
}

/// Does what changes something in a task of its own, for whoever asks may leave: what has been committed by then is to
/// have its line all the same.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> Result<Response<T>, Status> {
    let broken_off =
        |_| Err(Status::internal("broken off; ask whether it was done, and try again"));
    tokio::spawn(work).await.unwrap_or_else(broken_off).map(Response::new)
}

fn recorded((name, known): (&KeyName, &KnownKey)) -> wire::RecordedKey {
    use recorded_key::State;
    let public_key = known.public_key.as_ref();
    let public_key = public_key.map(|key| Bytes::copy_from_slice(key.spki())).unwrap_or_default();
    let name = name.to_string();
    let key = wire::RecordedKey { name, public_key, ..wire::RecordedKey::default() };
    let (state, key) = match &known.standing {
        Standing::Active { authority } => {
            (State::Active, wire::RecordedKey { authority_id: authority.clone(), ..key })
        }
        Standing::OfLog => (State::Log, key),
        Standing::Pending => (State::Pending, key),
        Standing::Old { authority, certificates_end } => {
            let (authority_id, certificates_end) = (authority.clone(), certificates_end.unix());
            (State::Old, wire::RecordedKey { authority_id, certificates_end, ..key })
        }
        Standing::Retired { retired_at, certificates_end } => {
            let (retired_at, certificates_end) = (retired_at.unix(), certificates_end.unix());
            (State::Retired, wire::RecordedKey { retired_at, certificates_end, ..key })
        }
        // What is not recorded has no line in the record.
        Standing::Prepared | Standing::Unknown => (State::Unspecified, key),
    };
    wire::RecordedKey { state: state.into(), ..key }
}
