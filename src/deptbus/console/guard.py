"""What holds for every answer, before any page is asked: host, size of what is sent, headers.

A request that names another host than ours came by a name that somebody pointed at this address;
its page would run as ours (DNS rebinding).
"""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deptbus.console.settings import Settings

# Nothing but our own files: no inline script or style, no frame, no other host.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; manifest-src 'self'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # `no-referrer` would make browsers say that our own forms came from nowhere (Origin: null).
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
_BODY_BYTES = 256 * 1024  # a thousand ticked notes are 60 KB


class Guard:
    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._hosts = app, settings.hosts
        self._headers = dict(_HEADERS)
        if settings.is_secure:
            self._headers["Strict-Transport-Security"] = "max-age=31536000"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        headers = Headers(scope=scope)
        if headers.get("host", "").lower() not in self._hosts:
            refusal = PlainTextResponse("deptbus: this is not the name of this console", 421)
            await refusal(scope, receive, send_guarded)
            return
        if not _is_small(headers):
            await PlainTextResponse("deptbus: too much", 413)(scope, receive, send_guarded)
            return
        await self._app(scope, receive, send_guarded)


def _is_small(headers: Headers) -> bool:
    """A body comes with its length, or not at all: no browser's form does otherwise."""
    if "transfer-encoding" in headers:
        return False
    length = headers.get("content-length", "0")
    return length.isdecimal() and int(length) <= _BODY_BYTES
