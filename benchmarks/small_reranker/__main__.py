"""Command line: ``python -m benchmarks.small_reranker {collect,prepare,train,choose,evaluate,package} [FOLDER]``."""

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.small_reranker.collect import collect
from benchmarks.small_reranker.evaluate import evaluate
from benchmarks.small_reranker.network import published_folder
from benchmarks.small_reranker.package import MAX_TOKENS, package
from benchmarks.small_reranker.pipeline import Plan, choose, prepare, run_training


def make_parser() -> argparse.ArgumentParser:
    train = Plan().train
    parser = argparse.ArgumentParser(prog="benchmarks.small_reranker", description=__doc__)
    parser.add_argument("stage", nargs="?", choices=("collect", "prepare", "train", "choose", "evaluate", "package"))
    parser.add_argument(
        "folder", nargs="?", type=Path, help="where data and checkpoints live; package: where the model's folder goes"
    )
    parser.add_argument("--lists", type=Path, help="collect: folder of apt's package lists")
    parser.add_argument("--packages", type=Path, help="collect: folder with the unpacked Debian packages")
    parser.add_argument("--wheels", type=Path, help="collect: folder with the downloaded wheels")
    parser.add_argument("--texts", type=int, default=Plan().texts, help="prepare: how many texts are used")
    parser.add_argument("--cross-layers", type=int, default=Plan().cross_layers, help="layers that see both texts")
    parser.add_argument("--steps", type=int, default=train.steps, help="train: number of steps")
    parser.add_argument("--rate", type=float, default=train.rate, help="train: learning rate")
    parser.add_argument("--queries", type=int, default=train.queries_per_step, help="train: lists a step")
    parser.add_argument("--budget-s", type=float, default=math.inf, help="train: stop after so many seconds")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--model", default="", help="evaluate: folder of a model; default the packaged one")
    parser.add_argument("--output", type=Path, help="evaluate: file for the results as JSON")
    parser.add_argument("--checkpoint", type=Path, help="choose: default FOLDER/trained/upper.safetensors")
    return parser


def main() -> None:
    parser = make_parser()
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings = replace(
        Plan().train, steps=args.steps, budget_s=args.budget_s, rate=args.rate, queries_per_step=args.queries
    )
    plan = replace(Plan(), train=settings, texts=args.texts, cross_layers=args.cross_layers)
    if args.folder is None and args.stage != "evaluate":
        parser.error("name a folder")
    if args.stage == "collect":
        if not (args.lists and args.packages and args.wheels):
            parser.error("collect needs --lists, --packages and --wheels")
        collect(args.lists, args.packages, args.wheels, args.folder)
    elif args.stage == "prepare":
        prepare(args.folder, plan, args.device)
    elif args.stage == "train":
        run_training(args.folder, plan, args.device)
    elif args.stage == "choose":
        found = choose(args.folder, plan, args.checkpoint or args.folder / "trained" / "upper.safetensors", args.device)
        (args.folder / "shares.json").write_text(json.dumps(found, indent=2) + "\n")
    elif args.stage == "evaluate":
        results = evaluate(args.model, args.folder)
        if args.output:
            args.output.write_text(json.dumps(results, indent=2) + "\n")
    elif args.stage == "package":
        package(published_folder(), args.folder, MAX_TOKENS)
    else:
        parser.error("name a stage")


if __name__ == "__main__":
    main()
