"""A checkpoint is somebody else's data: whatever its small files say, the start ends in a sentence that names what is
wrong, in bounded time and memory, before a weight is read."""

from __future__ import annotations

import json
import math
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoint import tokenizer_limits
from engine.checkpoint.resolve import resolve_model
from engine.checkpoint.tokenizer_limits import _repeats_repeats
from engine.config import ModelConfig
from engine.errors import ModelLoadError, RequestError, StartupError
from engine.inputs.processor import InputProcessor
from engine.prompts import renderer
from engine.prompts.renderer import RenderError, RenderLimitError, render
from engine.request import EncodedPair
from tests.inputs.conftest import build
from tests.support.checkpoints import make_bert, make_qwen3

MEMORY_BYTES = 2 * 2**30


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    small = {"hidden": 16, "layers": 1, "head_dim": 8, "intermediate": 16}
    return {"qwen3": make_qwen3(folder / "qwen3", **small), "bert": make_bert(folder / "bert")}


@pytest.fixture
def damaged(checkpoints: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    def make(kind: str, file: str, change: Callable[[dict[str, Any]], Any]) -> Path:
        folder = shutil.copytree(checkpoints[kind], tmp_path / kind)
        path = folder / file
        stored = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps(change(stored) or stored))
        return folder

    return make


@pytest.fixture(autouse=True)
def _no_more_memory_than_a_start_takes() -> Iterator[None]:
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < MEMORY_BYTES


def refusal(folder: Path) -> str:
    with pytest.raises(StartupError) as caught:
        resolve_model(ModelConfig(model=str(folder)))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1500
    return str(caught.value)


BILLION = 10**9
NUMBERS: list[tuple[str, str, Any]] = [
    ("qwen3", "num_hidden_layers", BILLION),
    ("qwen3", "num_hidden_layers", 0),
    ("qwen3", "num_hidden_layers", -1),
    ("qwen3", "num_hidden_layers", 1.5),
    ("qwen3", "num_hidden_layers", "12"),
    ("qwen3", "num_hidden_layers", True),
    ("qwen3", "num_attention_heads", 0),
    ("bert", "num_attention_heads", 0),
    ("bert", "num_attention_heads", 7),
    ("qwen3", "num_key_value_heads", 3),
    ("qwen3", "num_key_value_heads", -2),
    ("qwen3", "head_dim", 10**12),
    ("qwen3", "head_dim", -64),
    ("qwen3", "hidden_size", 0),
    ("bert", "hidden_size", math.nan),
    ("bert", "hidden_size", [48]),
    ("bert", "intermediate_size", 2**62),
    ("qwen3", "vocab_size", 10**12),
    ("bert", "vocab_size", -5),
    ("qwen3", "max_position_embeddings", 10**18),
    ("bert", "max_position_embeddings", 0),
    ("bert", "type_vocab_size", 10**10),
    ("qwen3", "rms_norm_eps", math.nan),
    ("qwen3", "rms_norm_eps", -1e-6),
    ("bert", "layer_norm_eps", math.inf),
    ("qwen3", "rope_theta", 0),
    ("qwen3", "rope_theta", math.inf),
    ("qwen3", "rope_theta", "many"),
    ("qwen3", "rope_scaling", {"rope_type": "yarn", "factor": 1e30, "original_max_position_embeddings": 32768}),
    ("qwen3", "rope_scaling", {"rope_type": "yarn", "factor": math.nan, "original_max_position_embeddings": 32768}),
    ("qwen3", "rope_scaling", {"rope_type": "yarn", "factor": 1000.0, "original_max_position_embeddings": 32768}),
    ("qwen3", "rope_scaling", [1]),
    ("qwen3", "rope_parameters", {"rope_theta": -math.inf}),
    ("qwen3", "layer_types", [1, 2]),
    ("qwen3", "layer_types", [["full_attention"]]),
    ("qwen3", "layer_types", "full_attention"),
    ("bert", "num_labels", 10**10),
    ("bert", "hidden_act", ["gelu"]),
    ("bert", "id2label", [1]),
    ("qwen3", "quantization_config", "int4"),
    ("qwen3", "quantization_config", {"quant_method": "awq", "bits": math.inf, "group_size": 128}),
]


@pytest.mark.parametrize(("kind", "key", "value"), NUMBERS, ids=[f"{k}-{key}-{v}"[:60] for k, key, v in NUMBERS])
def test_numbers_of_the_config(kind: str, key: str, value: Any, damaged: Any) -> None:
    message = refusal(damaged(kind, "config.json", lambda config: config | {key: value}))
    assert key in message or "positions" in message


@pytest.mark.parametrize(
    "content",
    [
        "[" * 10**5,
        '{"a": ' * 10**5,
        '{"hidden_size": ' + "9" * 10**5 + "}",
        '{"architectures": {}}',
        '{"architectures": [["Qwen3ForCausalLM"]], "model_type": "qwen3"}',
        '{"architectures": ["Qwen3ForCausalLM"], "model_type": ["qwen3"]}',
        "null",
        "",
        "\x00" * 100,
    ],
    ids=lambda content: content[:24],
)
def test_configs_of_another_form(content: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoints["qwen3"], tmp_path / "m")
    (folder / "config.json").write_text(content)
    refusal(folder)


def replaced(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def sequence(*normalizers: dict[str, Any]) -> dict[str, Any]:
    return {"normalizer": {"type": "Sequence", "normalizers": list(normalizers)}}


def split(regex: str) -> dict[str, Any]:
    step = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return {"pre_tokenizer": step}


def types(last: int) -> dict[str, Any]:
    parts = [{"Sequence": {"id": name, "type_id": kind}} for name, kind in (("A", 0), ("B", last))]
    return {"type": "TemplateProcessing", "single": parts[:1], "pair": parts, "special_tokens": {}}


def nested(depth: int) -> dict[str, Any]:
    inner: dict[str, Any] = {"type": "NFC"}
    for _ in range(depth):
        inner = {"type": "Sequence", "normalizers": [inner]}
    return {"normalizer": inner}


TOKENIZERS: dict[str, tuple[str, Any, str]] = {
    "chained replacements": ("bert", sequence(*[replaced({"String": "a"}, "aaaaaaaaaa")] * 9), "times as long"),
    "chained replacements by patterns": ("bert", sequence(*[replaced({"Regex": "."}, "aa")] * 9), "times as long"),
    "a long replacement": ("bert", {"normalizer": replaced({"String": "a"}, "a" * 10**6)}, "characters"),
    "an empty pattern": ("bert", sequence(*[replaced({"String": ""}, "abcdefgh")] * 3), "times as long"),
    "a long prefix": ("bert", {"normalizer": {"type": "Prepend", "prepend": "a" * 10**5}}, "characters"),
    "many normalisers": ("bert", sequence(*[{"type": "NFC"}] * 10**4), "normalisers"),
    "nested normalisers": ("bert", nested(200), "tokenizer"),
    "repeats of repeats": ("qwen3", split("(a+)+$"), "exponential"),
    "repeats of repeats, deeper": ("qwen3", split(r"((?:a|b*)c?)*d"), "exponential"),
    "repeats of repeats in a normaliser": ("bert", {"normalizer": replaced({"Regex": "(x*)*y"}, "")}, "exponential"),
    "a huge count": ("qwen3", split("a{1,99999999}"), "counts further"),
    "a long pattern": ("qwen3", split("a|" * 10**5), "characters"),
    "a costly look": ("qwen3", split("(?=[a-z]*[a-z]*[a-z]*[0-9])x|a"), "does not end"),
    "long words": (
        "bert",
        lambda stored: stored["model"].update(max_input_chars_per_word=10**9),
        "max_input_chars_per_word",
    ),
    "millions of added tokens": (
        "bert",
        lambda stored: stored.update(
            added_tokens=[
                {"id": i, "content": f"[{i}]", "special": True, "single_word": False, "lstrip": False, "rstrip": False,
                 "normalized": False}
                for i in range(200_000)
            ]
        ),
        "adds 200,000 tokens",
    ),
    "ids without end": ("bert", lambda stored: stored["model"]["vocab"].update(zzzz=2**31), "ids up to"),
    "no object": ("bert", lambda stored: [1], "tokenizer"),
    "a table that is none": (
        "bert", {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, "cannot be read",
    ),
    "a pattern that gives up": ("qwen3", split("(a|a)*b|(?:(?:x?){30}x{30})"), "retry-limit"),
    "token types without end": (
        "bert", {"post_processor": types(4_000_000_000)}, "type_id",
    ),
    "words that it does not know": (
        "bert", {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[none]"}}, "does not know",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizers(name: str, damaged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_limits, "TRIAL_TIMEOUT_S", 2.0)
    kind, change, words = TOKENIZERS[name]
    make = change if callable(change) else lambda stored: stored | change
    message = refusal(damaged(kind, "tokenizer.json", make))
    assert "tokenizer" in message.lower()
    assert words in message


def processor(folder: Path) -> InputProcessor:
    config = ModelConfig(model=str(folder))
    return InputProcessor(resolve_model(config), config)


def test_token_types_that_the_model_has_not(damaged: Any) -> None:
    def change(stored: dict[str, Any]) -> None:
        for part in stored["post_processor"]["pair"]:
            if part.get("Sequence", {}).get("id") == "B":
                part["Sequence"]["type_id"] = 7

    folder = damaged("bert", "tokenizer.json", change)
    with pytest.raises(ModelLoadError, match="token type 7, and the model has 2"):
        processor(folder)


def test_a_tokenizer_that_leaves_nothing(damaged: Any) -> None:
    nothing = {"normalizer": replaced({"Regex": "."}, "")}
    with pytest.raises(ModelLoadError, match="makes no token of the letter 'a'"):
        processor(damaged("qwen3", "tokenizer.json", lambda stored: stored | nothing))


def test_a_tokenizer_that_leaves_nothing_of_most_texts_serves_the_others(damaged: Any) -> None:
    letters = {"normalizer": replaced({"Regex": "[^ab]"}, "")}
    found = processor(damaged("qwen3", "tokenizer.json", lambda stored: stored | letters))
    assert isinstance(found.encode_each(["a"], ["b"])[0], EncodedPair)
    with pytest.raises(RequestError, match="has no token"):
        found.encode(["\u4e2d"], ["b"])


def test_a_tokenizer_that_drops_merges_at_random_does_not_here(damaged: Any) -> None:
    folder = damaged("qwen3", "tokenizer.json", lambda stored: stored["model"].update(dropout=0.9))
    found = processor(folder)
    assert len({found.encode(["the panda"], ["eats bamboo"])[0].token_ids.tobytes() for _ in range(5)}) == 1


@pytest.mark.parametrize(
    ("regex", "found"),
    [("(a+)+", True), ("(?:a*b?)*", True), (r"([ab]{2,})+", True), (r"\(a+\)+", False), ("[(a+)+]", False),
     (r"(?i:'s|'t)|\p{L}+|\s+(?!\S)", False), ("(ab)+", False), ("(a+b)?c", False)],
)  # fmt: skip
def test_which_patterns_repeat_repeats(regex: str, found: bool) -> None:
    assert _repeats_repeats(regex) == found


QUICK = {
    "a string times a billion": "{{ 'a' * 10**10 }}",
    "doubling": "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "padding": "{{ 'a'|center(10**10) }}",
    "a format": "{{ '%10000000000d' % 1 }}",
    "output without end": "{% for i in range(99999) %}{% for j in range(99) %}xxxxxxxxxx{% endfor %}{% endfor %}",
}
SLOW = {
    "loops in loops": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}"
        "{% endfor %}"
    ),
    "a power": "{{ (7 ** 9999999) ** 9999 }}",
}


@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_templates(name: str, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renderer, "TIMEOUT_S", 1.0 if name in SLOW else 20.0)
    folder = shutil.copytree(checkpoints["qwen3"], tmp_path / "Model")
    text = {**QUICK, **SLOW}[name] + "{{ messages[0].content }}"
    (folder / "chat_template.jinja").write_text(text)
    with pytest.raises(ModelLoadError, match=r"The chat template of .*Model needs more ") as caught:
        resolve_model(ModelConfig(model=str(folder)))
    assert "--score-template" in str(caught.value)
    template = tmp_path / "own.jinja"
    template.write_text(text)
    with pytest.raises(StartupError, match=r"score template .*own\.jinja needs more "):
        build(checkpoints["qwen3"], score_template=str(template))


def test_templates_that_are_wrong_are_no_limit() -> None:
    for text in (
        "{{ x.y.z }}",
        "{% for %}",
        "{{ raise_exception('no') }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ):
        with pytest.raises(RenderError) as caught:
            render(text, {}, keep_newline=False)
        assert not isinstance(caught.value, RenderLimitError)
    assert render("{{ x }}\n", {"x": "ok"}, keep_newline=True) == "ok\n"


@pytest.mark.parametrize(
    "settings",
    [
        {"max_seq_length": math.nan},
        {"max_seq_length": [1]},
        {"max_seq_length": 10**18},
        {"processing_kwargs": 7},
        {"processing_kwargs": {"chat_template": 5}},
    ],
    ids=str,
)
def test_settings_of_a_chain(settings: dict[str, Any], checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """Refused in a sentence, or without effect."""
    folder = shutil.copytree(checkpoints["bert"], tmp_path / "m")
    kind = "sentence_transformers.models"
    (folder / "modules.json").write_text(
        json.dumps(
            [
                {"idx": 0, "name": "0", "path": "", "type": f"{kind}.Transformer"},
                {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{kind}.Pooling"},
            ]
        )
    )
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
    with suppress(StartupError):
        assert resolve_model(ModelConfig(model=str(folder))).max_model_len <= 512
