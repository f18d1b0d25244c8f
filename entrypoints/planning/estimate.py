"""What fits and how fast it should be: pure arithmetic on a ``ModelShape`` and ``DataSheet``.

A step computes each token of its segments once, so the work of a call is ``query + documents * document`` tokens while
it answers ``documents * (query + document)``. A step takes as long as its products and attention at the share of the
device's rate that whole steps reach, plus two all-reduces a layer between the devices of a tensor-parallel group; and
never less than reading the weights takes.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.backends.data_sheet import DataSheet
from engine.config import BYTES_PER_NUMBER, SchedulerConfig
from engine.entrypoints.planning.model_shape import ModelShape
from engine.executor.division import divides
from engine.step_limits import resolve_limits

GIB = 2**30
LIBRARIES = GIB // 2
"""Workspaces and contexts that no allocator of ours sees."""
FLOATS = ("float32", "bfloat16", "float16")
ATTENTION_SHARE = 0.5
"""Of the products' rate that attention over short segments reaches."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One call, as most callers send it. Tokens include template and suffix."""

    query_tokens: int = 90
    document_tokens: int = 190
    documents: int = 100
    block: int = 125
    """Most documents in one prompt of a listwise model."""

    def block_documents(self, max_len: int) -> int:
        """Documents that a listwise model reads in one prompt of at most ``max_len`` tokens."""
        room = (max_len - self.query_tokens) // max(1, self.document_tokens)
        return max(1, min(self.documents, self.block, room))

    def computed_tokens(self, shape: ModelShape, max_len: int) -> int:
        """A model without left context shares nothing; a listwise one reads the query once a block, and a
        late-interaction model computes each text by itself."""
        queries = 1 if shape.causal or shape.reads == "texts" else self.documents
        if shape.reads == "lists":
            queries = -(-self.documents // self.block_documents(max_len))
        return queries * self.query_tokens + self.documents * self.document_tokens

    def mean_keys(self, shape: ModelShape, max_len: int) -> float:
        """The number of keys that a token of a document attends to, on average."""
        if shape.reads == "texts":
            return self.document_tokens
        if not shape.causal:
            return self.query_tokens + self.document_tokens
        documents = self.block_documents(max_len) if shape.reads == "lists" else 1
        return self.query_tokens + documents * self.document_tokens / 2


@dataclass(frozen=True, kw_only=True)
class Option:
    """One way to run the model on the devices."""

    dtype: str
    quantization: str | None
    tensor_parallel_size: int
    data_parallel_size: int
    """0: it does not fit on the devices that are there."""
    weight_bytes: int
    """Bytes of the weights on one device; the next two are of one device as well."""
    kv_bytes: int
    step_bytes: int
    limit_bytes: int
    fits: bool
    largest_model_len: int
    """Longest pair whose keys and values would fit."""
    tokens_per_s: float
    """Computed tokens, all replicas together; the sharing makes logical ones more."""
    pairs_per_s: float
    call_s: float
    """One call alone on one replica."""
    bound: str
    """The resource that a full step waits for: compute, memory or links."""


def options(shape: ModelShape, device: DataSheet, num_devices: int, workload: Workload, max_len: int) -> list[Option]:
    """Each precision of the device on the fewest devices that hold the model: its own dtype, then quantisations."""
    own = device.default_dtype
    choices = [(own, None), *((own, kind) for kind in device.rates if kind not in FLOATS)]
    return [_Setting(shape, device, workload, max_len, dtype, kind).smallest(num_devices) for dtype, kind in choices]


@dataclass(frozen=True, slots=True)
class _Setting:
    """A model in one precision on devices of one kind."""

    shape: ModelShape
    device: DataSheet
    workload: Workload
    max_len: int
    dtype: str
    quantization: str | None

    def smallest(self, num_devices: int) -> Option:
        """Plans for the fewest devices a replica that hold the model; else for as many as it can be divided among."""
        sizes = [size for size in range(1, num_devices + 1) if divides(self.shape.sizes, size)]
        tried = [self.option(num_devices, size) for size in sizes]
        return next((option for option in tried if option.fits), tried[-1])

    def option(self, num_devices: int, group: int) -> Option:
        """Plans for ``group`` devices a replica."""
        shape, device, max_len = self.shape, self.device, self.max_len
        limits = resolve_limits(
            SchedulerConfig(), causal=shape.causal, max_model_len=max_len, default_token_budget=device.token_budget
        )
        budget = limits.token_budget
        weights = self._weight_bytes(group)
        kv_token = shape.kv_bytes(self.dtype) // min(group, shape.sizes.num_kv_heads)
        step = LIBRARIES + budget * shape.activation_bytes(self.dtype)
        limit = int(device.memory_bytes * device.usable_memory)
        room = limit - weights - step
        # The KV cache may be smaller than wanted, but one whole pair has to fit.
        fits = room >= kv_token * max_len
        replicas = num_devices // group if fits else 0
        seconds, bound = self._step_seconds(group, budget, weights)
        computed = self.workload.computed_tokens(shape, max_len)
        call_tokens = min(computed, budget)
        rate = replicas * budget / seconds
        return Option(
            dtype=self.dtype,
            quantization=self.quantization,
            tensor_parallel_size=group,
            data_parallel_size=replicas,
            weight_bytes=weights,
            kv_bytes=min(kv_token * limits.kv_tokens, max(0, room)),
            step_bytes=step,
            limit_bytes=limit,
            fits=fits,
            largest_model_len=max(0, room) // kv_token if kv_token else max_len,
            tokens_per_s=rate,
            pairs_per_s=rate * self.workload.documents / computed,
            call_s=self._step_seconds(group, call_tokens, weights)[0] * computed / call_tokens,
            bound=bound,
        )

    def _weight_bytes(self, group: int) -> int:
        narrow, groups = self.device.keeps_narrow_weights, self.device.keeps_groups
        sizes = [
            share * self.shape.weight_bytes(self.dtype, kind, keeps_narrow=narrow, keeps_groups=groups)
            for kind, share in self._shares()
        ]
        return int(sum(sizes)) // group

    def _shares(self) -> list[tuple[str | None, float]]:
        """The quantisations of the linear layers, each with its share of them."""
        found = self.device.wider_parts.get(self.quantization or "")
        if found is None:
            return [(self.quantization, 1.0)]
        wider, num_layers = found
        share = self.shape.wider_share(num_layers)
        return [(self.quantization, 1.0 - share), (wider, share)]

    def _step_seconds(self, group: int, tokens: int, weights: int) -> tuple[float, str]:
        """How long a step of ``tokens`` takes on a group of devices, and which resource it waits for."""
        shape, device = self.shape, self.device
        seconds_of_one = sum(share / device.rates[kind or self.dtype] for kind, share in self._shares())
        linear_rate = device.step_share * group / seconds_of_one
        attention_rate = device.rates[self.dtype] * device.step_share * ATTENTION_SHARE * group
        keys = self.workload.mean_keys(shape, self.max_len)
        compute = tokens * (shape.token_flop / linear_rate + shape.attention_flop(keys) / attention_rate)
        sent = 2 * (group - 1) / group * shape.sizes.hidden * BYTES_PER_NUMBER[self.dtype]
        links = 2 * shape.sizes.num_layers * tokens * sent / device.link if group > 1 else 0.0
        memory = weights / device.bandwidth
        total = max(compute, memory) + links
        return total, "links" if links > max(compute, memory) else "memory" if memory > compute else "compute"
