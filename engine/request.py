"""What a caller asks for, whatever the dialect, and what the input processor makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from engine.errors import FieldPath, RequestError


@dataclass(frozen=True, kw_only=True, slots=True)
class PairOptions:
    """How the pairs of one call are built and cut."""

    instruction: str | None = None
    truncate: bool = True
    """False: an over-long pair is an error instead of being cut."""
    max_tokens_per_doc: int = 0
    """Limit of each document's own tokens, cut before anything else. 0: no limit."""
    max_tokens_per_query: int = 0
    """Limit of each query's own tokens. 0: no limit."""
    truncate_prompt_tokens: int | None = None
    """Whole-pair limit below the model's; None or -1: the model's."""
    truncation_side: Literal["right", "left"] = "right"
    """Which end of the document is cut."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkOptions:
    """How a document that is too long for one pair is read: in overlapping chunks, the best of which counts."""

    tokens: int | None = None
    """Length of a chunk. None: what the model can read beside template and query."""
    overlap: int | None = None
    """Tokens that neighbours share, at most half a chunk. None: an eighth of a chunk."""
    most: int = 0
    """Most chunks of a document; the rest of it is cut off. 0: no limit."""
    ceiling: int = 0
    """Chunks after which a document is read no further, as the call will be refused. 0: none."""

    @classmethod
    def wanted(
        cls,
        long_document: Literal["truncate", "chunk"] | None,
        *,
        tokens: int | None = None,
        overlap: int | None = None,
        most: int = 0,
        default: ChunkOptions | None = None,
    ) -> ChunkOptions | None:
        """The chunks that a caller asks for by these fields: naming the size or number of chunks asks for chunks.

        ``default``: of a dialect that reads long documents in chunks without being asked. None: such documents are cut.
        """
        if long_document == "truncate" or not (long_document == "chunk" or tokens or most or default):
            return None
        return cls(tokens=tokens, overlap=overlap, most=most or (default.most if default else 0))


@dataclass(frozen=True, slots=True)
class ImageSource:
    """The place of a picture."""

    data: str
    """A data URL, its bytes in base64, or an address on a host that is allowed."""
    inside: FieldPath = ()
    """The field of its query or document that it stands in."""


@dataclass(frozen=True, slots=True)
class Content:
    """A query or a document that shows pictures beside its text."""

    text: str
    images: tuple[ImageSource, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture, decoded and scaled as the model reads it."""

    pixels: np.ndarray
    """(height, width, 3) uint8."""
    num_down: int
    num_across: int
    """Rows of features along its sides."""
    digest: bytes
    """Equal for equal pixels."""

    @property
    def num_rows(self) -> int:
        """Rows of features: what it takes of a prompt, in tokens."""
        return self.num_down * self.num_across


PairPictures = tuple[tuple[Picture, ...], tuple[Picture, ...]]
"""Pictures of a pair's query, and of its document; they stand before the text of their side."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RerankCall:
    """One API call. ``queries`` has one entry, or one for each document (N:N)."""

    queries: list[str]
    documents: list[str]
    model: str | None = None
    every_query: bool = False
    """Each query meets each document, and has a ranking of its own; otherwise 1:N or N:N."""
    prompts: list[str | list[int]] | None = None
    """Whole prompts, as text or token ids, scored as they are; then there are no queries and no documents."""
    chunks: ChunkOptions | None = None
    """How over-long documents are read in chunks. None: they are cut."""
    sources: list[dict[str, Any] | None] | None = None
    """The objects that documents came as, for callers who want them back."""
    options: PairOptions = field(default_factory=PairOptions)
    query_images: list[tuple[ImageSource, ...]] | None = None
    """Pictures of each query; None: there are none."""
    document_images: list[tuple[ImageSource, ...]] | None = None
    """Pictures of each document."""
    instructions: list[str | None] | None = None
    """For each document an instruction that overrides ``options.instruction``."""
    priority: int = 0
    timeout_s: float | None = None
    top_n: int | None = None
    """Results to keep of each ranking. None: all."""
    min_score: float | None = None
    raw_scores: bool = False
    """Logits instead of activated scores."""
    probabilities: bool = False
    """Scores are probabilities, the sigmoid of the logit, also where the model's own score is the logit itself."""
    return_documents: bool = True
    stream: bool = False
    caller: str = ""
    """Who asks, for fair shares (hash of the API key, or address)."""
    memo: Any = None
    """What the codec of a dialect keeps in mind for its answer."""
    cache_salt: str = ""
    """Nothing that outlives the call is shared with calls of another salt."""

    @property
    def num_pairs(self) -> int:
        """The number of results: pairs as the caller counts, for whom a chunked document is one."""
        if self.prompts is not None:
            return len(self.prompts)
        return len(self.documents) * (len(self.queries) if self.every_query else 1)

    @property
    def image_data(self) -> list[str]:
        """``ImageSource.data`` of all pictures of the call, each once, queries first."""
        sides = (*(self.query_images or ()), *(self.document_images or ()))
        return list(dict.fromkeys(source.data for side in sides for source in side))

    def position(self, result: int) -> tuple[int, int]:
        """The numbers of the query and the document that a result is about; query 0 where both sides go in step."""
        return divmod(result, len(self.documents)) if self.every_query else (0, result)


@dataclass(frozen=True, slots=True, eq=False)
class CorePrompt:
    """A prompt that the core computes where it is not one pair with one score: of a listwise model a block of
    documents with their query, of a late-interaction model a text."""

    token_ids: np.ndarray
    """(n,) int32."""
    read_offsets: np.ndarray
    """(r,) int32, ascending: the tokens that are read; of a block one for each document, then the query's."""
    num_keys: int = 0
    """Leading tokens that are seen by others; 0: all."""
    list_key: object = None
    """Blocks with the same one are one list."""


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """A pair as validated token ids. After this no input can be illegal."""

    token_ids: np.ndarray
    """(n,) int32, the whole prompt."""
    token_type_ids: np.ndarray | None = None
    query_len: int = 0
    """Leading tokens that depend on template, instruction and query only: a hint where to cut."""
    truncated_document: bool = False
    truncated_query: bool = False
    bi_encoder: bool = False
    """Two texts that are embedded one by one: the first ``query_len`` tokens, and the others."""
    prompts: tuple[CorePrompt, ...] = ()
    """What the core computes for the pair, and for others with it: a listwise model's block, or the two texts of a
    late-interaction model, query first. Empty: ``token_ids``."""
    unfamiliar: bool = False
    """The tokenizer hardly knows the query or the document (``engine/inputs/unfamiliar.py``)."""
    pictures: tuple[tuple[int, Picture], ...] = ()
    """The pictures of the pair, each with the place of its first row in ``token_ids``, ascending."""
    num_own_tokens: int | None = None
    """Tokens that this pair adds to a prompt that several pairs share."""

    @property
    def num_tokens(self) -> int:
        """Tokens that count for this pair; those of a shared prompt are counted once."""
        return len(self.token_ids) if self.num_own_tokens is None else self.num_own_tokens

    @property
    def truncated(self) -> bool:
        """Whether query or document was cut."""
        return self.truncated_document or self.truncated_query


Encoded = EncodedPair | RequestError
"""What became of one pair: token ids, or why it cannot be read. The error is about that pair alone."""


def all_encoded(pairs: Sequence[Encoded]) -> list[EncodedPair]:
    """The pairs, for callers who want all of them or none. Raises the first ``RequestError`` among them."""
    found: list[EncodedPair] = []
    for pair in pairs:
        if isinstance(pair, RequestError):
            raise pair
        found.append(pair)
    return found
