//! A directory that is kept between processes, as `mintmark dev --dir` does. No test harness: the
//! environment has to be set by a process with one thread.

#![expect(clippy::unwrap_used, reason = "a test: the message is the line")]

use std::path::{Path, PathBuf};
use std::process::Command;

use softhsm::{Token, environment};

fn main() {
    if let Some(directory) = std::env::args().nth(1).filter(|path| path.starts_with('/')) {
        return as_dev(Path::new(&directory));
    }
    // Two processes, one after the other, on one directory.
    let directory = tempfile::tempdir().unwrap();
    let run = || {
        let program = std::env::current_exe().unwrap();
        let output = Command::new(program).arg(directory.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let first = run();
    assert_eq!(run(), first, "the second process finds the token of the first");
    assert_a_stranger_sees_it(directory.path(), &String::from_utf8(first).unwrap());
}

#[expect(clippy::print_stdout, reason = "the answer of this program to the one that started it")]
fn as_dev(directory: &Path) {
    environment::configure(directory).unwrap();
    let token = match Token::open(directory).unwrap() {
        Some(token) => token,
        None => Token::create(directory, "kept").unwrap(),
    };
    print!("{} {}", token.label(), token.serial());
}

fn assert_a_stranger_sees_it(directory: &Path, label_and_serial: &str) {
    let configuration: PathBuf = directory.join("softhsm2.conf");
    let shown = Command::new("softhsm2-util")
        .arg("--show-slots")
        .env("SOFTHSM2_CONF", configuration)
        .output()
        .expect("softhsm2-util is installed; run: apt-get install softhsm2");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let (label, serial) = label_and_serial.split_once(' ').unwrap();
    assert!(shown.contains(label) && shown.contains(serial), "{shown}");
}
