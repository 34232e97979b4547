"""Which pictures of a call are sampled together: those of one size, as many as may be."""

from collections.abc import Sequence
from dataclasses import dataclass

from lens_core.errors import InvalidSizeError, ParameterError
from lens_core.sizes import base_of, read_size, validate_size

Size = tuple[int, int]
"""Height and width in pixels."""

Edge = int | Sequence[int] | None
"""Pixels for all prompts or for each; None is the checkpoint's own."""


@dataclass(frozen=True)
class SizeGroup:
    """Pictures of one size.

    Attributes:
        height: Pixels.
        width: Pixels.
        rows: Positions of the pictures among all of the call.
        prompts: The position of each picture's prompt.
    """

    height: int
    width: int
    rows: tuple[int, ...]
    prompts: tuple[int, ...]


def requested_sizes(
    height: Edge, width: Edge, size: str | Sequence[str] | None, own: Size, multiple: int
) -> list[Size]:
    """The sizes that a call names: one for all prompts, or one per prompt.

    Args:
        height: As the caller gave it.
        width: As the caller gave it.
        size: Names of sizes instead; see `read_size`.
        own: The checkpoint's height and width.
        multiple: Pixels per token side.

    Raises:
        InvalidSizeError: A size Lens cannot make.
        ParameterError: Size and edges together, or lists of different lengths.
    """
    if size is not None and (height is not None or width is not None):
        raise ParameterError("give size, or height and width, not both")
    if size is not None:
        if not isinstance(size, (str, list, tuple)):
            raise InvalidSizeError(f"size {size!r} must be a name like '16:9', or a list of them")
        names = [size] if isinstance(size, str) else list(size)
        sizes = [read_size(name, base_of(*own)) for name in names]
    else:
        heights, widths = _edges("height", height, own[0]), _edges("width", width, own[1])
        count = max(len(heights), len(widths))
        if {len(heights), len(widths)} - {1, count}:
            raise ParameterError(
                f"height has {len(heights)} values and width {len(widths)}; give one for all "
                "prompts or one each"
            )
        sizes = list(
            zip(
                heights * (count if len(heights) == 1 else 1),
                widths * (count if len(widths) == 1 else 1),
                strict=True,
            )
        )
    if not sizes:
        raise ParameterError("size is an empty list; give one for all prompts or one each")
    for high, wide in sizes:
        validate_size(high, wide, multiple)
    return sizes


def group_by_size(
    sizes: Sequence[Size], prompts: int, images_per_prompt: int, most: int | None = None
) -> list[SizeGroup]:
    """The pictures of a call in groups of one size, in the order in which sizes first appear.

    Args:
        sizes: One for all prompts, or one per prompt.
        prompts: How many there are.
        images_per_prompt: Pictures for each.
        most: Pictures of a group; None for no limit.

    Raises:
        InvalidSizeError: There is neither one size nor one per prompt.
    """
    if len(sizes) not in {1, prompts}:
        raise InvalidSizeError(
            f"there are {len(sizes)} sizes for {prompts} prompts; give one for all or one each"
        )
    of_prompts = list(sizes) * prompts if len(sizes) == 1 else list(sizes)
    groups = []
    for height, width in dict.fromkeys(of_prompts):
        members = [i for i, size in enumerate(of_prompts) if size == (height, width)]
        owners = tuple(i for i in members for _ in range(images_per_prompt))
        rows = tuple(i * images_per_prompt + k for i in members for k in range(images_per_prompt))
        step = most or len(rows)
        groups += [
            SizeGroup(height, width, rows[start : start + step], owners[start : start + step])
            for start in range(0, len(rows), step)
        ]
    return groups


def _edges(name: str, given: Edge, own: int) -> list[int]:
    if given is None:
        return [own]
    if isinstance(given, Sequence) and not isinstance(given, str):
        if not given:
            raise ParameterError(f"{name} is an empty list; give one for all prompts or one each")
        return list(given)
    return [given]
