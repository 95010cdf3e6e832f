//! JWT-SVIDs: the encoder of tokens, in the same two steps as certificates, for keys near and far.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::id::SpiffeId;
use crate::key::{
    Reach, SignError, Signature, SignatureAlgorithm, SigningKey, ToBeSigned, Urgency,
};
use crate::log::{Caller, Issuance, Issued};
use crate::policy::JwtGrant;

/// What the tokens of an authority say beside what was granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSettings {
    /// The life of a token for which no other was asked.
    pub default_ttl: Duration,
    /// `iss`, for relying parties that discover keys by OpenID Connect; SPIFFE needs none.
    pub issuer: Option<String>,
    /// Whether each token carries a random `jti`.
    pub token_id: bool,
}

impl Default for TokenSettings {
    /// Five minutes, no `iss`, no `jti`: SPIRE's defaults.
    fn default() -> Self {
        Self { default_ttl: Duration::from_secs(300), issuer: None, token_id: false }
    }
}

/// A JWT authority: a key that signs tokens under one `kid`.
#[derive(Debug)]
pub struct TokenIssuer {
    key: Arc<dyn SigningKey>,
    algorithm: SignatureAlgorithm,
    kid: Arc<str>,
    not_after: Timestamp,
    /// base64url of the JOSE header, which is the same for all tokens.
    header: String,
    /// `"iss":"…",` or nothing.
    issuer_claim: String,
    settings: TokenSettings,
    random: SystemRandom,
}

/// Why a token could not be issued.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TokenError {
    /// The key's algorithm is none of JWT-SVID §3.
    #[error("a key of algorithm {0} cannot sign JWT-SVIDs; use ec-p256, ec-p384 or an RSA key")]
    Algorithm(SignatureAlgorithm),
    /// The authority has ended.
    #[error("JWT authority {kid} ended at {not_after}, and it is {now}")]
    Ended {
        /// The authority.
        kid: Arc<str>,
        /// Its last second.
        not_after: Timestamp,
        /// The time of the request.
        now: Timestamp,
    },
    /// No token id could be drawn.
    #[error("the operating system gave no random bytes for a token id")]
    Random,
    /// The key did not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
}

/// A JWT authority as one batch has it: counted in memory of the batch, for the reason that
/// [`BatchIssuer`](crate::issuer::BatchIssuer) has.
#[derive(Debug, Clone)]
#[expect(clippy::redundant_allocation, reason = "its count of references is the batch's own")]
pub(crate) struct BatchTokenIssuer(Arc<Arc<TokenIssuer>>);

/// A JWS signing input whose claims were granted (RFC 7515 §5.1). Only [`BatchTokenIssuer::prepare`] makes one.
#[derive(Debug)]
pub(crate) struct SigningInput(String);

impl SigningInput {
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0.into_bytes()
    }
}

/// A token that lacks only its signature.
#[derive(Debug)]
#[must_use]
pub struct PreparedToken {
    issuer: BatchTokenIssuer,
    input: ToBeSigned,
    grant: JwtGrant,
    issued_at: Timestamp,
    expires_at: Timestamp,
}

/// A signed JWT-SVID. The token is a bearer credential: it is wiped on drop and never shown by `Debug`.
#[derive(Clone)]
pub struct JwtSvid {
    token: Zeroizing<String>,
    id: SpiffeId,
    issued_at: Timestamp,
    expires_at: Timestamp,
}

impl TokenIssuer {
    /// A JWT authority over a key that signs by `algorithm`, valid until `not_after`.
    pub fn new(
        key: Arc<dyn SigningKey>,
        algorithm: SignatureAlgorithm,
        kid: &str,
        not_after: Timestamp,
        settings: TokenSettings,
    ) -> Result<Self, TokenError> {
        let alg = algorithm.jws().ok_or(TokenError::Algorithm(algorithm))?;
        // JWT-SVID §2: `alg`, `kid` and `typ`, and nothing else.
        let header = format!(r#"{{"alg":"{alg}","kid":{},"typ":"JWT"}}"#, json_string(kid));
        let issuer_claim = settings
            .issuer
            .as_deref()
            .map(|issuer| format!(r#""iss":{},"#, json_string(issuer)))
            .unwrap_or_default();
        Ok(Self {
            key,
            algorithm,
            kid: kid.into(),
            not_after,
            header: URL_SAFE_NO_PAD.encode(header),
            issuer_claim,
            settings,
            random: SystemRandom::new(),
        })
    }

    /// Its authority id, the `kid` of its tokens.
    #[must_use]
    pub fn kid(&self) -> &Arc<str> {
        &self.kid
    }

    /// How it signs.
    #[must_use]
    pub fn algorithm(&self) -> SignatureAlgorithm {
        self.algorithm
    }

    /// The life of tokens for which no other was asked.
    #[must_use]
    pub fn usual_ttl(&self) -> Duration {
        self.settings.default_ttl
    }

    /// The last second for which it signs.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> &Arc<dyn SigningKey> {
        &self.key
    }

    /// The claims, as JSON in one piece.
    fn claims(
        &self,
        grant: &JwtGrant,
        issued_at: Timestamp,
        expires_at: Timestamp,
    ) -> Result<Vec<u8>, TokenError> {
        let mut claims = Vec::with_capacity(USUAL_CLAIMS);
        claims.extend_from_slice(br#"{"aud":"#);
        put_json(&mut claims, grant.audience());
        claims.extend_from_slice(br#","exp":"#);
        put_json(&mut claims, &expires_at.unix());
        claims.extend_from_slice(br#","iat":"#);
        put_json(&mut claims, &issued_at.unix());
        claims.push(b',');
        claims.extend_from_slice(self.issuer_claim.as_bytes());
        if self.settings.token_id {
            claims.extend_from_slice(br#""jti":"#);
            put_json(&mut claims, &self.token_id()?);
            claims.push(b',');
        }
        claims.extend_from_slice(br#""sub":"#);
        put_json(&mut claims, grant.id().as_str());
        claims.push(b'}');
        Ok(claims)
    }

    /// A `jti` of 128 random bits.
    fn token_id(&self) -> Result<String, TokenError> {
        let mut id = [0; 16];
        self.random.fill(&mut id).map_err(|_| TokenError::Random)?;
        Ok(URL_SAFE_NO_PAD.encode(id))
    }
}

impl BatchTokenIssuer {
    /// The authority, for one batch.
    pub(crate) fn of(issuer: &Arc<TokenIssuer>) -> Self {
        Self(Arc::new(Arc::clone(issuer)))
    }

    /// Encodes the token that a grant allows: `aud`, `exp`, `iat`, `sub`, and `iss` and `jti` if set.
    pub(crate) fn prepare(
        &self,
        grant: JwtGrant,
        now: Timestamp,
    ) -> Result<PreparedToken, TokenError> {
        let issuer = &**self.0;
        if now >= issuer.not_after {
            return Err(TokenError::Ended {
                kid: Arc::clone(&issuer.kid),
                not_after: issuer.not_after,
                now,
            });
        }
        let ttl = grant.ttl().unwrap_or(issuer.settings.default_ttl);
        let expires_at = now.plus(ttl).min(issuer.not_after);
        let claims = issuer.claims(&grant, now, expires_at)?;
        let mut input = String::with_capacity(issuer.header.len() + 1 + encoded(claims.len()));
        input.push_str(&issuer.header);
        input.push('.');
        URL_SAFE_NO_PAD.encode_string(claims, &mut input);
        Ok(PreparedToken {
            issuer: self.clone(),
            input: ToBeSigned::token(SigningInput(input), issuer.algorithm),
            grant,
            issued_at: now,
            expires_at,
        })
    }
}

impl PreparedToken {
    /// What the issuance log keeps of it.
    #[must_use]
    pub fn record<'a>(&'a self, caller: &'a Caller, now: Timestamp) -> Issuance<'a> {
        Issuance {
            document: Issued::Jwt { audience: self.grant.audience() },
            digest: self.input.sha256(),
            id: self.grant.id(),
            not_before: self.issued_at,
            not_after: self.expires_at,
            authority: &self.issuer.0.kid,
            issuing_key: None,
            caller,
            time: now,
        }
    }

    /// Has it signed by the key of the authority that prepared it.
    pub async fn sign(self, urgency: Urgency) -> Result<JwtSvid, SignError> {
        let signature = self.issuer.0.key.sign_checked(self.input.clone(), urgency).await?;
        Ok(self.signed(&signature))
    }

    /// Whether its key signs in this process.
    #[must_use]
    pub fn is_signed_here(&self) -> bool {
        matches!(self.issuer.0.key.reach(), Reach::Here(_))
    }

    /// [`sign`](Self::sign) on this thread, by a key that [signs here](Self::is_signed_here).
    pub fn sign_here(self, urgency: Urgency) -> Result<JwtSvid, SignError> {
        let signature = self.issuer.0.key.sign_here_checked(&self.input, urgency)?;
        Ok(self.signed(&signature))
    }

    fn signed(self, signature: &Signature) -> JwtSvid {
        let signature = signature.jws();
        let input = std::str::from_utf8(self.input.message()).expect("base64url and dots");
        let mut token = String::with_capacity(input.len() + 1 + encoded(signature.len()));
        token.push_str(input);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        JwtSvid {
            token: Zeroizing::new(token),
            id: self.grant.into_id(),
            issued_at: self.issued_at,
            expires_at: self.expires_at,
        }
    }
}

impl JwtSvid {
    /// The JWS in compact serialization. A bearer credential: it goes to its owner and nowhere else.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The identity it gives.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Its `iat`.
    #[must_use]
    pub fn issued_at(&self) -> Timestamp {
        self.issued_at
    }

    /// Its `exp`.
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }
}

impl std::fmt::Debug for JwtSvid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JwtSvid")
            .field("id", &self.id)
            .field("issued_at", &self.issued_at)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// How many characters the base64url of so many bytes has.
fn encoded(bytes: usize) -> usize {
    (bytes * 4).div_ceil(3)
}

/// More than the claims of a token for one audience take.
const USUAL_CLAIMS: usize = 256;

fn json_string(text: &str) -> String {
    serde_json::to_string(text).expect("a string is always JSON")
}

fn put_json<T: Serialize + ?Sized>(into: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(into, value).expect("texts and numbers are always JSON");
}
