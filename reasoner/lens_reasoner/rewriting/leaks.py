"""Whether a reply repeats the instructions that its author was given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lens_reasoner.prompts import SystemPrompt

SECRET_RUN = 60
"""Letters and figures in a row that no prompt shares with its instructions by chance."""

EDITABLE_RUN = 120
"""The same for sections that may prescribe phrases to be used as they are."""


class LeakDetector:
    """Finds longer runs of instructions in replies, however they are spaced or punctuated.

    Translated, paraphrased or encoded instructions are not found.
    """

    def __init__(self, secret: Sequence[str], editable: Sequence[str] = ()) -> None:
        """Learn what must not be repeated.

        Args:
            secret: Texts of which `SECRET_RUN` letters are too much.
            editable: Texts of which `EDITABLE_RUN` letters are too much.
        """
        self._runs = {
            size: {run for text in texts for run in _runs(text, size)}
            for size, texts in ((SECRET_RUN, secret), (EDITABLE_RUN, editable))
        }

    @classmethod
    def of_prompt(cls, contract: str, prompt: SystemPrompt) -> LeakDetector:
        """One for a contract and a prompt, of which the protected sections are secret."""
        kept = (section.text for section in prompt.sections if section.protected)
        return cls([contract, *kept], [section.text for section in prompt.editable])

    def leaks(self, reply: str, *, request: str) -> bool:
        """Whether `reply` repeats instructions beyond what `request` itself holds."""
        return any(
            not known.isdisjoint(set(_runs(reply, size)) - set(_runs(request, size)))
            for size, known in self._runs.items()
        )


def _runs(text: str, size: int) -> Iterator[str]:
    letters = "".join(letter for letter in text.casefold() if letter.isalnum())
    return (letters[start : start + size] for start in range(len(letters) - size + 1))
