//! Wire contracts: SPIRE's services by name and number, and Mintmark's own protocols.
//!
//! Messages, clients and server traits are generated from `proto/`, which holds the comments that say
//! what each field means. Bytes are [`bytes::Bytes`], so certificates are shared and not copied.

pub mod bounds;
mod redacted;

/// SPIRE's server API, as far as Mintmark speaks it. Field numbers never change.
#[allow(missing_docs, unused_qualifications, reason = "the content is generated")]
#[allow(clippy::allow_attributes_without_reason, reason = "the content is generated")]
pub mod spire {
    /// Package `spire.api.types`.
    pub mod types {
        tonic::include_proto!("spire.api.types");
    }

    /// Minting SVIDs.
    pub mod svid {
        /// Package `spire.api.server.svid.v1`.
        pub mod v1 {
            tonic::include_proto!("spire.api.server.svid.v1");
        }
    }

    /// Bundles.
    pub mod bundle {
        /// Package `spire.api.server.bundle.v1`.
        pub mod v1 {
            tonic::include_proto!("spire.api.server.bundle.v1");
        }
    }

    /// What a server says of itself.
    pub mod debug {
        /// Package `spire.api.server.debug.v1`.
        pub mod v1 {
            tonic::include_proto!("spire.api.server.debug.v1");
        }
    }

    /// How much a server logs.
    pub mod logger {
        /// Package `spire.api.server.logger.v1`.
        pub mod v1 {
            tonic::include_proto!("spire.api.server.logger.v1");
        }
    }
}

/// What SPIRE's API has no words for.
#[allow(missing_docs, unused_qualifications, reason = "the content is generated")]
#[allow(clippy::allow_attributes_without_reason, reason = "the content is generated")]
pub mod admin {
    /// Package `mintmark.admin.v1`.
    pub mod v1 {
        tonic::include_proto!("mintmark.admin.v1");
    }
}

/// What front ends ask of a signer: minting, and what they serve to others.
#[allow(missing_docs, unused_qualifications, reason = "the content is generated")]
#[allow(clippy::allow_attributes_without_reason, reason = "the content is generated")]
pub mod signing {
    /// Package `mintmark.signing.v1`.
    pub mod v1 {
        tonic::include_proto!("mintmark.signing.v1");
    }
}

/// What front ends ask of a signer beside minting: their own next certificate, and what nothing answers to yet.
#[allow(missing_docs, unused_qualifications, reason = "the content is generated")]
#[allow(clippy::allow_attributes_without_reason, reason = "the content is generated")]
pub mod control {
    /// Package `mintmark.control.v1`.
    pub mod v1 {
        tonic::include_proto!("mintmark.control.v1");
    }
}
