"""Judged data in one form, whatever it was read from."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from engine.errors import ConfigError

Qrels = Mapping[str, Mapping[str, int]]
"""Query id -> document id -> grade; above zero is relevant."""
Ranking = dict[str, list[str]]
"""Query id -> document ids, best first, each once."""


@dataclass(frozen=True)
class EvaluationSet:
    """Queries with at least one relevant document each."""

    name: str
    queries: dict[str, str]
    documents: dict[str, str]
    qrels: Qrels
    candidates: Ranking | None = None
    """What there is to rank for each query, in an order that says nothing; None: all documents."""
    notes: tuple[str, ...] = field(default=())
    """What was left out and why."""

    @property
    def num_judgements(self) -> int:
        return sum(map(len, self.qrels.values()))

    def lists(self) -> list[tuple[str, list[str]]]:
        """Each query with the texts of its candidates."""
        assert self.candidates is not None, "only sets with candidates of their own are lists"
        return [(text, [self.documents[i] for i in self.candidates[name]]) for name, text in self.queries.items()]

    def grades(self) -> list[list[int]]:
        """The judgements of ``lists``; 0 where there is none."""
        assert self.candidates is not None, "only sets with candidates of their own are lists"
        return [[self.qrels[name].get(i, 0) for i in self.candidates[name]] for name in self.queries]

    def sample(self, num_queries: int | None, seed: int = 0) -> EvaluationSet:
        """That many of the queries, drawn at random but always the same ones, in their order."""
        if num_queries is None or num_queries >= len(self.queries):
            return self
        chosen = set(random.Random(seed).sample(list(self.queries), num_queries))
        return replace(
            self,
            queries={name: text for name, text in self.queries.items() if name in chosen},
            qrels={name: judged for name, judged in self.qrels.items() if name in chosen},
            notes=(*self.notes, f"{num_queries} of {len(self.queries)} queries, drawn with seed {seed}"),
        )


def judged_set(
    name: str,
    queries: Mapping[str, str],
    documents: dict[str, str],
    qrels: Qrels,
    candidates: Ranking | None = None,
    notes: tuple[str, ...] = (),
) -> EvaluationSet:
    """Keeps the queries that can be measured: those with a relevant document.

    Raises ``ConfigError`` where there is none.
    """
    measurable = {query: judged for query, judged in qrels.items() if any(grade > 0 for grade in judged.values())}
    if not measurable:
        raise ConfigError(f"{name}: no judgement above 0, so there is nothing to measure.")
    if left_out := len(qrels) - len(measurable):
        notes = (*notes, f"{left_out} queries without a relevant document are not counted")
    kept = {query: queries[query] for query in measurable}
    return EvaluationSet(name, kept, documents, measurable, candidates, notes)
