"""Where a caller's picture is: in the call itself, or on a host that the operator allows. Everything else is refused.

Errors never quote what was sent, only what kind of thing it is.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from urllib.parse import urlsplit

from engine.errors import PARAM, InvalidRequestError, TooLargeError

MAX_BYTES = 20 * 2**20
"""Of an encoded picture."""
FORMATS = ("png", "jpeg", "jpg", "webp")
_DATA = re.compile(r"data:([^;,]*)((?:;[^;,]*)*),", re.IGNORECASE)
_MAX_HEAD = 256
"""Letters before the data of a data URL."""


def is_address(source: str) -> bool:
    """Whether the picture has to be fetched."""
    return source[:8].lower().startswith(("http://", "https://"))


def picture_bytes(source: str, fetch: Callable[[str], bytes]) -> bytes:
    """The encoded picture. ``fetch`` gets the addresses. Raises ``RequestError``, about no field."""
    if is_address(source):
        return fetch(source)
    found = _DATA.match(source[:_MAX_HEAD])
    if found is not None:
        _check_kind(found[1].strip().lower(), found[2].lower().split(";")[1:])
        text = source[found.end() :]
    elif re.match(r"[A-Za-z][A-Za-z0-9+.-]{0,31}:", source):
        raise InvalidRequestError(
            f"{PARAM}: pictures come as data:image/png;base64,... or in bare base64; "
            f"{urlsplit(source[:_MAX_HEAD]).scheme}: is never read."
        )
    else:
        text = source
    return _decoded(text)


def _check_kind(media_type: str, parameters: list[str]) -> None:
    kind = media_type.removeprefix("image/")
    if not media_type.startswith("image/") or kind not in FORMATS:
        named = media_type if re.fullmatch(r"[a-z0-9.+-]+/[a-z0-9.+-]+", media_type) else "something else"
        raise InvalidRequestError(
            f"{PARAM}: pictures are read as image/png, image/jpeg and image/webp; this says {named}.",
            code="unsupported_image",
        )
    if [part.strip() for part in parameters if part.strip()][-1:] != ["base64"]:
        raise InvalidRequestError(f"{PARAM}: the data of a picture must be in base64 (data:image/png;base64,...).")


def _decoded(text: str) -> bytes:
    if len(text) > MAX_BYTES // 3 * 4 + 4:
        raise too_large()
    try:
        data = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequestError(
            f"{PARAM} is no picture: neither a data URL nor base64.", code="unreadable_image"
        ) from error
    if not data:
        raise InvalidRequestError(f"{PARAM} is no picture: it is empty.", code="unreadable_image")
    return data


def too_large() -> TooLargeError:
    """The error about a picture of too many bytes."""
    return TooLargeError(f"{PARAM}: the picture has more than {MAX_BYTES >> 20} MiB.")
