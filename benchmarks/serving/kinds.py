"""A full-sized dummy of each kind of reranker, loaded once: its memory, and how fast it is.

``python -m benchmarks.serving.kinds --folder FOLDER --kind KIND`` (or ``all``, one after the other, each in a process
of its own) writes the checkpoint of a published model's shape with made-up weights in bf16, loads it by ``LLM`` and
scores the same pairs ``--runs`` times. It prints, and adds to ``--out``, a line of JSON: weights, peak resident memory
of the process, seconds to load, pairs and tokens of a run, and its seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import save_file

from engine.backends.loading.parameters import Parameters
from engine.backends.measure.outline import OutlineOps
from engine.backends.models import find_family
from engine.checkpoint.resolve import resolve_model
from engine.config import ModelConfig
from tests.families.own_code import save_bidirectional
from tests.support.late_interaction import make_stanford
from tests.support.listwise import make_listwise
from tests.support.pictures import data_url, make_qwen3_vl, picture
from tests.support.random_models import save_random
from tests.support.texts import TEXTS

SHARD_BYTES = 1 << 30
BLOCK = 1 << 22
"""Made-up numbers that are repeated: drawing billions takes longer than loading them."""
QUERY = "How do giant pandas survive on a diet of bamboo?"
_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
_TINY = {
    "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16,
    "intermediate_size": 64,
}  # fmt: skip
"""Of the checkpoint that the full sizes are written over."""
_QWEN3_0_6B = {
    "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
    "intermediate_size": 3072, "vocab_size": 151_936,
}  # fmt: skip
_GEMMA2_2B = {
    "hidden_size": 2304, "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
    "intermediate_size": 9216, "vocab_size": 256_000,
}  # fmt: skip
_LLAMA_1B = {
    "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
    "intermediate_size": 8192, "vocab_size": 128_256,
}  # fmt: skip
_QWEN3_1_7B = {**_QWEN3_0_6B, "hidden_size": 2048, "intermediate_size": 6144}
_TOWER_2B = {
    "depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "out_hidden_size": 2048,
    "patch_size": 16, "num_position_embeddings": 2304, "deepstack_visual_indexes": [5, 11, 17],
}  # fmt: skip


def small_encoder(folder: Path) -> Path:
    """ms-marco-electra-base."""
    tiny = {**_TINY, "embedding_size": 64}
    del tiny["head_dim"], tiny["num_key_value_heads"]
    save_random(folder, "ElectraForSequenceClassification", "bert", **tiny)
    return grown(folder, **_BASE, embedding_size=768, vocab_size=30_522, max_position_embeddings=512)


def late_interaction(folder: Path) -> Path:
    """colbertv2.0."""
    make_stanford(folder, doc_maxlen=180)
    save_file({"linear.weight": torch.zeros(128, 768)}, folder / "model.safetensors")  # whose shape says the size
    return grown(folder, **_BASE, vocab_size=30_522)


def listwise(folder: Path) -> Path:
    """jina-reranker-v3."""
    make_listwise(folder)
    projector = {"projector.0.weight": torch.zeros(512, 1024), "projector.2.weight": torch.zeros(512, 512)}
    save_file(projector, folder / "model.safetensors")
    return grown(folder, **_QWEN3_0_6B, max_position_embeddings=40_960)


def decoder(folder: Path) -> Path:
    """A reranker trained on Gemma 2 2B, of one label."""
    save_random(folder, "Gemma2ForSequenceClassification", "gemma", **_TINY)
    return grown(folder, **_GEMMA2_2B, max_position_embeddings=8192)


def bidirectional(folder: Path) -> Path:
    """llama-nemotron-rerank-1b-v2."""
    architecture = "LlamaBidirectionalForSequenceClassification"
    folder.mkdir(parents=True, exist_ok=True)
    save_bidirectional(folder, architecture, "llama", pooling="avg", temperature=1.0, **_TINY)
    shutil.rmtree(folder / "twin")
    return grown(folder, **_LLAMA_1B, max_position_embeddings=131_072)


def pictures(folder: Path) -> Path:
    """Qwen3-VL-Reranker-2B."""
    make_qwen3_vl(folder)
    (folder / "preprocessor_config.json").unlink()
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20]}
    text = {**_QWEN3_1_7B, "max_position_embeddings": 32_768, "rope_parameters": rope}
    return grown(folder, vision_config=_TOWER_2B, text_config=text)


KINDS: dict[str, Callable[[Path], Path]] = {
    "small encoder": small_encoder,
    "late interaction": late_interaction,
    "listwise": listwise,
    "decoder": decoder,
    "bidirectional": bidirectional,
    "pictures": pictures,
}
WITHOUT_PREFIX = ("projector.", "linear.weight", "score.", "classifier.", "lm_head.", "model.visual.")


def grown(folder: Path, **sizes: Any) -> Path:
    """The checkpoint with these sizes in its config.json, and weights of these sizes, made up in bf16."""
    config = json.loads((folder / "config.json").read_text())
    for part in (config, config.get("text_config", {})):
        part.pop("layer_types", None)
    for name, value in sizes.items():
        config[name] = {**config[name], **value} if isinstance(config.get(name), dict) else value
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    spec = resolve_model(ModelConfig(model=str(folder), load_format="dummy"))
    meta = torch.device("meta")
    params = Parameters(cast(Any, OutlineOps()), device=meta, dtype=torch.float32, tensors=None)
    family = find_family(spec.model_type)
    family.build(spec, params)
    wanted = {one.name: (one.shape, one.is_scale) for one in params.destinations if not one.name.startswith("modules.")}
    block = torch.randn(BLOCK, generator=torch.Generator().manual_seed(0)).bfloat16()
    for old in folder.glob("*.safetensors*"):
        old.unlink()
    shard: dict[str, torch.Tensor] = {}
    places: dict[str, str] = {}
    for number, (name, (shape, is_scale)) in enumerate(wanted.items(), 1):
        plain = name.startswith(WITHOUT_PREFIX)
        shard[name if plain else f"{family.CHECKPOINT_PREFIX}{name}"] = made_up(shape, block, is_scale=is_scale)
        if number == len(wanted) or sum(tensor.nbytes for tensor in shard.values()) > SHARD_BYTES:
            file = f"model-{number:05}.safetensors"
            save_file(shard, folder / file, metadata={"format": "pt"})
            places |= dict.fromkeys(shard, file)
            shard = {}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def made_up(shape: tuple[int, ...], block: torch.Tensor, *, is_scale: bool) -> torch.Tensor:
    """Numbers of the usual size: those of a norm near 1, those of a matrix smaller the more of them are added up."""
    size = int(np.prod(shape))
    numbers = block.repeat(-(-size // len(block)))[:size].view(shape)
    if is_scale:
        return (1 + 0.1 * numbers).bfloat16()
    return (numbers / (max(1, size // shape[0]) ** 0.5 if len(shape) > 1 else 10)).bfloat16()


def documents(kind: str, count: int, words: int) -> list[Any]:
    """Texts, of the kind that reads pictures every other one a picture of 640 x 480."""
    rng = random.Random(0)
    vocabulary = " ".join(TEXTS[:12]).split(" ")
    texts: list[Any] = [" ".join(rng.choice(vocabulary) for _ in range(words)) for _ in range(count)]
    if kind == "pictures":
        texts[1::2] = [{"image": data_url(picture(480, 640, seed))} for seed in range(len(texts[1::2]))]
    return texts


def measured(kind: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Load the checkpoint and score, in this process."""
    from engine import LLM

    given = documents(kind, args.documents, args.words)
    started = time.perf_counter()
    with LLM(str(folder), device="cpu", max_model_len=args.max_model_len, cpu_threads=args.threads) as llm:
        loaded_s = time.perf_counter() - started
        runs = []
        for _ in range(args.runs):
            started = time.perf_counter()
            outputs = llm.score(QUERY, given, use_tqdm=False)
            runs.append(time.perf_counter() - started)
            assert not [output.error for output in outputs if output.error]
        tokens = sum(len(output.prompt_token_ids) for output in outputs)
        info = llm.info
    return {
        "kind": kind,
        "weights_mib": round(info.weight_bytes / 2**20),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10),
        "load_s": round(loaded_s, 1),
        "documents": len(given),
        "prompt_tokens": tokens,
        "runs_s": [round(seconds, 2) for seconds in runs],
        "pairs_per_s": round(len(given) / min(runs), 2),
        "threads": args.threads,
        "load_average": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--kind", choices=[*KINDS, "all"], required=True)
    parser.add_argument("--documents", type=int, default=8)
    parser.add_argument("--words", type=int, default=60)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-model-len", type=int, default=512)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.kind == "all":
        for kind in KINDS:
            rest = [word for word in sys.argv[1:] if word != "all"]
            rest.insert(rest.index("--kind") + 1, kind)
            subprocess.run([sys.executable, "-P", "-m", "benchmarks.serving.kinds", *rest], check=True)
        return
    folder = args.folder / args.kind.replace(" ", "_")
    if not folder.exists():  # made by a process of its own, whose memory is not the engine's
        made = f"from benchmarks.serving.kinds import *; KINDS[{args.kind!r}](Path({str(folder)!r}))"
        subprocess.run([sys.executable, "-P", "-c", made], check=True)
    line = json.dumps(measured(args.kind, folder, args))
    print(line, flush=True)
    if args.out:
        with args.out.open("a") as file:
            file.write(line + "\n")
    if not args.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
