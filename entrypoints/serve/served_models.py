"""The models of a server: which one a call means by ``model``, and with which LoRA adapter."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from engine.entrypoints.serve.loaded_engine import LoadedEngine
from engine.errors import ConfigError, NotFoundError, NotReadyError

PROVIDERS = ("fireworks", "mixedbread-ai", "nvidia")
"""What LiteLLM and Dify write before the name of a model that is meant for one of these."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The model, and the adapter, that a call means."""

    engine: LoadedEngine
    name: str
    """The name that the call gave, which its answer repeats."""
    adapter: str | None = None


class ServedModels:
    """The models in the order in which they were given; the first one answers calls that name none."""

    def __init__(self) -> None:
        self._engines: list[LoadedEngine] = []
        self._by_name: dict[str, Chosen] = {}
        self._uses: Counter[str] = Counter()
        """Calls on each adapter."""
        self._released = asyncio.Event()

    def add(self, engine: LoadedEngine) -> None:
        """Adds a model under all its names. Raises ``ConfigError`` for a name that another model has."""
        chosen = [Chosen(engine, name) for name in engine.names]
        chosen += [Chosen(engine, name, name) for name in engine.adapters]
        for one in chosen:
            if one.name in self._by_name:
                raise ConfigError(
                    f"Two models are called {one.name!r}: name them apart with --served-model-name, one name a model.",
                    param="served_model_name",
                )
            self._by_name[one.name] = one
        self._by_name.setdefault(engine.spec.name, chosen[0])
        self._engines.append(engine)

    def __iter__(self) -> Iterator[LoadedEngine]:
        return iter(self._engines)

    def __len__(self) -> int:
        return len(self._engines)

    @property
    def names(self) -> list[str]:
        """Every name that a call can give, adapters included."""
        return [name for engine in self._engines for name in (*engine.names, *engine.adapters)]

    @property
    def default(self) -> LoadedEngine:
        """The first model. Raises ``NotReadyError`` while none is loaded."""
        if not self._engines:
            raise NotReadyError("The model is still loading.", retry_after_s=5)
        return self._engines[0]

    # -- adapters that come and go ------------------------------------------------------------------------------------

    def put_adapter(self, engine: LoadedEngine, name: str, fingerprint: str) -> None:
        """Calls may use an adapter from now on, or another one under its name."""
        engine.adapters[name] = fingerprint
        self._by_name[name] = Chosen(engine, name, name)

    def drop_adapter(self, name: str) -> None:
        """No further call may use an adapter."""
        del self._by_name[name].engine.adapters[name], self._by_name[name]

    def owner_of_adapter(self, name: str) -> LoadedEngine | None:
        """The model that has an adapter of that name."""
        return next((engine for engine in self._engines if name in engine.adapters), None)

    @contextmanager
    def using(self, chosen: Chosen) -> Iterator[None]:
        """While a call runs: its adapter is not taken away."""
        name = chosen.adapter
        if name is None:
            yield
            return
        self._uses[name] += 1
        try:
            yield
        finally:
            self._uses[name] -= 1
            if not self._uses[name]:
                del self._uses[name]
                self._released.set()

    async def unused(self, name: str) -> None:
        """Waits until no call uses an adapter, which was dropped."""
        while self._uses[name]:
            self._released.clear()
            await self._released.wait()

    def choose(self, name: str | None) -> Chosen:
        """The model of that name; None and "" are the default. Raises ``NotFoundError`` or ``NotReadyError``."""
        default = self.default
        if not name:
            return Chosen(default, default.names[0])
        found = self._by_name.get(name) or self._without_owner(name) or self._respelled(name)
        if found is None:
            message = f"The model `{_shown(name)}` does not exist. Served here: {', '.join(self.names)}."
            raise NotFoundError(message, param="model", code="model_not_found")
        return found if found.name == name else Chosen(found.engine, name)

    def _without_owner(self, name: str) -> Chosen | None:
        """``Qwen3-Reranker-8B`` for ``Qwen/Qwen3-Reranker-8B``, as guides have it, where that is one model only."""
        found = [engine for engine in self._engines if engine.spec.name.rstrip("/").rpartition("/")[2] == name]
        return Chosen(found[0], name) if len(found) == 1 else None

    def _respelled(self, name: str) -> Chosen | None:
        """The model whose name a client rewrote: a provider's before it, or dots for ``_``, as LiteLLM does for NIM."""
        provider, _, rest = name.partition("/")
        if provider in PROVIDERS and rest in self._by_name:
            return self._by_name[rest]
        found = {id(one.engine): one for key, one in self._by_name.items() if _spelling(key) == _spelling(name)}
        return next(iter(found.values())) if len(found) == 1 else None


def _spelling(name: str) -> str:
    return name.replace("_", ".")


def _shown(name: str) -> str:
    """A name that a caller sent, short enough for an error."""
    return name if len(name) <= 200 else f"{name[:200]}... ({len(name)} characters)"
