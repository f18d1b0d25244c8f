"""When calls are sent: an open loop. The times are fixed before the run, so a slow server cannot slow the load down.

A closed loop, or a client that starts its clock only when it got round to sending, hides exactly the waits that users
would have had ("coordinated omission"). Here each call has a planned time, and waiting since then is counted.
"""

from __future__ import annotations

import math

import numpy as np

from engine.entrypoints.bench.options import ServeOptions
from engine.errors import ConfigError


def check_load_options(options: ServeOptions) -> None:
    """Raises ``ConfigError`` for rates and limits that are impossible or exclude each other."""
    if options.request_rate <= 0:
        raise ConfigError(f"--request-rate {options.request_rate} must be above 0, or inf.")
    if options.burstiness <= 0:
        raise ConfigError(f"--burstiness {options.burstiness} must be above 0; 1 means Poisson arrivals.")
    if options.max_concurrency is not None and options.max_concurrency < 1:
        raise ConfigError("--max-concurrency must be at least 1.")
    ramp = (options.ramp_up_start_rps, options.ramp_up_end_rps)
    if options.ramp_up_strategy is None:
        if ramp != (None, None):
            raise ConfigError("--ramp-up-start-rps and --ramp-up-end-rps need --ramp-up-strategy.")
        return
    if any(rate is None or rate <= 0 for rate in ramp):
        raise ConfigError("--ramp-up-strategy needs --ramp-up-start-rps and --ramp-up-end-rps, both above 0.")
    if math.isfinite(options.request_rate):
        raise ConfigError("Give either --request-rate or --ramp-up-strategy, not both.")


def arrival_times(options: ServeOptions, num_calls: int) -> np.ndarray:
    """(num_calls,) planned times in seconds since the start, the first at 0."""
    rates = _rates(options, num_calls)
    if rates is None:
        return np.zeros(num_calls)
    # Gaps are gamma distributed with mean 1/rate; shape 1 is the exponential distribution of a Poisson process.
    rng = np.random.default_rng([options.seed, 1])
    gaps = rng.gamma(options.burstiness, 1.0 / (rates * options.burstiness))
    return np.concatenate([[0.0], np.cumsum(gaps[:-1])])


def rate_changes(options: ServeOptions, num_calls: int) -> list[tuple[int, float]]:
    """The changes of rate in a ramp: whole numbers of calls a second, and the planned time of each."""
    rates = _rates(options, num_calls)
    if options.ramp_up_strategy is None or rates is None or not num_calls:
        return []
    changes = [(int(rates[0]), 0.0)]
    for rate, time_s in zip(rates.astype(int), arrival_times(options, num_calls), strict=True):
        changes += [(whole, float(time_s)) for whole in range(changes[-1][0] + 1, int(rate) + 1)]
    return changes


def _rates(options: ServeOptions, num_calls: int) -> np.ndarray | None:
    if options.ramp_up_strategy is None:
        return None if math.isinf(options.request_rate) else np.full(num_calls, options.request_rate)
    start, end = float(options.ramp_up_start_rps or 0), float(options.ramp_up_end_rps or 0)
    progress = np.linspace(0.0, 1.0, num_calls)
    if options.ramp_up_strategy == "linear":
        return start + (end - start) * progress
    return start * (end / start) ** progress
