"""Titled texts from Debian: package descriptions and manual pages.

Package descriptions come from the English translation index that
``apt-get -o Acquire::Languages=en update`` brings; manual pages from ``/usr/share/man``.
"""

import gzip
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks.small_reranker.texts import Pair, make_pair

APT_HELPER = "/usr/lib/apt/apt-helper"
MAN_ROOT = Path("/usr/share/man")
# Pages that other vendors install beside Debian's own; their licences are not Debian's.
FOREIGN_PAGES = re.compile(r"^(gcloud|gsutil|bq|kubectl|docker|npm|npx|node|perl)")
# Sections whose heading says nothing about their text.
SKIPPED_SECTIONS = {"NAME", "SYNOPSIS", "SEE ALSO", "AUTHOR", "AUTHORS", "COPYRIGHT", "COLOPHON", "BUGS", "HISTORY"}

_SUFFIX = re.compile(
    r"\s*[\(\[-]+\s*(\w+ )?(data|documentation|docs|common|shared|development|runtime|library|debug)"
    r"\b.*$",
    re.IGNORECASE,
)
_ROFF_ESCAPES = (
    (re.compile(r"\\f(\[\w*\]|\(..|.)"), ""),
    (re.compile(r"\\s[-+]?\d+"), ""),
    (re.compile(r"\\\((aq|cq|oq)"), "'"),
    (re.compile(r"\\\((lq|rq|dq)"), '"'),
    (re.compile(r"\\\((em|en|hy|mi)"), "-"),
    (re.compile(r"\\\((bu|co|tm)|\\[&|^/,)%:cde0]|\\\*\(?..?"), ""),
    (re.compile(r"\\-"), "-"),
    (re.compile(r"\\[ ~]"), " "),
)


def _cat(path: Path) -> str:
    command = [APT_HELPER, "cat-file", str(path)]
    return subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout


def source_of_package(lists: Path) -> dict[str, str]:
    """Binary package to source package: binaries of one source share most of their description."""
    names: dict[str, str] = {}
    for index in sorted(lists.glob("*_debian_dists_*_main_binary-*_Packages*")):
        package = ""
        for line in _cat(index).splitlines():
            if line.startswith("Package: "):
                package = line[9:]
                names.setdefault(package, package)
            elif line.startswith("Source: "):
                names[package] = line[8:].split()[0]
    return names


def parse_translation(text: str) -> Iterator[tuple[str, str, str]]:
    """(package, short description, long description) for each stanza of a translation index."""
    for stanza in text.split("\n\n"):
        package = re.search(r"^Package: (.+)$", stanza, re.MULTILINE)
        description = re.search(r"^Description-en: (.*)\n((?: .*\n?)*)", stanza, re.MULTILINE)
        if package and description:
            long = "\n".join("" if line == " ." else line[1:] for line in description[2].splitlines())
            yield package[1], description[1], long


def package_descriptions(lists: Path) -> Iterator[Pair]:
    sources = source_of_package(lists)
    for index in sorted(lists.glob("*_debian_dists_*_main_i18n_Translation-en*")):
        for package, short, long in parse_translation(_cat(index)):
            title = _SUFFIX.sub("", short)
            # What every binary of a source says last ("This package contains ...") is no content.
            body = re.split(r"\n\s*\nThis (dummy |meta)?package ", long)[0]
            yield make_pair("debian", sources.get(package, package), "package", title, body)


def plain_roff(line: str) -> str:
    for pattern, replacement in _ROFF_ESCAPES:
        line = pattern.sub(replacement, line)
    return line.replace("\\e", "\\").replace("\\", "")


def parse_manual(roff: str) -> dict[str, str]:
    """Section heading to plain text. Macros are dropped, their words kept; code blocks are left out."""
    sections: dict[str, list[str]] = {}
    heading, in_code = "", False
    for raw in roff.splitlines():
        if raw.startswith((".nf", ".EX", ".TS", ".fi", ".EE", ".TE")):
            in_code = raw.startswith((".nf", ".EX", ".TS"))
        elif raw.startswith((".SH", ".Sh", ".SS", ".Ss")):
            heading, in_code = plain_roff(raw[3:]).strip(' "'), False
        elif raw.startswith((".B", ".I", ".R", ".Nm", ".Nd", ".Pa", ".Ar", ".Fl", ".Cm", ".Xr", ".Em", ".Li")):
            words = plain_roff(re.sub(r"^\.\w+ ?", "", raw)).replace('"', "")
            sections.setdefault(heading, []).append(words)
        elif raw.startswith((".", "'")):
            sections.setdefault(heading, []).append("\n\n" if raw[1:3] in ("PP", "LP", "TP", "Pp", "IP") else "")
        elif not in_code:
            sections.setdefault(heading, []).append(plain_roff(raw))
    return {name: "\n".join(lines) for name, lines in sections.items()}


def manual_pages(root: Path = MAN_ROOT) -> Iterator[Pair]:
    """NAME line to DESCRIPTION, and any other section under the page's name and its heading."""
    for path in sorted(root.glob("man[1-8]/*.gz")):
        if FOREIGN_PAGES.match(path.name) or path.is_symlink():
            continue
        sections = parse_manual(gzip.decompress(path.read_bytes()).decode("utf-8", "replace"))
        name, dash, summary = " ".join(sections.get("NAME", "").split()).partition(" - ")
        if not dash:
            continue
        page = path.name.split(".")[0]
        yield make_pair("man", page, "phrase", summary, sections.get("DESCRIPTION", ""))
        for heading, text in sections.items():
            if heading.upper() not in SKIPPED_SECTIONS | {"DESCRIPTION", "OPTIONS", ""} and len(text) > 200:
                yield make_pair("man", page, "phrase", f"{name.split(',')[0]} {heading.lower()}", text)
