"""Texts to validated token ids. What comes out of here no later stage checks again.

A text is checked (a string, no lone surrogates, no blank query), freed of a prompt that its sender already put around
it, cut where the caller limits it, tokenised with special tokens switched off, and cut again where the whole pair is
too long: first the document, then the query, never the template. Errors name the field. One ``InputProcessor`` serves
any number of threads.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from engine.checkpoint.families import num_token_types
from engine.checkpoint.files import load_tokenizer
from engine.config import ModelConfig
from engine.errors import ConfigError, InvalidRequestError, ModelLoadError, RequestError
from engine.inputs.bi_encoder import EmbeddingEncoder
from engine.inputs.call_pairs import Instructions, call_pairs
from engine.inputs.checks import TokenIds, check_text, token_limit
from engine.inputs.cross_encoder import CrossEncoderPairs
from engine.inputs.encoder import HuggingFaceEncoder, choose_encoder, keeps_all_bytes
from engine.inputs.id_pairs import IdPairs
from engine.inputs.late_interaction import LateEncoder, make_marks_plain
from engine.inputs.listwise import ListwiseEncoder, listwise_limits
from engine.inputs.model_prompts import ModelPrompts
from engine.inputs.pair_encoder import Pair, TemplatePairs, TokenizerPairs
from engine.inputs.pictures import Shown, placed
from engine.inputs.spans import Chunking, Span, chunk_spans
from engine.inputs.token_access import TokenAccess
from engine.inputs.token_types import takes_types
from engine.inputs.unfamiliar import UnfamiliarTokens
from engine.inputs.whole_prompts import WholePrompts
from engine.inputs.windows import never
from engine.model_spec import ModelSpec
from engine.prompts.compiled import EMPTY, SpecialIdGuard, make_plain
from engine.ranges import common_prefix
from engine.request import ChunkOptions, Encoded, EncodedPair, PairOptions, PairPictures, all_encoded

logger = logging.getLogger(__name__)
_DEFAULTS = PairOptions()
MIN_SAMPLES = 3
"""Of queries that begin differently, to see what all prompts have in common."""
MIN_TEXT_TOKENS = 8
"""Tokens that must be left for query and document beside the template."""


class InputProcessor(TokenAccess):
    """Builds the prompts of one model. Any number of threads may use one."""

    def __init__(self, spec: ModelSpec, config: ModelConfig) -> None:
        # Stated, because the library otherwise switches its threads off, with a warning, when a process is forked.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        self.max_model_len = spec.max_model_len
        super().__init__(load_tokenizer(Path(spec.tokenizer_path), lower_case=spec.lower_case), spec.vocab_size)
        tokenizer = self._tokenizer
        self._prompts = ModelPrompts(tokenizer, spec, config.instruction)
        self._vision = spec.vision
        limits = listwise_limits(spec, config.max_docs_per_block)
        self._listwise = ListwiseEncoder(tokenizer, limits, spec.max_model_len) if limits else None
        if spec.late is not None:
            make_marks_plain(tokenizer, spec.late)
        make_plain(tokenizer, self._prompts.compiled)
        self._keeps_all_bytes = keeps_all_bytes(tokenizer)
        guard = SpecialIdGuard(tokenizer)
        is_text = bool(self._prompts.compiled) or self._listwise is not None
        encoder = choose_encoder(tokenizer) if is_text else HuggingFaceEncoder(tokenizer)
        logger.info("%s", encoder.note)
        if self._listwise is not None:
            self._listwise.prepare(encoder, guard)
        has_types = takes_types(spec)
        cuts = spec.cuts_document_only
        texts = TokenizerPairs(tokenizer, guard, type_ids=has_types, causal=spec.causal, cuts_document_only=cuts)
        self._bi_encoder = EmbeddingEncoder(texts, spec.text_prompts) if spec.head.kind == "embedding" else None
        late = LateEncoder(texts, tokenizer, spec.late) if spec.late is not None else None
        self._comparing = self._listwise or late or self._bi_encoder
        """Of a model that does not score a prompt with one pair in it."""
        templates = TemplatePairs(tokenizer, guard, encoder, cuts_document_only=cuts)
        self._cross_encoder = CrossEncoderPairs(templates, texts)
        self._whole = WholePrompts(tokenizer, spec.vocab_size, self._prompts, self._cross_encoder, texts)
        self._id_pairs = IdPairs(
            spec.vocab_size, spec.max_model_len, bi_encoder=self._bi_encoder is not None, type_ids=has_types
        )
        self.default_instruction = self._prompts.default_instruction
        self.min_pair_tokens = self._check_max_model_len()
        """Tokens of the shortest pair: template, default instruction, two characters."""
        self._unfamiliar: UnfamiliarTokens | None = None
        self.constant_prefix = self._find_constant_prefix(spec)
        """(n,) int32: the leading ids of every prompt with the default instruction."""
        self._unfamiliar = UnfamiliarTokens(tokenizer, self._shortest(spec))

    def _shortest(self, spec: ModelSpec) -> EncodedPair:
        """A pair of two characters. Raises ``ModelLoadError`` where the model could read no text at all."""
        try:
            found = self.encode(["a"], ["b"])[0]
        except RequestError as error:
            raise ModelLoadError(
                f"The tokenizer of {spec.name} makes no token of the letter 'a' or 'b', and so of hardly any text: "
                f"{error}"
            ) from error
        types = found.token_type_ids
        most = num_token_types(spec.model_type, spec.config)
        if types is not None and not spec.by_library and not 0 <= int(types.min()) <= int(types.max()) < most:
            raise ModelLoadError(
                f"The tokenizer of {spec.name} gives the token type {int(types.max())}, and the model has {most} of "
                "them (type_vocab_size): the two do not belong together."
            )
        return found

    @property
    def reads_lists(self) -> bool:
        """The documents of a query are read together, and their order matters: see ``ListwiseEncoder``."""
        return self._listwise is not None

    def _check_max_model_len(self) -> int:
        """The shortest prompt fits, so that truncation can always keep the template."""
        shortest = Pair("a", "b", self.default_instruction, self._prompts.around(self.default_instruction))
        if self._comparing is not None:  # limits hold for each text, or block
            found = self._comparing.encode({0: shortest}, self.max_model_len, _DEFAULTS)[0]
            if isinstance(found, RequestError):
                raise ConfigError(
                    f"A model length of {self.max_model_len} tokens holds no pair of two characters: {found}",
                    param="max_model_len",
                )
            return len(found.token_ids)
        length = self._cross_encoder.num_tokens(shortest)
        if length + MIN_TEXT_TOKENS > self.max_model_len:
            raise ConfigError(
                f"A model length of {self.max_model_len} tokens leaves no room: a pair of two characters already has "
                f"{length} with template and instruction. Raise --max-model-len to {length + MIN_TEXT_TOKENS} or more.",
                param="max_model_len",
            )
        return length

    def _find_constant_prefix(self, spec: ModelSpec) -> np.ndarray:
        """Over queries that begin differently: a letter, another script, a digit, a bracket."""
        if self._listwise is not None:
            return self._listwise.constant_prefix
        if not spec.causal or self._comparing is not None:
            return EMPTY
        each = self.encode_each(["a", "中", "7", "(", "\u0301x"], ["b", "文", "8", ")", "-"])
        samples = [pair for pair in each if isinstance(pair, EncodedPair)]
        if len(samples) < MIN_SAMPLES:  # its tokenizer has no token for the others
            return EMPTY
        constant_prefix = samples[0].token_ids
        for sample in samples[1:]:
            constant_prefix = constant_prefix[: common_prefix(constant_prefix, sample.token_ids)]
        return constant_prefix.copy()

    def encode(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        options: PairOptions = _DEFAULTS,
        instructions: Instructions = None,
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
        instructions: Instructions = None,
        pictures: Sequence[PairPictures | None] | None = None,
    ) -> list[Encoded]:
        """``encode`` for callers who want the other pairs where one cannot be read: its error stands in its place.

        ``pictures``: of each pair, for a model that reads them. Raises ``InvalidRequestError`` about what is wrong with
        the call as a whole.
        """
        limit = token_limit(options, self.max_model_len)
        shown = None if pictures is None or self._vision is None else Shown(self._vision, pictures)
        parts = call_pairs(self._prompts, queries, documents, options.instruction, instructions, shown)
        parts.shorten(self._tokenizer, limit, options)
        if not self._keeps_all_bytes:
            parts.refuse_empty_queries(self._tokenizer)
        parts.apply_own_limits(self._tokenizer, options)
        pairs = parts.pairs
        if self._listwise is not None and len(queries) > 1:
            pairs = {i: replace(pair, list_number=i) for i, pair in pairs.items()}
        found = parts.refused | (self._comparing or self._cross_encoder).encode(pairs, limit, options)
        if shown is not None:
            found |= {i: placed(found[i], pair, shown.vision) for i, pair in pairs.items()}
        encoded = [parts.with_cuts(found[i], i, limit, options) for i in range(len(documents))]
        marks = self._unfamiliar
        if marks is None:
            return encoded
        return [marks.marked(pair) if isinstance(pair, EncodedPair) else pair for pair in encoded]

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
        return self._bi_encoder.encode_texts(texts, side, token_limit(options, self.max_model_len), options)

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
        limit = token_limit(options, self.max_model_len)
        if self._comparing is not None:
            does = "reads documents together with their query" if self._listwise else "embeds texts"
            raise InvalidRequestError(f"This model {does}: it has scores for pairs, not for a text.", param="prompts")
        return self._whole.encode(prompts, limit, options)

    def chunk_spans(
        self,
        documents: Sequence[str],
        queries: Sequence[str],
        chunks: ChunkOptions,
        options: PairOptions = _DEFAULTS,
        instructions: Instructions = None,
        stop: Callable[[], bool] = never,
    ) -> list[list[Span]]:
        """The chunks in which each document is read for its query; ``queries`` has one entry or one for each document.

        Raises ``InvalidRequestError`` about the field that is wrong, and ``EncodingAbortedError`` once ``stop``
        says so.
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
            room = token_limit(options, self.max_model_len) - bare[key]
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
