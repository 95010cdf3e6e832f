"""How a judge speaks: one `ok <what>` line per claim that held, or one reason and exit status 1."""

import sys
from typing import Callable


class Refused(Exception):
    """A claim that did not hold; the text names the claim and the reason."""


def accepts(claim: str, check: Callable[[], object]) -> object:
    """Runs a check that must succeed and returns its answer."""
    try:
        answer = check()
    except Refused:
        raise
    except Exception as error:  # a library may refuse with any type; each is a verdict
        raise Refused(f"{claim}: {type(error).__name__}: {error}") from error
    print(f"ok {claim}")
    return answer


def refuses(claim: str, check: Callable[[], object], reason: type[Exception]) -> None:
    """Runs a check that must fail with `reason`: a judge that accepts everything proves nothing."""
    try:
        check()
    except reason:
        print(f"ok {claim}")
        return
    except Exception as error:
        raise Refused(f"{claim}: refused, but as {type(error).__name__}: {error}") from error
    raise Refused(f"{claim}: it was accepted")


def holds(claim: str, found: object, expected: object) -> None:
    """Compares what a library read with what was asked for."""
    if found != expected:
        raise Refused(f"{claim}: expected {expected!r}, found {found!r}")
    print(f"ok {claim}")


def pronounce(judge: Callable[[], None]) -> None:
    """Runs a whole judge and turns its outcome into an exit status."""
    try:
        judge()
    except Refused as reason:
        sys.exit(f"refused {reason}")
    except OSError as error:
        sys.exit(f"refused {error.filename}: {error.strerror}")
