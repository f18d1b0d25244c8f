"""``--model-impl transformers``: the checkpoint is what the installed transformers makes of it.

Its class for sequence classification runs as it is, so nothing here needs to know the network: config.json is not
judged key by key, and what cannot be read shows when the library loads it. Decided here is only what the way to the
network needs: how pairs become tokens, how long they may be, how many labels there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.checkpoint.families import Family, Task
from engine.checkpoint.files import CheckpointFiles
from engine.checkpoint.remote_code import KEY
from engine.errors import ConfigError

ENDING: Task = "ForSequenceClassification"
_LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")
"""What classes call the length of their table of positions."""


def library_family(
    files: CheckpointFiles, config: Mapping[str, Any], ignored: tuple[str, ...], *, takes_template: bool
) -> tuple[Family, Task]:
    """The facts of any class of the library: a score a pair, and nothing that pairs could share.

    ``takes_template``: ``--score-template`` names one; else the tokenizer makes the pairs. Raises ``ConfigError`` for a
    checkpoint that has no such class, and for code beside the weights.
    """
    architectures = config.get("architectures")
    name = str(architectures[0]) if isinstance(architectures, list) and architectures else "without a class"
    if not name.endswith(ENDING):
        raise ConfigError(
            f"--model-impl transformers runs classes for sequence classification, and {files.label} is {name}. Serve a "
            f"checkpoint whose class ends in {ENDING}, or leave the flag out: the engine has networks of its own.",
            param="model_impl",
        )
    code = [cls for auto, cls in files.remote_code.items() if auto != "AutoTokenizer"]
    if code and KEY not in ignored:
        raise ConfigError(
            f"config.json of {files.label} says with {KEY} that its model is the class {code[0]} in a file beside the "
            "weights. Such code is never run, with --model-impl transformers neither. Where the library's own class is "
            f"the same network, pass --ignore-config-key {KEY}.",
            param="ignore_config_key",
        )
    body = name.removesuffix(ENDING)
    return Family(
        body=body, decoder=takes_template, causal=False, pooling="cls", head_tensors=(), computed_keys=()
    ), ENDING


def library_position_limit(files: CheckpointFiles, config: Mapping[str, Any], asked: int | None) -> int:
    """Tokens of the longest pair: the shorter of what config.json and the tokenizer state; ``ConfigError`` where
    neither does and no flag says it."""
    stated = [config.get(key) for key in _LENGTHS] + [files.tokenizer_config.get("model_max_length")]
    known = [int(value) for value in stated if isinstance(value, int | float) and 0 < value < 10**9]
    if not known and asked is None:
        raise ConfigError(
            f"Neither config.json nor tokenizer_config.json of {files.label} says how long a pair may be. Say it with "
            "--max-model-len.",
            param="max_model_len",
        )
    return min(known) if known else asked or 1


def library_labels(config: Mapping[str, Any]) -> int:
    """The number of labels as the library counts them: two where config.json says nothing."""
    names = config.get("id2label")
    return int(config.get("num_labels") or (len(names) if isinstance(names, Mapping) else 2))
