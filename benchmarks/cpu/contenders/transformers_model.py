"""Hugging Face transformers in fp32, as the model card runs it but with only the last position's logits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from benchmarks.cpu.contenders.base import Contender, left_padded, padded_batches
from benchmarks.cpu.workloads import Workload


def head_vector(model: Any, folder: Path) -> torch.Tensor:
    """lm_head[yes] - lm_head[no]."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rows = model.get_output_embeddings().weight
    return (rows[tokenizer.token_to_id("yes")].float() - rows[tokenizer.token_to_id("no")].float()).detach()


def load_model(folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **options).eval()


class Transformers(Contender):
    def __init__(self, model: Path, num_threads: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(model, num_threads)
        torch.set_num_threads(num_threads)
        self.network = load_model(model, dtype)
        self.vector = head_vector(self.network, model)

    @torch.inference_mode()
    def score(self, workload: Workload, prompts: Sequence[Sequence[int]], batch_size: int) -> list[float]:
        logits = [0.0] * len(prompts)
        for batch in padded_batches(prompts, batch_size):
            ids, mask = left_padded([prompts[i] for i in batch])
            mask_tensor = torch.from_numpy(mask)
            hidden = self.network.model(
                input_ids=torch.from_numpy(ids),
                attention_mask=mask_tensor,
                position_ids=(mask_tensor.cumsum(1) - 1).clamp_min(0),
                use_cache=False,
            ).last_hidden_state[:, -1]
            for i, logit in zip(batch, (hidden.float() @ self.vector).tolist(), strict=True):
                logits[i] = logit
        return logits
