"""engine run-batch: every row in its place, whatever happens to it or to the run."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.entrypoints.batch.output import Origin, OutputFile
from engine.entrypoints.batch.rows import Answer, output_row, path_of
from engine.entrypoints.batch.runner import BatchReport, run_batch
from engine.entrypoints.batch.transfer import fetch, put
from engine.entrypoints.cli import run as engine
from engine.errors import ConfigError, EngineDeadError
from tests.serve.conftest import Server, running_server
from tests.serve.fakes import FakeCore, expected_score


def row(number: int, body: dict[str, Any] | None = None, url: str = "/v1/rerank") -> dict[str, Any]:
    body = {"query": f"query {number}", "documents": ["a", "b"]} if body is None else body
    return {"custom_id": f"row-{number}", "method": "POST", "url": url, "body": body}


def write_lines(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in rows))
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def run(server: Server, source: Path, target: Path, window: int = 8) -> BatchReport:
    app = server.client._transport.app  # type: ignore[attr-defined]
    with OutputFile(target) as output:
        return await run_batch(app, source, output, window)


async def test_rows_come_out_in_the_order_of_the_input(tmp_path: Path) -> None:
    long = {"query": "long", "documents": ["x"] * 40}
    rows = [row(i, long if i % 7 == 0 else None) for i in range(50)]
    source, target = write_lines(tmp_path / "in", [*rows[:20], "", *rows[20:]]), tmp_path / "out"
    async with running_server(FakeCore(step_s=0.001)) as server:
        report = await run(server, source, target)
    answers = read_lines(target)
    assert report == BatchReport(50, 0, 0)
    assert [answer["custom_id"] for answer in answers] == [one["custom_id"] for one in rows]
    assert not (tmp_path / "out.part").exists()
    for one, answer in zip(rows, answers, strict=True):
        assert (answer["response"]["status_code"], answer["error"]) == (200, None)
        for entry in answer["response"]["body"]["results"]:
            expected = expected_score(one["body"]["query"], one["body"]["documents"][entry["index"]])
            assert entry["relevance_score"] == pytest.approx(expected)
    assert len({answer["id"] for answer in answers} | {a["response"]["request_id"] for a in answers}) == 100


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        (row(1, {"query": "q"}), 400, "documents"),
        (row(1, {"query": "q", "documents": ["a"], "model": "other"}), 404, "does not exist"),
        (row(1, url="/v1/chat/completions"), 404, "There is no route"),
        (row(1) | {"method": "GET"}, 400, "only POST"),
        ({"custom_id": "row-1"}, 400, "Line 2 is no batch row"),
        ("nonsense", 400, "Line 2 is no batch row"),
        (row(1, {"query": "q", "texts": []}, "/rerank"), 400, "At least one text"),
    ],
)
async def test_a_row_that_fails_keeps_its_place(tmp_path: Path, line: Any, status: int, message: str) -> None:
    source, target = write_lines(tmp_path / "in", [row(0), line, row(2)]), tmp_path / "out"
    async with running_server() as server:
        report = await run(server, source, target)
    before, failed, after = read_lines(target)
    assert report == BatchReport(3, 1, 0)
    assert before["response"]["status_code"] == after["response"]["status_code"] == 200
    assert failed["custom_id"] == (None if line == "nonsense" else "row-1")
    assert (failed["response"]["status_code"], failed["response"]["body"]) == (status, None)
    assert message in failed["error"]["message"]


async def test_other_calls_and_streaming(tmp_path: Path) -> None:
    rows = [
        row(0, {"text_1": "q", "text_2": ["a", "b"]}, "/v1/score"),
        row(1, {"query": "q", "documents": ["a"], "stream": True}, "http://elsewhere/v1/v1/rerank"),
        row(2, {"input": "whole prompt"}, "/classify"),
        row(3, {"query": "q", "texts": ["a"]}, "/rerank"),
    ]
    source, target = write_lines(tmp_path / "in", rows), tmp_path / "out"
    async with running_server() as server:
        assert (await run(server, source, target)).num_failed == 0
    bodies = [answer["response"]["body"] for answer in read_lines(target)]
    assert bodies[0]["data"][1]["score"] == pytest.approx(expected_score("q", "b"))
    assert bodies[1]["results"][0]["index"] == 0
    assert bodies[2]["data"][0]["label"] == "LABEL_0"
    assert bodies[3] == [{"index": 0, "score": pytest.approx(expected_score("q", "a"))}]


def test_paths() -> None:
    assert path_of("/rerank") == path_of("/v2/rerank") == path_of("https://x/y/rerank") == "/v1/rerank"
    assert path_of("/score") == path_of("v1/score") == "/v1/score"
    dashscope = "/api/v1/services/rerank/text-rerank/text-rerank"
    assert path_of(dashscope) == dashscope


async def test_an_interrupted_run_is_resumed(tmp_path: Path) -> None:
    rows = [row(i) for i in range(10)]
    source, target = write_lines(tmp_path / "in", rows), tmp_path / "out"
    async with running_server() as server:
        await run(server, write_lines(tmp_path / "first", rows[:4]), tmp_path / "whole")
        lines = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
        # Killed in the middle of its fourth row.
        (tmp_path / "out.part").write_bytes(b"".join(lines[:3]) + lines[3][:40])
        server.core.requests.clear()
        report = await run(server, source, target)
        assert report == BatchReport(10, 0, 3)
        assert len(server.core.requests) == 7
        answers = read_lines(target)
        assert [answer["custom_id"] for answer in answers] == [one["custom_id"] for one in rows]
        assert answers[:3] == [json.loads(line) for line in lines[:3]]
        (tmp_path / "out.part").write_bytes(b"".join(lines[1:3]))
        with pytest.raises(ConfigError, match="does not belong to this input: its row 1 answers 'row-1'"):
            await run(server, source, target)
        assert read_lines(target) == answers  # the finished file is never touched by a run that fails


async def test_failed_rows_of_an_earlier_run_still_count(tmp_path: Path) -> None:
    source, target = write_lines(tmp_path / "in", [row(0, {}), row(1)]), tmp_path / "out"
    async with running_server() as server:
        await run(server, source, target)
        first = target.read_bytes().splitlines(keepends=True)[0]
        (tmp_path / "out.part").write_bytes(first)
        assert await run(server, source, target) == BatchReport(2, 1, 1)


async def test_two_runs_do_not_share_an_output(tmp_path: Path) -> None:
    source, target = write_lines(tmp_path / "in", [row(0)]), tmp_path / "out"
    async with running_server() as server:
        with OutputFile(target), pytest.raises(ConfigError, match="another run"):
            await run(server, source, target)


async def test_a_lost_engine_ends_the_run_and_loses_nothing(tmp_path: Path) -> None:
    source, target = write_lines(tmp_path / "in", [row(i) for i in range(30)]), tmp_path / "out"
    core = FakeCore(step_s=0.005)
    async with running_server(core) as server:
        task = asyncio.create_task(run(server, source, target, window=2))
        while len(core.requests) < 8:
            await asyncio.sleep(0.001)
        core.dead = True
        with pytest.raises(EngineDeadError, match="could not be answered"):
            await task
        assert not target.exists()
        done = len(read_lines(tmp_path / "out.part"))
        assert 6 <= done < 30
    async with running_server() as server:
        assert await run(server, source, target) == BatchReport(30, 0, done)


async def test_the_window_is_bounded(tmp_path: Path) -> None:
    source, target = write_lines(tmp_path / "in", [row(i) for i in range(40)]), tmp_path / "out"
    most = 0
    async with running_server(FakeCore(step_s=0.001)) as server:
        task = asyncio.create_task(run(server, source, target, window=4))
        while not task.done():
            most = max(most, server.service.admission.num_calls)
            await asyncio.sleep(0)
        await task
    assert 2 <= most <= 4


def test_addresses(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in", [row(0)])
    fetch(source.as_uri(), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    for unreachable in ("http://127.0.0.1:9/none",):
        with pytest.raises(ConfigError, match="--input-file"):
            fetch(unreachable, tmp_path / "copy")
        with pytest.raises(ConfigError, match="The rows are in"):
            put(source, unreachable)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-i", "{tmp}/none", "-o", "{tmp}/out"], "there is no such file"),
        (["-i", "{tmp}/in", "-o", "{tmp}/no/folder/out"], "there is no folder"),
        (["-i", "{tmp}/in", "-o", "{tmp}/out", "--max-inflight", "0"], "positive number"),
        (["-o", "{tmp}/out"], "--input-file"),
        (["-i", "{tmp}/in", "-o", "{tmp}/there"], "exists already. --overwrite writes it anew"),
        (["-i", "{tmp}/twice", "-o", "{tmp}/out"], "Lines 1 and 3 of"),
        (["-i", "{tmp}/utf16", "-o", "{tmp}/out"], "is UTF-16: save it as UTF-8"),
        (["-i", "{tmp}/packed", "-o", "{tmp}/out"], "is packed by gzip: unpack it first"),
        (["-i", "{tmp}/in", "-o", "{tmp}/in", "--overwrite"], "is the input itself"),
        (["-i", "{tmp}/link", "-o", "{tmp}/in", "--overwrite"], "is the input itself"),
        (["-i", "{tmp}/in", "-o", "{tmp}/link", "--overwrite"], "is the input itself"),
        (["-i", "{tmp}/in", "-o", "{tmp}/pipe", "--overwrite"], "is a device or a pipe"),
        (["-i", "{tmp}/in", "-o", "/dev/full", "--overwrite"], "is a device or a pipe"),
        (["-i", "{tmp}/in", "-o", "{tmp}"], "is a folder"),
        (["-i", "{tmp}", "-o", "{tmp}/out"], "there is no such file"),
    ],
)
def test_wrong_commands(tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_lines(tmp_path / "in", [row(0)])
    write_lines(tmp_path / "twice", [row(0), row(1), row(0)])
    (tmp_path / "utf16").write_text(json.dumps(row(0)), "utf-16")
    (tmp_path / "packed").write_bytes(gzip.compress(b"{}"))
    (tmp_path / "there").write_text("somebody's work")
    (tmp_path / "link").symlink_to("in")
    os.mkfifo(tmp_path / "pipe")
    assert engine(["run-batch", *(argument.format(tmp=tmp_path) for argument in arguments)]) == 2
    assert message in capsys.readouterr().err


async def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_text(json.dumps(row(0)) + "\n", "utf-8-sig")
    async with running_server() as server:
        assert await run(server, source, target) == BatchReport(1, 0, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_sha256": "other"}, "begun with another input"),
        ({"model": "other"}, "begun with another model"),
        ({"settings": {"instruction": "other"}}, "begun with other settings"),
    ],
)
def test_only_the_same_run_goes_on(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    origin = Origin("sha", "model", {"instruction": ""})
    with OutputFile(tmp_path / "out", origin=origin) as output:
        output.write(output_row("row-0", Answer(200, {})))
    with OutputFile(tmp_path / "out", origin=origin) as output:
        assert output.done_ids == ["row-0"]
    with pytest.raises(ConfigError, match=message):
        OutputFile(tmp_path / "out", origin=msgspec.structs.replace(origin, **change)).__enter__()
    (tmp_path / "out.part.json").unlink()
    with pytest.raises(ConfigError, match="nothing says which input it answers"):
        OutputFile(tmp_path / "out", origin=origin).__enter__()


def test_a_full_disk_ends_the_run_with_a_sentence(tmp_path: Path) -> None:
    with OutputFile(tmp_path / "out") as output, Path("/dev/full").open("wb", buffering=0) as full:
        output._file.close()
        output._file = full  # type: ignore[assignment]  # takes nothing, as a full disk
        with pytest.raises(ConfigError, match="cannot be written: No space left on device"):
            output.write(output_row("row-0", Answer(200, {})))


def test_a_killed_process_is_resumed_by_the_same_command(tmp_path: Path) -> None:
    documents = [" ".join(f"word{i}" for i in range(start, start + 60)) for start in range(6)]
    rows = [row(i, {"query": f"q {i}", "documents": documents, "top_n": 1}) for i in range(40)]
    source, target = write_lines(tmp_path / "in", rows), tmp_path / "out"
    code = "from engine.entrypoints.cli import main; main()"
    command = [sys.executable, "-P", "-c", code, "run-batch", "-i", str(source), "-o", str(target)]
    command += ["--cpu-threads", "1", "--max-inflight", "4"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ENGINE_")}
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
    part = tmp_path / "out.part"
    deadline = time.monotonic() + 100
    while not part.exists() or part.read_bytes().count(b"\n") < 3:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    assert not target.exists()
    again = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert again.returncode == 0, again.stderr
    assert "of them by an earlier run" in again.stderr
    assert [answer["custom_id"] for answer in read_lines(target)] == [one["custom_id"] for one in rows]
