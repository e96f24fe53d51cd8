"""``rtl serve``."""

from __future__ import annotations

import signal
import socket
from typing import Annotated

import typer

from rtl_continual.errors import RTLError
from rtl_continual.threads import use_threads

__all__ = ["serve_command"]


def serve_command(
    bank: Annotated[str, typer.Argument(help="A bank's folder, or an address such as s3://...")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    tag: Annotated[
        str | None, typer.Option(help="Follow this tag; by default the newest version.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="max_batch, max_wait_ms, max_queue, max_images, max_body, max_pixels, "
            "max_connections, timeout or watch; may be repeated.",
        ),
    ] = None,
    cache_mib: Annotated[int, typer.Option(min=1, help="Memory for tickets, in MiB.")] = 256,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each prediction.")] = 1,
    plugins: Annotated[
        list[str] | None, typer.Option("--plugin", help="A module or file; may be repeated.")
    ] = None,
) -> None:
    """Serve a bank over HTTP: predict, health, version, metrics, reload."""
    from rtl_continual.problems import load_options
    from rtl_continual.serving._config import ServeConfig

    config = load_options("serve", ServeConfig, overrides or [])
    try:
        import uvicorn

        from rtl_continual.serving._http import create_app
    except ImportError as error:
        raise RTLError(
            f"serving needs FastAPI and uvicorn ({error}); pip install 'rtl-continual[serve]'"
        ) from error
    from rtl_continual.plugins import load_plugins
    from rtl_continual.serving._service import Service
    from rtl_continual.store import load_bank

    load_plugins(plugins or [])
    use_threads(threads)
    opened = load_bank(bank, tag=tag, cache_bytes=cache_mib * 2**20)
    listening = _listen(host, port)
    service = Service(opened, config)
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(service),
            log_level="warning",
            access_log=False,
            limit_concurrency=config.max_connections,
            timeout_graceful_shutdown=max(1, int(config.timeout)),
        )
    )
    # The server ends in order on SIGTERM and then raises the signal again, for others to hear.
    signal.signal(signal.SIGTERM, lambda *_: None)
    place = f"http://{host}:{listening.getsockname()[1]}"
    typer.echo(f"serving version {opened.version} of {bank} on {place}")
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:
        typer.echo("stopped")
    finally:
        service.close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        # Whoever reads the line that names the port may connect at once.
        listening.listen(2048)
    except OSError as error:
        listening.close()
        raise RTLError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listening
