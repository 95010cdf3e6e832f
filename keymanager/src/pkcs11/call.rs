//! The two calls of a signature, made directly.
//!
//! `cryptoki` asks for the signature's length in a call of its own first. The length is known, and with
//! some HSM every call is a way over the network.

#![expect(unsafe_code, reason = "calls into a PKCS#11 library")]

use std::ffi::c_void;
use std::path::Path;
use std::ptr;

use ca_core::key::{Signature, SignatureAlgorithm, SignatureError, ToBeSigned};
use cryptoki::context::Function;
use cryptoki::error::{Error, Result, Rv};
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use cryptoki_sys::{
    CK_C_GetInfo, CK_C_Sign, CK_C_SignInit, CK_FUNCTION_LIST, CK_INFO, CK_MECHANISM,
    CK_MECHANISM_TYPE, CK_RSA_PKCS_PSS_PARAMS, CK_RV, CKG_MGF1_SHA256, CKM_ECDSA, CKM_ECDSA_SHA256,
    CKM_ECDSA_SHA384, CKM_EDDSA, CKM_RSA_PKCS, CKM_RSA_PKCS_PSS, CKM_SHA256, CKM_SHA256_RSA_PKCS,
    CKM_SHA256_RSA_PKCS_PSS, CKR_CRYPTOKI_NOT_INITIALIZED,
};

use super::settings::Hashing;

/// The longest signature of a token: RSA-4096.
const LONGEST: usize = 512;

/// What the token is given for a signature: everything that can be computed before its session is needed.
#[derive(Clone)]
pub(super) struct Input {
    mechanism: CK_MECHANISM_TYPE,
    pss: Option<CK_RSA_PKCS_PSS_PARAMS>,
    algorithm: SignatureAlgorithm,
    data: Data,
}

#[derive(Clone)]
enum Data {
    /// A digest, or the `DigestInfo` of one.
    Short { bytes: [u8; 64], length: usize },
    /// The message itself, which the device hashes.
    Message(ToBeSigned),
}

impl Input {
    /// `None` if no token signs by the message's algorithm.
    pub(super) fn new(hashing: Hashing, message: &ToBeSigned) -> Option<Self> {
        let algorithm = message.algorithm();
        let mechanism = mechanism(hashing, algorithm)?;
        let pss = (algorithm == SignatureAlgorithm::RsaPssSha256).then_some(PSS_SHA256);
        let data = match (hashing, algorithm.digest(message.message())) {
            (Hashing::Host, Some(digest)) => Data::short(algorithm, digest.as_ref()),
            (Hashing::Device, _) | (_, None) => Data::Message(message.clone()),
        };
        Some(Self { mechanism, pss, algorithm, data })
    }

    fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Short { bytes, length } => &bytes[..*length],
            Data::Message(message) => message.message(),
        }
    }
}

impl Data {
    fn short(algorithm: SignatureAlgorithm, digest: &[u8]) -> Self {
        let prefix = match algorithm {
            SignatureAlgorithm::RsaPkcs1Sha256 => DIGEST_INFO,
            _ => &[],
        };
        let mut bytes = [0; 64];
        let length = prefix.len() + digest.len();
        bytes[..prefix.len()].copy_from_slice(prefix);
        bytes[prefix.len()..length].copy_from_slice(digest);
        Self::Short { bytes, length }
    }
}

/// The mechanism of an algorithm (PKCS#11 3.0 §2.1, §2.3); `None` where tokens have none that we use.
pub(super) fn mechanism(
    hashing: Hashing,
    algorithm: SignatureAlgorithm,
) -> Option<CK_MECHANISM_TYPE> {
    Some(match (algorithm, hashing) {
        (
            SignatureAlgorithm::EcdsaP256Sha256 | SignatureAlgorithm::EcdsaP384Sha384,
            Hashing::Host,
        ) => CKM_ECDSA,
        (SignatureAlgorithm::EcdsaP256Sha256, Hashing::Device) => CKM_ECDSA_SHA256,
        (SignatureAlgorithm::EcdsaP384Sha384, Hashing::Device) => CKM_ECDSA_SHA384,
        (SignatureAlgorithm::RsaPkcs1Sha256, Hashing::Host) => CKM_RSA_PKCS,
        (SignatureAlgorithm::RsaPkcs1Sha256, Hashing::Device) => CKM_SHA256_RSA_PKCS,
        (SignatureAlgorithm::RsaPssSha256, Hashing::Host) => CKM_RSA_PKCS_PSS,
        (SignatureAlgorithm::RsaPssSha256, Hashing::Device) => CKM_SHA256_RSA_PKCS_PSS,
        (SignatureAlgorithm::Ed25519, _) => CKM_EDDSA,
        (SignatureAlgorithm::MlDsa44 | SignatureAlgorithm::MlDsa65, _) => return None,
    })
}

/// A salt as long as the digest (RFC 4055 §3.1).
const PSS_SHA256: CK_RSA_PKCS_PSS_PARAMS =
    CK_RSA_PKCS_PSS_PARAMS { hashAlg: CKM_SHA256, mgf: CKG_MGF1_SHA256, sLen: 32 };

/// `DigestInfo` of SHA-256 before its digest (RFC 8017 §9.2 note 1), which `CKM_RSA_PKCS` pads as it is.
const DIGEST_INFO: &[u8] =
    b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20";

/// `C_SignInit` and `C_Sign` of a library.
pub(super) struct SignCalls {
    sign_init: unsafe extern "C" fn(
        cryptoki_sys::CK_SESSION_HANDLE,
        *mut CK_MECHANISM,
        cryptoki_sys::CK_OBJECT_HANDLE,
    ) -> CK_RV,
    sign: unsafe extern "C" fn(
        cryptoki_sys::CK_SESSION_HANDLE,
        *mut u8,
        cryptoki_sys::CK_ULONG,
        *mut u8,
        *mut cryptoki_sys::CK_ULONG,
    ) -> CK_RV,
    get_info: CK_C_GetInfo,
    /// Keeps the functions where they are.
    _library: cryptoki_sys::Pkcs11,
}

impl SignCalls {
    /// The calls of the library at `path`, which is loaded already: loading it again finds it.
    pub(super) fn load(path: &Path) -> Result<Self> {
        // SAFETY: the library was loaded by this process before, so no code of it runs now for the first
        // time; the pointer it gives is to its own static list, which lives as long as the library.
        let (library, list) = unsafe {
            let library = cryptoki_sys::Pkcs11::new(path).map_err(Error::LibraryLoading)?;
            if library.C_GetFunctionList.is_err() {
                return Err(Error::MissingSymbol("C_GetFunctionList"));
            }
            let mut list: *mut CK_FUNCTION_LIST = ptr::null_mut();
            Rv::from(library.C_GetFunctionList(&mut list))
                .into_result(Function::GetFunctionList)?;
            if list.is_null() {
                return Err(Error::NullFunctionPointer);
            }
            (library, ptr::read_unaligned(list))
        };
        let (init, sign): (CK_C_SignInit, CK_C_Sign) = (list.C_SignInit, list.C_Sign);
        Ok(Self {
            sign_init: init.ok_or(Error::NullFunctionPointer)?,
            sign: sign.ok_or(Error::NullFunctionPointer)?,
            get_info: list.C_GetInfo,
            _library: library,
        })
    }

    /// Whether they are of the instance that was initialised. The standard does not say that every list of a
    /// library is of the same one, and p11-kit makes one for each.
    pub(super) fn are_initialised(&self) -> bool {
        let Some(get_info) = self.get_info else { return true };
        let mut info = CK_INFO::default();
        // SAFETY: the function fills the structure, which lives on this frame.
        let answer = unsafe { get_info(&mut info) };
        answer != CKR_CRYPTOKI_NOT_INITIALIZED
    }

    /// Has the token sign. The outer error is the token's, the inner one is about the bytes it gave.
    pub(super) fn sign(
        &self,
        session: &Session,
        key: ObjectHandle,
        input: &Input,
    ) -> Result<std::result::Result<Signature, SignatureError>> {
        let mut pss = input.pss;
        let (parameter, parameter_length) = match &mut pss {
            Some(pss) => (ptr::from_mut(pss).cast::<c_void>(), size_of::<CK_RSA_PKCS_PSS_PARAMS>()),
            None => (ptr::null_mut(), 0),
        };
        let mut mechanism = CK_MECHANISM {
            mechanism: input.mechanism,
            pParameter: parameter,
            ulParameterLen: parameter_length as cryptoki_sys::CK_ULONG,
        };
        let data = input.bytes();
        let mut signature = [0; LONGEST];
        let mut length = LONGEST as cryptoki_sys::CK_ULONG;
        // SAFETY: `session` is not `Sync`, so this thread alone uses its handle; mechanism, parameter, data
        // and buffer live on this frame or in `input` until both calls are back, with the lengths said; the
        // library does not write to the data (PKCS#11 declares it non-const for all inputs).
        unsafe {
            Rv::from((self.sign_init)(session.handle(), &mut mechanism, key.handle()))
                .into_result(Function::SignInit)?;
            Rv::from((self.sign)(
                session.handle(),
                data.as_ptr().cast_mut(),
                data.len() as cryptoki_sys::CK_ULONG,
                signature.as_mut_ptr(),
                &mut length,
            ))
            .into_result(Function::Sign)?;
        }
        let given = signature.get(..usize::try_from(length).unwrap_or(usize::MAX));
        Ok(Signature::from_fixed(input.algorithm, given.unwrap_or(&[])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_hashes_what_a_device_is_given_whole() {
        let message = |algorithm| ToBeSigned::probe([1; 32], algorithm);
        for algorithm in [SignatureAlgorithm::EcdsaP256Sha256, SignatureAlgorithm::RsaPssSha256] {
            let message = message(algorithm);
            let host = Input::new(Hashing::Host, &message).unwrap();
            assert_eq!(host.bytes(), algorithm.digest(message.message()).unwrap().as_ref());
            let device = Input::new(Hashing::Device, &message).unwrap();
            assert_eq!(device.bytes(), message.message());
            assert_ne!(host.mechanism, device.mechanism);
        }
        let message = message(SignatureAlgorithm::RsaPkcs1Sha256);
        let host = Input::new(Hashing::Host, &message).unwrap();
        assert_eq!(host.bytes().len(), 19 + 32, "DigestInfo");
    }
}
