//! What holds of any bytes that are read as a message beside those with items: what is followed, what front ends ask
//! beside minting, and what administrators do.

use std::fmt::Debug;

use mintmark_proto::{admin, control, signing};
use prost::Message;

/// Reads `data` as each message; says whether it is one of some kind. Panics if a promise is broken.
pub(crate) fn holds(data: &[u8]) -> bool {
    let readers: &[fn(&[u8]) -> bool] = &[
        is_stable::<signing::v1::FollowRequest>,
        is_stable::<signing::v1::FollowResponse>,
        is_stable::<signing::v1::MintResponse>,
        is_stable::<control::v1::AttestNodeRequest>,
        is_stable::<control::v1::AttestNodeResponse>,
        is_stable::<control::v1::RenewNodeRequest>,
        is_stable::<control::v1::RenewNodeResponse>,
        is_stable::<control::v1::PromoteNodeRequest>,
        is_stable::<control::v1::PromoteNodeResponse>,
        is_stable::<control::v1::RedeemJoinTokenRequest>,
        is_stable::<control::v1::RedeemJoinTokenResponse>,
        is_stable::<control::v1::PublishJwtAuthorityRequest>,
        is_stable::<control::v1::PublishJwtAuthorityResponse>,
        is_stable::<control::v1::RenewFrontEndRequest>,
        is_stable::<control::v1::RenewFrontEndResponse>,
        is_stable::<control::v1::ReportRequest>,
        is_stable::<control::v1::ReportResponse>,
        is_stable::<admin::v1::GetAuthoritiesRequest>,
        is_stable::<admin::v1::GetAuthoritiesResponse>,
        is_stable::<admin::v1::Authority>,
        is_stable::<admin::v1::KeyStore>,
        is_stable::<admin::v1::GetKeyRecordRequest>,
        is_stable::<admin::v1::GetKeyRecordResponse>,
        is_stable::<admin::v1::RecordedKey>,
        is_stable::<admin::v1::RetireKeyRequest>,
        is_stable::<admin::v1::RetireKeyResponse>,
        is_stable::<admin::v1::GetLogHeadRequest>,
        is_stable::<admin::v1::GetLogHeadResponse>,
        is_stable::<admin::v1::FrontEndTerms>,
        is_stable::<admin::v1::Rate>,
        is_stable::<admin::v1::ClassRate>,
        is_stable::<admin::v1::FrontEnd>,
        is_stable::<admin::v1::FrontEndKey>,
        is_stable::<admin::v1::EnrollFrontEndRequest>,
        is_stable::<admin::v1::EnrollFrontEndResponse>,
        is_stable::<admin::v1::ListFrontEndsRequest>,
        is_stable::<admin::v1::ListFrontEndsResponse>,
        is_stable::<admin::v1::GetFrontEndRequest>,
        is_stable::<admin::v1::WithdrawFrontEndRequest>,
    ];
    // Each is tried, whatever became of the one before.
    readers.iter().fold(false, |some, read| some | read(data))
}

/// Whether it can be read; then it is written as it was understood, and read as the same.
fn is_stable<M: Message + Default + PartialEq + Debug>(data: &[u8]) -> bool {
    let Ok(message) = M::decode(data) else { return false };
    let written = message.encode_to_vec();
    let again = M::decode(&written[..]).expect("what was written can be read");
    assert_eq!(again, message);
    assert_eq!(again.encode_to_vec(), written);
    true
}
