"""Stopping a study between calls, so that nothing paid for is lost."""

from __future__ import annotations

from lens_prompt_opt.errors import StudyInterruptedError


class StopSwitch:
    """Once pressed, no new call starts; calls in flight are finished and recorded.

    A user presses it to stop a run and resume it later. The study presses it when a service is
    down, so that the rest of a block is not paid for in vain.
    """

    def __init__(self) -> None:
        self._why: StudyInterruptedError | None = None

    def press(self, why: StudyInterruptedError | None = None) -> None:
        """Ask the study to stop; the first reason counts."""
        self._why = (
            self._why
            or why
            or StudyInterruptedError(
                "The study was stopped.",
                hint="Finished calls are recorded; run it again with the same run_dir to continue.",
            )
        )

    def check(self) -> None:
        """Do nothing, unless the switch was pressed.

        Raises:
            StudyInterruptedError: The switch was pressed.
        """
        if self._why is not None:
            raise self._why
