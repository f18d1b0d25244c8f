"""Query, document and instruction of a pair, each cut to what can be kept of it before anything is put around them.

First a long text loses what no limit could keep (``windows.shortened``), so that tokenising costs what the model reads
and not what the caller sent; then the callers' own limits are applied.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tokenizers import Tokenizer

from engine.errors import PARAM, FieldPath, InvalidRequestError, RequestError
from engine.inputs.checks import longer_than, no_tokens, query_path
from engine.inputs.pair_encoder import Pair, encode_all
from engine.inputs.truncation import Side, cut_texts, may_exceed
from engine.inputs.windows import Shortened, shortened
from engine.request import Encoded, PairOptions

_OWN_LIMITS = {"query": "max_tokens_per_query", "document": "max_tokens_per_doc"}


@dataclass
class CallParts:
    """The pairs of a call by their numbers; those that cannot be read move to ``refused``."""

    pairs: dict[int, Pair]
    refused: dict[int, InvalidRequestError]
    num_queries: int
    """As the call has them: one, or one for each pair."""
    cut: dict[str, set[int]] = field(default_factory=lambda: {"query": set(), "document": set()})
    """Pairs whose query and whose document was cut."""
    left_out: set[int] = field(default_factory=set)
    """Pairs of which characters were left out: how many tokens they would have had is not known."""

    def path(self, name: str, number: int) -> FieldPath:
        """The field of a pair's text."""
        if name == "document":
            return "documents", number
        return query_path(number if self.num_queries > 1 else 0, self.num_queries)

    def refuse(self, name: str, number: int, message: str) -> None:
        """Takes a pair out, because of its query or its document."""
        del self.pairs[number]
        self.refused[number] = InvalidRequestError(message, param=self.path(name, number))

    def shorten(self, tokenizer: Tokenizer, limit: int, options: PairOptions) -> None:
        """Leaves out what no cut to ``limit`` tokens could keep.

        Raises ``InvalidRequestError`` about an instruction of which that is not even known.
        """
        known: dict[tuple[str, int, Side], Shortened] = {}

        def short(text: str, most: int, side: Side) -> Shortened:
            key = text, most, side
            if key not in known:
                known[key] = shortened(tokenizer, text, most, side)
            return known[key]

        for i, pair in list(self.pairs.items()):
            told = short(pair.instruction, limit, "right")
            if told.is_cut:
                raise InvalidRequestError(f"{PARAM} has {len(pair.instruction)} characters.", param="instruction")
            changed = replace(pair, instruction=told.text) if not told.is_whole else pair
            for name, option in _OWN_LIMITS.items():
                own: int = getattr(options, option)
                side: Side = options.truncation_side if name == "document" else "right"
                found = short(getattr(pair, name), min(limit, own or limit), side)
                if found.is_whole:
                    continue
                if not own:
                    self.left_out.add(i)
                changed = _with_text(changed, name, found.text)
                if found.is_cut and not (options.truncate or own):
                    num_chars = len(getattr(pair, name))
                    self.refuse(name, i, f"{PARAM} has {num_chars} characters, too many for a limit of {limit} tokens.")
                    break
                if found.is_cut:
                    self.cut[name].add(i)
            if i in self.pairs:
                self.pairs[i] = changed

    def refuse_empty_queries(self, tokenizer: Tokenizer) -> None:
        """Takes out the pairs whose query the tokenizer empties: it is as good as blank."""
        read = {i: pair for i, pair in self.pairs.items() if not (pair.pictures and pair.pictures[0])}
        texts = list({pair.query for pair in read.values()})
        encodings = zip(texts, encode_all(tokenizer, texts, special=False), strict=True)
        empty = {text for text, encoding in encodings if not encoding.ids}
        for i in [i for i, pair in read.items() if pair.query in empty]:
            self.refuse("query", i, no_tokens(()).template)

    def apply_own_limits(self, tokenizer: Tokenizer, options: PairOptions) -> None:
        """The caller's own limits on query and document. A pair of which such a cut leaves nothing is refused."""
        for name, option in _OWN_LIMITS.items():
            limit: int = getattr(options, option)
            if not limit:
                continue
            long = [i for i, pair in self.pairs.items() if may_exceed(getattr(pair, name), limit)]
            texts = list(dict.fromkeys(getattr(self.pairs[i], name) for i in long))
            side: Side = options.truncation_side if name == "document" else "right"
            short = dict(zip(texts, cut_texts(tokenizer, texts, limit, side), strict=True)) if texts else {}
            for i in long:
                before = getattr(self.pairs[i], name)
                if short[before] == "" != before:
                    message = f"{PARAM} has no token left: its first character has more than {option} = {limit} tokens."
                    self.refuse(name, i, message)
                elif short[before] != before:
                    self.pairs[i] = _with_text(self.pairs[i], name, short[before])
                    self.cut[name].add(i)

    def with_cuts(self, pair: Encoded, number: int, limit: int, options: PairOptions) -> Encoded:
        """A pair with what was cut before it was tokenised; errors name no length that is not known."""
        if isinstance(pair, RequestError):
            if options.truncate or number not in self.left_out or number in self.refused:
                return pair
            return longer_than(limit, pair.path)
        query, document = number in self.cut["query"], number in self.cut["document"]
        if not query and not document:
            return pair
        return replace(
            pair,
            truncated_query=query or pair.truncated_query,
            truncated_document=document or pair.truncated_document,
        )


def _with_text(pair: Pair, name: str, text: str) -> Pair:
    return replace(pair, query=text) if name == "query" else replace(pair, document=text)
