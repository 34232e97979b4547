"""Ending a study between calls, so that nothing that is being paid for is lost."""

from __future__ import annotations

from lens_prompt_opt.errors import StudyInterruptedError


class StopSwitch:
    """Once pressed, no new call is begun; those under way are finished and kept.

    A user presses it to end a run that is to be resumed; the study presses it itself when a
    service is out, so that the rest of a block is not paid for in vain.
    """

    def __init__(self) -> None:
        self._why: StudyInterruptedError | None = None

    def press(self, why: StudyInterruptedError | None = None) -> None:
        """Ask for the end; the first reason counts."""
        self._why = (
            self._why
            or why
            or StudyInterruptedError(
                "The study was stopped.",
                hint="What was paid for is kept; run it again with the same run_dir to go on.",
            )
        )

    def check(self) -> None:
        """Go on, if it was not pressed.

        Raises:
            StudyInterruptedError: If it was.
        """
        if self._why is not None:
            raise self._why
