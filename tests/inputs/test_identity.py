"""Which published model a checkpoint is, or was made from: exact ids count, parts of names never."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoint.published_models import by_id, by_name, published_models
from engine.checkpoint.resolve import resolve_model
from engine.config import ModelConfig
from engine.errors import ConfigError
from engine.model_spec import ModelSpec
from engine.prompts.published import TEMPLATES, built_in_name
from tests.support.chains import add_logit_score, token_id, write_json
from tests.support.checkpoints import QWEN3_OVERRIDES, make_bert
from tests.support.tokenizer_files import qwen_tokenizer_json

Make = Callable[..., Path]
ANSWERS = qwen_tokenizer_json(answers=("Yes",))


@pytest.fixture
def small(small: Make) -> Make:
    """With the answers of zerank in the vocabulary."""
    return partial(small, tokenizer_json=ANSWERS)


def resolve(folder: Path, **settings: Any) -> ModelSpec:
    return resolve_model(ModelConfig(model=str(folder), **settings))


def moved(folder: Path, *parts: str) -> Path:
    target = folder.parent.joinpath(*parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    return folder.rename(target)


CARDS = {
    "a base": "---\nbase_model: Qwen/Qwen3-Reranker-4B\n---\n# Something",
    "a list of bases": "---\nlicense: mit\nbase_model:\n- Qwen/Qwen3-Reranker-4B\ntags: [a]\n---\n# Something",
    "its index": "---\nmodel-index:\n- name: Qwen3-Reranker-8B\n  results:\n  - task: x\n---\n# Something",
    "its title": "---\ntags:\n- x\n---\n\nA picture\n\n# Qwen/Qwen3-Reranker-0.6B\n",
}


@pytest.mark.parametrize("card", CARDS)
def test_a_card_names_a_published_model(small: Make, card: str) -> None:
    folder = small(name=None)
    (folder / "README.md").write_text(CARDS[card])
    spec = resolve(folder)
    assert (spec.template, spec.head.tokens) == ("qwen3-reranker", ("no", "yes"))
    assert "README.md" in spec.decision


@pytest.mark.parametrize(
    "parts", [("Qwen3-Reranker-0.6B",), ("models--Qwen--Qwen3-Reranker-4B", "snapshots", "0123abc")]
)
def test_a_folder_is_called_like_a_published_model(small: Make, parts: tuple[str, ...]) -> None:
    spec = resolve(moved(small(name=None), *parts))
    assert spec.template == "qwen3-reranker"
    assert "by the name of its folder" in spec.decision


def test_a_link_is_called_like_a_published_model(small: Make, tmp_path: Path) -> None:
    link = tmp_path / "zerank-1-small"
    link.symlink_to(small(name=None))
    head = resolve(link).head
    assert (head.tokens, head.activation, head.logit_sigma) == (("Yes",), "sigmoid", 5.0)


@pytest.mark.parametrize(
    "parts",
    [
        ("my-reranker",),
        ("Qwen3-Reranker-0.6B-finetuned",),
        ("rerankers", "chat"),
        ("qwen3-reranker-0.6b",),
        ("models--me--Qwen3-Reranker-0.6B", "snapshots", "0123abc"),
        ("zerank",),
    ],
)
def test_a_part_of_a_name_decides_nothing(small: Make, parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="nothing in its files says how it ranks"):
        resolve(moved(small(name=None), *parts))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("README.md", "---\npipeline_tag: text-ranking\ntags:\n- reranker\n---\n# A reranker"),
        ("README.md", "---\nbase_model: Qwen/Qwen3-0.6B\n---\n# Fine-tuned for Qwen3-Reranker users"),
        ("README.md", "---\nbase_model: Qwen3-Reranker-0.6B\n---\n"),
        ("README.md", "# Qwen3-0.6B\nFor ranking see Qwen3-Reranker.\n\n## Qwen3-Reranker-0.6B"),
        ("README.md", "---\nbase_model: [Qwen/Qwen3-Reranker-4B\n---\n# Broken"),
        ("config_sentence_transformers.json", '{"model_type": "CrossEncoder"}'),
        ("1_LogitScore/config.json", '{"true_token_id": 5, "false_token_id": 6}'),
        ("chat_template.jinja", 'the answer can only be "yes" or "no"'),
    ],
)
def test_words_decide_nothing(small: Make, file: str, text: str) -> None:
    folder = small(name=None)
    write_json(folder / file, text)
    with pytest.raises(ConfigError, match="nothing in its files says how it ranks"):
        resolve(folder)


def test_the_error_shows_three_ways_out(small: Make) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(small(name=None))
    text = str(caught.value)
    assert '"classifier_from_token": ["no", "yes"], "is_original_qwen3_reranker": true' in text
    assert "--score-template zerank-2" in text
    assert "--score-template FILE" in text
    assert text.count("--hf-overrides") == 3


def test_the_published_overrides_bring_the_published_prompt(small: Make) -> None:
    """A fine-tune in a folder of any name, with the three keys of the tutorial."""
    spec = resolve(moved(small(name=None), "checkpoint-100"), hf_overrides=QWEN3_OVERRIDES)
    assert spec.template == "qwen3-reranker"
    assert "prompt qwen3-reranker by is_original_qwen3_reranker" in spec.decision


def test_tokens_of_ones_own_take_the_published_prompt_away(small: Make) -> None:
    """Who names other tokens says that it is not the model that its folder's name says."""
    overrides = {"classifier_from_token": ["!"], "method": "no_post_processing"}
    folder = moved(small(name=None), "Qwen3-Reranker-0.6B")
    with pytest.raises(ConfigError, match="answers with the token '!', and nothing says in which prompt") as caught:
        resolve(folder, hf_overrides=overrides)
    assert "qwen3-reranker, mxbai-rerank-v2" in str(caught.value)
    spec = resolve(folder, hf_overrides=overrides, score_template="ctxl-rerank-v2")
    assert (spec.template, spec.head.tokens) == ("ctxl-rerank-v2", ("!",))
    spec = resolve(folder, hf_overrides=overrides, score_template="none")
    assert (spec.template, spec.use_sep_token) == (None, False)
    spec = resolve(folder, hf_overrides=overrides | {"use_sep_token": True})
    assert (spec.template, spec.use_sep_token) == (None, True)


def test_tokens_of_ones_own_take_the_published_range_away(small: Make, caplog: pytest.LogCaptureFixture) -> None:
    overrides = {"classifier_from_token": ["yes"], "method": "no_post_processing"}
    folder = moved(small(name=None), "zerank-1")
    spec = resolve(folder, hf_overrides=overrides, score_template="zerank-2")
    assert (spec.head.activation, spec.head.logit_sigma) == ("sigmoid", 1.0)
    assert "name other tokens than those of zeroentropy/zerank-1 (Yes)" in caplog.text
    assert resolve(folder).head.logit_sigma == 5.0


def test_the_published_tokens_keep_the_published_prompt(small: Make) -> None:
    overrides = {"classifier_from_token": ["no", "yes"], "method": "from_2_way_softmax"}
    folder = moved(small(name=None), "Qwen3-Reranker-0.6B")
    assert resolve(folder, hf_overrides=overrides).template == "qwen3-reranker"
    with pytest.raises(ConfigError, match="--score-template none"):
        resolve(moved(folder, "checkpoint-100"), hf_overrides=overrides)


def test_a_fine_tune_of_a_known_base_says_what_is_assumed(small: Make, caplog: pytest.LogCaptureFixture) -> None:
    folder = small(name=None)
    (folder / "README.md").write_text("---\nbase_model: zeroentropy/zerank-1-small\n---\n")
    spec = resolve(folder)
    assert (spec.head.tokens, spec.head.logit_sigma, spec.template) == (("Yes",), 5.0, "zerank-2")
    assert "made from zeroentropy/zerank-1-small by base_model in README.md" in spec.decision
    assert "are assumed to be its own" in caplog.text
    with pytest.raises(ConfigError, match="nothing in its files says"):
        resolve(folder, ignore_config_key=("base_model",))


def test_config_names_its_base(small: Make) -> None:
    folder = small(name=None, config_changes={"_name_or_path": "Qwen/Qwen3-Reranker-0.6B"})
    assert "made from Qwen/Qwen3-Reranker-0.6B by _name_or_path in config.json" in resolve(folder).decision


def test_two_models_in_one_folder(small: Make) -> None:
    folder = moved(small(name="zeroentropy/zerank-2"), "Qwen3-Reranker-0.6B")
    with pytest.raises(ConfigError, match="names two models that are scored differently") as caught:
        resolve(folder)
    assert "Qwen/Qwen3-Reranker-0.6B by the name of its folder" in str(caught.value)
    assert "zeroentropy/zerank-2 by the title of README.md" in str(caught.value)
    (folder / "README.md").write_text("# Qwen3-Reranker-8B\n")  # another size of the same
    assert resolve(folder).template == "qwen3-reranker"


def test_what_it_is_goes_before_what_it_was_made_from(small: Make) -> None:
    folder = moved(small(name=None), "zerank-2")
    (folder / "README.md").write_text("---\nbase_model: Qwen/Qwen3-Reranker-4B\n---\n")
    assert resolve(folder).template == "zerank-2"


def test_a_name_of_another_network_decides_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make_bert(tmp_path / "zerank-2")
    assert resolve(folder).head.kind == "classifier"
    assert "nothing is taken from what is published of it" in caplog.text


@pytest.mark.parametrize("card", ["---\nbase_model: zeroentropy/zerank-2\n---\n", "# Qwen3-Reranker-0.6B\n"])
def test_a_card_that_contradicts_the_modules(small: Make, card: str) -> None:
    folder = add_logit_score(small(name=None), true_id=0, false_id=None, message=False)
    (folder / "README.md").write_text(card)
    with pytest.raises(ConfigError, match=r"contradicts itself: 1_LogitScore/config.json scores by .* README.md"):
        resolve(folder)
    overrides = {"classifier_from_token": ["Yes"], "method": "no_post_processing"}
    assert resolve(folder, hf_overrides=overrides).head.tokens == ("Yes",)
    if "base_model" in card:
        assert resolve(folder, ignore_config_key=("base_model",)).head.token_ids == (0,)


def test_modules_go_before_the_name_of_a_folder(small: Make, caplog: pytest.LogCaptureFixture) -> None:
    folder = moved(add_logit_score(small(name=None), true_id=0, false_id=None, message=False), "Qwen3-Reranker-0.6B")
    spec = resolve(folder)
    assert (spec.head.token_ids, spec.template, spec.use_sep_token) == ((0,), None, True)
    assert "its files say otherwise" in caplog.text


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("qwen3-reranker", "qwen3-reranker"),
        ("qwen3_reranker.jinja", "qwen3-reranker"),
        ("examples/pooling/score/template/mxbai_rerank_v2.jinja", "mxbai-rerank-v2"),
        ("./bge-reranker-v2-gemma.jinja", "bge-reranker-v2-gemma"),
        ("zerank2.jinja", "zerank-2"),
        ("rerank.jinja", None),
        ("qwen3", None),
    ],
)
def test_names_of_built_in_prompts(asked: str, name: str | None) -> None:
    assert built_in_name(asked) == name


def test_a_prompt_by_name(small: Make, caplog: pytest.LogCaptureFixture) -> None:
    folder = small(name=None)
    with caplog.at_level(logging.INFO):
        spec = resolve(folder, score_template="qwen3_reranker.jinja")
    assert (spec.template, spec.head.tokens) == ("qwen3-reranker", ("no", "yes"))
    assert "there is no such file here; the built-in prompt qwen3-reranker is used" in caplog.text
    assert (
        f"ids {token_id(folder, 'no')}, {token_id(folder, 'yes')}) by --score-template qwen3-reranker" in spec.decision
    )
    with pytest.raises(ConfigError, match=r"built-in prompt \(qwen3-reranker, mxbai"):
        resolve(folder, score_template="qwen4.jinja", hf_overrides=QWEN3_OVERRIDES)


def test_a_file_of_that_name_goes_before_the_built_in_prompt(
    small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "qwen3_reranker.jinja").write_text("{{ query }} {{ document }}")
    spec = resolve(small(), score_template="qwen3_reranker.jinja")
    assert spec.template == f"file:{tmp_path / 'qwen3_reranker.jinja'}"


def test_the_table_names_each_model_once() -> None:
    ids = [model_id for model in published_models() for model_id in model.ids]
    assert len(ids) == len({model_id.lower() for model_id in ids})
    for model in published_models():
        assert model.template is None or model.template in TEMPLATES
        for model_id in model.ids:
            assert by_id(model_id) == (model, model_id)
            found = by_name(model_id.rpartition("/")[2])
            assert found == (model, model_id), "no name falls under another model's entry"
