//! kryoptic tokens: each test has its own.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;

use peers::kryoptic::Token;

peers::kryoptic_process!();

#[test]
fn every_fresh_token_is_another_one() {
    let made: Vec<Token> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(Token::fresh)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let serials: BTreeSet<&str> = made.iter().map(Token::serial).collect();
    let labels: BTreeSet<&str> = made.iter().map(Token::label).collect();
    let pins: BTreeSet<Vec<u8>> =
        made.iter().map(|token| std::fs::read(token.pin_file()).unwrap()).collect();
    assert_eq!((serials.len(), labels.len(), pins.len()), (8, 8, 8));
}

#[test]
fn the_pin_is_in_a_file_of_the_owner_alone() {
    let token = Token::fresh();
    let mode = std::fs::metadata(token.pin_file()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let pin = std::fs::read_to_string(token.pin_file()).unwrap();
    assert!(!format!("{token:?}").contains(&pin));
}
