"""The command line: what it accepts, how it refuses, and that it starts without anything heavy."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine import __version__
from engine.config import EngineConfig, ServerConfig
from engine.entrypoints.cli import run
from engine.entrypoints.cli.app import build_app
from engine.platform_check import why_unsupported

FLAGS_FILE = Path(__file__).with_name("serve_flags.txt")


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What ``engine serve`` would have started."""
    seen: dict[str, Any] = {}

    def remember(engine: EngineConfig, server: ServerConfig) -> int:
        seen.update(engine=engine, server=server)
        return 0

    monkeypatch.setattr("engine.entrypoints.serve.server.run_server", remember)
    monkeypatch.setattr("engine.entrypoints.settings.log_setup.set_up_logging", lambda *_: None)
    return seen


def test_the_tutorials_command(served: dict[str, Any]) -> None:
    overrides = {
        "architectures": ["Qwen3ForSequenceClassification"],
        "classifier_from_token": ["no", "yes"],
        "is_original_qwen3_reranker": True,
    }
    command = "serve Qwen/Qwen3-Reranker-8B --host 127.0.0.1 --port 8888 --task score --hf_overrides"
    assert run([*command.split(), json.dumps(overrides)]) == 0
    assert served["engine"].model.model == "Qwen/Qwen3-Reranker-8B"
    assert served["engine"].model.hf_overrides == overrides
    assert (served["server"].host, served["server"].port) == ("127.0.0.1", 8888)


@pytest.mark.parametrize(
    "command",
    [
        "serve --model-path BAAI/bge-reranker-v2-m3 --host 0.0.0.0 --disable-radix-cache --chunked-prefill-size -1 "
        "--attention-backend triton --is-embedding --port 30000",
        "serve --model-path Qwen/Qwen3-Reranker-0.6B --served-model-name Qwen3-Reranker-0.6B --trust-remote-code "
        "--disable-radix-cache --host 0.0.0.0 --port 8001 --chat-template examples/chat_template/qwen3_reranker.jinja",
    ],
)
def test_the_guides_commands(command: str, served: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command.split()) == 0
    assert served["server"].host == "0.0.0.0"
    notices = capsys.readouterr().err.splitlines()
    assert any(line.startswith("engine: --disable-radix-cache is accepted and has no effect: ") for line in notices)
    assert len(notices) == sum(flag in command for flag in ("radix", "chunked", "attention", "embedding", "remote"))


@pytest.mark.parametrize(("command", "code"), [("serve m", 0), ("serve m --port x", 2)])
def test_the_callers_signal_handlers_stay(command: str, code: int, served: dict[str, Any]) -> None:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    assert run(command.split()) == code
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.mark.parametrize("flag", ["-tp", "--tp", "--tp-size", "--tensor-parallel-size", "--tensor_parallel_size"])
def test_spellings_of_tensor_parallel(flag: str, served: dict[str, Any]) -> None:
    assert run(["serve", "m", flag, "2"]) == 0
    assert served["engine"].device.tensor_parallel_size == 2


def test_names_numbers_and_short_forms(served: dict[str, Any]) -> None:
    command = (
        "serve m --max_num_batched_tokens 16k --max-num-seqs 1K --max-model-len -1 -tp 2 --api-key a --api-key b "
        "--served-model-name x y --dtype half --enforce_eager --shutdown-timeout 5 --drain_delay_s 1.5 -O3 "
        "--distributed-executor-backend mp --strict --gpu-memory-utilization 0.5"
    )
    assert run(command.split()) == 0
    engine, server = served["engine"], served["server"]
    assert (engine.scheduler.max_num_batched_tokens, engine.scheduler.max_num_seqs) == (16_000, 1024)
    assert (engine.model.max_model_len, engine.model.dtype) == (None, "float16")
    assert (engine.device.tensor_parallel_size, engine.device.executor) == (2, "mp")
    assert (engine.device.enforce_eager, engine.device.gpu_memory_utilization) == (True, 0.5)
    assert (server.api_key, engine.model.served_model_name) == (("a", "b"), ("x", "y"))
    assert (server.shutdown_timeout_s, server.drain_delay_s, server.strict) == (5.0, 1.5, True)


def test_dotted_overrides(served: dict[str, Any]) -> None:
    command = "serve --hf_overrides.head_dtype model --hf-overrides.id2label.0=yes --hf_overrides.num_labels 1 "
    command += "--hf-overrides.classifier_from_token+ no --hf_overrides.classifier_from_token+=yes"
    assert run([*command.split(), "--hf-overrides", '{"use_sep_token": false}']) == 0
    assert served["engine"].model.hf_overrides == {
        "head_dtype": "model",
        "id2label": {"0": "yes"},
        "num_labels": 1,
        "classifier_from_token": ["no", "yes"],
        "use_sep_token": False,
    }
    assert served["engine"].model.model == ""


def test_flag_beats_environment_beats_file(
    served: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(
        "model: from-file\nport: 1\nmax_documents: 7\nlog-level: debug\nstrict: true\n"
        "served_model_name: [a, b]\nhf_overrides: {num_labels: 1}\n"
    )
    monkeypatch.setenv("ENGINE_PORT", "2")
    monkeypatch.setenv("ENGINE_MAX_DOCUMENTS", "8")
    assert run(["serve", "--config", str(file), "--port", "3"]) == 0
    engine, server = served["engine"], served["server"]
    assert (server.port, server.max_documents, server.log_level, server.strict) == (3, 8, "debug", True)
    assert (engine.model.model, engine.model.served_model_name) == ("from-file", ("a", "b"))
    assert engine.model.hf_overrides == {"num_labels": 1}


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("serve --max-num-sqs 3", "Did you mean --max-num-seqs"),
        ("srve", 'Did you mean "serve"'),
        ("serve m --port seven", "'seven' is not a whole number"),
        ("serve m --port 70000", "0 to 65535"),
        ("serve m --dtype float8", "choose one of auto, float32"),
        ("serve m --device tpu", 'Did you mean "npu"'),
        ("serve m --max-num-batched-tokens 1.5K", "decimal suffix"),
        ("serve m --max-documents 0", "positive"),
        ("serve m --gpu-memory-utilization 1.5", "up to 1"),
        ("serve m --runner generate", "only scores pairs"),
        ("serve m --task embed", "only scores pairs"),
        ("serve m --hf-overrides {", "\n  {\n   ^"),
        ("serve m --hf-overrides [1]", "JSON object"),
        ("serve m --hf-overrides", "needs a value"),
        ("serve m --config nothing.yaml", "No such file"),
        ("serve m --config", "needs a file"),
        ("serve m --log-level loud", "debug, info"),
        ("serve m --host 0.0.0.0", "--api-key"),
        ("serve m --dialect sglan", "Did you mean 'sglang'"),
        ("serve m --api-server-count 0", "positive"),
        ("serve m -asc 65", "at most 64"),
        ("serve m --otlp-traces-endpoint nowhere", "http://collector:4318"),
        ("serve ./nowhere --port 0", "There is no folder ./nowhere"),
        ("serve m n", "engine: serve does not know what to do with 'n'. See engine serve --help."),
    ],
)
def test_refusals(command: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("engine: ")
    assert says in error
    assert "Traceback" not in error


@pytest.mark.parametrize("content", ["- a", "port: [", "prot: 1", "port: {a: 1}"])
def test_bad_files(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "settings.yml"
    file.write_text(content)
    assert run(["serve", "m", "--config", str(file)]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"engine {__version__}"
    assert run(["serve", "--help"]) == 0
    text = capsys.readouterr().out
    for group in ("Model", "Steps and memory", "Device and processes", "HTTP server"):
        assert group in text
    assert "--task" not in text


def test_help_breaks_no_flag_and_speaks_no_python(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert run(["serve", "--help"]) == 0
    text = capsys.readouterr().out
    words = set(text.replace(",", " ").split())
    assert {name for name in serve_flags() if name.startswith("--") and not name.startswith("--empty")} <= words
    assert not {"None", "True", "()"} & words
    assert text.startswith("Usage: engine serve [OPTIONS] [MODEL]\n")
    assert "Without a model, the small reranker" in " ".join(text.split())
    assert all(line == line.rstrip() for line in text.splitlines())


def test_ctrl_c_ends_in_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("engine.entrypoints.cli.loading.load_model", interrupted)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"query": "q", "document": "d"}\n')
    for words, last in (
        (["rerank", "q", str(rows), "--field", "document"], "engine: stopped"),
        (["check", "--query", "q", "--document", "d"], "engine: stopped"),
        (
            ["score", str(rows), "-o", str(tmp_path / "out.jsonl")],
            "engine: stopped; the same command goes on where it stopped",
        ),
    ):
        assert run(words) == 130
        assert capsys.readouterr().err.splitlines()[-1] == last


def test_the_flags_are_frozen() -> None:
    """A changed command line is a decision: change the file too (``python -m tests.entrypoints.test_cli``)."""
    assert serve_flags() == FLAGS_FILE.read_text().split()


def serve_flags() -> list[str]:
    arguments = build_app(["serve"])["serve"].assemble_argument_collection()
    return sorted({name for argument in arguments for name in argument.names})


@pytest.mark.parametrize(
    ("version", "system", "largest_int", "says"),
    [
        ((3, 10), "linux", 2**63 - 1, "needs Python 3.11 or later, and this is Python 3.10"),
        ((3, 12), "win32", 2**63 - 1, "inside WSL 2"),
        ((3, 12), "linux", 2**31 - 1, "needs a 64-bit Python"),
        ((3, 14), "linux", 2**63 - 1, None),
    ],
)
def test_what_cannot_run_it_is_told_in_a_sentence(
    version: tuple[int, int], system: str, largest_int: int, says: str | None
) -> None:
    problem = why_unsupported(version, system, largest_int)
    assert problem is None if says is None else says in (problem or "")


def test_starts_without_heavy_imports() -> None:
    code = (
        "import sys; from engine.entrypoints.cli import run; code = run(['serve', '--help']);"
        "heavy = [m for m in ('torch', 'transformers', 'zmq', 'fastapi', 'uvicorn', 'tokenizers') if m in sys.modules];"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def test_the_server_itself_needs_no_torch() -> None:
    code = "import sys, engine.entrypoints.serve.server; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code], timeout=60).returncode == 0


if __name__ == "__main__":
    FLAGS_FILE.write_text("\n".join(serve_flags()) + "\n")


def test_the_address_of_a_kubernetes_service_is_no_port(
    served: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ENGINE_PORT", "tcp://10.0.0.1:8000")
    monkeypatch.setenv("ENGINE_PORT_8000_TCP", "tcp://10.0.0.1:8000")
    assert run(["serve", "some/model"]) == 0
    assert served["server"].port == ServerConfig().port
    assert "ENGINE_PORT=tcp://10.0.0.1:8000 is the address of a Kubernetes Service" in capsys.readouterr().err


def test_a_wrong_value_names_its_variable(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ENGINE_PORT", "abc")
    assert run(["serve", "some/model"]) == 2
    assert "ENGINE_PORT: port='abc' is not a whole number" in capsys.readouterr().err
    assert run(["serve", "some/model", "--port", "many"]) == 2
    assert "engine: port='many' is not a whole number" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [["serve", "y" * 300], ["rerank", "q", "y" * 300], ["run-batch", "-i", "y" * 300, "-o", "o"]]
)
def test_a_name_that_is_too_long_for_the_disk_is_said(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].endswith("y: File name too long.")
