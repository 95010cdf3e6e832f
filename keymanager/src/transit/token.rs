//! The token by which the server knows us: renewed before it ends, read again when it is refused.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Weak;
use std::time::Duration;

use bytes::Bytes;
use ca_core::key::KeyError;
use hyper::Method;
use hyper::header::HeaderValue;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use super::http::Server;
use crate::blocking;
use crate::remote::wire::{Class, WireError};
use crate::secret::{SecretSource, trim_line_end};

/// The shortest time between two looks at the token's source because of a refusal.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The shortest time before a renewal, and before a further try of one.
const SHORTEST: Duration = Duration::from_millis(500);
/// How often a token without an end is looked at, in case it was replaced.
const ENDLESS: Duration = Duration::from_secs(300);
/// How often one that has ended, or whose end is not known, is looked at.
const ENDED: Duration = Duration::from_secs(15);
/// The server tells ends in whole seconds: one that is later by no more is the same.
const ROUNDING: Duration = Duration::from_secs(1);

/// The token of now, and where the next one comes from.
pub(super) struct Tokens {
    source: SecretSource,
    /// Wakes who keeps it alive when another takes its place.
    current: watch::Sender<Token>,
    /// One caller at a time looks for another; holds when that was done last for each path, and what came of it.
    looked: tokio::sync::Mutex<BTreeMap<String, (Instant, WireError)>>,
}

/// What was asked of the engine and refused.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) method: &'a Method,
    /// Begins with the mount.
    pub(super) path: &'a str,
    pub(super) mount: &'a str,
}

/// A token, wiped when the last request with it has ended.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) header: HeaderValue,
    /// Grows with each token that replaces another.
    generation: u64,
}

impl Tokens {
    /// Reads the token.
    pub(super) async fn read(source: SecretSource) -> Result<Self, KeyError> {
        let header = read(&source).await?;
        let current = watch::Sender::new(Token { header, generation: 0 });
        Ok(Self { source, current, looked: tokio::sync::Mutex::default() })
    }

    /// The token of now.
    pub(super) fn current(&self) -> Token {
        self.current.borrow().clone()
    }

    /// The token of now, and each that takes its place.
    pub(super) fn watch(&self) -> watch::Receiver<Token> {
        self.current.subscribe()
    }

    /// Another token than the one that was refused.
    ///
    /// # Errors
    /// What is wrong with the only one that there is: it has ended, or it may not do this.
    pub(super) async fn instead_of(
        &self,
        refused: &Token,
        server: &Server,
        asked: Asked<'_>,
        refusal: WireError,
    ) -> Result<Token, WireError> {
        let mut looked = self.looked.lock().await;
        let current = self.current();
        if current.generation != refused.generation {
            return Ok(current);
        }
        looked.retain(|_, (at, _)| at.elapsed() < LOOK_EVERY);
        if let Some((_, error)) = looked.get(asked.path) {
            return Err(WireError {
                reason: format!("{}{}", refusal.reason, error.reason),
                ..error.clone()
            });
        }
        let error = match self.replace().await {
            Ok(true) => return Ok(self.current()),
            Ok(false) => self.diagnose(server, &current, asked).await,
            Err(error) => WireError::new(Class::Credentials, "403", format!("; {error}")),
        };
        looked.insert(asked.path.to_owned(), (Instant::now(), error.clone()));
        Err(WireError { reason: format!("{}{}", refusal.reason, error.reason), ..error })
    }

    /// Reads the source; says whether there is another token.
    async fn replace(&self) -> Result<bool, KeyError> {
        let header = read(&self.source).await?;
        let replaced = self.current.send_if_modified(|current| {
            if current.header == header {
                return false;
            }
            *current = Token { header, generation: current.generation + 1 };
            true
        });
        if replaced {
            tracing::info!(source = %self.source, "took a new token");
        }
        Ok(replaced)
    }

    /// Whether a token that was refused lives, and what it lacks; the rest of the reason.
    async fn diagnose(&self, server: &Server, token: &Token, asked: Asked<'_>) -> WireError {
        match lease(server, token, Instant::now()).await {
            Ok(_) => {
                let lack = asked.lack(server, token).await;
                WireError::new(Class::Refused, "403", format!("; the token is good, but {lack}"))
            }
            Err(error) if error.class == Class::Credentials => {
                let reason = format!("; the token has ended: put a new one into {}", self.source);
                WireError::new(Class::Credentials, "token ended", reason)
            }
            Err(error) => WireError { reason: format!("; {}", error.reason), ..error },
        }
    }
}

impl Asked<'_> {
    /// What keeps a good token from this. A mount that is not there is refused as one that a policy leaves out,
    /// so it shows by nothing being allowed there at all.
    async fn lack(self, server: &Server, token: &Token) -> String {
        let path = self.path.split('?').next().unwrap_or_default();
        let needed = match *self.method {
            Method::GET if self.path.ends_with("list=true") => "list",
            Method::GET => "read",
            Method::DELETE => "delete",
            _ => "update",
        };
        let mount = self.mount;
        let rule = format!("path \"{path}\" {{ capabilities = [\"{needed}\"] }}");
        let keys = format!("{mount}/keys");
        let allowed = capabilities(server, token, [path, &keys]).await.unwrap_or_default();
        let at = |path: &str| allowed.get(path).map(Vec::as_slice).unwrap_or_default();
        let is_allowed = |said: &[String]| said.iter().any(|one| one != "deny");
        if is_allowed(at(path)) {
            let said = at(path).join(", ");
            return format!(
                "its policy allows {said} on {path} and not {needed}: extend it to {rule}"
            );
        }
        if is_allowed(at(&keys)) {
            return format!("its policy does not allow this: extend it by {rule}");
        }
        format!(
            "its policy does not allow this: extend it by {rule}, or correct the mount if the engine is not at \
             {mount}/ (the server refuses both alike)"
        )
    }
}

/// What a token may do on paths; by path.
async fn capabilities(
    server: &Server,
    token: &Token,
    paths: [&str; 2],
) -> Result<BTreeMap<String, Vec<String>>, WireError> {
    #[derive(Deserialize)]
    struct Capabilities(BTreeMap<String, Vec<String>>);
    let (header, body) = (Some(&token.header), serde_json::json!({ "paths": paths }));
    let answer = server.ask(Method::POST, "sys/capabilities-self", header, Some(&body)).await?;
    answer.data::<Capabilities>("ask what the token may do").map(|Capabilities(said)| said)
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({})", self.source)
    }
}

async fn read(source: &SecretSource) -> Result<HeaderValue, KeyError> {
    let source = source.clone();
    blocking::run(&source.to_string(), move || {
        let secret = source.read()?;
        let token = Zeroizing::new(trim_line_end(&secret).to_vec());
        if token.is_empty() {
            return Err(source.unusable("it is empty; put a token there".to_owned()));
        }
        // The header shares these bytes, which are wiped with its last clone.
        let mut header =
            HeaderValue::from_maybe_shared(Bytes::from_owner(token)).map_err(|_| {
                source.unusable(
                    "it is no token: it holds line ends or other control characters".to_owned(),
                )
            })?;
        header.set_sensitive(true);
        Ok(header)
    })
    .await
}

/// How long a token lives, and whether it can be renewed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lease {
    /// Of the token that it is about.
    generation: u64,
    life: Life,
    renewable: bool,
}

#[derive(Debug, Clone, Copy)]
enum Life {
    Endless,
    Until(Instant),
    /// The server has not told.
    Unknown,
}

#[derive(Deserialize)]
struct LookUp {
    #[serde(default)]
    ttl: u64,
    #[serde(default)]
    renewable: bool,
    expire_time: Option<String>,
}

#[derive(Deserialize)]
struct Renewal {
    auth: Renewed,
}

#[derive(Deserialize)]
struct Renewed {
    lease_duration: u64,
    renewable: bool,
}

/// Asks how long a token lives; one that does not live is refused.
pub(super) async fn lease(
    server: &Server,
    token: &Token,
    now: Instant,
) -> Result<Lease, WireError> {
    let header = Some(&token.header);
    let answer = server.ask(Method::GET, "auth/token/lookup-self", header, None).await?;
    let found: LookUp = answer.data("look up the token")?;
    let life = found.expire_time.map_or(Life::Endless, |_| Life::of(found.ttl, now));
    Ok(Lease { generation: token.generation, life, renewable: found.renewable })
}

async fn renew(server: &Server, token: &Token, now: Instant) -> Result<Lease, WireError> {
    let header = Some(&token.header);
    let answer = server.ask(Method::POST, "auth/token/renew-self", header, None).await?;
    let renewed = answer.whole::<Renewal>("renew the token")?.auth;
    let life = Life::of(renewed.lease_duration, now);
    Ok(Lease { generation: token.generation, life, renewable: renewed.renewable })
}

impl Life {
    fn of(seconds: u64, now: Instant) -> Self {
        // More than an instant can tell is as good as for ever.
        now.checked_add(Duration::from_secs(seconds)).map_or(Self::Endless, Self::Until)
    }

    /// What is left of a life that has an end, and one that is known.
    fn left(self, now: Instant) -> Option<Duration> {
        match self {
            Self::Until(end) => Some(end.saturating_duration_since(now)),
            Self::Endless | Self::Unknown => None,
        }
    }

    fn is_longer_than(self, other: Self) -> bool {
        match (self, other) {
            (Self::Endless, _) | (_, Self::Unknown) => true,
            (Self::Until(end), Self::Until(other)) => end > other + ROUNDING,
            (Self::Until(_), Self::Endless) | (Self::Unknown, _) => false,
        }
    }
}

impl Lease {
    /// When to do something for the token: halfway to its end.
    fn next_look(self, now: Instant) -> Instant {
        let pause = match (self.life, self.life.left(now)) {
            (Life::Endless, _) => ENDLESS,
            (_, None | Some(Duration::ZERO)) => ENDED,
            (_, Some(left)) => (left / 2).max(SHORTEST),
        };
        now + pause
    }
}

/// Keeps the token alive for as long as its user is there: halfway to its end, takes the next one if the
/// source has another, and else renews it. What took its place meanwhile is looked at at once.
pub(super) async fn keep_alive(
    wire: Weak<(Server, Tokens)>,
    mut current: watch::Receiver<Token>,
    mut lease: Lease,
) {
    loop {
        let another = current.wait_for(|token| token.generation != lease.generation);
        // Whichever it was, the token is looked at.
        drop(timeout_at(lease.next_look(Instant::now()), another).await);
        let Some(wire) = wire.upgrade() else { return };
        let (server, tokens) = &*wire;
        lease = tokens.next_lease(server, lease, Instant::now()).await;
    }
}

impl Tokens {
    /// The lease of the token that is there now, renewed if it is still the same; warns if nothing came of it.
    async fn next_lease(&self, server: &Server, old: Lease, now: Instant) -> Lease {
        let replaced = self.replace().await;
        let token = self.current();
        let is_same = token.generation == old.generation;
        let lives = old.life.left(now).is_some_and(|left| !left.is_zero());
        let next = match replaced {
            Err(error) => Err(error.to_string()),
            Ok(_) if is_same && lives && old.renewable => {
                renew(server, &token, now).await.map_err(|error| error.reason)
            }
            Ok(_) => lease(server, &token, now).await.map_err(|error| error.reason),
        };
        let (lease, reason) = match next {
            Ok(next) if !is_same || next.life.is_longer_than(old.life) => return next,
            Ok(next) if next.renewable => (next, "it has reached its longest life".to_owned()),
            Ok(next) => (next, "it cannot be renewed".to_owned()),
            Err(reason) if is_same => (old, reason),
            Err(reason) => {
                let life = Life::Unknown;
                (Lease { generation: token.generation, life, renewable: false }, reason)
            }
        };
        let left = lease.life.left(Instant::now());
        tracing::warn!(
            reason,
            source = %self.source,
            ?left,
            "the token is not renewed: put another one there before it ends"
        );
        lease
    }
}
