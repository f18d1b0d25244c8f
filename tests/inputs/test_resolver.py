"""What a checkpoint is, decided from its files, its name and the overrides."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoint.resolve import resolve_model
from engine.config import ModelConfig
from engine.errors import ConfigError, ModelLoadError
from engine.model_spec import ModelSpec
from tests.support.chains import token_id
from tests.support.checkpoints import QWEN3_OVERRIDES, make_bert
from tests.support.random_models import save_random

Make = Callable[..., Path]
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def resolve(folder: Path, **settings: Any) -> ModelSpec:
    return resolve_model(ModelConfig(model=str(folder), **settings))


def write(folder: Path, name: str, value: Any) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    write(folder, "config.json", {key: value for key, value in config.items() if value is not ...})


@pytest.mark.parametrize("tied", [True, False])
def test_an_original_reranker_needs_no_flags(small: Make, tied: bool, caplog: pytest.LogCaptureFixture) -> None:
    folder = small(tied=tied)
    with caplog.at_level(logging.INFO):
        spec = resolve(folder)
    assert (spec.head.kind, spec.head.tokens) == ("from_2_way_softmax", ("no", "yes"))
    assert spec.head.token_ids == (token_id(folder, "no"), token_id(folder, "yes"))
    assert (spec.head.pooling, spec.head.activation, spec.head.num_labels) == ("last", "sigmoid", 1)
    assert (spec.model_type, spec.config["architectures"]) == ("qwen3", ["Qwen3ForCausalLM"])
    assert spec.template == "qwen3-reranker"
    assert spec.causal
    assert spec.max_model_len == 40960
    assert caplog.messages == [spec.decision]
    assert "known as Qwen/Qwen3-Reranker-0.6B by the title of README.md" in spec.decision
    assert "lm_head['yes'] - lm_head['no']" in spec.decision


def test_the_published_overrides_decide_the_same(small: Make) -> None:
    folder = small()
    plain, overridden = resolve(folder), resolve(folder, hf_overrides=QWEN3_OVERRIDES)
    assert overridden.head == plain.head
    assert overridden.template == plain.template
    assert overridden.config["architectures"] == ["Qwen3ForSequenceClassification"]
    unnamed = small(name=None)
    assert resolve(unnamed, hf_overrides=QWEN3_OVERRIDES).head == plain.head


def test_converted(small: Make) -> None:
    spec = resolve(small(converted=True, score_bias=True))
    assert (spec.head.kind, spec.head.num_labels, spec.head.activation) == ("classifier", 1, "sigmoid")
    assert spec.template == "qwen3-reranker"


def test_converted_from_something_else_has_no_template(small: Make, caplog: pytest.LogCaptureFixture) -> None:
    spec = resolve(small(converted=True, name=None))
    assert spec.template is None
    assert not spec.use_sep_token
    assert "no template is known" in caplog.text


def test_labels(small: Make) -> None:
    folder = small(converted=True)
    change_config(folder, id2label=...)
    assert resolve(folder).head.num_labels == 1  # from the file, not the library's default of two
    change_config(folder, id2label={"0": "a", "1": "b"})
    with pytest.raises(ModelLoadError, match=r"2 label.*id2label.*score.weight has 1 row"):
        resolve(folder)
    assert resolve(folder, hf_overrides={"num_labels": 1}).head.num_labels == 1


def test_called_converted_but_is_not(small: Make) -> None:
    folder = small()
    change_config(folder, architectures=["Qwen3ForSequenceClassification"])
    with pytest.raises(ModelLoadError, match=r"hold no score.weight"):
        resolve(folder)


def test_sharded_converted_head_is_found(small: Make) -> None:
    assert resolve(small(converted=True, shards=3)).head.num_labels == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"classifier_from_token": ["yes"]}, "needs two tokens"),
        ({"classifier_from_token": ["no", "maybe", "yes"]}, "needs two tokens"),
        ({"classifier_from_token": ["no", "yes please"]}, r"'yes please' is not one token of the vocabulary but \d"),
        ({"classifier_from_token": ["no", ""]}, "is not one token of the vocabulary but 0"),
        ({"classifier_from_token": ["yes", "yes"]}, "Both tokens"),
        ({"classifier_from_token": "yes"}, "must be a list of strings"),
        ({"classifier_from_token": []}, "must be a list of strings"),
        ({"classifier_from_token": ["no", 1]}, "must be a list of strings"),
        ({"is_original_qwen3_reranker": "yes"}, "must be true or false"),
        ({"method": "both"}, "must be from_2_way_softmax or no_post_processing"),
        ({"clasifier_from_token": ["no", "yes"]}, "Did you mean classifier_from_token"),
        ({"foo": 1}, "These exist: .*classifier_from_token"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "is refused"),
        ({"_name_or_path": "elsewhere"}, "is refused"),
        ({"max_position_embeddings": -1}, "positive integer"),
        ({"max_position_embeddings": True}, "positive integer"),
        ({"logit_sigma": 0}, "above 0"),
        ({"architectures": ["GPT2ForCausalLM"]}, "GPT2ForCausalLM .* is not supported. These are: Qwen3 "),
        ({"architectures": ["Qwen2ForCausalLM"]}, "is not supported"),
        ({"problem_type": "regress"}, "must be regression or"),
        ({"head_dtype": "int3"}, "must be float32 or"),
        ({"sentence_transformers": {"activation_fn": "os.system"}}, "asks for the activation 'os.system'"),
    ],
)
def test_wrong_overrides(small: Make, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(small(), hf_overrides=QWEN3_OVERRIDES | overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"classifier_from_token": ["no", "yes"]}, "needs a method"),
        ({"method": "from_2_way_softmax"}, "needs classifier_from_token"),
        ({"is_original_qwen3_reranker": True}, "needs its two tokens"),
    ],
)
def test_incomplete_overrides(small: Make, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(small(), hf_overrides=overrides)


def test_swapped_tokens_are_warned_about(small: Make, caplog: pytest.LogCaptureFixture) -> None:
    spec = resolve(small(), hf_overrides=QWEN3_OVERRIDES | {"classifier_from_token": ["yes", "no"]})
    assert spec.head.tokens == ("yes", "no")
    assert "the order is [false, true]" in caplog.text


def test_no_post_processing(small: Make) -> None:
    overrides = {"classifier_from_token": ["yes"], "method": "no_post_processing"}
    head = resolve(small(), hf_overrides=overrides, score_template="none").head
    assert (head.kind, head.num_labels, head.activation) == ("no_post_processing", 1, "sigmoid")
    with pytest.raises(ConfigError, match=r"gives 3 values a pair \(yes, no, 1\), and a score is one value"):
        resolve(small(), hf_overrides=overrides | {"classifier_from_token": ["yes", "no", "1"]})


def test_models_that_cannot_score_say_what_to_do(bert: Path, tmp_path: Path) -> None:
    folder = make_bert(tmp_path / "three", num_labels=3)
    change_config(folder, id2label={"0": "contradiction", "1": "entailment", "2": "neutral"})
    with pytest.raises(ConfigError, match=r"contradiction, entailment, neutral\), and a score .* one label"):
        resolve(folder)
    change_config(folder, architectures=["BertForMaskedLM"])
    with pytest.raises(ConfigError, match=r"fills gaps in texts .* BertForSequenceClassification"):
        resolve(folder)


@pytest.mark.parametrize(
    ("overrides", "activation"),
    [
        ({"problem_type": "regression"}, "identity"),
        ({"problem_type": "single_label_classification"}, "sigmoid"),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}, "identity"),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.activation.Sigmoid"}, "sigmoid"),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, "identity"),
    ],
)
def test_activation(small: Make, bert: Path, overrides: dict[str, Any], activation: str) -> None:
    assert resolve(small(), hf_overrides=overrides).head.activation == activation
    assert resolve(bert, hf_overrides=overrides).head.activation == activation


def test_calibration(small: Make) -> None:
    head = resolve(small(), hf_overrides={"logit_mean": 2.5, "logit_sigma": 3}).head
    assert (head.logit_mean, head.logit_sigma) == (2.5, 3.0)


def test_head_dtype_and_old_names_are_said(small: Make, caplog: pytest.LogCaptureFixture) -> None:
    spec = resolve(small(), hf_overrides={"head_dtype": "model", "use_pad_token": True})
    assert "the head always runs in fp32" in caplog.text
    assert "old name of use_sep_token" in caplog.text
    assert spec.use_sep_token


def test_nested_overrides_merge(small: Make) -> None:
    folder = small()
    change_config(folder, rope_parameters={"rope_type": "default", "rope_theta": 1e6})
    spec = resolve(folder, hf_overrides={"rope_parameters": {"rope_type": "yarn", "factor": 2.0}})
    assert spec.config["rope_parameters"] == {"rope_type": "yarn", "rope_theta": 1e6, "factor": 2.0}
    assert spec.max_model_len == 2 * 40960
    assert "rope_parameters" not in resolve(folder, hf_overrides={"rope_parameters": None}).config


@pytest.mark.parametrize("asked", [0, -1, 40961])
def test_model_length(small: Make, asked: int) -> None:
    folder = small()
    assert resolve(folder, max_model_len=1000).max_model_len == 1000
    with pytest.raises(ConfigError, match="was made for 1 to 40960 tokens"):
        resolve(folder, max_model_len=asked)


def test_code_in_config_is_never_run(small: Make) -> None:
    folder = small(config_changes={"auto_map": {"AutoModel": "evil.Model"}, "custom_pipelines": {}})
    with pytest.raises(ConfigError, match=r"auto_map that its model is the class evil.Model.*--ignore-config-key"):
        resolve(folder)
    assert not {"auto_map", "custom_pipelines"} & set(resolve(folder, ignore_config_key=("auto_map",)).config)


def test_encoders(bert: Path, xlm_roberta: Path) -> None:
    for folder, length in ((bert, 512), (xlm_roberta, 512)):
        spec = resolve(folder)
        assert (spec.head.kind, spec.head.pooling, spec.head.activation) == ("classifier", "cls", "sigmoid")
        assert not spec.causal
        assert spec.template is None
        assert spec.use_sep_token
        assert spec.max_model_len == length
    with pytest.raises(ConfigError, match="no classification head"):
        resolve(bert, hf_overrides={"architectures": ["BertForCausalLM"]})


def test_dummy_weights_need_no_files(small: Make) -> None:
    folder = small(converted=True)
    (folder / "model.safetensors").unlink()
    assert resolve(folder, load_format="dummy").head.num_labels == 1
    with pytest.raises(ModelLoadError, match="no safetensors file"):
        resolve(folder)
    (folder / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelLoadError, match=r"pytorch_model.bin, and only safetensors"):
        resolve(folder)


def test_another_tokenizer(small: Make, tmp_path: Path) -> None:
    folder = small()
    other = tmp_path / "tokenizer"
    other.mkdir()
    (folder / "tokenizer.json").rename(other / "tokenizer.json")
    spec = resolve(folder, tokenizer=str(other))
    assert spec.tokenizer_path == str(other)
    assert spec.path == str(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "has no config.json"),
        ("config.json", "{", "config.json is not valid JSON"),
        ("config.json", "[]", "must hold a JSON object, not list"),
        ("config.json", "{}", "names no architecture"),
        ("config.json", '{"architectures": "Qwen3ForCausalLM"}', "names no architecture"),
        ("tokenizer.json", None, r"has no tokenizer\.json"),
        ("tokenizer.json", "{}", "cannot be read as a tokenizer"),
        ("tokenizer.json", "version https://git-lfs.github.com/spec/v1\n", "git-LFS pointer"),
        ("tokenizer_config.json", "nonsense", "tokenizer_config.json is not valid JSON"),
        ("config_sentence_transformers.json", "7", "must hold a JSON object, not int"),
    ],
)
def test_damaged_files(small: Make, name: str, content: str | None, message: str) -> None:
    folder = small()
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    with pytest.raises(ModelLoadError, match=message):
        resolve(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it has 0 bytes"),
        (b"\x10", "it has 1 bytes"),
        (b"\xff" * 64, "damaged or not a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-LFS pointer"),
        (b"\x04\0\0\0\0\0\0\0nope", "header is not valid"),
        (b"\x02\0\0\0\0\0\0\0[]", "header is not valid"),
    ],
)
def test_damaged_weights_of_a_converted_checkpoint(small: Make, content: bytes, message: str) -> None:
    folder = small(converted=True)
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelLoadError, match=message):
        resolve(folder)


def test_vocabularies_that_do_not_fit(small: Make) -> None:
    folder = small()
    size = resolve(folder).vocab_size
    change_config(folder, vocab_size=size - 1)
    with pytest.raises(ModelLoadError, match=f"ids up to {size - 1}, but the model's vocabulary has {size - 1}"):
        resolve(folder)
    change_config(folder, vocab_size=None)
    with pytest.raises(ConfigError, match="vocab_size = null"):
        resolve(folder)
    change_config(folder, vocab_size=size + 7, max_position_embeddings=0)
    with pytest.raises(ModelLoadError, match="no usable max_position_embeddings"):
        resolve(folder)


ORIGINAL = {"classifier_from_token": ["no", "yes"], "is_original_qwen3_reranker": True}


def test_flags_that_contradict_themselves(small: Make, tmp_path: Path) -> None:
    other = ORIGINAL | {"classifier_from_token": ["0", "1"]}
    with pytest.raises(
        ConfigError, match="a model that answers no or yes, and classifier_from_token of --hf-overrides names '0'"
    ):
        resolve(small(name=None), hf_overrides=other)
    llama = save_random(tmp_path / "llama", "LlamaForCausalLM", "qwen", **TINY)
    with pytest.raises(ConfigError, match=r"is a Qwen3-Reranker, and its network is a Llama.*--score-template qwen3-"):
        resolve(llama, hf_overrides=ORIGINAL)


def test_tokens_for_a_checkpoint_with_a_classifier_are_said(small: Make, caplog: pytest.LogCaptureFixture) -> None:
    spec = resolve(small(converted=True), hf_overrides=ORIGINAL)
    assert spec.head.kind == "from_2_way_softmax"
    assert "its files hold a classifier (score.weight), which is left out" in caplog.text


@pytest.mark.parametrize(
    ("folder", "readme", "config", "origin"),
    [
        ("ms-marco-MiniLM-L-6-v2", "", {}, "the name of its folder"),
        ("m", "---\nbase_model: cross-encoder/ms-marco-MiniLM-L6-v2\n---\n", {}, "base_model in README.md"),
        ("m", "", {"sbert_ce_default_activation_function": "torch.nn.Identity"}, "the activation in config.json"),
        ("m", "", {"sentence_transformers": {"activation_fn": "torch.nn.Tanh"}}, "the activation in config.json"),
    ],
)
def test_a_cross_encoder_without_its_head_is_no_bi_encoder(
    folder: str, readme: str, config: dict[str, Any], origin: str, tmp_path: Path
) -> None:
    """As an export for another program left it: a BertModel under the name of a cross-encoder."""
    path = make_bert(tmp_path / folder, layers=1, config_changes={"architectures": ["BertModel"], **config})
    (path / "README.md").write_text(readme)
    with pytest.raises(ModelLoadError, match=f"{origin}.*calls it a cross-encoder: its head is missing"):
        resolve(path)
    as_network = {"architectures": ["BertModel"], "classifier_pooling": "mean"}
    assert resolve(path, hf_overrides=as_network).head.kind == "embedding"
    assert resolve(path, hf_overrides={"architectures": ["BertForSequenceClassification"]}).head.kind == "classifier"


def test_a_pooling_that_the_head_does_not_read(tmp_path: Path) -> None:
    folder = make_bert(tmp_path / "m", layers=1, config_changes={"classifier_pooling": "mean"})
    with pytest.raises(ConfigError, match="classifier_pooling = 'mean', which the head of a BertForSequenceClassifi"):
        resolve(folder)


def test_label2id_that_says_the_opposite(tmp_path: Path) -> None:
    labels = {"id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 1, "yes": 0}}
    folder = make_bert(tmp_path / "m", layers=1, num_labels=2, config_changes=labels)
    with pytest.raises(ConfigError, match="by id2label row 0 means no, by label2id row 1 does"):
        resolve(folder)
    assert resolve(folder, hf_overrides={"id2label": {"0": "yes", "1": "no"}}).head.label_rows == (1, 0)


def test_the_range_of_a_fine_tuned_encoder_is_said_to_be_assumed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_bert(tmp_path / "m", layers=1)
    (folder / "README.md").write_text("---\nbase_model:\n- cross-encoder/ms-marco-MiniLM-L6-v2\n---\n")
    assert resolve(folder).head.activation == "identity"
    assert "so that model's range (identity) is assumed to be its own" in caplog.text


def test_a_null_in_the_newer_key_leaves_the_older_one_unread(tmp_path: Path) -> None:
    """As in sentence-transformers."""
    keys = {
        "sentence_transformers": {"activation_fn": None},
        "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity",
    }
    assert resolve(make_bert(tmp_path / "m", layers=1, config_changes=keys)).head.activation == "sigmoid"
