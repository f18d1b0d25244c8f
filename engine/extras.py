"""The optional dependencies of this package, as the command that installs those of one extra."""

from __future__ import annotations

from importlib import metadata

DISTRIBUTION = "rerank-engine"


def pip_install(extra: str) -> str:
    """``pip install 'grpcio>=1.66' 'protobuf>=5'`` for ``grpc``: what the extra stands for in the installed package.

    The requirements are named one by one, since they install the same way into a checkout, beside a wheel file and
    beside a release on an index. Without metadata (the folder was only put on the path) the checkout's form is named.
    """
    try:
        listed = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        listed = []
    split = [requirement.partition(";") for requirement in listed]
    wanted = [name.strip() for name, _, marker in split if f'extra == "{extra}"' in marker.replace("'", '"')]
    return "pip install " + (" ".join(f"'{name}'" for name in wanted) or f"'.[{extra}]' in the checkout")
