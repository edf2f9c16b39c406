"""The two errors that the user can act on, any other being a bug; and texts made safe to print."""

import re
from urllib.parse import unquote

# control characters but the line feed, surrogates (bytes of a file name that are not UTF-8), marks that reverse the
# direction of writing
_UNSHOWN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u202a-\u202e\u2066-\u2069]")
# in a URI: a password between the user's name and the host, which may contain @ or /, and one in the query
_PASSWORD = re.compile(r"(?<=://)([^/@:\s]*):(\S*)@")
_QUERIED = re.compile(r"(?<=[?&])(\w*(?:password|passwd|pwd|secret|token)\w*)=([^&\s]+)", re.IGNORECASE)
_PIECE = 3  # shorter parts of a password are not searched for


class InputError(ValueError):
    """A mistake in what the user wrote or named. The message says where it is, what was found and what is valid.

    The command line prints the message without a traceback and exits with code 2.
    """


class DamagedImage(InputError):
    """The bytes of an image file are damaged, so that every training that needs the image fails until they change."""


class TrainingFailed(RuntimeError):
    """A training cannot continue, for example because its loss is NaN. Its trial fails; the study continues."""


def printable(text: str) -> str:
    """``text`` with escapes such as ``\\x1b`` in place of characters that control a terminal; line feeds stay."""
    return _UNSHOWN.sub(lambda found: repr(found[0])[1:-1], text)


def redacted(text: str, uri: str = "") -> str:
    """``text`` with ``***`` for the passwords of all URIs in it, and for the password of ``uri`` wherever it occurs.

    A library's message may quote that password alone, or a part of it that the library took for the host.
    """
    secrets = [found[2] for pattern in (_PASSWORD, _QUERIED) for found in pattern.finditer(uri)]
    pieces = {piece for secret in secrets for piece in (secret, unquote(secret), *re.split("[@/:]", secret))}
    text = _QUERIED.sub(r"\1=***", _PASSWORD.sub(r"\1:***@", text))
    for piece in sorted(pieces, key=len, reverse=True):
        text = text.replace(piece, "***") if len(piece) >= _PIECE or piece in secrets else text
    return text
