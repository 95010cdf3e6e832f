//! `C_SignInit` and `C_Sign` of a library, called directly: nothing between the loop and the module.

#![expect(unsafe_code, reason = "calls into a PKCS#11 library")]

use std::path::Path;
use std::ptr;

use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use cryptoki_sys::{
    CK_FUNCTION_LIST, CK_MECHANISM, CK_MECHANISM_TYPE, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE,
    CK_ULONG, CKR_OK,
};

/// The two calls.
#[derive(Clone, Copy)]
pub(super) struct Calls {
    sign_init:
        unsafe extern "C" fn(CK_SESSION_HANDLE, *mut CK_MECHANISM, CK_OBJECT_HANDLE) -> CK_RV,
    sign:
        unsafe extern "C" fn(CK_SESSION_HANDLE, *mut u8, CK_ULONG, *mut u8, *mut CK_ULONG) -> CK_RV,
}

impl Calls {
    /// Those of the library at `path`, which stays loaded until the process ends.
    pub(super) fn load(path: &Path) -> anyhow::Result<Self> {
        // SAFETY: the library is in use by this process already; its list is static, and it is never
        // unloaded, since the handle is leaked.
        let list = unsafe {
            let library = Box::leak(Box::new(cryptoki_sys::Pkcs11::new(path)?));
            let mut list: *mut CK_FUNCTION_LIST = ptr::null_mut();
            let code = library.C_GetFunctionList(&mut list);
            anyhow::ensure!(code == CKR_OK && !list.is_null(), "no function list: {code:#x}");
            ptr::read_unaligned(list)
        };
        let (init, sign) = (list.C_SignInit, list.C_Sign);
        match (init, sign) {
            (Some(sign_init), Some(sign)) => Ok(Self { sign_init, sign }),
            _ => anyhow::bail!("the module does not sign"),
        }
    }

    /// One signature; panics if there is none.
    pub(super) fn sign<'a>(
        self,
        session: &Session,
        key: ObjectHandle,
        mechanism: CK_MECHANISM_TYPE,
        input: &[u8],
        signature: &'a mut [u8; 512],
    ) -> &'a [u8] {
        let mut mechanism =
            CK_MECHANISM { mechanism, pParameter: ptr::null_mut(), ulParameterLen: 0 };
        let mut length = signature.len() as CK_ULONG;
        // SAFETY: a `Session` is one thread's alone; all pointers are to this frame or the caller's slices.
        let code = unsafe {
            match (self.sign_init)(session.handle(), &mut mechanism, key.handle()) {
                CKR_OK => (self.sign)(
                    session.handle(),
                    input.as_ptr().cast_mut(),
                    input.len() as CK_ULONG,
                    signature.as_mut_ptr(),
                    &mut length,
                ),
                code => code,
            }
        };
        assert_eq!(code, CKR_OK, "the token signs");
        &signature[..length as usize]
    }
}
