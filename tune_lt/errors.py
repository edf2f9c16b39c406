"""The two errors that a person can act on; everything else is a bug. And what of a text may be shown."""

import re
from urllib.parse import unquote

# control characters, halves of characters (bytes of a file's name that are no UTF-8), what turns the writing round
_UNSHOWN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u202a-\u202e\u2066-\u2069]")
# of a URI: what stands between the user's name and the host, an @ or a / in it too, and in the query
_PASSWORD = re.compile(r"(?<=://)([^/@:\s]*):(\S*)@")
_QUERIED = re.compile(r"(?<=[?&])(\w*(?:password|passwd|pwd|secret|token)\w*)=([^&\s]+)", re.IGNORECASE)
_PIECE = 3  # characters of a password that are looked for alone


class InputError(ValueError):
    """Something the user wrote or pointed at is wrong: the message says where, what was found, what is valid.

    The command line prints the message alone and exits with code 2.
    """


class TrainingFailed(RuntimeError):
    """A training run cannot go on (NaN loss, for example): the trial ends with this reason, the study goes on."""


def printable(text: str) -> str:
    """``text`` with escapes for what a terminal would obey rather than show; line breaks stay."""
    return _UNSHOWN.sub(lambda found: repr(found[0])[1:-1], text)


def redacted(text: str, uri: str = "") -> str:
    """``text`` without the passwords of the URIs in it, and without that of ``uri`` wherever it stands.

    A library may quote a password by itself, or the part of it that it took for the host's name.
    """
    secrets = [found[2] for pattern in (_PASSWORD, _QUERIED) for found in pattern.finditer(uri)]
    pieces = {piece for secret in secrets for piece in (secret, unquote(secret), *re.split("[@/:]", secret))}
    text = _QUERIED.sub(r"\1=***", _PASSWORD.sub(r"\1:***@", text))
    for piece in sorted(pieces, key=len, reverse=True):
        text = text.replace(piece, "***") if len(piece) >= _PIECE or piece in secrets else text
    return text
