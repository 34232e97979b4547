"""Detecting replies that repeat the model's instructions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lens_reasoner.prompts import SystemPrompt

SECRET_RUN = 60
"""Length of a run of letters and digits that no prompt shares with instructions by chance."""

EDITABLE_RUN = 120
"""The same for editable sections, which may prescribe phrases to be used verbatim."""


class LeakDetector:
    """Finds runs of instructions in replies, ignoring spaces and punctuation.

    Translated, paraphrased or encoded instructions are not found.
    """

    def __init__(self, secret: Sequence[str], editable: Sequence[str] = ()) -> None:
        """Store what must not be repeated.

        Args:
            secret: Texts of which a run of `SECRET_RUN` characters is a leak.
            editable: Texts of which a run of `EDITABLE_RUN` characters is a leak.
        """
        self._runs = {
            size: {run for text in texts for run in _runs(text, size)}
            for size, texts in ((SECRET_RUN, secret), (EDITABLE_RUN, editable))
        }

    @classmethod
    def of_prompt(cls, contract: str, prompt: SystemPrompt) -> LeakDetector:
        """A detector for a contract and a prompt whose protected sections are secret."""
        kept = (section.text for section in prompt.sections if section.protected)
        return cls([contract, *kept], [section.text for section in prompt.editable])

    def leaks(self, reply: str, *, request: str) -> bool:
        """Whether `reply` repeats instructions that are not in `request`."""
        return any(
            not known.isdisjoint(set(_runs(reply, size)) - set(_runs(request, size)))
            for size, known in self._runs.items()
        )


def _runs(text: str, size: int) -> Iterator[str]:
    letters = "".join(letter for letter in text.casefold() if letter.isalnum())
    return (letters[start : start + size] for start in range(len(letters) - size + 1))
