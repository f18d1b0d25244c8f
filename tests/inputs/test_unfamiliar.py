"""Texts that the tokenizer hardly knows are marked, in every kind of vocabulary; those that it knows are not."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from engine import LLM
from engine.checkpoint.hub import PACKAGED_MODEL
from engine.inputs.processor import InputProcessor
from engine.inputs.unfamiliar import UnfamiliarTokens
from engine.request import EncodedPair
from tests.inputs.conftest import build
from tests.support.tokenizer_files import gemma_tokenizer_json

ENGLISH = "Where do giant pandas live, and what do they eat all day?"
KNOWN = [
    "The giant panda lives in the bamboo forests of central China.",
    "Un café coûte 2,50 €; l'été, c'est plus cher.",
    "Straße, Größe, Übung: Wörter mit Umlauten.",
    "def f(x): return x ** 2  # α and β are parameters",
    "3.14159 + 2.71828 = 5.85987",
    "Hà Nội là thủ đô của nước Cộng hòa xã hội chủ nghĩa Việt Nam",
    "Zażółć gęślą jaźń; İstanbul Türkiye'nin en kalabalık şehridir",
    '{"a": [1, 2, {"b": null}]} https://ex.am/ple?q=1&x=%20y !!!???',
    "TWFueSBoYW5kcyBtYWtlIGxpZ2h0IHdvcms+Lg==",
    "for (int i = 0; i < n; ++i) { a[i] ^= b[i] << 3; }",
    "I like pandas very much, they are the best animals of all 😀",
    "The word пекин means Beijing in Russian, and 北京 in Chinese.",
    "",
]
UNKNOWN = [
    "ปักกิ่งเป็นเมืองหลวงของประเทศจีน",
    "Пекин является столицей Китая и вторым по величине городом.",
    "القاهرة هي عاصمة مصر وأكبر مدنها",
    "베이징은 중국의 수도이다",
    "ቤይጂንግ የቻይና ዋና ከተማ ናት",
    "બેઇજિંગ ચીનની રાજધાની છે",
    "北京是中华人民共和国的首都，也是全国的政治文化中心。",
    "東京は日本の首都です。",  # every letter is in an English vocabulary
    "ベトナムのハノイ",
    "ירושלים היא עיר",
    "नई दिल्ली भारत की राजधानी है",
    "თბილისი საქართველოს დედაქალაქია",
]


@pytest.fixture(scope="module")
def packaged() -> InputProcessor:
    return build(PACKAGED_MODEL)


def marks(inputs: InputProcessor, query: str, documents: list[str]) -> list[bool]:
    return [pair.unfamiliar for pair in inputs.encode([query], documents)]


def test_scripts_that_the_packaged_model_has_never_seen(
    packaged: InputProcessor, caplog: pytest.LogCaptureFixture
) -> None:
    """Seen case 10."""
    assert marks(packaged, ENGLISH, KNOWN) == [False] * len(KNOWN)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert marks(packaged, ENGLISH, UNKNOWN) == [True] * len(UNKNOWN)
        assert marks(packaged, UNKNOWN[0], KNOWN) == [True] * len(KNOWN), "a query that is not known"
    assert caplog.text.count("hardly knows a text of this call") == 1


def test_results_say_it() -> None:
    with LLM(device="cpu", cpu_threads=1) as llm:
        outputs = llm.score(ENGLISH, [KNOWN[0], UNKNOWN[0]], use_tqdm=False)
        assert [output.unfamiliar for output in outputs] == [False, True]
        ranked = llm.rerank(ENGLISH, [KNOWN[0], UNKNOWN[0]])
        assert {result.index: result.unfamiliar for result in ranked} == {0: False, 1: True}


def test_a_decoder_of_bytes(qwen3: Path) -> None:
    """Pieces of characters count among the tokens of the text, not among those of the long template."""
    inputs = build(qwen3)
    assert marks(inputs, "yes", ["yes no yes", "a plain text in English"]) == [False, False]
    assert marks(inputs, "yes", ["ቤይጂንግ", "yes ቤይጂንግ የቻይና"]) == [True, True]


def test_bytes_of_a_vocabulary_of_pieces() -> None:
    tokenizer = Tokenizer.from_str(gemma_tokenizer_json())
    kinds = UnfamiliarTokens(tokenizer, _shortest())._kinds
    assert kinds[tokenizer.token_to_id("<0xE2>")] == kinds[tokenizer.token_to_id("<unk>")] == 2
    assert kinds[tokenizer.token_to_id("<0x0A>")] == kinds[tokenizer.token_to_id("<bos>")] == 0


def test_whole_words_of_any_script_are_known() -> None:
    """A vocabulary with the words of a script is not doubted for its letters."""
    words = {"[UNK]": 0, "столица": 1, "китая": 2, "и": 3, "в": 4, "首": 5, "都": 6}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+|(?=\p{Han})"), "removed")
    marker = UnfamiliarTokens(tokenizer, _shortest())
    for text, expected in (("столица китая и", False), ("首 都", False), ("и в и", True), ("нет столица", True)):
        assert marker.marked(_pair(tokenizer, text)).unfamiliar is expected, text


@pytest.mark.parametrize(("others", "expected"), [(30, False), (3000, True)])
def test_east_asian_letters_of_a_vocabulary_with_few_of_them(others: int, expected: bool) -> None:
    """One that was made for such texts holds many; an English one holds a few hundred, and spells with them."""
    letters = {chr(0x4E00 + number): number + 1 for number in range(60)}
    words = {"[UNK]": 0} | letters | {f"word{number}": 61 + number for number in range(others)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"(?=\p{Han})"), "isolated")
    marker = UnfamiliarTokens(tokenizer, _shortest())
    assert marker.marked(_pair(tokenizer, "".join(letters)[:12])).unfamiliar is expected


def _pair(tokenizer: Tokenizer, text: str) -> EncodedPair:
    return EncodedPair(np.array(tokenizer.encode(text).ids, np.int32))


def _shortest() -> EncodedPair:
    return EncodedPair(np.zeros(2, np.int32), query_len=1)
