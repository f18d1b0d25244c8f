"""What is written: JSON files that survive a full disk, pages without network, pictures, sweeps that go on."""

from __future__ import annotations

import json
import re
import resource
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from engine.entrypoints.bench.charts import Chart, Series, number
from engine.entrypoints.bench.drawing import to_png, to_svg
from engine.entrypoints.bench.plots import write_plots
from engine.entrypoints.bench.result_charts import finished_per_second, load_charts, regression_charts, run_charts
from engine.entrypoints.bench.results import append_result, write_result
from engine.entrypoints.bench.sweep import result_file
from engine.errors import ConfigError, StartupError
from tests.bench.command import WRONG_USAGE, main
from tests.bench.stand_ins import StandIn, running

QUICK = ["--skip-tokenizer-init", "--random-input-len", "40", "--disable-tqdm"]


@contextmanager
def full_disk(after_bytes: int) -> Iterator[None]:
    """Files may not grow beyond this: the same ``OSError`` from ``write`` as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (after_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def result(**changes: Any) -> dict[str, Any]:
    return {
        "date": "20260101-000000",
        "backend": "rerank",
        "label": None,
        "request_rate": 4.0,
        "max_concurrency": None,
        "latencies": [0.1, 0.2, 0.3, 0.4],
        "start_times": [0.0, 1.0, 2.0, 3.0],
        "completed": 4,
        "failed": 0,
        "request_throughput": 1.2,
        "request_goodput": None,
        "document_throughput": 12.0,
        "total_token_throughput": 1200.0,
        "median_e2el_ms": 250.0,
        "p99_e2el_ms": 400.0,
        "step_tokens": [[128, 3.0], [256, 1.0], [None, 0.0]],
        "environment": {"processor": "chip"},
        **changes,
    }


def test_full_disk_leaves_the_old_result(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_result(path, {"old": 1})
    with full_disk(1000), pytest.raises(StartupError, match="could not be written: File too large"):
        write_result(path, {"latencies": list(range(10_000))})
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_takes_back_a_half_written_line(tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    append_result(path, {"old": 1})
    with full_disk(1000), pytest.raises(StartupError, match="could not be written"):
        append_result(path, {"latencies": list(range(10_000))})
    assert path.read_text() == '{"old":1}\n'


def svgs(page: str) -> list[ET.Element]:
    return [ET.fromstring(text) for text in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def test_plot_of_a_run_is_self_contained(tmp_path: Path) -> None:
    with running(StandIn("rerank")) as server:
        words = ["--base-url", server.url, "--plot", "--save-result", "--result-dir", str(tmp_path), "--label", "a<b"]
        assert main(["serve", "--num-prompts", "30", "--result-filename", "r.json", *QUICK, *words]) == 0
    page = (tmp_path / "r.html").read_text()
    assert ">inf<" in page
    assert "a&lt;b" in page
    assert "a<b" not in page
    assert not re.search(r'src=|href="[^#]|url\([^#]|@import|https?://', page)
    titles = [svg.findtext("title") for svg in svgs(page)]
    assert len(titles) == 4  # percentiles, time series, calls a second, step sizes
    assert all(title and "against" in title for title in titles)
    assert not re.search(r"#[0-9a-f]{6}", "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL)))  # dark form
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")


def test_files_of_somebody_else_stay(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps(result()))
    (tmp_path / "p.html").write_text("mine")
    plot = ["plot", "--results", str(tmp_path / "r.json"), "--output", str(tmp_path / "p")]
    with pytest.raises(ConfigError, match=r"p\.html exists already\. --overwrite"):
        main(plot)
    assert (tmp_path / "p.html").read_text() == "mine"
    assert main([*plot, "--overwrite"]) == 0
    assert "<table>" in (tmp_path / "p.html").read_text()
    with pytest.raises(ConfigError, match=r"r\.json exists already\. --overwrite"):
        main(["latency", "--model", "m", "--output-json", str(tmp_path / "r.json")])
    with running(StandIn("rerank")) as server:
        where = ["--save-result", "--result-dir", str(tmp_path), "--result-filename", "r.json"]
        words = ["serve", "--base-url", server.url, "--num-prompts", "5", *where, *QUICK]
        with pytest.raises(ConfigError, match=r"r\.json exists already"):
            main(words)
        assert main([*words, "--overwrite"]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["completed"] == 5


def test_page_says_when_there_is_no_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "engine.entrypoints.bench.drawing", raising=False)
    (tmp_path / "r.json").write_text(json.dumps(result()))
    assert main(["plot", "--results", str(tmp_path / "r.json"), "--output", str(tmp_path / "p")]) == 0
    assert "No charts: they need matplotlib" in capsys.readouterr().out
    assert "<table>" in (tmp_path / "p.html").read_text()


def test_marks_stand_where_the_numbers_are() -> None:
    svg = ET.fromstring(to_svg(Chart("t", "x", "y", [Series("s", [(0, 0), (5, 5), (10, 10)])])))
    marks = [(float(mark.get("x", "")), float(mark.get("y", ""))) for mark in svg.iter("use")]
    (x0, y0), (x1, y1), (x2, y2) = marks[-3:]  # behind those of the axes
    assert x0 < x1 < x2
    assert y0 > y1 > y2
    assert x1 == pytest.approx((x0 + x2) / 2)
    assert y1 == pytest.approx((y0 + y2) / 2)


@pytest.mark.parametrize("kind", ["line", "scatter", "bars"])
def test_every_kind_is_drawn_for_both(kind: Literal["line", "scatter", "bars"]) -> None:
    chart = Chart("a & b", "$x$", "y", [Series("s", [(1, 2), (2, 0)]), Series("t", [(1, 1)])], kind=kind)
    svg = ET.fromstring(to_svg(chart))
    assert {"a & b", "$x$", "y", "s", "t"} <= {text.text for text in svg.iter("text")}
    assert to_png([chart]).startswith(b"\x89PNG")


def test_numbers_are_short() -> None:
    assert (number(12000), number(1500), number(0.25), number(3e6)) == ("12k", "1500", "0.25", "3M")


def test_load_and_regression_views() -> None:
    results = [result(request_rate=rate, median_e2el_ms=rate * 10, request_goodput=1.0) for rate in (4.0, 1.0, 2.0)]
    median = load_charts(results, "request_rate")[0]
    assert median.series[0].points == [(1.0, 10.0), (2.0, 20.0), (4.0, 40.0)]
    assert len(load_charts(results, "request_rate")) == 4
    dated = [result(date=date, document_throughput=rate) for date, rate in (("20260202-1", 9.0), ("20260101-1", 12.0))]
    throughput = regression_charts([*dated, result(request_rate=9.0, date="20260101-1")])[
        0
    ]  # another load, another line
    assert len(throughput.series) == 2
    assert throughput.series[0].points == [(0.0, 12.0), (1.0, 9.0)]
    assert throughput.x_names == ["20260101", "20260202"]


def test_regression_over_the_committed_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(__file__).resolve().parents[2] / "benchmarks" / "results"  # other files among them are left out
    assert main(["plot", "--results", str(folder), "--view", "regression", "--output", str(tmp_path / "all")]) == 0
    page = (tmp_path / "all.html").read_text()
    assert "Throughput over time" in page
    assert "<use" in page
    assert (tmp_path / "all.png").stat().st_size > 10_000


def test_rate_of_finished_calls_adds_up() -> None:
    points = finished_per_second(result(latencies=[0.1] * 100, start_times=[i / 10 for i in range(100)]))
    width = points[1][0] - points[0][0]
    assert sum(rate for _, rate in points) * width == pytest.approx(100)


def test_run_without_answers_has_a_page(tmp_path: Path) -> None:
    empty = result(latencies=[], start_times=[], step_tokens=[])
    write_plots([empty], tmp_path / "p")
    page = (tmp_path / "p.html").read_text()
    assert page.count("nothing was measured") == len(run_charts([empty]))


@pytest.mark.parametrize(
    ("content", "message"), [("{", "is not JSON"), ("{}", "is not a result"), (None, "cannot be read")]
)
def test_plot_names_files_it_cannot_use(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "r.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(WRONG_USAGE, match=message):
        main(["plot", "--results", str(path), "--output", str(tmp_path / "p")])


def sweep(server: StandIn, folder: Path, *words: str) -> int:
    target = ["--backend", server.dialect, "--base-url", server.url, "--num-prompts", "6"]
    return main(["sweep", "--result-dir", str(folder), *target, *QUICK, *words])


def test_sweep_runs_every_combination_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--vary", "request-rate=100,200", "random_batch_size=1,3"]
    with running(StandIn("rerank")) as server:
        assert sweep(server, tmp_path, *words) == 0
        saved = sorted(tmp_path.glob("request-rate*.json"))
        assert len(saved) == 4
        sent = len(server.bodies)
        saved[0].unlink()
        assert sweep(server, tmp_path, *words) == 0  # only the missing one is run again
        assert 0 < len(server.bodies) - sent <= 7
    assert {json.loads(path.read_text())["request_rate"] for path in saved[1:]} == {100.0, 200.0}
    assert (tmp_path / "sweep.html").exists()
    assert " Sweep " in capsys.readouterr().out


def test_sweep_with_other_options_has_other_files(tmp_path: Path) -> None:
    setting = (("request-rate", "4"),)
    files = {result_file(tmp_path, rest, (), setting) for rest in ([], ["--seed", "3"], ["--seed", "4"])}
    assert len(files) == 3
    assert result_file(tmp_path, ["--seed", "3"], (), setting) in files


def test_sweep_checks_every_value_first(tmp_path: Path) -> None:
    with running(StandIn("rerank")) as server:
        with pytest.raises(WRONG_USAGE, match="above 0"):
            sweep(server, tmp_path, "--vary", "request-rate=100,0")
        with pytest.raises(WRONG_USAGE, match="write FLAG=A,B,C"):
            sweep(server, tmp_path, "--vary", "request-rate")
        with pytest.raises(WRONG_USAGE, match="needs --serve-cmd"):
            sweep(server, tmp_path, "--vary-serve", "max-num-seqs=1,2")
        assert not server.bodies


SERVER = """
import sys
sys.path.insert(0, {root!r})
from aiohttp import web
from tests.bench.stand_ins import StandIn
app = StandIn("rerank", tokens_per_document=int(sys.argv[-1])).application()
web.run_app(app, host="127.0.0.1", port={port}, print=None)
"""


def test_sweep_starts_a_server_for_each_setting(tmp_path: Path, unused_port: int) -> None:
    root = str(Path(__file__).resolve().parents[2])
    script = tmp_path / "server.py"
    script.write_text(SERVER.format(root=root, port=unused_port))
    folder = tmp_path / "out"
    words = ["--serve-cmd", f"{sys.executable} {script}", "--vary-serve", "tokens=50,70", "--num-prompts", "4"]
    assert main(["sweep", "--result-dir", str(folder), "--port", str(unused_port), *QUICK, *words]) == 0
    saved = [json.loads(path.read_text()) for path in folder.glob("tokens*.json")]
    assert {(r["label"], r["total_input_tokens"]) for r in saved} == {("tokens=50", 200), ("tokens=70", 280)}


def test_sweep_sees_a_server_that_does_not_start(tmp_path: Path, unused_port: int) -> None:
    words = ["--serve-cmd", f"{sys.executable} -c 'raise SystemExit(3)'", "--port", str(unused_port)]
    with pytest.raises(StartupError, match="ended with status 3 before it was ready"):
        main(["sweep", "--result-dir", str(tmp_path), *QUICK, *words])


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
