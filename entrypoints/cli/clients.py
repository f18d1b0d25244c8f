"""``engine clients``: settings to copy into known clients."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter


def clients(
    *names: str,
    base_url: str = "http://127.0.0.1:8000",
    api_key: str = "KEY",
    model: str = "MODEL",
    list_: Annotated[bool, Parameter(name="--list", negative=())] = False,
) -> int:
    """Print settings for known clients, ready to copy.

    Parameters
    ----------
    names
        Clients, or the beginning of their names (langchain); all of them by default.
    base_url
        Address of the server.
    api_key
        Key of the server; a server without keys takes any.
    model
        Name under which the server serves its model.
    list_
        Only the names.
    """
    from engine.entrypoints.assets.client_settings import checked_url, chosen_clients

    chosen = chosen_clients(names)
    if list_:
        width = max(len(client.id) for client in chosen)
        print("\n".join(f"{client.id:<{width}}  {client.title}" for client in chosen))
    else:
        url = checked_url(base_url)
        print("\n\n".join(client.text(url, api_key, model) for client in chosen))
    return 0
