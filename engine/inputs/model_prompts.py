"""The prompts of one model: what goes around a pair, what a sender may have put there already, and instructions."""

from __future__ import annotations

import logging

from tokenizers import Tokenizer

from engine.checkpoint.template import load_template
from engine.errors import ConfigError, FieldPath, InvalidRequestError
from engine.inputs.checks import check_query, check_text
from engine.inputs.pair_encoder import Pair
from engine.model_spec import ModelSpec
from engine.prompts.compiled import CompiledPrompt, compile_prompt, with_special_tokens
from engine.prompts.preformatted import Preformatted, Unwrapped
from engine.prompts.published import QWEN3_RERANKER
from engine.prompts.template import Template

logger = logging.getLogger(__name__)
_OWN_PROMPT = ("embedding", "listwise", "late_interaction")
_NO_PLACE = "This model's prompt has no place for an instruction. Leave it out, or serve a model that takes one."


class ModelPrompts:
    """Chooses the prompt of each pair. Any number of threads may use one.

    Raises ``ConfigError`` for a default instruction that the model's prompt has no place for.
    """

    def __init__(self, tokenizer: Tokenizer, spec: ModelSpec, instruction: str | None) -> None:
        self._is_listwise = spec.head.kind == "listwise"
        self._pair_prompt = spec.pair_prompt
        self._plain: CompiledPrompt | None = None
        self._preformatted: Preformatted | None = None
        self._compiled: dict[Template, CompiledPrompt] = {}
        if spec.head.kind not in _OWN_PROMPT and (spec.causal or spec.takes_prompt):
            self._compile(tokenizer, spec)
        if instruction and not self.takes_instruction:
            raise ConfigError(_NO_PLACE, param="instruction")
        own = self._plain.template.default_instruction if self._plain else self._pair_prompt
        self.default_instruction = instruction or own or ""
        """Stands in every prompt whose call brings no instruction."""

    def _compile(self, tokenizer: Tokenizer, spec: ModelSpec) -> None:
        template = load_template(spec.template, official=spec.known_template)
        chat = all(tokenizer.token_to_id(token) is not None for token in ("<|im_start|>", "<|im_end|>"))
        self._preformatted = Preformatted(QWEN3_RERANKER) if chat else None
        instructed = [template.with_instruction] if template.with_instruction else []
        known = [template, *instructed, *(self._preformatted.templates if self._preformatted else [])]
        compiled = {one: compile_prompt(one, tokenizer) for one in dict.fromkeys(known)}
        for one in (template, *instructed):
            if spec.template is None or one.between_specials:
                compiled[one] = with_special_tokens(compiled[one], tokenizer)
        as_pair = spec.template is None and spec.use_sep_token
        self._plain, self._compiled = None if as_pair else compiled[template], compiled
        if spec.cuts_document_only and self._plain is not None and not self._plain.ends_with_document:
            logger.warning(
                "The chat template of %s has the query behind the document. Of a pair that is too long the document is "
                "cut here; sentence-transformers would cut the query.",
                spec.name,
            )

    @property
    def compiled(self) -> list[CompiledPrompt]:
        """All prompts that a pair can get; none where the tokenizer joins query and document by itself."""
        return list(self._compiled.values())

    @property
    def takes_instruction(self) -> bool:
        """Whether a call may bring an instruction of its own."""
        if self._is_listwise:
            return True
        prompt = self.around("any")
        return self._pair_prompt is not None if prompt is None else prompt.takes_instruction

    def around(self, instruction: str) -> CompiledPrompt | None:
        """The prompt of a plain pair; some models have another one for calls that give an instruction."""
        other = self._plain.template.with_instruction if self._plain and instruction else None
        return self._compiled[other] if other else self._plain

    def instruction(self, given: str | None, where: FieldPath) -> str:
        """The instruction of a call or pair, the default one where ``given`` is blank.

        Raises ``InvalidRequestError`` about the field ``where`` for one that is no text, or has no place in the prompt.
        """
        if given is None or given == "":
            return self.default_instruction
        check_text(given, where)
        if not given.strip():
            return self.default_instruction
        if not self.takes_instruction:
            raise InvalidRequestError(_NO_PLACE, param=where)
        return given

    def is_formatted(self, query: str) -> bool:
        """Whether the sender already put the model's own prompt around a query, or around a whole pair."""
        return self._preformatted is not None and self._preformatted.matches(query)

    def unwrap(self, query: str, document: str, where: FieldPath, index: int) -> Pair:
        """Takes the sender's prompt off a query and a document, so that the model's own goes around them.

        Raises ``InvalidRequestError`` about ``("documents", index)``, or about the query ``where`` if none is in it.
        """
        assert self._preformatted is not None
        found = self._preformatted.unwrap(query, document, ("documents", index))
        check_query(found.query, where)
        return self._pair(found)

    def unwrap_whole(self, prompt: str, where: FieldPath) -> Pair:
        """Takes the sender's prompt off a text that holds both. Raises ``InvalidRequestError`` about ``where``."""
        assert self._preformatted is not None
        return self._pair(self._preformatted.unwrap_whole(prompt, where))

    def _pair(self, found: Unwrapped) -> Pair:
        return Pair(found.query, found.document, found.instruction, self._compiled[found.template])
