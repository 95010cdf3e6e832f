//! A place where a server is run as it ships: a folder with its configuration, keys, state and socket.

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::rc::Rc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ca_core::log::entry::Entry;
use ca_core::log::records::Segment;
use peers::openbao::{OpenBao, signer_rules};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::token::Token;

/// Every server here speaks for this one.
pub(crate) const TRUST_DOMAIN: &str = "example.org";

/// How long a server may take to be ready, or to end: a token that makes RSA keys on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder of its own, gone at the end.
pub(crate) struct Site {
    folder: TempDir,
    /// The text of `mintmark.toml`; a test may change it before it starts a server.
    pub(crate) configuration: String,
    /// The command that starts a server here.
    pub(crate) role: &'static str,
    /// Variables of the server's environment.
    pub(crate) variables: Vec<(&'static str, String)>,
    token: Option<Token>,
    /// Texts that no output may hold.
    secrets: Secrets,
}

impl Site {
    /// Keys go to a fresh SoftHSM token, labelled "mintmark".
    pub(crate) fn with_token() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let token = Token::make(&folder.path().join("token"));
        let keys = format!(
            "[keys.hsm]\ntype = \"pkcs11\"\nmodule = \"{}\"\ntoken = \"mintmark\"\n\
             pin = {{ file = \"token/pin\" }}\n",
            token.module
        );
        let secrets = Secrets::new([token.pin.clone()]);
        let variables = vec![("SOFTHSM2_CONF", token.configuration.clone())];
        let configuration = configuration(&keys);
        Self { folder, configuration, role: "server", variables, token: Some(token), secrets }
    }

    /// Keys go to sealed files.
    pub(crate) fn with_sealed_keys() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut seal = [0; 32];
        aws_lc_rs::rand::fill(&mut seal).unwrap();
        write_private(&folder.path().join("seal.key"), &seal);
        let hexadecimal = seal.iter().map(|byte| format!("{byte:02x}")).collect();
        let secrets = Secrets::new([hexadecimal, STANDARD.encode(seal)]);
        let keys = "[keys.files]\ntype = \"software\"\ndir = \"keys\"\n\
                    seal_key = { file = \"seal.key\" }\n";
        Self {
            folder,
            configuration: configuration(keys),
            role: "server",
            variables: Vec::new(),
            token: None,
            secrets,
        }
    }

    /// Keys go to the transit engine of this server, which sees a token of its rules for a service.
    pub(crate) fn with_transit(server: &OpenBao) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let rules = signer_rules("mintmark.example.org.", true);
        let token = server.token(&rules, Duration::from_secs(3600)).unwrap();
        write_private(&folder.path().join("vault-token"), token.expose().as_bytes());
        let keys = format!(
            "[keys.vault]\ntype = \"transit\"\naddress = \"{}\"\n\
             access_token = {{ file = \"vault-token\" }}\n",
            server.address()
        );
        let (configuration, variables) = (configuration(&keys), Vec::new());
        let secrets = Secrets::new([token.expose().to_owned()]);
        Self { folder, configuration, role: "server", variables, token: None, secrets }
    }

    /// The token of [`with_token`](Self::with_token).
    pub(crate) fn token(&self) -> &Token {
        self.token.as_ref().expect("the site has a token")
    }

    /// A name in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A text that no output of this site may hold from now on.
    pub(crate) fn keep_secret(&self, text: &str) {
        self.secrets.0.borrow_mut().push(text.to_owned());
    }

    /// Searches something that a server told for texts that no output may hold.
    #[track_caller]
    pub(crate) fn assert_tells_no_secret(&self, text: &str) {
        self.secrets.assert_none_in(text);
    }

    /// Changes a text of the configuration that must be there.
    pub(crate) fn set(&mut self, from: &str, to: &str) {
        assert!(self.configuration.contains(from), "{from:?} is not in {}", self.configuration);
        self.configuration = self.configuration.replace(from, to);
    }

    /// Starts a server and waits until it is healthy.
    pub(crate) fn start(&self) -> Server {
        let mut server = self.spawn();
        let limit = Instant::now() + PATIENCE;
        while UnixStream::connect(self.path("admin.sock")).is_err() {
            let ended = server.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < limit, "{ended:?}: {}", server.log());
            sleep(Duration::from_millis(10));
        }
        self.mintmark(&["healthcheck"]).succeeded();
        server
    }

    /// Makes it a signer that serves front ends, and gives the address.
    pub(crate) fn serve_front_ends(&mut self) -> String {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        self.configuration.push_str(&format!("[signer]\nlisten = \"{address}\"\n"));
        self.role = "signer";
        address
    }

    /// Starts a server and does not wait.
    pub(crate) fn spawn(&self) -> Server {
        let log = self.path("log");
        let file = OpenOptions::new().append(true).create(true).open(&log).unwrap();
        let mut command = self.command(&self.server_arguments());
        let child = command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Server { child, log, secrets: self.secrets.clone() }
    }

    /// Runs a server that must not come up; it is ended if it does.
    pub(crate) fn refused_start(&self) -> Run {
        self.refused(self.command(&self.server_arguments()))
    }

    /// As [`refused_start`](Self::refused_start), by a program that starts the one that its last arguments name.
    pub(crate) fn refused_start_by(&self, program: &str, arguments: &[&str]) -> Run {
        let mut command = Command::new(program);
        command.args(arguments).arg(BINARY).args(self.server_arguments());
        self.prepare(&mut command);
        self.refused(command)
    }

    fn refused(&self, mut command: Command) -> Run {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        if wait(&mut child).is_none() {
            child.kill().unwrap();
        }
        // The few lines of a start fit into the pipes.
        self.run(child.wait_with_output().unwrap())
    }

    fn server_arguments(&self) -> Vec<String> {
        let path = self.path("mintmark.toml");
        fs::write(&path, &self.configuration).unwrap();
        vec![self.role.to_owned(), "--config".to_owned(), path.to_str().unwrap().to_owned()]
    }

    /// Runs a command of the binary in the folder, against the server that runs here.
    pub(crate) fn mintmark(&self, arguments: &[&str]) -> Run {
        self.run(self.command(arguments).output().unwrap())
    }

    /// Runs `mintmark key` with these arguments on the site's configuration.
    pub(crate) fn key(&self, arguments: &[&str]) -> Run {
        self.run(self.key_command(arguments).output().unwrap())
    }

    /// What [`key`](Self::key) runs.
    pub(crate) fn key_command(&self, arguments: &[&str]) -> Command {
        let path = self.path("mintmark.toml");
        fs::write(&path, &self.configuration).unwrap();
        let config = ["--config", path.to_str().unwrap()];
        self.command(&[&["key"], arguments, &config].concat())
    }

    /// The binary with these arguments, in the folder.
    pub(crate) fn command(&self, arguments: &[impl AsRef<std::ffi::OsStr>]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(arguments);
        self.prepare(&mut command);
        command
    }

    fn prepare(&self, command: &mut Command) {
        command
            .current_dir(self.folder.path())
            .env("MINTMARK_SOCKET", self.path("admin.sock"))
            .env_remove("SOFTHSM2_CONF")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
    }

    /// What a run left behind, once it has been searched for secrets.
    pub(crate) fn run(&self, output: Output) -> Run {
        let run = Run {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        };
        self.secrets.assert_none_in(&run.out);
        self.secrets.assert_none_in(&run.err);
        run
    }

    /// `bundle show` as JSON: authorities, sequence number, kid.
    pub(crate) fn bundle(&self) -> Value {
        json(&self.mintmark(&["bundle", "show", "--output", "json"]).succeeded())
    }

    /// Mints a JWT-SVID for a workload of the trust domain; the token is a secret from then on.
    pub(crate) fn jwt(&self, audience: &str) -> String {
        let arguments = ["jwt", "mint", "--spiffe-id", WORKLOAD, "--audience", audience];
        let token = self.mintmark(&arguments).succeeded().trim_end().to_owned();
        self.keep_secret(&token);
        token
    }
}

/// What an issuance log holds, in its order.
pub(crate) fn entries(log: &Path) -> Vec<Entry> {
    let mut entries = Vec::new();
    for segment in Segment::list(log).unwrap() {
        let content = segment.read().unwrap();
        for block in segment.blocks(&content) {
            let (_, block) = block.unwrap();
            entries.extend(block.entries().map(|entry| Entry::decode(entry).unwrap()));
        }
    }
    entries
}

/// The workload that most SVIDs here are for.
pub(crate) const WORKLOAD: &str = "spiffe://example.org/shop/web";

/// What is tested.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_mintmark");

fn configuration(keys: &str) -> String {
    format!(
        "[trust_domain]\nname = \"{TRUST_DOMAIN}\"\n[server]\nlog_level = \"trace\"\n\
         [server.admin]\nsocket = \"admin.sock\"\n{keys}[store]\ndir = \"store\"\n"
    )
}

/// Texts that no output of a site may hold, shared with the servers that run there.
#[derive(Clone)]
struct Secrets(Rc<RefCell<Vec<String>>>);

impl Secrets {
    fn new<const N: usize>(texts: [String; N]) -> Self {
        Self(Rc::new(RefCell::new(texts.into())))
    }

    #[track_caller]
    fn assert_none_in(&self, text: &str) {
        for secret in self.0.borrow().iter().map(String::as_str).chain(["PRIVATE KEY"]) {
            assert!(!text.contains(secret), "a secret is in the output: {text}");
        }
    }
}

/// A server that runs, ended at the latest when this is dropped.
pub(crate) struct Server {
    child: Child,
    log: PathBuf,
    secrets: Secrets,
}

impl Server {
    /// Asks it to end as a service manager does, and searches its log for secrets.
    pub(crate) fn stop(self) -> String {
        self.end(Signal::TERM)
    }

    /// Ctrl-C in a terminal.
    pub(crate) fn interrupt(self) -> String {
        self.end(Signal::INT)
    }

    fn end(mut self, signal: Signal) -> String {
        kill_process(self.pid(), signal).unwrap();
        let status = wait(&mut self.child).expect("the server ends when it is asked to");
        let log = self.log();
        assert!(status.success(), "{status}: {log}");
        self.secrets.assert_none_in(&log);
        log
    }

    /// Crashes it, and gives how it ended and its log, searched for secrets.
    pub(crate) fn crash(mut self) -> (ExitStatus, String) {
        kill_process(self.pid(), Signal::ABORT).unwrap();
        let status = wait(&mut self.child).expect("nobody outlives SIGABRT");
        let log = self.log();
        self.secrets.assert_none_in(&log);
        (status, log)
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended already where the test has come to its end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until a child ends, or gives up.
pub(crate) fn wait(child: &mut Child) -> Option<ExitStatus> {
    let limit = Instant::now() + PATIENCE;
    while Instant::now() < limit {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        sleep(Duration::from_millis(10));
    }
    None
}

/// How a command of the binary ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Run {
    /// Standard output, if the run ended with 0 and had nothing to complain of.
    #[track_caller]
    pub(crate) fn succeeded(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.err);
        assert_eq!(self.err, "");
        self.out
    }

    /// Standard error, if the run ended with `code` and printed no result.
    #[track_caller]
    pub(crate) fn failed(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.err);
        assert_eq!(self.out, "");
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self.err
    }

    /// As [`failed`](Self::failed), with every one of these texts in it.
    #[track_caller]
    pub(crate) fn failed_saying(self, code: i32, texts: &[&str]) {
        let err = self.failed(code);
        for text in texts {
            assert!(err.contains(text), "{text:?} is not in: {err}");
        }
    }
}

/// Writes a file that only its owner can read.
pub(crate) fn write_private(path: &Path, content: &[u8]) {
    let mut file = File::create(path).unwrap();
    file.set_permissions(Permissions::from_mode(0o600)).unwrap();
    file.write_all(content).unwrap();
}

/// Reads JSON.
pub(crate) fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}
