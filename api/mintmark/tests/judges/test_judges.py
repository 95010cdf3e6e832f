"""The judges judged: they accept what is right, and refuse each fault with its own reason.

    python -m unittest discover -s api/mintmark/tests/judges
"""

import base64
import datetime
import hashlib
import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ID = "spiffe://dev.test/web"
HOUR = datetime.timedelta(hours=1)
KEYS = {
    "P-256": ec.generate_private_key(ec.SECP256R1()),
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "RSA-2048": rsa.generate_private_key(65537, 2048),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
}


class X509Judge(unittest.TestCase):
    def test_leaf_of_every_key_type_is_accepted(self):
        for name, key in KEYS.items():
            with self.subTest(name):
                self.accepted(Leaf(key))

    def test_leaf_under_an_intermediate_is_accepted(self):
        root = Authority("root")
        self.accepted(Leaf(issuer=Authority("middle", issuer=root)), root)

    def test_leaf_with_dns_names_is_accepted(self):
        names = ["a.dev.test", "b.dev.test"]
        self.accepted(Leaf(dns=names), extra=[f"--dns={name}" for name in names])

    def test_leaf_of_another_authority_is_refused(self):
        self.refused("verifies the path", Leaf(), Authority("root"))

    def test_leaf_past_its_end_is_refused(self):
        self.refused("verifies the path", Leaf(end=-datetime.timedelta(seconds=1)))

    def test_leaf_with_two_uris_is_refused(self):
        self.refused("only URI", Leaf(uris=[ID, ID + "2"]))

    def test_leaf_with_another_id_is_refused(self):
        self.refused("only URI", Leaf(uris=[ID + "2"]))

    def test_leaf_with_a_name_nobody_asked_for_is_refused(self):
        self.refused("no others", Leaf(dns=["a.dev.test"]))

    def test_leaf_for_clients_alone_is_refused(self):
        self.refused("both ends", Leaf(purposes=[ExtendedKeyUsageOID.CLIENT_AUTH]))

    def test_leaf_that_may_sign_crls_is_refused(self):
        self.refused("cRLSign", Leaf(crl_sign=True))

    def test_leaf_without_basic_constraints_is_refused(self):
        self.refused("BasicConstraints", Leaf(constraints=None))

    def test_key_of_another_leaf_is_refused(self):
        self.refused("key fits", Leaf(), key=ec.generate_private_key(ec.SECP256R1()))

    def test_missing_file_is_refused_by_name(self):
        outcome = run("x509_judge.py", "--bundle=none.pem", "--svid=none.pem", "--spiffe-id=" + ID)
        self.assertEqual(1, outcome.returncode)
        self.assertIn("none.pem", outcome.stderr)

    def accepted(self, leaf, root=None, extra=()):
        outcome = judge_x509(leaf, root or leaf.issuer, leaf.key, extra)
        self.assertEqual(0, outcome.returncode, outcome.stderr)
        self.assertGreaterEqual(outcome.stdout.count("ok "), 13, outcome.stdout)

    def refused(self, reason, leaf, root=None, key=None):
        outcome = judge_x509(leaf, root or leaf.issuer, key or leaf.key, ())
        self.assertEqual(1, outcome.returncode, outcome.stdout)
        self.assertIn(reason, outcome.stderr)


class JwtJudge(unittest.TestCase):
    def test_token_of_every_algorithm_is_accepted(self):
        for name, algorithm in [("P-256", "ES256"), ("P-384", "ES384"), ("RSA-2048", "RS256")]:
            with self.subTest(algorithm):
                outcome = judge_jwt(token(KEYS[name], algorithm), [jwk(KEYS[name], algorithm)])
                self.assertEqual(0, outcome.returncode, outcome.stderr)
                self.assertEqual(17, outcome.stdout.count("ok "), outcome.stdout)

    def test_keys_of_other_uses_do_not_count(self):
        key = KEYS["P-256"]
        x509_key = {"kty": "EC", "use": "x509-svid", "x5c": ["MA=="]}
        good = jwk(key, "ES256") | {"use": "jwt-svid"}
        self.assertEqual(0, judge_jwt(token(key, "ES256"), [x509_key, good]).returncode)
        self.refused("no key for JWT-SVIDs", token(key, "ES256"), [good | {"use": "wit-svid"}])

    def test_token_of_another_key_is_refused(self):
        stranger = ec.generate_private_key(ec.SECP256R1())
        self.refused("Signature verification failed", token(stranger, "ES256"))

    def test_token_past_its_end_is_refused(self):
        self.refused("expired", token(KEYS["P-256"], "ES256", end=-HOUR))

    def test_token_for_another_audience_is_refused(self):
        self.refused("udience", token(KEYS["P-256"], "ES256", aud=["other"]))

    def test_token_of_another_subject_is_refused(self):
        self.refused("SPIFFE ID asked for", token(KEYS["P-256"], "ES256", sub=ID + "2"))

    def test_token_without_key_id_is_refused(self):
        self.refused("key_id", token(KEYS["P-256"], "ES256", kid=None))

    def refused(self, reason, text, keys=None):
        outcome = judge_jwt(text, keys or [jwk(KEYS["P-256"], "ES256")])
        self.assertEqual(1, outcome.returncode, outcome.stdout)
        self.assertIn(reason, outcome.stderr)


class TreeJudge(unittest.TestCase):
    """Against the reference tree of Certificate Transparency, whose hashes are written down here."""

    ENTRIES = [bytes.fromhex(entry) for entry in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )]  # fmt: skip
    ROOTS = {
        6: "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    }
    SHARED = [
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]
    #: of entry 5 in the tree of 8
    INCLUSION = ["bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"] + SHARED
    #: of the tree of 6 in the tree of 8
    CONSISTENCY = ["0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"] + SHARED

    def test_entry_of_the_log_is_accepted(self):
        self.accepted(inclusion=tlog_proof(5, self.INCLUSION, self.note(8)), entry=self.ENTRIES[5])

    def test_entry_of_another_log_is_refused(self):
        proof = tlog_proof(5, self.INCLUSION, self.note(8))
        self.refused("the entry is in the tree", inclusion=proof, entry=b"another")

    def test_entry_at_another_index_is_refused(self):
        proof = tlog_proof(4, self.INCLUSION, self.note(8))
        self.refused("the entry is in the tree", inclusion=proof, entry=self.ENTRIES[5])

    def test_log_that_grew_is_accepted(self):
        proof = consistency_proof(self.CONSISTENCY, self.note(6), self.note(8))
        self.accepted(consistency=proof)

    def test_log_that_was_changed_is_refused(self):
        for path, old, new in [
            (self.INCLUSION, self.note(6), self.note(8)),
            (self.CONSISTENCY, self.note(8), self.note(6)),
            ([], self.note(8), self.note(8, self.ROOTS[6])),
        ]:
            proof = consistency_proof(path, old, new)
            self.refused("the newer tree continues the older", consistency=proof)

    def test_checkpoint_of_another_key_is_refused(self):
        stranger = ec.generate_private_key(ec.SECP256R1())
        self.refused("has not signed it", checkpoint=self.note(8, key=stranger))

    def test_checkpoint_that_was_changed_is_refused(self):
        note = self.note(8).replace("\n8\n", "\n7\n")
        self.refused("InvalidSignature", checkpoint=note)

    def test_tiles_that_make_the_root_are_accepted_and_others_refused(self):
        tile = b"".join(hashlib.sha256(b"\0" + entry).digest() for entry in self.ENTRIES)
        self.accepted(checkpoint=self.note(8), tile=tile)
        self.refused("the root of the checkpoint", checkpoint=self.note(8), tile=tile[::-1])
        self.refused("has 8 hashes", checkpoint=self.note(8), tile=tile[1:])

    def note(self, size, root=None, key=KEYS["P-256"]):
        return checkpoint(size, bytes.fromhex(root or self.ROOTS[size]), key)

    def accepted(self, **files):
        outcome = judge_tree(**files)
        self.assertEqual(0, outcome.returncode, outcome.stderr)
        self.assertGreaterEqual(outcome.stdout.count("ok "), 5, outcome.stdout)

    def refused(self, reason, **files):
        outcome = judge_tree(**files)
        self.assertEqual(1, outcome.returncode, outcome.stdout)
        self.assertIn(reason, outcome.stderr)


class Authority:
    """A CA in the shape SPIFFE asks for, self-signed unless it has an issuer."""

    def __init__(self, name, issuer=None):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.issuer = issuer or self
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        trust_domain = x509.UniformResourceIdentifier("spiffe://dev.test")
        self.certificate = signed(
            self.issuer,
            self.name,
            self.key,
            24 * HOUR,
            [
                (x509.BasicConstraints(True, None), True),
                (key_usage(key_cert_sign=True, crl_sign=True), True),
                (x509.SubjectAlternativeName([trust_domain]), False),
            ],
        )


class Leaf:
    """An X509-SVID; each argument is one thing that can be wrong with it."""

    def __init__(
        self,
        key=KEYS["P-256"],
        issuer=None,
        uris=(ID,),
        dns=(),
        end=HOUR,
        crl_sign=False,
        constraints=x509.BasicConstraints(False, None),
        purposes=(ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
    ):
        self.key = key
        self.issuer = issuer or Authority("root")
        names = [x509.UniformResourceIdentifier(uri) for uri in uris]
        names += [x509.DNSName(name) for name in dns]
        extensions = [
            (key_usage(digital_signature=True, crl_sign=crl_sign), True),
            (x509.ExtendedKeyUsage(purposes), False),
            (x509.SubjectAlternativeName(names), True),
        ]
        if constraints:
            extensions.append((constraints, True))
        self.certificate = signed(self.issuer, x509.Name([]), key, end, extensions)

    def chain(self):
        chain, authority = [self.certificate], self.issuer
        while authority.issuer is not authority:
            chain.append(authority.certificate)
            authority = authority.issuer
        return chain


def signed(issuer, subject, key, end, extensions):
    now = datetime.datetime.now(datetime.timezone.utc)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
    builder = x509.CertificateBuilder(
        issuer_name=issuer.name,
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now - 2 * HOUR,
        not_valid_after=now + end,
    )
    extensions = extensions + [
        (identifier, False),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
    ]
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer.key, hashes.SHA256())


def key_usage(**wanted):
    bits = dict.fromkeys(
        [
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ],
        False,
    )
    return x509.KeyUsage(**(bits | wanted))


def token(key, algorithm, aud=("judge",), sub=ID, end=HOUR, kid="first"):
    now = datetime.datetime.now(datetime.timezone.utc)
    claims = {"sub": sub, "aud": list(aud), "iat": now - 2 * HOUR, "exp": now + end}
    return jwt.encode(claims, key, algorithm, headers={"kid": kid} if kid else None)


def jwk(key, algorithm):
    export = jwt.get_algorithm_by_name(algorithm).to_jwk
    return export(key.public_key(), as_dict=True) | {"kid": "first"}


def judge_x509(leaf, root, key, extra):
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        (folder / "bundle.pem").write_bytes(pem([root.certificate]))
        (folder / "svid.pem").write_bytes(pem(leaf.chain()))
        (folder / "key.pem").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        files = [f"--{name}={folder / name}.pem" for name in ("bundle", "svid", "key")]
        return run("x509_judge.py", *files, "--spiffe-id=" + ID, *extra)


def judge_jwt(text, keys):
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        (folder / "jwks.json").write_text(json.dumps({"keys": keys}))
        (folder / "token").write_text(text + "\n")
        return run(
            "jwt_judge.py",
            f"--jwks={folder / 'jwks.json'}",
            f"--token-file={folder / 'token'}",
            "--audience=judge",
            "--spiffe-id=" + ID,
        )


LOG = "a.example/log"


def checkpoint(size, root, key):
    text = f"{LOG}\n{size}\n{base64.b64encode(root).decode()}\n"
    signature = key.sign(text.encode(), ec.ECDSA(hashes.SHA256()))
    key_id = hashlib.sha256(spki(key)).digest()[:4]
    return f"{text}\n\u2014 {LOG} {base64.b64encode(key_id + signature).decode()}\n"


def tlog_proof(index, path, note):
    return f"c2sp.org/tlog-proof@v1\nindex {index}\n{lines_of(path)}\n{note}"


def consistency_proof(path, old, new):
    return f"mintmark/consistency-proof@v1\n{lines_of(path)}\n{old}\n{new}"


def lines_of(path):
    return "".join(base64.b64encode(bytes.fromhex(text)).decode() + "\n" for text in path)


def spki(key):
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(encoding, form)


def judge_tree(tile=None, **files):
    der = spki(KEYS["P-256"])
    key_id, material = hashlib.sha256(der).hexdigest()[:8], base64.b64encode(b"\2" + der).decode()
    arguments = [f"--vkey={LOG}+{key_id}+{material}"]
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        for name, content in files.items():
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
            arguments.append(f"--{name}={folder / name}")
        if tile:
            (folder / "tile/0/000.p").mkdir(parents=True)
            (folder / "tile/0/000.p/8").write_bytes(tile)
            arguments.append(f"--tiles={folder}")
        return run("tree_judge.py", *arguments)


def pem(certificates):
    encoding = serialization.Encoding.PEM
    return b"".join(certificate.public_bytes(encoding) for certificate in certificates)


def run(judge, *arguments):
    program = [sys.executable, str(Path(__file__).parent / judge), *arguments]
    return subprocess.run(program, capture_output=True, text=True)


if __name__ == "__main__":
    unittest.main()
