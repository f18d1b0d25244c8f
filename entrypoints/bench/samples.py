"""What was measured of one call, and of a run."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One call. Times are seconds since the start of the run."""

    index: int
    planned_s: float
    """When the arrival process wanted it sent."""
    sent_s: float
    done_s: float
    num_documents: int
    num_tokens: int = 0
    first_score_s: float | None = None
    """When the first score of a streamed answer was here."""
    status: int | None = None
    error: str | None = None
    """None: a complete answer."""
    tokens_counted_here: bool = False
    """The server did not say; ``num_tokens`` is our own count without the template."""

    @property
    def ok(self) -> bool:
        return self.error is None

    @property
    def latency_s(self) -> float:
        """The seconds from sending to the last byte: vLLM's E2EL."""
        return self.done_s - self.sent_s

    @property
    def queued_s(self) -> float:
        """The seconds from planned time to sending: the wait for the limit of calls in flight, or for the client."""
        return self.sent_s - self.planned_s

    @property
    def inclusive_s(self) -> float:
        """The seconds from the planned time to the last byte: what a user would have waited."""
        return self.done_s - self.planned_s

    @property
    def first_score_latency_s(self) -> float | None:
        return None if self.first_score_s is None else self.first_score_s - self.sent_s


@dataclass(kw_only=True)
class Run:
    """A finished or interrupted run against one server."""

    samples: list[Sample] = field(default_factory=list)
    probes: list[Sample] = field(default_factory=list)
    started_at: float = 0.0
    """Seconds since the epoch."""
    duration_s: float = 0.0
    interrupted: bool = False
    num_unfinished: int = 0
    """Calls that were under way or still to come when the run was interrupted."""
    server_metrics: dict[str, float] = field(default_factory=dict)
    """By how much the server's own counters grew during the run."""
    step_tokens: list[tuple[float, float]] = field(default_factory=list)
    """(upper bound, steps) of the server's histogram of tokens a step, for this run alone."""

    def end(self, num_calls: int, *, duration_s: float, interrupted: bool) -> None:
        """Enters how the run of ``num_calls`` ended, after ``duration_s`` if nothing was answered."""
        self.duration_s = max((sample.done_s for sample in self.samples), default=duration_s)
        self.interrupted = interrupted
        self.num_unfinished = num_calls - len(self.samples)

    @property
    def completed(self) -> list[Sample]:
        return [sample for sample in self.samples if sample.ok]

    @property
    def failed(self) -> list[Sample]:
        return [sample for sample in self.samples if not sample.ok]
