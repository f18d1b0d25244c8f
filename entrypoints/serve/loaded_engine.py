"""A model of the server once it is loaded: what it is, its texts' way to token ids, and its core."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol, Self

from engine.config import ModelConfig
from engine.inputs.processor import MIN_TEXT_TOKENS
from engine.inputs.spans import TextToken
from engine.inputs.windows import never
from engine.messages import EngineCoreOutput, EngineCoreRequest, Operation, SchedulerStats
from engine.model_spec import ModelSpec
from engine.pictures.loader import PictureLoader
from engine.prompts.published import QWEN3_RERANKER
from engine.request import Encoded, PairOptions
from engine.scoring.document_store import DocumentStore, ScopedStore, document_store
from engine.scoring.pair_processor import PairProcessor
from engine.step import WorkerInfo


class Processor(PairProcessor, Protocol):
    """The part that the server uses of ``engine.inputs.processor.InputProcessor``."""

    min_pair_tokens: int

    def encode_texts(
        self, texts: Sequence[str], side: Literal["query", "document"] | None = None, options: PairOptions = ...
    ) -> list[Encoded]:
        """Texts that a bi-encoder embeds. Raises ``InvalidRequestError`` for a model of another kind."""
        ...

    def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text. Raises ``InvalidRequestError``."""
        ...

    def text_tokens(self, text: str, *, add_special_tokens: bool = True) -> list[TextToken]:
        """The tokens of a text with their characters. Raises ``InvalidRequestError``."""
        ...

    def token_windows(
        self, text: str, *, add_special_tokens: bool = True, stop: Callable[[], bool] = never
    ) -> Iterator[list[TextToken]]:
        """``text_tokens`` a window at a time.

        Raises ``InvalidRequestError``, and ``EncodingAbortedError`` after ``stop``.
        """
        ...

    def id_windows(
        self, text: str, *, add_special_tokens: bool = True, stop: Callable[[], bool] = never
    ) -> Iterator[list[int]]:
        """``tokenize`` a window at a time. Raises what ``token_windows`` does."""
        ...

    def detokenize(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The text of token ids. Raises ``InvalidRequestError`` for ids that the vocabulary lacks."""
        ...

    def token_strings(self, ids: Sequence[int]) -> list[str]:
        """Each token as the vocabulary spells it. Raises ``InvalidRequestError`` for ids that it lacks."""
        ...


class CoreClient(Protocol):
    """The part that the server uses of ``engine.core.async_client.AsyncMPClient``."""

    @property
    def info(self) -> WorkerInfo:
        """Device, dtype and limits of the worker."""
        ...

    @property
    def healthy(self) -> bool:
        """Whether a step could run now."""
        ...

    @property
    def why_not_healthy(self) -> str:
        """The reason in words, while ``healthy`` is False."""
        ...

    @property
    def stats(self) -> SchedulerStats:
        """The totals of the scheduler, as of its last step."""
        ...

    def run(self, request: EngineCoreRequest) -> AsyncGenerator[EngineCoreOutput, None]:
        """The outputs of a call as its steps finish; closing the generator aborts the rest. Raises ``EngineError``."""
        ...

    async def operate(self, operation: Operation) -> None:
        """Has the core change adapters, sleep or wake up. Raises ``EngineError``; then nothing has changed."""
        ...

    def reset_prefix_cache(self) -> None:
        """Drops the keys and values that are kept between calls."""
        ...

    async def shutdown(self, timeout_s: float) -> None:
        """Ends the core; calls in flight get ``timeout_s`` to finish."""
        ...


@dataclass(frozen=True)
class LoadedEngine:
    """A model that calls can ask for."""

    spec: ModelSpec
    processor: Processor
    client: CoreClient
    served_names: tuple[str, ...] = ()
    """Names that calls use (``--served-model-name``). Empty: the name that the user gave."""
    adapters: dict[str, str] = field(default_factory=dict)
    """LoRA adapters, which calls name like models, with the fingerprints of those that were loaded at run time."""
    lora_folders: tuple[str, ...] = ()
    """From which callers may load more of them."""
    store: DocumentStore = field(default_factory=lambda: DocumentStore(0))
    """Document vectors of a late-interaction model, kept between calls."""
    pictures: PictureLoader = field(default_factory=lambda: PictureLoader(None, ()))
    """Pictures of calls; of a model that reads texts only, it refuses them."""

    @classmethod
    def of(cls, spec: ModelSpec, processor: Processor, client: CoreClient, config: ModelConfig) -> Self:
        """A model with what its settings say of names, adapters and memory."""
        store = document_store(spec, config.document_store_bytes)
        adapters = dict.fromkeys(config.lora_modules, "")
        pictures = PictureLoader(spec.vision, config.allowed_image_hosts)
        names, folders = config.served_model_name, config.runtime_lora_folders
        return cls(spec, processor, client, names, adapters, folders, store, pictures)

    def store_for(self, adapter: str, scope: str) -> ScopedStore | None:
        """The part of ``store`` that calls of one scope see: with other weights, a text has other vectors."""
        return self.store.scoped(f"{adapter}\0{self.adapters.get(adapter, '')}\0{scope}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names that calls use for the model itself; the first one is shown in answers."""
        return self.served_names or (self.spec.name,)

    @property
    def pair_limits(self) -> tuple[int, int]:
        """The lengths in tokens to which a call may have its pairs cut: the template stays, and some room beside it."""
        most = self.spec.max_model_len
        return min(self.processor.min_pair_tokens + MIN_TEXT_TOKENS, most), most

    @cached_property
    def label_tokens(self) -> tuple[int, ...]:
        """Ids of the model's "no" and "yes", where its logit is the plain difference of the two; else empty."""
        head = self.spec.head
        if (head.logit_mean, head.logit_sigma) != (0.0, 1.0):
            return ()
        if head.kind == "from_2_way_softmax":
            return head.token_ids
        if head.kind != "classifier" or self.spec.template != QWEN3_RERANKER.name:
            return ()
        # A converted checkpoint of this family: the same two words, folded into one row.
        ids = [self.processor.tokenize(word, add_special_tokens=False) for word in ("no", "yes")]
        return tuple(i for (i,) in ids) if all(len(one) == 1 for one in ids) else ()
