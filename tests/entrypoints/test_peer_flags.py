"""Flags of other servers: every entry of the table, in every spelling, and what they become."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from engine.config import EngineConfig, ServerConfig
from engine.entrypoints.cli import run
from engine.entrypoints.cli.app import build_app
from engine.entrypoints.cli.peer_arguments import PeerArguments
from engine.entrypoints.offline.arguments import engine_config
from engine.entrypoints.settings import peer_values
from engine.entrypoints.settings.options import ALIASES, OPTIONS
from engine.entrypoints.settings.peer_flags import PeerFlag, find, peer_flags, reason
from engine.errors import ConfigError

VALUES = {
    "pooler_config": '{"use_activation": false}',
    "template_kwargs": '{"instruction": "judge"}',
    "profiler_config": '{"profiler": "torch", "torch_profiler_dir": "traces"}',
    "lora_paths": "name=folder",
    "otlp_endpoint": "http://collector:4318",
    "tensor_split": "1,1",
}
"""Values that mean something to a converter; all others take a number."""
SWITCHED = {"none": (), "value": ("7",), "json": ("{}",), "list": ("7", "8")}


@pytest.fixture(scope="module")
def known() -> frozenset[str]:
    arguments = build_app(["serve"])["serve"].assemble_argument_collection()
    return frozenset(name for argument in arguments for name in argument.names) | {"--help", "-h", "--version", "-V"}


def words_of(flag: PeerFlag) -> tuple[str, ...]:
    if flag.convert:
        return (VALUES.get(flag.convert, "7"),)
    words = SWITCHED[flag.takes]
    return words if flag.repeats or len(words) < 2 else words[:1]


def translated(known: frozenset[str], *words: str) -> tuple[list[str], list[str], dict[str, str]]:
    """The words in our flags, the lines, and variables; no words and the error where it is refused."""
    told: list[str] = []
    environment: dict[str, str] = {}
    try:
        return PeerArguments(known, told.append, environment).on_command_line(words), told, environment
    except ConfigError as error:
        return [], [str(error)], {}


@pytest.mark.parametrize("server", ["vllm", "sglang", "text-embeddings-router", "infinity_emb", "llama-server"])
def test_no_flag_is_half_read(server: str, known: frozenset[str]) -> None:
    """In every spelling: the model stays the model, what is left are flags of ours, and the outcome is the table's."""
    flags = [flag for flag in peer_flags() if flag.server == server]
    assert len(flags) >= 28
    for flag in flags:
        for name in flag.names:
            if name in known:
                continue
            agreed = {other.here for other in find(name)}
            words = (name, *(flag.allowed[:1] if flag.here == "ignored" and flag.allowed else words_of(flag)))
            negated = name.startswith("--no-") and not flag.flag.startswith("--no-")
            tokens, told, environment = translated(known, "model", *words, "--port", "1")
            if not tokens:
                (error,) = told
                assert "refused" in agreed, (name, error)
                assert flag.meaning in error, name
                assert reason(flag) in error or len(agreed) > 1
                continue
            assert tokens[0] == "model"
            assert tokens[-2:] == ["--port", "1"]
            assert all(
                token.partition("=")[0].partition(".")[0] in known for token in tokens[1:-2:1] if token[0] == "-"
            )
            if flag.here == "same":
                assert tokens[1] == flag.flag
                assert tuple(tokens[2:-2]) == words[1:]
            elif flag.here == "refused":
                assert negated or len(agreed) > 1, name
            elif flag.here == "maps" and not negated:
                assert tokens[1:-2] or environment or told, name
            elif flag.here == "ignored":
                assert told or flag.allowed or len(agreed) > 1, name


def test_every_target_is_an_option(known: frozenset[str]) -> None:
    for flag in peer_flags():
        target = flag.to.partition("=")[0].partition(".")[0]
        if target and not target.startswith("env:"):
            assert ALIASES.get(target, target) in OPTIONS, flag
        assert not flag.convert or flag.convert in peer_values.CONVERTERS
        assert bool(flag.why) == (flag.here in ("ignored", "refused"))
        assert bool(flag.to) == (flag.here == "maps")
        if flag.here == "same" and flag.flag not in known:
            assert flag.flag in ("--help", "--version"), flag.flag


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


@pytest.mark.parametrize("spelt", ["--auto-truncate false", "--auto-truncate=false", "--auto_truncate False"])
def test_auto_truncate_can_be_switched_off(spelt: str, served: dict[str, Any]) -> None:
    assert run(["serve", *spelt.split(), "some/model", "--strict", "true", "--no-disable-log-stats", "false"]) == 0
    assert served["engine"].model.model == "some/model"
    assert (served["server"].auto_truncate, served["server"].strict) == (False, True)
    assert served["server"].disable_log_stats
    assert run(["serve", "--auto-truncate", "maybe", "some/model"]) == 2
    assert run(["serve", "--auto-truncate=maybe", "some/model"]) == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("-m folder -c 2048 -t 4 -a one,two -v", {"model": "folder", "max_model_len": 2048, "cpu_threads": 4}),
        ("--model-id m --hostname 127.0.0.1 -p 81 --json-output", {"port": 81, "log_format": "json"}),
        ("m --gpu-memory-util=0.5 -q int8", {"gpu_memory_utilization": 0.5, "quantization": "int8"}),
        ("m --max-running-requests 9 --fastapi-root-path /x", {"max_num_seqs": 9, "root_path": "/x"}),
        ("m --lora-paths a=b c=d", {"lora_modules": {"a": "b", "c": "d"}}),
        ("m --rope-theta 5.5", {"hf_overrides": {"rope_theta": 5.5}}),
        ('m --rope-scaling {"factor":2}', {"hf_overrides": {"rope_scaling": {"factor": 2}}}),
        ('m --json-model-override-args {"num_labels":1}', {"hf_overrides": {"num_labels": 1}}),
        (
            "m -ngl 0 --cors-origins https://a,https://b",
            {"device": "cpu", "allowed_origins": ("https://a", "https://b")},
        ),
        ('m --allowed-origins ["*"]', {"allowed_origins": ("*",)}),
        ("m -tb 3 --verbosity 2 --disable-decode-cuda-graph", {"cpu_threads": 3, "log_level": "warning"}),
        ("m --verbose --no-log-jsonl -ts 1,1", {"log_level": "debug", "tensor_parallel_size": 2, "log_format": "text"}),
        ("m --nnodes 1 --pp-size 1 -n 1 -O3 -O.level=2 --compilation-config.level 3", {"model": "m"}),
        ("m --cuda-graph-bs 1 2 4 --disable-radix-cache", {"model": "m"}),
        ("m --no-enable-prefix-caching -kvo --no-mmap -fa on", {"model": "m"}),
        ('m --chat-template-kwargs {"instruction":"judge"}', {"instruction": "judge"}),
        ("v2 --model-id m --url-prefix /v1", {"model": "m", "root_path": "/v1"}),
        ("v2 --model-name-or-path m", {"model": "m"}),
        ("v2", {"model": "v2"}),
        ("m --model-impl vllm", {"model_impl": "auto"}),
        ("m --model-impl sglang", {"model_impl": "auto"}),
        ("m --model-impl transformers", {"model_impl": "transformers"}),
        ("m --pooler-config.task classify", {"hf_overrides": {}}),
        ("m --enable-memory-saver", {"enable_sleep_mode": True}),
        (
            "m --pooler-config.use_activation false",
            {"hf_overrides": {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}},
        ),
    ],
)
def test_what_maps(words: str, expected: dict[str, Any], served: dict[str, Any]) -> None:
    assert run(["serve", *words.split()]) == 0
    engine, server = served["engine"], served["server"]
    for name, value in expected.items():
        section = {"model": engine.model, "scheduler": engine.scheduler, "device": engine.device, "server": server}
        assert getattr(section[OPTIONS[name].section], name) == value


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("m --nnodes 2", "for vLLM it is: Number of hosts"),
        ("m -n 64", "for llama-server it is"),
        ("m --worker-cls x.Y", "no code is loaded by name"),
        ("m -t 2 -tb 3", "-t and -tb both set --cpu-threads"),
        ("m --hostname 127.0.0.1 --host 127.0.0.2", "--host"),
        ("--cuda-graph-bs 1 2 some/model", "put the model first"),
        ("m --otlp-endpoint http://c:4317", "OTLP over gRPC"),
        ("-hf user/repo-GGUF:Q8_0", "hf download user/repo-GGUF"),
        ('m --pooler-config {"pooling_type":"MEAN"}', "pooling_type is refused"),
        ('m --chat-template-kwargs {"enable_thinking":false}', "enable_thinking"),
        ("m --override-kv a=int:1", "for llama-server it is"),
        ("m -ts 3,1", "equal parts"),
        ("m --rope-scaling yarn", "for llama-server it is"),
        ("m --hostname", "needs a value"),
        ("m --pooling mean", ""),
    ],
)
def test_what_is_refused(words: str, says: str, served: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", *words.split()]) == (2 if says else 0)
    assert says in capsys.readouterr().err


def test_variables_for_libraries(
    served: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "before")
    assert run(["serve", "m", "--hf-token", "secret", "--download-dir", "/models", "--offline"]) == 0
    assert [os.environ[name] for name in ("HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE")] == ["secret", "/models", "1"]
    assert "secret" not in capsys.readouterr().err


def test_the_environment_of_other_servers(
    served: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PORT", "81")
    monkeypatch.setenv("AUTO_TRUNCATE", "false")
    monkeypatch.setenv("HOSTNAME", socket.gethostname())
    assert run(["serve", "m"]) == 0
    assert (served["server"].port, served["server"].auto_truncate) == (8000, True)
    monkeypatch.setenv("MODEL_ID", "of/tei")
    monkeypatch.setenv("MAX_CLIENT_BATCH_SIZE", "9")
    monkeypatch.setenv("API_KEY", "secret")
    assert run(["serve"]) == 0
    server = served["server"]
    assert (served["engine"].model.model, server.port, server.max_documents) == ("of/tei", 81, 9)
    assert (server.auto_truncate, server.host, server.api_key) == (False, "127.0.0.1", ("secret",))
    told = capsys.readouterr().err
    assert "PORT=81 in the environment is read as --port" in told
    assert "secret" not in told
    monkeypatch.setenv("HOSTNAME", "127.0.0.3")
    monkeypatch.setenv("ENGINE_PORT", "82")
    assert run(["serve", "m"]) == 0
    assert (served["engine"].model.model, served["server"].port, served["server"].host) == ("m", 82, "127.0.0.3")


def test_variables_of_infinity_and_llama_server(served: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFINITY_URL_PREFIX", "/rr")
    monkeypatch.setenv("INFINITY_BATCH_SIZE", "32;16")
    monkeypatch.setenv("LLAMA_ARG_CTX_SIZE", "512")
    assert run(["serve", "m"]) == 0
    assert (served["server"].root_path, served["engine"].model.max_model_len) == ("/rr", 512)


def test_lines_of_a_file(served: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(
        "model: m\nhostname: 127.0.0.1\nmax_running_requests: 9\ntrust_remote_code: true\nauto_truncate: false\n"
        'rope_theta: 5.5\ncompilation_config: {"level": 3}\nlora_paths: [a=b]\n'
    )
    assert run(["serve", "--config", str(file)]) == 0
    assert (served["server"].auto_truncate, served["engine"].scheduler.max_num_seqs) == (False, 9)
    assert served["engine"].model.hf_overrides == {"rope_theta": 5.5}
    assert served["engine"].model.lora_modules == {"a": "b"}
    assert "--trust-remote-code is accepted and has no effect" in capsys.readouterr().err
    file.write_text("model: m\nnnodes: 2\n")
    assert run(["serve", "--config", str(file)]) == 2
    assert "Number of hosts" in capsys.readouterr().err


def test_arguments_of_an_engine_in_process() -> None:
    config = engine_config({"model": "m", "max_num_active_seqs": 3, "rope_theta": 5.5, "trust_remote_code": True})
    assert (config.scheduler.max_num_seqs, config.model.hf_overrides) == (3, {"rope_theta": 5.5})
    with pytest.raises(ConfigError, match="Number of hosts"):
        engine_config({"nnodes": 2})
    with pytest.raises(TypeError, match="max_num_seqs"):
        engine_config({"max_num_sqs": 2})


def test_the_table_is_one_line_a_flag() -> None:
    from engine.entrypoints.settings.peer_flags import TABLE

    rows = [line for line in TABLE.read_text("utf-8").splitlines() if line.startswith('  {"server"')]
    assert len(rows) == len(peer_flags()) == len(json.loads(TABLE.read_text("utf-8"))["flags"])


def test_infinitys_container(served: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """``docker run -e INFINITY_MODEL_ID=a infinity v2``, with one model and with two."""
    monkeypatch.setenv("INFINITY_MODEL_ID", "a")
    assert run(["serve", "v2"]) == 0
    assert served["engine"].model.model == "a"
    several: list[str] = []
    monkeypatch.setattr(
        "engine.entrypoints.serve.server.run_server",
        lambda engine, server, *more: several.extend(one.model.model for one in (engine, *more)) or 0,
    )
    monkeypatch.setenv("INFINITY_MODEL_ID", "a;b;")
    assert run(["serve"]) == 0
    assert several == ["a", "b"]
