//! The functions that are counted, delayed and failed.

macro_rules! functions {
    ($($name:ident)*) => {
        /// A function of PKCS#11 2.40 without its `C_`, and [`SignLength`](Self::SignLength).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Function {
            /// `C_Sign` or `C_SignFinal` without a buffer, which asks for the length of the signature
            /// alone. Some clients ask before every signature; it is no call of [`Sign`](Self::Sign).
            SignLength,
            $(#[doc = concat!("`C_", stringify!($name), "`.")] $name,)*
        }

        impl Function {
            /// All of them.
            pub const ALL: &[Self] = &[Self::SignLength, $(Self::$name,)*];
        }
    };
}

functions! {
    Initialize Finalize GetInfo GetSlotList GetSlotInfo GetTokenInfo GetMechanismList GetMechanismInfo
    InitToken InitPIN SetPIN
    OpenSession CloseSession CloseAllSessions GetSessionInfo GetOperationState SetOperationState
    Login Logout
    CreateObject CopyObject DestroyObject GetObjectSize GetAttributeValue SetAttributeValue
    FindObjectsInit FindObjects FindObjectsFinal
    EncryptInit Encrypt EncryptUpdate EncryptFinal DecryptInit Decrypt DecryptUpdate DecryptFinal
    DigestInit Digest DigestUpdate DigestKey DigestFinal
    SignInit Sign SignUpdate SignFinal SignRecoverInit SignRecover
    VerifyInit Verify VerifyUpdate VerifyFinal VerifyRecoverInit VerifyRecover
    DigestEncryptUpdate DecryptDigestUpdate SignEncryptUpdate DecryptVerifyUpdate
    GenerateKey GenerateKeyPair WrapKey UnwrapKey DeriveKey
    SeedRandom GenerateRandom GetFunctionStatus CancelFunction
}

impl Function {
    /// How many there are.
    pub(crate) const COUNT: usize = Self::ALL.len();

    pub(crate) fn index(self) -> usize {
        self as usize
    }

    /// Whether a device that is away has to refuse it: the others are answered by the library alone.
    pub(crate) fn touches_token(self) -> bool {
        !matches!(
            self,
            Self::Initialize
                | Self::Finalize
                | Self::GetInfo
                | Self::GetSlotList
                | Self::GetSlotInfo
        )
    }

    /// Whether any answer but a buffer that is too small ends the session's operation (PKCS#11 2.40
    /// §5.2), so that a failed call has to reach the real module too.
    pub(crate) fn ends_operation(self) -> bool {
        matches!(self, Self::Sign | Self::SignFinal)
    }
}
