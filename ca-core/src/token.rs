//! JWT-SVIDs: the encoder of tokens, in the same two steps as certificates, for keys near and far.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
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

/// A JWS signing input whose claims were granted (RFC 7515 §5.1). Only [`TokenIssuer::prepare`] makes one.
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
    issuer: Arc<TokenIssuer>,
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

    /// Encodes the token that a grant allows: `aud`, `exp`, `iat`, `sub`, and `iss` and `jti` if set.
    pub fn prepare(
        self: &Arc<Self>,
        grant: JwtGrant,
        now: Timestamp,
    ) -> Result<PreparedToken, TokenError> {
        if now >= self.not_after {
            return Err(TokenError::Ended {
                kid: Arc::clone(&self.kid),
                not_after: self.not_after,
                now,
            });
        }
        let ttl = grant.ttl().unwrap_or(self.settings.default_ttl);
        let expires_at = now.plus(ttl).min(self.not_after);
        let claims = format!(
            r#"{{"aud":{audience},"exp":{exp},"iat":{iat},{iss}{jti}"sub":{sub}}}"#,
            audience = json_strings(grant.audience()),
            exp = expires_at.unix(),
            iat = now.unix(),
            iss = self.issuer_claim,
            jti = self.token_id()?,
            sub = json_string(grant.id().as_str()),
        );
        let mut input = String::with_capacity(self.header.len() + 1 + claims.len() * 4 / 3 + 4);
        input.push_str(&self.header);
        input.push('.');
        URL_SAFE_NO_PAD.encode_string(claims, &mut input);
        Ok(PreparedToken {
            issuer: Arc::clone(self),
            input: ToBeSigned::token(SigningInput(input), self.algorithm),
            grant,
            issued_at: now,
            expires_at,
        })
    }

    /// `"jti":"…",` with 128 random bits, or nothing.
    fn token_id(&self) -> Result<String, TokenError> {
        if !self.settings.token_id {
            return Ok(String::new());
        }
        let mut id = [0; 16];
        self.random.fill(&mut id).map_err(|_| TokenError::Random)?;
        Ok(format!(r#""jti":"{}","#, URL_SAFE_NO_PAD.encode(id)))
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
            authority: &self.issuer.kid,
            issuing_key: None,
            caller,
            time: now,
        }
    }

    /// Has it signed by the key of the authority that prepared it.
    pub async fn sign(self, urgency: Urgency) -> Result<JwtSvid, SignError> {
        let signature = self.issuer.key.sign_checked(self.input.clone(), urgency).await?;
        Ok(self.signed(&signature))
    }

    /// Whether its key signs in this process.
    #[must_use]
    pub fn is_signed_here(&self) -> bool {
        matches!(self.issuer.key.reach(), Reach::Here(_))
    }

    /// [`sign`](Self::sign) on this thread, by a key that [signs here](Self::is_signed_here).
    pub fn sign_here(self, urgency: Urgency) -> Result<JwtSvid, SignError> {
        let signature = self.issuer.key.sign_here_checked(&self.input, urgency)?;
        Ok(self.signed(&signature))
    }

    fn signed(self, signature: &Signature) -> JwtSvid {
        let signature = signature.jws();
        let input = std::str::from_utf8(self.input.message()).expect("base64url and dots");
        let mut token = String::with_capacity(input.len() + 1 + signature.len() * 4 / 3 + 4);
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

fn json_string(text: &str) -> String {
    serde_json::to_string(text).expect("a string is always JSON")
}

fn json_strings(texts: &[String]) -> String {
    serde_json::to_string(texts).expect("strings are always JSON")
}
