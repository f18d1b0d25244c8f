"""What the decisions about a checkpoint look at: its files, the user's flags, and what was read of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from engine.checkpoint.chain import Chain
from engine.checkpoint.families import Family, Task, is_causal
from engine.checkpoint.files import CheckpointFiles
from engine.checkpoint.identity import Identity


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint before anything is decided. Its ``files`` are those of the network's folder."""

    files: CheckpointFiles
    tokenizer: Tokenizer
    config: dict[str, Any]
    """config.json after overrides."""
    overrides: dict[str, Any]
    """``--hf-overrides``."""
    metadata: dict[str, Any]
    """config_sentence_transformers.json; empty where there is none."""
    family: Family
    task: Task
    identity: Identity | None
    chain: Chain | None
    has_weights: bool
    by_library: bool = False
    """The installed transformers runs the network."""
    asked_prompt: str | None = None
    """The built-in prompt that ``--score-template`` names."""

    @property
    def causal(self) -> bool:
        """Whether its tokens see only those before them."""
        return not self.by_library and is_causal(self.config["model_type"], self.config)

    @property
    def label(self) -> str:
        """The name by which errors and the log call it."""
        return self.files.label

    @property
    def architecture(self) -> str:
        return str(self.config["architectures"][0])

    @property
    def is_late(self) -> bool:
        """A late-interaction model, in one of the layouts of ``late_interaction.py``."""
        return self.chain.is_late if self.chain is not None else self.architecture == "HF_ColBERT"

    @property
    def is_language_model(self) -> bool:
        """The files hold a language model, whatever an override calls it."""
        stored = self.files.config.get("architectures") or [""]
        return str(stored[0]).endswith(("ForCausalLM", self.family.language_model))

    def prompts(self) -> dict[str, str]:
        """The named prompts of sentence-transformers that hold a text."""
        found = self.metadata.get("prompts")
        return {k: v for k, v in found.items() if isinstance(v, str)} if isinstance(found, dict) else {}

    def default_prompt(self) -> str:
        """The prompt that ``default_prompt_name`` names; empty where there is none."""
        name = self.metadata.get("default_prompt_name")
        return self.prompts().get(name, "") if isinstance(name, str) else ""
