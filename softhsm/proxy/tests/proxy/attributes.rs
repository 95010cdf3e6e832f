//! Lies about attributes of private keys.

use cryptoki::object::{Attribute, AttributeInfo, AttributeType};
use pkcs11_proxy::Lie;
use pkcs11_proxy::cryptoki_sys::{CKA_ALWAYS_AUTHENTICATE, CKA_EXTRACTABLE, CKA_ID, CKA_LABEL};

use crate::client::Client;

const ASKED: [AttributeType; 3] =
    [AttributeType::AlwaysAuthenticate, AttributeType::Extractable, AttributeType::Sign];

#[test]
fn a_boolean_is_what_the_lie_says() {
    let client = Client::new();
    let read = || client.session.get_attributes(client.key, &ASKED).unwrap();
    let answer = |always, extractable| {
        vec![
            Attribute::AlwaysAuthenticate(always),
            Attribute::Extractable(extractable),
            Attribute::Sign(true),
        ]
    };
    assert_eq!(read(), answer(false, false));
    client.device.lie(CKA_ALWAYS_AUTHENTICATE, Lie::Boolean(true)).unwrap();
    client.device.lie(CKA_EXTRACTABLE, Lie::Boolean(true)).unwrap();
    assert_eq!(read(), answer(true, true));
    client.device.clear_lies();
    assert_eq!(read(), answer(false, false));
}

#[test]
fn a_hidden_attribute_is_unknown_and_the_others_are_read() {
    let client = Client::new();
    client.device.lie(CKA_ALWAYS_AUTHENTICATE, Lie::Hidden).unwrap();
    let read = client.session.get_attributes(client.key, &ASKED).unwrap();
    assert_eq!(read, [Attribute::Extractable(false), Attribute::Sign(true)]);
    let info = client.session.get_attribute_info(client.key, &ASKED).unwrap();
    assert!(matches!(info[0], AttributeInfo::TypeInvalid | AttributeInfo::Unavailable), "{info:?}");
    assert!(matches!(info[1], AttributeInfo::Available(1)), "{info:?}");
}

#[test]
fn a_lie_may_supply_what_the_real_module_does_not_know() {
    let client = Client::new();
    // SoftHSM has no such attribute.
    let vendors = AttributeType::VendorDefined(0x8000_0001);
    let info = || client.session.get_attribute_info(client.key, &[vendors]).unwrap();
    assert!(!matches!(info()[0], AttributeInfo::Available(_)));
    client.device.lie(0x8000_0001, Lie::Boolean(true)).unwrap();
    assert!(matches!(info()[0], AttributeInfo::Available(1)), "{:?}", info());
}

#[test]
fn public_keys_are_not_lied_about() {
    let client = Client::new();
    client.device.lie(CKA_ID, Lie::Hidden).unwrap();
    client.device.lie(CKA_LABEL, Lie::Hidden).unwrap();
    let asked = [AttributeType::Id, AttributeType::Label];
    let read = |object| client.session.get_attributes(object, &asked).unwrap().len();
    assert_eq!((read(client.key), read(client.public)), (0, 2));
}
