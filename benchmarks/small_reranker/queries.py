"""Query forms: what a person might type who looks for the text behind a title.

Titles are noun phrases ("colour picker"), commands ("sort lines of text") or words ("volcano"). Each is turned into
keywords, the title as it is, or a question; word endings are changed now and then, so that a model learns to look past
them. A sentence cut out of the text is a fourth form, for training only.
"""

import random
import re

from benchmarks.small_reranker.texts import Pair

_STOPWORDS = """
a an and are as at be been but by can did do does for from had has have how i if in into is it its may my no not of on
or our should so such than that the their them then there these they this to used using was we were what when where
which while who why will with you your
"""
STOPWORDS = frozenset(_STOPWORDS.split())
# First words of a title that read as a command after "how to".
COMMAND_ENDINGS = re.compile(r"^(add|adjust|apply|build|calculate|change|check|choose|clear|close|compile|compute|"
                             r"configure|connect|convert|copy|count|create|decode|define|delete|display|download|draw|"
                             r"edit|enable|encode|estimate|evaluate|execute|extract|fetch|filter|find|fit|format|"
                             r"generate|get|handle|insert|install|list|load|make|manage|merge|move|open|parse|perform|"
                             r"plot|print|process|query|read|remove|rename|replace|report|reset|resize|return|run|save|"
                             r"search|select|send|set|show|solve|sort|split|start|stop|test|transform|translate|update|"
                             r"upload|use|validate|verify|view|wait|write)$")  # fmt: skip

WORD_QUESTIONS = ("what is {}", "what does {} mean", "definition of {}", "meaning of {}", "{} explained", "{}")
COMMAND_QUESTIONS = ("how to {}", "how do I {}", "how can I {}?", "I want to {}", "what is the way to {}", "{}")
PHRASE_QUESTIONS = ("what is {}", "how does {} work", "tell me about {}", "explain {}", "{}?", "information on {}")
PACKAGE_QUESTIONS = ("which program is a {}", "is there a {}", "software: {}", "I need a {}", "what can I use as {}",
                     "looking for {}")  # fmt: skip

MIN_UNWORDED_WORDS = 8

_WORD = re.compile(r"[^\W_]+(?:[-.'+#][^\W_]+)*[+#]*")
_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+")


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


def words_of(text: str) -> list[str]:
    return _WORD.findall(text)


def inflect(word: str, rng: random.Random) -> str:
    """Another form of the word: plural or singular, or another common ending."""
    if len(word) < 4 or not word.isalpha() or not word.islower():
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith("ing") and len(word) > 6:
        return word[:-3] + rng.choice(("", "e", "ed"))
    if word.endswith("ed") and len(word) > 5:
        return word[:-2] + rng.choice(("", "ing"))
    if word.endswith("s"):
        return word if word.endswith("ss") else word[:-1]
    return word[:-1] + "ing" if word.endswith("e") and rng.random() < 0.3 else word + "s"


def keywords(title: str, rng: random.Random) -> str:
    """Two to five content words of the title, sometimes in another order or with other endings."""
    content = [word for word in words_of(title) if word.lower() not in STOPWORDS]
    size = rng.randint(2, 5)
    kept = sorted(rng.sample(range(len(content)), min(size, len(content))))
    chosen = [content[i].lower() for i in kept] or [title]
    if rng.random() < 0.3:
        rng.shuffle(chosen)
    return " ".join(inflect(word, rng) if rng.random() < 0.25 else word for word in chosen)


def _lower_first(title: str) -> str:
    return title[:1].lower() + title[1:] if title[1:2].islower() else title


def question(style: str, title: str, rng: random.Random) -> str:
    if style == "asis":
        return title
    phrase = _lower_first(title.rstrip(".?"))
    first = phrase.split(" ")[0].lower()
    if style == "word":
        return rng.choice(WORD_QUESTIONS).format(phrase)
    singular = first[:-1] if first.endswith("s") else first
    if COMMAND_ENDINGS.match(singular) and " " in phrase:
        return rng.choice(COMMAND_QUESTIONS).format(singular + phrase[len(first) :])
    return rng.choice(PACKAGE_QUESTIONS if style == "package" else PHRASE_QUESTIONS).format(phrase)


def query_of(pair: Pair, form: str, rng: random.Random) -> str:
    """The query for a pair in one of the forms ``keywords``, ``title`` or ``question``."""
    title = pair.title if pair.style != "word" else pair.title.split(",")[0]
    if form == "title" or pair.style == "asis":
        return title
    return keywords(title, rng) if form == "keywords" else question(pair.style, title, rng)


def cut_sentence(pair: Pair, rng: random.Random) -> tuple[str, str] | None:
    """(query, rest of the text): a sentence, or keywords from it, taken out of a longer text."""
    sentences = [part for part in _SENTENCE.split(pair.body) if part]
    fitting = [i for i, part in enumerate(sentences) if 5 <= len(part.split()) <= 25]
    if len(sentences) < 3 or not fitting:
        return None
    chosen = rng.choice(fitting)
    rest = " ".join(part for i, part in enumerate(sentences) if i != chosen)
    sentence = sentences[chosen]
    return (keywords(sentence, rng) if rng.random() < 0.6 else sentence.rstrip(".")), rest


def unworded(query: str, text: str) -> str:
    """The sentences of the text that repeat no content word of the query.

    With BM25's finds as negatives, which do repeat them, such a text can only be known by its meaning.
    """
    asked = {stem(word) for word in words_of(query) if word.lower() not in STOPWORDS}
    kept = [part for part in _SENTENCE.split(text) if not asked & {stem(word) for word in words_of(part)}]
    return " ".join(kept)
