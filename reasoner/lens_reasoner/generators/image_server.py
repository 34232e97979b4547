"""Images from any server that implements OpenAI's images protocol."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

from lens_reasoner.errors import GeneratorError
from lens_reasoner.generator import Capabilities, OnUnsupported
from lens_reasoner.generators.image_prices import NO_IMAGE_PRICES, ImagePriceTable
from lens_reasoner.generators.images_api import ImagesApiGenerator
from lens_reasoner.generators.images_connection import ImagesConnection
from lens_reasoner.limits import Limits
from lens_reasoner.openai_connection import Json
from lens_reasoner.retry import RetryPolicy
from lens_reasoner.types import GenerationSettings, Value

SERVER_KEY_VARIABLE = "LENS_IMAGE_API_KEY"
"""Environment variable for an image server's key; OpenAI's key is never sent to such a server."""

_NO_KEY = "no-key"
_SAME_NAME = {name: name for name in ("seed", "num_inference_steps", "negative_prompt")}


class ServerDialect(Value):
    """What a kind of server supports beyond prompt and size.

    Attributes:
        name: Name of the kind.
        capabilities: What it supports.
        fields: Names in requests of `seed`, `num_inference_steps`, `guidance_scale` and
            `negative_prompt`, as far as supported.
        response_format: The reply format to request; None leaves it to the server. Both formats are
            accepted in replies.
    """

    name: str
    capabilities: Capabilities
    fields: dict[str, str] = Field(default_factory=dict)
    response_format: Literal["b64_json", "url"] | None = None

    @model_validator(mode="after")
    def _claims_have_fields(self) -> Self:
        able = self.capabilities
        claimed = {
            "seed": able.seed,
            "num_inference_steps": able.steps,
            "guidance_scale": able.guidance,
            "negative_prompt": able.negative_prompt,
        }
        if unknown := sorted(self.fields.keys() - claimed.keys()):
            raise ValueError(f"unknown settings: {unknown}; known: {sorted(claimed)}")
        if unsent := [name for name, said in claimed.items() if said and name not in self.fields]:
            raise ValueError(f"{unsent} are claimed and have no name in 'fields': never sent")
        if able.seed and able.max_images > 1:
            raise ValueError(
                f"max_images={able.max_images}: one seed is sent per call, so only the first "
                "image would have its own"
            )
        return self


PLAIN = ServerDialect(
    name="plain", capabilities=Capabilities(sizes=None, max_images=10, extra=("quality", "style"))
)
"""Only the protocol's own fields: prompt, number and size."""

_DIFFUSION = Capabilities(
    seed=True,
    negative_prompt=True,
    steps=True,
    guidance=True,
    sizes=None,
    multiple_of=16,
    # A call has only one seed, so each image needs its own call.
    max_images=1,
)

VLLM_OMNI = ServerDialect(
    name="vllm-omni",
    capabilities=_DIFFUSION.model_copy(
        update={
            "extra": (
                "extra_params",
                "flow_shift",
                "generator_device",
                "guidance_scale",
                "lora",
                "output_format",
                "system_prompt",
                "true_cfg_scale",
            )
        }
    ),
    fields={**_SAME_NAME, "guidance_scale": "guidance_scale"},
    response_format="b64_json",
)
"""vLLM-Omni, which reads these fields at the top level of the request."""

SGLANG = ServerDialect(
    name="sglang",
    capabilities=_DIFFUSION.model_copy(
        update={"extra": ("background", "guidance_scale", "output_format", "true_cfg_scale")}
    ),
    fields={**_SAME_NAME, "guidance_scale": "guidance_scale"},
    response_format="b64_json",
)
"""SGLang Diffusion, which may reply with URLs."""

DIALECTS: Mapping[str, ServerDialect] = {d.name: d for d in (PLAIN, VLLM_OMNI, SGLANG)}
"""The dialects by name."""


class ImageServer(ImagesApiGenerator):
    """A `Generator` for an OpenAI-compatible image server.

    Settings that the dialect does not declare are refused here, because servers ignore unknown
    fields silently. For your own server, write a `ServerDialect`, or change an existing one with
    `model_copy`.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str,
        dialect: ServerDialect | Literal["plain", "vllm-omni", "sglang"] = PLAIN,
        api_key: str | SecretStr | None = None,
        guidance_field: str | None = None,
        image_prices: ImagePriceTable | None = None,
        retry: RetryPolicy | None = None,
        retry_lost_replies: bool = False,
        limits: Limits | None = None,
        max_concurrency: int = 1,
        on_unsupported: OnUnsupported = "raise",
    ) -> None:
        """Choose server and model.

        Args:
            model: Name of the model on the server.
            base_url: The API's base URL, usually ending in /v1.
            dialect: What the server supports.
            api_key: The key; None means `LENS_IMAGE_API_KEY`, if set, and never OpenAI's.
            guidance_field: Request field for `guidance_scale`, such as "true_cfg_scale"; None means
                "true_cfg_scale" for Qwen-Image, and the dialect's field for other models.
            image_prices: Image prices; None means the cost that a reply states (xAI's do), or else
                an unknown cost.
            retry: When to retry; None means `IMAGE_RETRY`.
            retry_lost_replies: Whether to retry calls whose reply was lost, too.
            limits: Rate limits of this model on this server; None keeps the current ones.
            max_concurrency: Maximum calls in flight; 1 for a server with one GPU.
            on_unsupported: Whether to refuse unsupported settings, or to drop them with a warning.

        Raises:
            GeneratorError: There is no dialect of that name.
        """
        connection = ImagesConnection(
            model,
            retry_lost_replies=retry_lost_replies,
            base_url=base_url,
            api_key=api_key or os.environ.get(SERVER_KEY_VARIABLE) or _NO_KEY,
            retry=retry,
            limits=limits,
            look_up_shutdown=False,
        )
        super().__init__(connection, image_prices or NO_IMAGE_PRICES)
        self._dialect = _dialect(dialect)
        self._fields = _fields(self._dialect, model, guidance_field)
        taken = self._fields.values()
        able = self._dialect.capabilities
        self._capabilities = able.model_copy(
            update={
                "on_unsupported": on_unsupported,
                "max_concurrency": max_concurrency,
                "extra": tuple(name for name in able.extra if name not in taken),
            }
        )

    @property
    def capabilities(self) -> Capabilities:
        """The capabilities that the dialect declares."""
        return self._capabilities

    @property
    def fingerprint(self) -> str:
        """The server and the names of its fields."""
        return f"{super().fingerprint} {self._dialect.name} {sorted(self._fields.items())}"

    def body(self, prompt: str, seeds: Sequence[int], settings: GenerationSettings) -> Json:
        """See `ImagesApiGenerator.body`."""
        asked = {
            "seed": seeds[0],
            "num_inference_steps": settings.num_inference_steps,
            "guidance_scale": settings.guidance_scale,
            "negative_prompt": settings.negative_prompt or None,
        }
        size = None if settings.width is None else f"{settings.width}x{settings.height}"
        body: Json = {
            "model": self.model,
            "prompt": prompt,
            "n": len(seeds),
            "size": size,
            "response_format": self._dialect.response_format,
            **{field: asked[name] for name, field in self._fields.items()},
            **settings.extra,
        }
        return {name: value for name, value in body.items() if value is not None}


def _dialect(choice: ServerDialect | str) -> ServerDialect:
    if isinstance(choice, ServerDialect):
        return choice
    if choice not in DIALECTS:
        raise GeneratorError(
            f"There is no server dialect {choice!r}.", hint=f"Choices: {', '.join(DIALECTS)}."
        )
    return DIALECTS[choice]


def _fields(dialect: ServerDialect, model: str, guidance_field: str | None) -> dict[str, str]:
    """Names in requests; the model decides what the guidance scale is called."""
    if "guidance_scale" not in dialect.fields:
        return dict(dialect.fields)
    usual = dialect.fields["guidance_scale"]
    if dialect in DIALECTS.values() and "qwen-image" in model.lower():
        usual = "true_cfg_scale"
    return {**dialect.fields, "guidance_scale": guidance_field or usual}
