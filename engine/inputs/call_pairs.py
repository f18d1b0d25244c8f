"""The texts of a call to its pairs: each is checked, freed of a prompt that its sender put around it, and given one."""

from __future__ import annotations

from collections.abc import Sequence

from engine.errors import InvalidRequestError
from engine.inputs.checks import check_query, check_text, query_path, wrong_lengths
from engine.inputs.model_prompts import ModelPrompts
from engine.inputs.pair_encoder import Pair
from engine.inputs.part_limits import CallParts
from engine.inputs.pictures import Shown, with_pictures
from engine.prompts.template import Placeholder
from engine.request import PairPictures

Instructions = Sequence[str | None] | None
"""One for each document, or none; a pair without one has the call's."""


def call_pairs(
    prompts: ModelPrompts,
    queries: Sequence[str],
    documents: Sequence[str],
    instruction: str | None,
    instructions: Instructions,
    shown: Shown | None = None,
) -> CallParts:
    """The pairs by their numbers, and those that are wrong by themselves. ``shown``: pictures beside the texts.

    Raises ``InvalidRequestError`` about what is wrong with the call as a whole, or with a text that is none.
    """
    pictures = shown.pictures if shown else [None] * len(documents)
    _check(queries, documents, instructions, pictures)
    common = prompts.instruction(instruction, ("instruction",))
    formatted = [prompts.is_formatted(query) for query in queries]
    pairs: dict[int, Pair] = {}
    refused: dict[int, InvalidRequestError] = {}
    for i, document in enumerate(documents):
        q = i if len(queries) > 1 else 0
        seen = pictures[i]
        if formatted[q] and seen is None:
            try:
                pairs[i] = prompts.unwrap(queries[q], document, query_path(q, len(queries)), i)
            except InvalidRequestError as error:
                refused[i] = error
            continue
        own = instructions[i] if instructions is not None else None
        told = prompts.instruction(own, ("instructions", i)) if own else common
        pair = _plain(prompts, queries[q], document, told, seen or ((), ()))
        try:
            pairs[i] = pair if shown is None or seen is None else with_pictures(pair, seen, shown.vision)
        except InvalidRequestError as error:
            refused[i] = error.at(("documents", i))
    return CallParts(pairs, refused, len(queries))


def _check(
    queries: Sequence[str],
    documents: Sequence[str],
    instructions: Instructions,
    pictures: Sequence[PairPictures | None],
) -> None:
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
        seen = pictures[i]
        (check_text if seen and seen[0] else check_query)(query, query_path(i, len(queries)))
    for i, document in enumerate(documents):
        check_text(document, ("documents", i))


def _plain(prompts: ModelPrompts, query: str, document: str, instruction: str, seen: PairPictures) -> Pair:
    """A pair whose texts came without a prompt. Nothing stands for the missing text of a side that shows a picture."""
    prompt = prompts.around(instruction)
    empty = ""
    if prompt is not None:
        empty = prompt.template.empty_text
        query = prompt.template.stripped(Placeholder.QUERY, query)
        document = prompt.template.stripped(Placeholder.DOCUMENT, document)
    query, document = (text or ("" if side else empty) for text, side in zip((query, document), seen, strict=True))
    return Pair(query, document, instruction, prompt)
