//! `mintmark.admin.v1.Admin`: what SPIRE's API has no words for.

use std::sync::Arc;

use ca_core::key::StoreDescription;
use ca_core::mint::Mint;
use mintmark_proto::admin::v1::authority::State;
use mintmark_proto::admin::v1::{
    Authority, GetAuthoritiesRequest, GetAuthoritiesResponse, KeyStore, admin_server,
};
use tonic::{Request, Response, Status};

pub(crate) struct Admin {
    mint: Arc<Mint>,
    key_store: KeyStore,
    version: &'static str,
}

impl Admin {
    pub(crate) fn new(mint: Arc<Mint>, key_store: StoreDescription, version: &'static str) -> Self {
        let key_store = KeyStore {
            kind: key_store.kind.to_owned(),
            place: key_store.place,
            hardware: key_store.hardware,
        };
        Self { mint, key_store, version }
    }

    fn x509_authority(&self) -> Authority {
        let authorities = self.mint.authorities();
        let certificate = authorities.x509.certificate();
        Authority {
            authority_id: authorities.x509.authority().to_string(),
            state: State::Active.into(),
            key_name: authorities.x509_key.to_string(),
            key_algorithm: authorities.x509.algorithm().name().to_owned(),
            key_store: Some(self.key_store.clone()),
            not_after: certificate.not_after().unix(),
        }
    }

    fn jwt_authority(&self) -> Authority {
        let authorities = self.mint.authorities();
        Authority {
            authority_id: authorities.jwt.kid().to_string(),
            state: State::Active.into(),
            key_name: authorities.jwt_key.to_string(),
            key_algorithm: authorities.jwt.algorithm().name().to_owned(),
            key_store: Some(self.key_store.clone()),
            not_after: authorities.jwt.not_after().unix(),
        }
    }
}

#[tonic::async_trait]
impl admin_server::Admin for Admin {
    async fn get_authorities(
        &self,
        _: Request<GetAuthoritiesRequest>,
    ) -> Result<Response<GetAuthoritiesResponse>, Status> {
        Ok(Response::new(GetAuthoritiesResponse {
            trust_domain: self.mint.trust_domain().name().to_owned(),
            server_version: self.version.to_owned(),
            x509_authorities: vec![self.x509_authority()],
            jwt_authorities: vec![self.jwt_authority()],
        }))
    }
}
