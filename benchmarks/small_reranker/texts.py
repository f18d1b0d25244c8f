"""The unit of training data, a titled text, and the small text helpers that every source shares."""

import html
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

MIN_TITLE_CHARS = 3
MAX_TITLE_CHARS = 160
MIN_BODY_WORDS = 5
MAX_BODY_CHARS = 4000

_SPACES = re.compile(r"[ \t\f\v\u00a0]+")
_BLANK_LINES = re.compile(r"\n\s*\n+")
_TAG = re.compile(r"<[^<>]{1,400}>")


@dataclass(frozen=True)
class Pair:
    """A title and the text it is the title of.

    ``group`` names the source document: pairs of one group never stand on both sides of a split
    and are never each other's negatives. ``style`` tells which query forms suit the title.
    """

    source: str
    group: str
    style: str
    title: str
    body: str


def tidy(text: str) -> str:
    """One space between words, one line break between paragraphs, no leading or trailing space."""
    paragraphs = _BLANK_LINES.split(text)
    lines = (_SPACES.sub(" ", part.replace("\n", " ")).strip() for part in paragraphs)
    return "\n".join(line for line in lines if line)


def strip_tags(markup: str) -> str:
    return html.unescape(_TAG.sub(" ", markup))


def usable(pair: Pair) -> bool:
    """Long enough to say something, and a title that is a phrase rather than a paragraph."""
    fits = MIN_TITLE_CHARS <= len(pair.title) <= MAX_TITLE_CHARS
    return fits and len(pair.body.split()) >= MIN_BODY_WORDS


def make_pair(source: str, group: str, style: str, title: str, body: str) -> Pair:
    body = tidy(body)[:MAX_BODY_CHARS]
    return Pair(source, f"{source}:{group}", style, " ".join(title.split()), body)


def unique(pairs: Iterable[Pair]) -> Iterator[Pair]:
    """Usable pairs; of those whose bodies begin alike, the first only."""
    seen: set[str] = set()
    for pair in pairs:
        key = re.sub(r"\W+", "", pair.body.lower())[:120]
        if usable(pair) and key not in seen:
            seen.add(key)
            yield pair


def write_pairs(path: Path, pairs: Iterable[Pair]) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for pair in pairs:
            file.write(json.dumps(asdict(pair), ensure_ascii=False) + "\n")
            count += 1
    return count


def read_pairs(path: Path) -> list[Pair]:
    with path.open(encoding="utf-8") as file:
        return [Pair(**json.loads(line)) for line in file]
