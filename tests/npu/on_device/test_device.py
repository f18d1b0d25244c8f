"""The simulated device is strict: what a real one refuses, hangs on or silently gets wrong, fails here."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch_npu

pytestmark = pytest.mark.usefixtures("simulator")  # they are about the simulator itself


def test_tensors_do_not_mix_with_the_host() -> None:
    x, y = torch.ones(3), torch.ones(3).to("npu")
    with pytest.raises(RuntimeError, match="same device"):
        y + x
    with pytest.raises(RuntimeError, match="same device"):
        torch.nn.functional.linear(torch.ones(2, 3).to("npu"), torch.ones(4, 3))
    with pytest.raises(RuntimeError, match="same device"):
        y.index_select(0, torch.tensor([1]))
    assert torch.equal((y + torch.tensor(1.0)).cpu(), x + 1)  # a number is a number


def test_factories_views_and_writes_through_views() -> None:
    base = torch.zeros(4, 3, device="npu")
    base[1:3].copy_(torch.ones(2, 3))
    base.t()[0].add_(1)
    expected = torch.zeros(4, 3)
    expected[1:3] = 1
    expected[:, 0] += 1
    assert torch.equal(base.cpu(), expected)
    assert torch.equal(torch.arange(2, 8, 2, device="npu").cpu(), torch.arange(2, 8, 2))
    with torch.inference_mode():
        assert torch.equal(base[1:].flatten(1).cpu(), expected[1:])


def test_host_functions_do_not_see_device_memory() -> None:
    x = torch.ones(2, device="npu")
    for read in (x.numpy, x.tolist):
        with pytest.raises((RuntimeError, TypeError)):
            read()
    assert "npu" in repr(x)


def test_no_double_and_no_bfloat16_on_310p(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="double"):
        torch.ones(2, dtype=torch.float64).to("npu")
    monkeypatch.setattr(torch_npu.simulator, "soc", "Ascend310P3")
    with pytest.raises(RuntimeError, match="bfloat16"):
        torch.ones(2, dtype=torch.bfloat16).to("npu")


def test_operators_want_device_tensors() -> None:
    with pytest.raises(RuntimeError, match="CPU"):
        torch_npu.npu_rms_norm(torch.ones(2, 4), torch.ones(4))
    with pytest.raises(AttributeError, match="npu_no_such_operator"):
        torch_npu.npu_no_such_operator(torch.ones(2))


def test_a_fetch_without_blocking_is_nonsense_until_the_host_waits() -> None:
    x = torch.ones(3, device="npu")
    early = x.to("cpu", non_blocking=True)
    event = torch_npu.npu.Event()
    event.record()
    assert early.isnan().all()
    assert not event.query()
    event.synchronize()
    assert torch.equal(early, torch.ones(3))


def test_an_event_does_not_wait_for_later_work() -> None:
    x = torch.ones(3, device="npu")
    event = torch_npu.npu.Event()
    event.record()
    late = x.to("cpu", non_blocking=True)
    event.synchronize()
    assert late.isnan().all()
    torch_npu.npu.current_stream().synchronize()
    assert torch.equal(late, torch.ones(3))


def test_a_pinned_buffer_in_flight_must_not_change() -> None:
    buffer = torch.ones(3).pin_memory()
    assert buffer.is_pinned()
    target = torch.empty(3, device="npu")
    target.copy_(buffer, non_blocking=True)
    buffer.zero_()
    with pytest.raises(RuntimeError, match="pinned buffer"):
        torch_npu.npu.synchronize()
    buffer.fill_(2)
    target.copy_(buffer, non_blocking=True)
    torch_npu.npu.synchronize()
    buffer.zero_()
    assert torch.equal(target.cpu(), torch.full((3,), 2.0))


def test_a_copy_up_that_blocks_waits_for_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    target, early = torch.zeros(3, device="npu"), torch.ones(2, device="npu").to("cpu", non_blocking=True)
    before = torch_npu.simulator.num_waits
    target.copy_(torch.ones(3).pin_memory(), non_blocking=True)
    assert torch_npu.simulator.num_waits == before
    assert early.isnan().all()
    target.copy_(torch.ones(3))
    assert torch_npu.simulator.num_waits == before + 1
    assert torch.equal(early, torch.ones(2))  # all that came before was waited for


def test_memory_of_other_processes_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()
    free, total = torch_npu.npu.mem_get_info()
    monkeypatch.setattr(torch_npu.simulator, "occupied_bytes", free - 100)
    assert torch_npu.npu.mem_get_info() == (100, total)
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(26, device="npu")


def test_a_busy_device_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_npu.simulator, "busy", "507033")
    with pytest.raises(RuntimeError, match="507033"):
        torch_npu.npu.set_device(0)


def test_cann_says_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch_npu.npu.utils import get_cann_version

    assert get_cann_version() == "9.1.0"
    monkeypatch.setattr(torch_npu.simulator, "cann_version", "unknown")
    assert get_cann_version() == ""


def test_memory_is_counted_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()
    before = torch_npu.npu.memory_allocated()
    x = torch.empty(1000, device="npu")
    view = x[10:]
    assert torch_npu.npu.memory_allocated() == before + 4000
    del x
    gc.collect()
    assert torch_npu.npu.memory_allocated() == before + 4000  # a view keeps the storage
    del view
    gc.collect()
    assert torch_npu.npu.memory_allocated() == before
    monkeypatch.setattr(torch_npu.simulator, "memory_bytes", before + 100)
    with pytest.raises(torch.OutOfMemoryError, match="NPU out of memory"):
        torch.empty(26, device="npu")
    assert torch_npu.npu.mem_get_info() == (100, before + 100)


def test_internal_formats() -> None:
    weight = torch.randn(8, 4, device="npu")
    tiled = torch_npu.npu_format_cast(weight, 29)
    assert (torch_npu.get_npu_format(weight), torch_npu.get_npu_format(tiled)) == (2, 29)
    x = torch.randn(3, 4, device="npu")
    assert torch.equal(torch.nn.functional.linear(x, tiled).cpu(), torch.nn.functional.linear(x, weight).cpu())
    with pytest.raises(RuntimeError, match="internal format"):
        tiled + 1
    with pytest.raises(RuntimeError, match="ND"):
        tiled.cpu()
    assert torch.equal(torch_npu.npu_format_cast(tiled, 2).cpu(), weight.cpu())


def test_devices_are_counted_as_made_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "2,3")
    assert torch_npu.npu.device_count() == 2
    torch_npu.npu.set_device(1)
    assert torch.ones(1, device="npu").device == torch.device("npu", 1)
    with pytest.raises(RuntimeError, match="Invalid device"):
        torch_npu.npu.set_device(2)


def test_a_stream_does_not_wait_for_an_event_that_nobody_records() -> None:
    with pytest.raises(RuntimeError, match="never recorded"):
        torch_npu.npu.current_stream().wait_event(torch_npu.npu.Event())


class TestGraph:
    def capture(self, x: torch.Tensor, **options: bool) -> tuple[torch_npu.npu.NPUGraph, torch.Tensor]:
        graph = torch_npu.npu.NPUGraph()
        with torch_npu.npu.graph(graph, **options):
            y = x * 2 + 1
        return graph, y

    def test_replay_reads_the_memory_of_the_capture(self) -> None:
        x = torch.ones(3, device="npu")
        graph, y = self.capture(x)
        assert y.cpu().isnan().all()  # nothing was computed yet
        x.fill_(5)
        graph.replay()
        assert torch.equal(y.cpu(), torch.full((3,), 11.0))

    def test_the_host_cannot_wait_or_copy_during_capture(self) -> None:
        x = torch.ones(3, device="npu")
        for forbidden in (x.sum().item, x.cpu, torch_npu.npu.synchronize, lambda: x.copy_(torch.ones(3))):
            graph = torch_npu.npu.NPUGraph()
            with pytest.raises(RuntimeError, match="captur"), torch_npu.npu.graph(graph):
                forbidden()

    def test_update_needs_dispatch_capture(self) -> None:
        graph, _ = self.capture(torch.ones(3, device="npu"))
        with pytest.raises(RuntimeError, match="auto_dispatch_capture"):
            graph.update(cpu_update_input=[{}])

    def test_replay_before_capture(self) -> None:
        with pytest.raises(RuntimeError, match="never captured"):
            torch_npu.npu.NPUGraph().replay()

    def test_a_capture_that_fails_at_its_end_leaves_its_stream_and_its_mode(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch_npu.simulator, "capture_error", "capture_end failed, error code is 107025")
        x = torch.ones(3, device="npu")
        before, graph = torch_npu.npu.current_stream(), torch_npu.npu.NPUGraph()
        with (
            pytest.raises(RuntimeError, match="107025"),
            torch_npu.npu.graph(graph, auto_dispatch_capture=True),
        ):
            x.add_(1)
        assert torch_npu.npu.current_stream() is not before
        attention = TestAttentionInGraphs()
        half, mask = torch.randn(6, 1, 128, device="npu").half(), torch.ones(2048, 2048).triu(1).bool().to("npu")
        with pytest.raises(RuntimeError, match="waits for ever"):
            attention.attend(half, mask, [3, 6])
        torch_npu.npu.set_stream(before)
        graph.graph_dispatch_mode.__exit__(None, None, None)
        attention.attend(half, mask, [3, 6])

    def test_a_replay_that_is_told_to_fail(self, monkeypatch: pytest.MonkeyPatch) -> None:
        graph, _ = self.capture(torch.ones(3, device="npu"))
        monkeypatch.setattr(torch_npu.simulator, "replay_error", "error code is 107003")
        with pytest.raises(RuntimeError, match="107003"):
            graph.replay()


def test_after_a_fault_nothing_works_any_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "fault"
    file.write_text("507015")
    monkeypatch.setenv("NPU_SIMULATOR_FAULT_FILE", str(file))
    x = torch.ones(3, device="npu")
    for use in (torch_npu.npu.synchronize, x.cpu, lambda: x + 1, lambda: torch.ones(3, device="npu") + 1):
        with pytest.raises(RuntimeError, match="error code is 507015"):
            use()
    assert not file.exists()  # it happens once; the next process has a working device
    torch_npu.simulator.lost = None


class TestAttentionInGraphs:
    LENGTHS = ("actual_seq_lengths", "actual_seq_lengths_kv")

    @pytest.fixture
    def captured(self) -> tuple[torch_npu.npu.NPUGraph, torch.Tensor, torch.Tensor]:
        x = torch.randn(6, 1, 128, device="npu").half()
        mask = torch.ones(2048, 2048, dtype=torch.bool).triu(1).to("npu")
        graph = torch_npu.npu.NPUGraph()
        with torch_npu.npu.graph(graph, auto_dispatch_capture=True):
            out = self.attend(x, mask, [3, 6])
        return graph, x, out

    def attend(self, x: torch.Tensor, mask: torch.Tensor, ends: list[int]) -> torch.Tensor:
        return torch_npu.npu_fused_infer_attention_score(
            x, x, x, atten_mask=mask, actual_seq_lengths=ends, actual_seq_lengths_kv=ends,
            num_heads=1, num_key_value_heads=1, scale=0.1, input_layout="TND", sparse_mode=3,
        )[0]  # fmt: skip

    def test_update_changes_the_lengths(self, captured: tuple) -> None:
        graph, x, out = captured
        graph.update(cpu_update_input=[{key: [1, 6] for key in self.LENGTHS}])
        graph.replay()
        mask = torch.ones(2048, 2048, dtype=torch.bool).triu(1).to("npu")
        assert torch.equal(out.cpu(), self.attend(x, mask, [1, 6]).cpu())

    def test_the_update_may_come_behind_the_replay(self, captured: tuple) -> None:
        """The device starts on what comes before the attention meanwhile; the values are those of the new lengths."""
        graph, x, out = captured
        graph.replay()
        graph.update(cpu_update_input=[{key: [1, 6] for key in self.LENGTHS}])
        mask = torch.ones(2048, 2048, dtype=torch.bool).triu(1).to("npu")
        assert torch.equal(out.cpu(), self.attend(x, mask, [1, 6]).cpu())

    def test_whoever_waits_for_a_replay_without_its_update_waits_for_ever(self, captured: tuple) -> None:
        graph, x, out = captured
        graph.replay()
        for wait in (torch_npu.npu.synchronize, out.cpu, lambda: x.copy_(torch.zeros(6, 1, 128).half())):
            with pytest.raises(RuntimeError, match="waits for ever"):
                wait()
        with pytest.raises(RuntimeError, match="update first"):
            x + 1
        graph.update(cpu_update_input=[{key: [1, 6] for key in self.LENGTHS}])
        torch_npu.npu.synchronize()

    def test_each_replay_needs_an_update_of_its_own(self, captured: tuple) -> None:
        graph = captured[0]
        graph.update(cpu_update_input=[{key: [1, 6] for key in self.LENGTHS}])
        graph.replay()
        torch_npu.npu.synchronize()
        graph.replay()
        with pytest.raises(RuntimeError, match="waits for ever"):
            torch_npu.npu.synchronize()

    def test_an_update_waits_for_the_replay_before(self, captured: tuple) -> None:
        graph = captured[0]
        update = [{key: [2, 6] for key in self.LENGTHS}]
        graph.update(cpu_update_input=update)
        graph.replay()
        with pytest.raises(RuntimeError, match="synchronise first"):
            graph.update(cpu_update_input=update)
        torch_npu.npu.current_stream().synchronize()
        graph.update(cpu_update_input=update)

    def test_wrong_updates(self, captured: tuple) -> None:
        graph = captured[0]
        with pytest.raises(RuntimeError, match="2 inputs"):
            graph.update(cpu_update_input=[{}, {}])
        with pytest.raises(RuntimeError, match="ignore"):
            graph.update(cpu_update_input=[{"actual_seq_qlen": [6]}])

    def test_lengths_must_still_end_at_the_tensor(self, captured: tuple) -> None:
        graph = captured[0]
        graph.update(cpu_update_input=[{key: [2, 5] for key in self.LENGTHS}])
        with pytest.raises(RuntimeError, match="last cumulative length"):
            graph.replay()


def test_the_current_device_is_a_fact_of_a_thread() -> None:
    torch_npu.npu.set_device(3)
    with ThreadPoolExecutor(1) as other:
        assert other.submit(torch_npu.npu.current_device).result() == 0
    assert torch_npu.npu.current_device() == 3


def test_another_thread_may_wait_during_a_capture_only_if_that_was_said() -> None:
    with ThreadPoolExecutor(1) as other:
        with torch_npu.npu.graph(torch_npu.npu.NPUGraph(), capture_error_mode="thread_local"):
            other.submit(torch_npu.npu.synchronize).result()
        with (
            pytest.raises(RuntimeError, match="during graph capture"),
            torch_npu.npu.graph(torch_npu.npu.NPUGraph()),
        ):
            other.submit(torch_npu.npu.synchronize).result()
