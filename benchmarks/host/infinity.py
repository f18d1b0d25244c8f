"""Infinity's own server with a cross-encoder that answers at once; runs in the peer's environment, not in ours.

    python infinity.py MODEL PORT

Its preparation is that of Infinity's ``CrossEncoderPatched`` (strip, tokenise pairs with the ``transformers`` class,
pad, make arrays; count lengths with a tokenizer of its own); only the arrays are NumPy's, since torch is not installed.
"""

from __future__ import annotations

import copy
import sys
from enum import Enum
from typing import Any

import numpy as np
import uvicorn
from infinity_emb.args import EngineArgs
from infinity_emb.infinity_server import create_server
from infinity_emb.transformer.abstract import BaseCrossEncoder
from transformers import AutoTokenizer


class InstantCrossEncoder(BaseCrossEncoder):
    def __init__(self, *, engine_args: EngineArgs) -> None:
        self.engine_args = engine_args
        self.tokenizer = AutoTokenizer.from_pretrained(engine_args.model_name_or_path)
        self._infinity_tokenizer = copy.deepcopy(self.tokenizer)

    def encode_pre(self, queries_docs: list[tuple[str, str]]) -> dict[str, np.ndarray]:
        texts = [[query.strip(), document.strip()] for query, document in queries_docs]
        return dict(self.tokenizer(texts, padding=True, truncation="longest_first", return_tensors="np"))

    def encode_core(self, features: dict[str, np.ndarray]) -> np.ndarray:
        return np.zeros(len(features["input_ids"]), np.float32)

    def encode_post(self, embedding: np.ndarray) -> Any:
        return embedding

    def tokenize_lengths(self, sentences: list[str]) -> list[int]:
        encodings = self._infinity_tokenizer.batch_encode_plus(
            sentences, add_special_tokens=False, return_token_type_ids=False, return_attention_mask=False,
            return_length=False, truncation="longest_first",
        ).encodings  # fmt: skip
        return [len(one.tokens) for one in encodings]


class Instant(Enum):
    torch = InstantCrossEncoder


def main(model: str, port: str) -> None:
    module = sys.modules["infinity_emb.inference.select_model"]  # the package hides it behind a function of that name
    module.get_engine_type_from_config = lambda args: Instant.torch  # type: ignore[attr-defined]
    arguments = EngineArgs(model_name_or_path=model, served_model_name="instant", engine="debugengine", device="cpu",
                           model_warmup=False, bettertransformer=False, batch_size=32)  # fmt: skip
    app = create_server(engine_args_list=[arguments])
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="error", http="httptools", loop="uvloop")


if __name__ == "__main__":
    main(*sys.argv[1:])
