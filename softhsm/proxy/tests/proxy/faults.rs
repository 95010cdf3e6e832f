//! Faults of single calls.

use std::time::{Duration, Instant};

use cryptoki::error::RvError;
use cryptoki::object::{Attribute, ObjectClass};
use pkcs11_proxy::cryptoki_sys::{
    CKM_ECDSA, CKR_DEVICE_ERROR, CKR_GENERAL_ERROR, CKR_PIN_INCORRECT, CKR_VENDOR_DEFINED,
};
use pkcs11_proxy::{ControlError, Effect, Function, Rule, When};

use crate::client::{Client, code, log_in, make_key, sign, until};

fn on_sign(when: When, effect: Effect) -> Rule {
    Rule { function: Function::Sign, when, effect }
}

#[test]
fn a_chosen_call_fails_with_a_chosen_code_and_the_session_goes_on() {
    let client = Client::new();
    let rule = on_sign(When::From { call: 2, times: 2 }, Effect::Fail(CKR_DEVICE_ERROR));
    let rule = client.device.add(rule).unwrap();
    let answers: Vec<_> = (0..5).map(|_| code(client.sign())).collect();
    let lost = Some(RvError::DeviceError);
    assert_eq!(answers, [None, lost, lost, None, None]);
    assert_eq!(client.device.fired(rule), 2);
    client.device.clear_rules();
    let vendors = on_sign(When::Nth(1), Effect::Fail(CKR_VENDOR_DEFINED | 7));
    client.device.add(vendors).unwrap();
    assert_eq!(code(client.sign()), Some(RvError::VendorDefined(CKR_VENDOR_DEFINED | 7)));
}

#[test]
fn rules_of_several_functions_hold_side_by_side() {
    let client = Client::new();
    let login = Effect::Fail(CKR_PIN_INCORRECT);
    let rule = |function, effect| Rule { function, when: When::Nth(1), effect };
    client.device.add(rule(Function::Login, login)).unwrap();
    client.device.add(rule(Function::SignInit, Effect::Fail(CKR_GENERAL_ERROR))).unwrap();
    client.device.add(rule(Function::OpenSession, Effect::Fail(CKR_DEVICE_ERROR))).unwrap();
    assert_eq!(code(log_in(&client.session, &client.token)), Some(RvError::PinIncorrect));
    assert_eq!(code(client.sign()), Some(RvError::GeneralError));
    assert_eq!(code(client.another_session()), Some(RvError::DeviceError));
    assert_eq!(client.device.sessions_open(), 1);
    assert!(client.sign().is_ok() && client.another_session().is_ok());
}

#[test]
fn there_is_room_for_sixteen_rules() {
    let client = Client::new();
    let rule = on_sign(When::Nth(1), Effect::Corrupt);
    let ids: Vec<_> = (0..16).map(|_| client.device.add(rule).unwrap()).collect();
    assert!(matches!(client.device.add(rule), Err(ControlError::Full(16))));
    client.device.remove(ids[5]);
    assert_eq!(client.device.add(rule).unwrap(), ids[5]);
}

#[test]
fn random_faults_are_the_same_with_the_same_seed() {
    let client = Client::new();
    let run = |seed| {
        client.device.reset();
        client.device.set_seed(seed);
        let rule = on_sign(When::Chance(200_000), Effect::Fail(CKR_DEVICE_ERROR));
        client.device.add(rule).unwrap();
        (0..200).map(|_| client.sign().is_err()).collect::<Vec<_>>()
    };
    let first = run(1);
    let failed = first.iter().filter(|failed| **failed).count();
    assert!((20..60).contains(&failed), "{failed} of 200 at one in five");
    assert_eq!(run(1), first);
    assert_ne!(run(2), first);
}

#[test]
fn a_corrupted_signature_is_wrong_by_one_bit_and_the_next_is_right() {
    let client = Client::new();
    client.device.add(on_sign(When::Every(2), Effect::Corrupt)).unwrap();
    for _ in 0..5 {
        assert!(client.verifies(&client.sign().unwrap()));
        let corrupt = client.sign().unwrap();
        assert!(corrupt.len() == 64 && !client.verifies(&corrupt));
        let flipped = |bit: usize| {
            let mut signature = corrupt.clone();
            signature[bit / 8] ^= 1 << (bit % 8);
            signature
        };
        assert_eq!((0..512).filter(|bit| client.verifies(&flipped(*bit))).count(), 1);
    }
}

#[test]
fn a_lost_answer_leaves_what_was_done() {
    let client = Client::new();
    let lost = Effect::Lose(CKR_DEVICE_ERROR);
    let rule = |function| Rule { function, when: When::Nth(1), effect: lost };
    client.device.add(rule(Function::GenerateKeyPair)).unwrap();
    client.device.add(rule(Function::OpenSession)).unwrap();
    let keys = || {
        let wanted = [Attribute::Class(ObjectClass::PRIVATE_KEY)];
        client.session.find_objects(&wanted).unwrap().len()
    };
    assert_eq!(code(make_key(&client.session)), Some(RvError::DeviceError));
    assert_eq!(keys(), 2, "the key is there all the same");
    assert_eq!(code(client.another_session()), Some(RvError::DeviceError));
    assert_eq!(client.device.sessions_open(), 1, "a session that nobody has is closed");
}

#[test]
fn a_call_hangs_until_it_is_released() {
    let client = Client::new();
    client.device.add(on_sign(When::Nth(2), Effect::Hang(Duration::MAX))).unwrap();
    client.sign().unwrap();
    std::thread::scope(|scope| {
        let session = client.another_session().unwrap();
        let held = scope.spawn(move || sign(&session, client.key).unwrap());
        until(|| client.device.hanging() == 1);
        client.sign().expect("another session is not held");
        assert!(!held.is_finished());
        client.device.release();
        assert!(client.verifies(&held.join().unwrap()));
    });
    assert_eq!(client.device.hanging(), 0);
}

#[test]
fn a_call_hangs_for_its_time() {
    let client = Client::new();
    let time = Duration::from_millis(50);
    client.device.add(on_sign(When::Nth(1), Effect::Hang(time))).unwrap();
    let start = Instant::now();
    client.sign().unwrap();
    assert!(start.elapsed() >= time);
}

#[test]
fn no_more_sessions_than_the_limit_are_opened() {
    let client = Client::new();
    client.device.set_session_limit(3);
    let more: Vec<_> = (0..2).map(|_| client.another_session().unwrap()).collect();
    assert_eq!(code(client.another_session()), Some(RvError::SessionCount));
    drop(more);
    assert!(client.another_session().is_ok());
    client.device.set_session_limit(1);
    assert_eq!(code(client.another_session()), Some(RvError::SessionCount));
    client.device.set_session_limit(0);
    assert!(client.another_session().is_ok());
}

#[test]
fn a_hidden_mechanism_is_not_there() {
    let client = Client::new();
    let listed = || client.context.get_mechanism_list(client.slot).unwrap().len();
    let before = listed();
    client.device.hide_mechanism(CKM_ECDSA).unwrap();
    assert_eq!(listed(), before - 1);
    let ecdsa = cryptoki::mechanism::MechanismType::ECDSA;
    let info = client.context.get_mechanism_info(client.slot, ecdsa);
    assert_eq!(code(info), Some(RvError::MechanismInvalid));
    assert_eq!(code(client.sign()), Some(RvError::MechanismInvalid));
    client.device.reset();
    assert_eq!(listed(), before);
    assert!(client.sign().is_ok());
}
