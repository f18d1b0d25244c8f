"""``python -m engine.checkpoint.slow_tokenizer_program FOLDER OUT``: see ``slow_tokenizer.py``, which starts it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

SAMPLE = (
    "How do plants make food?",
    "Photosynthesis turns light into sugar; it needs water, CO2 and 1,234.5 units of light.",
    "The QUICK brown fox doesn't jump over 12 lazy dogs' backs.",
    "Ein Satz auf Deutsch: Größe, Straße, Übermut.",
    "Un café près de l'école, déjà vu.",
    "人工智能正在改变世界。",
    "東京は日本の首都です。",
    "Пример текста на русском языке.",
    "مرحبا بالعالم",
    "def f(x):\n    return x ** 2  # a comment",
    "   spaces   and\ttabs ",
    "Zürich -- naïve façade (2024), e.g. 50% off!",
)


class Disagreement(Exception):
    """The message is for the user."""


def word_piece(folder: Path, tokenizer: Any) -> Callable[[str], list[str]]:
    """BERT's tokenizer in plain Python, as it was before the fast ones."""
    from transformers.models.bert import tokenization_bert_legacy

    settings = folder / "tokenizer_config.json"
    given = json.loads(settings.read_bytes()) if settings.is_file() else {}
    names = ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "unk_token")
    options = {name: given[name] for name in names if isinstance(given.get(name), bool | str)}
    make: Any = tokenization_bert_legacy.BertTokenizerLegacy
    slow = make(str(folder / "vocab.txt"), **options)
    return lambda text: list(slow.tokenize(text))


def sentence_piece(file: Path) -> Callable[[str], list[str]]:
    """SentencePiece's own library."""
    import sentencepiece

    processor: Any = sentencepiece.SentencePieceProcessor(model_file=str(file))
    return lambda text: list(processor.encode(text, out_type=str))


def byte_pairs(folder: Path, tokenizer: Any) -> Callable[[str], list[str]]:
    """The merges, the best first, on the words that the tokenizer splits a text into."""
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    ranks = {pair: rank for rank, pair in enumerate(pairs)}
    backend = tokenizer.backend_tokenizer

    def merged(word: str) -> list[str]:
        parts = list(word)
        while len(parts) > 1:
            best = min(pairwise(parts), key=lambda pair: ranks.get(pair, len(ranks)))
            if best not in ranks:
                break
            joined, i = [], 0
            while i < len(parts):
                found = tuple(parts[i : i + 2]) == best
                joined.append("".join(parts[i : i + 2]) if found else parts[i])
                i += 2 if found else 1
            parts = joined
        return parts

    def tokens(text: str) -> list[str]:
        normal = backend.normalizer.normalize_str(text) if backend.normalizer is not None else text
        return [part for word, _ in backend.pre_tokenizer.pre_tokenize_str(normal) for part in merged(word)]

    return tokens


def second_reading(folder: Path, tokenizer: Any) -> Callable[[str], list[str]]:
    if (folder / "vocab.txt").is_file():
        return word_piece(folder, tokenizer)
    if (folder / "merges.txt").is_file():
        return byte_pairs(folder, tokenizer)
    return sentence_piece(next(folder.glob("*.model")))


def compare(tokenizer: Any, tokens: Callable[[str], list[str]]) -> None:
    """The same ids on every text of the sample; pieces that the vocabulary lacks count as the unknown token."""
    known, unknown = tokenizer.get_vocab(), tokenizer.unk_token_id
    for text in SAMPLE:
        expected = [known.get(token, unknown) for token in tokens(text)]
        found = tokenizer(text, add_special_tokens=False)["input_ids"]
        if found != expected:
            raise Disagreement(f"the fast tokenizer reads {text!r} as {found}, and the files say {expected}")


def check_added(folder: Path, tokenizer: Any) -> None:
    """The tokens that were added later have their ids."""
    stated: dict[str, Any] = {}
    if (folder / "added_tokens.json").is_file():
        stated |= json.loads((folder / "added_tokens.json").read_bytes())
    settings = folder / "tokenizer_config.json"
    decoder = json.loads(settings.read_bytes()).get("added_tokens_decoder") if settings.is_file() else None
    for number, token in (decoder or {}).items():
        stated[token["content"] if isinstance(token, dict) else str(token)] = int(number)
    known = tokenizer.get_vocab()
    for token, number in stated.items():
        if known.get(token) != number:
            raise Disagreement(f"the added token {token!r} should have the id {number}, not {known.get(token)}")


def main(folder: Path, out: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if not getattr(tokenizer, "is_fast", False):
        raise Disagreement(f"transformers has no fast tokenizer for {type(tokenizer).__name__}")
    compare(tokenizer, second_reading(folder, tokenizer))
    check_added(folder, tokenizer)
    tokenizer.backend_tokenizer.save(str(out / "tokenizer.json"))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except Disagreement as error:
        print(error, file=sys.stderr)
        sys.exit(3)
