"""The `parameters` text that image viewers read: prompt, negative prompt, and a line of pairs.

The format is that of the AUTOMATIC1111 web interface. Everything before the last line is the
prompt, with the negative prompt after the words "Negative prompt:". The last line only counts as
parameters if it has at least three pairs. A value with a comma, colon or line break is written as a
JSON string. The format is ambiguous for a prompt that itself has such words at the start of a line;
the `lens_sdk` metadata is not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import JsonValue


def parameters_text(prompt: str, negative_prompt: str, pairs: Mapping[str, JsonValue]) -> str:
    """The text for one image; pairs with value None are left out."""
    lines = [prompt]
    if negative_prompt:
        lines.append(f"Negative prompt: {negative_prompt}")
    shown = (f"{name}: {_quoted(value)}" for name, value in pairs.items() if value is not None)
    return "\n".join([*lines, ", ".join(shown)])


def _quoted(value: JsonValue) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(c in text for c in ',:\n"') else text
