"""``LLM.score`` from texts and from token ids, and tokenising by itself, in processor time of the whole process."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from benchmarks.host.device import install, processor_us
from benchmarks.host.sampler import sampling
from benchmarks.host.workloads import TextCall, text_calls
from engine.entrypoints.offline.llm import LLM
from engine.inputs.encoder import HuggingFaceEncoder, TextEncoder, choose_encoder

CALLS = {"calls of 1": (300, 1), "calls of 100": (10, 100)}


def repeated(run: Callable[[], Any], seconds: float) -> float:
    """Median of the processor time of one ``run``, in microseconds."""
    run()
    spent, began = [], time.perf_counter()
    while len(spent) < 3 or time.perf_counter() - began < seconds:
        spent.append(processor_us(run))
    return sorted(spent)[len(spent) // 2]


def measure_offline(model: Path, seconds: float) -> dict[str, Any]:
    install()
    found: dict[str, Any] = {}
    with LLM(str(model), load_format="dummy", enforce_eager=True) as llm:
        encode = llm._processor.encode
        for name, (num_calls, documents) in CALLS.items():
            calls = text_calls(num_calls, documents)
            as_ids = [[pair.token_ids for pair in encode([call.query], call.documents)] for call in calls]

            def from_texts(calls: list[TextCall] = calls) -> None:
                for call in calls:
                    llm.score(call.query, call.documents, use_tqdm=False)

            def from_ids(as_ids: Any = as_ids) -> None:
                for ids in as_ids:
                    llm.score([ids[0][:70]], [one[70:] for one in ids], use_tqdm=False)

            pairs = num_calls * documents
            with sampling() as samples:
                texts_us = repeated(from_texts, seconds)
            found[name] = {
                "from_texts_us_a_pair": texts_us / pairs,
                "from_ids_us_a_pair": repeated(from_ids, seconds) / pairs,
                "where_from_texts": samples.table(),
            }
    return found


def measure_tokenizer(model: Path, seconds: float) -> dict[str, Any]:
    """Documents of 60 words in batches of 100: Hugging Face's tokenizers, and what the engine takes instead."""
    documents = [document for call in text_calls(10, 100) for document in call.documents]
    batches = [documents[start : start + 100] for start in range(0, len(documents), 100)]
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    encoders: dict[str, TextEncoder] = {"hugging_face": HuggingFaceEncoder(tokenizer)}
    chosen = choose_encoder(tokenizer)
    if not isinstance(chosen, HuggingFaceEncoder):
        encoders["chosen"] = chosen
    found: dict[str, Any] = {"note": chosen.note}
    for name, encoder in encoders.items():
        tokens = sum(len(encoder.encode_batch(batch)[0]) for batch in batches)
        us = repeated(lambda encoder=encoder: [encoder.encode_batch(batch) for batch in batches], seconds)
        found["tokens_a_document"] = tokens / len(documents)
        found[name] = {"us_a_document": us / len(documents), "mega_tokens_a_second": tokens / us}
    return found
