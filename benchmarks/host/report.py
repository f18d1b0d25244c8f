"""The results as tables for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.host.server import LOADS


def render(result: dict[str, Any]) -> str:
    return "\n".join(_lines(result))


def _lines(result: dict[str, Any]) -> Iterator[str]:
    first, last = result["calibration_ns"]
    yield f"calibration: {first:.1f} and {last:.1f} ns a turn; load average {result['load_average']}"
    for name, found in result.get("core", {}).items():
        stages = ", ".join(f"{stage} {us:.1f}" for stage, us in found["stages_us_a_pair"].items())
        yield f"core, {name}: {found['us_a_pair']:.1f} us a pair ({stages})"
    for name, found in result.get("tokenizer", {}).items():
        if isinstance(found, dict):
            speed = found["mega_tokens_a_second"]
            yield f"tokenizer {name}: {found['us_a_document']:.1f} us a document, {speed:.2f} M tokens a second"
    for name, found in result.get("offline", {}).items():
        yield (
            f"LLM.score, {name}: {found['from_texts_us_a_pair']:.0f} us a pair from texts, "
            f"{found['from_ids_us_a_pair']:.0f} from token ids"
        )
        yield from _where(found["where_from_texts"])
    server = result.get("server", {})
    for load in LOADS:
        for who, found in server.get(load.name, {}).items():
            if isinstance(found, dict):
                parts = ", ".join(f"{role} {ms:.2f}" for role, ms in found["by_process_ms_a_call"].items())
                yield (
                    f"HTTP, {load.name}, {who}: {found['processor_ms_a_call']:.2f} ms a call ({parts}), "
                    f"{found['processor_us_a_document']:.0f} us a document, p50 {found['p50_ms']:.1f} ms"
                )
            else:
                yield f"HTTP, {load.name}: {found:.2f} times the peer"
    for name, tables in server.get("where", {}).items():
        for role, table in tables.items():
            yield f"where {role} spends it, {name}:"
            yield from _where(table)


def _where(table: list[dict[str, Any]]) -> Iterator[str]:
    for row in table[:15]:
        yield f"    {100 * row['share']:5.1f} %  {row['function']}"
