"""Which network a checkpoint describes: config.json after overrides, its family, and what its architecture is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.checkpoint.checkpoint import Checkpoint
from engine.checkpoint.config_keys import complete_config
from engine.checkpoint.config_names import usual_config
from engine.checkpoint.config_numbers import check_config_numbers
from engine.checkpoint.embedding import HEADLESS
from engine.checkpoint.families import FAMILIES, RANKERS, TASKS, Family, Task, supported
from engine.checkpoint.files import CheckpointFiles
from engine.checkpoint.library_model import library_family
from engine.checkpoint.overrides import apply_overrides
from engine.checkpoint.prompt import NO_TEMPLATE
from engine.checkpoint.transformer_module import READS_LOGITS
from engine.config import ModelConfig
from engine.errors import ConfigError, ModelLoadError


def read_network(config: ModelConfig, files: CheckpointFiles) -> tuple[dict[str, Any], Family, Task]:
    """config.json after overrides, with what it leaves out, and which network it describes.

    Raises ``ConfigError`` for settings and architectures that are not supported, ``ModelLoadError`` for a config.json
    that says nothing usable.
    """
    hf_config = apply_overrides(files.config, config.hf_overrides)
    ignored = config.ignore_config_key
    if config.model_impl == "transformers":
        _check_library_settings(config)
        takes_template = config.score_template not in NO_TEMPLATE
        return hf_config, *library_family(files, hf_config, ignored, takes_template=takes_template)
    hf_config = usual_config(files.label, hf_config)
    if "is_causal" in ignored:
        hf_config.pop("is_causal", None)
    family, task = _family(hf_config, files.folder)
    check_config_numbers(files.label, hf_config)
    hf_config = complete_config(files.label, hf_config, ignored)
    check_config_numbers(files.label, hf_config)  # again, with the defaults of what it leaves out
    return hf_config, family, task


def _check_library_settings(config: ModelConfig) -> None:
    """Raises ``ConfigError`` for what the engine does with its own networks only."""
    for flag, value in (
        ("quantization", config.quantization),
        ("lora_modules", config.lora_modules),
        ("load_format", config.load_format == "dummy"),
    ):
        if value:
            raise ConfigError(
                f"--{flag.replace('_', '-')} is not supported with --model-impl transformers: the library runs the "
                "network, with the weights as the files have them.",
                param=flag,
            )


def _family(config: dict[str, Any], folder: Path) -> tuple[Family, Task]:
    architectures = config.get("architectures") or []
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        raise ModelLoadError(f'{folder / "config.json"} names no architecture ("architectures": [...]).')
    if len(architectures) > 1:
        raise ConfigError(
            f"config.json names several architectures ({', '.join(map(str, architectures))}), and only one of them can "
            'be the network. Say which with --hf-overrides \'{"architectures": ["..."]}\'.',
            param="hf_overrides.architectures",
        )
    architecture: str = architectures[0]
    model_type = config.get("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    task = next((task for task in TASKS if architecture.endswith(task)), None)
    if family is not None and architecture == f"{family.body}{family.language_model}":
        task, architecture = "ForCausalLM", f"{family.body}ForCausalLM"
    if family is not None and RANKERS.get(architecture, ("", ""))[0] == model_type:
        return family, RANKERS[architecture][1]
    if (
        family is None
        or task is None
        or architecture not in {f"{body}{task}" for body in (family.body, *family.aliases)}
    ):
        other = " Or let the installed transformers run it, several times slower: --model-impl transformers."
        raise ConfigError(
            f"The architecture {architecture} (model_type {model_type}) is not supported. These are: {supported()}."
            f"{other if architecture.endswith('ForSequenceClassification') else ''}",
            param="model",
        )
    if not family.decoder and task == "ForCausalLM":
        raise ConfigError(f"{architecture} is not a reranker: it has no classification head.", param="model")
    return family, task


def check_task(checkpoint: Checkpoint) -> None:
    """Raises ``ConfigError`` for an architecture that can neither score pairs nor embed."""
    if checkpoint.task == "ForMaskedLM" and checkpoint.chain is None:
        raise ConfigError(
            f"{checkpoint.label} fills gaps in texts ({checkpoint.architecture}): it has no head for pairs, and no "
            "modules.json says that it embeds. Serve a checkpoint that was trained to rank, such as one that ends in "
            f"{checkpoint.family.body}ForSequenceClassification.",
            param="model",
        )
    chain = checkpoint.chain
    reads_logits = chain is not None and chain.transformer.task in READS_LOGITS
    if reads_logits and checkpoint.task in HEADLESS:
        raise ConfigError(
            f"modules.json of {checkpoint.label} reads the next token of a language model, and config.json calls it a "
            f"{checkpoint.architecture}, which predicts none. Correct one of the two.",
            param="model",
        )
