"""Pictures on the page, in a real browser: chosen as files, dropped, named; sent, ranked and shown."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine.model_spec import VisionSpec
from tests.page.conftest import fill, finished, page_server
from tests.serve.fakes import SPEC, expected_score
from tests.support.browser import Browser
from tests.support.pictures import data_url, encoded, picture

VISION = VisionSpec(
    block=8,
    min_pixels=64,
    max_pixels=60 * 64,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    before=(),
    behind=(),
    image_id=7,
    max_images=2,
)
SMALL, WIDE = data_url(picture(24, 24, 3)), data_url(picture(40, 64, 1))
FILES = "document.querySelector('#{}-side .pictures input[type=file]')"
ADDRESS = "document.querySelector('#{}-side .pictures input[type=text]:not(li *)')"
ROWS = """[...document.querySelectorAll('#results li')].map((row) => [
    row.querySelector('img')?.src ?? null, ...['text', 'score'].map((c) => row.querySelector('.' + c).textContent)])"""


@pytest.fixture
def page(browser: Browser) -> Iterator[Browser]:
    with page_server(spec=replace(SPEC, vision=VISION)) as server:
        browser.events.clear()
        browser.resize(1280, 900)
        browser.open(server.url)
        browser.wait_for("!document.querySelector('#documents-side .pictures').hidden")
        yield browser


def choose(page: Browser, side: str, *files: Path) -> None:
    node = page.send("Runtime.evaluate", expression=FILES.format(side))["result"]["objectId"]
    before = page.run(f"document.querySelectorAll('#{side}-side .pictures li').length")
    page.send("DOM.setFileInputFiles", files=[str(file) for file in files], objectId=node)
    page.wait_for(f"document.querySelectorAll('#{side}-side .pictures li').length === {before + len(files)}")


def name(page: Browser, side: str, address: str) -> None:
    page.run(f"{ADDRESS.format(side)}.focus()")
    page.type(address)
    page.press("Enter")


def rank(page: Browser) -> list[list[str | None]]:
    page.run("document.getElementById('send').click()")
    finished(page)
    found: list[list[str | None]] = page.run(ROWS)
    return found


def test_files_are_ranked_among_texts_and_shown(page: Browser, tmp_path: Path) -> None:
    (tmp_path / "small.png").write_bytes(encoded(picture(24, 24, 3)))
    (tmp_path / "wide.png").write_bytes(encoded(picture(40, 64, 1)))
    fill(page, "q", "a text\nanother")
    choose(page, "documents", tmp_path / "small.png", tmp_path / "wide.png")
    page.run("document.querySelectorAll('#documents-side .pictures li input')[1].focus()")
    page.type("a caption")
    assert page.run("document.getElementById('count').textContent") == "4 documents"
    scored = {
        (None, "a text"): expected_score("q", "a text"),
        (None, "another"): expected_score("q", "another"),
        (SMALL, ""): expected_score("q", "3x3"),
        (WIDE, "a caption"): expected_score("q", "5x8 a caption"),
    }
    best_first = sorted(scored.items(), key=lambda item: -item[1])
    assert rank(page) == [[image, text, f"{score:.4f}"] for (image, text), score in best_first]
    widths = page.run("[...document.querySelectorAll('#results img')].map((image) => image.naturalWidth)")
    assert sorted(widths) == [24, 64], "the browser shows them"
    opener = "[...document.querySelectorAll('#results button')].filter((button) => !button.hidden)"
    assert page.run(f"{opener}.length") == 2, "each picture can be opened"
    page.run("document.querySelector('#documents-side .pictures li button').click()")
    assert page.run("document.getElementById('count').textContent") == "3 documents"
    assert page.run("document.activeElement.getAttribute('aria-label')") == "Remove picture 1 of documents"
    page.run("document.getElementById('example').click()")
    assert page.run("document.querySelectorAll('.pictures li').length") == 0
    assert page.complaints == []


def test_dropped_pasted_and_named(page: Browser) -> None:
    fill(page, "q", "a text")
    page.run(
        f"""(() => {{ const bytes = Uint8Array.from(atob({json.dumps(SMALL.split(",")[1])}), (c) => c.charCodeAt(0));
        for (const [id, kind] of [['documents-side', 'drop'], ['query-side', 'paste']]) {{
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], 'small.png', {{type: 'image/png'}}));
            transfer.items.add(new File(['x'], 'notes.txt', {{type: 'text/plain'}}));
            const event = kind === 'drop' ? new DragEvent('drop', {{dataTransfer: transfer, cancelable: true}})
                : new ClipboardEvent('paste', {{clipboardData: transfer, cancelable: true}});
            document.getElementById(id).dispatchEvent(event);
        }} }})()"""
    )
    page.wait_for("document.querySelectorAll('.pictures img').length === 2")
    assert "notes.txt" in page.run("document.querySelector('#documents-side .pictures [role=status]').textContent")
    name(page, "documents", WIDE)
    name(page, "documents", "ftp://example.org/cat.png")
    assert "begins with" in page.run("document.querySelector('#documents-side .pictures [role=status]').textContent")
    shown = {image: score for image, _, score in rank(page)}
    scores = {image: expected_score("3x3 q", text) for image, text in ((None, "a text"), (SMALL, "3x3"), (WIDE, "5x8"))}
    assert shown == {image: f"{score:.4f}" for image, score in scores.items()}


def test_a_query_may_be_a_picture_alone(page: Browser) -> None:
    fill(page, "", "a text")
    name(page, "query", SMALL)
    assert rank(page) == [[None, "a text", f"{expected_score('3x3', 'a text'):.4f}"]]


def test_what_the_server_refuses_costs_that_document(page: Browser) -> None:
    fill(page, "q", "a text")
    name(page, "documents", "https://example.org/cat.png")
    name(page, "documents", "data:image/png;base64,AAAA")
    rank(page)
    rows = page.run("[...document.querySelectorAll('#results li')].map((row) => row.innerText)")
    assert sum("does not fetch pictures from that host" in row for row in rows) == 1
    assert sum("cannot be read" in row for row in rows) == 1
    assert not [url for url in page.requested if "example.org" in url], "an address is shown as text, not loaded"


@pytest.mark.parametrize("language", ["curl", "python"])
def test_copied_code_carries_them(page: Browser, language: str) -> None:
    large = data_url(picture(300, 300, 5), "webp")
    fill(page, "it's $HOME", "a text")
    for address in (large, SMALL):
        name(page, "documents", address)
    page.run("document.getElementById('code').open = true")
    page.run(f"document.querySelector('[data-language={language}]').click()")
    code = page.run("document.getElementById('code-text').textContent")
    command = ["bash"] if language == "curl" else [sys.executable, "-P"]
    done = subprocess.run(command, input=code, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    ranked = sorted(enumerate(["a text", "7x7", "3x3"]), key=lambda item: -expected_score("it's $HOME", item[1]))
    found = (
        [entry["index"] for entry in json.loads(done.stdout)["results"]]
        if language == "curl"
        else [int(line.rsplit(" ", 1)[1]) for line in done.stdout.splitlines()]
    )
    assert found == [number for number, _ in ranked]


def test_everything_has_a_name_and_fits(page: Browser) -> None:
    fill(page, "q", "a text")
    for side in ("query", "documents"):
        name(page, side, WIDE)
    rank(page)
    nodes = page.send("Accessibility.getFullAXTree")["nodes"]
    named = {(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n.get("ignored")}
    assert [pair for pair in named if pair[0] in ("button", "textbox", "image", "img") and not pair[1]] == []
    assert {("textbox", "Text beside picture 1"), ("button", "Add pictures as documents")} <= named
    for width in (320, 800):
        page.resize(width, 800)
        assert page.run("document.documentElement.scrollWidth <= innerWidth")


def test_a_model_of_texts_is_offered_none(browser: Browser) -> None:
    with page_server() as server:
        browser.open(server.url)
        browser.wait_for("document.getElementById('model').textContent.includes('fake')")
        assert browser.run("[...document.querySelectorAll('.pictures')].every((node) => node.hidden)")
