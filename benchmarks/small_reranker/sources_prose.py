"""Titled texts from dictionaries, handbooks and help pages, all of them Debian packages unpacked below one folder."""

import gzip
import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.small_reranker.texts import Pair, make_pair, strip_tags

_GCIDE_NOTE = re.compile(r"\[[^\]]{0,60}\]|--[A-Z][\w. ,()&:;]{0,40}\.?$|[{}]", re.MULTILINE)
_H_HEADING = re.compile(r"<h([1-4])[^>]*>(.*?)</h\1>", re.DOTALL)


def wordnet(root: Path) -> Iterator[Pair]:
    """Synonyms of a synset to its gloss and its examples."""
    for path in sorted(root.rglob("wordnet/data.*")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith(" "):
                continue
            head, _, gloss = line.partition(" | ")
            fields = head.split()
            words = [fields[4 + 2 * i].replace("_", " ").split("(")[0] for i in range(int(fields[3], 16))]
            yield make_pair("wordnet", fields[0] + path.suffix, "word", ", ".join(words[:3]), gloss)


def parse_dictionary(text: str) -> Iterator[tuple[str, str]]:
    """(headword, entry) of a dictd file whose entries begin in the first column."""
    headword = ""
    lines: list[str] = []
    for line in text.splitlines():
        if line and not line[0].isspace():
            if lines:
                yield headword, "\n".join(lines)
            headword, lines = line, []
        else:
            lines.append(line)
    if lines:
        yield headword, "\n".join(lines)


def webster(root: Path) -> Iterator[Pair]:
    """Headwords of the Collaborative International Dictionary of English to their definitions."""
    path = next(root.rglob("dictd/gcide.dict.dz"))
    for headword, entry in parse_dictionary(gzip.decompress(path.read_bytes()).decode("utf-8", "replace")):
        word = headword.split("\\")[0].strip().rstrip(",")
        body = _GCIDE_NOTE.sub(" ", entry)
        if "(" not in word and not word.startswith("00-") and "Syn:" not in body[:12]:
            yield make_pair("webster", word.lower(), "word", word, body)


def foldoc(root: Path) -> Iterator[Pair]:
    path = next(root.rglob("dictd/foldoc.dict.dz"))
    for headword, entry in parse_dictionary(gzip.decompress(path.read_bytes()).decode("utf-8", "replace")):
        body = re.sub(r"<[^>]{0,60}>|\(\d{4}-\d\d-\d\d\)|\(http[^)]*\)|[{}]|\[\"[^\]]*\]", "", entry)
        yield make_pair("foldoc", headword.lower(), "word", headword, body)


def _html_sections(markup: str) -> Iterator[tuple[str, str]]:
    marks = list(_H_HEADING.finditer(markup))
    for mark, following in zip(marks, [*marks[1:], None], strict=False):
        body = markup[mark.end() : following.start() if following else len(markup)]
        body = re.sub(r"<(script|style|pre|head)\b.*?</\1>", " ", body, flags=re.DOTALL)
        yield strip_tags(mark[2]), strip_tags(re.sub(r"</(p|li|dt|dd|tr)>", "\n\n", body))


def office_help(root: Path) -> Iterator[Pair]:
    for path in sorted(root.rglob("libreoffice/help/en-US/text/**/*.html")):
        for heading, text in _html_sections(path.read_text(encoding="utf-8", errors="replace")):
            yield make_pair("office", path.stem, "phrase", heading, text)


def debian_handbook(root: Path) -> Iterator[Pair]:
    for path in sorted(root.rglob("debian-handbook/**/en-US/*.html")):
        for heading, text in _html_sections(path.read_text(encoding="utf-8", errors="replace")):
            title = re.sub(r"^[\d. ]+|\s+", " ", heading).strip()
            yield make_pair("handbook", path.stem, "phrase", title, text)


def gnome_help(root: Path) -> Iterator[Pair]:
    """Page title to page. Kept out of training: an evaluation set of another kind."""
    for path in sorted(root.rglob("help/C/**/*.page")):
        markup = path.read_text(encoding="utf-8")
        title = re.search(r"<title>(.*?)</title>", markup, re.DOTALL)
        if title:
            body = re.sub(r"<(info|code|screen)\b.*?</\1>", " ", markup[title.end() :], flags=re.DOTALL)
            body = strip_tags(re.sub(r"</(p|title|item)>", "\n\n", re.sub(r"<info>.*?</info>", "", body)))
            yield make_pair("gnome", path.stem, "asis", strip_tags(title[1]), body)


def perl_faq(root: Path) -> Iterator[Pair]:
    """Question to answer. Kept out of training: an evaluation set of another kind."""
    for path in sorted(root.rglob("pod/perlfaq[1-9].pod")):
        chunks = re.split(r"^=head2 ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for chunk in chunks[1:]:
            question, _, answer = chunk.partition("\n")
            answer = re.split(r"^=head1 ", answer, flags=re.MULTILINE)[0]
            plain = [re.sub(r"[A-Z]<+\s*(?:[^|<>]*\|)?([^<>]*?)\s*>+", r"\1", text) for text in (question, answer)]
            yield make_pair(
                "perlfaq", question, "asis", plain[0], re.sub(r"^=\w+.*$", "", plain[1], flags=re.MULTILINE)
            )
