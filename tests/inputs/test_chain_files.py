"""The files of a chain, one by one: what they state is taken, and what is not understood is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoint.resolve import resolve_model
from engine.config import ModelConfig
from engine.errors import ConfigError, ModelLoadError
from engine.model_spec import ModelSpec
from tests.support.chains import TYPES, add_logit_score, add_modules, token_id, write_json
from tests.support.checkpoints import make_bert

Make = Callable[..., Path]
POOLING = ("Pooling", "1_Pooling", {"pooling_mode": "cls", "embedding_dimension": 48})
DENSE: dict[str, Any] = {
    "in_features": 48, "out_features": 1, "bias": True, "module_output_name": "scores",
    "activation_function": "torch.nn.modules.linear.Identity",
}  # fmt: skip


def resolve(folder: Path, **settings: Any) -> ModelSpec:
    return resolve_model(ModelConfig(model=str(folder), **settings))


@pytest.fixture
def body(tmp_path: Path) -> Path:
    """A BERT without a head, as far as its config says."""
    folder = make_bert(tmp_path / "body", layers=1)
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["BertModel"]}
    write_json(folder / "config.json", config)
    return folder


@pytest.mark.parametrize("path", ["1_LogitScore", "2_Answer"])
def test_logit_score_lies_where_the_list_says(small: Make, path: str) -> None:
    folder = small(name=None)
    yes, no = token_id(folder, "yes"), token_id(folder, "no")
    spec = resolve(add_logit_score(folder, true_id=yes, false_id=no, path=path, message=False))
    assert (spec.head.kind, spec.head.token_ids) == ("from_2_way_softmax", (no, yes))
    assert (spec.template, spec.use_sep_token, spec.head.activation) == (None, True, "sigmoid")
    assert f"by {path}/config.json" in spec.decision


def test_token_0_is_a_token(small: Make) -> None:
    head = resolve(add_logit_score(small(name=None), true_id=0, false_id=None, message=False)).head
    assert (head.kind, head.token_ids) == ("no_post_processing", (0,))
    head = resolve(add_logit_score(small(name=None), true_id=1, false_id=0, message=False)).head
    assert (head.kind, head.token_ids) == ("from_2_way_softmax", (0, 1))


def test_keys_that_a_chain_does_not_have(small: Make) -> None:
    folder = add_logit_score(small(name=None), true_id=5, false_id=6, message=False)
    write_json(folder / "1_LogitScore" / "config.json", {"true_token_id": 5, "scale": 0.2})
    with pytest.raises(ConfigError, match=r"1_LogitScore/config.json: its key 'scale' is not known"):
        resolve(folder)
    modules = json.loads((folder / "modules.json").read_text())
    write_json(folder / "modules.json", [modules[0] | {"weight": 0.5}, modules[1]])
    with pytest.raises(ConfigError, match=r"modules.json: its key 'weight' is not known"):
        resolve(folder)


def test_an_unknown_key_that_means_nothing(small: Make) -> None:
    folder = add_logit_score(small(name=None), true_id=5, false_id=6, message=False)
    write_json(folder / "config_sentence_transformers.json", {"trained_on": "x", "truncate_dim": None})
    with pytest.raises(ConfigError, match="has trained_on = 'x'"):
        resolve(folder)
    assert resolve(folder, ignore_config_key=("trained_on",)).head.token_ids == (6, 5)


@pytest.mark.parametrize(
    ("true_id", "false_id", "message"),
    [
        (10**6, None, "1_LogitScore/config.json names the token id 1000000, which is no token here"),
        ("yes", None, "must hold integer token ids: true_token_id 'yes'"),
        (True, None, "must hold integer token ids"),
        (-1, None, "must hold integer token ids"),
        (5, "no", "false_token_id 'no'"),
        (None, 5, "true_token_id None"),
    ],
)
def test_ids_that_are_none(small: Make, true_id: object, false_id: object, message: str) -> None:
    folder = add_logit_score(small(name=None), true_id=true_id, false_id=false_id, message=False)
    with pytest.raises(ModelLoadError, match=message):
        resolve(folder)


def test_a_chain_decides_the_range(small: Make) -> None:
    folder = add_logit_score(small(), true_id=5, false_id=6, message=False)
    write_json(folder / "README.md", "")
    assert "sigmoid by the default of sentence-transformers" in resolve(folder).decision
    for name, activation in (("linear.Identity", "identity"), ("activation.Tanh", "tanh")):
        metadata = {"model_type": "CrossEncoder", "activation_fn": f"torch.nn.modules.{name}"}
        write_json(folder / "config_sentence_transformers.json", metadata)
        spec = resolve(folder)
        assert spec.head.activation == activation
        assert f"{activation} by config_sentence_transformers.json" in spec.decision
    assert resolve(folder, hf_overrides={"problem_type": "regression"}).head.activation == "identity"


def test_a_published_range_gives_way_to_the_files(small: Make) -> None:
    """Where publications disagree, the files of the checkpoint decide, and the log says so."""
    folder = small()
    assert "a probability by the model card, raw by its sentence-transformers files" in resolve(folder).decision
    no, yes = (token_id(folder, token) for token in ("no", "yes"))
    add_logit_score(folder, true_id=yes, false_id=no, message=False)
    write_json(
        folder / "config_sentence_transformers.json",
        {"model_type": "CrossEncoder", "activation_fn": "torch.nn.modules.linear.Identity"},
    )
    assert resolve(folder).head.activation == "identity"


def test_metadata_without_their_modules(small: Make, body: Path, caplog: pytest.LogCaptureFixture) -> None:
    """sentence-transformers leaves config_sentence_transformers.json out where modules.json is missing."""
    folder = small()
    metadata = {"model_type": "CrossEncoder", "activation_fn": "torch.nn.modules.linear.Identity"}
    write_json(folder / "config_sentence_transformers.json", metadata)
    with pytest.raises(ConfigError, match=r"activation identity \(otherwise it is the sigmoid\), and modules.json"):
        resolve(folder)
    asked = {"sentence_transformers": {"activation_fn": "torch.nn.Tanh"}}
    assert resolve(folder, hf_overrides=asked).head.activation == "tanh"
    write_json(folder / "config_sentence_transformers.json", metadata | {"activation_fn": "torch.nn.Sigmoid"})
    assert resolve(folder).head.activation == "sigmoid"
    mean = {"classifier_pooling": "mean"}
    with pytest.raises(ConfigError, match="nothing says how its tokens become one vector"):
        resolve(body)
    assert resolve(body, hf_overrides=mean).head.pooling == "mean"
    write_json(body / "config_sentence_transformers.json", {"prompts": {"query": "find: "}})
    with pytest.raises(ConfigError, match=r"the prompts 'find: ' and '', and modules\.json"):
        resolve(body, hf_overrides=mean)
    assert resolve(body, hf_overrides=mean, score_template="none").text_prompts == ("", "")
    write_json(body / "config_sentence_transformers.json", {"similarity_fn_name": "dot"})
    with pytest.raises(ConfigError, match=r"similarity_fn_name 'dot', and modules\.json"):
        resolve(body, hf_overrides=mean)
    add_modules(body, POOLING)
    write_json(body / "config_sentence_transformers.json", {"prompts": {"passage": "p: "}})
    assert resolve(body).text_prompts == ("", "p: ")
    assert "'' is put before queries and 'p: ' before documents" in caplog.text
    assert (resolve(body).head.pooling, resolve(body, hf_overrides=mean).head.pooling) == ("cls", "mean")


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([("sentence_transformers.models.Router", "1_Router", None)], "module 1 is a Router, which is not executed"),
        ([("sentence_transformers.models.WeightedLayerPooling", "1_W", None)], "is a WeightedLayerPooling"),
        ([("modeling.Custom", "1_Custom", None)], "names the module 'modeling.Custom', which is code"),
        ([POOLING, ("Dense", "2_Dense", DENSE | {"module_input_name": "token_embeddings"})], "it reads 'token_embed"),
        ([("Dense", "1_Dense", DENSE | {"module_input_name": "token_embeddings"})], "before a Pooling"),
        ([("Dense", "1_Dense", DENSE)], "it reads 'sentence_embedding', and the module before it makes 'token_embed"),
        ([POOLING, ("LogitScore", "2_L", {"true_token_id": 1})], "it reads 'causal_logits'"),
        ([POOLING, ("Dense", "2_Dense", DENSE | {"activation_function": "os.system"})], "activation_function is 'os"),
        ([POOLING, ("Dense", "2_Dense", DENSE | {"activation_function": "torch.nn.Softmax"})], "is 'torch.nn.Softmax'"),
        ([POOLING, ("Dense", "2_Dense", DENSE | {"dropout": 0.5})], "its key 'dropout' is not known"),
        ([("Pooling", "1_Pooling", {"pooling_mode": ["cls", "mean"]})], "it pools tokens by cls and mean"),
        ([("Pooling", "1_Pooling", {"pooling_mode": "max"})], "it pools tokens by max"),
        ([("Pooling", "1_Pooling", {"pooling_mode": "cls", "layers": 4})], "its key 'layers' is not known"),
        ([], "its last module makes 'token_embeddings'"),
        ([POOLING, ("sentence_transformers.models.Normalize", "2_N", {"p": 1})], "its key 'p' is not known"),
        ([POOLING, ("sentence_transformers.models.Dropout", "2_D", {"dropout": 0.1, "at_inference": True})], "at_inf"),
    ],
)  # fmt: skip
def test_chains_that_are_refused(body: Path, modules: list[tuple[str, str, Any]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(add_modules(body, *modules))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transformer_task": "fill-mask"}, "transformer_task is 'fill-mask'"),
        ({"modality_config": {"image": {"method": "forward"}}}, "it reads image and no texts"),
        ({"modality_config": {"text": {"method": "encode"}}}, "takes 'last_hidden_state' of encode"),
        (
            {"modality_config": {"text": {"method_output_name": ["hidden_states", -2]}}},
            r"takes \['hidden_states', -2\]",
        ),
        ({"processing_kwargs": {"text": {"truncation": "only_first"}}}, "truncation='only_first'"),
        ({"processing_kwargs": {"text": {"add_special_tokens": False}}}, "add_special_tokens=False"),
        ({"processing_kwargs": {"text": {"stride": 3}}}, "stride=3, which is not known"),
        ({"processing_kwargs": {"words": {}}}, "processing_kwargs has the part 'words'"),
        ({"config_args": {"num_hidden_layers": 1}}, "config_args is {'num_hidden_layers': 1}"),
        ({"query_expansion": {"strategy": "fixed"}}, "query_expansion is"),
        ({"temperature": 2}, "its key 'temperature' is not known"),
        ({"model_args": {"num_hidden_layers": 1}}, "model_args holds num_hidden_layers"),
        ({"processing_kwargs": {"chat_template": {"restore_suffix": False}}}, "restore_suffix is False"),
        ({"processing_kwargs": {"chat_template": {"truncation": False}}}, "the tokenizer with truncation=False"),
        ({"processing_kwargs": {"chat_template": {"tools": [{}]}}}, r"with tools=\[{}\]"),
        ({"processing_kwargs": {"chat_template": {"continue_final_message": True}}}, "continue_final_message=True"),
    ],
)
def test_transformers_that_are_refused(body: Path, changes: dict[str, Any], message: str) -> None:
    folder = add_modules(body, POOLING, ("Dense", "2_Dense", DENSE))
    assert resolve(folder).head.kind == "modules"
    write_json(folder / "sentence_bert_config.json", changes)
    with pytest.raises(ConfigError, match=message):
        resolve(folder)


def test_harmless_settings(body: Path) -> None:
    folder = add_modules(
        body, POOLING, ("Dense", "2_Dense", DENSE), ("sentence_transformers.models.Dropout", "3_D", {})
    )
    settings = {
        "max_seq_length": 100, "do_lower_case": False, "unpad_inputs": True, "model_args": {"torch_dtype": "float16"},
        "processing_kwargs": {"common": {"padding": True}, "text": {"max_length": 90}, "image": {"size": 3}},
    }  # fmt: skip
    write_json(folder / "sentence_bert_config.json", settings)
    assert resolve(folder).max_model_len == 90
    assert resolve(folder, max_model_len=400).max_model_len == 400


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"model_type": "SentenceTransformer"}, r"the modules make scores, and model_type is SentenceTransformer"),
        ({"model_type": "SparseEncoder"}, "a sparse model for the first stage"),
        ({"model_type": "ColBERT"}, "a late-interaction model"),
        ({"model_type": "Something"}, "model_type 'Something' is not known"),
        ({"truncate_dim": 16}, "has truncate_dim = 16, which is not known here"),
        ({"score_scale": 0.2}, "pass --ignore-config-key score_scale"),
        ({"default_prompt_name": "web"}, "the default prompt 'web', and it has no prompts"),
        ({"default_prompt_name": "web", "prompts": {"q": "x: "}}, "the default prompt 'web', and there are 'q'"),
    ],
)
def test_metadata_that_contradict_the_chain(body: Path, metadata: dict[str, Any], message: str) -> None:
    folder = add_modules(body, POOLING, ("Dense", "2_Dense", DENSE))
    write_json(folder / "config_sentence_transformers.json", metadata)
    with pytest.raises(ConfigError, match=message):
        resolve(folder)


def test_a_cross_encoder_without_scores(body: Path) -> None:
    folder = add_modules(body, POOLING)
    assert resolve(folder).head.kind == "embedding"
    write_json(folder / "config_sentence_transformers.json", {"model_type": "CrossEncoder"})
    with pytest.raises(ConfigError, match="make 'sentence_embedding' and no scores, and model_type is CrossEncoder"):
        resolve(folder)
    (folder / "modules.json").unlink()
    with pytest.raises(ModelLoadError, match=r"calls it a cross-encoder: its head is missing, or modules\.json"):
        resolve(folder)


def test_a_flag_decides_a_contradiction(small: Make) -> None:
    folder = add_logit_score(small(name=None), true_id=5, false_id=6, message=False)
    write_json(folder / "config_sentence_transformers.json", {"model_type": "SentenceTransformer"})
    with pytest.raises(ConfigError, match="contradict each other"):
        resolve(folder)
    overrides = {"classifier_from_token": ["no", "yes"], "method": "from_2_way_softmax"}
    assert resolve(folder, hf_overrides=overrides).head.tokens == ("no", "yes")


@pytest.mark.parametrize(
    ("stored", "error", "message"),
    [
        ("{", ModelLoadError, "is not valid JSON"),
        ("{}", ModelLoadError, "must hold a list of modules"),
        ("[]", ModelLoadError, "must hold a list of modules"),
        ("[1]", ModelLoadError, "must hold a list of modules"),
        ('[{"type": 3}]', ConfigError, "names the module 3"),
        (json.dumps([{"type": TYPES["Pooling"], "path": ""}]), ConfigError, "begins with a Transformer"),
        (json.dumps([{"type": TYPES["Transformer"], "path": "../other"}]), ModelLoadError, "does not lie in the"),
        (json.dumps([{"type": TYPES["Transformer"], "path": "/etc"}]), ModelLoadError, "does not lie in the ch"),
        (json.dumps([{"type": TYPES["Transformer"], "path": "0_T"}]), ModelLoadError, "'0_T', which is missing"),
    ],
)  # fmt: skip
def test_damaged_lists(body: Path, stored: str, error: type[Exception], message: str) -> None:
    write_json(body / "modules.json", stored)
    with pytest.raises(error, match=message):
        resolve(body)


@pytest.mark.parametrize(
    ("names", "rows"),
    [
        (None, (0, 1)),
        ({"0": "no", "1": "yes"}, (0, 1)),
        ({"0": "Irrelevant", "1": "Relevant"}, (0, 1)),
        ({"0": "yes", "1": "no"}, (1, 0)),
    ],
)
def test_two_labels(tmp_path: Path, names: dict[str, str] | None, rows: tuple[int, int]) -> None:
    folder = make_bert(tmp_path / "two", num_labels=2)
    config = json.loads((folder / "config.json").read_text())
    config.pop("id2label", None)
    write_json(folder / "config.json", config | ({"id2label": names} if names else {}))
    head = resolve(folder).head
    assert (head.label_rows, head.stored_rows, head.num_labels, head.activation) == (rows, 2, 1, "softmax")


def test_two_labels_judged_apart(tmp_path: Path) -> None:
    folder = make_bert(tmp_path / "two", num_labels=2, config_changes={"problem_type": "multi_label_classification"})
    head = resolve(folder).head
    assert (head.label_rows, head.activation) == ((1,), "sigmoid")


def test_two_labels_without_a_meaning(tmp_path: Path) -> None:
    folder = make_bert(tmp_path / "two", num_labels=2, config_changes={"id2label": {"0": "cat", "1": "dog"}})
    with pytest.raises(ConfigError, match=r"two labels, cat, dog, and config\.json does not say") as caught:
        resolve(folder)
    overrides = json.loads(str(caught.value).split("--hf-overrides '")[1].split("'")[0])
    assert resolve(folder, hf_overrides=overrides).head.label_rows == (0, 1)
