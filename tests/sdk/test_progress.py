"""What `lens create` shows while a run happens."""

import io

from rich.console import Console

from lens_reasoner import AgentLoop, FunctionGenerator
from lens_sdk.cli.progress import RunDisplay
from redness import REQUEST, RUBRIC, RednessJudge, paint


class Away(RednessJudge):
    async def judge(self, image, rubric):
        raise RuntimeError("away")


async def test_a_picture_whose_judge_was_away_is_counted_once(tmp_path) -> None:
    """Both the judge that was away and the one asked later counted: 4/2."""
    for judge in (Away(0), RednessJudge(99)):
        loop = AgentLoop(generator=FunctionGenerator(paint), judge=judge)
        events = [e async for e in loop.stream(REQUEST, rubric=RUBRIC, record=tmp_path)]
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with RunDisplay(console, rewrites=False) as display:
        for event in events:
            display.show(event)
    shown = console.file.getvalue().rpartition("Judging")[2]
    assert "2/2" in shown
