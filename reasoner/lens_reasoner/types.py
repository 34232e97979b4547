"""Values that pass between reasoner, generator, judge and loop.

All are frozen pydantic models that survive a trip through JSON unchanged.
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
"""Largest seed: every JSON reader keeps integers up to here exact."""

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
"""Why a request is refused; "provider" means that the model's own safety layer answered."""


class Value(BaseModel):
    """Base of the frozen values: unknown fields and non-finite numbers are refused."""

    # Built on first use, to keep the import of the package fast.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


class Usage(Value):
    """What calls to a paid or metered model consumed.

    Unknown is None, never zero, and a sum with an unknown part is unknown.

    Attributes:
        input_tokens: Tokens read, cached ones included.
        output_tokens: Tokens written, hidden reasoning included.
        cached_tokens: Those input tokens that came from the provider's cache.
        usd: Cost in US dollars.
    """

    input_tokens: int | None = Field(default=None, ge=0)
    output_tokens: int | None = Field(default=None, ge=0)
    cached_tokens: int | None = Field(default=None, ge=0)
    usd: float | None = Field(default=None, ge=0)

    @classmethod
    def zero(cls) -> Usage:
        """Nothing consumed: what offline parts report, and where a sum starts."""
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
    """Base of values that users write by name: a name there is not is told with what may be meant.

    Attributes:
        MEANT: What other places and libraries call some fields.
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
    """What the user asks for, in the user's own words.

    Attributes:
        text: The request; must hold more than white space.
        negative_prompt: What should not be in the image; empty means nothing.
        width: Width in pixels; None leaves the size to `aspect_ratio` and the generator.
        height: Height in pixels; given exactly when `width` is.
        aspect_ratio: Such as "3:4" (width to height); excludes `width` and `height`.
        seed: Seed of the first candidate; None lets the loop draw and record one.
        num_inference_steps: Sampler steps; None means the generator's default.
        guidance_scale: Classifier-free guidance; None means the generator's default.
        num_images: Candidates per round.
        extra: Settings that only some generators know, by the names of `Capabilities.extra`, such
            as {"quality": "low"} for OpenAI's images; any JSON values.
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
        """A request from text, or one with options in place of its own values.

        Raises:
            ValidationError: Something else, an option that is no field, or out of range.
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
                f"character {error.start + 1} is half of a surrogate pair, which no file or server "
                "takes; decode the text anew"
            ) from error
        return text

    @field_validator("text")
    @classmethod
    def _text_says_something(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("the request text is empty; say what the picture should show")
        return text

    @field_validator("aspect_ratio")
    @classmethod
    def _ratio_is_two_numbers(cls, ratio: str | None) -> str | None:
        if ratio is not None and not re.fullmatch(r"[1-9][0-9]{0,3}:[1-9][0-9]{0,3}", ratio):
            raise ValueError(f"aspect_ratio {ratio!r} is not of the form '3:4' (width:height)")
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
    """The error of options that are no fields, with those that may be meant."""
    fields = [name for name in cls.model_fields if name != "text"]

    def told(name: str) -> str:
        near = cls.MEANT.get(name) or next(iter(difflib.get_close_matches(name, fields, n=1)), None)
        question = f" Did you mean {near}?" if near else ""
        return f"There is no such option.{question} Options: {', '.join(fields)}"

    return ValidationError.from_exception_data(
        cls.__name__,
        [
            InitErrorDetails(
                type=PydanticCustomError("extra_forbidden", "{told}", {"told": told(name)}),
                loc=(name,),
                input=value,
            )
            for name, value in options.items()
        ],
    )


class GenerationSettings(Value):
    """How to draw, as handed to a generator and recorded with each image.

    Handed in, None means the generator's default; recorded, None means that the generator has no
    such setting.

    Attributes:
        width: Width in pixels.
        height: Height in pixels.
        num_inference_steps: Sampler steps.
        guidance_scale: Classifier-free guidance scale.
        negative_prompt: What should not be in the image.
        extra: Settings only this generator knows; any JSON values.
        dropped: What was asked for and not honoured, by name; only generators that warn instead of
            refusing leave anything here.
    """

    width: int | None = Field(default=None, ge=1)
    height: int | None = Field(default=None, ge=1)
    num_inference_steps: int | None = Field(default=None, ge=1)
    guidance_scale: float | None = Field(default=None, ge=0)
    negative_prompt: str = ""
    extra: JsonObject = {}
    dropped: JsonObject = {}


class RewriteIssue(Value):
    """Something a prompt was found to get wrong after it was written.

    Attributes:
        kind: "lost_quote": quoted text that is not in the prompt letter by letter;
            "other_language": the prompt is not in the request's language;
            "much_changed": a request that was detailed already does not shine through.
        detail: What exactly, such as the lost text.
    """

    kind: Literal["lost_quote", "other_language", "much_changed"]
    detail: str


class Rewrite(Value):
    """A request turned into one detailed prompt.

    Attributes:
        request: The request text that was rewritten.
        prompt: The prompt for the generator.
        model: Name of the model or method that wrote it.
        system_prompt_version: Version of the system prompt; empty where there is none.
        issues: What is still wrong with the prompt, by checks in code, after one more try.
        usage: What the rewriting consumed.
        seconds: How long it took.
    """

    request: str
    prompt: str = Field(min_length=1)
    model: str
    system_prompt_version: str = ""
    issues: tuple[RewriteIssue, ...] = ()
    usage: Usage = Usage()
    seconds: Seconds = 0.0


class Refused(Value):
    """A request that is not drawn; a value and not an error, decided before anything is drawn.

    Attributes:
        reason: One sentence for the user.
        category: What the request runs into.
        model: Name of the model or method that refused.
        usage: What the decision consumed.
        seconds: How long it took.
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
        kind: What sort of check it is.
        question: The check in one sentence, answerable with yes or no from the image alone.
        source: The words of the request it comes from; empty for global checks.
        weight: Its weight in the score.
        expected: The same check for judges that read data and not language, such as
            {"class": "cup", "count": 2} or {"text": "OPEN"}; empty if there is none.
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
        criteria: At least one, with different names.
        author: Who wrote it: a model's name, or a person.
        usage: What writing it consumed.
        seconds: How long writing it took.
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
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"criterion names must differ; used more than once: {twice}")
        return criteria
