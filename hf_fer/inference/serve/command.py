"""The command `hf-fer serve`: loads models and starts the server."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hf_fer.recipe.arguments import RecipeError
from hf_fer.runtime.messages import one_message

TOKEN_VARIABLE = "HF_FER_SERVE_TOKEN"
EXTRA = "hf-fer serve needs the extra `app`: pip install 'hf_fer[app]'."
HEAD_SECONDS = 10.0
CONNECTIONS = 512
GOODBYE_SECONDS = 10
LOCAL_HOSTS = ("127.0.0.1", "::1", "localhost")


def main(
    models: Sequence[str],
    *,
    host: str,
    port: int,
    token: str | None,
    page: bool = True,
    backend: str | None = None,
    **limits: float | None,
) -> int:
    """
    Serve models until the process gets a signal to end.

    Args:
        models: Folders or Hub names, or `name=folder`.
        host, port: Address and port to listen at.
        token: Token that requests must send; `HF_FER_SERVE_TOKEN` by default.
        page: Whether there is a page for browsers.
        backend: Backend that all models must be for; see `find_model`.
        limits: Fields of `Limits`; `None` leaves the default.

    Returns:
        The exit status. Errors that the user can fix end the process with status 2.
    """
    with one_message():
        try:
            import uvicorn

            from hf_fer.inference.serve.app import new_app
            from hf_fer.inference.serve.connections import timed_heads
        except ImportError as error:
            raise RecipeError(f"{EXTRA} ({error})") from error
        from hf_fer.inference.serve.hosting import load_hosts
        from hf_fer.inference.serve.logs import log, start_logging

        token = token or os.environ.get(TOKEN_VARIABLE) or None
        given = read_limits(limits)
        found = find_all(models, backend)
        hosts = load_hosts(found, given)
        is_local = host in LOCAL_HOSTS
        if not is_local and not token:
            print("hf_fer: warning: others on the network can use this server: give a --token.", file=sys.stderr)
        app = new_app(hosts, given, token, is_local=is_local, with_page=page)
        start_logging()
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            http=timed_heads(HEAD_SECONDS),
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=GOODBYE_SECONDS,
        )
        log("start", host=host, port=port, models=[name for one in hosts for name in one.names()])
        with suppress(KeyboardInterrupt, SystemExit):  # uvicorn raises the signal that ended it again
            uvicorn.Server(config).run()
        log("end")
    return 0


def read_limits(given: dict[str, float | None]):
    """Build `Limits` from options; raises `RecipeError` where one is not positive."""
    from hf_fer.task.service import Limits

    wanted = {name: value for name, value in given.items() if value is not None}
    for name, value in wanted.items():
        if not value > 0:
            raise RecipeError(f"--{name} must be positive, got {value}.")
    return Limits(**wanted)


def find_all(models: Sequence[str], backend: str | None = None) -> dict:
    """
    Name in requests -> saved model; the name is that of the folder, or the one given as `name=folder`.

    Raises:
        RecipeError: there is no such model, it is for another backend, or two have the same name.
    """
    from hf_fer.inference.loading import find_model

    found = {}
    for given in models:
        name, equals, path = given.partition("=")
        if not equals or Path(given).exists():
            name, path = Path(given).resolve().name if Path(given).exists() else given, given
        if name in found:
            raise RecipeError(f"two models are called {name}: give one another name, such as other={path}.")
        found[name] = find_model(path, backend)
    return found
