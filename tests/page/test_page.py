"""The page at ``/`` in a real browser: ranks live, works by keyboard, asks for a key, loads nothing from elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from engine.messages import WireError
from tests.page.conftest import PageServer, fill, finished, page_server, results
from tests.serve.fakes import FakeCore, expected_score
from tests.support.browser import Browser

DOCUMENTS = [f"document number {i}" for i in range(12)]


@pytest.fixture
def server() -> Iterator[PageServer]:
    with page_server(FakeCore(pairs_per_step=3, step_s=0.03)) as running:
        yield running


@pytest.fixture
def page(server: PageServer, browser: Browser) -> Browser:
    browser.events.clear()
    browser.resize(1280, 900)
    browser.open(server.url)
    browser.wait_for("document.getElementById('model').textContent.includes('fake')")
    return browser


def expected(query: str, documents: list[str]) -> list[tuple[str, str]]:
    scored = [(document, expected_score(query, document)) for document in documents]
    return [(document, f"{score:.4f}") for document, score in sorted(scored, key=lambda item: -item[1])]


def test_ranks_and_says_what_it_took(page: Browser) -> None:
    fill(page, "q", "\n".join(DOCUMENTS))
    assert page.run("document.getElementById('count').textContent") == "12 documents"
    page.press("Enter", ctrl=True)
    finished(page)
    assert results(page) == expected("q", DOCUMENTS)
    assert "12 documents ranked in" in page.run("document.getElementById('progress').textContent")
    cost = page.run("document.getElementById('cost-numbers').innerText").split()
    assert cost[cost.index("Shared") + 1] == "50"
    assert cost[cost.index("Steps") + 1] == "3"
    widths = page.run("[...document.querySelectorAll('.bar')].map((bar) => bar.getBoundingClientRect().width)")
    assert widths == sorted(widths, reverse=True)
    assert page.complaints == []


def test_scores_arrive_live(page: Browser) -> None:
    page.run(
        "window.seen = []; new MutationObserver(() => {"
        " const rows = document.querySelectorAll('#results li').length;"
        " if (seen.at(-1) !== rows) seen.push(rows) }).observe(document.getElementById('results'), {childList: true})"
    )
    fill(page, "q", "\n".join(DOCUMENTS))
    page.run("document.getElementById('send').click()")
    finished(page)
    assert page.run("seen.filter((rows) => rows > 0)") == [3, 6, 9, 12]


def test_stop(browser: Browser) -> None:
    with page_server(FakeCore(pairs_per_step=1, step_s=0.2)) as server:
        browser.open(server.url)
        fill(browser, "q", "\n".join(DOCUMENTS))
        browser.run("document.getElementById('send').click()")
        browser.wait_for("document.querySelectorAll('#results li').length > 1")
        browser.run("document.getElementById('stop').click()")
        browser.wait_for("document.getElementById('progress').textContent.startsWith('Stopped after')")
        assert not browser.run("document.getElementById('send').disabled")
    assert len(server.core.aborted) == 1


def test_three_forms_of_documents(page: Browser) -> None:
    fill(page, "q", "one\nstill one\n\n \n\ntwo\n\nthree")
    count = "document.getElementById('count').textContent"
    assert page.run(count) == "4 documents"
    page.run("document.querySelector('[value=paragraphs]').click()")
    # The lines were documents before, and stay so.
    assert page.run("document.getElementById('documents').value") == "one\n\nstill one\n\ntwo\n\nthree"
    fill(page, "q", "one\nstill one\n\n \n\ntwo\n\nthree")
    assert page.run(count) == "3 documents"
    page.run("document.querySelector('[value=list]').click()")
    assert page.run("[...document.querySelectorAll('#list textarea')].map((area) => area.value)")[0] == "one\nstill one"
    page.run("document.querySelector('#list button').click()")
    assert page.run("document.activeElement.getAttribute('aria-label')") == "Document 1"
    page.run("document.getElementById('add').click()")
    page.type("four")
    assert page.run(count) == "3 documents"
    page.run("document.getElementById('send').click()")
    finished(page)
    assert {text for text, _ in results(page)} == {"two", "three", "four"}


def test_instruction_counts(page: Browser) -> None:
    fill(page, "q", "a\nb")
    page.run("document.getElementById('instruction').closest('details').open = true")
    page.run("document.getElementById('instruction').focus()")
    page.type("find it")
    page.run("document.getElementById('send').click()")
    finished(page)
    scores = {d: f"{expected_score('q', d, 'find it'):.4f}" for d in "ab"}
    assert dict(results(page)) == scores


def test_cut_and_failed_documents_are_marked(server: PageServer, page: Browser) -> None:
    server.core.failing = {2: WireError("non_finite_score", "no finite score")}
    fill(page, "q", "short\n" + "word " * 5000 + "\nbroken")
    page.run("document.getElementById('send').click()")
    finished(page)
    rows = page.run("[...document.querySelectorAll('#results li')].map((row) => row.innerText)")
    assert sum("cut" in row for row in rows) == 1
    assert "no finite score" in rows[-1]
    opener = "[...document.querySelectorAll('#results button')].filter((button) => !button.hidden)"
    assert page.run(f"{opener}.length") == 1
    page.run(f"{opener}[0].click()")
    assert page.run(f"{opener}[0].getAttribute('aria-expanded')") == "true"


def test_texts_are_never_markup(page: Browser) -> None:
    attack = "<img src=x onerror=alert(1)><script>window.pwned = 1</script>"
    fill(page, attack, attack + "\n</textarea><b>bold</b>")
    page.run("document.getElementById('send').click()")
    finished(page)
    page.run("document.getElementById('code').open = true")
    assert {text for text, _ in results(page)} == {attack, "</textarea><b>bold</b>"}
    assert page.run("document.querySelectorAll('#answer img, #answer script, #answer b, #code b').length") == 0
    assert page.run("window.pwned === undefined")


def test_only_this_server_is_asked(page: Browser, server: PageServer) -> None:
    page.run("document.getElementById('example').click(); document.getElementById('send').click()")
    finished(page)
    page.run("document.getElementById('tab-engine').click()")
    page.wait_for("document.querySelector('.tile .now').textContent !== '–'")
    assert len(page.requested) > 8
    assert all(url.startswith(server.url) for url in page.requested)
    assert page.complaints == []


def test_messages_for_mistakes(page: Browser) -> None:
    problem = "document.getElementById('problem')"
    page.run("document.getElementById('query').removeAttribute('required')")
    page.run("document.getElementById('send').click()")
    assert page.run(f"{problem}.textContent") == "Type a query."
    assert page.run("document.activeElement.id") == "query"
    page.type("q")
    page.run("document.getElementById('send').click()")
    assert "at least one document" in page.run(f"{problem}.textContent")
    assert page.run(f"{problem}.getAttribute('role')") == "alert"


def test_server_that_goes_away(browser: Browser) -> None:
    with page_server() as server:
        browser.open(server.url)
        fill(browser, "q", "a")
    browser.run("document.getElementById('send').click()")
    browser.wait_for("document.getElementById('problem').textContent === 'The server does not answer.'")


def test_asks_for_the_key(browser: Browser) -> None:
    with page_server(api_key=("s3cret",)) as server:
        browser.open(server.url)
        browser.wait_for("!document.getElementById('key-form').hidden")
        fill(browser, "q", "a\nb")
        browser.press("Enter", ctrl=True)
        browser.wait_for("document.getElementById('problem').textContent.includes('API key')")
        browser.run("document.getElementById('key').focus()")
        browser.type("s3cret")
        browser.press("Enter")
        browser.wait_for("document.getElementById('model').textContent.includes('fake')")
        assert browser.run("document.getElementById('key-form').hidden")
        browser.run("document.getElementById('send').click()")
        finished(browser)
        assert len(results(browser)) == 2
        browser.run("document.getElementById('code').open = true")
        browser.run("document.querySelector('[data-language=python]').click()")
        code = browser.run("document.getElementById('code-text').textContent")
        assert "ENGINE_API_KEY" in code
        assert "s3cret" not in code
        browser.run("sessionStorage.clear()")


@pytest.mark.parametrize("language", ["curl", "python"])
def test_copied_code_runs(page: Browser, language: str) -> None:
    query, documents = """it's "quoted" \\ $HOME `ls`""", ["a 'b' é 😀", "back\\slash\tand tab"]
    fill(page, query, "\n".join(documents))
    page.run("document.getElementById('code').open = true")
    page.run(f"document.querySelector('[data-language={language}]').click()")
    code = page.run("document.getElementById('code-text').textContent")
    page.wait_for("document.getElementById('copied').textContent !== ''")
    command = ["bash", "-c", code] if language == "curl" else [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    ranked = expected(query, documents)
    if language == "curl":
        assert [entry["document"]["text"] for entry in json.loads(done.stdout)["results"]] == [d for d, _ in ranked]
    else:
        assert done.stdout.splitlines()[0].split(" ", 1)[1] == ranked[0][0]


def test_keyboard_alone(page: Browser) -> None:
    page.run("document.body.focus()")
    reached = []
    for _ in range(14):
        page.press("Tab")
        reached.append(page.run("document.activeElement.id || document.activeElement.textContent.trim()"))
    for name in ("Skip to content", "tab-rank", "query", "Instruction", "documents", "send", "This call as code"):
        assert name in reached
    page.run("document.getElementById('tab-rank').focus()")
    page.press("ArrowRight")
    assert page.run("document.activeElement.id") == "tab-engine"
    assert page.run("document.getElementById('rank').hidden && !document.getElementById('engine').hidden")


def test_everything_has_a_name(page: Browser) -> None:
    """What a screen reader would say: each control has a role and a name, the regions have theirs."""
    page.run("document.getElementById('example').click(); document.querySelector('[value=list]').click()")
    page.run("document.getElementById('send').click()")
    finished(page)
    nodes = page.send("Accessibility.getFullAXTree")["nodes"]
    named = {(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n.get("ignored")}
    controls = ("button", "textbox", "tab", "radio", "tabpanel", "tablist", "DisclosureTriangle")
    assert [pair for pair in named if pair[0] in controls and not pair[1]] == []
    for pair in (("tab", "Rank"), ("textbox", "Query"), ("textbox", "Document 1"), ("button", "Remove document 2")):
        assert pair in named
    assert {"status", "alert"} & {role for role, _ in named}


def test_state_of_the_engine(server: PageServer, page: Browser) -> None:
    server.core.stats.num_waiting_pairs = 4321
    page.run("document.getElementById('tab-engine').click()")
    tile = "[...document.querySelectorAll('.tile')].find((tile) => tile.innerText.startsWith('{}'))"
    page.wait_for(f"{tile.format('Pairs in the queue')}.innerText.includes('4,321')")
    for _ in range(3):
        server.core.stats.num_steps += 10
        server.core.stats.device_s += 0.2
        server.core.stats.logical_tokens += 4000
        server.core.stats.computed_tokens += 1000
        page.wait_for(f"{tile.format('Time of a step')}.innerText.includes('20.0 ms')")
        assert "75 %" in page.run(f"{tile.format('Shared tokens')}.innerText")
    assert page.run(f"{tile.format('Shared tokens')}.querySelector('polyline').points.length") >= 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 800, 1280])
def test_fits_and_can_be_read(page: Browser, width: int, scheme: str) -> None:
    page.prefer(prefers_color_scheme=scheme)
    page.resize(width, 800)
    page.run("document.getElementById('example').click(); document.getElementById('send').click()")
    finished(page)
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    for selector in ("#query", ".quiet", ".score", "button.main", "#progress"):
        assert contrast(page, selector) >= 4.5, selector
    page.prefer(prefers_color_scheme="light")


def contrast(page: Browser, selector: str) -> float:
    """Of a text with what is behind it, as WCAG computes it."""
    text, ground = page.run(
        f"(() => {{ let node = document.querySelector('{selector}'); const text = getComputedStyle(node).color;"
        " while (/^rgba\\(.*, 0\\)$/.test(getComputedStyle(node).backgroundColor)) node = node.parentElement;"
        " return [text, getComputedStyle(node).backgroundColor] })()"
    )
    light, dark = sorted((luminance(text), luminance(ground)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(color: str) -> float:
    parts = [float(part) / 255 for part in color.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
