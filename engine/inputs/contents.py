"""Objects in the place of texts: a text with pictures, as ``{"text", "image"}`` or as OpenAI's parts of a message.

What they show is not looked at here. Every error names the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from engine.errors import PARAM, FieldPath, InvalidRequestError
from engine.request import Content, ImageSource

IMAGE_KEYS = ("image", "image_url")
OTHER_MEDIA = ("video", "audio", "video_url", "audio_url", "input_audio", "file")
NEVER_MEDIA = ("video", "audio")
"""Refused as null too: nobody else's objects have such keys."""


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


def parts_content(item: Mapping[str, Any], where: FieldPath) -> Content:
    """The content of an object with OpenAI's parts under ``content``: ``{"type": "text", "text": ...}`` and
    ``{"type": "image_url", "image_url": ...}``.

    Pictures stand before the text, whatever their order; texts are joined by line breaks. Raises
    ``InvalidRequestError``.
    """
    texts: list[str] = []
    images: list[ImageSource] = []
    if shows(item):
        _fail("A picture is one of the parts under 'content', or stands beside a 'text', not both", where)
    for i, part in enumerate(item["content"]):
        own = (*where, "content", i)
        if not isinstance(part, Mapping):
            _fail("Only text and pictures can be scored, and this part is neither", own)
        kind = part.get("type", None if part.get("text") is None else "text")
        shown = [part[key] for key in IMAGE_KEYS if part.get(key) is not None]
        if kind == "text" and isinstance(part.get("text"), str) and not shown and not other_media(part):
            texts.append(part["text"])
        elif kind in (*IMAGE_KEYS, None) and len(shown) == 1 and part.get("text") is None and not other_media(part):
            images.append(ImageSource(_data(shown[0], own), ("content", i)))
        else:
            _fail("Only text and pictures can be scored, and this part is neither one text nor one picture", own)
    return Content("\n".join(texts), tuple(images))


def _data(given: Any, where: FieldPath) -> str:
    """``{"url": ...}``, or the URL itself."""
    found = given.get("url") if isinstance(given, Mapping) else given
    if not isinstance(found, str) or not found:
        _fail("A picture is a data URL, or an object with one as its url", where)
    return found


def _fail(message: str, where: FieldPath) -> NoReturn:
    raise InvalidRequestError(f"{message} at $.{PARAM}.", param=where)
