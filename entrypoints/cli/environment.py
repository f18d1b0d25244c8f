"""Settings from the environment: ``--max-num-seqs`` is ``ENGINE_MAX_NUM_SEQS``."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import MutableMapping, Sequence

from engine.errors import StartupError

PREFIX = "ENGINE_"
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://")


def drop_service_addresses(environment: MutableMapping[str, str] = os.environ) -> None:
    """Forget variables that Kubernetes sets in every pod for a Service whose name begins with ``engine``.

    For a Service named ``engine`` it sets ``ENGINE_PORT=tcp://10.0.0.1:8000``, which is no port. No setting has a
    value of this form, so such a variable is nobody's flag; a line on standard error says that it is ignored.
    """
    for name in [name for name in environment if name.startswith(PREFIX)]:
        if _SERVICE_ADDRESS.match(environment[name]):
            print(
                f"engine: {name}={environment[name]} is the address of a Kubernetes Service, not a setting: ignored "
                "(enableServiceLinks: false in the pod's spec stops it)",
                file=sys.stderr,
            )
            del environment[name]


def with_origin(error: StartupError, argv: Sequence[str]) -> str:
    """The error's sentence, with the variable in front where a wrong value came from the environment."""
    variable = f"{PREFIX}{(error.param or '').upper()}"
    flag = f"--{(error.param or '').replace('_', '-')}"
    by_flag = any(item.split("=", 1)[0].replace("_", "-") == flag for item in argv)
    return str(error) if not error.param or by_flag or variable not in os.environ else f"{variable}: {error}"
