"""The pictures of the page in ``docs/pictures``, from a real server with the packaged model: look at them afterwards.

python -m tests.page.pictures
"""

from __future__ import annotations

import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import requests

from tests.e2e.server import ServerProcess
from tests.support.browser import Browser
from tests.support.texts import TEXTS

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "pictures"
LOAD_S = 45.0


def rank(page: Browser, width: int, height: int) -> bytes:
    page.resize(width, height)
    page.run("document.getElementById('example').click(); document.getElementById('send').click()")
    page.wait_for("!document.getElementById('cost').hidden")
    if width < 600:
        page.run("document.getElementById('cost').closest('section').scrollIntoView()")
    return page.screenshot()


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
