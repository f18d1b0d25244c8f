"""Texts to validated token ids: the door. After it no input can be illegal.

A text is checked (a string, no lone surrogates, no blank query), freed of a prompt that its sender already put around
it, cut where the caller limits it, tokenised with special tokens switched off, and cut again where the whole pair is
too long: first the document, then the query, never the template. Errors name the field. One ``InputProcessor`` serves
any number of threads.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from engine.checkpoint.files import load_tokenizer
from engine.checkpoint.template import load_template
from engine.config import ModelConfig
from engine.errors import PARAM, ConfigError, FieldPath, InvalidRequestError, RequestError
from engine.inputs.bi_encoder import EmbeddingEncoder
from engine.inputs.checks import (
    TokenIds,
    check_query,
    check_text,
    checked_ids,
    no_tokens,
    query_path,
    wrong_lengths,
)
from engine.inputs.encoder import HuggingFaceEncoder, choose_encoder, keeps_all_bytes
from engine.inputs.id_pairs import IdPairs
from engine.inputs.late_interaction import LateEncoder, make_marks_plain
from engine.inputs.listwise import ListwiseEncoder, listwise_limits
from engine.inputs.pair_encoder import Draft, Pair, PairEncoder, TemplatePairs, TokenizerPairs, encode_all
from engine.inputs.part_limits import CallParts
from engine.inputs.spans import Chunking, Span, chunk_spans
from engine.inputs.token_access import TokenAccess
from engine.inputs.token_types import takes_types
from engine.inputs.truncation import MIN_DOCUMENT_TOKENS, Role, fit
from engine.inputs.unfamiliar import UnfamiliarTokens
from engine.inputs.windows import never, shortened
from engine.model_spec import ModelSpec
from engine.prompts.compiled import EMPTY, CompiledPrompt, SpecialIdGuard, compile_prompt, make_plain, surround
from engine.prompts.preformatted import Preformatted
from engine.prompts.published import QWEN3_RERANKER
from engine.prompts.template import Placeholder, Template
from engine.ranges import common_prefix
from engine.request import ChunkOptions, Encoded, EncodedPair, PairOptions, all_encoded

logger = logging.getLogger(__name__)
_DEFAULTS = PairOptions()
LEAST_ROOM = 8
"""Tokens that must be left for query and document beside the template."""


class InputProcessor(TokenAccess):
    """Builds the prompts of one model. Any number of threads may use one."""

    def __init__(self, spec: ModelSpec, config: ModelConfig) -> None:
        # Stated, because the library otherwise switches its threads off, with a warning, when a process is forked.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        self.max_model_len = spec.max_model_len
        super().__init__(load_tokenizer(Path(spec.tokenizer_path), lower_case=spec.lower_case), spec.vocab_size)
        self._pair_prompt = spec.pair_prompt
        self._prompt, self._preformatted, self._compiled = self._compile_prompts(spec)
        limits = listwise_limits(spec, config.max_docs_per_block)
        listwise = ListwiseEncoder(self._tokenizer, limits, spec.max_model_len) if limits else None
        if spec.late is not None:
            make_marks_plain(self._tokenizer, spec.late)
        make_plain(self._tokenizer, list(self._compiled.values()))
        self._keeps_all_bytes = keeps_all_bytes(self._tokenizer)
        guard = SpecialIdGuard(self._tokenizer)
        self._has_types = takes_types(spec)
        is_text = bool(self._compiled) or listwise is not None
        encoder = choose_encoder(self._tokenizer) if is_text else HuggingFaceEncoder(self._tokenizer)
        if listwise is not None:
            listwise.prepare(encoder, guard)
        logger.info("%s", encoder.note)
        self._with_prompt: PairEncoder = TemplatePairs(self._tokenizer, guard, encoder)
        self._without = TokenizerPairs(self._tokenizer, guard, type_ids=self._has_types, causal=spec.causal)
        self._listwise = listwise
        self._bi_encoder = EmbeddingEncoder(self._without, spec.text_prompts) if spec.head.kind == "embedding" else None
        late = LateEncoder(self._without, self._tokenizer, spec.late) if spec.late is not None else None
        self._comparing = listwise or late or self._bi_encoder
        """Of a model that does not score a prompt with one pair in it."""
        self._id_pairs = IdPairs(
            spec.vocab_size, spec.max_model_len, bi_encoder=self._bi_encoder is not None, type_ids=self._has_types
        )
        self.default_instruction = self._default_instruction(config)
        self.min_pair_tokens = self._check_room()
        """Tokens of the shortest pair: template, default instruction, two letters."""
        self._unfamiliar: UnfamiliarTokens | None = None
        self.constant_prefix = EMPTY
        """(n,) int32: the leading ids of every prompt with the default instruction."""
        if listwise is not None:
            self.constant_prefix = listwise.constant_prefix
        elif spec.causal and self._comparing is None:
            self.constant_prefix = self._find_constant_prefix()
        self._unfamiliar = UnfamiliarTokens(self._tokenizer, self.encode(["a"], ["b"])[0])

    @property
    def reads_lists(self) -> bool:
        """The documents of a query are read together, and their order matters: see ``ListwiseEncoder``."""
        return self._listwise is not None

    def _check_room(self) -> int:
        """The shortest prompt fits, so that truncation can always keep the template."""
        shortest = Pair("a", "b", self.default_instruction, self._prompt_with(self.default_instruction))
        if self._comparing is not None:  # limits hold for each text, or block
            found = self._comparing.encode({0: shortest}, self.max_model_len, _DEFAULTS)[0]
            if isinstance(found, RequestError):
                raise ConfigError(
                    f"A model length of {self.max_model_len} tokens leaves no room for a pair of two letters: {found}",
                    param="max_model_len",
                )
            return len(found.token_ids)
        length = len(self._drafts([shortest])[0].ids)
        if length + LEAST_ROOM > self.max_model_len:
            raise ConfigError(
                f"A model length of {self.max_model_len} tokens leaves no room: a pair of two letters already has "
                f"{length} with template and instruction. Raise --max-model-len to {length + LEAST_ROOM} or more.",
                param="max_model_len",
            )
        return length

    def _compile_prompts(
        self, spec: ModelSpec
    ) -> tuple[CompiledPrompt | None, Preformatted | None, dict[Template, CompiledPrompt]]:
        """The prompt of plain pairs, what recognises formatted ones, and all prompts that may be needed."""
        own_prompt = spec.head.kind in ("embedding", "listwise", "late_interaction")
        if own_prompt or not (spec.causal or spec.takes_prompt):
            return None, None, {}
        template = load_template(spec.template, official=spec.known_template)
        chat = all(self._tokenizer.token_to_id(token) is not None for token in ("<|im_start|>", "<|im_end|>"))
        preformatted = Preformatted(QWEN3_RERANKER) if chat else None
        instructed = [template.with_instruction] if template.with_instruction else []
        known = [template, *instructed, *(preformatted.templates if preformatted else [])]
        compiled = {one: compile_prompt(one, self._tokenizer) for one in dict.fromkeys(known)}
        for one in (template, *instructed):
            if spec.template is None or one.between_specials:
                compiled[one] = surround(compiled[one], self._tokenizer)
        as_pair = spec.template is None and spec.use_sep_token
        return None if as_pair else compiled[template], preformatted, compiled

    def _default_instruction(self, config: ModelConfig) -> str:
        if config.instruction and not self._takes_instruction:
            raise ConfigError(
                "This model's prompt has no place for an instruction. Leave it out, or serve a model that takes one.",
                param="instruction",
            )
        own = self._prompt.template.default_instruction if self._prompt else self._pair_prompt
        return config.instruction or own or ""

    @property
    def _takes_instruction(self) -> bool:
        if self._listwise is not None:
            return True
        prompt = self._prompt_with("any")
        return self._pair_prompt is not None if prompt is None else prompt.takes_instruction

    def _prompt_with(self, instruction: str) -> CompiledPrompt | None:
        """Some models have another prompt for calls that give an instruction."""
        other = self._prompt.template.with_instruction if self._prompt and instruction else None
        return self._compiled[other] if other else self._prompt

    def _find_constant_prefix(self) -> np.ndarray:
        """Over queries that begin differently: a letter, another script, a digit, a bracket."""
        samples = self.encode(["a", "中", "7", "(", "\u0301x"], ["b", "文", "8", ")", "-"])
        constant_prefix = samples[0].token_ids
        for sample in samples[1:]:
            constant_prefix = constant_prefix[: common_prefix(constant_prefix, sample.token_ids)]
        return constant_prefix.copy()

    def encode(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        options: PairOptions = _DEFAULTS,
        instructions: Sequence[str | None] | None = None,
    ) -> list[EncodedPair]:
        """The pairs of one call, in the order of ``documents``; ``queries`` has one entry or one for each document.

        Raises ``InvalidRequestError`` about the field that is wrong, e.g. ``("documents", 3)``.
        """
        return all_encoded(self.encode_each(queries, documents, options, instructions))

    def encode_each(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        options: PairOptions = _DEFAULTS,
        instructions: Sequence[str | None] | None = None,
    ) -> list[Encoded]:
        """``encode`` for callers who want the other pairs where one cannot be read: its error stands in its place.

        Raises ``InvalidRequestError`` about what is wrong with the call as a whole.
        """
        limit = self._limit(options)
        parts = CallParts(*self._checked_pairs(queries, documents, options, instructions), len(queries))
        parts.shorten(self._tokenizer, limit, options)
        self._check_queries(parts)
        parts.apply_own_limits(self._tokenizer, options)
        found: dict[int, Encoded] = dict(parts.refused)
        pairs = parts.pairs
        if self._listwise is not None and len(queries) > 1:
            pairs = {i: replace(pair, list_number=i) for i, pair in pairs.items()}
        if self._comparing is None:
            found |= self._within(pairs, limit, options)
        else:
            found |= self._comparing.encode(pairs, limit, options)
        encoded = [self._with_cuts(found[i], i, parts, limit, options) for i in range(len(documents))]
        marks = self._unfamiliar
        if marks is None:
            return encoded
        return [marks.marked(pair) if isinstance(pair, EncodedPair) else pair for pair in encoded]

    @staticmethod
    def _with_cuts(pair: Encoded, number: int, parts: CallParts, limit: int, options: PairOptions) -> Encoded:
        """A pair with what was cut before it was tokenised; errors name no length that is not known."""
        if isinstance(pair, RequestError):
            if options.truncate or number not in parts.left_out or number in parts.refused:
                return pair
            return _longer_than(limit, pair.path)
        query, document = number in parts.cut["query"], number in parts.cut["document"]
        if not query and not document:
            return pair
        return replace(
            pair,
            truncated_query=query or pair.truncated_query,
            truncated_document=document or pair.truncated_document,
        )

    def _within(self, pairs: Mapping[int, Pair], limit: int, options: PairOptions) -> dict[int, Encoded]:
        found: dict[int, Encoded] = {}
        for (i, pair), draft in zip(pairs.items(), self._drafts(list(pairs.values())), strict=True):
            if not len(draft.ids):
                found[i] = no_tokens(("documents", i))
            elif len(draft.ids) <= limit:
                found[i] = EncodedPair(draft.ids, draft.type_ids, draft.query_len)
            else:
                found[i] = self._fitted(pair, draft, limit, options, ("documents", i))
        return found

    def _check_queries(self, parts: CallParts) -> None:
        """Takes out the pairs whose query the tokenizer empties: it is as good as blank."""
        if self._keeps_all_bytes:
            return
        texts = list({pair.query for pair in parts.pairs.values()})
        encodings = zip(texts, encode_all(self._tokenizer, texts, special=False), strict=True)
        empty = {text for text, encoding in encodings if not encoding.ids}
        for i in [i for i, pair in parts.pairs.items() if pair.query in empty]:
            parts.refuse("query", i, no_tokens(()).template)

    def _drafts(self, pairs: Sequence[Pair]) -> list[Draft]:
        """Uncut, in order; a call may mix pairs with and without a prompt, since some bring their own."""
        drafts: dict[int, Draft] = {}
        for encoder in (self._with_prompt, self._without):
            chosen = [i for i, pair in enumerate(pairs) if self._encoder_of(pair) is encoder]
            drafts.update(zip(chosen, encoder.encode([pairs[i] for i in chosen]), strict=True))
        return [drafts[i] for i in range(len(pairs))]

    def _encoder_of(self, pair: Pair) -> PairEncoder:
        return self._without if pair.prompt is None else self._with_prompt

    def encode_texts(
        self, texts: Sequence[str], side: Literal["query", "document"] | None = None, options: PairOptions = _DEFAULTS
    ) -> list[Encoded]:
        """Texts that a bi-encoder embeds, each behind the prompt of a side, or why one cannot be read.

        Raises ``InvalidRequestError`` for a model of another kind.
        """
        if self._bi_encoder is None:
            raise InvalidRequestError(
                "This model scores pairs and embeds no texts by a vector each. Serve a bi-encoder for that, such as a "
                "checkpoint of sentence-transformers that ends with a pooling."
            )
        for i, text in enumerate(texts):
            check_text(text, ("texts", i))
        return self._bi_encoder.encode_texts(texts, side, self._limit(options), options)

    def encode_ids(self, query_ids: Sequence[TokenIds], document_ids: Sequence[TokenIds]) -> list[EncodedPair]:
        """Pairs given as token ids: the query's ids followed by the document's. No template is added, nothing is cut.

        Raises ``InvalidRequestError`` about the field that is wrong.
        """
        return all_encoded(self.encode_ids_each(query_ids, document_ids))

    def encode_ids_each(self, query_ids: Sequence[TokenIds], document_ids: Sequence[TokenIds]) -> list[Encoded]:
        """``encode_ids`` with the error of each pair that cannot be read in its place.

        Raises ``InvalidRequestError`` about lengths that do not fit, and about the only query.
        """
        if self._comparing is not None and self._bi_encoder is None:
            raise InvalidRequestError(
                "This model's prompt holds more than two texts, so it takes texts and no token ids.", param="documents"
            )
        return self._id_pairs.encode(query_ids, document_ids)

    def encode_prompts(self, prompts: Sequence[str | TokenIds], options: PairOptions = _DEFAULTS) -> list[EncodedPair]:
        """Whole prompts, scored as they are; only where a text is the model's own prompt do its marks count.

        Raises ``InvalidRequestError`` about the prompt that is wrong, e.g. ``("prompts", 3)``.
        """
        return all_encoded(self.encode_prompts_each(prompts, options))

    def encode_prompts_each(self, prompts: Sequence[str | TokenIds], options: PairOptions = _DEFAULTS) -> list[Encoded]:
        """``encode_prompts`` with the error of each prompt that cannot be read in its place.

        Raises ``InvalidRequestError`` about what is wrong with the call as a whole.
        """
        limit = self._limit(options)
        if self._comparing is not None:
            does = "reads documents together with their query" if self._listwise else "embeds texts"
            raise InvalidRequestError(f"This model {does}: it has scores for pairs, not for a text.", param="prompts")
        found: list[Encoded] = []
        for i, prompt in enumerate(prompts):
            try:
                found.append(self._prompt_pair(prompt, ("prompts", i), limit, options))
            except InvalidRequestError as error:
                found.append(error)
        return found

    def _prompt_pair(self, prompt: str | TokenIds, where: FieldPath, limit: int, options: PairOptions) -> Encoded:
        if not isinstance(prompt, str):
            ids = checked_ids(prompt, where, self._vocab_size)
            if not 1 <= len(ids) <= limit:
                raise InvalidRequestError(f"{PARAM} has {len(ids)} token ids; 1 to {limit} are possible.", param=where)
            return EncodedPair(ids)
        check_query(prompt, where)
        if self._preformatted is not None and self._preformatted.claims(prompt):
            found = self._preformatted.unwrap_whole(prompt, where)
            pair = Pair(found.query, found.document, found.instruction, self._compiled[found.template])
            parts = CallParts({0: pair}, {}, 1)
            parts.shorten(self._tokenizer, limit, options)
            one = parts.refused.get(0) or self._within(parts.pairs, limit, options)[0]
            one = self._with_cuts(one, 0, parts, limit, options)
            return one.at(where) if isinstance(one, RequestError) else one
        text = shortened(self._tokenizer, prompt, limit, options.truncation_side)
        encoded = self._without.encode_single(text.text, limit, options.truncate, options.truncation_side, where)
        if not text.is_whole and not options.truncate:
            return _longer_than(limit, where)
        if text.is_cut and isinstance(encoded, EncodedPair):
            return replace(encoded, truncated_document=True)
        return encoded

    def chunk_spans(
        self,
        documents: Sequence[str],
        queries: Sequence[str],
        chunks: ChunkOptions,
        options: PairOptions = _DEFAULTS,
        instructions: Sequence[str | None] | None = None,
        stop: Callable[[], bool] = never,
    ) -> list[list[Span]]:
        """The chunks in which each document is read for its query; ``queries`` has one entry or one for each document.

        Raises ``InvalidRequestError`` about the field that is wrong, and ``GivenUpError`` once ``stop`` says so.
        """
        if self._listwise is not None:
            return self._listwise.whole_spans(documents, chunks)
        bare: dict[tuple[str, str | None], int] = {}
        how = []
        for i, document in enumerate(documents):
            check_text(document, ("documents", i))
            key = queries[i if len(queries) > 1 else 0], instructions[i] if instructions else None
            if key not in bare:
                bare[key] = self._bare_tokens(key[0], key[1], options)
            room = self._limit(options) - bare[key]
            limits = {"most": chunks.most, "limit": options.max_tokens_per_doc}
            found = Chunking.of(room, chunks.tokens, chunks.overlap, side=options.truncation_side, **limits)
            how.append(replace(found, ceiling=chunks.ceiling))
        return chunk_spans(self._tokenizer, documents, how, stop)

    def _bare_tokens(self, query: str, instruction: str | None, options: PairOptions) -> int:
        """Tokens of a pair beside its document. Raises ``InvalidRequestError`` about the query."""
        (found,) = self.encode_each([query], [""], options, [instruction])
        if isinstance(found, EncodedPair):
            return len(found.token_ids)
        if found.path == ("documents", 0) and self._bi_encoder is not None:  # nothing is put around a text
            return 0
        raise found

    def _limit(self, options: PairOptions) -> int:
        for name in ("max_tokens_per_doc", "max_tokens_per_query"):
            if getattr(options, name) < 0:
                raise InvalidRequestError(f"{name} must be 0 (no limit) or more.", param=name)
        asked = options.truncate_prompt_tokens
        if asked is None or asked == -1:
            return self.max_model_len
        if not 1 <= asked <= self.max_model_len:
            raise InvalidRequestError(
                f"truncate_prompt_tokens is {asked}; possible are -1 (the model's length) and 1 to "
                f"{self.max_model_len}.",
                param="truncate_prompt_tokens",
            )
        return asked

    def _checked_pairs(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        options: PairOptions,
        instructions: Sequence[str | None] | None,
    ) -> tuple[dict[int, Pair], dict[int, InvalidRequestError]]:
        """The pairs by their numbers, and those that are wrong by themselves."""
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
        common = self._instruction(options.instruction, ("instruction",))
        formatted = [self._preformatted is not None and self._preformatted.claims(query) for query in queries]
        pairs: dict[int, Pair] = {}
        refused: dict[int, InvalidRequestError] = {}
        for i, document in enumerate(documents):
            q = i if len(queries) > 1 else 0
            if formatted[q]:
                try:
                    pairs[i] = self._unwrapped(queries[q], document, i, query_path(q, len(queries)))
                except InvalidRequestError as error:
                    refused[i] = error
                continue
            own = instructions[i] if instructions is not None else None
            instruction = self._instruction(own, ("instructions", i)) if own else common
            prompt = self._prompt_with(instruction)
            query, empty = queries[q], ""
            if prompt is not None:
                empty = prompt.template.empty_text
                query = prompt.template.stripped(Placeholder.QUERY, query)
                document = prompt.template.stripped(Placeholder.DOCUMENT, document)
            pairs[i] = Pair(query or empty, document or empty, instruction, prompt)
        return pairs, refused

    def _unwrapped(self, query: str, document: str, index: int, where: FieldPath) -> Pair:
        assert self._preformatted is not None
        found = self._preformatted.unwrap(query, document, ("documents", index))
        check_query(found.query, where)
        return Pair(found.query, found.document, found.instruction, self._compiled[found.template])

    def _instruction(self, given: str | None, where: FieldPath) -> str:
        if given is None or given == "":
            return self.default_instruction
        check_text(given, where)
        if not given.strip():
            return self.default_instruction
        if not self._takes_instruction:
            raise InvalidRequestError(
                "This model's prompt has no place for an instruction. Leave it out, or serve a model that takes one.",
                param=where,
            )
        return given

    def _fitted(self, pair: Pair, draft: Draft, limit: int, options: PairOptions, where: FieldPath) -> Encoded:
        """An over-long pair, cut to the limit, or why that is not possible."""
        excess, side = len(draft.ids) - limit, options.truncation_side
        if options.truncate and draft.document_len - excess >= MIN_DOCUMENT_TOKENS:  # the common case, without roles
            first = draft.query_len + (0 if side == "left" else draft.document_len - excess)
            ids = np.delete(draft.ids, slice(first, first + excess))
            return EncodedPair(ids, query_len=draft.query_len, truncated_document=True)
        roles = self._encoder_of(pair).roles(pair, draft)
        num_query, num_document = int((roles == Role.QUERY).sum()), int((roles == Role.DOCUMENT).sum())
        lengths = (
            f"{len(roles)} tokens (query {num_query}, document {num_document}, "
            f"template and instruction {len(roles) - num_query - num_document}), and the limit is {limit}"
        )
        if not options.truncate:
            message = f"{PARAM}: the pair has {lengths}. Shorten it, or let it be truncated."
            return InvalidRequestError(message, param=where)
        cut = fit(roles, limit, side)
        if cut is None:
            message = f"{PARAM}: the pair has {lengths}, which leaves no room for query and document."
            return InvalidRequestError(message, param=where)
        return EncodedPair(
            draft.ids[cut.keep],
            None if draft.type_ids is None else draft.type_ids[cut.keep],
            max(0, draft.query_len - cut.num_query_cut),
            cut.num_document_cut > 0,
            cut.num_query_cut > 0,
        )


def _longer_than(limit: int, where: FieldPath) -> InvalidRequestError:
    """The error about a text of which not all tokens were counted."""
    message = f"{PARAM} has more than {limit} tokens, and the limit is {limit}. Shorten it, or let it be truncated."
    return InvalidRequestError(message, param=where)
