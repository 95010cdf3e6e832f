//! A device that goes and comes back.

use std::time::{Duration, Instant};

use cryptoki::error::RvError;
use cryptoki::object::{Attribute, ObjectClass};
use pkcs11_proxy::Function;
use pkcs11_proxy::cryptoki_sys::CKR_TOKEN_NOT_PRESENT;

use crate::client::{Client, code, load, log_in, sign, slot_of, until};

#[test]
fn a_device_that_is_away_refuses_every_call_and_shows_no_token() {
    let client = Client::new();
    client.device.remove_device(Duration::MAX);
    let gone = Some(RvError::DeviceRemoved);
    assert_eq!(code(client.sign()), gone);
    assert_eq!(code(client.another_session()), gone);
    assert_eq!(code(client.session.find_objects(&[])), gone);
    assert_eq!(code(client.context.get_token_info(client.slot)), gone);
    assert_eq!(client.context.get_slots_with_token().unwrap(), []);
    assert_eq!(client.device.sessions_open(), 0);
    client.device.set_removal_code(CKR_TOKEN_NOT_PRESENT);
    assert_eq!(code(client.sign()), Some(RvError::TokenNotPresent));
}

#[test]
fn sessions_and_login_do_not_come_back_with_the_device() {
    let client = Client::new();
    client.device.remove_device(Duration::from_millis(100));
    assert_eq!(code(client.sign()), Some(RvError::DeviceRemoved));
    until(|| code(client.sign()) == Some(RvError::SessionHandleInvalid));
    let session = client.context.open_ro_session(slot_of(&client.context, &client.token)).unwrap();
    assert!(sign(&session, client.key).is_err(), "nobody is logged in");
    log_in(&session, &client.token).unwrap();
    let again = session.find_objects(&[]).unwrap();
    assert!(again.iter().any(|object| sign(&session, *object).is_ok()));
}

#[test]
fn a_removal_that_no_call_saw_costs_the_sessions_all_the_same() {
    let client = Client::new();
    client.device.remove_device(Duration::ZERO);
    assert_eq!(code(client.sign()), Some(RvError::SessionHandleInvalid));
    assert_eq!(client.device.sessions_open(), 0);
    client.device.remove_device(Duration::MAX);
    client.device.restore_device();
    assert!(client.another_session().is_ok());
}

#[test]
fn a_library_may_need_a_new_start_after_a_removal() {
    let client = Client::new();
    client.device.set_needs_initialize(true);
    let gone = Some(RvError::DeviceRemoved);
    client.device.remove_device(Duration::MAX);
    client.context.clone().finalize().unwrap();
    let early = load();
    assert_eq!(code(early.open_ro_session(client.slot)), gone, "it is away still");
    client.device.restore_device();
    assert_eq!(code(early.open_ro_session(client.slot)), gone, "it was started while away");
    early.finalize().unwrap();
    assert!(load().open_ro_session(client.slot).is_ok());
    assert_eq!(client.device.calls(Function::Initialize), 2);
    assert_eq!(client.device.calls(Function::Finalize), 2);
}

#[test]
fn a_call_under_way_is_refused_when_the_device_goes() {
    let client = Client::new();
    client.device.set_latency(Function::Sign, Duration::from_millis(200));
    std::thread::scope(|scope| {
        let session = client.another_session().unwrap();
        let busy = scope.spawn(move || code(sign(&session, client.key)));
        until(|| client.device.signing() == 1);
        client.device.remove_device(Duration::from_secs(5));
        assert_eq!(busy.join().unwrap(), Some(RvError::DeviceRemoved));
    });
}

/// Six threads that sign, and open a session anew whenever that fails, while `disturb` is called again
/// and again for two seconds.
fn sign_amid(client: &Client, disturb: impl Fn()) {
    let (context, slot, token) = (&client.context, client.slot, &client.token);
    let wanted = [Attribute::Class(ObjectClass::PRIVATE_KEY)];
    let end = Instant::now() + Duration::from_secs(2);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while Instant::now() < end {
                    let Ok(session) = context.open_ro_session(slot) else { continue };
                    // Another thread may have logged in, or the device may be gone again.
                    let _ = log_in(&session, token);
                    // The handles of private keys ended with the login.
                    let found = session.find_objects(&wanted).unwrap_or_default();
                    let [key] = found[..] else { continue };
                    while sign(&session, key).is_ok() && Instant::now() < end {}
                }
            });
        }
        while Instant::now() < end {
            std::thread::sleep(Duration::from_millis(7));
            disturb();
        }
    });
    let signed = client.device.calls(Function::Sign);
    assert!(signed > 1_000, "{signed}");
}

#[test]
fn removals_amid_signing_threads_leave_no_session_behind() {
    let client = Client::new();
    sign_amid(&client, || client.device.remove_device(Duration::from_millis(3)));
    client.device.remove_device(Duration::ZERO);
    let _ = client.sign();
    assert_eq!(client.device.sessions_open(), 0);
    let session = client.another_session().unwrap();
    log_in(&session, &client.token).unwrap();
}

#[test]
fn restarts_amid_signing_threads_leave_no_session_behind() {
    let client = Client::new();
    sign_amid(&client, || {
        client.context.clone().finalize().unwrap();
        load();
    });
    assert_eq!(client.device.sessions_open(), 0);
    assert!(client.device.strays() > 0, "these threads do not wait for each other");
    log_in(&client.another_session().unwrap(), &client.token).unwrap();
}
