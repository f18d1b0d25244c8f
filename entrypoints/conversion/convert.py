"""What a converted checkpoint is: plain weights, one score, its tokenizer, and a card that says what was done.

Decisions are made from the files, without torch; ``backends/conversion`` writes the weights.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.checkpoint.families import FAMILIES
from engine.checkpoint.files import load_tokenizer
from engine.checkpoint.hub import resolve_folder
from engine.checkpoint.resolve import resolve_model
from engine.config import ModelConfig
from engine.errors import ConfigError, ModelLoadError

if TYPE_CHECKING:
    from engine.backends.conversion.weights import Rows

COPIED = ("*.json", "*.txt", "*.model", "*.jinja", "README.md", "LICENSE*")
NOT_COPIED = (
    "config.json", "tokenizer.json", "*.index.json", "adapter_config.json", "quantize_config.json", "quant_config.json",
    "hf_quant_config.json", "quant_model_description*.json", "tokenizer.problem.txt", "README.md", "requirements.txt",
)  # fmt: skip
QUANTIZATION_KEYS = ("quantization_config", "compression_config", "quantization")
LM_HEAD = "lm_head.weight"
UNPICKLER = "engine.backends.conversion.unpickle"
UNPICKLER_TIMEOUT_S = 2 * 3600
MODULES = ("modules.json", "1_LogitScore")
"""Of Sentence-Transformers: a LogitScore becomes a row of the model."""


@dataclass
class Conversion:
    """One checkpoint on its way."""

    source: Path
    config: dict[str, Any]
    done: list[str] = field(default_factory=list)
    """What was done, a sentence each, for the log and the card."""
    head: list[Rows] = field(default_factory=list)
    without: list[str] = field(default_factory=list)
    drop_modules: bool = False
    is_copy: bool = False
    """``source`` is not what the user named, but made of it."""


def convert(config: ModelConfig, out: Path, *, dtype: str = "bfloat16", adapter: Path | None = None) -> list[str]:
    """Write the converted checkpoint of ``config.model`` into the new folder ``out``; what was done, in sentences.

    Raises ``ConfigError`` for a folder that is not empty, and ``ModelLoadError`` where the checkpoint is not
    understood.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is there already; convert writes into a new or an empty folder.", param="output")
    patterns = ["*.json", "*.safetensors", "*.bin", "*.txt", "*.model", "*.jinja", "README.md"]
    folder = resolve_folder(config.model, config.revision, files=patterns)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".convert-") as work:
        named = Path(work) / folder.name
        opened, words = _open_bin(folder, named)
        conversion = Conversion(opened, json.loads((opened / "config.json").read_bytes()), words)
        conversion.is_copy = opened != folder
        tokenizer = load_tokenizer(folder if config.tokenizer is None else resolve_folder(config.tokenizer))
        _decide_head(conversion, config, opened)
        finished = Path(work) / "finished"
        finished.mkdir()
        _write_weights(conversion, finished, dtype, adapter)
        tokenizer.save(str(finished / "tokenizer.json"))
        _copy_files(folder, finished, drop_modules=conversion.drop_modules)
        _write_config(conversion, finished, dtype)
        _write_card(folder, conversion, finished)
        if out.is_dir():
            out.rmdir()
        finished.rename(out)
    return conversion.done


def _open_bin(folder: Path, named: Path) -> tuple[Path, list[str]]:
    """A folder with safetensors: ``folder`` itself, or a copy of its small files with the pickled tensors rewritten."""
    if any(folder.glob("*.safetensors")) or not any(folder.glob("*.bin")):
        return folder, []
    shutil.copytree(
        folder, named, ignore=shutil.ignore_patterns("*.bin", "*.pt", "*.pth", "*.onnx", "*.msgpack", "*.h5")
    )
    command = [sys.executable, "-P", "-m", UNPICKLER, str(folder.resolve()), str(named / "model.safetensors")]
    environment = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "HOME") if name in os.environ}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=UNPICKLER_TIMEOUT_S, check=False,
            env={**environment, "PYTHONSAFEPATH": "1", "CUDA_VISIBLE_DEVICES": ""},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ModelLoadError(f"{folder}: reading its .bin files took more than {UNPICKLER_TIMEOUT_S} s") from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"the reading process ended with {done.returncode}"])[-1]
        raise ModelLoadError(reason)
    return named, ["Pickled `.bin` weights were rewritten as safetensors; nothing but tensors was read."]


def _decide_head(conversion: Conversion, config: ModelConfig, folder: Path) -> None:
    from engine.backends.conversion.weights import shapes

    stored = shapes(folder, conversion.config)
    architecture = str((conversion.config.get("architectures") or [""])[0])
    family = FAMILIES.get(str(conversion.config.get("model_type")))
    if family is None:
        raise ModelLoadError(
            f"{folder} is of the model type {conversion.config.get('model_type')!r}, which is not known"
        )
    if architecture.endswith("ForCausalLM"):
        _row_of_tokens(conversion, config, stored)
        return
    for name in family.head_tensors:
        if architecture.endswith("ForSequenceClassification") and stored.get(name, (0,))[0] == 2:
            _one_label(conversion, config, name, stored)


def _one_label(conversion: Conversion, config: ModelConfig, name: str, stored: dict[str, tuple[int, ...]]) -> None:
    """The row that says relevant minus the row that does not, as the loader reads them from ``id2label``."""
    from dataclasses import replace

    from engine.backends.conversion.weights import Rows

    if conversion.config.get("problem_type") == "multi_label_classification":
        raise ModelLoadError(
            f"{conversion.source} has two labels that do not exclude each other: they are no one score"
        )
    names = [name, name.removesuffix("weight") + "bias"]
    model = str(conversion.source) if conversion.is_copy else config.model
    negative, positive = resolve_model(replace(config, model=model)).head.label_rows
    conversion.head = [Rows(tensor, positive, negative, tensor) for tensor in names if tensor in stored]
    conversion.config |= _one_label_config()
    conversion.done.append(f"Two labels became one: row {positive} minus row {negative}, which gives the same score.")


def _row_of_tokens(conversion: Conversion, config: ModelConfig, stored: dict[str, tuple[int, ...]]) -> None:
    """The rows of a language model's answer as the only row of a classifier."""
    from dataclasses import replace

    from engine.backends.conversion.weights import Rows

    model = str(conversion.source) if conversion.is_copy else config.model
    spec = resolve_model(replace(config, model=model))
    if spec.head.kind not in ("from_2_way_softmax", "no_post_processing") or spec.head.num_labels != 1:
        return
    for key, neutral in (("final_logit_softcapping", None), ("logits_scaling", 1.0)):
        if spec.config.get(key, neutral) not in (None, neutral):
            conversion.done.append(
                f"The head stays the language model's: {key} changes the logit of each token by itself, which the one "
                "row of a classifier cannot. Serve it with the flags that it needs now."
            )
            return
    tied = bool(conversion.config.get("tie_word_embeddings", False)) or LM_HEAD not in stored
    embedding = next((name for name in stored if name.endswith("embed_tokens.weight")), None)
    tensor = embedding if tied else LM_HEAD
    if tensor is None:
        raise ModelLoadError(f"{conversion.source} holds neither {LM_HEAD} nor an embedding to make the score from")
    ids = spec.head.token_ids
    negative, positive = ids if len(ids) == 2 else (None, ids[0])
    conversion.head = [Rows(tensor, positive, negative, "score.weight")]
    conversion.without = [LM_HEAD]
    architecture = conversion.config["architectures"][0].replace("ForCausalLM", "ForSequenceClassification")
    conversion.config |= _one_label_config() | {"architectures": [architecture], "use_sep_token": False}
    if spec.head.activation == "identity":
        conversion.config["sentence_transformers"] = {"activation_fn": "torch.nn.modules.linear.Identity"}
    tokens = " minus ".join(repr(token) for token in reversed(spec.head.tokens))
    conversion.done.append(f"The answer {tokens} of the language model became the one row `score.weight`.")
    conversion.drop_modules = (conversion.source / "1_LogitScore").is_dir()


def _one_label_config() -> dict[str, Any]:
    return {"num_labels": 1, "id2label": {"0": "relevant"}, "label2id": {"relevant": 0}, "problem_type": None}


def _write_weights(conversion: Conversion, out: Path, dtype: str, adapter: Path | None) -> None:
    from engine.backends.conversion.weights import convert_weights

    written = convert_weights(
        conversion.source,
        conversion.config,
        out,
        dtype=dtype,
        head=conversion.head,
        without=conversion.without,
        adapter=adapter,
    )
    if written.format is not None:
        conversion.done.append(f"Quantised weights ({written.format}) were dequantised.")
    if adapter is not None:
        conversion.done.append(f"The LoRA adapter {adapter.name!r} was merged into {written.num_merged} modules.")
    conversion.done.append(f"Weights are stored in {dtype}.")


def _copy_files(folder: Path, out: Path, *, drop_modules: bool) -> None:
    skipped: Sequence[str] = (*NOT_COPIED, *(MODULES if drop_modules else ()))
    for pattern in COPIED:
        for file in folder.glob(pattern):
            if file.is_file() and not any(file.match(name) for name in skipped):
                shutil.copyfile(file, out / file.name)
    for inner in folder.iterdir():  # modules of Sentence-Transformers, and templates
        small = inner.is_dir() and not inner.name.startswith(".") and inner.name not in skipped
        if small and ((inner / "config.json").is_file() or inner.name == "additional_chat_templates"):
            shutil.copytree(inner, out / inner.name, ignore=shutil.ignore_patterns("*.bin", "*.py"))


def _write_config(conversion: Conversion, out: Path, dtype: str) -> None:
    dropped = (*QUANTIZATION_KEYS, "auto_map", "_name_or_path", "dtype")
    kept = {name: value for name, value in conversion.config.items() if name not in dropped and value is not None}
    (out / "config.json").write_text(json.dumps(kept | {"torch_dtype": dtype}, indent=2) + "\n", encoding="utf-8")


def _write_card(folder: Path, conversion: Conversion, out: Path) -> None:
    """The card of the source, with a section on top that says what was done."""
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else f"# {folder.name}\n"
    front, body = "", text
    if text.startswith("---\n") and (end := text.find("\n---", 3)) > 0:
        front, body = text[: end + 5], text[end + 5 :]
    title, _, rest = body.lstrip().partition("\n")
    if not title.startswith("# "):
        title, rest = f"# {folder.name}", body
    steps = "\n".join(f"* {sentence}" for sentence in conversion.done)
    section = f"\n## Converted\n\nThis checkpoint was made by `engine convert` and needs no flags:\n\n{steps}\n"
    (out / "README.md").write_text(f"{front}{title}\n{section}\n{rest.lstrip()}", encoding="utf-8")
