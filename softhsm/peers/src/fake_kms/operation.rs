//! The operations that the stand-in has.

/// An operation of the KMS API, by its name in the API reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the API reference says what each does")]
pub enum Operation {
    CancelKeyDeletion,
    CreateAlias,
    CreateKey,
    DeleteAlias,
    DescribeKey,
    DisableKey,
    EnableKey,
    GetPublicKey,
    ListAliases,
    ListKeys,
    ListResourceTags,
    ScheduleKeyDeletion,
    Sign,
    TagResource,
    UntagResource,
    UpdateAlias,
}

impl Operation {
    /// Every operation.
    pub const ALL: [Self; 16] = [
        Self::CancelKeyDeletion,
        Self::CreateAlias,
        Self::CreateKey,
        Self::DeleteAlias,
        Self::DescribeKey,
        Self::DisableKey,
        Self::EnableKey,
        Self::GetPublicKey,
        Self::ListAliases,
        Self::ListKeys,
        Self::ListResourceTags,
        Self::ScheduleKeyDeletion,
        Self::Sign,
        Self::TagResource,
        Self::UntagResource,
        Self::UpdateAlias,
    ];

    /// Its name in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CancelKeyDeletion => "CancelKeyDeletion",
            Self::CreateAlias => "CreateAlias",
            Self::CreateKey => "CreateKey",
            Self::DeleteAlias => "DeleteAlias",
            Self::DescribeKey => "DescribeKey",
            Self::DisableKey => "DisableKey",
            Self::EnableKey => "EnableKey",
            Self::GetPublicKey => "GetPublicKey",
            Self::ListAliases => "ListAliases",
            Self::ListKeys => "ListKeys",
            Self::ListResourceTags => "ListResourceTags",
            Self::ScheduleKeyDeletion => "ScheduleKeyDeletion",
            Self::Sign => "Sign",
            Self::TagResource => "TagResource",
            Self::UntagResource => "UntagResource",
            Self::UpdateAlias => "UpdateAlias",
        }
    }

    /// The operation of an `X-Amz-Target` header.
    pub(super) fn of_target(target: &str) -> Option<Self> {
        let name = target.strip_prefix("TrentService.")?;
        Self::ALL.into_iter().find(|operation| operation.name() == name)
    }
}
