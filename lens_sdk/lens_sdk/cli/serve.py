"""`lens serve`: the SDK behind HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lens_reasoner.errors import MissingPackagesError
from lens_sdk.cli.console import (
    GeneratorOption,
    JudgeOption,
    ReasonerOption,
    err,
    reports_errors,
)

DEFAULT_FOLDER = Path("lens-server")
_PACKAGES = ("fastapi", "uvicorn", "starlette", "prometheus_client", "python_multipart")


@reports_errors
def serve(
    model: GeneratorOption = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; others than this need keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535)] = 8000,
    api_key_file: Annotated[
        Path | None, typer.Option("--api-key-file", help="File with the API keys, one a line.")
    ] = None,
    folder: Annotated[
        Path, typer.Option("--folder", help="Where runs, pictures and answers are kept.")
    ] = DEFAULT_FOLDER,
    reasoner: ReasonerOption = None,
    judge: JudgeOption = None,
    max_waiting: Annotated[
        int, typer.Option("--max-waiting", min=1, help="Most pictures in work or waiting.")
    ] = 64,
) -> None:
    """Serve pictures and runs to OpenAI's clients, to lens_sdk.Lens and to a browser."""
    try:
        from lens_sdk.server.serve import serve as run
    except ModuleNotFoundError as error:
        if error.name not in _PACKAGES:
            raise
        raise MissingPackagesError("The server", (error.name,), extra="server") from error
    from lens_sdk.server.config import ServerConfig, check_address, serving_parts
    from lens_sdk.server.guard import ApiKeys
    from lens_sdk.server.limits import ServerLimits
    from lens_sdk.settings import Settings

    settings = Settings.load(model=model, reasoner=reasoner, judge=judge)
    keys = ApiKeys() if api_key_file is None else ApiKeys.read(api_key_file)
    check_address(host, keys)
    config = ServerConfig(
        parts=serving_parts(
            settings.model,
            reasoner=settings.reasoner,
            judge=settings.judge,
            rubric_writer=settings.rubric,
            provider=settings.provider,
        ),
        folder=folder,
        keys=keys,
        limits=ServerLimits(waiting_images=max_waiting),
    )
    shown = f"[{host}]" if ":" in host else host
    err.print(f"Lens on http://{shown}:{port}", markup=False)
    run(config, host=host, port=port)
