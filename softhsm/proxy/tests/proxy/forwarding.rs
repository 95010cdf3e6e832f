//! Calls reach SoftHSM, and are counted.

use std::time::Duration;

use cryptoki::context::{CInitializeArgs, CInitializeFlags};
use cryptoki::error::RvError;
use cryptoki::object::{Attribute, AttributeType, ObjectClass};
use pkcs11_proxy::Function;

use crate::client::{Client, code, load, log_in, sign, slot_of};

#[test]
fn a_key_made_through_the_proxy_signs_and_is_found() {
    let client = Client::new();
    assert!(client.verifies(&client.sign().unwrap()));
    let wanted = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Id(b"key".to_vec())];
    assert_eq!(client.session.find_objects(&wanted).unwrap(), [client.key]);
    let read = client.session.get_attributes(client.key, &[AttributeType::Sign]).unwrap();
    assert_eq!(read, [Attribute::Sign(true)]);
    assert!(client.context.get_library_info().unwrap().manufacturer_id().contains("SoftHSM"));
}

#[test]
fn every_call_is_counted_and_a_question_for_the_length_is_no_signature() {
    let client = Client::new();
    let device = &client.device;
    for _ in 0..3 {
        client.sign().unwrap();
    }
    let counted = |function| device.calls(function);
    assert_eq!(counted(Function::SignInit), 3);
    assert_eq!(counted(Function::SignLength), 3);
    assert_eq!(counted(Function::Sign), 3);
    client.session.find_objects(&[]).unwrap();
    assert_eq!(counted(Function::FindObjectsInit), 1);
    assert_eq!(counted(Function::FindObjectsFinal), 1);
    let _ = log_in(&client.session, &client.token);
    assert_eq!((counted(Function::Login), counted(Function::Logout)), (1, 0));
    drop(client.another_session().unwrap());
    assert_eq!((counted(Function::OpenSession), counted(Function::CloseSession)), (1, 1));
    device.reset();
    assert_eq!(Function::ALL.iter().map(|function| device.calls(*function)).sum::<u64>(), 0);
}

#[test]
fn the_sessions_open_and_the_most_there_were_are_known() {
    let client = Client::new();
    assert_eq!((client.device.sessions_open(), client.device.most_sessions()), (1, 1));
    let more: Vec<_> = (0..4).map(|_| client.another_session().unwrap()).collect();
    assert_eq!((client.device.sessions_open(), client.device.most_sessions()), (5, 5));
    drop(more);
    assert_eq!((client.device.sessions_open(), client.device.most_sessions()), (1, 5));
}

#[test]
fn the_end_of_the_proxy_is_not_the_end_of_softhsm_for_others() {
    let client = Client::new();
    let beside = cryptoki::context::Pkcs11::new(client.token.module()).unwrap();
    let theirs = beside.open_ro_session(slot_of(&beside, &client.token)).unwrap();
    client.context.clone().finalize().unwrap();
    assert_eq!(code(client.sign()), Some(RvError::CryptokiNotInitialized));
    assert_eq!(client.device.sessions_open(), 0);
    assert!(theirs.get_session_info().is_ok(), "another user's session lives");
    let again = load();
    let session = again.open_ro_session(client.slot).unwrap();
    // Their session has kept the token logged in, as SoftHSM counts logins by process.
    assert!(sign(&session, client.key).is_ok());
    let twice = again.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK));
    assert_eq!(code(twice), Some(RvError::CryptokiAlreadyInitialized));
}

#[test]
fn a_session_of_before_the_last_start_is_refused_and_counted() {
    let client = Client::new();
    client.device.remove_device(Duration::ZERO);
    assert_eq!(code(client.sign()), Some(RvError::SessionHandleInvalid));
    assert_eq!(client.device.strays(), 0, "how else could it learn of the loss");
    client.context.clone().finalize().unwrap();
    let again = load();
    let session = again.open_ro_session(client.slot).unwrap();
    assert_eq!(code(client.sign()), Some(RvError::SessionHandleInvalid));
    assert_eq!(client.device.strays(), 1);
    assert!(session.get_session_info().is_ok());
    assert_eq!((client.device.strays(), client.device.sessions_open()), (1, 1));
}
