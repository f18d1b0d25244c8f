"""``make demo`` does the main job: a real server, real text, scores that arrive, a ranking, a clean end."""

from __future__ import annotations

import re

import pytest

from engine.entrypoints.demo import demo


def test_demo_ranks_and_stops(capfd: pytest.CaptureFixture[str]) -> None:
    assert demo.main() == 0
    printed = capfd.readouterr().out
    blocks = re.split(r"^Query: ", printed, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(demo.QUESTIONS)
    for block, documents in zip(blocks, demo.QUESTIONS.values(), strict=True):
        arrived = re.findall(r"document (\d) scored (\d\.\d{4})$", block, re.MULTILINE)
        assert sorted(int(index) for index, _ in arrived) == list(range(len(documents)))
        ranked = [float(score) for score in re.findall(r"^ +\d\. (\d\.\d{4})", block, re.MULTILINE)]
        assert ranked == sorted((float(score) for _, score in arrived), reverse=True)
    port = int(re.search(r"127\.0\.0\.1:(\d+)", printed)[1])  # type: ignore[index]
    assert not demo.is_ready(port)
