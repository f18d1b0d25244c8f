"""Real tokenizers, trained on the spot: the same pipeline as the published ones with a small vocabulary."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from tokenizers import AddedToken as Added
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.support.texts import TEXTS

QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_ADDED = (  # (text, special) with Qwen3's own flags; <think> is not a special token there
    ("<|endoftext|>", True),
    ("<|im_start|>", True),
    ("<|im_end|>", True),
    ("<tool_call>", False),
    ("</tool_call>", False),
    ("<think>", False),
    ("</think>", False),
)


@lru_cache
def qwen_tokenizer_json(vocab_size: int = 3000, answers: tuple[str, ...] = ()) -> str:
    """Byte-level BPE as in Qwen3: NFC, Qwen2's split pattern, ``yes``, ``no`` and ``answers`` as single tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(QWEN_ADDED),
        min_frequency=1,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    lines = "".join(f"{answer}\n" for answer in answers)
    tokenizer.train_from_iterator([*TEXTS, *[f"yes\nno\n{lines}"] * 50], trainer)
    for text, special in QWEN_ADDED:
        token = Added(text, special=special, normalized=False)
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([token])
    assert None not in [tokenizer.token_to_id(answer) for answer in ("yes", "no", *answers)]
    return tokenizer.to_str()


def qwen_tokenizer_config(tokenizer_json: str) -> dict[str, Any]:
    added = json.loads(tokenizer_json)["added_tokens"]
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {str(a["id"]): {k: v for k, v in a.items() if k != "id"} for a in added},
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


@lru_cache
def xlm_roberta_tokenizer_json(vocab_size: int = 2000) -> str:
    """Unigram with Metaspace, ``<s> query </s></s> document </s>``."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=names, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")],
    )
    return tokenizer.to_str()


@lru_cache
def bert_tokenizer_json(vocab_size: int = 2000) -> str:
    """WordPiece, ``[CLS] query [SEP] document [SEP]`` with token types."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        TEXTS, trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=names, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return tokenizer.to_str()


@lru_cache
def roberta_tokenizer_json(vocab_size: int = 2000) -> str:
    """Byte-level BPE, ``<s> query </s></s> document </s>``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=names, show_progress=False, initial_alphabet=alphabet
        ),
    )
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", tokenizer.token_to_id("</s>")), ("<s>", tokenizer.token_to_id("<s>")), add_prefix_space=False
    )
    return tokenizer.to_str()


@lru_cache
def deberta_tokenizer_json(vocab_size: int = 2000) -> str:
    """Unigram with Metaspace, ``[CLS] query [SEP] document [SEP]`` with types that the model does not look at."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    names = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=names, unk_token="[UNK]", show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = _bert_pairs(tokenizer)
    return tokenizer.to_str()


@lru_cache
def modernbert_tokenizer_json(vocab_size: int = 2000) -> str:
    """Byte-level BPE, ``[CLS] query [SEP] document [SEP]``, no types."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=names, show_progress=False, initial_alphabet=alphabet
        ),
    )
    tokenizer.post_processor = _bert_pairs(tokenizer)
    return tokenizer.to_str()


def _bert_pairs(tokenizer: Tokenizer) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )


@lru_cache
def gemma_tokenizer_json(vocab_size: int = 2000) -> str:
    """BPE on pieces that keep their space in front (U+2581), bytes for the rest, ``<bos>`` before a text."""
    names = ["<pad>", "<eos>", "<bos>", "<unk>"]
    extra = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[*names, *extra], show_progress=False, max_token_length=12
    )
    tokenizer.train_from_iterator([*TEXTS, *["Yes", "No", "yes", "no"] * 50], trainer)
    stored = json.loads(tokenizer.to_str())
    # The bytes are ordinary pieces of the vocabulary, not added tokens.
    stored["added_tokens"] = [token for token in stored["added_tokens"] if token["content"] in names]
    tokenizer = Tokenizer.from_str(json.dumps(stored))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B:1", special_tokens=[("<bos>", tokenizer.token_to_id("<bos>"))]
    )
    assert tokenizer.token_to_id("Yes") is not None
    return tokenizer.to_str()


@lru_cache
def llama_tokenizer_json(
    vocab_size: int = 3000, begin: str = "<|begin_of_text|>", answers: tuple[str, ...] = ()
) -> str:
    """Byte-level BPE with ``<|begin_of_text|>`` before a text, as in Llama 3; ``begin``: another word for it."""
    stored = json.loads(qwen_tokenizer_json(vocab_size, answers))
    tokenizer = Tokenizer.from_str(json.dumps(stored))
    tokenizer.add_special_tokens([Added(begin, special=True, normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A {begin} $B:1", special_tokens=[(begin, tokenizer.token_to_id(begin))]
    )
    return tokenizer.to_str()


def _plain_config(max_length: int, **tokens: str) -> dict[str, Any]:
    return {"model_max_length": max_length, "tokenizer_class": "PreTrainedTokenizerFast", **tokens}


_BERT_TOKENS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
_ROBERTA_TOKENS = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}

TOKENIZERS: dict[str, Callable[[], tuple[str, dict[str, Any]]]] = {
    "bert": lambda: (
        bert_tokenizer_json(),
        {**_BERT_TOKENS, "tokenizer_class": "BertTokenizer", "model_max_length": 512},
    ),
    "distilbert": lambda: (
        bert_tokenizer_json(),
        _plain_config(512, **_BERT_TOKENS) | {"model_input_names": ["input_ids", "attention_mask"]},
    ),
    "roberta": lambda: (roberta_tokenizer_json(), _plain_config(512, **_ROBERTA_TOKENS)),
    "xlm-roberta": lambda: (xlm_roberta_tokenizer_json(), _plain_config(8192, **_ROBERTA_TOKENS)),
    "deberta": lambda: (
        deberta_tokenizer_json(),
        _plain_config(512, **_BERT_TOKENS) | {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]},
    ),
    "modernbert": lambda: (
        modernbert_tokenizer_json(),
        _plain_config(8192, **_BERT_TOKENS) | {"model_input_names": ["input_ids", "attention_mask"]},
    ),
    "qwen": lambda: (qwen_tokenizer_json(), qwen_tokenizer_config(qwen_tokenizer_json())),
    "llama": lambda: (llama_tokenizer_json(), _plain_config(131072, bos_token="<|begin_of_text|>")),
    "answers": lambda: (
        qwen_tokenizer_json(answers=("Yes",)),
        qwen_tokenizer_config(qwen_tokenizer_json(answers=("Yes",))),
    ),
    "mistral": lambda: (
        llama_tokenizer_json(begin="<s>", answers=("true", "false")),
        _plain_config(32768, bos_token="<s>"),
    ),
    "gemma": lambda: (
        gemma_tokenizer_json(),
        _plain_config(8192, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<pad>"),
    ),
}
"""Name -> tokenizer.json and tokenizer_config.json."""
