"""The HTTP server: a few routes over a :class:`Service`, with limits."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

import torch
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from rtl_continual import __version__
from rtl_continual.errors import DataError, RTLError
from rtl_continual.serving._service import OverloadedError, Service
from rtl_continual.store import decode_image

__all__ = ["create_app"]


class _RefusedError(Exception):
    """A request that is not taken on, with its status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def create_app(service: Service) -> FastAPI:
    """The application; it closes the service when it shuts down.

    Routes: ``POST /predict``, ``GET /health``, ``GET /version``, ``GET /metrics``,
    ``POST /reload``; ``docs/production.md`` describes them.

    Args:
        service: answers the requests.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.close)

    # The pages of /docs would be fetched from elsewhere; /openapi.json stays.
    app = FastAPI(
        title="rtl", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan
    )

    @app.post("/predict")
    async def predict(request: Request) -> JSONResponse:
        """Label, ticket and confidence of one image, or of a list of images."""
        began = time.monotonic()
        status, content = await _status(_predicted(request, service))
        service.metrics.count("rtl_requests_total", route="/predict", status=str(status))
        service.metrics.observe("rtl_request_seconds", time.monotonic() - began)
        headers = {"Retry-After": "1"} if status == 503 else None
        return JSONResponse(content, status, headers=headers)

    @app.get("/health")
    async def health() -> JSONResponse:
        """Whether the service answers."""
        return JSONResponse({"status": "ok", "version": service.bank.version})

    @app.get("/version")
    async def version() -> JSONResponse:
        """What is in service."""
        now = service.bank.snapshot()
        return JSONResponse(
            {
                "version": now.version,
                "manifest": now.manifest,
                "tickets": list(now.names),
                "classes": getattr(now.task, "classes", None),
                "backbone": now.backbone.identity,
                "rtl_continual": __version__,
            }
        )

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        """Counters, for Prometheus."""
        return PlainTextResponse(
            service.metrics_text(), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    @app.post("/reload")
    async def reload() -> JSONResponse:
        """Go to the newest version, or to the one that the tag names now."""
        status, content = await _status(_reloaded(service))
        service.metrics.count("rtl_requests_total", route="/reload", status=str(status))
        return JSONResponse(content, status)

    return app


async def _status(work: Any) -> tuple[int, dict[str, Any]]:
    """Status and content of an answer, whatever happens."""
    try:
        return 200, await work
    except _RefusedError as error:
        return error.status, {"error": str(error)}
    except OverloadedError as error:
        return 503, {"error": str(error)}
    except TimeoutError:
        return 503, {"error": "the service did not answer in time"}
    except ClientDisconnect:
        return 400, {"error": "the client has gone"}
    except DataError as error:
        return 400, {"error": str(error)}
    except RTLError as error:
        return 500, {"error": str(error)}


async def _predicted(request: Request, service: Service) -> dict[str, Any]:
    try:
        async with asyncio.timeout(service.config.timeout):
            body = await _body(request, service.config.max_body)
    except TimeoutError as error:
        raise _RefusedError(408, "the body did not come in time") from error
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    images = await run_in_threadpool(_decoded, body, kind, service)
    async with asyncio.timeout(service.config.timeout):
        found = await asyncio.wrap_future(service.submit(images))
    return {
        "version": found.version,
        "manifest": found.manifest,
        "predictions": [asdict(answer) for answer in found.answers],
    }


async def _reloaded(service: Service) -> dict[str, Any]:
    changed = await run_in_threadpool(service.reload)
    return {"changed": changed, "version": service.bank.version}


async def _body(request: Request, limit: int) -> bytes:
    """The request's body, of which no more is read than the limit allows."""
    too_large = _RefusedError(413, f"a body has at most {limit} bytes")
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise too_large
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise too_large
        parts.append(part)
    return b"".join(parts)


def _decoded(body: bytes, kind: str, service: Service) -> torch.Tensor:
    """Images of a body: one as it is, or several in base64 in JSON."""
    config, spec = service.config, service.bank.backbone.input_spec
    if kind.startswith("image/") or kind == "application/octet-stream":
        files = [body]
    elif kind == "application/json":
        files = _from_json(body, min(config.max_images, config.max_batch))
    else:
        raise _RefusedError(
            415, "send an image as image/*, or application/json with {'images': [base64, ...]}"
        )
    images = [
        decode_image(file, spec, max_pixels=config.max_pixels, name=f"image {number}")
        for number, file in enumerate(files)
    ]
    if any(image.shape != images[0].shape for image in images):
        raise DataError("the images of one request must have one size")
    return torch.stack(images)


def _from_json(body: bytes, most: int) -> list[bytes]:
    try:
        images = json.loads(body)["images"]
        if not isinstance(images, list) or not 1 <= len(images) <= most:
            raise DataError(f"'images' must be a list of 1 to {most} images in base64")
        return [base64.b64decode(image, validate=True) for image in images]
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error) as error:
        raise DataError(
            'the body must be {"images": [...]} with images in base64; it cannot be read: '
            f"{type(error).__name__}"
        ) from error
