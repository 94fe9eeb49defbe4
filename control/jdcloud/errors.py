"""What is refused, as JD Cloud's API says it: a code (the status of HTTP), a word for it, a message. Pure."""

from __future__ import annotations

from control.cloud.errors import CloudError


class JdError(CloudError):
    """A request that is refused."""


def invalid(name: str, why: str) -> JdError:
    """A parameter that is not what it may be."""
    return JdError(400, "INVALID_ARGUMENT", f"Request field {name} is not valid: {why}.")


def missing(name: str) -> JdError:
    """A parameter that has to be given."""
    return JdError(400, "INVALID_ARGUMENT", f"Request field {name} is missing.")


def unsupported(name: str, why: str) -> JdError:
    """A parameter of the API that means something which there is not here."""
    return JdError(400, "INVALID_ARGUMENT", f"Request field {name} is not supported here: {why}.")


def absent(kind: str, identity: str) -> JdError:
    return JdError(404, "NOT_FOUND", f"{kind} {identity!r} not found.")


def in_use(kind: str, identity: str) -> JdError:
    return JdError(400, "FAILED_PRECONDITION", f"{kind} {identity!r} is in use.")


def conflict(why: str) -> JdError:
    """What the state of things does not allow."""
    return JdError(400, "FAILED_PRECONDITION", why)


def unauthenticated(why: str) -> JdError:
    return JdError(401, "UNAUTHENTICATED", why)
