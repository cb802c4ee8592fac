"""The server of the page: its port, its limits, and what a browser may load."""

import errno
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..output.extras import check_packages
from ..shipped_models import CAMERA_MOTION


FIRST_PORT = 7860
LOOPBACK = "127.0.0.1"
_TRIED = 100  # ports
# Browsers then load nothing from another host, whatever gradio's page or a label contains.
_POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; form-action 'self'; base-uri 'self'"


@contextmanager
def serving(
    models: Sequence[str] = (),
    host: str = LOOPBACK,
    port: int | None = None,
    max_megabytes: int = 500,
    device: str = "cpu",
) -> Iterator[str]:
    """
    In the block, the page is served. Uploaded clips are deleted at its end.

    Args:
        models: folders or names on the Hub that can be chosen, besides the usual ones. The first one is chosen at
            the start.
        host: the address of this machine on which the page is served. Only this machine reaches the loopback.
        port: the port (default: the first free one from 7860 on).
        max_megabytes: the largest clip that can be uploaded.
        device: where the models run.

    Yields:
        the address of the page.

    Raises:
        ValueError: if the port is taken, the host is not an address of this machine, or a model can't be loaded.
        ImportError: if gradio is missing.
    """
    check_packages("demo", ("gradio", "matplotlib"), "demo")
    port = choose_port(host, port)

    from .analysis import Analyst

    analyst = Analyst(device)
    for name in reversed(models or [CAMERA_MOTION]):  # the first one last, because the last ones stay in memory
        analyst.load(name)

    from .page import PAGE, build_page

    direct = os.environ.get("no_proxy", os.environ.get("NO_PROXY", ""))
    changes = {"no_proxy": ",".join(filter(None, [direct, LOOPBACK, "localhost", host]))}  # gradio asks its own server
    temporary = tempfile.TemporaryDirectory(prefix="timesformer_hf-demo-", ignore_cleanup_errors=True)
    with temporary as folder, _environment(GRADIO_TEMP_DIR=folder, **changes):
        page = build_page(analyst, models, max_megabytes)
        try:
            page.launch(
                server_name=host,
                server_port=port,
                max_file_size=max_megabytes * 2**20,
                app_kwargs={"middleware": [_policy_middleware()]},
                prevent_thread_lock=True,
                quiet=True,
                share=False,
                ssr_mode=False,
                **PAGE,
            )
            yield page.local_url
        finally:
            page.close(verbose=False)


def choose_port(host: str, port: int | None) -> int:
    """
    Return the port if it is free, or the first free one from 7860 on if it is `None`.

    Raises:
        ValueError: if the port is taken or not allowed, or the host is not an address of this machine. For a port that
            is taken, the message names the next free one.
    """
    first = FIRST_PORT if port is None else port
    free = next((at for at in range(first, min(first + _TRIED, 2**16)) if _is_free(host, at)), None)
    if free is not None and port in (None, free):
        return free
    advice = "and so are those after it" if free is None else f"the next free one is --port {free}"
    raise ValueError(f"port {first} is taken; {advice}")


def _is_free(host: str, port: int) -> bool:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ValueError(f"--host {host} is not an address of this machine ({error.strerror})") from error
    with socket.socket(family, kind, protocol) as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind(address)
        except PermissionError as error:
            raise ValueError(f"--port {port}: this user may not serve there; choose a port from 1024 on") from error
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise ValueError(f"--host {host} is not an address of this machine ({error.strerror})") from error
    return True


def _policy_middleware():
    """Return a middleware that sends the policy with every answer."""
    from starlette.middleware import Middleware

    class AddPolicy:
        def __init__(self, app):
            self.app = app

        async def __call__(self, scope, receive, send) -> None:
            async def send_with_policy(message) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] = [*message["headers"], (b"content-security-policy", _POLICY.encode())]
                await send(message)

            await self.app(scope, receive, send_with_policy if scope["type"] == "http" else send)

    return Middleware(AddPolicy)


@contextmanager
def _environment(**changes: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ |= changes
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
