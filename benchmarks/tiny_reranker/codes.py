"""What the embedding knows of a token as a word, before training: its stem class and how rare that is.

"File", " files" and " file" share a class. What tokens mean comes from the teacher, in ``meaning``.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer


class Codes(NamedTuple):
    """``class_of`` (V,), ``is_word`` (V,), ``idf`` (V,) in 0..1."""

    class_of: np.ndarray
    is_word: np.ndarray
    idf: np.ndarray


def stem(word: str) -> str:
    """A crude English stem: endings of plural, past and -ing are cut where three letters remain."""
    word = word.lower()
    if len(word) < 4 or not word.isalpha():
        return word
    for ending, replacement in (("ies", "y"), ("sses", "ss"), ("ing", ""), ("ed", ""), ("s", ""), ("ly", "")):
        base = word.removesuffix(ending)
        if base != word and len(base) >= 3 and not word.endswith("ss"):
            word = base + replacement
            break
    if len(word) > 4 and word[-1] == word[-2] and word[-1] not in "sl":
        word = word[:-1]
    return word.removesuffix("e") if len(word) > 4 else word


def stem_classes(tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """(class of each token, whether the token begins a word)."""
    classes: dict[str, int] = {}
    size = tokenizer.get_vocab_size()
    class_of, is_word = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=bool)
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    for index in range(size):
        token = tokenizer.id_to_token(index) or ""
        text = token.replace("\u0120", " ")
        bare = text.strip()
        is_word[index] = text[:1] == " " or text[:1].isupper()
        key = token if token in added or not bare.isalpha() else stem(bare)
        class_of[index] = classes.setdefault(key, len(classes))
    return class_of, is_word


def document_frequency(texts: Sequence[np.ndarray], num_classes: int) -> np.ndarray:
    counts = np.zeros(num_classes)
    for ids in texts:
        counts[np.unique(ids)] += 1
    return counts


def learn_codes(tokenizer: Tokenizer, texts: Sequence[str]) -> Codes:
    class_of, is_word = stem_classes(tokenizer)
    ids = [class_of[encoding.ids] for encoding in tokenizer.encode_batch_fast([f" {text}" for text in texts])]
    frequency = document_frequency(ids, int(class_of.max()) + 1)
    idf = np.log((len(texts) + 1) / (frequency + 1))
    return Codes(class_of, is_word, (idf / idf.max()).astype(np.float32)[class_of])
