"""Each documented constraint of each operator: the call in order passes, the same call with one thing wrong fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch_npu

pytestmark = pytest.mark.usefixtures("simulator")  # they are about the simulator itself

HALF = torch.float16


@dataclass
class Call:
    """A correct call of ``name``: positional and keyword arguments, made anew each time."""

    name: str
    args: Callable[[], list[Any]]
    kwargs: Callable[[], dict[str, Any]] = field(default=dict)

    def run(self, change: Callable[[list[Any], dict[str, Any]], None] | None = None) -> Any:
        args, kwargs = self.args(), self.kwargs()
        if change is not None:
            change(args, kwargs)
        return getattr(torch_npu, self.name)(*args, **kwargs)


def rand(*shape: int, dtype: torch.dtype = HALF) -> torch.Tensor:
    return torch.randn(*shape).to(dtype).to("npu")


def int8(*shape: int) -> torch.Tensor:
    return torch.randint(-9, 9, shape, dtype=torch.int8).to("npu")


def triangle(size: int = 2048, dtype: torch.dtype = torch.bool) -> torch.Tensor:
    return torch.ones(size, size, dtype=dtype).triu(1).to("npu")


FIA = Call(
    "npu_fused_infer_attention_score",
    lambda: [rand(6, 4, 128), rand(9, 2, 128), rand(9, 2, 128)],
    lambda: {
        "atten_mask": triangle(), "actual_seq_lengths": [2, 6], "actual_seq_lengths_kv": [4, 9], "num_heads": 4,
        "num_key_value_heads": 2, "scale": 0.1, "input_layout": "TND", "sparse_mode": 3,
    },
)  # fmt: skip


def table(*rows: list[int], dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.tensor(rows, dtype=dtype).to("npu")


PAGED = Call(  # 2 of 130 keys and 4 of 200; the first block is shared
    "npu_fused_infer_attention_score",
    lambda: [rand(6, 4, 128), rand(5, 128, 256), rand(5, 128, 256)],
    lambda: {
        "atten_mask": triangle(), "actual_seq_lengths": [2, 6], "actual_seq_lengths_kv": [130, 200], "num_heads": 4,
        "num_key_value_heads": 2, "scale": 0.1, "input_layout": "TND", "sparse_mode": 3, "block_size": 128,
        "block_table": table([3, 1], [3, 0]),
    },
)  # fmt: skip
FUSION = Call(
    "npu_fusion_attention",
    lambda: [rand(6, 4, 48), rand(9, 2, 48), rand(9, 2, 48)],
    lambda: {
        "head_num": 4, "input_layout": "TND", "atten_mask": triangle(), "scale": 0.1, "actual_seq_qlen": [2, 6],
        "actual_seq_kvlen": [4, 9], "sparse_mode": 3,
    },
)  # fmt: skip
PROMPT = Call(
    "npu_prompt_flash_attention",
    lambda: [rand(2, 4, 16, 32) for _ in "qkv"],
    lambda: {
        "atten_mask": torch.zeros(2, 1, 16, 16, dtype=torch.bool).to("npu"), "num_heads": 4, "scale_value": 0.1,
        "next_tokens": 2147483647, "input_layout": "BNSD",
    },
)  # fmt: skip
NORM = Call("npu_rms_norm", lambda: [rand(3, 8), rand(8)])
ADD_NORM = Call("npu_add_rms_norm", lambda: [rand(3, 8), rand(3, 8), rand(8)])
ADD_NORM_QUANT = Call("npu_add_rms_norm_dynamic_quant", lambda: [rand(3, 8), rand(3, 8), rand(8)])
ROPE = Call(
    "npu_apply_rotary_pos_emb",
    lambda: [rand(1, 5, 4, 64), rand(1, 5, 2, 64), rand(1, 5, 1, 64), rand(1, 5, 1, 64)],
    lambda: {"layout": "BSND", "rotary_mode": "half"},
)
ROPE_TND = Call(
    "npu_apply_rotary_pos_emb",
    lambda: [rand(5, 4, 64), rand(5, 2, 64), rand(5, 1, 64), rand(5, 1, 64)],
    lambda: {"layout": "TND", "rotary_mode": "half"},
)
ROTARY_MUL = Call("npu_rotary_mul", lambda: [rand(1, 5, 4, 48), rand(1, 5, 1, 48), rand(1, 5, 1, 48)])
SWIGLU = Call("npu_swiglu", lambda: [rand(3, 8)])
GELU = Call("npu_gelu", lambda: [rand(3, 8)], lambda: {"approximate": "none"})
QUANT = Call("npu_dynamic_quant", lambda: [rand(3, 8)])
SWIGLU_QUANT = Call("npu_swiglu_quant", lambda: [rand(3, 8)], lambda: {"activate_left": True, "quant_mode": 1})
MATMUL = Call(
    "npu_quant_matmul",
    lambda: [int8(3, 8), int8(8, 4), torch.ones(4).to("npu")],
    lambda: {"pertoken_scale": torch.ones(3).to("npu"), "output_dtype": torch.float16},
)
INT4 = Call(
    "npu_weight_quant_batchmatmul",
    lambda: [rand(3, 64), torch.zeros(64, 2, dtype=torch.int32).to("npu"), rand(2, 16)],
    lambda: {"antiquant_group_size": 32},
)
CAST = Call("npu_format_cast", lambda: [int8(8, 4), 29])
CALLS = [v for v in list(globals().values()) if isinstance(v, Call)]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_the_call_in_order_passes(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    if call is PROMPT:
        monkeypatch.setattr(torch_npu.simulator, "soc", "Ascend310P3")
    call.run()


def arg(index: int, value: Callable[[], Any]) -> Callable[[list[Any], dict[str, Any]], None]:
    return lambda args, _: args.__setitem__(index, value())


def kw(**changes: Any) -> Callable[[list[Any], dict[str, Any]], None]:
    """A callable makes the value; None removes the argument."""

    def change(_: list[Any], kwargs: dict[str, Any]) -> None:
        for name, value in changes.items():
            if value is None:
                kwargs.pop(name)
            else:
                kwargs[name] = value() if callable(value) else value

    return change


def qkv(make: Callable[[], list[Any]], **changes: Any) -> Callable[[list[Any], dict[str, Any]], None]:
    def change(args: list[Any], kwargs: dict[str, Any]) -> None:
        args[:3] = make()
        kw(**changes)(args, kwargs)

    return change


def heads(
    q_shape: tuple[int, int, int], kv_shape: tuple[int, int, int], dtype: torch.dtype = HALF, **changes: Any
) -> Any:
    """Query of the first shape, key and value of the second."""
    return qkv(lambda: [rand(*q_shape, dtype=dtype), *(rand(*kv_shape, dtype=dtype) for _ in range(2))], **changes)


def many(count: int, head_dim: int, names: tuple[str, str], **changes: Any) -> Any:
    """``count`` sequences of one token."""
    lengths: dict[str, Any] = {name: (lambda: list(range(1, count + 1))) for name in names}
    return heads((count, 1, head_dim), (count, 1, head_dim), **lengths, **changes)


def all_args(make: Callable[[], list[Any]]) -> Any:
    """The first arguments, as many as are made."""

    def change(args: list[Any], _: dict[str, Any]) -> None:
        made = make()
        args[: len(made)] = made

    return change


def mask(make: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    return kw(atten_mask=lambda: make(torch.ones(2048, 2048, dtype=torch.bool)).to("npu"))


FIA_LENGTHS = ("actual_seq_lengths", "actual_seq_lengths_kv")
FUSION_LENGTHS = ("actual_seq_qlen", "actual_seq_kvlen")
LONG = heads(
    (1, 2, 16),
    ((1 << 20) + 1, 1, 16),
    num_heads=2,
    num_key_value_heads=1,
    actual_seq_lengths=[1],
    actual_seq_lengths_kv=[(1 << 20) + 1],
)
BROKEN: list[tuple[str, Call, Callable[[list[Any], dict[str, Any]], None], str]] = [
    # attention of inference
    ("not contiguous", FIA, arg(0, lambda: rand(4, 6, 128).transpose(0, 1)), "non-contiguous"),
    ("mixed dtypes", FIA, arg(1, lambda: rand(9, 2, 128, dtype=torch.bfloat16)), "dtypes"),
    ("float32", FIA, heads((6, 4, 128), (9, 2, 128), torch.float32), "dtypes"),
    ("head size", FIA, heads((6, 4, 264), (9, 2, 264)), "multiples of 16"),
    ("head too large", FIA, heads((6, 4, 272), (9, 2, 272)), "limited to 256"),
    ("head size without groups", FIA, heads((6, 2, 64), (9, 2, 64), num_heads=2), "D = 128"),
    ("fewer keys than queries", FIA, kw(actual_seq_lengths_kv=[1, 9]), r"Batch\[0\], need s1\[2\] <= s2\[1\]"),
    ("no layout", FIA, kw(input_layout=None), "TND"),
    ("num_heads missing", FIA, kw(num_heads=None), "num_heads"),
    ("num_key_value_heads missing", FIA, kw(num_key_value_heads=None), "num_key_value_heads"),
    ("heads do not divide", FIA, heads((6, 4, 128), (9, 3, 128), num_key_value_heads=3), "heads"),
    ("too many share", FIA, heads((6, 65, 128), (9, 1, 128), num_heads=65, num_key_value_heads=1), "64"),
    ("leading zero", FIA, kw(actual_seq_lengths=[0, 2, 6], actual_seq_lengths_kv=[0, 4, 9]), "leading zero"),
    ("plain lengths", FIA, kw(actual_seq_lengths=[2, 4]), "last cumulative"),
    ("falling lengths", FIA, kw(actual_seq_lengths_kv=[11, 9]), "decrease"),
    ("lengths not to T", FIA, kw(actual_seq_lengths_kv=[4, 8]), "last cumulative"),
    ("lengths missing", FIA, kw(actual_seq_lengths=None), "cumulative lengths"),
    ("lengths of two counts", FIA, kw(actual_seq_lengths=[6]), "one query length"),
    ("too many sequences", FIA, many(4097, 128, FIA_LENGTHS, num_heads=1, num_key_value_heads=1), "4096"),
    ("too many tokens", FIA, LONG, "1M"),
    ("mask missing", FIA, kw(atten_mask=None), "atten_mask"),
    ("mask too small", FIA, kw(atten_mask=lambda: triangle(6)), "2048"),
    ("mask inverted", FIA, mask(torch.tril), "above the diagonal"),
    ("mask hides the diagonal", FIA, mask(torch.triu), "above the diagonal"),
    ("mask in float", FIA, kw(atten_mask=lambda: triangle(dtype=torch.float16)), "mask dtype"),
    ("table in int64", PAGED, kw(block_table=lambda: table([3, 1], [3, 0], dtype=torch.int64)), "int32"),
    ("table is a view", PAGED, kw(block_table=lambda: table([3, 3], [1, 0]).t()), "non-contiguous block_table"),
    ("table in one line", PAGED, kw(block_table=lambda: table([3, 1])[0]), "2 dimensions"),
    ("table too narrow", PAGED, kw(block_table=lambda: table([3], [3])), r"should be \[2, >=2\]"),
    ("table of other sequences", PAGED, kw(block_table=lambda: table([3, 1], [3, 0], [2, 0])), r"should be \[2"),
    ("table names no block", PAGED, kw(block_table=lambda: table([5, 1], [3, 0])), "does not exist"),
    ("blocks of 64", PAGED, kw(block_size=64), "block_size 64"),
    ("block size missing", PAGED, kw(block_size=None), "block_size 0"),
    ("blocks of another size", PAGED, kw(block_size=256), "in blocks"),
    ("fewer blocks than unshared", PAGED, all_args(lambda: [rand(6, 4, 128), *(rand(3, 128, 256) for _ in "kv")]),
     r"first dim of key\(3\) should not less than valid block num\(4\)"),
    ("cumulative key lengths", PAGED, kw(actual_seq_lengths_kv=[130, 330]), "block table shape"),
    ("key lengths missing", PAGED, kw(actual_seq_lengths_kv=None), "can't be null"),
    ("fewer keys than queries", PAGED, kw(actual_seq_lengths_kv=[130, 3]), "need s1"),
    ("heads by pages", PAGED, kw(num_key_value_heads=4), "num_key_value_heads"),
    ("wide rows", PAGED, qkv(lambda: [rand(6, 512, 128), *(rand(5, 128, 65536) for _ in "kv")], num_heads=512,
     num_key_value_heads=512), "65535"),
    ("unknown keyword", FIA, kw(softmax_scale=0.1), "softmax_scale"),
    # attention of training
    ("not contiguous", FUSION, arg(1, lambda: rand(2, 9, 48).transpose(0, 1)), "non-contiguous"),
    ("head_num", FUSION, kw(head_num=2), "head_num"),
    ("head too large", FUSION, heads((6, 4, 776), (9, 2, 776)), "768"),
    ("too many sequences", FUSION, many(1025, 16, FUSION_LENGTHS, head_num=1), "1024"),
    ("leading zero", FUSION, kw(actual_seq_qlen=[0, 2, 6], actual_seq_kvlen=[0, 4, 9]), "leading zero"),
    ("lengths in a tensor", FUSION, kw(actual_seq_qlen=lambda: torch.tensor([2, 6])), "actual_seq_qlen"),
    ("lengths not to T", FUSION, kw(actual_seq_qlen=[2, 5]), "last cumulative"),
    ("causal without mask", FUSION, kw(atten_mask=None), "mask"),
    ("mask in int8", FUSION, kw(atten_mask=lambda: triangle(dtype=torch.int8)), "mask dtype"),
    ("the other operator's keyword", FUSION, kw(actual_seq_lengths=[2, 6]), "actual_seq_lengths"),
    # norms and rotation
    ("gamma dtype", NORM, arg(1, lambda: rand(8, dtype=torch.float32)), "gamma"),
    ("gamma size", NORM, arg(1, lambda: rand(4)), "gamma"),
    ("one dimension", NORM, arg(0, lambda: rand(8)), "2 to 8"),
    ("shapes differ", ADD_NORM, arg(1, lambda: rand(1, 8)), "agree"),
    ("dtypes differ", ADD_NORM, arg(1, lambda: rand(3, 8, dtype=torch.bfloat16)), "agree"),
    ("empty", ADD_NORM, all_args(lambda: [rand(0, 8), rand(0, 8)]), "empty"),
    ("float32", ADD_NORM_QUANT, all_args(lambda: [a.float() for a in ADD_NORM.args()]), "float16"),
    ("head size", ROPE, all_args(lambda: [rand(1, 5, n, 48) for n in (4, 2, 1, 1)]), "64 or 128"),
    ("cos of other dtype", ROPE, arg(2, lambda: rand(1, 5, 1, 64, dtype=torch.float32)), "dtype"),
    ("no keys", ROPE, arg(1, lambda: rand(1, 5, 0, 64)), "empty"),
    ("cos for other tokens", ROPE, arg(2, lambda: rand(1, 4, 1, 64)), "first axes"),
    ("cos a head", ROPE, arg(2, lambda: rand(1, 5, 4, 64)), "one head"),
    ("a view", ROPE, arg(0, lambda: rand(1, 5, 9, 64)[:, :, :4]), "contiguous"),
    ("another layout", ROPE, kw(layout="SBND"), "SBND is not for this product"),
    ("four dimensions", ROPE_TND, arg(0, lambda: rand(1, 5, 4, 64)), "3 dimensions"),
    ("the default layout", ROPE_TND, kw(layout=None), "4 dimensions"),
    ("more heads than the buffer holds", ROPE,
     all_args(lambda: [rand(1, 2, n, 128, dtype=torch.bfloat16) for n in (69, 8, 1, 1)]), "oneLoop is too large"),
    ("three dimensions", ROTARY_MUL, arg(0, lambda: rand(5, 4, 48)), "4 dimensions"),
    ("a thousand heads", ROTARY_MUL, arg(0, lambda: rand(1, 5, 1000, 48)), "1000"),
    ("head too large", ROTARY_MUL, all_args(lambda: [rand(1, 5, n, 896) for n in (4, 1, 1)]), "896"),
    # activations
    ("a view", SWIGLU, arg(0, lambda: rand(3, 16)[:, :8]), "non-contiguous"),
    ("odd", SWIGLU, arg(0, lambda: rand(3, 7)), "even"),
    ("form", GELU, kw(approximate="exact"), "approximate"),
    # int8
    ("float32", QUANT, arg(0, lambda: rand(3, 8, dtype=torch.float32)), "float16"),
    ("one dimension", QUANT, arg(0, lambda: rand(8)), "2 dimensions"),
    ("too wide", SWIGLU_QUANT, arg(0, lambda: rand(3, 8194)), "8192"),
    ("static mode by default", SWIGLU_QUANT, kw(quant_mode=None), "quant_mode"),
    ("not int8", MATMUL, arg(0, lambda: rand(3, 8)), "int8"),
    ("weight as (out, in)", MATMUL, arg(1, lambda: int8(4, 8)), "times"),
    ("a view", MATMUL, arg(0, lambda: int8(3, 16)[:, :8]), "contiguous"),
    ("scale of the tokens", MATMUL, arg(2, lambda: torch.ones(3).to("npu")), "scale must be"),
    ("pertoken_scale in half", MATMUL, kw(pertoken_scale=lambda: rand(3)), "float32"),
    ("scale of the columns", MATMUL, kw(pertoken_scale=lambda: torch.ones(4).to("npu")), "pertoken_scale must be"),
    ("int8 out, the default", MATMUL, kw(output_dtype=None), "out with pertoken_scale"),
    ("float32 out", MATMUL, kw(output_dtype=torch.float32), "output_dtype"),
    ("bias in half", MATMUL, kw(bias=lambda: rand(4)), "bias dtype"),
    ("too wide", MATMUL, all_args(lambda: [int8(3, 65536), int8(65536, 4)]), "65535"),
    ("other groups", INT4, kw(antiquant_group_size=48), "antiquant_group_size"),
    ("one group", INT4, kw(antiquant_group_size=64), "antiquant_group_size"),
    ("scale of the rows", INT4, arg(2, lambda: rand(16, 2)), "antiquant_scale must be"),
    ("scale in fp32", INT4, arg(2, lambda: torch.ones(2, 16).to("npu")), "antiquant_scale is"),
    ("bytes", INT4, arg(1, lambda: int8(64, 16)), "eight to a word"),
    ("a view", CAST, arg(0, lambda: int8(4, 8).t()), "contiguous"),
    ("one dimension", CAST, arg(0, lambda: int8(8)), "2 dimensions"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "change", "message"), [b[1:] for b in BROKEN], ids=[f"{b[1].name}-{b[0]}" for b in BROKEN]
)
def test_breaking_one_constraint_fails(call: Call, change: Callable[..., None], message: str) -> None:
    with pytest.raises((RuntimeError, TypeError), match=message):
        call.run(change)


def padded(num_queries: int, num_keys: int) -> Any:
    """Two sequences in a rectangle with a full mask."""
    return qkv(
        lambda: [rand(2, 4, num_queries, 32), *(rand(2, 4, num_keys, 32) for _ in "kv")],
        atten_mask=lambda: torch.zeros(2, 1, num_queries, num_keys, dtype=torch.bool).to("npu"),
    )


BROKEN_ON_310P: list[tuple[str, Call, Callable[[list[Any], dict[str, Any]], None], str]] = [
    ("packed", FIA, kw(), "A2 and A3"),
    ("packed", FUSION, kw(), "not listed"),
    ("dynamic", QUANT, kw(), "not listed"),
    ("fused", SWIGLU, kw(), "not listed"),
    ("per token", MATMUL, kw(), "pertoken_scale"),
    ("int4", INT4, kw(), "not listed"),
    ("grouped heads", PROMPT, kw(num_key_value_heads=2), "num_key_value_heads"),
    ("lengths", PROMPT, kw(actual_seq_lengths=[3, 3]), "not supported"),
    ("fewer queries than keys", PROMPT, padded(16, 32), "mask must be NULL.*Qs = 16, Kvs = 32"),
    ("a length that is no multiple of 16", PROMPT, padded(24, 24), "mask must be NULL.*Qs = 24"),
    ("too many sequences", PROMPT, qkv(lambda: [rand(129, 1, 1, 32)] * 3, num_heads=1), "128"),
    ("hidden row", PROMPT, kw(atten_mask=lambda: torch.ones(2, 1, 16, 16, dtype=torch.bool).to("npu")), "1 everywhere"),
    ("next_tokens by default", PROMPT, kw(next_tokens=None), "next_tokens"),
    ("compressed mask", PROMPT, kw(atten_mask=triangle), "mask of shape"),
    ("narrow rows", NORM, all_args(lambda: [rand(3, 8), rand(8)]), "32 bytes"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "change", "message"), [b[1:] for b in BROKEN_ON_310P], ids=[f"{b[1].name}-{b[0]}" for b in BROKEN_ON_310P]
)
def test_breaking_one_constraint_of_310p_fails(
    call: Call, change: Callable[..., None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_npu.simulator, "soc", "Ascend310P3")
    with pytest.raises((RuntimeError, TypeError), match=message):
        call.run(change)


BF16 = torch.bfloat16
OLDER: list[tuple[str, str, Call, Callable[[list[Any], dict[str, Any]], None], str | None]] = [
    ("rotation in TND", "8.5.0", ROPE_TND, kw(), "layout is not one"),
    ("rotation of 64", "8.5.0", ROPE, kw(), "last dims is not 128"),
    ("rotation of 128 in BSND", "8.5.0", ROPE, all_args(lambda: [rand(1, 5, n, 128) for n in (4, 2, 1, 1)]), None),
    ("rotation in TND", "9.0.0", ROPE_TND, kw(), None),
    ("float16", "8.5.0", FIA, kw(), "inputDataType should be bf16"),
    ("float16", "9.0.0", FIA, kw(), "inputDataType should be bf16"),
    ("bfloat16", "8.5.0", FIA, heads((6, 4, 128), (9, 2, 128), BF16), None),
    ("heads of 256", "9.0.0", FIA, heads((6, 4, 256), (9, 2, 256), BF16), "D = 64 or 128"),
    ("heads of 256", "9.1.0", FIA, heads((6, 4, 256), (9, 2, 256), BF16), None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("cann", "call", "change", "message"), [o[1:] for o in OLDER], ids=[f"{o[2].name}-{o[0]}-{o[1]}" for o in OLDER]
)
def test_what_each_cann_takes(
    cann: str, call: Call, change: Callable[..., None], message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_npu.simulator, "cann_version", cann)
    if message is None:
        call.run(change)
    else:
        with pytest.raises(RuntimeError, match=message):
            call.run(change)


def test_training_attention_is_not_for_graphs() -> None:
    args, kwargs = FUSION.args(), FUSION.kwargs()
    with pytest.raises(RuntimeError, match="unsupported in graphs"), torch_npu.npu.graph(torch_npu.npu.NPUGraph()):
        torch_npu.npu_fusion_attention(*args, **kwargs)


def test_rotations_that_just_fit_the_buffer_pass() -> None:
    for dtype, heads in ((torch.bfloat16, 75), (torch.float16, 152), (torch.float32, 75)):
        ROPE.run(all_args(lambda h=heads, d=dtype: [rand(1, 2, n, 128, dtype=d) for n in (h - 8, 8, 1, 1)]))
        with pytest.raises(RuntimeError, match="oneLoop"):
            ROPE.run(all_args(lambda h=heads, d=dtype: [rand(1, 2, n, 128, dtype=d) for n in (h - 6, 8, 1, 1)]))


def test_rotation_is_in_place() -> None:
    args = ROPE.args()
    before = args[0].cpu()
    query, key = torch_npu.npu_apply_rotary_pos_emb(*args, **ROPE.kwargs())
    assert query is args[0]
    assert key is args[1]
    assert not torch.equal(args[0].cpu(), before)


def test_outputs_that_mean_nothing_are_poisoned() -> None:
    """Whoever reads them gets NaN, not something that looks right."""
    assert FUSION.run()[1].cpu().isnan().all()
    assert ADD_NORM_QUANT.run()[4].cpu().isnan().all()


def test_formats_need_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_npu.simulator, "allow_internal_format", False)
    with pytest.raises(RuntimeError, match="allow_internal_format"):
        CAST.run()


def test_silu_falls_on_the_second_half_by_default() -> None:
    x = torch.tensor([[1.0, 2.0, -3.0, 4.0]]).half().to("npu")
    results = []
    for left in (False, True):
        values, scale = torch_npu.npu_swiglu_quant(x, activate_left=left, quant_mode=1)
        results.append(values.cpu().float() * scale.cpu())
    first, second = x.cpu().float().chunk(2, -1)
    torch.testing.assert_close(results[0], torch.nn.functional.silu(second) * first, atol=0.05, rtol=0)
    torch.testing.assert_close(results[1], torch.nn.functional.silu(first) * second, atol=0.05, rtol=0)


def test_default_output_of_the_int8_product_is_int8() -> None:
    assert torch_npu.npu_quant_matmul(*MATMUL.args()).dtype == torch.int8
