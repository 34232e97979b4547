"""An offline reasoner that follows its system prompt literally."""

from __future__ import annotations

import time

from lens_core.nano.requests import parse_request
from lens_reasoner import ImageRequest, Rewrite, Usage
from lens_reasoner.prompts import SystemPrompt
from lens_sdk.models import package_version
from lens_sdk.nano_rules import read_rules
from lens_sdk.nano_writer import RuleWriter

_AUTHOR = "nano-rule-reasoner"


class NanoRuleReasoner:
    """Follows a system prompt literally, without a model.

    Its captions name what the request asks for. Everything else in them follows from the prompt:
    each sentence about numbers, colours, places, relations, sizes, the background and so on (see
    `nano_rules`) asks for that topic or forbids it. So a prompt can be good or bad for a generator,
    and the effect of every change to it can be explained.

    It replaces a language model where there is none. It shows what a prompt study does with real
    images, but not how well language models follow instructions.
    """

    def __init__(self, prompt: SystemPrompt) -> None:
        """Follow `prompt`."""
        self.system_prompt = prompt
        self._rules = read_rules(prompt)

    @property
    def fingerprint(self) -> str:
        """Identifies the writer, its version and the prompt it follows."""
        return f"{_AUTHOR} {package_version()} {self.system_prompt.label}"

    def with_system_prompt(self, prompt: SystemPrompt) -> NanoRuleReasoner:
        """Return a reasoner that follows another prompt."""
        return NanoRuleReasoner(prompt)

    async def rewrite(self, request: ImageRequest) -> Rewrite:
        """See `Reasoner.rewrite`; requests about anything outside the nano world are unchanged."""
        started = time.perf_counter()
        known = parse_request(request.text) is not None
        prompt = request.text
        if known:
            prompt = RuleWriter(request.text, self._rules, request.seed or 0).write()
        return Rewrite(
            request=request.text,
            prompt=prompt,
            model=_AUTHOR if known else "none: the request is outside the nano world",
            system_prompt_version=self.system_prompt.version,
            usage=Usage.zero(),
            seconds=time.perf_counter() - started,
        )
