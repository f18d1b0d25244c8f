"""Random damage to request bodies: whatever comes in, a typed call or a typed error comes out.

Bodies are grown from good ones of several dialects, by changing values (structure-aware) and then bytes. Runs in one
process without a server, so a million executions take minutes.
"""

from __future__ import annotations

import copy
import json
import random
import time
from typing import Any

from starlette.datastructures import Headers

from benchmarks.reliability.figures import Figure
from engine.entrypoints.serve.dialects.base import RequestView
from engine.entrypoints.serve.dialects.detect import rerank_speakers, score_dialect
from engine.entrypoints.serve.dialects.fields import read_keys
from engine.errors import EngineError

SEEDS: tuple[dict[str, Any], ...] = (
    {"query": "q", "documents": ["a", {"text": "b", "id": 3}], "top_n": 1, "return_documents": True},
    {"query": "q", "texts": ["a", "b"], "raw_scores": False, "truncate": True},
    {"query": {"text": "q"}, "passages": [{"text": "a"}], "model": "m"},
    {"model": "m", "input": {"query": "q", "documents": ["a"]}, "parameters": {"top_n": 1}},
    {"text_1": "q", "text_2": ["a", "b"], "truncate_prompt_tokens": 5},
    {"queries": ["q", "r"], "documents": ["a", "b"], "instruction": "i", "priority": 1, "timeout_ms": 50},
    {"query": "q", "documents": ["a"], "max_tokens_per_doc": 3, "min_score": 0.5, "stream": True, "cache_salt": "s"},
)
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 1.5, 5.0, 1e308, 2**63, -(2**63), 2**200, "", " ", "\x00", "3", "true", [], {}),
    *(
        [None],
        [[]],
        [{}],
        {"text": None},
        {"text": ["a"]},
        {"": 1},
        "a" * 99,
        "\U0001f43c\u202e\ufffe",
        ["a", 1, None],
    ),
)
VIEW = RequestView("/v1/rerank", Headers({}), "fake", "caller", ())


def mutated(rng: random.Random) -> bytes:
    body: Any = json.loads(json.dumps(rng.choice(SEEDS)))
    for _ in range(rng.randrange(4)):
        _change(body, rng)
    data = bytearray(json.dumps(body, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass"))
    for _ in range(rng.choice((0, 0, 0, 1, 3))):
        position = rng.randrange(len(data) + 1)
        match rng.randrange(4):
            case 0:
                data[position : position + rng.randrange(1, 8)] = b""
            case 1:
                data[position:position] = rng.randbytes(rng.randrange(1, 4))
            case 2:
                data[position:position] = rng.choice((b"[" * 2000, b'{"a":', b"\\ud800", b"NaN", b"1e999", b'"', b","))
            case _:
                data[position : position + 1] = rng.randbytes(1)
        if not data:
            data = bytearray(b" ")
    return bytes(data)


def _change(node: Any, rng: random.Random) -> None:
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = rng.choice(keys)
        child = node[key]
        if isinstance(child, dict | list) and child and rng.random() < 0.6:
            node = child
            continue
        if isinstance(node, dict) and rng.random() < 0.2:
            del node[key]
            node[rng.choice(("documents", "texts", "query", "top_n", "foo", "input", "instruction"))] = child
        else:
            node[key] = copy.deepcopy(rng.choice(ODD))
        return


def execute(body: bytes) -> str:
    """What came of one body: ``call`` or the type of the error. Anything else is raised."""
    try:
        keys = read_keys(body)
        dialect = rerank_speakers(keys, route=None, default=None, chosen=None, has_api_key=False).reader
        if "text_1" in keys:
            dialect = score_dialect(keys)
        dialect.parse(body, keys, VIEW)
    except EngineError as error:
        return error.type
    except RecursionError:
        return "nested too deeply"
    return "call"


def fuzz(executions: int, seed: int = 0) -> Figure:
    rng = random.Random(seed)
    outcomes: dict[str, int] = {}
    crashes: list[str] = []
    started = time.monotonic()
    for _ in range(executions):
        body = mutated(rng)
        try:
            kind = execute(body)
        except Exception as error:
            kind = "crash"
            if len(crashes) < 20:
                crashes.append(f"{type(error).__name__}: {error} for {body[:300]!r}")
        outcomes[kind] = outcomes.get(kind, 0) + 1
    return Figure(
        f"fuzzing of bodies, {executions} executions",
        "0 crashes",
        f"{outcomes.get('crash', 0)} crashes, {outcomes.get('call', 0)} valid calls",
        "crash" not in outcomes and outcomes.get("call", 0) > 0,
        {"outcomes": outcomes, "crashes": crashes, "seconds": time.monotonic() - started},
    )
