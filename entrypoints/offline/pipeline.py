"""Slices of pairs on their way through the engine: a thread tokenises the next while the core scores some.

No more than ``WINDOW`` slices exist at any time. Answers come back in any order and leave in the order of the input.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from typing import Any

from tqdm import tqdm

from engine.core.client import EngineClient
from engine.entrypoints.offline.arguments import PairSettings
from engine.entrypoints.offline.embedding import RunningTexts, TextSlice
from engine.entrypoints.offline.interrupts import interrupt_after
from engine.entrypoints.offline.slices import PairSlice, RunningSlice
from engine.inputs.processor import InputProcessor
from engine.model_spec import HeadSpec
from engine.scoring.call_encoding import core_request
from engine.scoring.document_store import DocumentStore

WINDOW = 4
"""Slices in flight at a time, the ones being tokenised included."""
Slice = PairSlice | TextSlice
Running = RunningSlice | RunningTexts
PROGRESS_TEXT = "Processed prompts"


class Pipeline:
    """Runs slices on one core; several threads may have slices in it at once."""

    def __init__(
        self,
        processor: InputProcessor,
        client: EngineClient,
        head: HeadSpec,
        threads: ThreadPoolExecutor,
        store: DocumentStore,
    ) -> None:
        self._processor = processor
        self._client = client
        self._head = head
        self._threads = threads
        self._store = store
        self._request_ids = count()
        self._call_ids = count()
        self.lock = threading.Lock()
        """Held around each use of the core's client, which takes one caller at a time."""
        self.open_slices: dict[str, Running] = {}
        """By the ids under which the core knows them."""
        self.closed = False
        """Set when the client is closed: then nothing is left to abort."""

    def run(
        self,
        slices: Iterator[Slice],
        total: int | None,
        adapter: str | None,
        settings: PairSettings,
        use_tqdm: bool | Callable[..., Any],
    ) -> Iterator[Any]:
        """The outputs of slices in their order; ``total``: pairs, for the progress bar, where it is known.

        Raises the ``EngineError`` that ended a slice. Closing the iterator aborts what has not run.
        """
        window: deque[Running] = deque()
        bar = _progress_bar(use_tqdm, total)
        try:
            self._fill(window, slices, adapter, settings)
            while window:
                self._advance(window)
                while window and window[0].complete:
                    part = window.popleft()
                    del self.open_slices[part.call_id]
                    self._fill(window, slices, adapter, settings)
                    for output in part.outputs(lambda: str(next(self._request_ids))):
                        bar.update(1)
                        yield output
        finally:
            # An exception, Ctrl-C or a consumer that stopped early: nothing may go on running for it.
            self._give_up(window)
            bar.close()

    def _fill(
        self, window: deque[Running], slices: Iterator[Slice], adapter: str | None, settings: PairSettings
    ) -> None:
        while len(window) < WINDOW and (part := next(slices, None)) is not None:
            call_id = f"offline-{next(self._call_ids)}"
            encoding: Future[Any] = self._threads.submit(part.encode, self._processor, settings)
            self.open_slices[call_id] = running = part.running(call_id, encoding, adapter)
            window.append(running)

    def _advance(self, window: deque[Running]) -> None:
        """Hand over what is encoded and take in what is scored; waits only when neither is there."""
        for part in window:
            if part.results is None and (part is window[0] or part.encoding.done()):
                self._submit(part)
        with self.lock, interrupt_after():
            if window[0].complete:
                return  # another caller of this object took our answers in
            for output in self._client.recv(0.1).outputs:
                owner = self.open_slices.get(output.call_id)
                if owner is not None and owner.results is not None:
                    owner.results.add(output)

    def _submit(self, part: Running) -> None:
        prompts = part.start(self._head, self._store.scoped(part.adapter or ""))
        if not prompts:  # none of them can be read
            return
        request = core_request(part.call_id, prompts, arrival_s=time.monotonic(), adapter=part.adapter)
        with self.lock, interrupt_after():
            self._client.submit(request)

    def _give_up(self, window: deque[Running]) -> None:
        for part in window:
            part.encoding.cancel()
            self.open_slices.pop(part.call_id, None)
            if part.results is not None and not part.complete and not self.closed:
                with self.lock, interrupt_after():
                    self._client.abort(part.call_id)
        window.clear()


def _progress_bar(use_tqdm: bool | Callable[..., Any], total: int | None) -> Any:
    make = use_tqdm if callable(use_tqdm) else tqdm
    if callable(use_tqdm):
        return make(total=total, desc=PROGRESS_TEXT, unit="pair")
    # None: shown on a terminal only.
    return tqdm(total=total, desc=PROGRESS_TEXT, unit="pair", disable=None if use_tqdm else True)
