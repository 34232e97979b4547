"""The text that image viewers and other generators read: prompt, negative prompt, a line of pairs.

It has the form that the AUTOMATIC1111 web interface made common. Everything before the last line
is the prompt, with the negative prompt after its own words; the last line counts as parameters
only with at least three pairs. A value with a comma, a colon or a line break is written as a JSON
string. A prompt that has such words at the start of a line itself cannot be told apart here; our
JSON can.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import JsonValue


def parameters_text(prompt: str, negative_prompt: str, pairs: Mapping[str, JsonValue]) -> str:
    """The text of one image; pairs whose value is None are left out."""
    lines = [prompt]
    if negative_prompt:
        lines.append(f"Negative prompt: {negative_prompt}")
    told = (f"{name}: {_quoted(value)}" for name, value in pairs.items() if value is not None)
    return "\n".join([*lines, ", ".join(told)])


def _quoted(value: JsonValue) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(c in text for c in ',:\n"') else text
