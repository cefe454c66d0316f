"""Our own style, script and signs, read once; an address changes with its file, so browsers keep
them for ever."""

from __future__ import annotations

import hashlib
from importlib.resources import files

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

_KINDS = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "enter.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


class Static:
    def __init__(self) -> None:
        folder = files("deptbus.console").joinpath("static")
        self._files = {name: folder.joinpath(name).read_bytes() for name in _KINDS}
        self._digests = {
            name: hashlib.sha256(content).hexdigest()[:16] for name, content in self._files.items()
        }

    def address(self, name: str) -> str:
        return f"/static/{self._digests[name]}/{name}"

    async def serve(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._files:
            raise HTTPException(404)
        is_this = request.path_params["digest"] == self._digests[name]
        kept = "public, max-age=31536000, immutable" if is_this else "no-cache"
        return Response(self._files[name], media_type=_KINDS[name], headers={"Cache-Control": kept})
