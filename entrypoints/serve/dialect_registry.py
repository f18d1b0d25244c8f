"""The dialects of the folder ``dialects``, found by looking through it: there is no list to add one to."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Mapping

from engine.entrypoints.serve import dialects
from engine.entrypoints.serve.dialects.base import Dialect
from engine.entrypoints.settings.options import nearest
from engine.errors import InvalidRequestError


def _found() -> Iterator[Dialect]:
    """One of each class that has a ``name`` of its own, file by file."""
    for info in pkgutil.iter_modules(dialects.__path__, f"{dialects.__name__}."):
        for value in vars(importlib.import_module(info.name)).values():
            is_here = inspect.isclass(value) and issubclass(value, Dialect) and value.__module__ == info.name
            if is_here and "name" in vars(value):
                yield value()


def _by_unique(what: str, pairs: Iterator[tuple[str, Dialect]]) -> dict[str, Dialect]:
    """Two dialects that claim the same would hide one another; whoever adds one hears of it at the first import."""
    found: dict[str, Dialect] = {}
    for key, dialect in pairs:
        if key in found:
            raise TypeError(f"the dialects {found[key].name} and {dialect.name} have the same {what}: {key}")
        found[key] = dialect
    return found


def _names(dialect: Dialect) -> tuple[str, ...]:
    return dialect.name, *dialect.aliases


_ALL = sorted(_found(), key=lambda dialect: dialect.name)
DIALECTS: Mapping[str, Dialect] = {dialect.name: dialect for dialect in _ALL}
"""All dialects, by name."""
BY_PATH: Mapping[str, Dialect] = _by_unique("path", ((path, dialect) for dialect in _ALL for path in dialect.paths))
"""The dialect that each HTTP path belongs to."""
_BY_RANK = _by_unique("precedence", ((str(d.precedence), d) for d in _ALL if d.precedence is not None))
BY_BODY: tuple[Dialect, ...] = tuple(sorted(_BY_RANK.values(), key=lambda dialect: dialect.precedence or 0))
"""The dialects that a body can mean by itself, in the order in which they are asked."""
_BY_NAME = _by_unique("name", ((name, dialect) for dialect in _ALL for name in _names(dialect)))
CHOOSABLE: Mapping[str, Dialect] = {name: dialect for name, dialect in _BY_NAME.items() if dialect.choosable}
"""Names and aliases that ``--dialect``, the header and the query parameter take."""


def by_name(name: str) -> Dialect:
    """The dialect that a caller or the operator chose. Raises ``InvalidRequestError`` with the names there are."""
    dialect = CHOOSABLE.get(name)
    if dialect is None:
        raise InvalidRequestError(
            f"There is no dialect {name!r}; known are {', '.join(CHOOSABLE)}.{nearest(name, list(CHOOSABLE))}",
            param="dialect",
        )
    return dialect
