"""A tokenizer from a GGUF file's metadata, of the four kinds that llama.cpp knows.

The vocabulary, merges and scores are in the file; normalisers are not, except for SentencePiece's character map. What
is usual for the kind is built, and where the file names a split pattern that is not known here, it is refused: a
tokenizer that is nearly right gives scores that are nearly right. ``--tokenizer`` takes the one of the original model
instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from engine.checkpoint.gguf.header import GgufFile
from engine.errors import ModelLoadError

CONTROL, USER, BYTE, UNUSED = 3, 4, 6, 5
"""Of ``token_type``."""
SPACE = "\u2581"
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
PATTERNS: dict[str, tuple[str, bool]] = {
    "qwen2": (QWEN2, True),
    "deepseek-r1-qwen": (QWEN2, True),
    "llama-bpe": (LLAMA3, False),
    "llama3": (LLAMA3, False),
    "gpt-2": ("", False),
    "roberta-bpe": ("", False),
}
"""``tokenizer.ggml.pre`` -> (split pattern, empty for GPT-2's; whether the text is brought to NFC)."""


def build_tokenizer(file: GgufFile) -> Tokenizer:
    """Raises ``ModelLoadError`` where the metadata lack something or name what is not known."""
    kind = file.metadata.get("tokenizer.ggml.model")
    build = _KINDS.get(str(kind))
    if build is None:
        raise _unknown(file, f"its tokenizer is of the kind {kind!r}")
    vocabulary = Vocabulary(file)
    try:
        tokenizer = build(vocabulary)
    except ModelLoadError:
        raise
    except Exception as error:  # the library has no narrower type
        raise _unknown(file, f"its tokenizer cannot be built ({error})") from error
    vocabulary.add_special(tokenizer)
    return tokenizer


def special_tokens(file: GgufFile) -> dict[str, str]:
    """The special tokens by their names in ``tokenizer_config.json``: bos_token, eos_token, ..."""
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    names = {"bos": "bos", "eos": "eos", "unknown": "unk", "seperator": "sep", "padding": "pad", "mask": "mask"}
    names["cls"] = "cls"
    found = {}
    for name, short in names.items():
        number = file.metadata.get(f"tokenizer.ggml.{name}_token_id")
        if isinstance(tokens, list) and isinstance(number, int) and number < len(tokens):
            found[f"{short}_token"] = tokens[number]
    return found


def _unknown(file: GgufFile, problem: str) -> ModelLoadError:
    return ModelLoadError(
        f"{file.path}: {problem}. Give the tokenizer of the original model: --tokenizer with its folder or its name on "
        "the hub"
    )


class Vocabulary:
    """The tokens by the file's metadata, checked."""

    def __init__(self, file: GgufFile) -> None:
        self.file = file
        self.tokens: list[str] = self._list("tokens", str)
        if len(set(self.tokens)) != len(self.tokens):
            raise _unknown(file, "its tokenizer has a token twice")
        self.types: list[int] = self._list("token_type", int, [1] * len(self.tokens))
        self.scores: list[float] = self._list("scores", float, [0.0] * len(self.tokens))
        if not len(self.tokens) == len(self.types) == len(self.scores):
            raise _unknown(file, "its tokenizer has lists of tokens, types and scores of different lengths")

    def _list(self, name: str, kind: type, default: list[Any] | None = None) -> list[Any]:
        found = self.file.metadata.get(f"tokenizer.ggml.{name}", default)
        if not isinstance(found, list) or not all(isinstance(item, kind) for item in found):
            raise _unknown(self.file, f"its metadata hold no list tokenizer.ggml.{name}")
        return found

    @property
    def ids(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.tokens)}

    def id_of(self, name: str) -> int | None:
        """The id of ``bos``, ``eos``, ``unknown``, ``seperator``, ...; None where the file has none."""
        number = self.file.metadata.get(f"tokenizer.ggml.{name}_token_id")
        return number if isinstance(number, int) and number < len(self.tokens) else None

    def token(self, name: str) -> str:
        number = self.id_of(name)
        if number is None:
            raise _unknown(self.file, f"its metadata name no {name} token")
        return self.tokens[number]

    def flag(self, name: str, default: bool) -> bool:
        return bool(self.file.metadata.get(f"tokenizer.ggml.{name}", default))

    def merges(self) -> list[tuple[str, str]]:
        lines: list[str] = self._list("merges", str)
        pairs = [tuple(line.split(" ")) for line in lines]
        if any(len(pair) != 2 for pair in pairs):
            raise _unknown(self.file, "its tokenizer has a merge that is no pair")
        return [(pair[0], pair[1]) for pair in pairs]

    def add_special(self, tokenizer: Tokenizer) -> None:
        """Control tokens, and those of the user, are found before anything else is split."""
        for kind, add in ((CONTROL, tokenizer.add_special_tokens), (USER, tokenizer.add_tokens)):
            named = [token for token, its in zip(self.tokens, self.types, strict=True) if its == kind]
            add([AddedToken(token, special=kind == CONTROL, normalized=False) for token in named])

    def begin(self, tokenizer: Tokenizer, *, default: bool) -> None:
        """A token before every text, where the model has one."""
        number = self.id_of("bos")
        if self.flag("add_bos_token", default) and number is not None:
            bos = self.tokens[number]
            tokenizer.post_processor = processors.TemplateProcessing(
                single=f"{bos} $A", pair=f"{bos} $A {bos} $B:1", special_tokens=[(bos, number)]
            )


def _byte_level(vocabulary: Vocabulary) -> Tokenizer:
    pre = str(vocabulary.file.metadata.get("tokenizer.ggml.pre", "default"))
    if pre not in PATTERNS:
        raise _unknown(vocabulary.file, f"its tokenizer splits text by the rule {pre!r}, which is not known")
    pattern, composes = PATTERNS[pre]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary.ids, merges=vocabulary.merges()))
    if composes:
        tokenizer.normalizer = normalizers.NFC()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not pattern)
    split = [pre_tokenizers.Split(Regex(pattern), behavior="isolated")] if pattern else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    if pre == "roberta-bpe":
        _two_texts(tokenizer, vocabulary.token("bos"), vocabulary.token("eos"), doubled=True)
    else:
        vocabulary.begin(tokenizer, default=False)
    return tokenizer


def _word_piece(vocabulary: Vocabulary) -> Tokenizer:
    """Pieces that begin a word carry U+2581 in the file, the others nothing; WordPiece has it the other way round."""

    def spelled(token: str, kind: int) -> str:
        if kind != 1 or (token.startswith("[") and token.endswith("]")):
            return token
        return token[1:] if token.startswith(SPACE) else f"##{token}"

    spelling = [spelled(token, kind) for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)]
    if len(set(spelling)) != len(spelling):
        raise _unknown(vocabulary.file, "its tokenizer has a piece twice")
    unknown, separator = vocabulary.token("unknown"), vocabulary.token("seperator")
    first = vocabulary.id_of("cls")
    begin = vocabulary.tokens[first] if first is not None else vocabulary.token("bos")
    ids = {token: number for number, token in enumerate(spelling)}
    tokenizer = Tokenizer(models.WordPiece(vocab=ids, unk_token=unknown))
    # Whether a model tells capitals is not in the file; one that does has pieces with them.
    has_capitals = any(piece != piece.lower() for piece in spelling if not piece.startswith("["))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=not has_capitals)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    vocabulary.tokens = spelling
    _two_texts(tokenizer, begin, separator, doubled=False)
    return tokenizer


def _unigram(vocabulary: Vocabulary) -> Tokenizer:
    pieces = list(zip(vocabulary.tokens, vocabulary.scores, strict=True))
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=vocabulary.id_of("unknown")))
    steps: list[Any] = []
    character_map = vocabulary.file.metadata.get("tokenizer.ggml.precompiled_charsmap")
    if isinstance(character_map, list) and character_map:
        steps.append(normalizers.Precompiled(bytes(byte & 0xFF for byte in character_map)))
    if vocabulary.flag("remove_extra_whitespaces", True):
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    tokenizer.normalizer = normalizers.Sequence(steps)
    scheme = "always" if vocabulary.flag("add_space_prefix", True) else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme=scheme)
    _two_texts(tokenizer, vocabulary.token("bos"), vocabulary.token("eos"), doubled=True)
    return tokenizer


def _pieces_by_score(vocabulary: Vocabulary) -> Tokenizer:
    """SentencePiece's BPE: the merges are all pairs of pieces that make a piece, the best scores first."""
    ids = vocabulary.ids
    unknown = vocabulary.id_of("unknown")
    tokenizer = Tokenizer(
        models.BPE(
            vocab=ids,
            merges=_merges_by_score(ids, vocabulary.scores),
            byte_fallback=BYTE in vocabulary.types,
            unk_token=None if unknown is None else vocabulary.tokens[unknown],
            fuse_unk=True,
        )
    )
    steps: list[Any] = [normalizers.Replace(" ", SPACE)]
    adds_prefix = vocabulary.flag("add_space_prefix", True)
    if adds_prefix:
        steps.insert(0, normalizers.Prepend(SPACE))
    tokenizer.normalizer = normalizers.Sequence(steps)
    ends = [decoders.Strip(" ", 1, 0)] if adds_prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *ends]
    )
    vocabulary.begin(tokenizer, default=True)
    return tokenizer


def _merges_by_score(ids: dict[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """As transformers converts a slow tokenizer: by the score of the whole, then by the ids of the parts."""
    found: list[tuple[float, int, int, str, str]] = []
    for whole, number in ids.items():
        for cut in range(1, len(whole)):
            left, right = whole[:cut], whole[cut:]
            if left in ids and right in ids:
                found.append((-scores[number], ids[left], ids[right], left, right))
    found.sort()
    return [(left, right) for _, _, _, left, right in found]


def _two_texts(tokenizer: Tokenizer, begin: str, end: str, *, doubled: bool) -> None:
    """How an encoder puts a pair together, BERT's way or RoBERTa's (``doubled``, and no token types)."""
    pair = f"{begin} $A {end} {end} $B {end}" if doubled else f"{begin} $A {end} $B:1 {end}:1"
    specials = []
    for token in dict.fromkeys((begin, end)):
        number = tokenizer.token_to_id(token)
        if number is None:
            raise ModelLoadError(f"the tokenizer has no token {token!r}")
        specials.append((token, number))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", pair=pair, special_tokens=specials
    )


_KINDS: dict[str, Callable[[Vocabulary], Tokenizer]] = {
    "gpt2": _byte_level,
    "bert": _word_piece,
    "t5": _unigram,
    "llama": _pieces_by_score,
}
"""By ``tokenizer.ggml.model``."""
