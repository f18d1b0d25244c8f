"""A BEIR folder: corpus.jsonl, queries.jsonl and qrels/*.tsv.

Ids that do not match are an error that names the line, because a measurement on half of the judgements looks like one;
``skip_unknown`` leaves them out and says how many.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from engine.entrypoints.evaluation.dataset import EvaluationSet, judged_set
from engine.entrypoints.files.reading import Row, json_objects, kind_of, text_lines, wrong_line
from engine.errors import ConfigError


def read_beir(
    folder: Path, *, qrels: str | None = None, join_title: bool = True, skip_unknown: bool = False
) -> EvaluationSet:
    """Reads a folder in BEIR's form.

    ``qrels``: a file, or the name of one in ``qrels/`` without its ending. ``join_title``: title, space, text.

    Raises ``ConfigError`` for lines that are wrong, and for a set without judgements.
    """
    file = _qrels_file(folder, qrels)
    queries = {name: _query(row, name, path, line) for name, row, path, line in _identified(folder, "queries")}
    documents = {
        name: _document(row, path, line, join_title) for name, row, path, line in _identified(folder, "corpus")
    }
    judged: dict[str, dict[str, int]] = {}
    skipped = 0
    for number, query, document, grade in _judgements(file):
        problem = _unknown(query, document, queries, documents, folder)
        if problem:
            if not skip_unknown:
                raise wrong_line(file, number, f"{problem} (--skip-unknown leaves such lines out)")
            skipped += 1
            continue
        if judged.setdefault(query, {}).setdefault(document, grade) != grade:
            raise wrong_line(file, number, f"query {query!r} and document {document!r} were judged before, otherwise.")
    if not judged:
        raise ConfigError(f"{file} holds no judgement" + (f" of known ids; {skipped} skipped." if skipped else "."))
    notes = (f"{skipped} judgements of unknown ids left out",) if skipped else ()
    return judged_set(f"{folder.name} ({file.stem})", queries, documents, judged, notes=notes)


def _qrels_file(folder: Path, name: str | None) -> Path:
    if not folder.is_dir():
        raise ConfigError(f"--data {folder}: there is no such folder.")
    if name is not None:
        for candidate in (Path(name), folder / "qrels" / name, folder / "qrels" / f"{name}.tsv"):
            if candidate.is_file():
                return candidate
    found = sorted((folder / "qrels").glob("*.tsv"))
    if not found:
        raise ConfigError(f"{folder} is no BEIR folder: there is no file qrels/*.tsv in it.")
    names = {file.stem: file for file in found}
    if name is not None or ("test" not in names and len(names) > 1):
        asked = f"there is no {name} in {folder / 'qrels'}" if name else f"{folder / 'qrels'} has several sets"
        raise ConfigError(f"--qrels: {asked}; choose one of {', '.join(names)}.")
    return names.get("test", found[0])


def _identified(folder: Path, stem: str) -> Iterator[tuple[str, Row, Path, int]]:
    path = folder / f"{stem}.jsonl"
    if not path.exists() and path.with_suffix(".jsonl.gz").exists():
        path = path.with_suffix(".jsonl.gz")
    seen = set()
    for number, row in json_objects(path):
        name = row.get("_id")
        if isinstance(name, int) and not isinstance(name, bool):
            name = str(name)
        if not isinstance(name, str) or not name:
            raise wrong_line(path, number, f"the field '_id' must be a text, and is {_found(row, '_id')}.")
        if name in seen:
            raise wrong_line(path, number, f"the id {name!r} was there before.")
        seen.add(name)
        if not isinstance(row.get("text"), str):
            raise wrong_line(path, number, f"the field 'text' must be a text, and is {_found(row, 'text')}.")
        yield name, row, path, number
    if not seen:
        raise ConfigError(f"{path} is empty.")


def _found(row: Row, key: str) -> str:
    return kind_of(row[key]) if key in row else "missing"


def _query(row: Row, name: str, path: Path, line: int) -> str:
    text: str = row["text"]
    if not text.strip():
        raise wrong_line(path, line, f"the query {name!r} is empty.")
    return text


def _document(row: Row, path: Path, line: int, join_title: bool) -> str:
    title = "" if row.get("title") is None else row["title"]
    if not isinstance(title, str):
        raise wrong_line(path, line, f"the field 'title' must be a text, and is {kind_of(title)}.")
    return f"{title} {row['text']}".strip() if join_title else str(row["text"])


def _judgements(path: Path) -> Iterator[tuple[int, str, str, int]]:
    """BEIR's three columns under a header, or the four of TREC (query, 0, document, grade)."""
    for number, line in text_lines(path):
        cells = line.split("\t") if "\t" in line else line.split()
        if not line.strip() or (number == 1 and _is_header(cells)):
            continue
        if len(cells) not in (3, 4):
            raise wrong_line(path, number, f"query-id, corpus-id and score expected, got {len(cells)} columns.")
        query, document, grade = cells[0], cells[-2], cells[-1]
        try:
            yield number, query, document, int(grade)
        except ValueError:
            raise wrong_line(path, number, f"the score must be a whole number, and is {grade!r}.") from None


def _is_header(cells: list[str]) -> bool:
    return not cells[-1].strip().lstrip("-").isdigit() and cells[0].replace("_", "-") in ("query-id", "qid", "query")


def _unknown(query: str, document: str, queries: dict[str, str], documents: dict[str, str], folder: Path) -> str | None:
    if query not in queries:
        return f"the query {query!r} is not in {folder / 'queries.jsonl'}"
    if document not in documents:
        return f"the document {document!r} is not in {folder / 'corpus.jsonl'}"
    return None
