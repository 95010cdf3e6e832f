"""Judges the issuance log: checkpoints, proofs and tiles, from RFC 6962 and the texts of C2SP.

    tree_judge.py --vkey VKEY --checkpoint FILE [--tiles DIRECTORY]
    tree_judge.py --vkey VKEY --inclusion FILE --entry FILE
    tree_judge.py --vkey VKEY --consistency FILE

The log's key is given as C2SP signed-note writes it, with signature type 2. `DIRECTORY` is the one that
holds `tile`: every tile of the checkpoint's tree is read, and each level made again from the one below. Bundles of
entries, where there are any, are compared with the leaves.
"""

import argparse
import base64
import hashlib
import re
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from verdict import Refused, accepts, holds, pronounce, refuses


def main() -> None:
    asked = arguments()
    key = accepts("the verifier key is read", lambda: LogKey(asked.vkey))
    if asked.checkpoint:
        head = judge_checkpoint("checkpoint", read(asked.checkpoint), key)
        if asked.tiles:
            judge_tiles(asked.tiles, head)
    if asked.inclusion:
        judge_inclusion(read(asked.inclusion), asked.entry.read_bytes(), key)
    if asked.consistency:
        judge_consistency(read(asked.consistency), key)


class Head(NamedTuple):
    """What a checkpoint says of its tree."""

    size: int
    root: bytes


def judge_checkpoint(what: str, note: str, key: "LogKey") -> Head:
    """C2SP tlog-checkpoint in a signed-note, by that key and by nobody of the same name."""
    head = accepts(f"the {what} is the log's and signed by it", lambda: key.open(note))
    changed = note.replace(f"\n{head.size}\n", f"\n{head.size + 1}\n", 1)
    refuses(f"the {what} of another size is not signed", lambda: key.open(changed), InvalidSignature)
    return head


def judge_inclusion(proof: str, entry: bytes, key: "LogKey") -> None:
    """C2SP tlog-proof: the entry, and no other, is in the tree of the checkpoint."""
    start, _, note = proof.partition("\n\n")
    lines = start.split("\n")
    holds("the proof says which format it has", lines.pop(0), "c2sp.org/tlog-proof@v1")
    if lines[0].startswith("extra "):
        accepts("the extra data is base64", lambda: decoded(lines.pop(0)[len("extra ") :]))
    index = accepts("the index is a number", lambda: number(lines.pop(0).removeprefix("index ")))
    path = accepts("the path is of hashes", lambda: [digest(line) for line in lines])
    head = judge_checkpoint("checkpoint of the proof", note, key)

    def included(entry: bytes, index: int) -> None:
        if not 0 <= index < head.size:
            raise Wrong(f"a tree of {head.size} has no leaf {index}")
        same(root_by_path(index, head.size, leaf(entry), path), head.root)

    accepts("the entry is in the tree", lambda: included(entry, index))
    refuses("another entry is not", lambda: included(entry + b"\0", index), Wrong)
    refuses("the entry is at no other index", lambda: included(entry, index ^ 1), Wrong)


def judge_consistency(proof: str, key: "LogKey") -> None:
    """Mintmark's text: a first line, hashes, and two checkpoints; RFC 6962 §2.1.2."""
    parts = proof.split("\n\n")
    holds("the proof has hashes and two checkpoints", len(parts), 5)
    lines = parts[0].split("\n")
    holds("the proof says which format it has", lines.pop(0), "mintmark/consistency-proof@v1")
    path = accepts("the path is of hashes", lambda: [digest(line) for line in lines])
    old = judge_checkpoint("older checkpoint", f"{parts[1]}\n\n{parts[2]}\n", key)
    new = judge_checkpoint("newer checkpoint", f"{parts[3]}\n\n{parts[4]}", key)
    accepts("the newer tree continues the older", lambda: consistent(old, new, path))
    other = Head(new.size, leaf(new.root))
    refuses("a tree of another root does not", lambda: consistent(old, other, path), Wrong)


def judge_tiles(directory: Path, head: Head) -> None:
    """C2SP tlog-tiles, "Merkle Tree": the tiles of a tree of that size, and nothing taken on trust."""
    leaves = accepts("the tiles of leaves are whole", lambda: level(directory, 0, head.size))
    holds("the leaves have the root of the checkpoint", mth(leaves), head.root)
    below, number_of_level = leaves, 0
    while len(below) >= 256:
        number_of_level += 1
        full = range(0, len(below) - 255, 256)
        wanted = [mth(below[start : start + 256]) for start in full]
        found = level(directory, number_of_level, head.size)
        holds(f"the tiles of level {number_of_level} are made of those below", found, wanted)
        below = wanted
    if (directory / "tile" / "entries").exists():
        judge_bundles(directory, leaves)


def judge_bundles(directory: Path, leaves: list[bytes]) -> None:
    """C2SP tlog-tiles, "Log entries". The first ones may be gone."""
    found, wanted = [], []
    for index in range(-(-len(leaves) // 256)):
        width = min(256, len(leaves) - 256 * index)
        name = tile_path(index) + (f".p/{width}" if width < 256 else "")
        path = directory / "tile" / "entries" / name
        if found or path.exists():
            found += bundle(path.read_bytes())
            wanted += leaves[256 * index : 256 * index + width]
    holds("the entries in the bundles are the leaves", found, wanted)


def bundle(content: bytes) -> list[bytes]:
    """The leaf hashes of entries, each behind its length in two bytes."""
    found = []
    while content:
        length = int.from_bytes(content[:2])
        found.append(leaf(content[2 : 2 + length]))
        content = content[2 + length :]
    return found


def level(directory: Path, number_of_level: int, size: int) -> list[bytes]:
    """The hashes of all tiles of a level: floor(s / 256^l) of them."""
    count = size // 256**number_of_level
    found = []
    for index in range(-(-count // 256)):
        width = min(256, count - 256 * index)
        found += tile(directory, f"{number_of_level}/{tile_path(index)}", width)
    return found


def tile(directory: Path, name: str, width: int) -> list[bytes]:
    """A partial tile may be gone once the full one is there."""
    full = directory / "tile" / name
    partial = full.with_name(f"{full.name}.p") / str(width)
    path, wanted = (partial, width) if width < 256 and partial.exists() else (full, 256)
    content = path.read_bytes()
    if len(content) != 32 * wanted:
        raise Refused(f"{path.relative_to(directory)} has {wanted} hashes: {len(content)} bytes")
    return [content[start : start + 32] for start in range(0, 32 * width, 32)]


def tile_path(index: int) -> str:
    """Three digits an element, and an `x` before all but the last."""
    digits = str(index)
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    parts = re.findall("...", digits)
    return "/".join([f"x{part}" for part in parts[:-1]] + parts[-1:])


class LogKey:
    """A verifier key of C2SP signed-note, "Verifier keys", of type 2: ECDSA, on P-256 here."""

    def __init__(self, vkey: str):
        self.name, key_id, material = vkey.split("+", 2)
        signature_type, spki = decoded(material)[0], decoded(material)[1:]
        self.key = serialization.load_der_public_key(spki)
        self.key_id = hashlib.sha256(spki).digest()[:4]
        if signature_type != 2 or not isinstance(self.key.curve, ec.SECP256R1):
            raise Wrong("it is not of type 2 and on P-256")
        same(bytes.fromhex(key_id), self.key_id)

    def open(self, note: str) -> Head:
        """Verifies a checkpoint and reads it."""
        text, _, signatures = note.rpartition("\n\n")
        text += "\n"
        self.verify(text.encode(), signatures)
        origin, size, root, end = text.split("\n")
        same((origin, end), (self.name, ""))
        return Head(number(size), digest(root))

    def verify(self, text: bytes, signatures: str) -> None:
        """signed-note, "Signatures": every one of the key is good, and there is one."""
        known = 0
        for line in signatures.removesuffix("\n").split("\n"):
            dash, name, signature = line.split(" ")
            same(dash, "\u2014")
            key_id, signature = decoded(signature)[:4], decoded(signature)[4:]
            if (name, key_id) == (self.name, self.key_id):
                self.key.verify(signature, text, ec.ECDSA(hashes.SHA256()))
                known += 1
        if not known:
            raise Wrong(f"{self.name} has not signed it")


class Wrong(Exception):
    """Something is not what the standards say."""


def mth(leaves: list[bytes]) -> bytes:
    """RFC 6962 §2.1."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    k = split(len(leaves))
    return node(mth(leaves[:k]), mth(leaves[k:]))


def root_by_path(m: int, n: int, hash_of_leaf: bytes, path: list[bytes]) -> bytes:
    """PATH of RFC 6962 §2.1.1, undone: its last hash is the other half of the tree."""
    if n == 1:
        same(path, [])
        return hash_of_leaf
    if not path:
        raise Wrong("the path is too short")
    k, other = split(n), path[-1]
    if m < k:
        return node(root_by_path(m, k, hash_of_leaf, path[:-1]), other)
    return node(other, root_by_path(m - k, n - k, hash_of_leaf, path[:-1]))


def consistent(old: Head, new: Head, path: list[bytes]) -> None:
    """RFC 6962 §2.1.2; a tree without leaves begins every other."""
    if old.size == 0 or old.size == new.size:
        same(path, [])
        same(old.root, new.root if old.size else mth([]))
        return
    if old.size > new.size:
        raise Wrong("the older tree is the larger")
    same(roots_by_subproof(old.size, new.size, True, old.root, path), (old.root, new.root))


def roots_by_subproof(m: int, n: int, b: bool, known: bytes, path: list[bytes]) -> tuple:
    """SUBPROOF of RFC 6962 §2.1.2, undone: what it makes of the old tree, and of the new."""
    if m == n:
        same(len(path), 0 if b else 1)
        return (known, known) if b else (path[0], path[0])
    if not path:
        raise Wrong("the path is too short")
    k, other = split(n), path[-1]
    if m <= k:
        old, new = roots_by_subproof(m, k, b, known, path[:-1])
        return old, node(new, other)
    old, new = roots_by_subproof(m - k, n - k, False, known, path[:-1])
    return node(other, old), node(other, new)


def split(n: int) -> int:
    """The largest power of two smaller than n."""
    return 1 << ((n - 1).bit_length() - 1)


def leaf(entry: bytes) -> bytes:
    return hashlib.sha256(b"\0" + entry).digest()


def node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def number(text: str) -> int:
    """Decimal, without leading zeros."""
    if not re.fullmatch("0|[1-9][0-9]*", text):
        raise Wrong(f"{text!r} is no plain number")
    return int(text)


def digest(text: str) -> bytes:
    found = decoded(text)
    same(len(found), 32)
    return found


def decoded(text: str) -> bytes:
    found = base64.b64decode(text, validate=True)
    same(base64.b64encode(found).decode(), text)
    return found


def same(found: object, wanted: object) -> None:
    if found != wanted:
        raise Wrong(f"{found!r} is not {wanted!r}")


def read(path: Path) -> str:
    """As it is: no newline is translated."""
    return path.read_bytes().decode()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vkey", required=True, help="the log's key: name+id+key")
    parser.add_argument("--checkpoint", type=Path, help="a signed tree head")
    parser.add_argument("--tiles", type=Path, help="the folder that holds `tile`")
    parser.add_argument("--inclusion", type=Path, help="a .tlog-proof")
    parser.add_argument("--entry", type=Path, help="the entry that it is about, as it was hashed")
    parser.add_argument("--consistency", type=Path, help="a proof with two checkpoints")
    asked = parser.parse_args()
    if bool(asked.inclusion) != bool(asked.entry) or (asked.tiles and not asked.checkpoint):
        parser.error("--inclusion goes with --entry, and --tiles with --checkpoint")
    if not (asked.checkpoint or asked.inclusion or asked.consistency):
        parser.error("nothing to judge")
    return asked


if __name__ == "__main__":
    pronounce(main)
