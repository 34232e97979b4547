"""The simulated world behind OpenAI's protocols, on a loopback server with its moods."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lens_prompt_opt.simulation.evaluator import answers_of, hash_of, picture_of, rewrite_of
from lens_prompt_opt.simulation.world import SECTIONS, Directive, World
from reasoner.conftest import Call, LoopbackServer, Reply

IMAGE_TOKENS = 1056
TEXT_TOKENS = 20


@dataclass
class OpenAIWorld:
    """Answers as gpt-5.5 (rewrites, edits), gpt-4.1-mini (criteria, verdicts) and gpt-image-2.

    Attributes:
        server: The loopback server.
        world: What is behind it.
        busy_every: Every so many calls one is told to come again.
        judge_is_out: Whether the judge answers with status 503.
        outage_after: Verdicts after which it does.
        served: Calls answered with 200, by what they were about.
        most: Most calls in flight, by model.
    """

    server: LoopbackServer
    world: World
    busy_every: int = 9
    judge_is_out: bool = False
    outage_after: int | None = None
    served: Counter[str] = field(default_factory=Counter)
    refused: Counter[int] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._flying: Counter[str] = Counter()
        self._count = 0
        self.server.answer = self.answer

    def answer(self, call: Call) -> Reply:
        """The reply to any call."""
        model = call.body["model"]
        with self._lock:
            self._count += 1
            self._flying[model] += 1
            self.most[model] = max(self.most[model], self._flying[model])
            busy = self._count % self.busy_every == 0
        time.sleep(0.004)
        try:
            if busy:
                self.refused[429] += 1
                return self.server.error(429, "slow down", retry_after="0.02")
            return self._served(call)
        finally:
            with self._lock:
                self._flying[model] -= 1

    def _served(self, call: Call) -> Reply:
        if call.path.endswith("/images/generations"):
            self._note("generate")
            return self._picture(call.body["prompt"])
        system, user = (message["content"] for message in call.body["messages"][:2])
        schema = json.dumps(call.body["response_format"])
        if '"verdicts"' in schema:
            return self._verdict(user, call)
        if '"alternatives"' in schema:
            what, data = "propose", self._edits()
        elif '"criteria"' in schema:
            what, data = "rubric", self._criteria(json.loads(user)["request"])
        else:
            request = json.loads(user)["request"]
            rendered = system.partition("\n\n## Input and answer")[0]
            prompt = rewrite_of(self.world, rendered, request, 0)
            what = "rewrite"
            data = {"decision": "rewrite", "prompt": prompt, "reason": "", "category": "none"}
        self._note(what)
        return self.server.text("chat", json.dumps(data), model=call.body["model"])

    def _verdict(self, user: Any, call: Call) -> Reply:
        if self.outage_after is not None and self.served["judge"] >= self.outage_after:
            self.judge_is_out = True
        if self.judge_is_out:
            self.refused[503] += 1
            return self.server.error(503, "down for maintenance")
        url = user[1]["image_url"]["url"]
        picture = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
        shown = json.loads(str(picture.info["shown"]))
        request = shown["rewrite"].partition(", with ")[0]
        answers = answers_of(self.world, shown["rewrite"], request, shown["seed"], shown["met"])
        verdicts = []
        for line in user[0]["text"].splitlines():
            number, _, question = line.partition(". ")
            kind = question.removeprefix("Is the ").removesuffix(" right?")
            answer = answers.get(f"{kind} check", "yes")
            verdicts.append({"id": int(number), "evidence": f"{kind}: {answer}", "answer": answer})
        self._note("judge")
        text = json.dumps({"verdicts": verdicts})
        return self.server.text("chat", text, model=call.body["model"])

    def _picture(self, rewrite: str) -> Reply:
        request, seed = rewrite.partition(", with ")[0], hash_of(rewrite) % 1000
        met = picture_of(self.world, rewrite, request, seed)
        shown = PngInfo()
        shown.add_text("shown", json.dumps({"rewrite": rewrite, "seed": seed, "met": met}))
        buffer = io.BytesIO()
        Image.new("L", (1024, 1024), hash_of(rewrite) % 256).save(buffer, "PNG", pnginfo=shown)
        usage = {
            "input_tokens": TEXT_TOKENS,
            "input_tokens_details": {"text_tokens": TEXT_TOKENS, "image_tokens": 0},
            "output_tokens": IMAGE_TOKENS,
            "total_tokens": TEXT_TOKENS + IMAGE_TOKENS,
        }
        body = {
            "created": 1,
            "data": [{"b64_json": base64.b64encode(buffer.getvalue()).decode()}],
            "usage": usage,
        }
        return self.server.raw(json.dumps(body).encode())

    def _criteria(self, request: str) -> dict[str, Any]:
        return {
            "criteria": [
                {
                    "name": task.name,
                    "kind": task.kind,
                    "question": f"Is the {task.kind} right?",
                    "source": request,
                }
                for task in self.world.tasks(request)
            ]
        }

    def _edits(self) -> dict[str, Any]:
        """Good edits of sections in turn, a little better every time."""
        turn = self.served["propose"] + 1
        alternatives = []
        for section, kinds in SECTIONS.items():
            if not kinds:
                continue
            tag = Directive(min(0.4 + 0.2 * turn, 1.2), 0.0, 0.0, f"k{section}{turn}").tag()
            alternatives.append(
                {
                    "edits": [
                        {
                            "section": section,
                            "kind": "replace",
                            "text": f"Rules of {section}. {tag}",
                            "failure_mode": f"{kinds[0]} lost",
                            "criterion_kinds": list(kinds),
                            "reason": "it is left out",
                        }
                    ]
                }
            )
        return {"analysis": "much is left out", "alternatives": alternatives}

    def _note(self, what: str) -> None:
        with self._lock:
            self.served[what] += 1
