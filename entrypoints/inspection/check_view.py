"""``engine check`` on a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from engine.entrypoints.inspection.check import CheckedPair, CheckReport
from engine.entrypoints.inspection.prompt_view import Piece
from engine.entrypoints.terminal import plain, wrapped
from engine.step import QUANTIZED_NOTE

MAX_IDS = 400
MAX_CUT_CHARS = 200
_MARGIN = "  | "
_SPECIAL, _CUT = "bold magenta", "bold red"


def print_check(report: CheckReport, out: Console, *, tokens: bool = False) -> None:
    out.print(wrapped(str(report.facts["decision"])))
    how = report.facts["quantization"] or report.facts["dtype"]
    out.print(wrapped(f"Runs on {report.facts['device']} in {how}. Reference: {report.reference}."))
    for note in report.facts.get("notes", ()):
        if note.startswith(QUANTIZED_NOTE):
            out.print(wrapped(f"{note[0].upper()}{note[1:]}."))
    for number, pair in enumerate(report.pairs, 1):
        out.print()
        if len(report.pairs) > 1:
            out.print(plain(f"Document {number} of {len(report.pairs)}", "bold"))
        for line in _prompt(pair.pieces).wrap(out, out.width - len(_MARGIN)):
            out.print(Text.assemble((_MARGIN, "dim"), line))
        out.print()
        if tokens:
            out.print(_token_table(pair))
        else:
            out.print(wrapped(f"Token ids ({len(pair.token_ids)}): {_ids(pair.token_ids)}"))
        for line in (*_cuts(pair), *_scores(pair)):
            out.print(line)


def _prompt(pieces: list[Piece]) -> Text:
    """The template's special parts and the cuts marked, everything else as it is."""
    text = Text("", overflow="fold")
    for piece in pieces:
        if piece.kind == "special":
            text.append(f"⟦{piece.text}⟧", _SPECIAL)
        elif piece.kind == "cut":
            text.append(f"⟦cut: {piece.num_tokens} tokens: {_shortened(visible(piece.text))}⟧", _CUT)
        else:
            text.append(visible(piece.text))
    return text


def visible(text: str) -> str:
    """Control characters as escapes: a document must not move the cursor."""
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode() for char in text
    )


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    if len(text) <= MAX_CUT_CHARS:
        return text
    half = MAX_CUT_CHARS // 2
    return f"{text[:half]} … {text[-half:]}"


def _ids(ids: list[int]) -> str:
    if len(ids) <= MAX_IDS:
        return " ".join(map(str, ids))
    half = MAX_IDS // 2
    left_out = len(ids) - MAX_IDS
    return f"{' '.join(map(str, ids[:half]))} … {left_out} more (--json shows all) … {' '.join(map(str, ids[-half:]))}"


def _token_table(pair: CheckedPair) -> Text:
    width = len(str(max(pair.token_ids)))
    rows = zip(pair.token_ids, pair.tokens, strict=True)
    lines = [f"{position:>6}  {token_id:>{width}}  {token!r}" for position, (token_id, token) in enumerate(rows)]
    return Text("\n".join(["Tokens (position, id, text):", *lines]), overflow="fold")


def _cuts(pair: CheckedPair) -> Iterator[Text]:
    num_cut = pair.num_uncut - len(pair.token_ids)
    if not num_cut:
        yield wrapped("Cut: nothing.")
        return
    parts = [name for name, cut in (("query", pair.truncated_query), ("document", pair.truncated_document)) if cut]
    message = f"Cut: {num_cut} of {pair.num_uncut} tokens, from the {' and the '.join(parts)}; template kept whole."
    yield wrapped(message, _CUT)


def _scores(pair: CheckedPair) -> Iterator[Text]:
    yield Text(f"{'':<14}{'logit':>14}{'score':>14}")
    yield Text(f"{'engine':<14}{pair.logit:>14.6f}{pair.score:>14.8f}")
    if pair.reference_logit is None or pair.reference_score is None or pair.difference is None:
        return
    yield Text(f"{'transformers':<14}{pair.reference_logit:>14.6f}{pair.reference_score:>14.8f}")
    yield Text(f"{'difference':<14}{pair.difference:>14.1e}{pair.score - pair.reference_score:>14.1e}")
    if pair.reference_ids_equal is not None:
        yield wrapped(
            "Tokens: the tokenizer of transformers gives the same ids."
            if pair.reference_ids_equal
            else "Tokens: the tokenizer of transformers gives other ids for this text. That is intended where a text "
            "spells a special token or brings its own prompt, and otherwise worth a look."
        )
