"""`engine completion` takes the shell from $SHELL, or says that it cannot; addresses in the log can be copied."""

from __future__ import annotations

import socket

import pytest

from engine.entrypoints.cli.completion import completion
from engine.entrypoints.serve.ports import address_of
from engine.errors import ConfigError


@pytest.mark.parametrize(
    ("shell", "expected"), [("/bin/bash", "# Bash completion"), ("/usr/bin/zsh", "#compdef engine")]
)
def test_the_shell_is_that_of_the_environment(
    shell: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHELL", shell)
    assert completion() == 0
    assert capsys.readouterr().out.startswith(expected)


def test_an_unknown_shell_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/bin/dash")
    with pytest.raises(ConfigError, match=r"\$SHELL names dash"):
        completion()


def test_an_ipv6_address_has_brackets() -> None:
    with socket.socket(socket.AF_INET6) as listener:
        listener.bind(("::1", 0))
        assert address_of(listener, tls=False) == f"http://[::1]:{listener.getsockname()[1]}"
