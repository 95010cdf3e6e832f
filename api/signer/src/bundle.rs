//! `spire.api.server.bundle.v1.Bundle`: the server's own bundle.

use std::sync::Arc;

use bytes::Bytes;
use ca_core::bundle::Bundle;
use ca_core::mint::Mint;
use mintmark_proto::spire::bundle::v1::bundle_server::Bundle as BundleService;
use mintmark_proto::spire::bundle::v1::{
    AppendBundleRequest, BatchCreateFederatedBundleRequest, BatchCreateFederatedBundleResponse,
    BatchDeleteFederatedBundleRequest, BatchDeleteFederatedBundleResponse,
    BatchSetFederatedBundleRequest, BatchSetFederatedBundleResponse,
    BatchUpdateFederatedBundleRequest, BatchUpdateFederatedBundleResponse, CountBundlesRequest,
    CountBundlesResponse, GetBundleRequest, GetFederatedBundleRequest, ListFederatedBundlesRequest,
    ListFederatedBundlesResponse, PublishJwtAuthorityRequest, PublishJwtAuthorityResponse,
    PublishWitAuthorityRequest, PublishWitAuthorityResponse,
};
use mintmark_proto::spire::types::{self, BundleMask, JwtKey, X509Certificate};
use tonic::{Request, Response, Status};

use crate::status::Failure;

pub(crate) struct Bundles {
    mint: Arc<Mint>,
}

impl Bundles {
    pub(crate) fn new(mint: Arc<Mint>) -> Self {
        Self { mint }
    }
}

/// The bundle, once there is something in it.
pub(crate) fn published(mint: &Mint) -> Option<&Bundle> {
    let bundle = mint.bundle();
    (!bundle.x509_authorities.is_empty()).then_some(bundle)
}

/// How many bundles there are: the server's own.
pub(crate) fn count(mint: &Mint) -> i32 {
    i32::from(published(mint).is_some())
}

/// What a mask keeps of the bundle: no mask keeps all, an empty one the trust domain alone.
fn masked(bundle: &Bundle, mask: Option<BundleMask>) -> types::Bundle {
    let mask = mask.unwrap_or(BundleMask {
        x509_authorities: true,
        jwt_authorities: true,
        refresh_hint: true,
        sequence_number: true,
        wit_authorities: true,
    });
    let mut message = types::Bundle {
        trust_domain: bundle.trust_domain.name().to_owned(),
        ..types::Bundle::default()
    };
    if mask.x509_authorities {
        message.x509_authorities = x509_authorities(bundle);
    }
    if mask.jwt_authorities {
        message.jwt_authorities = jwt_authorities(bundle);
    }
    if mask.refresh_hint {
        message.refresh_hint = i64::try_from(bundle.refresh_hint.as_secs()).unwrap_or(i64::MAX);
    }
    if mask.sequence_number {
        message.sequence_number = bundle.sequence;
    }
    message
}

fn x509_authorities(bundle: &Bundle) -> Vec<X509Certificate> {
    bundle
        .x509_authorities
        .iter()
        .map(|authority| X509Certificate {
            asn1: authority.certificate.der().clone(),
            tainted: authority.tainted,
        })
        .collect()
}

fn jwt_authorities(bundle: &Bundle) -> Vec<JwtKey> {
    bundle
        .jwt_authorities
        .iter()
        .map(|authority| JwtKey {
            public_key: Bytes::copy_from_slice(authority.key.spki()),
            key_id: authority.kid.clone(),
            expires_at: authority.expires_at.unix(),
            tainted: authority.tainted,
        })
        .collect()
}

#[tonic::async_trait]
impl BundleService for Bundles {
    async fn count_bundles(
        &self,
        _: Request<CountBundlesRequest>,
    ) -> Result<Response<CountBundlesResponse>, Status> {
        Ok(Response::new(CountBundlesResponse { count: count(&self.mint) }))
    }

    async fn get_bundle(
        &self,
        request: Request<GetBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        let bundle = published(&self.mint).ok_or(Failure::BundleMissing)?;
        Ok(Response::new(masked(bundle, request.into_inner().output_mask)))
    }

    async fn append_bundle(
        &self,
        _: Request<AppendBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        Err(Failure::NotOffered("AppendBundle").into())
    }

    async fn publish_jwt_authority(
        &self,
        _: Request<PublishJwtAuthorityRequest>,
    ) -> Result<Response<PublishJwtAuthorityResponse>, Status> {
        Err(Failure::NotOffered("PublishJWTAuthority").into())
    }

    async fn publish_wit_authority(
        &self,
        _: Request<PublishWitAuthorityRequest>,
    ) -> Result<Response<PublishWitAuthorityResponse>, Status> {
        Err(Failure::NotOffered("PublishWITAuthority").into())
    }

    async fn list_federated_bundles(
        &self,
        _: Request<ListFederatedBundlesRequest>,
    ) -> Result<Response<ListFederatedBundlesResponse>, Status> {
        Err(Failure::NotOffered("ListFederatedBundles").into())
    }

    async fn get_federated_bundle(
        &self,
        _: Request<GetFederatedBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        Err(Failure::NotOffered("GetFederatedBundle").into())
    }

    async fn batch_create_federated_bundle(
        &self,
        _: Request<BatchCreateFederatedBundleRequest>,
    ) -> Result<Response<BatchCreateFederatedBundleResponse>, Status> {
        Err(Failure::NotOffered("BatchCreateFederatedBundle").into())
    }

    async fn batch_update_federated_bundle(
        &self,
        _: Request<BatchUpdateFederatedBundleRequest>,
    ) -> Result<Response<BatchUpdateFederatedBundleResponse>, Status> {
        Err(Failure::NotOffered("BatchUpdateFederatedBundle").into())
    }

    async fn batch_set_federated_bundle(
        &self,
        _: Request<BatchSetFederatedBundleRequest>,
    ) -> Result<Response<BatchSetFederatedBundleResponse>, Status> {
        Err(Failure::NotOffered("BatchSetFederatedBundle").into())
    }

    async fn batch_delete_federated_bundle(
        &self,
        _: Request<BatchDeleteFederatedBundleRequest>,
    ) -> Result<Response<BatchDeleteFederatedBundleResponse>, Status> {
        Err(Failure::NotOffered("BatchDeleteFederatedBundle").into())
    }
}
