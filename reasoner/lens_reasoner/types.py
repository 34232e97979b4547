"""Values that pass between reasoner, generator, judge and loop.

All are frozen pydantic models that round-trip through JSON unchanged.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

MAX_SEED = 2**53 - 1
"""Largest seed: the largest integer up to which every JSON reader is exact."""

Seconds = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]


def _finite_json(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    json.dumps(value, allow_nan=False)
    return value


JsonObject = Annotated[dict[str, JsonValue], AfterValidator(_finite_json)]
Weight = Annotated[float, Field(gt=0, le=100)]

CriterionKind = Literal[
    "object",
    "count",
    "color",
    "position",
    "attribute",
    "text",
    "background",
    "relation",
    "structure",
    "other",
]
Answer = Literal["yes", "no", "cannot_tell"]
RefusalCategory = Literal[
    "sexual", "minors", "violence", "hate", "self_harm", "illegal", "privacy", "provider", "other"
]
"""Why a request was refused; "provider" means that the model's own safety filter refused it."""


class Value(BaseModel):
    """Base of all value types: frozen, and refuses unknown fields and non-finite numbers."""

    # Built on first use, which keeps importing the package fast.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


class Usage(Value):
    """What calls to a paid or metered model consumed.

    An unknown amount is None, never 0, and a sum with an unknown term is unknown.

    Attributes:
        input_tokens: Tokens read, including cached ones.
        output_tokens: Tokens written, including hidden reasoning.
        cached_tokens: Input tokens served from the provider's cache.
        usd: Cost in US dollars.
    """

    input_tokens: int | None = Field(default=None, ge=0)
    output_tokens: int | None = Field(default=None, ge=0)
    cached_tokens: int | None = Field(default=None, ge=0)
    usd: float | None = Field(default=None, ge=0)

    @classmethod
    def zero(cls) -> Usage:
        """Nothing consumed: the usage of offline parts, and the start of a sum."""
        return cls(input_tokens=0, output_tokens=0, cached_tokens=0, usd=0.0)

    @classmethod
    def total(cls, parts: Iterable[Usage]) -> Usage:
        """The sum of `parts`."""
        return sum(parts, start=cls.zero())

    def __add__(self, other: Usage) -> Usage:
        """Add field by field; unknown plus anything is unknown."""
        mine, theirs = self.model_dump(), other.model_dump()
        return Usage(
            **{
                name: None if value is None or theirs[name] is None else value + theirs[name]
                for name, value in mine.items()
            }
        )


class Options(Value):
    """Base of values that users write by hand: an unknown field gets a "did you mean" error.

    Attributes:
        MEANT: For names that other tools use, the field that is probably meant.
    """

    MEANT: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _knows_the_names(cls, given: Any) -> Any:
        if isinstance(given, dict) and (unknown := given.keys() - cls.model_fields.keys()):
            raise _no_such_options(
                cls, {str(name): given[name] for name in sorted(unknown, key=str)}
            )
        return given


class ImageRequest(Options):
    """What the user asks for, in their own words.

    Attributes:
        text: The request; must not be blank.
        negative_prompt: What should not be in the image; empty means nothing.
        width: Width in pixels; None leaves the size to `aspect_ratio` and the generator.
        height: Height in pixels; give both `width` and `height`, or neither.
        aspect_ratio: Width to height, such as "3:4"; cannot be combined with `width` and `height`.
        seed: Seed of the first candidate; None lets the loop choose one at random and record it.
        num_inference_steps: Sampler steps; None means the generator's default.
        guidance_scale: Classifier-free guidance; None means the generator's default.
        num_images: Candidates per round.
        extra: Settings that only some generators have, such as {"quality": "low"} for OpenAI's
            images. The names are those in the generator's `Capabilities.extra`; the values are any
            JSON.
    """

    MEANT: ClassVar[Mapping[str, str]] = {
        "guidance": "guidance_scale",
        "n": "num_images",
        "size": "width and height",
        "steps": "num_inference_steps",
    }

    text: str
    negative_prompt: str = ""
    width: int | None = Field(default=None, ge=1)
    height: int | None = Field(default=None, ge=1)
    aspect_ratio: str | None = None
    seed: Seed | None = None
    num_inference_steps: int | None = Field(default=None, ge=1)
    guidance_scale: float | None = Field(default=None, ge=0)
    num_images: int = Field(default=1, ge=1)
    extra: JsonObject = {}

    @classmethod
    def of(cls, request: ImageRequest | str, **options: Any) -> ImageRequest:
        """Make a request from text, or copy a request with some fields replaced.

        Raises:
            ValidationError: `request` is neither, or an option is unknown or out of range.
        """
        if isinstance(request, ImageRequest):
            return cls(**{**request.model_dump(), **options}) if options else request
        return cls(text=request, **options)

    @field_validator("text", "negative_prompt")
    @classmethod
    def _is_unicode(cls, text: str) -> str:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"character {error.start + 1} is half of a surrogate pair, which is not "
                "valid text; decode the request again"
            ) from error
        return text

    @field_validator("text")
    @classmethod
    def _text_says_something(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("the request text is empty; say what the image should show")
        return text

    @field_validator("aspect_ratio")
    @classmethod
    def _ratio_is_two_numbers(cls, ratio: str | None) -> str | None:
        if ratio is not None and not re.fullmatch(r"[1-9][0-9]{0,3}:[1-9][0-9]{0,3}", ratio):
            raise ValueError(f"aspect_ratio {ratio!r} does not have the form '3:4' (width:height)")
        return ratio

    @model_validator(mode="after")
    def _one_way_to_say_the_size(self) -> Self:
        if (self.width is None) != (self.height is None):
            raise ValueError(f"width {self.width} and height {self.height}: give both or neither")
        if self.aspect_ratio is not None and self.width is not None:
            raise ValueError(
                f"both a size ({self.width}x{self.height}) and aspect_ratio "
                f"{self.aspect_ratio!r} are given; give one of them"
            )
        return self


def _no_such_options(cls: type[Options], options: Mapping[str, Any]) -> ValidationError:
    """The error for unknown options, with the field that was probably meant."""
    fields = [name for name in cls.model_fields if name != "text"]

    def message(name: str) -> str:
        near = cls.MEANT.get(name) or next(iter(difflib.get_close_matches(name, fields, n=1)), None)
        question = f" Did you mean {near}?" if near else ""
        return f"There is no such option.{question} Options: {', '.join(fields)}"

    return ValidationError.from_exception_data(
        cls.__name__,
        [
            InitErrorDetails(
                type=PydanticCustomError("extra_forbidden", "{told}", {"told": message(name)}),
                loc=(name,),
                input=value,
            )
            for name, value in options.items()
        ],
    )


class GenerationSettings(Value):
    """How to generate an image, as passed to a generator and recorded with each image.

    As an argument, None means the generator's default; in a record, None means that the generator
    has no such setting.

    Attributes:
        width: Width in pixels.
        height: Height in pixels.
        num_inference_steps: Sampler steps.
        guidance_scale: Classifier-free guidance scale.
        negative_prompt: What should not be in the image.
        extra: Settings that only this generator has; any JSON values.
        dropped: Requested settings that were not applied, by name. Only generators that warn
            instead of refusing put anything here.
    """

    width: int | None = Field(default=None, ge=1)
    height: int | None = Field(default=None, ge=1)
    num_inference_steps: int | None = Field(default=None, ge=1)
    guidance_scale: float | None = Field(default=None, ge=0)
    negative_prompt: str = ""
    extra: JsonObject = {}
    dropped: JsonObject = {}


class RewriteIssue(Value):
    """A defect found in a prompt after it was written.

    Attributes:
        kind: "lost_quote": quoted text of the request is not in the prompt verbatim;
            "other_language": the prompt is not in the request's language; "much_changed": the
            request was detailed already, and the prompt departs from it.
        detail: The details, such as the lost text.
    """

    kind: Literal["lost_quote", "other_language", "much_changed"]
    detail: str


class Rewrite(Value):
    """A request turned into one detailed prompt.

    Attributes:
        request: The request text that was rewritten.
        prompt: The prompt for the generator.
        model: Name of the model or method that wrote it.
        system_prompt_version: Version of the system prompt; empty if there is none.
        issues: Defects that checks in code still found after one retry.
        usage: What rewriting consumed.
        seconds: Duration of rewriting.
    """

    request: str
    prompt: str = Field(min_length=1)
    model: str
    system_prompt_version: str = ""
    issues: tuple[RewriteIssue, ...] = ()
    usage: Usage = Usage()
    seconds: Seconds = 0.0


class Refused(Value):
    """A request that will not be generated: a value rather than an error, decided up front.

    Attributes:
        reason: One sentence for the user.
        category: The kind of content it was refused for.
        model: Name of the model or method that refused.
        usage: What the decision consumed.
        seconds: Duration of the decision.
    """

    reason: str
    category: RefusalCategory = "other"
    model: str = ""
    usage: Usage = Usage()
    seconds: Seconds = 0.0


class Criterion(Value):
    """One thing that must be true of the image.

    Attributes:
        name: Short name, unique within its rubric.
        kind: Kind of check.
        question: The check in one sentence, answerable with yes or no from the image alone.
        source: The part of the request it comes from; empty for checks of the image as a whole.
        weight: Weight in the score.
        expected: The same check as data, for judges that do not read language, such as {"class":
            "cup", "count": 2} or {"text": "OPEN"}; may be empty.
    """

    name: str = Field(min_length=1)
    kind: CriterionKind
    question: str = Field(min_length=1)
    source: str = ""
    weight: Weight = 1.0
    expected: JsonObject = {}


class Rubric(Value):
    """The criteria by which images for one request are judged.

    Attributes:
        request: The request text.
        criteria: At least one; names must be unique.
        author: Who wrote it: the name of a model, or "human".
        usage: What writing it consumed.
        seconds: Duration of writing.
    """

    request: str
    criteria: tuple[Criterion, ...] = Field(min_length=1)
    author: str = "human"
    usage: Usage = Usage.zero()
    seconds: Seconds = 0.0

    @field_validator("criteria")
    @classmethod
    def _names_differ(cls, criteria: tuple[Criterion, ...]) -> tuple[Criterion, ...]:
        names = [criterion.name for criterion in criteria]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"criterion names must differ; used more than once: {repeated}")
        return criteria
