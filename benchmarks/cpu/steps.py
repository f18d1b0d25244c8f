"""Text steps of one version of the engine against those of another: CPU time of a step, and of a whole call.

``python -m benchmarks.cpu.steps --before FOLDER --after FOLDER --model MODEL``: two checkouts, each with its compiled
kernels. Each gets a process, which loads the same small checkpoint; then the processes take turns, so that what else
the machine does hits both. Printed, and added to ``--out``: medians in milliseconds, and after over before.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.support.random_models import save_random

ROUNDS = 15
REPEATS = {"step": 20, "call": 8}
"""Of a measurement, of which the shortest counts: nobody else's work makes a step shorter."""
CHILD = """
import json, sys, time
from pathlib import Path
from engine import LLM
from engine.backends.worker import Worker
from tests.support.texts import TEXTS
from tests.tensor_parallel.jobs import QUERY, job

folder = Path(sys.argv[1])
work = job(folder, 1)
worker = Worker(work.config, work.spec)
worker.load()
llm = LLM(str(folder), device="cpu", cpu_threads=1, max_model_len=400)
documents = [text[:300] for text in TEXTS]
measures = {
    "step": lambda: worker.execute(work.plan),
    "call": lambda: llm.score(QUERY, documents, use_tqdm=False),
}
for measure in measures.values():
    measure()
print("ready", flush=True)
for line in sys.stdin:
    name, repeats = json.loads(line)
    times = []
    for _ in range(repeats):
        start = time.process_time()
        measures[name]()
        times.append(time.process_time() - start)
    print(json.dumps(min(times)), flush=True)
"""


class Side:
    """The process of one checkout."""

    def __init__(self, tree: Path, checkpoint: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(checkpoint)],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == "ready":
                return
        raise RuntimeError(f"the process of {tree} ended before it was ready")

    def measure(self, name: str) -> float:
        """Milliseconds of CPU time."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([name, REPEATS[name]]) + "\n")
        self._process.stdin.flush()
        return 1000 * float(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


SIZES = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 256}
"""Small: what a step costs beside its products counts the more."""
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Qwen3-Reranker-0.6B": (
        "Qwen3ForCausalLM",
        "qwen",
        {"num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 4096, "tie_word_embeddings": True},
    ),
    "bge-reranker-base": (
        "XLMRobertaForSequenceClassification",
        "xlm-roberta",
        {"max_position_embeddings": 514, "pad_token_id": 1, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    ),
}


def compared(model: str, trees: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Of each measure: medians, and the median and the quartiles of after over before."""
    architecture, tokenizer, more = MODELS[model]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = save_random(Path(folder) / model, architecture, tokenizer, name=model, **SIZES, **more)
        sides = [Side(tree.resolve(), checkpoint) for tree in trees]
        try:
            for name in REPEATS:
                rounds = [[side.measure(name) for side in sides] for _ in range(ROUNDS)]
                before, after = (statistics.median(side) for side in zip(*rounds, strict=True))
                low, middle, high = statistics.quantiles([b / a for a, b in rounds], n=4)
                found = {"model": model, "measure": name, "before_ms": before, "after_ms": after}
                yield found | {"ratio": middle, "quartiles": [low, high], "rounds_ms": rounds}
        finally:
            for side in sides:
                side.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--after", type=Path, required=True)
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    for found in compared(arguments.model, (arguments.before, arguments.after)):
        print(json.dumps({key: value for key, value in found.items() if key != "rounds_ms"}), flush=True)
        if arguments.out:
            with arguments.out.open("a") as file:
                file.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
