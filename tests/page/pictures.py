"""The pictures of the page in ``docs/pictures``, from a real server with the packaged model: look at them afterwards.

python -m tests.page.pictures

A picture of a ranking carries the ranking as text too (a PNG's ``tEXt`` chunk), so that a test can compare it with what
the model says.
"""

from __future__ import annotations

import json
import struct
import tempfile
import threading
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import requests

from tests.e2e.server import ServerProcess
from tests.support.browser import Browser
from tests.support.texts import TEXTS

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "pictures"
LOAD_S = 45.0
SIGNATURE = b"\x89PNG\r\n\x1a\n"


RANKING = b"Ranking"
RESULTS = """(() => ({
    query: document.getElementById("query").value,
    results: [...document.querySelectorAll("#results li")].map((row) => [
        row.querySelector(".text").textContent, row.querySelector(".score").textContent]),
}))()"""


def with_ranking(png: bytes, ranking: dict[str, Any]) -> bytes:
    """The picture with the ranking in a chunk behind its header."""
    body = b"tEXt" + RANKING + b"\0" + json.dumps(ranking).encode("ascii")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    header_end = len(SIGNATURE) + 4 + 4 + 13 + 4
    return png[:header_end] + chunk + png[header_end:]


def ranking_of(png: bytes) -> dict[str, Any]:
    at = len(SIGNATURE)
    while at < len(png):
        size, kind = struct.unpack(">I4s", png[at : at + 8])
        key, _, text = png[at + 8 : at + 8 + size].partition(b"\0")
        if (kind, key) == (b"tEXt", RANKING):
            found: dict[str, Any] = json.loads(text)
            return found
        at += 12 + size
    raise ValueError("this picture carries no ranking")


def rank(page: Browser, width: int, height: int) -> bytes:
    page.resize(width, height)
    page.run("document.getElementById('example').click(); document.getElementById('send').click()")
    page.wait_for("!document.getElementById('cost').hidden")
    if width < 600:
        page.run("document.getElementById('cost').closest('section').scrollIntoView()")
    return with_ranking(page.screenshot(), page.run(RESULTS))


def keep_busy(server: ServerProcess, until: float) -> None:
    number = 0
    while time.monotonic() < until:
        number += 1
        with suppress(requests.RequestException):
            server.post("/v1/rerank", {"query": f"question {number}", "documents": list(TEXTS) * (1 + number % 3)})
        time.sleep(0.2 * (number % 4))


def main() -> None:
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        ServerProcess() as server,
        Browser(Path(profile)) as page,
    ):
        page.open(server.url)
        page.wait_for("document.getElementById('model').textContent.includes('up to')")
        (FOLDER / "page-light.png").write_bytes(rank(page, 1280, 860))
        (FOLDER / "page-mobile.png").write_bytes(rank(page, 390, 844))
        load = [threading.Thread(target=keep_busy, args=(server, time.monotonic() + LOAD_S)) for _ in range(3)]
        for thread in load:
            thread.start()
        page.resize(1280, 575)
        page.prefer(prefers_color_scheme="dark")
        page.open(server.url + "/#engine")
        time.sleep(LOAD_S - 5)
        (FOLDER / "page-engine-dark.png").write_bytes(page.screenshot())
        for thread in load:
            thread.join()


if __name__ == "__main__":
    main()
