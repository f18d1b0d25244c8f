"""Which dialect a request speaks, in two questions.

*Who reads the body?* Its keys decide, because gateways rewrite routes: ``texts`` is TEI, ``passages`` is NIM, and so on
down the table. *Who answers?* An explicit choice first (``?dialect=``, a header), then a route that belongs to one
dialect, then whoever read the body; where many dialects send the same body, ``--dialect``, and at last the common
object. A dialect that is chosen and can read the body does both, with its own defaults.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.entrypoints.serve.dialects.base import Dialect
from engine.entrypoints.serve.dialects.classify import ClassifyDialect, PoolingDialect
from engine.entrypoints.serve.dialects.cohere import CohereV1Dialect, CohereV2Dialect
from engine.entrypoints.serve.dialects.dashscope import DashScopeDialect
from engine.entrypoints.serve.dialects.fields import Keys
from engine.entrypoints.serve.dialects.infinity import InfinityDialect
from engine.entrypoints.serve.dialects.isaacus import IsaacusDialect
from engine.entrypoints.serve.dialects.jina import JinaDialect
from engine.entrypoints.serve.dialects.llamacpp import LlamaCppDialect
from engine.entrypoints.serve.dialects.mixedbread import MixedbreadDialect
from engine.entrypoints.serve.dialects.nvidia import NvidiaDialect
from engine.entrypoints.serve.dialects.pinecone import PineconeDialect
from engine.entrypoints.serve.dialects.queries import QueriesDialect
from engine.entrypoints.serve.dialects.rerank import RerankDialect
from engine.entrypoints.serve.dialects.sagemaker import SageMakerDialect
from engine.entrypoints.serve.dialects.score import ScoreDialect
from engine.entrypoints.serve.dialects.sglang import SglangDialect
from engine.entrypoints.serve.dialects.sglang_score import SglangScoreDialect
from engine.entrypoints.serve.dialects.siliconflow import SiliconFlowDialect
from engine.entrypoints.serve.dialects.tei import PredictDialect, TeiDialect
from engine.entrypoints.serve.dialects.vllm import OldVllmDialect, VllmDialect
from engine.entrypoints.serve.dialects.voyage import VoyageDialect
from engine.entrypoints.settings.options import nearest
from engine.errors import InvalidRequestError

RERANK = RerankDialect()
SCORE, SGLANG_SCORE = ScoreDialect(), SglangScoreDialect()
CLASSIFY, POOLING, PREDICT = ClassifyDialect(), PoolingDialect(), PredictDialect()
QUERIES, TEI, NVIDIA, VOYAGE, DASHSCOPE, MIXEDBREAD, SAGEMAKER, ISAACUS, PINECONE, LLAMACPP = (
    QueriesDialect(),
    TeiDialect(),
    NvidiaDialect(),
    VoyageDialect(),
    DashScopeDialect(),
    MixedbreadDialect(),
    SageMakerDialect(),
    IsaacusDialect(),
    PineconeDialect(),
    LlamaCppDialect(),
)
DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        *(RERANK, VllmDialect(), OldVllmDialect(), CohereV1Dialect(), CohereV2Dialect(), JinaDialect(), TEI),
        *(SglangDialect(), InfinityDialect(), LLAMACPP, VOYAGE, NVIDIA, DASHSCOPE, MIXEDBREAD, PINECONE),
        *(SiliconFlowDialect(), ISAACUS, SAGEMAKER),
    )
}
"""All that can be chosen."""
ALIASES = {
    "cohere": "cohere-v2",
    "huggingface": "tei",
    "llama.cpp": "llamacpp",
    "nim": "nvidia",
    "text-embeddings-inference": "tei",
}
BY_BODY: tuple[Dialect, ...] = (TEI, NVIDIA, SAGEMAKER, DASHSCOPE, MIXEDBREAD)
"""Bodies without ``documents``, in the order in which they are looked for."""
SCORE_KEYS = ("text_1", "text_2", "data_1", "data_2", "queries", "items")


@dataclass(frozen=True, slots=True)
class Speakers:
    """Who reads the body and who answers; mostly one and the same."""

    reader: Dialect
    answerer: Dialect


def by_name(name: str) -> Dialect:
    dialect = DIALECTS.get(ALIASES.get(name, name))
    if dialect is None:
        known = [*DIALECTS, *ALIASES]
        raise InvalidRequestError(
            f"There is no dialect {name!r}; known are {', '.join(known)}.{nearest(name, known)}", param="dialect"
        )
    return dialect


def rerank_speakers(
    keys: Keys, *, chosen: str | None, route: Dialect | None, has_api_key: bool, default: str | None
) -> Speakers:
    """``route``: the dialect that the path belongs to. ``has_api_key``: the request carries ``Api-Key``."""
    wanted = by_name(chosen) if chosen is not None else None
    usual = by_name(default) if default else RERANK
    if QUERIES.can_read(keys):
        return Speakers(QUERIES, QUERIES)  # no other answer has room for several rankings
    for dialect in (wanted, route, _by_body(keys, has_api_key)):
        if dialect is not None and dialect.can_read(keys):
            return Speakers(dialect, wanted or dialect)
    if not RERANK.can_read(keys):  # nobody can read it: the error is for whoever was most likely meant
        usual = wanted or route or usual
        return Speakers(usual, usual)
    return Speakers(usual if usual.can_read(keys) else RERANK, wanted or usual)


def _by_body(keys: Keys, has_api_key: bool) -> Dialect | None:
    """None for the common body with ``documents``, which many dialects send."""
    if "documents" not in keys:
        return next((dialect for dialect in BY_BODY if dialect.can_read(keys)), None)
    if has_api_key:
        return PINECONE
    return VOYAGE if "top_k" in keys else None


def score_dialect(keys: Keys) -> Dialect:
    """``items`` with a singular ``query`` is SGLang's; every plural pair is vLLM's."""
    return SGLANG_SCORE if "query" in keys and "items" in keys else SCORE


def invocation_speakers(keys: Keys, *, chosen: str | None, has_api_key: bool, default: str | None) -> Speakers:
    """One route for everything, as SageMaker, vLLM and TEI have it."""
    found: Dialect | None = None
    if "inputs" in keys:
        found = PREDICT
    elif not keys.keys().isdisjoint(SCORE_KEYS):
        found = score_dialect(keys)
    elif "query" not in keys and ("messages" in keys or keys.get("input") in ("string", "array")):
        found = CLASSIFY if keys.keys().isdisjoint(("task", "encoding_format")) else POOLING
    if found is not None:
        return Speakers(found, found)
    return rerank_speakers(keys, chosen=chosen, route=None, has_api_key=has_api_key, default=default)
