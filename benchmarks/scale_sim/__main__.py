"""``python -m benchmarks.scale_sim validate|ratios|executors|scale``: one part each, printed and saved as JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.cpu.machine import load_average, machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("validate", "ratios", "executors", "scale"))
    parser.add_argument("--output", type=Path, help="Where the JSON goes; it is printed in any case.")
    parser.add_argument("--seconds", type=float, default=20.0, help="Of each real run.")
    parser.add_argument("--toy", action="store_true", help="scale: a few devices and calls only.")
    options = parser.parse_args()
    before = load_average()
    result = _parts()[options.part](options)
    result = {"part": options.part, "machine": machine(), "load_average": [before, load_average()], **result}
    text = json.dumps(result, indent=1)
    if options.output:
        options.output.write_text(text + "\n")
    print(text)


def _parts() -> dict[str, Callable[[argparse.Namespace], dict[str, Any]]]:
    from benchmarks.scale_sim.scale import scale

    def validate(options: argparse.Namespace) -> dict[str, Any]:
        from benchmarks.scale_sim.validate import validate

        return validate(options.seconds)

    def ratios(options: argparse.Namespace) -> dict[str, Any]:
        from benchmarks.scale_sim.ratios import ratios

        return ratios(options.seconds)

    def executors(_: argparse.Namespace) -> dict[str, Any]:
        from benchmarks.scale_sim.executors import executors

        return executors()

    return {
        "validate": validate,
        "ratios": ratios,
        "executors": executors,
        "scale": lambda options: scale(toy=options.toy),
    }


if __name__ == "__main__":
    main()
