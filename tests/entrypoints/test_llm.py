"""The offline API over the real engine with a small checkpoint."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import LLM
from engine.entrypoints.offline import llm as llm_module
from engine.entrypoints.offline.arguments import adapter_of, engine_config, pair_settings, pair_stream
from engine.entrypoints.offline.pipeline import WINDOW
from engine.errors import ConfigError, InvalidRequestError
from tests.support.checkpoints import INSTRUCTION, PREFIX, QWEN3_OVERRIDES, SUFFIX, make_qwen3, official_qwen3_scores

DOCUMENTS = ["The capital of China is Beijing.", "Gravity is a force.", "", "北京 is a city.", "x " * 300]
QUERY = "What is the capital of China?"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3(tmp_path_factory.mktemp("llm") / "Qwen3-Reranker")


@pytest.fixture(scope="module")
def llm(checkpoint: Path) -> Iterator[LLM]:
    with LLM(model=str(checkpoint), task="score", hf_overrides=QWEN3_OVERRIDES, max_num_batched_tokens=512) as engine:
        yield engine


def test_scores_are_transformers(llm: LLM, checkpoint: Path) -> None:
    outputs = llm.score(QUERY, DOCUMENTS, use_tqdm=False)
    expected = official_qwen3_scores(checkpoint, QUERY, DOCUMENTS)
    assert [o.outputs.score for o in outputs] == pytest.approx(expected, abs=1e-5)
    assert [o.outputs[0].score for o in outputs] == [o.outputs.score for o in outputs]
    assert all(o.finished and o.error is None and not o.truncated for o in outputs)
    for output in outputs:
        assert output.outputs.score == pytest.approx(1 / (1 + math.exp(-output.outputs.logit)), abs=1e-12)
        assert isinstance(output.prompt_token_ids, list)


def test_the_tutorials_script(llm: LLM) -> None:
    """Its own formatting of query and documents gives the scores of the plain texts."""
    query = f"{PREFIX}<Instruct>: {INSTRUCTION}\n<Query>: {QUERY}\n"
    documents = [f"<Document>: {document}{SUFFIX}" for document in DOCUMENTS]
    formatted = llm.score(query, documents)
    plain = llm.score(QUERY, DOCUMENTS)
    assert [o.outputs[0].score for o in formatted] == pytest.approx([o.outputs[0].score for o in plain], abs=1e-6)


def test_shapes(llm: LLM) -> None:
    one = llm.score("q", "d")[0].outputs.score
    for first, second, count in (
        ("q", ["d", "e"], 2),
        (["q"], ["d", "e"], 2),
        (["q", "r"], ["d", "e"], 2),
        ((q for q in "qr"), (d for d in "de"), 2),
        ((q for q in "q"), ("d" for _ in range(3)), 3),
        (np.array(["q"]), np.array(["d"]), 1),
    ):
        outputs = llm.score(first, second)
        assert len(outputs) == count
        assert outputs[0].outputs.score == pytest.approx(one, abs=1e-6)
    assert llm.score(text_1="q", text_2="d")[0].outputs.score == pytest.approx(one, abs=1e-6)


def test_token_ids(llm: LLM) -> None:
    whole = llm.score("q", ["d", "e"])
    ids = [output.prompt_token_ids for output in whole]
    split = llm.score([i[:50] for i in ids], [i[50:] for i in ids])
    assert [o.outputs.score for o in split] == pytest.approx([o.outputs.score for o in whole], abs=1e-6)
    assert [o.prompt_token_ids for o in split] == ids
    one = llm.score(ids[0][:50], np.array(ids[0][50:]))
    assert one[0].outputs.score == pytest.approx(whole[0].outputs.score, abs=1e-6)
    with pytest.raises(InvalidRequestError, match="both token ids"):
        llm.score("q", [ids[0]])


@pytest.mark.parametrize(
    ("first", "second", "error", "says"),
    [
        (["a", "b"], ["a", "b", "c"], ValueError, "1:1, 1:N or N:N"),
        (["a", "b"], "c", ValueError, "1:1, 1:N or N:N"),
        ((t for t in "ab"), (t for t in "abc"), ValueError, "1:1, 1:N or N:N"),
        ([], ["a"], ValueError, "At least one text element"),
        ("a", [], ValueError, "At least one text_pair element"),
        ("a", None, TypeError, "data_2 is missing"),
        ("a", 5, TypeError, "got int"),
        ("a", b"bytes", TypeError, "got bytes"),
        ("a", ["b", None], TypeError, r"data_2\[1\].*NoneType"),
        ("a", ["b", 1.5], TypeError, r"data_2\[1\].*float"),
        ("a", ["b", "\ud800"], ValueError, r"data_2\[1\].*surrogate"),
        ("", ["b"], ValueError, "query is empty"),
    ],
)
def test_wrong_sides(llm: LLM, first: Any, second: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        llm.score(first, second)
    assert llm._pipeline.open_slices == {}
    assert len(llm.score("q", ["d", "e"])) == 2


def test_rerank(llm: LLM) -> None:
    scores = [o.outputs.score for o in llm.score(QUERY, DOCUMENTS)]
    results = llm.rerank(QUERY, DOCUMENTS)
    assert [r.index for r in results] == sorted(range(5), key=lambda i: -scores[i])
    assert [r.document for r in results] == [DOCUMENTS[r.index] for r in results]
    assert [r.index for r in llm.rerank(QUERY, iter(DOCUMENTS), top_n=2)] == [r.index for r in results[:2]]
    assert [r.index for r in llm.rerank(QUERY, ["same"] * 4)] == [0, 1, 2, 3]
    assert llm.rerank(QUERY, []) == []
    with pytest.raises(ValueError, match="top_n"):
        llm.rerank(QUERY, DOCUMENTS, top_n=-1)


def test_instruction_and_limits(llm: LLM) -> None:
    (plain,) = llm.score("q", "one two three four")
    (told,) = llm.score("q", "one two three four", instruction="Be strict")
    (cut,) = llm.score("q", "one two three four", max_tokens_per_doc=2)
    (wrapped,) = llm.score("q", "one two three four", pooling_params={"max_tokens_per_doc": 2})
    assert told.outputs.score != plain.outputs.score
    assert (cut.truncated, plain.truncated) == (True, False)
    assert wrapped.outputs == cut.outputs
    settings = {"truncate_prompt_tokens": 300, "truncation": False}
    *fine, long = llm.score("q", ["a"] * 600 + ["b " * 900], tokenization_kwargs=settings)
    assert not any(output.error for output in fine)
    assert str(long.error).startswith("documents[600]: the pair has ")
    assert math.isnan(long.outputs.score)
    with pytest.raises(TypeError, match="Did you mean 'instruction'"):
        llm.score("q", "d", instrution="x")


class _CountingSource:
    def __init__(self, count: int) -> None:
        self.count, self.taken = count, 0

    def __iter__(self) -> Iterator[str]:
        for i in range(self.count):
            self.taken += 1
            yield f"d{i % 7}"


def test_a_stream_is_read_no_further_than_the_window(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm_module, "SLICE_PAIRS", 16)
    bars: list[Any] = []

    class Bar:
        def __init__(self, **settings: Any) -> None:
            self.total, self.n, self.closed = settings["total"], 0, False
            bars.append(self)

        def update(self, n: int) -> None:
            self.n += n

        def close(self) -> None:
            self.closed = True

    source = _CountingSource(600)
    scores = []
    for position, output in enumerate(llm.score_iter("q", iter(source), use_tqdm=Bar)):
        scores.append(output.outputs.score)
        assert source.taken - position <= 16 * (WINDOW + 1)
    assert len(scores) == 600
    assert scores == pytest.approx((scores[:7] * 86)[:600], abs=1e-6)
    assert (bars[0].total, bars[0].n, bars[0].closed) == (None, 600, True)


def test_two_streams_at_once_and_one_left_early(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm_module, "SLICE_PAIRS", 4)
    expected = [o.outputs.score for o in llm.score("q", DOCUMENTS * 4)]
    first, second = llm.score_iter("q", DOCUMENTS * 4), llm.score_iter("q", reversed(DOCUMENTS * 4))
    got = [(next(first).outputs.score, next(second).outputs.score) for _ in range(10)]
    first.close()
    got_later = [output.outputs.score for output in second]
    assert [a for a, _ in got] == pytest.approx(expected[:10], abs=1e-6)
    assert [b for _, b in got] + got_later == pytest.approx(expected[::-1], abs=1e-6)
    assert llm._pipeline.open_slices == {}
    assert llm._client.stats().num_waiting_pairs == 0


def test_threads_share_one_object(llm: LLM) -> None:
    expected = {i: [o.outputs.score for o in llm.score(f"q{i}", DOCUMENTS)] for i in range(4)}
    got: dict[int, list[float]] = {}

    def work(i: int) -> None:
        got[i] = [o.outputs.score for o in llm.score(f"q{i}", DOCUMENTS)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for i, scores in expected.items():
        assert got[i] == pytest.approx(scores, abs=1e-6)


def test_ctrl_c_leaves_nothing_behind(llm: LLM) -> None:
    before = [o.outputs.score for o in llm.score(QUERY, DOCUMENTS)]
    threads = threading.active_count()
    over = threading.Event()

    def press() -> None:
        """Once more after a while: Python loses an interrupt that falls into a callback of its garbage collector."""
        pause_s = 0.3
        while not over.wait(pause_s):
            os.kill(os.getpid(), signal.SIGINT)
            pause_s = 10.0

    presser = threading.Thread(target=press)
    presser.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            llm.score(QUERY, (f"document {i} " * 50 for i in range(100_000)))
    finally:
        over.set()
        presser.join()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert llm._pipeline.open_slices == {}
    llm._client.recv(0.5)
    assert llm._client.stats().num_waiting_pairs == 0
    assert threading.active_count() <= threads
    assert [o.outputs.score for o in llm.score(QUERY, DOCUMENTS)] == pytest.approx(before, abs=1e-6)


def test_overrides_by_function(checkpoint: Path) -> None:
    def change(config: Any) -> Any:
        assert config.architectures == ["Qwen3ForCausalLM"]
        config.architectures = ["Qwen3ForSequenceClassification"]
        config.update(QWEN3_OVERRIDES)
        return config

    with LLM(str(checkpoint), hf_overrides=change, max_model_len=128) as engine:
        assert engine.config.model.hf_overrides == QWEN3_OVERRIDES
        assert engine.spec.max_model_len == 128
        assert engine.score("q", "x " * 500)[0].truncated


def test_closing(checkpoint: Path) -> None:
    engine = LLM(str(checkpoint))
    stream = engine.score_iter("q", ["a"] * 2000)
    next(stream)
    engine.close()
    engine.close()
    stream.close()
    with pytest.raises(RuntimeError, match="closed"):
        engine.score("q", "d")


def test_constructor_arguments() -> None:
    config = engine_config(
        {
            "model": "m",
            "task": "score",
            "runner": "pooling",
            "tokenizer_mode": "auto",
            "trust_remote_code": True,
            "tensor_parallel_size": 1,
            "dtype": "half",
            "seed": 3,
            "gpu_memory_utilization": 0.9,
            "enforce_eager": True,
            "max_num_batched_tokens": "8k",
            "quantization": None,
            "chat_template": None,
        }
    )
    assert (config.model.dtype, config.model.seed, config.scheduler.max_num_batched_tokens) == ("float16", 3, 8000)
    with pytest.raises(TypeError, match="Did you mean 'max_model_len'"):
        engine_config({"max_modle_len": 5})
    with pytest.raises(TypeError, match="'port'"):
        engine_config({"port": 5})
    with pytest.raises(ConfigError, match="only scores pairs"):
        engine_config({"task": "generate"})
    with pytest.raises(ConfigError, match="max_model_len"):
        engine_config({"max_model_len": "many", "model": 5} | {"max_model_len": 1.5})
    with pytest.raises(ConfigError, match="dtype"):
        engine_config({"dtype": "int4"})


def test_options_in_vllms_wrappings() -> None:
    class PoolingParams:
        extra_kwargs = {"max_tokens_per_doc": 4, "max_tokens_per_query": 2}  # noqa: RUF012
        truncate_prompt_tokens = -1

    options = pair_settings({"pooling_params": PoolingParams()}).options
    assert (options.max_tokens_per_doc, options.max_tokens_per_query, options.truncate_prompt_tokens) == (4, 2, None)
    assert pair_settings({"tokenization_kwargs": {"max_length": 9}}).options.truncate_prompt_tokens == 9
    with pytest.raises(ValueError, match="max_tokens_per_doc"):
        pair_settings({"max_tokens_per_doc": -1})
    with pytest.raises(ValueError, match="lora_modules"):
        adapter_of(object(), {})


def test_pair_stream_counts() -> None:
    assert pair_stream("q", ["a", "b"])[1] == 2
    assert pair_stream(["q", "r"], ["a", "b"])[1] == 2
    assert pair_stream("q", iter("ab"))[1] is None
    assert list(pair_stream([[1, 2]], [[3], [4]])[0]) == [([1, 2], [3]), ([1, 2], [4])]
