"""What the monitor serves over HTTP, as an ASGI app: figures, health, schemas. Nothing is written.

| path | answer |
|---|---|
| `/metrics` | the cluster's figures for Prometheus |
| `/healthz` | 200 as long as the process answers |
| `/readyz` | 200 when the last look could be had, else 503 and why |
| `/schemas/...`, `/subjects/...`, `/config`, `/mode` | a read-only schema registry |
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from deptbus.metrics.endpoint import text_of
from deptbus.operations.monitor import Monitor
from deptbus.operations.schema_registry import (
    COMPATIBILITY,
    MODE,
    NO_LEVEL_OF_ITS_OWN,
    NO_MODE_OF_ITS_OWN,
    Registry,
    Unanswerable,
)

_STORE_FAILED = 50001
_READ_ONLY = "This registry is read-only: schemas come from the contract in force"
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


class _SchemaJson(JSONResponse):
    media_type = "application/vnd.schemaregistry.v1+json"


def monitor_app(monitor: Monitor) -> Starlette:
    """The caller runs the monitor."""
    return Starlette(
        routes=[*watch_routes(monitor), *schema_routes(monitor.schemas.registry)],
        exception_handlers={HTTPException: _refused},  # type: ignore[dict-item]
    )


def watch_routes(monitor: Monitor) -> list[Route]:
    async def metrics(request: Request) -> Response:
        accept = request.headers.get("accept", "")
        text, content_type = await asyncio.to_thread(text_of, monitor.metrics, accept)
        return Response(text, headers={"Content-Type": content_type})

    async def health(_: Request) -> Response:
        return PlainTextResponse("it works\n")

    async def ready(_: Request) -> Response:
        trouble = monitor.trouble()
        return PlainTextResponse(f"{trouble or 'it looks'}\n", 503 if trouble else 200)

    return [Route("/metrics", metrics), Route("/healthz", health), Route("/readyz", ready)]


def schema_routes(registry: Callable[[], Registry | None]) -> list[Route]:
    """`registry`: as it is now; None: the bus was not read yet."""

    def route(path: str, answer: Callable[[Registry, Request], Any]) -> Route:
        async def endpoint(request: Request) -> Response:
            if request.method not in ("GET", "HEAD"):
                return _error(405, 405, _READ_ONLY, {"Allow": "GET, HEAD"})
            known = await asyncio.to_thread(registry)
            if known is None:
                return _error(503, _STORE_FAILED, "The bus was not read yet: ask again")
            try:
                found = await asyncio.to_thread(answer, known, request)
            except Unanswerable as error:
                return _error(error.status, error.code, error.message)
            if isinstance(found, str):  # a schema alone, as it stands on the bus
                return Response(found, media_type=_SchemaJson.media_type)
            return _SchemaJson(found)

        return Route(path, endpoint, methods=_METHODS)

    return [
        route("/schemas/types", lambda r, q: ["AVRO"]),
        route("/schemas/ids/{id}", lambda r, q: {"schema": r.schema(_word(q, "id")).text}),
        route("/schemas/ids/{id}/schema", lambda r, q: r.schema(_word(q, "id")).text),
        route("/schemas/ids/{id}/versions", lambda r, q: r.places_of(_word(q, "id"))),
        route("/schemas/ids/{id}/subjects", _subjects_of),
        route("/subjects", _subjects),
        route("/subjects/{subject}", _subjects),
        route("/subjects/{subject}/versions", _versions),
        route("/subjects/{subject}/versions/{version}", _version),
        route("/subjects/{subject}/versions/{version}/schema", _schema_of_version),
        route("/config", lambda r, q: {"compatibilityLevel": COMPATIBILITY}),
        route("/config/{subject}", _config),
        route("/mode", lambda r, q: {"mode": MODE}),
        route("/mode/{subject}", _mode),
    ]


def _word(request: Request, name: str) -> str:
    return str(request.path_params[name])


def _subjects(registry: Registry, request: Request) -> list[str]:
    """`/subjects/{subject}` itself can only be written to: whoever reads it asks for its list."""
    if "subject" in request.path_params:
        raise Unanswerable(405, 405, _READ_ONLY)
    prefix = request.query_params.get("subjectPrefix", "")
    return [subject for subject in registry.by_subject if subject.startswith(prefix)]


def _subjects_of(registry: Registry, request: Request) -> list[str]:
    return sorted({place["subject"] for place in registry.places_of(_word(request, "id"))})


def _versions(registry: Registry, request: Request) -> list[int]:
    return [version.number for version in registry.versions(_word(request, "subject"))]


def _version(registry: Registry, request: Request) -> dict[str, Any]:
    subject = _word(request, "subject")
    found = registry.version(subject, _word(request, "version"))
    return {
        "subject": subject,
        "version": found.number,
        "id": found.schema.id,
        "schema": found.schema.text,
    }


def _schema_of_version(registry: Registry, request: Request) -> str:
    return registry.version(_word(request, "subject"), _word(request, "version")).schema.text


def _config(registry: Registry, request: Request) -> dict[str, str]:
    return {"compatibilityLevel": _of_all(request, COMPATIBILITY, NO_LEVEL_OF_ITS_OWN, "level")}


def _mode(registry: Registry, request: Request) -> dict[str, str]:
    return {"mode": _of_all(request, MODE, NO_MODE_OF_ITS_OWN, "mode")}


def _of_all(request: Request, value: str, code: int, what: str) -> str:
    """No subject has a setting of its own; who asks for the one of all gets it."""
    if request.query_params.get("defaultToGlobal", "").lower() == "true":
        return value
    subject = _word(request, "subject")
    raise Unanswerable(404, code, f"Subject '{subject}' does not have a {what} of its own")


def _error(status: int, code: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return _SchemaJson({"error_code": code, "message": message}, status, headers)


async def _refused(request: Request, error: HTTPException) -> Response:
    """As a registry tells it also where no path of ours was asked for."""
    return _error(error.status_code, error.status_code, f"HTTP {error.status_code} {error.detail}")
