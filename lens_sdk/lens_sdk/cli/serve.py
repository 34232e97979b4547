"""`lens serve`: serves the SDK over HTTP."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lens_reasoner.errors import MissingPackagesError
from lens_sdk.cli.console import (
    GeneratorOption,
    JudgeOption,
    ReasonerOption,
    err,
    reports_errors,
)
from lens_sdk.cli.options import FeatureCacheOption, MemoryOption, SpeedOption, SystemPromptOption
from lens_sdk.cli.saving import check_output
from lens_sdk.errors import SdkError

if TYPE_CHECKING:
    from lens_sdk.server.config import ServerChoices
    from lens_sdk.server.on_ray import RayChoices

DEFAULT_FOLDER = Path("lens-server")
_PACKAGES = ("fastapi", "uvicorn", "starlette", "prometheus_client", "python_multipart")


@reports_errors
def serve(
    model: GeneratorOption = None,
    host: Annotated[
        str,
        typer.Option("--host", help="Address to listen on; any other than the default needs keys."),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            "--port", "-p", min=0, max=65535, help="Port to listen on; 0 picks a free one."
        ),
    ] = 8000,
    api_key_file: Annotated[
        Path | None, typer.Option("--api-key-file", help="File with the API keys, one per line.")
    ] = None,
    folder: Annotated[
        Path, typer.Option("--folder", help="Folder for runs, images and answers.")
    ] = DEFAULT_FOLDER,
    studies: Annotated[
        Path | None,
        typer.Option("--studies", help="Prompt studies to show. Default: FOLDER/studies."),
    ] = None,
    reasoner: ReasonerOption = None,
    system_prompt: SystemPromptOption = None,
    judge: JudgeOption = None,
    max_waiting: Annotated[
        int, typer.Option("--max-waiting", min=1, help="Maximum images in progress or queued.")
    ] = 64,
    memory: MemoryOption = None,
    feature_cache: FeatureCacheOption = None,
    speed: SpeedOption = None,
    ray: Annotated[
        bool, typer.Option("--ray", help="Serve with several replicas, on Ray Serve.")
    ] = False,
    replicas: Annotated[
        int,
        typer.Option("--replicas", min=1, help="Processes, each with its own model; needs --ray."),
    ] = 1,
    gpus_per_replica: Annotated[
        float | None,
        typer.Option(
            "--gpus-per-replica",
            min=0,
            help="GPUs per replica, such as 0.5. Default: divided evenly.",
        ),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option("--ray-address", help="A Ray cluster to use; by default one on this machine."),
    ] = None,
) -> None:
    """Serve images and runs to OpenAI's clients, to lens_sdk.Lens and to a browser.

    Example: lens serve --port 8000
    """
    try:
        from lens_sdk.server.config import ServerChoices, check_address
        from lens_sdk.server.guard import ApiKeys
        from lens_sdk.server.limits import ServerLimits
        from lens_sdk.server.on_ray import RayChoices
        from lens_sdk.server.serve import serve as run
    except ModuleNotFoundError as error:
        if error.name not in _PACKAGES:
            raise
        raise MissingPackagesError("The server", (error.name,), extra="server") from error
    from lens_prompt_opt import load_system_prompt
    from lens_sdk.settings import Settings

    if not ray and (replicas > 1 or gpus_per_replica is not None or ray_address is not None):
        raise typer.BadParameter("--replicas, --gpus-per-replica and --ray-address are for --ray")
    settings = Settings.load(model=model, reasoner=reasoner, judge=judge)
    keys = ApiKeys() if api_key_file is None else ApiKeys.read(api_key_file)
    check_address(host, keys)
    prompt = system_prompt or settings.prompt_for(settings.reasoner)
    choices = ServerChoices(
        model=settings.model,
        reasoner=settings.reasoner,
        system_prompt=None if prompt is None else load_system_prompt(prompt),
        judge=settings.judge,
        rubric_writer=settings.rubric,
        provider=settings.provider,
        memory=memory,
        feature_cache=None if feature_cache is None else feature_cache.absolute(),
        speed=speed,
        folder=folder.absolute(),
        studies=None if studies is None else studies.absolute(),
        keys=keys,
        limits=ServerLimits(waiting_images=max_waiting),
    )
    # Reports invalid choices before anything is started; nothing is loaded.
    config = choices.config()
    check_output(choices.folder)
    if ray:
        _on_ray(choices, host, port, RayChoices(replicas, gpus_per_replica, ray_address))
        return
    listening = _free_port(host, port)
    _tell(host, listening)
    run(config, host=host, port=listening)


def _free_port(host: str, port: int) -> int:
    """Return the port to listen on, a free one for 0; it is released for the server to take."""
    try:
        with socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        ) as found:
            return int(found.getsockname()[1])
    except OSError as error:
        raise SdkError(
            f"{host}:{port} is not available: {error.strerror or error}.",
            hint="Choose another --port, or --port 0 for a free one.",
        ) from error


def _on_ray(choices: ServerChoices, host: str, port: int, spread: RayChoices) -> None:
    from lens_sdk.server.on_ray import serve_on_ray

    try:
        serve_on_ray(
            choices.config,
            choices.folder,
            host=host,
            port=port,
            keys=choices.keys,
            choices=spread,
            tell=lambda used: _tell(host, used),
        )
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise MissingPackagesError("Serving with --ray", ("ray",), extra="ray") from error


def _tell(host: str, port: int) -> None:
    shown = f"[{host}]" if ":" in host else host
    err.print(f"Lens on http://{shown}:{port}", markup=False)
