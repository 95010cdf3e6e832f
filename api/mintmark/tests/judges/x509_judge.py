"""Judges an X509-SVID with `cryptography` (path validation) and `spiffe` (SPIFFE's own rules).

    x509_judge.py --bundle bundle.pem --svid svid.pem --spiffe-id ID [--key key.pem] [--dns NAME]...

`svid.pem` is the leaf first, then its intermediates. Without `--key` the SVID was minted from a
CSR, and only the key's own holder can say whether it fits.
"""

import argparse
import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from spiffe import SpiffeId, X509Bundle, X509Svid

from verdict import Refused, accepts, holds, pronounce, refuses


def main() -> None:
    asked = arguments()
    chain = accepts(
        "cryptography parses the chain",
        lambda: x509.load_pem_x509_certificates(asked.svid.read_bytes()),
    )
    authorities = accepts(
        "cryptography parses the bundle",
        lambda: x509.load_pem_x509_certificates(asked.bundle.read_bytes()),
    )
    judge_path(chain, authorities, asked.dns)
    judge_leaf(chain[0], asked)
    judge_by_spiffe(asked)


def judge_path(chain: list, authorities: list, names: list[str]) -> None:
    """RFC 5280 §6: from the leaf to an authority of the bundle, now, and never from a stranger."""
    leaf, intermediates = chain[0], chain[1:]

    def client(trusted: list, time: datetime.datetime | None = None):
        policy = PolicyBuilder().store(Store(trusted))
        policy = policy.time(time) if time else policy
        return policy.build_client_verifier().verify(leaf, intermediates)

    def server(name: str):
        policy = PolicyBuilder().store(Store(authorities))
        return policy.build_server_verifier(x509.DNSName(name)).verify(leaf, intermediates)

    accepts("cryptography verifies the path as a client's", lambda: client(authorities))
    for name in names:
        accepts(f"cryptography verifies the path as the server {name}", lambda: server(name))

    strangers = [namesake(authority) for authority in authorities]
    refuses(
        "cryptography refuses the path under authorities of the same name and another key",
        lambda: client(strangers),
        VerificationError,
    )
    second = datetime.timedelta(seconds=1)
    refuses(
        "cryptography refuses the path one second after the leaf's end",
        lambda: client(authorities, leaf.not_valid_after_utc + second),
        VerificationError,
    )


def judge_leaf(leaf: x509.Certificate, asked: argparse.Namespace) -> None:
    """What was asked for is what the leaf says, and nothing beside it."""
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    holds("cryptography finds the SPIFFE ID as the only URI", uris, [asked.spiffe_id])
    holds(
        "cryptography finds the DNS names asked for and no others",
        names.get_values_for_type(x509.DNSName),
        asked.dns,
    )
    holds("cryptography finds no other kind of name", len(names), 1 + len(asked.dns))

    # The client's verifier looks at clientAuth alone; without a DNS name nothing asks for the other.
    purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    holds(
        "cryptography finds the leaf fit for both ends of a connection",
        {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH} <= set(purposes),
        True,
    )
    if asked.key:
        key = serialization.load_pem_private_key(asked.key.read_bytes(), password=None)
        holds("cryptography finds the key fits the leaf", key.public_key(), leaf.public_key())


def judge_by_spiffe(asked: argparse.Namespace) -> None:
    """SPIFFE's library takes the files as a workload would load them."""
    expected = accepts("spiffe parses the SPIFFE ID", lambda: SpiffeId(asked.spiffe_id))
    # The library wants a key to parse an SVID and does not compare it with the leaf.
    key = asked.key.read_bytes() if asked.key else stand_in_key()
    svid = accepts(
        "spiffe parses the X509-SVID", lambda: X509Svid.parse(asked.svid.read_bytes(), key)
    )
    holds("spiffe reads the SPIFFE ID asked for", svid.spiffe_id, expected)

    bundle = accepts(
        "spiffe parses the bundle",
        lambda: X509Bundle.parse(expected.trust_domain, asked.bundle.read_bytes()),
    )
    last = svid.cert_chain[-1]
    for authority in bundle.x509_authorities:
        if authority.subject == last.issuer and issued(last, authority):
            print("ok spiffe's bundle holds the authority that signed the end of the chain")
            return
    raise Refused("spiffe's bundle holds no authority that signed the end of the chain")


def issued(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except Exception:  # a wrong key type and a wrong signature are the same answer here
        return False
    return True


def namesake(authority: x509.Certificate) -> x509.Certificate:
    """An authority that differs from `authority` in its key alone, key identifiers included."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateBuilder(
        issuer_name=authority.subject,
        subject_name=authority.subject,
        public_key=key.public_key(),
        serial_number=authority.serial_number,
        not_valid_before=authority.not_valid_before_utc,
        not_valid_after=authority.not_valid_after_utc,
    )
    for extension in authority.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return builder.sign(key, hashes.SHA256())


def stand_in_key() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True, help="authorities, PEM")
    parser.add_argument("--svid", type=Path, required=True, help="leaf, then intermediates, PEM")
    parser.add_argument("--spiffe-id", required=True, help="the SPIFFE ID that was asked for")
    parser.add_argument("--key", type=Path, help="the leaf's private key, PKCS#8 PEM")
    parser.add_argument("--dns", action="append", default=[], help="a DNS name, in order")
    return parser.parse_args()


if __name__ == "__main__":
    pronounce(main)
