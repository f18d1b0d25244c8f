"""Objects in the place of texts: a text with pictures, as ``{"text", "image"}`` or as OpenAI's parts of a message.

What they show is not looked at here. Every error names the field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from engine.errors import PARAM, FieldPath, InvalidRequestError
from engine.request import Content, ImageSource

IMAGE_KEYS = ("image", "image_url")
OTHER_MEDIA = ("video", "audio", "video_url", "audio_url", "input_audio", "file")


def other_media(item: Mapping[str, Any]) -> str | None:
    """The key under which an object holds what is neither text nor picture."""
    return next((key for key in OTHER_MEDIA if item.get(key) is not None), None)


def shows(item: Mapping[str, Any]) -> bool:
    """Whether an object has a picture of its own."""
    return any(item.get(key) is not None for key in IMAGE_KEYS)


def shown_content(item: Mapping[str, Any], where: FieldPath) -> Content:
    """The content of an object with pictures: ``{"image": ...}``, with or without a ``text``; several are a list.

    Raises ``InvalidRequestError``.
    """
    text = item.get("text")
    if text is not None and not isinstance(text, str):
        _fail("The text beside a picture must be a string", (*where, "text"))
    images: list[ImageSource] = []
    for key in IMAGE_KEYS:
        given = item.get(key)
        for one in given if isinstance(given, list) else [] if given is None else [given]:
            images.append(ImageSource(_data(one, where)))
    if not images:
        _fail("Expected a picture, got an empty list", where)
    return Content(text or "", tuple(images))


def parts_content(parts: Sequence[Any], where: FieldPath) -> Content:
    """The content of OpenAI's parts: ``{"type": "text", "text": ...}`` and ``{"type": "image_url", "image_url": ...}``.

    Pictures stand before the text, whatever their order; texts are joined by line breaks. Raises
    ``InvalidRequestError``.
    """
    texts: list[str] = []
    images: list[ImageSource] = []
    for i, part in enumerate(parts):
        own = (*where, "content", i)
        kind = part.get("type", "text" if "text" in part else None) if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str) and not shows(part) and not other_media(part):
            texts.append(part["text"])
        elif kind in (*IMAGE_KEYS, None) and isinstance(part, Mapping) and shows(part) and not other_media(part):
            given = next(part[key] for key in IMAGE_KEYS if part.get(key) is not None)
            images.append(ImageSource(_data(given, own), ("content", i)))
        else:
            _fail("Only text and pictures can be scored, and this part is neither", own)
    return Content("\n".join(texts), tuple(images))


def _data(given: Any, where: FieldPath) -> str:
    """``{"url": ...}``, or the URL itself."""
    found = given.get("url") if isinstance(given, Mapping) else given
    if not isinstance(found, str) or not found:
        _fail("A picture is a data URL, or an object with one as its url", where)
    return found


def _fail(message: str, where: FieldPath) -> NoReturn:
    raise InvalidRequestError(f"{message} at $.{PARAM}.", param=where)
