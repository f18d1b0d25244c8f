"""Tokenizers without a ``tokenizer.json``: made once from the older files, in a process of its own, and kept in the
cache.

``vocab.txt`` (WordPiece), ``vocab.json`` with ``merges.txt`` (byte-level BPE), and SentencePiece's models. transformers
does the work; what it made is compared with a second reading of the same files on a sample of texts.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from engine.checkpoint.gguf.folder import cache_folder
from engine.errors import ModelLoadError
from engine.extras import pip_install

SENTENCE_PIECE = ("sentencepiece.bpe.model", "tokenizer.model", "spiece.model", "spm.model")
OLD_FILES = (("vocab.txt",), ("vocab.json", "merges.txt"), *((name,) for name in SENTENCE_PIECE))
ALSO = ("config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""Read beside them."""
TIMEOUT_S = 300.0
PROGRAM = "engine.checkpoint.slow_tokenizer_program"


def old_files(folder: Path) -> tuple[str, ...]:
    """The files of the first kind that is there; empty where there is none."""
    return next((names for names in OLD_FILES if all((folder / name).is_file() for name in names)), ())


def converted_tokenizer(folder: Path) -> Path | None:
    """The ``tokenizer.json`` made from the old files of ``folder``; None where there are none.

    Raises ``ModelLoadError`` where they cannot be converted, or the second reading disagrees.
    """
    names = old_files(folder)
    if not names:
        return None
    content = hashlib.sha256(PROGRAM.encode())
    for name in (*names, *ALSO):
        content.update(name.encode())
        if (folder / name).is_file():
            content.update((folder / name).read_bytes())
    made = cache_folder() / "tokenizers" / content.hexdigest()[:24] / "tokenizer.json"
    if not made.is_file():
        _make(folder, names, made)
    return made


def _make(folder: Path, names: tuple[str, ...], made: Path) -> None:
    listed = " and ".join(names)
    advice = "Or convert elsewhere: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
    if find_spec("transformers") is None:
        raise ModelLoadError(
            f"{folder} has no tokenizer.json, only {listed}. To convert them, install transformers: "
            f"{pip_install('reference')}. {advice}."
        )
    try:
        made.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=made.parent))
    except OSError as error:
        raise ModelLoadError(f"{folder}: there is no place for the converted tokenizer ({error})") from error
    try:
        source = fresh / "source"
        source.mkdir()
        for name in (*names, *ALSO):  # nothing else of the folder is seen, least of all code
            if (folder / name).is_file():
                shutil.copyfile(folder / name, source / name)
        done = subprocess.run(
            [sys.executable, "-P", "-m", PROGRAM, str(source), str(fresh)],
            capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
            env={**os.environ, "PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
        )  # fmt: skip
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason was given"])[-1]
            raise ModelLoadError(f"{folder}: {listed} cannot be converted to a tokenizer.json: {reason}. {advice}.")
        (fresh / "tokenizer.json").replace(made)
    except subprocess.TimeoutExpired as error:
        raise ModelLoadError(f"{folder}: converting {listed} took more than {TIMEOUT_S:.0f} s. {advice}.") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
