"""``engine rerank``: what is ranked, how it is printed for people and for pipes, and how it refuses."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.entrypoints.files.texts import Text, read_texts
from engine.entrypoints.rank.ranking import RankedText, Ranking, print_ranking
from engine.entrypoints.terminal import bar, one_line, shares
from engine.errors import ConfigError
from tests.support.checkpoints import make_qwen3
from tests.support.commands import QUIET, run_apart, run_here

QUESTION = "What is the capital of China?"
ANSWER = "The capital of China is Beijing."
OTHERS = ["Gravity attracts two bodies.", "Whales breathe air."]


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    path = tmp_path / "notes.txt"
    path.write_text("\n".join([OTHERS[0], "", ANSWER, OTHERS[1]]) + "\n")
    return path


class TestTexts:
    def test_lines(self, notes: Path) -> None:
        name = str(notes)
        assert read_texts([name]) == [Text(OTHERS[0], name, 1), Text(ANSWER, name, 3), Text(OTHERS[1], name, 4)]

    def test_paragraphs(self, tmp_path: Path) -> None:
        path = tmp_path / "a.md"
        path.write_bytes("\ufeff\r\n\r\none\r\ntwo\r\n \t\r\nthree\r\n\r\n".encode())
        assert [(text.text, text.line) for text in read_texts([str(path)], "paragraph")] == [
            ("one\ntwo", 3),
            ("three", 6),
        ]

    def test_whole_files(self, notes: Path, tmp_path: Path) -> None:
        blank = tmp_path / "blank.txt"
        blank.write_text(" \n")
        (text,) = read_texts([str(notes), str(blank)], "file")
        assert text == Text(notes.read_text().rstrip("\n"), str(notes), None)

    def test_json_fields(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.jsonl"
        rows = [{"text": "a", "id": 1}, "plain", {"text": " "}, {"text": "b"}]
        path.write_text("\n".join(map(json.dumps, rows)))
        texts = read_texts([str(path)])
        assert [(text.text, text.line, text.row) for text in texts] == [
            ("a", 1, {"text": "a", "id": 1}),
            ("plain", 2, "plain"),
            ("b", 4, {"text": "b"}),
        ]
        path.write_text('{"doc": {"body": "x"}}')
        assert [text.text for text in read_texts([str(path)], field="doc.body")] == ["x"]

    def test_packed_files(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.jsonl.gz"
        path.write_bytes(gzip.compress(b'{"text": "a"}\n'))
        assert [text.text for text in read_texts([str(path)])] == ["a"]

    @pytest.mark.parametrize(
        ("content", "by", "field", "says"),
        [
            (b'{"body": "x"}', "json", None, r"f:1: no field 'text' \(it has 'body'\); name another one with --field"),
            (b'\n{"text": 1}', "json", None, r"f:2: the field 'text' is a number, and only a text can be ranked"),
            (b"[1]", "json", None, r"f:1: no field 'text' \(it is a list\)"),
            (b'{"a": "x"}', None, "a.b", r"f:1: no field 'a.b'"),
            (b"{", "json", None, r"f:1: not valid JSON"),
            (b"ok\n\xff\n", None, None, r"f:2: not UTF-8 text \(byte 0xff at position 1 of the line\)"),
            (b"\n \n", "line", None, r"nothing to rank: .*f without any text"),
            (b"x", "line", "text", r"cannot go with --by line"),
        ],
    )
    def test_mistakes_are_named(self, tmp_path: Path, content: bytes, by: str, field: str, says: str) -> None:
        (tmp_path / "f").write_bytes(content)
        with pytest.raises(ConfigError, match=says):
            read_texts([str(tmp_path / "f")], by, field)

    def test_a_name_that_is_no_text(self, tmp_path: Path) -> None:
        path = os.fsdecode(bytes(tmp_path) + b"/caf\xe9")
        Path(path).write_text("a")
        (text,) = read_texts([path])
        assert text.file.endswith("/caf\ufffd")
        text.file.encode()

    def test_places_that_are_no_files(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="is a folder; name the files in it"):
            read_texts([str(tmp_path)])
        with pytest.raises(ConfigError, match="gone cannot be read: No such file"):
            read_texts([str(tmp_path / "gone")])
        with pytest.raises(ConfigError, match="read only once"):
            read_texts(["-", "-"])


class TestPrinting:
    def test_a_terminal_without_unicode_loses_characters_and_not_the_answer(self) -> None:
        ranking = self.ranking("naïve café")
        raw = io.BytesIO()
        print_ranking(ranking, "table", None, terminal := io.TextIOWrapper(raw, encoding="ascii"))
        terminal.flush()
        assert b"na?ve caf?" in raw.getvalue()
        assert b"####" in raw.getvalue()
        print_ranking(ranking, "tsv", None, terminal)
        terminal.flush()
        assert "naïve café".encode() in raw.getvalue()

    def printed(self, ranking: Ranking, form: str, top: int | None = None) -> str:
        out = io.StringIO()
        print_ranking(ranking, form, top, out)
        return out.getvalue()

    def ranking(self, *texts: str, file: str = "f", bounded: bool = True) -> Ranking:
        entries = [RankedText(Text(text, file, i), 0.9 / i, 2.0 - i, i == 2) for i, text in enumerate(texts, 1)]
        return Ranking("q", entries, bounded)

    def test_table(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "60")
        lines = self.printed(self.ranking("a " * 200, "[bold]b[/bold] :smile:", "c\x1b[2J\x07d"), "table").splitlines()
        assert all(len(line) <= 60 for line in lines)
        assert lines[0].startswith("1  0.900")
        assert "…" in lines[1]  # the text was cut after its second line
        assert "[bold]b[/bold] :smile:" in "".join(lines[2].split("  "))
        assert "line 2 (cut)" in lines[2]
        assert "c[2Jd" in lines[-2]
        assert "\x1b" not in "".join(lines)
        assert lines[-1].rstrip() == "3 of 3, 1 longer than the model can read and cut"

    def test_ten_rows_unless_told(self) -> None:
        many = self.ranking(*(f"text {i}" for i in range(30)))
        assert self.printed(many, "table").rstrip().endswith("10 of 30, 1 longer than the model can read and cut")
        assert len(self.printed(many, "json").splitlines()) == 30
        assert len(self.printed(many, "tsv", 4).splitlines()) == 4

    def test_tsv_is_one_line_a_text(self) -> None:
        (first, second) = self.printed(self.ranking("a\tb\nc\\", "é"), "tsv").splitlines()
        assert first == "1\t0.9\t1\tf\t1\ta\\tb\\nc\\\\"
        assert second.split("\t")[-1] == "é"

    def test_json(self) -> None:
        row = {"text": "a", "id": 7}
        ranking = Ranking("q", [RankedText(Text("a", "f", 1, row), 0.5, 0.0, False)], True)
        assert json.loads(self.printed(ranking, "json")) == {
            "rank": 1,
            "score": 0.5,
            "logit": 0.0,
            "file": "f",
            "line": 1,
            "text": "a",
            "truncated": False,
            "row": row,
        }

    def test_scores_without_bounds_fill_bars_by_their_range(self) -> None:
        assert shares([4.0, 2.0, 0.0], bounded=False) == [1.0, 0.5, 0.0]
        assert shares([3.0], bounded=False) == [1.0]
        assert shares([0.3], bounded=True) == [0.3]
        assert " 0.90" in self.printed(self.ranking("x", bounded=False), "table")

    def test_bars(self) -> None:
        assert [bar(share, 4) for share in (0, 1e-9, 0.5, 1, 2)] == ["", "▏", "██", "████", "████"]
        assert bar(0.53125, 4) == "██▏"
        assert bar(0.5, 4, unicode=False) == "##"

    def test_one_line(self) -> None:
        assert one_line("  a\n\n b\t c ", 10) == "a b c"
        assert one_line("abcdef", 4) == "abc…"
        assert one_line("abcd", 4) == "abcd"
        assert one_line("x" + " " * 100 + "y", 4) == "x…"


def test_the_answer_comes_first(notes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here("rerank", QUESTION, notes, *QUIET) == 0
    said = capsys.readouterr()
    assert ANSWER in said.out.splitlines()[0]
    assert said.err.splitlines() == [
        "engine: using the small English reranker of the package, as no model was given (--model MODEL uses another)"
    ]


def test_pipes(notes: Path) -> None:
    """Standard input without a name for it, JSON out, and a named model is named."""
    done = run_apart("rerank", QUESTION, "--json", "--top", "1", *QUIET, stdin=notes.read_bytes())
    assert done.returncode == 0, done.stderr
    (row,) = map(json.loads, done.stdout.splitlines())
    assert (row["rank"], row["file"], row["line"], row["text"]) == (1, "-", 3, ANSWER)
    assert 0 < row["score"] < 1


def test_a_reader_that_leaves_early(notes: Path) -> None:
    """As with ``| true``: no traceback when nobody reads."""
    begin = "from engine.entrypoints.cli import main; main()"
    command = [sys.executable, "-c", begin, "rerank", QUESTION, str(notes), "--tsv", *QUIET]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0
    assert len(error.splitlines()) == 1, error


def test_a_named_model(notes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_qwen3(tmp_path / "model", hidden=32, layers=1, heads=2, kv_heads=1, head_dim=16)
    assert run_here("rerank", QUESTION, notes, "--model", model, "--by", "file", "--max-model-len", "128", *QUIET) == 0
    said = capsys.readouterr()
    assert f"using {model}" in said.err
    assert "1 of 1" in said.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["rerank"], "engine: rerank needs QUERY. See engine rerank --help."),
        (["rerank", " ", "f"], "The query is empty"),
        (["rerank", "\udcff", "f"], "The query is not UTF-8 text"),
        (["rerank", "q", "gone.txt"], "gone.txt cannot be read: No such file"),
        (["rerank", "q", "f", "--top", "0"], "--top 0: one or more"),
        (["rerank", "q", "f", "--json", "--tsv"], "exclude each other"),
        (["rerank", "q", "f", "--by", "word"], "--by"),
        (["rerank", "q", "f", "--fields", "x"], "Unknown option --fields"),
        (["rerank", "q", "f", "--model", "./gone"], "There is no folder ./gone"),
    ],
)
def test_refusals(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("f").write_text("text\n")
    assert run_here(*words) == 2
    said = capsys.readouterr()
    assert says in said.err.splitlines()[-1]
    assert said.out == ""
