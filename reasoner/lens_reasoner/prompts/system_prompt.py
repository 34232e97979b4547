"""A system prompt as a value: sections, version, JSON and markdown."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import Field, ValidationError, field_validator

from lens_reasoner.errors import PromptFileError, ProtectedSectionError
from lens_reasoner.prompts import markdown
from lens_reasoner.text_files import read_text
from lens_reasoner.types import Value

_HEADING = "## "


class PromptSection(Value):
    """One rule or group of rules in a system prompt.

    Attributes:
        name: Short name on one line, unique within its prompt.
        text: The instructions; no line may start with "## ", which begins a section.
        protected: Whether people and programs that edit the prompt must leave the section
            unchanged.
    """

    name: str = Field(min_length=1)
    text: str = Field(min_length=1)
    protected: bool = False

    @field_validator("name")
    @classmethod
    def _name_is_a_heading(cls, name: str) -> str:
        if name != " ".join(name.split()) or markdown.PROTECTED_MARK in name:
            raise ValueError(f"the section name {name!r} is not one plain line")
        return name

    @field_validator("text")
    @classmethod
    def _text_is_no_heading(cls, text: str) -> str:
        text = markdown.plain_lines(text).strip()
        if not text:
            raise ValueError("the text of a section is empty")
        if any(line.startswith(_HEADING) for line in text.split("\n")):
            raise ValueError(
                f"a line of the section's text starts with {_HEADING!r}, which begins a new "
                "section; use '### ' for headings within a section"
            )
        return text


class SystemPrompt(Value):
    """An ordered set of sections with a name and a version.

    Attributes:
        name: Its purpose, such as "general".
        version: Version chosen by its author.
        sections: The sections in the order in which the model reads them.
    """

    name: str
    version: str
    sections: tuple[PromptSection, ...] = Field(min_length=1)

    @field_validator("name", "version")
    @classmethod
    def _is_one_line(cls, text: str) -> str:
        if text != " ".join(text.split()):
            raise ValueError(f"{text!r} is not one plain line")
        return text

    @field_validator("sections")
    @classmethod
    def _names_differ(cls, sections: tuple[PromptSection, ...]) -> tuple[PromptSection, ...]:
        names = [section.name for section in sections]
        if len(set(names)) < len(names):
            raise ValueError(f"section names must differ: {names}")
        return sections

    @property
    def label(self) -> str:
        """Name, version and a hash of the text, so that edited prompts can be told apart."""
        digest = hashlib.sha256(self.render().encode()).hexdigest()
        return f"{self.name}/{self.version}/{digest[:8]}"

    @property
    def editable(self) -> tuple[PromptSection, ...]:
        """The sections that are not protected."""
        return tuple(section for section in self.sections if not section.protected)

    def render(self) -> str:
        """The text that the model is given."""
        return "\n\n".join(f"{_HEADING}{section.name}\n{section.text}" for section in self.sections)

    def section(self, name: str) -> PromptSection:
        """The section called `name`.

        Raises:
            KeyError: There is none.
        """
        return {section.name: section for section in self.sections}[name]

    def with_section(self, name: str, text: str, *, version: str) -> SystemPrompt:
        """Return the prompt with one section replaced, or added at the end.

        Raises:
            ProtectedSectionError: The section is protected.
        """
        self._check_editable(name)
        new = PromptSection(name=name, text=text)
        kept = [new if section.name == name else section for section in self.sections]
        if new not in kept:
            kept.append(new)
        return SystemPrompt(name=self.name, version=version, sections=tuple(kept))

    def without_section(self, name: str, *, version: str) -> SystemPrompt:
        """Return the prompt without one section.

        Raises:
            KeyError: There is no such section.
            ProtectedSectionError: The section is protected.
        """
        self.section(name)
        self._check_editable(name)
        kept = tuple(section for section in self.sections if section.name != name)
        return SystemPrompt(name=self.name, version=version, sections=kept)

    def _check_editable(self, name: str) -> None:
        if any(section.protected for section in self.sections if section.name == name):
            raise ProtectedSectionError(
                f"Section {name!r} of prompt {self.name!r} is protected.",
                hint=f"These can be changed: {[section.name for section in self.editable]}.",
            )

    def save(self, path: str | Path) -> None:
        """Write JSON (.json) or markdown (.md).

        Raises:
            PromptFileError: The path has another suffix.
        """
        path = Path(path)
        match path.suffix:
            case ".json":
                text = self.model_dump_json(indent=2) + "\n"
            case ".md":
                text = self.to_markdown()
            case _:
                raise _unknown_suffix(path)
        path.write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> SystemPrompt:
        """Read a JSON or markdown file, written by `save` or by hand.

        Raises:
            PromptFileError: The file is not a system prompt.
            OSError: It cannot be read.
        """
        path = Path(path)
        if path.suffix not in {".json", ".md"}:
            raise _unknown_suffix(path)
        try:
            text = read_text(path)
            if path.suffix == ".md":
                return cls.from_markdown(text)
            return cls.model_validate_json(text)
        except ValueError as error:
            raise PromptFileError(
                f"{path} is not a system prompt: {_reason(error)}",
                hint="SystemPrompt.save shows the form of such files.",
            ) from error

    def to_markdown(self) -> str:
        """The prompt as markdown text."""
        sections = [(s.name, s.text, s.protected) for s in self.sections]
        return markdown.write(self.name, self.version, sections)

    @classmethod
    def from_markdown(cls, text: str) -> SystemPrompt:
        """Parse the markdown that `to_markdown` writes.

        Raises:
            ValueError: The text has another format.
        """
        name, version, sections = markdown.read(text)
        return cls(
            name=name,
            version=version,
            sections=tuple(
                PromptSection(name=heading, text=body, protected=protected)
                for heading, body, protected in sections
            ),
        )


def _unknown_suffix(path: Path) -> PromptFileError:
    return PromptFileError(
        f"{path} ends neither in .json nor in .md.", hint="Name the file after its format."
    )


def _reason(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
    return str(error)
