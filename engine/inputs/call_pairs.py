"""The texts of a call to its pairs: each is checked, freed of a prompt that its sender put around it, and given one."""

from __future__ import annotations

from collections.abc import Sequence

from engine.errors import InvalidRequestError
from engine.inputs.checks import check_query, check_text, query_path, wrong_lengths
from engine.inputs.model_prompts import ModelPrompts
from engine.inputs.pair_encoder import Pair
from engine.inputs.part_limits import CallParts
from engine.prompts.template import Placeholder

Instructions = Sequence[str | None] | None
"""One for each document, or none; a pair without one has the call's."""


def call_pairs(
    prompts: ModelPrompts,
    queries: Sequence[str],
    documents: Sequence[str],
    instruction: str | None,
    instructions: Instructions,
) -> CallParts:
    """The pairs by their numbers, and those that are wrong by themselves.

    Raises ``InvalidRequestError`` about what is wrong with the call as a whole, or with a text that is none.
    """
    _check(queries, documents, instructions)
    common = prompts.instruction(instruction, ("instruction",))
    formatted = [prompts.is_formatted(query) for query in queries]
    pairs: dict[int, Pair] = {}
    refused: dict[int, InvalidRequestError] = {}
    for i, document in enumerate(documents):
        q = i if len(queries) > 1 else 0
        if formatted[q]:
            try:
                pairs[i] = prompts.unwrap(queries[q], document, query_path(q, len(queries)), i)
            except InvalidRequestError as error:
                refused[i] = error
            continue
        own = instructions[i] if instructions is not None else None
        pairs[i] = _plain(
            prompts, queries[q], document, prompts.instruction(own, ("instructions", i)) if own else common
        )
    return CallParts(pairs, refused, len(queries))


def _check(queries: Sequence[str], documents: Sequence[str], instructions: Instructions) -> None:
    count = len(documents)
    if not count:
        raise InvalidRequestError("There is no document to score.", param="documents")
    if len(queries) not in (1, count):
        raise wrong_lengths(len(queries), count)
    if instructions is not None and len(instructions) != count:
        raise InvalidRequestError(
            f"There are {len(instructions)} instructions for {count} documents.", param="instructions"
        )
    for i, query in enumerate(queries):
        check_query(query, query_path(i, len(queries)))
    for i, document in enumerate(documents):
        check_text(document, ("documents", i))


def _plain(prompts: ModelPrompts, query: str, document: str, instruction: str) -> Pair:
    """A pair whose texts came without a prompt."""
    prompt = prompts.around(instruction)
    empty = ""
    if prompt is not None:
        empty = prompt.template.empty_text
        query = prompt.template.stripped(Placeholder.QUERY, query)
        document = prompt.template.stripped(Placeholder.DOCUMENT, document)
    return Pair(query or empty, document or empty, instruction, prompt)
