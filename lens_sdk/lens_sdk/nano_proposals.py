"""A poor prompt for the rule-following reasoner, and sections that improve it."""

from __future__ import annotations

from typing import Final

from lens_prompt_opt.library_proposer import LibraryEntry
from lens_reasoner.prompts import PromptSection, SystemPrompt

POOR_PROMPT: Final = SystemPrompt(
    name="nano",
    version="poor",
    sections=(
        PromptSection(
            name="Role",
            text="You turn a user's request into the prompt of an image generator.",
            protected=True,
        ),
        PromptSection(name="Fidelity", text="Name the things that the user asks for."),
        PromptSection(name="Mood", text="Set a mood."),
        PromptSection(name="Length", text="Answer with one short sentence."),
    ),
)
"""Asks for the objects and a mood, without their numbers, colours or places."""

NANO_LIBRARY: Final[tuple[LibraryEntry, ...]] = (
    LibraryEntry(
        "Counting",
        "Give the exact number of every kind of object.",
        ("count",),
        "a plural alone leaves the number open",
    ),
    LibraryEntry(
        "Colours",
        "Repeat the colours that the user asks for.",
        ("color",),
        "a colour that is not named is drawn at random",
    ),
    LibraryEntry(
        "Colours",
        "Give every object a colour.",
        ("color",),
        "descriptions are clearer if nothing is left open",
    ),
    LibraryEntry(
        "Places",
        "Say where in the picture each object is.",
        ("position", "count"),
        "objects with places of their own do not run into each other",
    ),
    LibraryEntry(
        "Relations",
        "Say how the objects lie to each other, if the user does.",
        ("position",),
        "a relation that is not named is drawn at random",
    ),
    LibraryEntry(
        "Sizes", "Give the size of all objects.", ("object",), "crowded objects must be smaller"
    ),
    LibraryEntry(
        "Sizes",
        "Draw objects as large as there is room for.",
        ("object",),
        "larger objects have clearer shapes",
    ),
    LibraryEntry(
        "Background",
        "Name a plain background.",
        ("object", "background"),
        "a busy background hides objects",
    ),
    LibraryEntry(
        "Rest", "Say that nothing else is in the picture.", ("count",), "it keeps extra objects out"
    ),
    LibraryEntry("Style", "Ask for a flat drawing style with outlines.", ("object",)),
    LibraryEntry("Parts", "Name the parts of the main object.", ("object",)),
    LibraryEntry(
        "Company", "Invent further things that suit the scene.", (), "it makes a richer scene"
    ),
    LibraryEntry("Language", "Write in plain British English.", (), "plain words are understood"),
    LibraryEntry("Length", "Take as many sentences as it needs.", (), "there is more to say"),
    LibraryEntry("Mood", "Set a mood and describe the atmosphere.", (), "pictures need feeling"),
    LibraryEntry("Mood", "", (), "feelings cannot be drawn"),
)
"""Good, useless and harmful sections in no order; their effect on images is not marked here."""
