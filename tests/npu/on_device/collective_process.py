"""One of two ranks: ``python collective_process.py STORE_FILE RANK``. Every collective that tensor parallelism uses."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
import torch_npu


def main(store: str, rank: int) -> None:
    torch_npu.npu.set_device(rank)
    dist.init_process_group("hccl", init_method=f"file://{store}", rank=rank, world_size=2)
    x = torch.full((3,), rank + 1.0, device="npu")
    assert x.device == torch.device("npu", rank)

    dist.all_reduce(x)
    assert torch.equal(x.cpu(), torch.full((3,), 3.0))

    parts = [torch.empty(2, device="npu") for _ in range(2)]
    dist.all_gather(parts, torch.full((2,), float(rank), device="npu"))
    assert [part.cpu().tolist() for part in parts] == [[0.0, 0.0], [1.0, 1.0]]

    told = torch.full((1,), 7.0 if rank == 0 else 0.0, device="npu")
    dist.broadcast(told, 0)
    assert told.cpu().item() == 7.0

    dist.barrier()
    dist.destroy_process_group()
    print("ok")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
