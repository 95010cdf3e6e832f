//! OpenBao's own server, with a transit engine, for one test: in memory, on a port of this machine.
//!
//! Every call blocks; a test on an asynchronous runtime with one thread alone holds up only itself.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use zeroize::Zeroizing;

/// How long the server may take until it listens. It takes 0.2 s on an idle machine.
const START: Duration = Duration::from_secs(30);
/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(20);
/// A free port may be taken by someone else before the server has it.
const ATTEMPTS: usize = 5;

/// A running server: initialised, unsealed, with the transit engine at `transit/`. It ends when this is
/// dropped, or with this process, however that ends.
pub struct OpenBao {
    process: Process,
    address: SocketAddr,
    tls_address: Option<SocketAddr>,
    unseal_key: Secret,
    root_token: Secret,
}

/// What nobody may see in a log: a token or an unseal key.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

/// An answer of the server.
#[derive(Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body; `null` if there is none.
    pub body: Value,
}

/// Why there is no server, or no answer.
#[derive(Debug, thiserror::Error)]
pub enum OpenBaoError {
    /// Nobody said where the program is.
    #[error(
        "MINTMARK_TEST_OPENBAO names no program; run `make test`, or `.ci/install openbao` and \
         `set -a; . .ci/env; set +a`"
    )]
    NoProgram,
    /// The server did not come up.
    #[error("the OpenBao server did not start: {0}")]
    NotStarted(String),
    /// The system failed.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The server answered something else than was asked for.
    #[error("OpenBao answered {request} with {status}: {errors}")]
    Refused {
        /// Method and path.
        request: String,
        /// The HTTP status.
        status: u16,
        /// What the server said of it.
        errors: String,
    },
}

type Result<T> = std::result::Result<T, OpenBaoError>;

impl OpenBao {
    /// Starts a server and makes it ready to sign.
    ///
    /// # Errors
    /// See [`OpenBaoError`].
    pub fn start() -> Result<Self> {
        Self::start_with(None)
    }

    /// As [`start`](Self::start), and also listens with TLS, by the certificate and the private key in these
    /// PEM files.
    ///
    /// # Errors
    /// See [`OpenBaoError`].
    pub fn start_with_tls(certificate: &Path, key: &Path) -> Result<Self> {
        Self::start_with(Some((certificate, key)))
    }

    fn start_with(tls: Option<(&Path, &Path)>) -> Result<Self> {
        let (process, address, tls_address) = listen(tls)?;
        let nobody = Secret::from("");
        let request = |method: &str, path: &str, token: &Secret, body: Value| {
            exchange(address, method, path, token, &body)?.expect_good(method, path)
        };
        let shares = json!({ "secret_shares": 1, "secret_threshold": 1 });
        let made = request("PUT", "sys/init", &nobody, shares)?;
        let text = |value: &Value| Secret::from(value.as_str().unwrap_or_default());
        let (unseal_key, root_token) = (text(&made["keys"][0]), text(&made["root_token"]));
        let server = Self { process, address, tls_address, unseal_key, root_token };
        server.unseal()?;
        request("POST", "sys/mounts/transit", &server.root_token, json!({ "type": "transit" }))?;
        Ok(server)
    }

    /// Where it listens: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens with TLS: `https://127.0.0.1:PORT`, if it was started so.
    #[must_use]
    pub fn tls_address(&self) -> Option<String> {
        self.tls_address.map(|address| format!("https://{address}"))
    }

    /// The token that may do everything and never expires.
    #[must_use]
    pub fn root_token(&self) -> &Secret {
        &self.root_token
    }

    /// A new token that lives for `ttl`, in whole seconds, and may be renewed; what it may do is what
    /// `rules` say in OpenBao's policy language ([`signer_rules`]).
    ///
    /// # Errors
    /// See [`OpenBaoError`].
    pub fn token(&self, rules: &str, ttl: Duration) -> Result<Secret> {
        self.token_with(rules, ttl, &[("renewable", true.into())])
    }

    /// As [`token`](Self::token), but it may not be renewed unless `more` says so, in OpenBao's own words for
    /// what a token is: `("explicit_max_ttl", "60s")`, `("type", "batch")`.
    ///
    /// # Errors
    /// See [`OpenBaoError`].
    pub fn token_with(&self, rules: &str, ttl: Duration, more: &[(&str, Value)]) -> Result<Secret> {
        let mut number = [0; 8];
        aws_lc_rs::rand::fill(&mut number)
            .map_err(|_| OpenBaoError::NotStarted("the system gives no random bytes".to_owned()))?;
        let policy = format!("test-{:016x}", u64::from_be_bytes(number));
        self.request("PUT", &format!("sys/policies/acl/{policy}"), json!({ "policy": rules }))?;
        let mut wanted = json!({
            "policies": [policy],
            "ttl": format!("{}s", ttl.as_secs()),
            "renewable": false,
            "no_parent": true,
        });
        for (name, value) in more {
            wanted[name] = value.clone();
        }
        let made = self.request("POST", "auth/token/create", wanted)?;
        Ok(Secret::from(made["auth"]["client_token"].as_str().unwrap_or_default()))
    }

    /// Ends a token at once.
    ///
    /// # Errors
    /// See [`OpenBaoError`].
    pub fn revoke(&self, token: &Secret) -> Result<()> {
        self.request("POST", "auth/token/revoke", json!({ "token": token.expose() })).map(drop)
    }

    /// Seals the server: it answers 503 to everything until it is unsealed.
    ///
    /// # Errors
    /// See [`OpenBaoError`].
    pub fn seal(&self) -> Result<()> {
        self.request("PUT", "sys/seal", Value::Null).map(drop)
    }

    /// Unseals the server: it signs again when this returns.
    ///
    /// # Errors
    /// See [`OpenBaoError`].
    pub fn unseal(&self) -> Result<()> {
        self.request("PUT", "sys/unseal", json!({ "key": self.unseal_key.expose() })).map(drop)
    }

    /// Makes a key of a type that transit knows, such as `ecdsa-p256`. A name that is taken keeps its
    /// key, whatever its type.
    ///
    /// # Errors
    /// See [`OpenBaoError`].
    pub fn create_key(&self, name: &str, key_type: &str) -> Result<Value> {
        self.request("POST", &format!("transit/keys/{name}"), json!({ "type": key_type }))
    }

    /// Adds a version to a key.
    ///
    /// # Errors
    /// See [`OpenBaoError`].
    pub fn rotate_key(&self, name: &str) -> Result<Value> {
        self.request("POST", &format!("transit/keys/{name}/rotate"), json!({}))
    }

    /// Changes settings of a key, such as `deletion_allowed` or `min_encryption_version`, the lowest
    /// version that signs.
    ///
    /// # Errors
    /// See [`OpenBaoError`].
    pub fn configure_key(&self, name: &str, settings: Value) -> Result<Value> {
        self.request("POST", &format!("transit/keys/{name}/config"), settings)
    }

    /// Removes the versions of a key below `version` for good. The lowest versions that sign and verify
    /// are set to it first, as transit wants it.
    ///
    /// # Errors
    /// See [`OpenBaoError`].
    pub fn trim_key(&self, name: &str, version: u32) -> Result<Value> {
        let lowest =
            json!({ "min_decryption_version": version, "min_encryption_version": version });
        self.configure_key(name, lowest)?;
        let trimmed = json!({ "min_available_version": version });
        self.request("POST", &format!("transit/keys/{name}/trim"), trimmed)
    }

    /// One request with the root token; the body of a good answer. `path` begins after `/v1/`.
    ///
    /// # Errors
    /// [`OpenBaoError::Refused`] if the status is not 2xx.
    pub fn request(&self, method: &str, path: &str, body: Value) -> Result<Value> {
        self.request_as(&self.root_token, method, path, body)?.expect_good(method, path)
    }

    /// One request with another token; whatever the server answers.
    ///
    /// # Errors
    /// [`OpenBaoError::System`] if there is no answer.
    pub fn request_as(
        &self,
        token: &Secret,
        method: &str,
        path: &str,
        body: Value,
    ) -> Result<Answer> {
        exchange(self.address, method, path, token, &body)
    }
}

impl fmt::Debug for OpenBao {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenBao({}, process {})", self.address, self.process.0.id())
    }
}

/// The rules of a service that signs with the keys whose names begin with `prefix`, reads and lists
/// them; with `create`, also makes them.
#[must_use]
pub fn signer_rules(prefix: &str, create: bool) -> String {
    // Transit has no existence check: whoever makes a key needs `update`.
    let keys = if create { r#"["read", "update"]"# } else { r#"["read"]"# };
    format!(
        r#"path "transit/sign/{prefix}*" {{ capabilities = ["update"] }}
           path "transit/keys/{prefix}*" {{ capabilities = {keys} }}
           path "transit/keys" {{ capabilities = ["list"] }}"#
    )
}

impl Secret {
    /// The text itself, for a header or a file.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Answer {
    /// What the server says went wrong, in one line; empty if nothing did.
    #[must_use]
    pub fn errors(&self) -> String {
        let said = self.body["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
        let lines = said.iter().filter_map(Value::as_str).flat_map(str::lines);
        lines.map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
    }

    fn expect_good(self, method: &str, path: &str) -> Result<Value> {
        if (200..300).contains(&self.status) {
            return Ok(self.body);
        }
        let request = format!("{method} {path}");
        Err(OpenBaoError::Refused { request, status: self.status, errors: self.errors() })
    }
}

/// A body may hold a token, so only its fields' names are shown.
impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields: Vec<&String> =
            self.body.as_object().into_iter().flat_map(|o| o.keys()).collect();
        write!(f, "Answer({} {fields:?} {})", self.status, self.errors())
    }
}

/// The server behind a shell that ends it when its own input ends: when the `Child` is dropped, and when
/// this process dies, even by a signal that cannot be caught.
struct Process(Child);

/// `$0` is the program, `$1` its configuration. The shell lets go of its output, so that the output ends
/// with the server.
const GUARD: &str = r#""$0" server -config="$1" 2>&1 & exec >/dev/null 2>&1
read -r _; kill -9 $!; wait"#;

impl Process {
    fn start(program: &Path, configuration: &Path) -> Result<(Self, ChildStdout)> {
        let mut command = Command::new("sh");
        command.args(["-c", GUARD]).arg(program).arg(configuration);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(failed_to("start a shell"))?;
        let output = child.stdout.take().expect("its output was asked for");
        Ok((Self(child), output))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // A failure means that it is gone.
        let _ = self.0.wait();
    }
}

/// A server that listens.
fn listen(tls: Option<(&Path, &Path)>) -> Result<(Process, SocketAddr, Option<SocketAddr>)> {
    let program = std::env::var_os("MINTMARK_TEST_OPENBAO").map(PathBuf::from);
    let program = program.filter(|path| path.is_file()).ok_or(OpenBaoError::NoProgram)?;
    let mut said = String::new();
    for _ in 0..ATTEMPTS {
        let address = free_address()?;
        let mut listeners = listener(address, "tls_disable = true");
        let tls_address = tls.map(|_| free_address()).transpose()?;
        if let (Some((certificate, key)), Some(address)) = (tls, tls_address) {
            let (certificate, key) = (certificate.display(), key.display());
            let files = format!("tls_cert_file = \"{certificate}\"\n  tls_key_file = \"{key}\"");
            listeners.push_str(&listener(address, &files));
        }
        let configuration = Configuration::write(address, &listeners)?;
        let (process, output) = Process::start(&program, &configuration.0)?;
        match wait_until_started(output) {
            Ok(()) => return Ok((process, address, tls_address)),
            Err(last) if last.contains("address already in use") => said = last,
            Err(last) => return Err(OpenBaoError::NotStarted(last)),
        }
    }
    Err(OpenBaoError::NotStarted(said))
}

fn listener(address: SocketAddr, tls: &str) -> String {
    format!("listener \"tcp\" {{\n  address = \"{address}\"\n  {tls}\n}}\n")
}

fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|it| it.local_addr());
    listener.map_err(failed_to("find a free port"))
}

/// The server's configuration file; it is read once, so it is removed when this is dropped.
struct Configuration(PathBuf);

impl Configuration {
    fn write(address: SocketAddr, listeners: &str) -> Result<Self> {
        let name = format!("mintmark-openbao-{}-{}.hcl", std::process::id(), address.port());
        let path = std::env::temp_dir().join(name);
        let content =
            format!("storage \"inmem\" {{}}\n{listeners}api_addr = \"http://{address}\"\n");
        std::fs::write(&path, content)
            .map_err(failed_to(&format!("write {}", path.display())))
            .map(|()| Self(path))
    }
}

impl Drop for Configuration {
    fn drop(&mut self) {
        // One that stays behind is a few bytes in the folder for them.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Waits for the line that follows the binding of the port; on failure, the last thing the server said.
/// It says so itself, so nobody else's server on that port is taken for it.
fn wait_until_started(output: ChildStdout) -> std::result::Result<(), String> {
    let (sender, started) = mpsc::channel();
    thread::spawn(move || {
        let mut last = String::new();
        for line in BufReader::new(output).lines().map_while(std::io::Result::ok) {
            if line.contains("server started!") {
                // Goes on reading, so that the server never waits for its log to be taken.
                let _ = sender.send(Ok(()));
            }
            if !line.trim().is_empty() {
                last = line;
            }
        }
        let _ = sender.send(Err(last));
    });
    match started.recv_timeout(START) {
        Ok(outcome) => outcome,
        Err(RecvTimeoutError::Timeout) => Err(format!("it said nothing for {START:?}")),
        Err(RecvTimeoutError::Disconnected) => Err("its output was lost".to_owned()),
    }
}

/// One request on a connection of its own. HTTP/1.0, so that the body ends with the connection.
fn exchange(
    address: SocketAddr,
    method: &str,
    path: &str,
    token: &Secret,
    body: &Value,
) -> Result<Answer> {
    let failed = |source| failed_to(&format!("ask OpenBao for {method} {path}"))(source);
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let request = Zeroizing::new(format!(
        "{method} /v1/{path} HTTP/1.0\r\nHost: {address}\r\nX-Vault-Token: {}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        token.expose(),
        body.len()
    ));
    let mut stream = TcpStream::connect_timeout(&address, REQUEST).map_err(failed)?;
    let mut answer = Vec::new();
    stream
        .set_read_timeout(Some(REQUEST))
        .and_then(|()| stream.set_write_timeout(Some(REQUEST)))
        .and_then(|()| stream.write_all(request.as_bytes()))
        .and_then(|()| stream.read_to_end(&mut answer))
        .map_err(failed)?;
    parse(&answer).ok_or_else(|| failed(std::io::Error::other("the answer is no HTTP")))
}

fn parse(answer: &[u8]) -> Option<Answer> {
    let text = std::str::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, body: serde_json::from_str(body).unwrap_or(Value::Null) })
}

fn failed_to(action: &str) -> impl FnOnce(std::io::Error) -> OpenBaoError + use<> {
    let action = action.to_owned();
    move |source| OpenBaoError::System { action, source }
}
