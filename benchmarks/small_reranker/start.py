"""CPU seconds from an imported torch to a packaged model that has passed its self-test and is ready, in new processes.

    python -m benchmarks.small_reranker.start [--rounds 5] [--output results.json]

CPU time of all threads and not wall time, so that other work on the machine counts little.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

CODE = """
import json, time
start = time.process_time()
import torch
imported = time.process_time()
from engine import LLM
with LLM(device="cpu", cpu_threads=1):
    ready = time.process_time()
print(json.dumps({"import_torch_s": imported - start, "ready_s": ready - imported}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    rounds = [
        json.loads(subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True).stdout)
        for _ in range(args.rounds)
    ]
    median = {name: round(statistics.median(row[name] for row in rounds), 3) for name in rounds[0]}
    print("median", median)
    if args.output:
        args.output.write_text(json.dumps({"cpu_seconds": rounds, "median": median}, indent=2) + "\n")


if __name__ == "__main__":
    main()
