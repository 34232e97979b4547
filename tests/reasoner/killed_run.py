"""Runs the served world until its k-th event and is then killed: killed_run.py URL FOLDER K."""

import asyncio
import os
import signal
import sys

from lens_reasoner import Step
from served_world import REQUEST, served_loop


async def main(url: str, folder: str, last: int) -> None:
    seen = 0
    async for event in served_loop(url).stream(REQUEST, record=folder):
        seen += not isinstance(event, Step)
        if seen == last:
            os.kill(os.getpid(), signal.SIGKILL)


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
