//! A folder with a configuration, and the server and clients that use it.

use std::fs::{self, Permissions};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_mintmark");
pub(crate) const ID: &str = "spiffe://example.org/web";

/// How long a start or an end may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A folder with a configuration and software keys.
pub(crate) struct Site {
    folder: TempDir,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self::with("")
    }

    /// With further sections.
    pub(crate) fn with(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let seal = folder.path().join("seal.key");
        fs::write(&seal, [7; 32]).unwrap();
        fs::set_permissions(&seal, Permissions::from_mode(0o600)).unwrap();
        let text = format!(
            "[trust_domain]\nname = \"example.org\"\n\
             [server.admin]\nsocket = \"run/admin.sock\"\n\
             [keys.main]\ntype = \"software\"\ndir = \"keys\"\nseal_key = {{ file = \"seal.key\" }}\n\
             [store]\ndir = \"store\"\n{more}"
        );
        fs::write(folder.path().join("mintmark.toml"), text).unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("run/admin.sock")
    }

    pub(crate) fn server(&self) -> Command {
        let mut command = Command::new(BINARY);
        command.args(["server", "--config"]).arg(self.path("mintmark.toml"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// A server that answers.
    pub(crate) fn start(&self) -> Running {
        let mut running = Running(self.server().spawn().unwrap());
        let end = Instant::now() + PATIENCE;
        while !matches!(self.run(&["healthcheck"]).status.code(), Some(0)) {
            assert!(running.0.try_wait().unwrap().is_none(), "{}", running.log());
            assert!(Instant::now() < end, "the server does not become healthy");
            std::thread::sleep(Duration::from_millis(20));
        }
        running
    }

    /// Runs a client command against the server of this site.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        Command::new(BINARY)
            .args(arguments)
            .env("MINTMARK_SOCKET", self.socket())
            .current_dir(self.folder.path())
            .output()
            .unwrap()
    }

    /// Standard output of a client command that succeeds.
    pub(crate) fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Standard error of a client command that ends with `code`.
    pub(crate) fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        said
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.succeeds(arguments)).unwrap()
    }
}

/// A process that does not outlive its test.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    /// Asks it to end, as a service manager does, and waits: its exit code and its log.
    pub(crate) fn terminate(mut self) -> (Option<i32>, String) {
        self.signal(Signal::TERM);
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return (status.code(), self.log());
            }
            assert!(Instant::now() < end, "the server does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// What it said, once it has ended.
    fn log(&mut self) -> String {
        let mut log = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        log
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `openssl`, which must succeed: its standard output.
pub(crate) fn openssl(arguments: &[&str]) -> String {
    let output = Command::new("openssl").args(arguments).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "openssl {arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
