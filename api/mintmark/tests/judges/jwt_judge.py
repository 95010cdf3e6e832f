"""Judges a JWT-SVID with `spiffe` (SPIFFE's own rules) and PyJWT (any JOSE service).

    jwt_judge.py --jwks jwks.json --token-file FILE --audience AUDIENCE --spiffe-id ID

`jwks.json` is a JWKS or a SPIFFE bundle; of a bundle only the keys for JWT-SVIDs count.
"""

import argparse
import base64
import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Callable

import jwt
from spiffe import JwtBundle, JwtSvid, SpiffeId
from spiffe.bundle.jwt_bundle.errors import AuthorityNotFoundError
from spiffe.svid.errors import InvalidTokenError

from verdict import Refused, accepts, holds, pronounce, refuses

ALGORITHMS = ["ES256", "ES384", "RS256"]
"""What Mintmark signs JWT-SVIDs with; JWT-SVID §2.1 allows more."""

STRANGER = "spiffe://stranger.test/impostor"
"""Stands for an audience and a subject that the token does not have."""


def main() -> None:
    asked = arguments()
    token = asked.token_file.read_text(encoding="ascii").strip()
    keys = jwt_keys(json.loads(asked.jwks.read_text(encoding="utf-8")))
    judge_by_spiffe(token, keys, asked)
    judge_by_pyjwt(token, keys, asked)


def judge_by_spiffe(token: str, keys: list[dict], asked: argparse.Namespace) -> None:
    expected = accepts("spiffe parses the SPIFFE ID", lambda: SpiffeId(asked.spiffe_id))
    document = json.dumps({"keys": keys}).encode()
    bundle = accepts(
        "spiffe parses the bundle", lambda: JwtBundle.parse(expected.trust_domain, document)
    )
    holds("spiffe finds every key usable", len(bundle.jwt_authorities), len(keys))

    def validate(token: str, audience: str, bundle: JwtBundle = bundle) -> JwtSvid:
        return JwtSvid.parse_and_validate(token, bundle, {audience})

    svid = accepts("spiffe validates the JWT-SVID", lambda: validate(token, asked.audience))
    holds("spiffe reads the SPIFFE ID asked for", svid.spiffe_id, expected)
    holds("spiffe reads the audience asked for", asked.audience in svid.audience, True)

    refuse_forgeries("spiffe", token, asked.audience, validate, InvalidTokenError)
    refuses(
        "spiffe refuses the token under a bundle without its key",
        lambda: validate(token, asked.audience, JwtBundle(expected.trust_domain, {})),
        AuthorityNotFoundError,
    )


def judge_by_pyjwt(token: str, keys: list[dict], asked: argparse.Namespace) -> None:
    key_set = accepts("pyjwt parses the key set", lambda: jwt.PyJWKSet(keys))

    def validate(
        token: str, audience: str, leeway: timedelta = timedelta(), verify_iat: bool = True
    ) -> dict:
        return jwt.decode(
            token,
            key_set[jwt.get_unverified_header(token)["kid"]],
            algorithms=ALGORITHMS,
            audience=audience,
            leeway=leeway,
            options={"require": ["aud", "exp", "iat", "sub"], "verify_iat": verify_iat},
        )

    claims = accepts("pyjwt validates the token", lambda: validate(token, asked.audience))
    holds("pyjwt reads the SPIFFE ID asked for", claims["sub"], asked.spiffe_id)

    refuse_forgeries("pyjwt", token, asked.audience, validate, jwt.PyJWTError)
    # A leeway below zero is a clock that runs ahead: this one stands one second after the end. It is
    # applied to `iat` the other way around, as if the clock were slow, so that is not looked at.
    left = datetime.fromtimestamp(claims["exp"], timezone.utc) - datetime.now(timezone.utc)
    refuses(
        "pyjwt refuses the token one second after its end",
        lambda: validate(token, asked.audience, -left - timedelta(seconds=1), False),
        jwt.ExpiredSignatureError,
    )


def refuse_forgeries(
    judge: str,
    token: str,
    audience: str,
    validate: Callable[[str, str], object],
    reason: type[Exception],
) -> None:
    """The three things a JWT-SVID must not survive: another audience, another body, another signature."""
    refuses(f"{judge} refuses another audience", lambda: validate(token, STRANGER), reason)
    header, body, signature = token.split(".")
    refuses(
        f"{judge} refuses a flipped signature",
        lambda: validate(f"{header}.{body}.{flipped(signature)}", audience),
        reason,
    )
    claims = json.loads(decoded(body)) | {"sub": STRANGER}
    forged = encoded(json.dumps(claims).encode())
    refuses(
        f"{judge} refuses another subject under the same signature",
        lambda: validate(f"{header}.{forged}.{signature}", audience),
        reason,
    )


def jwt_keys(document: dict) -> list[dict]:
    """SPIFFE bundle §4.2.2: only keys whose `use` is `jwt-svid` validate JWT-SVIDs; a plain JWKS has none."""
    keys = [key for key in document["keys"] if key.get("use", "jwt-svid") in ("jwt-svid", "sig")]
    if not keys:
        raise Refused("the key set holds no key for JWT-SVIDs")
    return keys


def flipped(part: str) -> str:
    """The same length, one bit of the middle byte turned."""
    signature = bytearray(decoded(part))
    signature[len(signature) // 2] ^= 1
    return encoded(bytes(signature))


def decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jwks", type=Path, required=True, help="JWKS or SPIFFE bundle, JSON")
    parser.add_argument("--token-file", type=Path, required=True, help="the token, compact form")
    parser.add_argument("--audience", required=True, help="the audience that was asked for")
    parser.add_argument("--spiffe-id", required=True, help="the SPIFFE ID that was asked for")
    return parser.parse_args()


if __name__ == "__main__":
    pronounce(main)
