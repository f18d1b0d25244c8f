"""Command line: ``python -m benchmarks.tiny_reranker {collect,prepare,train,evaluate} FOLDER`` or ``--tiny FOLDER``."""

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.tiny_reranker.collect import collect
from benchmarks.tiny_reranker.pipeline import Plan, prepare, run_evaluation, run_tiny, run_training

FROZEN = Path(__file__).with_name("checksums.json")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.tiny_reranker", description=__doc__)
    parser.add_argument("stage", nargs="?", choices=("collect", "prepare", "train", "evaluate"))
    parser.add_argument("folder", type=Path, help="where data and checkpoints live; nothing of it is committed")
    parser.add_argument("--tiny", action="store_true", help="all stages at toy size, in seconds, without a network")
    parser.add_argument("--lists", type=Path, help="collect: folder of apt's package lists")
    parser.add_argument("--packages", type=Path, help="collect: folder with the unpacked Debian packages")
    parser.add_argument("--wheels", type=Path, help="collect: folder with the downloaded wheels")
    parser.add_argument("--steps", type=int, default=Plan().train.steps, help="train: number of steps")
    parser.add_argument(
        "--rate", type=float, default=Plan().train.rate, help="train: of matrices; half of it for the embedding"
    )
    parser.add_argument("--start", type=Path, help="train: checkpoint to go on from; default FOLDER/init")
    parser.add_argument("--budget-s", type=float, default=math.inf, help="train: stop after so many seconds")
    parser.add_argument("--compile", action="store_true", help="train: torch.compile the layers (needs a C++ compiler)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--checkpoint", type=Path, help="evaluate: default FOLDER/checkpoint")
    parser.add_argument("--own-lists", action="store_true", help="evaluate: newly frozen lists, not the published ones")
    parser.add_argument("--output", type=Path, help="evaluate: file for the results as JSON")
    return parser


def run_evaluate(args: argparse.Namespace) -> None:
    checksums = json.loads((args.folder / "checksums.json" if args.own_lists else FROZEN).read_text())
    results = run_evaluation(args.folder, args.checkpoint or args.folder / "checkpoint", checksums)
    if args.output:
        args.output.write_text(json.dumps(results, indent=2) + "\n")


def main() -> None:
    parser = make_parser()
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.tiny:
        run_tiny(args.folder)
    elif args.stage == "collect":
        if not (args.lists and args.packages and args.wheels):
            parser.error("collect needs --lists, --packages and --wheels")
        collect(args.lists, args.packages, args.wheels, args.folder)
    elif args.stage == "prepare":
        prepare(args.folder, Plan())
    elif args.stage == "train":
        plan = Plan()
        settings = replace(
            plan.train, steps=args.steps, budget_s=args.budget_s, rate=args.rate, embedding_rate=args.rate / 2
        )
        run_training(args.folder, replace(plan, train=settings), start=args.start, compiled=args.compile)
    elif args.stage == "evaluate":
        run_evaluate(args)
    else:
        parser.error("name a stage, or --tiny")


if __name__ == "__main__":
    main()
