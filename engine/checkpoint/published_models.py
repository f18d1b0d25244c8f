"""The table of published rerankers: ``published.toml``, read once and looked up by exact ids."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec

from engine.errors import ModelLoadError
from engine.model_spec import ActivationFn, HeadKind

TABLE = Path(__file__).with_name("published.toml")


class Published(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One recipe, and the models that are published with it. The fields are explained at the head of the file."""

    ids: tuple[str, ...]
    architectures: tuple[str, ...]
    tokens: tuple[str, ...] = ()
    token_ids: tuple[int, ...] = ()
    method: Literal["", "expectation"] = ""
    template: str | None = None
    activation: ActivationFn
    mean: float = 0.0
    sigma: float = 1.0
    max_len: int | None = None
    remote_code: tuple[str, ...] = ()
    sources: str = ""

    @property
    def head_kind(self) -> HeadKind | None:
        """How its tokens make one score; None for a model that has a head of its own."""
        if self.method:
            return self.method
        count = len(self.tokens or self.token_ids)
        return {1: "no_post_processing", 2: "from_2_way_softmax"}.get(count) if count else None  # type: ignore[return-value]

    @property
    def recipe(self) -> tuple[object, ...]:
        """All of an entry but the names: two entries with the same recipe say the same."""
        head = self.tokens, self.token_ids, self.method, self.template
        return *head, self.activation, self.mean, self.sigma, self.max_len, self.architectures


class _Table(msgspec.Struct, forbid_unknown_fields=True):
    model: list[Published]


@cache
def published_models() -> tuple[Published, ...]:
    """All entries, in the order of the file. Raises ``ModelLoadError`` where the file is damaged."""
    try:
        return tuple(msgspec.convert(tomllib.loads(TABLE.read_text(encoding="utf-8")), _Table).model)
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"The table of published models {TABLE} cannot be read: {error}.") from error


@cache
def _by_id() -> dict[str, tuple[Published, str]]:
    return {model_id.lower(): (model, model_id) for model in published_models() for model_id in model.ids}


@cache
def _by_name() -> dict[str, tuple[Published, str]]:
    """By the part behind the slash, where only one id ends so."""
    found: dict[str, list[tuple[Published, str]]] = {}
    for model in published_models():
        for model_id in model.ids:
            found.setdefault(model_id.rpartition("/")[2], []).append((model, model_id))
    return {name: entries[0] for name, entries in found.items() if len(entries) == 1}


def by_id(model_id: str) -> tuple[Published, str] | None:
    """The entry of ``owner/name`` and its id as published (the hub does not tell upper from lower case)."""
    return _by_id().get(model_id.lower())


def by_name(name: str) -> tuple[Published, str] | None:
    """The entry of the model whose id ends in exactly this name."""
    return _by_name().get(name)
