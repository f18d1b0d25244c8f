"""What a checkpoint is, decided once from its files and the overrides, without torch.

``ModelSpec`` is the only thing that prompt building, the loader and the server need to know about a model; the
decisions behind it are made by ``resolve_model`` of ``engine/checkpoint/resolve.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

HeadKind = Literal[
    "from_2_way_softmax", "no_post_processing", "expectation", "classifier", "modules", "embedding", "listwise",
    "late_interaction",
]  # fmt: skip
Pooling = Literal["last", "cls", "mean", "late", "tokens"]
"""Which tokens a head reads; ``late``: it reads every token, and the logits are averaged; ``tokens``: those that a call
names, each for itself."""
ActivationFn = Literal["sigmoid", "identity", "tanh", "softmax", "cosine", "dot", "max_sim", "mean_max_sim"]
SIMILARITIES: tuple[ActivationFn, ...] = ("cosine", "dot", "max_sim", "mean_max_sim")
"""Scores that compare vectors: they stay as they are where a probability is asked for."""
DenseActivationFn = Literal["identity", "tanh", "gelu", "relu", "silu", "sigmoid"]


@dataclass(frozen=True, kw_only=True)
class HeadModule:
    """One module of sentence-transformers behind a pooling: its sizes, and the folder of its weights."""

    kind: Literal["dense", "layer_norm", "normalize"]
    folder: str = ""
    weight: str = ""
    """Name of a dense module's weight among the network's own tensors, where it has no folder."""
    in_features: int = 0
    out_features: int = 0
    bias: bool = True
    activation: DenseActivationFn = "identity"
    residual: Literal["no", "same", "linear"] = "no"
    """What is added to the output: nothing, the input, or the input through a second linear layer."""


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """How hidden states become a score.

    ``from_2_way_softmax``: w = lm_head[true] - lm_head[false] in fp32, token ids are (false, true).
    ``no_post_processing``: w = lm_head[ids]. ``expectation``: the same rows, and their place in the list, counted from
    1, as the softmax over them expects it. ``classifier``: the checkpoint's own head (``score.weight`` or
    ``classifier.*``). ``modules``: a pooled vector through the modules of sentence-transformers. ``embedding``: no
    head, pooled vectors are compared. ``listwise``: one prompt holds many documents, each is read at a token of its
    own, and vectors of documents and query are compared. ``late_interaction``: vectors of tokens are compared.
    """

    kind: HeadKind
    token_ids: tuple[int, ...] = ()
    tokens: tuple[str, ...] = ()
    num_labels: int = 1
    """Values a pair, once ``label_rows`` are applied."""
    label_rows: tuple[int, ...] = ()
    """Rows of a stored head with several labels that make the one value: (p,) row p, (n, p) row p minus row n. Empty:
    the head is stored with ``num_labels`` rows."""
    stored_labels: int = 0
    """Rows of the stored head, where ``label_rows`` picks among them; 0: ``num_labels``."""
    modules: tuple[HeadModule, ...] = ()
    """Behind the pooling, in order; of ``modules``, ``embedding``, ``listwise`` and ``late_interaction``."""
    pooling: Pooling = "last"
    activation: ActivationFn = "sigmoid"
    logit_mean: float = 0.0
    logit_sigma: float = 1.0

    @property
    def stored_rows(self) -> int:
        """Rows of the head in the file."""
        return self.stored_labels or self.num_labels

    @property
    def gives_vectors(self) -> bool:
        """Whether the network has no head of one score a pair: its vectors go through ``modules``."""
        return self.kind in ("embedding", "modules", "listwise", "late_interaction")


@dataclass(frozen=True, kw_only=True)
class SideForm:
    """How the queries, or the documents, of a late-interaction model become tokens."""

    mark_id: int | None
    """Token that tells the side, behind the tokens that the tokenizer puts first; None: there is none."""
    prompt: str
    """Put before the text."""
    length: int
    """Most tokens of a text, all others included; what is longer is cut."""
    skipped_ids: tuple[int, ...]
    """Tokens that are read but not compared, such as punctuation."""


@dataclass(frozen=True, kw_only=True)
class Expansion:
    """Queries that are shorter are filled up with a token, whose vectors are compared like those of words."""

    token_id: int
    length: int
    is_fixed: bool
    """Longer queries are cut to ``length`` too."""
    attends: bool
    """The tokens of the query see those that were filled in."""


@dataclass(frozen=True, kw_only=True)
class LateTexts:
    """The texts of a late-interaction model."""

    query: SideForm
    document: SideForm
    expansion: Expansion | None


@dataclass(frozen=True, kw_only=True)
class VisionSpec:
    """How pictures become rows of a prompt."""

    block: int
    """Side, in pixels, of the square that one row covers; sides of a picture are made multiples of it."""
    min_pixels: int
    max_pixels: int
    """Bounds of a picture's area; another one is scaled."""
    mean: tuple[float, float, float]
    """Of red, green and blue, as shares of the largest value."""
    std: tuple[float, float, float]
    before: tuple[int, ...]
    """Ids before a picture's rows ..."""
    behind: tuple[int, ...]
    """... and behind them."""
    image_id: int
    """What transformers has in the place of each row."""
    max_images: int
    """Of one pair, both sides together."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A checkpoint, understood."""

    name: str
    """As the user named it."""
    path: str
    """Local folder with the files."""
    tokenizer_path: str
    model_type: str
    """Of config.json; the file name in ``backends/models/``."""
    config: dict[str, Any] = field(default_factory=dict)
    """config.json after overrides, ``auto_map`` removed."""
    head: HeadSpec
    by_library: bool = False
    """The installed transformers runs the network (``--model-impl transformers``)."""
    causal: bool
    """Left context only: prefixes can be shared and documents chunked."""
    template: str | None = None
    """Name of the built-in prompt template, ``file:PATH``, ``saved:FOLDER``, or None for plain pair encoding."""
    known_template: str | None = None
    """The built-in template that the model was published with, where that is known."""
    text_prompts: tuple[str, str] = ("", "")
    """Put before the query's text and before the document's by a bi-encoder."""
    late: LateTexts | None = None
    """Of a late-interaction model."""
    vision: VisionSpec | None = None
    """Of a model that reads pictures too."""
    pair_prompt: str | None = None
    """Put before the query of a pair in the tokenizer's own form, unless a call gives another one as its instruction;
    None: such pairs take no instruction."""
    lower_case: bool = False
    """Texts are put into lower case before the tokenizer sees them."""
    cuts_document_only: bool = False
    """Of a pair that is too long: messages of sentence-transformers, and ``only_second``. Else the longer of two texts
    is cut, and in a prompt first the document, then the query."""
    use_sep_token: bool = False
    """Without a template: encode with the tokenizer's own pair form (True) or as query + document (False)."""
    max_model_len: int
    vocab_size: int
    fingerprint: str = ""
    """Of the files, when they were understood: a worker that finds others refuses. Empty: weights are made up."""
    written: str = ""
    """When and as which files they were written, on the machine that read them; ``fingerprint.py`` compares it."""
    decision: str = ""
    """One line for the log: what was recognised and how it is converted."""

    @property
    def takes_prompt(self) -> bool:
        """Query and document become one text, by a template or joined; else the tokenizer makes a pair of them."""
        return self.head.kind != "embedding" and (self.template is not None or not self.use_sep_token)
