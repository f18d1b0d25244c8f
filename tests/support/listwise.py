"""A random listwise checkpoint in the layout of jina-reranker-v3, and the reference: its prompt and formulas, written
out from its own ``rerank`` with transformers for the body and the tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from tests.support.random_models import save_random
from tests.support.tokenizer_files import qwen_tokenizer_config

EMBED, RERANK = "<|embed_token|>", "<|rerank_token|>"
SIZES = {
    "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "intermediate_size": 80, "max_position_embeddings": 8192,
}  # fmt: skip


def make_listwise(folder: Path, *, seed: int = 0, out: int = 32, **config: Any) -> Path:
    """``JinaForRanking``: a Qwen3 body under ``model.``, and ``projector.0.weight`` and ``projector.2.weight``."""
    save_random(folder, "Qwen3Model", "qwen", seed=seed, **SIZES, **config)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([EMBED, RERANK])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(qwen_tokenizer_config(tokenizer.to_str())))
    tensors = {f"model.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    hidden, generator = SIZES["hidden_size"], torch.Generator().manual_seed(seed)
    for name, rows, columns in (("projector.0.weight", hidden // 2, hidden), ("projector.2.weight", out, hidden // 2)):
        tensors[name] = torch.randn(rows, columns, generator=generator) / columns**0.5
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    stored = json.loads((folder / "config.json").read_text())
    stored |= {"architectures": ["JinaForRanking"], "auto_map": {"AutoModel": "modeling.JinaForRanking"}}
    (folder / "config.json").write_text(json.dumps(stored))
    return folder


def prompt_text(query: str, documents: Sequence[str], instruction: str = "") -> str:
    """The whole prompt, with what stands behind the query's token."""
    instruct = f"<instruct>\n{instruction}\n</instruct>\n" if instruction else ""
    passages = "\n".join(f'<passage id="{i}">\n{document}{EMBED}\n</passage>' for i, document in enumerate(documents))
    return (
        "<|im_start|>system\nYou are a search relevance expert who can determine a ranking of the passages based on "
        "how relevant they are to the query. If the query is a question, how relevant a passage is depends on how well "
        "it answers the question. If not, try to analyze the intent of the query and assess how well each passage "
        "satisfies the intent. If an instruction is provided, you should follow the instruction when determining the "
        "ranking.<|im_end|>\n<|im_start|>user\n"
        f"I will provide you with {len(documents)} passages, each indicated by a numerical identifier. Rank the "
        f"passages based on their relevance to query: {query}\n{instruct}{passages}\n<query>\n{query}{RERANK}\n"
        "</query><|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


class Reference:
    """``rerank`` of the published code, in fp32."""

    def __init__(self, folder: Path) -> None:
        import transformers

        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        tensors = load_file(folder / "model.safetensors")
        self.first, self.second = tensors["projector.0.weight"], tensors["projector.2.weight"]
        config = transformers.Qwen3Config.from_pretrained(folder)
        self.body = transformers.Qwen3Model(config).eval()
        self.body.load_state_dict(
            {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
        )
        self.embed_id, self.rerank_id = self.tokenizer.convert_tokens_to_ids([EMBED, RERANK])

    def ids(self, query: str, documents: Sequence[str], instruction: str = "") -> list[int]:
        text = prompt_text(query, documents, instruction)
        found: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return found

    @torch.inference_mode()
    def vectors(self, query: str, documents: Sequence[str], instruction: str = "") -> tuple[np.ndarray, np.ndarray]:
        """Documents' and query's, of one block."""
        ids = torch.tensor([self.ids(query, documents, instruction)])
        hidden = self.body(input_ids=ids).last_hidden_state[0]
        projected = torch.relu(hidden @ self.first.T) @ self.second.T
        is_document, is_query = ids[0] == self.embed_id, ids[0] == self.rerank_id
        return projected[is_document].double().numpy(), projected[is_query][-1].double().numpy()

    def rerank(
        self, query: str, documents: Sequence[str], *, max_length: int, block_size: int = 125,
        max_document: int = 2048, instruction: str = "",
    ) -> list[float]:  # fmt: skip
        """Scores in the order of the documents."""
        num_query = len(self.tokenizer(query, add_special_tokens=False).input_ids)
        capacity, block, blocks = max_length - 2 * num_query, [], []
        for document in documents:
            block.append(document)
            capacity -= len(self.tokenizer(document, add_special_tokens=False).input_ids)
            if len(block) >= block_size or capacity <= max_document:
                blocks.append(block)
                capacity, block = max_length - 2 * num_query, []
        blocks += [block] if block else []
        found = [self.vectors(query, one, instruction) for one in blocks]
        weights = [(1 + max(_cosine(q, d) for d in docs)) / 2 for docs, q in found]
        fused = sum(w * q for w, (_, q) in zip(weights, found, strict=True)) / sum(weights)
        return [_cosine(fused, d) for docs, _ in found for d in docs]


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
