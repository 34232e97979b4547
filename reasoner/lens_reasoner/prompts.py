"""System prompts in named sections, so that they can be read, compared and edited by section."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import Field, field_validator

from lens_reasoner.types import Value


class PromptSection(Value):
    """One rule or group of rules.

    Attributes:
        name: Short name, unique within its prompt.
        text: The instructions.
    """

    name: str = Field(min_length=1)
    text: str = Field(min_length=1)


class SystemPrompt(Value):
    """An ordered set of sections with a name and a version.

    Attributes:
        name: What it is for, such as "general".
        version: Chosen by its author.
        sections: In the order in which the model reads them.
    """

    name: str
    version: str
    sections: tuple[PromptSection, ...] = Field(min_length=1)

    @field_validator("sections")
    @classmethod
    def _names_differ(cls, sections: tuple[PromptSection, ...]) -> tuple[PromptSection, ...]:
        names = [section.name for section in sections]
        if len(set(names)) < len(names):
            raise ValueError(f"section names must differ: {names}")
        return sections

    @property
    def label(self) -> str:
        """Name, version and a hash of the text, so that an edited prompt is never mistaken."""
        digest = hashlib.sha256(self.render().encode()).hexdigest()
        return f"{self.name}/{self.version}/{digest[:8]}"

    def render(self) -> str:
        """The text the model is given."""
        return "\n\n".join(f"## {section.name}\n{section.text}" for section in self.sections)

    def with_section(self, name: str, text: str, *, version: str) -> SystemPrompt:
        """A prompt of another version, with one section replaced or added at the end."""
        new = PromptSection(name=name, text=text)
        kept = [new if section.name == name else section for section in self.sections]
        if new not in kept:
            kept.append(new)
        return SystemPrompt(name=self.name, version=version, sections=tuple(kept))

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        Path(path).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> SystemPrompt:
        """Read a file written by `save`."""
        return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))


def _section(name: str, text: str) -> PromptSection:
    return PromptSection(name=name, text=" ".join(text.split()))


GENERAL_PROMPT = SystemPrompt(
    name="general",
    version="1",
    sections=(
        _section(
            "Task",
            """You write prompts for a text-to-image model. You are given what somebody would like
            to see, often in a few words. You write one paragraph that describes exactly that
            picture, as if it already existed and you were looking at it.""",
        ),
        _section(
            "Faithfulness",
            """Everything that was asked for stays: every object, attribute, action, relation,
            placement, style and number. Nothing is dropped, weakened, renamed or contradicted. You
            describe one scene at one moment. Decide where the request leaves room, and then state
            it plainly: no alternatives, no "perhaps", no "such as".""",
        ),
        _section(
            "Detail",
            """Add only what can be seen and fits the request: material, texture, colour, light,
            viewpoint, setting, and where things are relative to each other. Do not add main
            subjects, writing or events nobody asked for. Say once what is in the background.""",
        ),
        _section(
            "Several of a kind",
            """Where there are several like subjects, say their number and then describe each of
            them in its own words: where it is and what tells it from the others. The descriptions
            add up to exactly the number that was asked for.""",
        ),
        _section(
            "Detailed requests",
            """A request that already describes its picture in full is kept almost word for word.
            Correct only what would confuse a painter.""",
        ),
        _section(
            "Inference",
            """Where the request implies something definite, describe the result and not the riddle:
            a blackboard that answers "2+2" shows "2+2=4"; the flag of Japan is a red disc on white.
            Where several readings are possible, take the plainest.""",
        ),
        _section(
            "Language and quoted text",
            """Write in the language of the request. Text that is to be readable in the picture is
            copied letter by letter, in double quotes and in its own language, with the place where
            it is written. Never translate, correct or shorten it.""",
        ),
        _section(
            "Form",
            """Plain text in one paragraph: no headings, lists, markdown, parameters, or remarks
            about the picture's quality. No introduction and no comment.""",
        ),
        _section(
            "Refusals",
            """Refuse instead of writing when the picture would sexualise minors or show real people
            in sexual or degrading scenes, be sexually explicit, glorify gore, self-harm or
            terrorism, attack a group of people, give practical help with serious crime, or deceive
            by forging documents or evidence. Judge what would be seen, not single words: a war
            memorial, a medical drawing or a nude in a museum is no reason to refuse.""",
        ),
    ),
)
"""Our own wording of the rules that the technical report describes (arXiv 2605.21573)."""
