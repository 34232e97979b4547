"""The world of colour words behind a server: every part of the loop asks over the wire."""

import base64
import io
import json
from collections.abc import Sequence
from typing import Any

from PIL import Image
from pydantic import BaseModel

from lens_reasoner import (
    AgentLoop,
    Capabilities,
    Criterion,
    CriterionVerdict,
    FidelityFinding,
    FidelityReport,
    GeneratedImage,
    GenerationSettings,
    ImagePart,
    ImageRequest,
    LLMReasoner,
    LoopLimits,
    Message,
    OpenAIChat,
    Problem,
    RetryPolicy,
    Rewrite,
    Rubric,
    Usage,
    Verdict,
)
from word_world import COLORS, paint, seen

KEY = "sk-served-0123456789"
PAID = {"rewrite_done", "rubric_done", "fidelity_checked", "image_ready", "judged", "revised"}
REQUEST = ImageRequest(text="red, green and blue", seed=0, num_images=2)


class Words(BaseModel):
    words: list[str]


class Stated(BaseModel):
    stated: list[str]


class Revision(BaseModel):
    revision: str


class Sight(BaseModel):
    sight: list[str]


class ServedGenerator:
    """Draws two pictures at once, each by one call of an image server."""

    name = "served"
    capabilities = Capabilities(seed=True, max_concurrency=2)

    def __init__(self, url: str) -> None:
        self.url = url

    async def generate(
        self,
        prompt: str,
        *,
        seeds: Sequence[int],
        settings: GenerationSettings,
        on_step: Any = None,
    ) -> list[GeneratedImage]:
        from openai import AsyncOpenAI

        async with AsyncOpenAI(base_url=self.url, api_key=KEY, max_retries=0) as client:
            answer = await client.images.generate(
                prompt=prompt, model="painter", extra_body={"seed": seeds[0]}
            )
        data = base64.b64decode(answer.data[0].b64_json)
        return [
            GeneratedImage(
                data=data,
                seed=seeds[0],
                prompt=prompt,
                settings=settings,
                generator=self.name,
                usage=Usage(input_tokens=1, output_tokens=1, cached_tokens=0, usd=0.01),
            )
        ]


class ServedJudge:
    name = "served-judge"

    def __init__(self, chat: OpenAIChat) -> None:
        self.chat = chat

    async def judge(self, image: GeneratedImage, rubric: Rubric) -> Verdict:
        messages = [Message.user("What is there?", ImagePart(image.data))]
        reply = await self.chat.complete(messages, schema=Sight)
        sight = reply.parsed_as(Sight).sight
        return Verdict(
            image_sha256=image.sha256,
            verdicts=tuple(
                CriterionVerdict(criterion=c.name, answer="yes" if c.name in sight else "no")
                for c in rubric.criteria
            ),
            judge=self.name,
            usage=reply.usage,
        )


class ServedRubricWriter:
    fingerprint = "served-rubric"

    def __init__(self, chat: OpenAIChat) -> None:
        self.chat = chat

    async def write(self, request: ImageRequest) -> Rubric:
        reply = await self.chat.complete([Message.user(request.text)], schema=Words)
        return Rubric(
            request=request.text,
            criteria=tuple(
                Criterion(name=word, kind="color", question=f"Is there {word}?", source=word)
                for word in reply.parsed_as(Words).words
            ),
            usage=reply.usage,
        )


class ServedChecker:
    fingerprint = "served-checker"

    def __init__(self, chat: OpenAIChat) -> None:
        self.chat = chat

    async def check(self, request: ImageRequest, prompt: str, rubric: Rubric) -> FidelityReport:
        reply = await self.chat.complete([Message.user(prompt)], schema=Stated)
        stated = reply.parsed_as(Stated).stated
        findings = tuple(
            FidelityFinding(criterion=c.name, status="stated" if c.name in stated else "missing")
            for c in rubric.criteria
            if c.source
        )
        return FidelityReport(prompt=prompt, findings=findings, checker="s", usage=reply.usage)


class ServedReviser:
    fingerprint = "served-reviser"

    def __init__(self, chat: OpenAIChat) -> None:
        self.chat = chat

    async def revise(
        self, request: ImageRequest, current: Rewrite, problems: Sequence[Problem]
    ) -> Rewrite:
        asked = {"prompt": current.prompt, "problems": [[p.criterion, p.fault] for p in problems]}
        reply = await self.chat.complete([Message.user(json.dumps(asked))], schema=Revision)
        prompt = reply.parsed_as(Revision).revision
        return current.model_copy(update={"prompt": prompt, "usage": reply.usage})


def served_loop(url: str, **options: Any) -> AgentLoop:
    retry = RetryPolicy(attempts=1, timeout=10, deadline=20)
    chat = OpenAIChat("served", base_url=url, api_key=KEY, api="chat", retry=retry)
    return AgentLoop(
        **{
            "generator": ServedGenerator(url),
            "reasoner": LLMReasoner(chat),
            "judge": ServedJudge(chat),
            "rubric_writer": ServedRubricWriter(chat),
            "fidelity_checker": ServedChecker(chat),
            "reviser": ServedReviser(chat),
            "limits": LoopLimits(max_rounds=4),
            **options,
        }
    )


def answer(server: Any, call: Any) -> Any:
    """The server's side."""
    if call.path.endswith("/images/generations"):
        buffer = io.BytesIO()
        paint(call.body["prompt"], call.body["seed"]).save(buffer, format="PNG")
        picture = base64.b64encode(buffer.getvalue()).decode()
        return server.raw(json.dumps({"created": 1, "data": [{"b64_json": picture}]}).encode())
    return server.text("chat", json.dumps(_reply(call.body)))


def _reply(body: dict[str, Any]) -> dict[str, Any]:
    properties = body["response_format"]["json_schema"]["schema"]["properties"]
    content = body["messages"][-1]["content"]
    text = content if isinstance(content, str) else content[0].get("text", "")
    if "decision" in properties:
        return {"decision": "rewrite", "prompt": "red", "reason": "", "category": "none"}
    if "words" in properties:
        return {"words": list(COLORS)}
    if "stated" in properties:
        return {"stated": [word for word in COLORS if word in text]}
    if "sight" in properties:
        url = next(part["image_url"]["url"] for part in content if "image_url" in part)
        picture = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
        return {"sight": [word for word in COLORS if seen(picture, word)]}
    asked = json.loads(text)
    prompt = asked["prompt"]
    for word, fault in asked["problems"]:
        lost = fault == "reasoner"
        prompt = f"{prompt} {word}" if lost else prompt.replace(word, f"vivid {word}")
    return {"revision": prompt}
