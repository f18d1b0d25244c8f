"""Files of sentence-transformers beside a checkpoint, written by hand: chains that it would not save are tests too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TYPES = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "LogitScore": "sentence_transformers.cross_encoder.modules.logit_score.LogitScore",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
}


def write_json(path: Path, value: Any) -> None:
    """``value`` as JSON, or a text as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def add_modules(folder: Path, *modules: tuple[str, str, dict[str, Any] | None]) -> Path:
    """``modules.json`` of a Transformer in the folder itself and ``modules``: (type, path, config of the module)."""
    entries = [{"idx": 0, "name": "0", "path": "", "type": TYPES["Transformer"]}]
    for number, (kind, path, config) in enumerate(modules, 1):
        entries.append({"idx": number, "name": str(number), "path": path, "type": TYPES.get(kind, kind)})
        (folder / path).mkdir(exist_ok=True)
        if config is not None:
            write_json(folder / path / "config.json", config)
    write_json(folder / "modules.json", entries)
    return folder


def add_logit_score(
    folder: Path, *, true_id: object, false_id: object, path: str = "1_LogitScore", message: bool | None = None
) -> Path:
    """A chain of Transformer and LogitScore; ``message``: its modality, None: as sentence_bert_config.json has it."""
    if message is not None:
        how = {"method": "forward", "method_output_name": "logits"}
        modality = {"message": how | {"format": "flat"}} if message else {"text": how}
        write_json(
            folder / "sentence_bert_config.json",
            {"transformer_task": "text-generation", "modality_config": modality, "module_output_name": "causal_logits"},
        )
    config = {"true_token_id": true_id, "false_token_id": false_id, "module_input_name": "causal_logits"}
    return add_modules(folder, ("LogitScore", path, config))


def token_id(folder: Path, token: str) -> int:
    """Of a token in the vocabulary of a byte-level tokenizer."""
    vocab: dict[str, int] = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    return vocab[token]
