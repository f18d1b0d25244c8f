"""``python -m tests.families.defaults MODEL_TYPE``: the defaults of a family's config class, from transformers.

They go into ``engine/checkpoint/config_defaults.json``, so that serving needs no transformers.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import transformers

from engine.checkpoint.config_defaults import DEFAULTS

MADE_UP = (
    *("transformers_version", "architectures", "dtype", "id2label", "label2id", "_name_or_path", "model_type"),
    *("vision_config", "layer_types", "rope_parameters"),
)
"""What a config class works out, or writes into every file."""


def defaults_of(model_type: str) -> dict[str, Any]:
    stated = transformers.AutoConfig.for_model(model_type).to_dict()
    stated |= stated.pop("text_config", {})
    return {key: value for key, value in stated.items() if key not in MADE_UP}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the defaults of config classes.")
    parser.add_argument("model_types", nargs="+", metavar="MODEL_TYPE")
    found = json.loads(DEFAULTS.read_text(encoding="utf-8"))
    found |= {model_type: defaults_of(model_type) for model_type in parser.parse_args().model_types}
    DEFAULTS.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
