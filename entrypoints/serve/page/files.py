"""The files of the page and their routes.

They hold no data and are served without a key; whatever they show, they ask this server for. A strict content security
policy keeps it so: nothing is loaded from anywhere else, no text becomes markup, and nobody may frame the page.
Pictures that the user chooses are shown from the page's own memory (``data:``).
"""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Request
from starlette.responses import Response

FOLDER = Path(__file__).parent
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FILES = (
    "index.html",
    "page.css",
    "icon.svg",
    "common.js",
    "rank.js",
    "results.js",
    "code.js",
    "pictures.js",
    "state.js",
)
PATHS = {("/" if name == "index.html" else f"/page/{name}"): name for name in FILES}
PAGE_PATHS = frozenset(PATHS)
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def add_page(app: FastAPI) -> None:
    """Adds the routes of the web page."""
    contents = {path: (FOLDER / name).read_bytes() for path, name in PATHS.items()}

    async def file(request: Request) -> Response:
        path = request.scope["route"].path
        media_type = TYPES[Path(PATHS[path]).suffix]
        return Response(contents[path], headers=HEADERS, media_type=media_type)

    for path in PATHS:
        app.add_api_route(path, file, methods=["GET", "HEAD"], include_in_schema=False, response_model=None)
