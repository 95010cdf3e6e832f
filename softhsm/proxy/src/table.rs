//! The function list: the real module's, with every function replaced by one that goes through
//! [`Device`] first.

#![expect(unsafe_code, reason = "a C interface: function pointers and raw buffers on both sides")]
#![expect(non_snake_case, reason = "the functions bear the standard's names")]

use std::ffi::c_void;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use cryptoki_sys::*;

use crate::block::{Block, Mapping};
use crate::control::ControlError;
use crate::device::{Device, Outcome};
use crate::{CONTROL_VARIABLE, Control, Function, Lie, MODULE_VARIABLE, locate};

/// PKCS#11 2.40 §5.4: the one symbol that a client looks up. The first call loads the real module and
/// the control file, as the environment names them.
///
/// # Safety
/// `list` is null or may be written.
#[unsafe(no_mangle)]
#[expect(unreachable_pub, reason = "the linker reaches it")]
pub unsafe extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    if list.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    let Some(proxy) = PROXY.get_or_init(load_or_complain) else { return CKR_GENERAL_ERROR };
    // SAFETY: not null, and the caller says that it may be written.
    unsafe { *list = (&raw const proxy.list).cast_mut() };
    CKR_OK
}

static PROXY: OnceLock<Option<Proxy>> = OnceLock::new();

struct Proxy {
    device: Device,
    /// What clients see. They read it; the standard gives them a pointer that could write.
    list: CK_FUNCTION_LIST,
}

/// The real module, loaded until the process ends.
pub(crate) struct Target {
    list: CK_FUNCTION_LIST,
    #[expect(dead_code, reason = "keeps the library in memory")]
    library: Pkcs11,
}

impl Target {
    /// Closes a session of the real module.
    pub(crate) fn close(&self, session: CK_SESSION_HANDLE) -> CK_RV {
        let Some(close) = self.list.C_CloseSession else { return CKR_FUNCTION_NOT_SUPPORTED };
        // SAFETY: the function takes any number and says if it is no session.
        unsafe { close(session) }
    }
}

#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error("no module to pass calls on to: set {MODULE_VARIABLE} to its absolute path")]
    NoModule,
    #[error("{MODULE_VARIABLE} names the proxy itself: {0}; name the module behind it")]
    Itself(PathBuf),
    #[error("{MODULE_VARIABLE}: cannot load {path}: {reason}")]
    Module { path: PathBuf, reason: String },
    #[error("{CONTROL_VARIABLE}: {0}")]
    Control(#[from] ControlError),
}

#[expect(
    clippy::print_stderr,
    reason = "a C interface has one number for all reasons; see it here"
)]
fn load_or_complain() -> Option<Proxy> {
    load().inspect_err(|error| eprintln!("pkcs11-proxy: {error}")).ok()
}

fn load() -> Result<Proxy, LoadError> {
    static QUIET: Block = Block::new();
    static MAPPING: OnceLock<Mapping> = OnceLock::new();
    let named = |variable| std::env::var_os(variable).filter(|value| !value.is_empty());
    let path = named(MODULE_VARIABLE).map(PathBuf::from).or_else(softhsm::find_module);
    let target = load_target(&path.ok_or(LoadError::NoModule)?)?;
    let block = match named(CONTROL_VARIABLE).map(PathBuf::from) {
        Some(path) => {
            let mapping = Control::open(&path)?.into_block();
            MAPPING.get_or_init(|| mapping)
        }
        None => &QUIET,
    };
    let mut list = target.list;
    list.C_GetFunctionList = Some(C_GetFunctionList);
    replace_forwarded(&mut list);
    replace_forwarded_in_session(&mut list);
    replace_watched(&mut list);
    Ok(Proxy { device: Device::new(target, block), list })
}

fn load_target(path: &Path) -> Result<Target, LoadError> {
    if path.file_name().is_some_and(|name| name == &*locate::file_name()) {
        return Err(LoadError::Itself(path.to_owned()));
    }
    let failed = |reason: String| LoadError::Module { path: path.to_owned(), reason };
    // SAFETY: loading runs the module's code in this process, which is what naming it asks for.
    let library = unsafe { Pkcs11::new(path) }.map_err(|error| failed(error.to_string()))?;
    let get_list =
        *library.C_GetFunctionList.as_ref().map_err(|error| failed(error.to_string()))?;
    let mut list = std::ptr::null_mut();
    // SAFETY: the symbol is the standard's and writes one pointer.
    let answer = unsafe { get_list(&raw mut list) };
    if answer != CKR_OK || list.is_null() {
        return Err(failed(format!("C_GetFunctionList answers {answer:#x}")));
    }
    // SAFETY: the module gave the list, which is its own and stays as long as it is loaded.
    let list = unsafe { *list };
    Ok(Target { list, library })
}

/// The device, for functions that a client can only have from the list.
fn device() -> Option<&'static Device> {
    Some(&PROXY.get()?.as_ref()?.device)
}

fn refused() -> Outcome {
    Outcome { told: CKR_GENERAL_ERROR, done: false, corrupt: None }
}

/// Calls the real module's function of that name.
macro_rules! real {
    ($target:ident.$name:ident($($argument:expr),*)) => {
        match $target.list.$name {
            // SAFETY: the caller of our function of the same name keeps what the standard asks of
            // it, and the arguments are the caller's, or as good.
            Some(real) => unsafe { real($($argument),*) },
            None => CKR_FUNCTION_NOT_SUPPORTED,
        }
    };
}

macro_rules! forwarded {
    ($($function:ident $name:ident($($argument:ident: $type:ty),*);)*) => {
        $(unsafe extern "C" fn $name($($argument: $type),*) -> CK_RV {
            let Some(device) = device() else { return CKR_GENERAL_ERROR };
            device.call(Function::$function, |target| real!(target.$name($($argument),*))).told
        })*

        /// Puts those functions in the list that the real module has.
        fn replace_forwarded(list: &mut CK_FUNCTION_LIST) {
            $(list.$name = list.$name.and(Some($name as unsafe extern "C" fn($($type),*) -> CK_RV));)*
        }
    };
}

/// As `forwarded`, for functions whose first argument is a session.
macro_rules! forwarded_in_session {
    ($($function:ident $name:ident($($argument:ident: $type:ty),*);)*) => {
        $(unsafe extern "C" fn $name(session: Session $(, $argument: $type)*) -> CK_RV {
            let Some(device) = device() else { return CKR_GENERAL_ERROR };
            let call = |target: &Target, session| real!(target.$name(session $(, $argument)*));
            device.call_in(Function::$function, session, call).told
        })*

        /// Puts those functions in the list that the real module has.
        fn replace_forwarded_in_session(list: &mut CK_FUNCTION_LIST) {
            $(list.$name = list.$name.and(Some(
                $name as unsafe extern "C" fn(Session $(, $type)*) -> CK_RV,
            ));)*
        }
    };
}

type Session = CK_SESSION_HANDLE;
type Object = CK_OBJECT_HANDLE;
type Bytes = *mut CK_BYTE;
type Length = *mut CK_ULONG;

// What needs no more than counting, delays and codes.
forwarded! {
    GetInfo C_GetInfo(info: *mut CK_INFO);
    GetSlotInfo C_GetSlotInfo(slot: CK_SLOT_ID, info: *mut CK_SLOT_INFO);
    GetTokenInfo C_GetTokenInfo(slot: CK_SLOT_ID, info: *mut CK_TOKEN_INFO);
    InitToken C_InitToken(slot: CK_SLOT_ID, pin: Bytes, length: CK_ULONG, label: Bytes);
}

forwarded_in_session! {
    InitPIN C_InitPIN(pin: Bytes, length: CK_ULONG);
    SetPIN C_SetPIN(old: Bytes, old_length: CK_ULONG, new: Bytes, length: CK_ULONG);
    GetSessionInfo C_GetSessionInfo(info: *mut CK_SESSION_INFO);
    GetOperationState C_GetOperationState(state: Bytes, length: Length);
    SetOperationState C_SetOperationState(state: Bytes, length: CK_ULONG, one: Object, two: Object);
    Login C_Login(user: CK_USER_TYPE, pin: Bytes, length: CK_ULONG);
    Logout C_Logout();
    CreateObject C_CreateObject(template: *mut CK_ATTRIBUTE, count: CK_ULONG, object: *mut Object);
    CopyObject C_CopyObject(from: Object, template: *mut CK_ATTRIBUTE, count: CK_ULONG, object: *mut Object);
    DestroyObject C_DestroyObject(object: Object);
    GetObjectSize C_GetObjectSize(object: Object, size: Length);
    SetAttributeValue C_SetAttributeValue(object: Object, template: *mut CK_ATTRIBUTE, count: CK_ULONG);
    FindObjectsInit C_FindObjectsInit(template: *mut CK_ATTRIBUTE, count: CK_ULONG);
    FindObjects C_FindObjects(objects: *mut Object, room: CK_ULONG, found: Length);
    FindObjectsFinal C_FindObjectsFinal();
    EncryptInit C_EncryptInit(mechanism: *mut CK_MECHANISM, key: Object);
    Encrypt C_Encrypt(data: Bytes, length: CK_ULONG, out: Bytes, room: Length);
    EncryptUpdate C_EncryptUpdate(data: Bytes, length: CK_ULONG, out: Bytes, room: Length);
    EncryptFinal C_EncryptFinal(out: Bytes, room: Length);
    DecryptInit C_DecryptInit(mechanism: *mut CK_MECHANISM, key: Object);
    Decrypt C_Decrypt(data: Bytes, length: CK_ULONG, out: Bytes, room: Length);
    DecryptUpdate C_DecryptUpdate(data: Bytes, length: CK_ULONG, out: Bytes, room: Length);
    DecryptFinal C_DecryptFinal(out: Bytes, room: Length);
    DigestInit C_DigestInit(mechanism: *mut CK_MECHANISM);
    Digest C_Digest(data: Bytes, length: CK_ULONG, out: Bytes, room: Length);
    DigestUpdate C_DigestUpdate(data: Bytes, length: CK_ULONG);
    DigestKey C_DigestKey(key: Object);
    DigestFinal C_DigestFinal(out: Bytes, room: Length);
    SignUpdate C_SignUpdate(data: Bytes, length: CK_ULONG);
    SignRecoverInit C_SignRecoverInit(mechanism: *mut CK_MECHANISM, key: Object);
    SignRecover C_SignRecover(data: Bytes, length: CK_ULONG, out: Bytes, room: Length);
    VerifyInit C_VerifyInit(mechanism: *mut CK_MECHANISM, key: Object);
    Verify C_Verify(data: Bytes, length: CK_ULONG, signature: Bytes, size: CK_ULONG);
    VerifyUpdate C_VerifyUpdate(data: Bytes, length: CK_ULONG);
    VerifyFinal C_VerifyFinal(signature: Bytes, size: CK_ULONG);
    VerifyRecoverInit C_VerifyRecoverInit(mechanism: *mut CK_MECHANISM, key: Object);
    VerifyRecover C_VerifyRecover(signature: Bytes, size: CK_ULONG, out: Bytes, room: Length);
    DigestEncryptUpdate C_DigestEncryptUpdate(data: Bytes, length: CK_ULONG, out: Bytes, room: Length);
    DecryptDigestUpdate C_DecryptDigestUpdate(data: Bytes, length: CK_ULONG, out: Bytes, room: Length);
    SignEncryptUpdate C_SignEncryptUpdate(data: Bytes, length: CK_ULONG, out: Bytes, room: Length);
    DecryptVerifyUpdate C_DecryptVerifyUpdate(data: Bytes, length: CK_ULONG, out: Bytes, room: Length);
    WrapKey C_WrapKey(mechanism: *mut CK_MECHANISM, by: Object, key: Object, out: Bytes, room: Length);
    UnwrapKey C_UnwrapKey(mechanism: *mut CK_MECHANISM, by: Object, wrapped: Bytes, length: CK_ULONG, template: *mut CK_ATTRIBUTE, count: CK_ULONG, key: *mut Object);
    DeriveKey C_DeriveKey(mechanism: *mut CK_MECHANISM, from: Object, template: *mut CK_ATTRIBUTE, count: CK_ULONG, key: *mut Object);
    SeedRandom C_SeedRandom(seed: Bytes, length: CK_ULONG);
    GenerateRandom C_GenerateRandom(out: Bytes, length: CK_ULONG);
    GetFunctionStatus C_GetFunctionStatus();
    CancelFunction C_CancelFunction();
}

/// Puts the functions below in the list.
fn replace_watched(list: &mut CK_FUNCTION_LIST) {
    list.C_Initialize = Some(C_Initialize);
    list.C_Finalize = Some(C_Finalize);
    list.C_GetSlotList = Some(C_GetSlotList);
    list.C_GetMechanismList = Some(C_GetMechanismList);
    list.C_GetMechanismInfo = Some(C_GetMechanismInfo);
    list.C_OpenSession = Some(C_OpenSession);
    list.C_CloseSession = Some(C_CloseSession);
    list.C_CloseAllSessions = Some(C_CloseAllSessions);
    list.C_GetAttributeValue = Some(C_GetAttributeValue);
    list.C_SignInit = Some(C_SignInit);
    list.C_Sign = Some(C_Sign);
    list.C_SignFinal = Some(C_SignFinal);
    list.C_GenerateKey = Some(C_GenerateKey);
    list.C_GenerateKeyPair = Some(C_GenerateKeyPair);
}

unsafe extern "C" fn C_Initialize(arguments: *mut c_void) -> CK_RV {
    let Some(device) = device() else { return CKR_GENERAL_ERROR };
    device.initialize(|target| real!(target.C_Initialize(arguments)))
}

unsafe extern "C" fn C_Finalize(reserved: *mut c_void) -> CK_RV {
    let Some(device) = device() else { return CKR_GENERAL_ERROR };
    device.finalize(|target| real!(target.C_Finalize(reserved)))
}

unsafe extern "C" fn C_GetSlotList(
    with_token: CK_BBOOL,
    slots: *mut CK_SLOT_ID,
    count: *mut CK_ULONG,
) -> CK_RV {
    let Some(device) = device() else { return CKR_GENERAL_ERROR };
    let list = |target: &Target| {
        if with_token != CK_FALSE && !count.is_null() && device.is_away() {
            // SAFETY: not null, and the caller gives a place for the count.
            unsafe { *count = 0 };
            return CKR_OK;
        }
        real!(target.C_GetSlotList(with_token, slots, count))
    };
    device.call(Function::GetSlotList, list).told
}

unsafe extern "C" fn C_OpenSession(
    slot: CK_SLOT_ID,
    flags: CK_FLAGS,
    application: *mut c_void,
    notify: CK_NOTIFY,
    session: *mut CK_SESSION_HANDLE,
) -> CK_RV {
    let Some(device) = device() else { return CKR_GENERAL_ERROR };
    if session.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    let open = |target: &Target| {
        let mut opened = 0;
        match real!(target.C_OpenSession(slot, flags, application, notify, &raw mut opened)) {
            CKR_OK => Ok(opened),
            code => Err(code),
        }
    };
    match device.open_session(slot, open) {
        Ok(handle) => {
            // SAFETY: not null, and the caller gives a place for the handle.
            unsafe { *session = handle };
            CKR_OK
        }
        Err(code) => code,
    }
}

unsafe extern "C" fn C_CloseSession(session: Session) -> CK_RV {
    let Some(device) = device() else { return CKR_GENERAL_ERROR };
    device.close_session(session)
}

unsafe extern "C" fn C_CloseAllSessions(slot: CK_SLOT_ID) -> CK_RV {
    let Some(device) = device() else { return CKR_GENERAL_ERROR };
    device.close_all_sessions(slot, |target| real!(target.C_CloseAllSessions(slot)))
}

unsafe extern "C" fn C_SignInit(
    session: Session,
    mechanism: *mut CK_MECHANISM,
    key: Object,
) -> CK_RV {
    let Some(device) = device() else { return CKR_GENERAL_ERROR };
    let start = |target: &Target, session| {
        // SAFETY: null, or the caller's mechanism.
        if unsafe { is_hidden(device, mechanism) } {
            return CKR_MECHANISM_INVALID;
        }
        real!(target.C_SignInit(session, mechanism, key))
    };
    device.call_in(Function::SignInit, session, start).told
}

unsafe extern "C" fn C_Sign(
    session: Session,
    data: Bytes,
    length: CK_ULONG,
    signature: Bytes,
    size: Length,
) -> CK_RV {
    let sign =
        |target: &Target, session| real!(target.C_Sign(session, data, length, signature, size));
    // SAFETY: the caller's buffer, which the standard describes by these two.
    unsafe { signed(Function::Sign, session, signature, size, sign) }
}

unsafe extern "C" fn C_SignFinal(session: Session, signature: Bytes, size: Length) -> CK_RV {
    let sign = |target: &Target, session| real!(target.C_SignFinal(session, signature, size));
    // SAFETY: as above.
    unsafe { signed(Function::SignFinal, session, signature, size, sign) }
}

/// A call that gives a signature, or its length when there is no buffer.
///
/// # Safety
/// After `sign` has answered `CKR_OK`, `size` may be read and `signature` is null or has that many bytes.
unsafe fn signed(
    function: Function,
    session: Session,
    signature: Bytes,
    size: Length,
    sign: impl FnOnce(&Target, Session) -> CK_RV,
) -> CK_RV {
    let function = if signature.is_null() { Function::SignLength } else { function };
    let outcome = device().map_or_else(refused, |device| device.sign(function, session, sign));
    if outcome.done && !signature.is_null() {
        // SAFETY: it was done, so the signature is there: see above.
        let signature = unsafe { std::slice::from_raw_parts_mut(signature, *size as usize) };
        change(signature, outcome);
    }
    outcome.told
}

/// A signature of a failed call is nobody's; of a wrong one a bit is wrong.
fn change(signature: &mut [u8], outcome: Outcome) {
    if outcome.told != CKR_OK {
        signature.fill(0);
    } else if let Some(random) = outcome.corrupt {
        let bit = random.checked_rem(signature.len() as u64 * 8).unwrap_or(0);
        if let Some(byte) = signature.get_mut((bit / 8) as usize) {
            *byte ^= 1 << (bit % 8);
        }
    }
}

unsafe extern "C" fn C_GenerateKey(
    session: Session,
    mechanism: *mut CK_MECHANISM,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    key: *mut Object,
) -> CK_RV {
    let Some(device) = device() else { return CKR_GENERAL_ERROR };
    let generate = |target: &Target, session| {
        // SAFETY: null, or the caller's mechanism.
        if unsafe { is_hidden(device, mechanism) } {
            return CKR_MECHANISM_INVALID;
        }
        real!(target.C_GenerateKey(session, mechanism, template, count, key))
    };
    device.call_in(Function::GenerateKey, session, generate).told
}

unsafe extern "C" fn C_GenerateKeyPair(
    session: Session,
    mechanism: *mut CK_MECHANISM,
    public: *mut CK_ATTRIBUTE,
    public_count: CK_ULONG,
    private: *mut CK_ATTRIBUTE,
    private_count: CK_ULONG,
    public_key: *mut Object,
    private_key: *mut Object,
) -> CK_RV {
    let Some(device) = device() else { return CKR_GENERAL_ERROR };
    let generate = |target: &Target, session| {
        // SAFETY: null, or the caller's mechanism.
        if unsafe { is_hidden(device, mechanism) } {
            return CKR_MECHANISM_INVALID;
        }
        real!(target.C_GenerateKeyPair(
            session,
            mechanism,
            public,
            public_count,
            private,
            private_count,
            public_key,
            private_key
        ))
    };
    device.call_in(Function::GenerateKeyPair, session, generate).told
}

/// # Safety
/// `mechanism` is null or may be read.
unsafe fn is_hidden(device: &Device, mechanism: *const CK_MECHANISM) -> bool {
    // SAFETY: see above.
    match unsafe { mechanism.as_ref() } {
        Some(mechanism) => device.block().hides_mechanism(mechanism.mechanism),
        None => false,
    }
}

unsafe extern "C" fn C_GetMechanismInfo(
    slot: CK_SLOT_ID,
    mechanism: CK_MECHANISM_TYPE,
    info: *mut CK_MECHANISM_INFO,
) -> CK_RV {
    let Some(device) = device() else { return CKR_GENERAL_ERROR };
    let describe = |target: &Target| {
        if device.block().hides_mechanism(mechanism) {
            return CKR_MECHANISM_INVALID;
        }
        real!(target.C_GetMechanismInfo(slot, mechanism, info))
    };
    device.call(Function::GetMechanismInfo, describe).told
}

unsafe extern "C" fn C_GetMechanismList(
    slot: CK_SLOT_ID,
    mechanisms: *mut CK_MECHANISM_TYPE,
    count: *mut CK_ULONG,
) -> CK_RV {
    let Some(device) = device() else { return CKR_GENERAL_ERROR };
    let list = |target: &Target| {
        if count.is_null() {
            return CKR_ARGUMENTS_BAD;
        }
        let shown = match mechanisms_of(target, slot) {
            Ok(all) => all.into_iter().filter(|one| !device.block().hides_mechanism(*one)),
            Err(code) => return code,
        };
        // SAFETY: the standard describes the caller's room by these two, and `count` is not null.
        unsafe { write_list(&shown.collect::<Vec<_>>(), mechanisms, count) }
    };
    device.call(Function::GetMechanismList, list).told
}

fn mechanisms_of(target: &Target, slot: CK_SLOT_ID) -> Result<Vec<CK_MECHANISM_TYPE>, CK_RV> {
    let mut count = 0;
    let answer = real!(target.C_GetMechanismList(slot, std::ptr::null_mut(), &raw mut count));
    if answer != CKR_OK {
        return Err(answer);
    }
    let mut all = vec![0; count as usize];
    let answer = real!(target.C_GetMechanismList(slot, all.as_mut_ptr(), &raw mut count));
    all.truncate(count as usize);
    if answer == CKR_OK { Ok(all) } else { Err(answer) }
}

/// PKCS#11 2.40 §5.2: how a function gives a list of any length.
///
/// # Safety
/// `count` may be written; `room` is null or has as many places as `count` says.
unsafe fn write_list(
    list: &[CK_MECHANISM_TYPE],
    room: *mut CK_MECHANISM_TYPE,
    count: *mut CK_ULONG,
) -> CK_RV {
    // SAFETY: see above.
    let places = unsafe { std::mem::replace(&mut *count, list.len() as CK_ULONG) };
    if room.is_null() {
        return CKR_OK;
    }
    if places < list.len() as CK_ULONG {
        return CKR_BUFFER_TOO_SMALL;
    }
    // SAFETY: there are enough places, and the list is our own.
    unsafe { std::ptr::copy_nonoverlapping(list.as_ptr(), room, list.len()) };
    CKR_OK
}

unsafe extern "C" fn C_GetAttributeValue(
    session: Session,
    object: Object,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    let Some(device) = device() else { return CKR_GENERAL_ERROR };
    let lies = || device.block().lies.iter().filter_map(|lie| lie.get());
    let read = |target: &Target, session| {
        let ask = || real!(target.C_GetAttributeValue(session, object, template, count));
        if template.is_null() || lies().next().is_none() {
            return ask();
        }
        if !is_private_key(target, session, object) {
            return ask();
        }
        // SAFETY: not null, and the standard describes the caller's template by these two.
        let asked = unsafe { std::slice::from_raw_parts(template, count as usize) };
        let rooms: Vec<CK_ULONG> = asked.iter().map(|attribute| attribute.ulValueLen).collect();
        let answer = ask();
        // SAFETY: as before; the real module is done with it.
        let template = unsafe { std::slice::from_raw_parts_mut(template, count as usize) };
        let mut codes = Vec::new();
        for (attribute, room) in template.iter_mut().zip(rooms) {
            let told = lies().find(|(about, _)| *about == attribute.type_);
            // SAFETY: the caller's value has the room that it said at first.
            codes.extend(told.map(|(_, lie)| unsafe { deceive(attribute, room, lie) }));
        }
        told_of_all(answer, template, &codes)
    };
    device.call_in(Function::GetAttributeValue, session, read).told
}

fn is_private_key(target: &Target, session: Session, object: Object) -> bool {
    let mut class: CK_OBJECT_CLASS = CK_UNAVAILABLE_INFORMATION;
    let mut attribute = CK_ATTRIBUTE {
        type_: CKA_CLASS,
        pValue: (&raw mut class).cast(),
        ulValueLen: size_of::<CK_OBJECT_CLASS>() as CK_ULONG,
    };
    let answer = real!(target.C_GetAttributeValue(session, object, &raw mut attribute, 1));
    answer == CKR_OK && class == CKO_PRIVATE_KEY
}

/// Puts the lie where the truth was; the code that it alone would be answered with.
///
/// # Safety
/// The attribute's value is null or has this room.
unsafe fn deceive(attribute: &mut CK_ATTRIBUTE, room: CK_ULONG, lie: Lie) -> CK_RV {
    let Lie::Boolean(value) = lie else {
        attribute.ulValueLen = CK_UNAVAILABLE_INFORMATION;
        return CKR_ATTRIBUTE_TYPE_INVALID;
    };
    if attribute.pValue.is_null() {
        attribute.ulValueLen = 1;
        return CKR_OK;
    }
    if room == 0 {
        attribute.ulValueLen = CK_UNAVAILABLE_INFORMATION;
        return CKR_BUFFER_TOO_SMALL;
    }
    // SAFETY: not null, and there is room for one byte.
    unsafe { attribute.pValue.cast::<CK_BBOOL>().write(CK_BBOOL::from(value)) };
    attribute.ulValueLen = 1;
    CKR_OK
}

/// The code of the whole call (PKCS#11 2.40 §5.7): a lie's own if it has one; the real module's unless
/// that was about an attribute that a lie has supplied since.
fn told_of_all(answer: CK_RV, template: &[CK_ATTRIBUTE], lies: &[CK_RV]) -> CK_RV {
    let partial = [CKR_ATTRIBUTE_TYPE_INVALID, CKR_ATTRIBUTE_SENSITIVE, CKR_BUFFER_TOO_SMALL];
    if answer != CKR_OK && !partial.contains(&answer) {
        return answer;
    }
    if let Some(code) = lies.iter().find(|code| **code != CKR_OK) {
        return *code;
    }
    let lacks = |attribute: &CK_ATTRIBUTE| attribute.ulValueLen == CK_UNAVAILABLE_INFORMATION;
    if template.iter().any(lacks) { answer } else { CKR_OK }
}
