"""A simulated proposer whose edits help, hurt or have no effect."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from lens_prompt_opt.edits import Hypothesis, SectionEdit
from lens_prompt_opt.failures import FailureMode
from lens_prompt_opt.proposer import ProposalBrief, Proposals
from lens_prompt_opt.simulation.world import SECTIONS, Directive, directives
from lens_reasoner.types import Usage


@dataclass(frozen=True)
class SimulatedProposer:
    """Aims at failure modes in proportion to their counts, and edits their sections.

    Attributes:
        helps: Probability that an edit helps.
        hurts: Probability that it hurts; otherwise it has no effect.
        gain: Mean strength of helpful edits, as a shift of the section's `gain`.
        harm: Mean strength of harmful edits.
        ceiling: Helpful edits add less the closer a section's gain is to this.
        side: Standard deviation of an edit's effect on criteria it does not aim at.
        spread: How much an edit's effect differs between requests.
        whole_sections: Sections edited at once when the whole prompt is rewritten.
        usd: Price of a call.
        name: Name for records.
    """

    helps: float = 0.4
    hurts: float = 0.3
    gain: float = 0.35
    harm: float = 0.3
    ceiling: float = 1.2
    side: float = 0.03
    spread: float = 0.2
    whole_sections: int = 3
    usd: float = 0.02
    name: str = "simulated"

    @classmethod
    def placebo(cls) -> SimulatedProposer:
        """A proposer whose edits change the wording and nothing else."""
        return cls(helps=0.0, hurts=0.0, side=0.0, spread=0.0, name="placebo")

    async def propose(self, brief: ProposalBrief, pictures: Mapping[str, bytes]) -> Proposals:
        """See `Proposer.propose`."""
        rng = random.Random(brief.seed)
        whole = brief.scope == "whole"
        edits = []
        for _ in range(brief.wanted):
            modes = _aims(brief, rng, self.whole_sections if whole else 1)
            sections: dict[str, SectionEdit] = {}
            for mode in modes:
                edit = self._edit(brief, mode, rng)
                sections.setdefault(edit.section, edit)
            edits.append(tuple(sections.values()))
        usage = Usage(input_tokens=0, output_tokens=0, cached_tokens=0, usd=self.usd)
        return Proposals(edits=tuple(edits), usage=usage, seconds=5.0)

    def _edit(
        self, brief: ProposalBrief, mode: FailureMode | None, rng: random.Random
    ) -> SectionEdit:
        kind = mode.kinds[0] if mode else None
        fitting = [name for name, kinds in SECTIONS.items() if kind in kinds]
        free = [name for name in SECTIONS if name not in brief.protected]
        section = rng.choice([name for name in fitting if name in free] or free)
        before = dict(directives(brief.prompt.render())).get(section, Directive(0, 0, 0, ""))
        after = Directive(
            gain=before.gain + self._shift(before.gain, rng),
            side=before.side + rng.gauss(0, self.side) if self.side else before.side,
            spread=self.spread,
            key=f"{rng.getrandbits(40):010x}",
        )
        there = any(known.name == section for known in brief.prompt.sections)
        return SectionEdit(
            section=section,
            kind="replace" if there else "add",
            text=f"Rules of {section}. {after.tag()}",
            hypothesis=Hypothesis(
                failure_mode=mode.name if mode else "",
                kinds=mode.kinds if mode else (),
                reason="the simulation said so",
            ),
        )

    def _shift(self, gain: float, rng: random.Random) -> float:
        luck = rng.random()
        if luck < self.helps:
            room = max(0.0, 1 - max(gain, 0.0) / self.ceiling)
            return room * abs(rng.gauss(self.gain, self.gain / 2))
        if luck < self.helps + self.hurts:
            return -abs(rng.gauss(self.harm, self.harm / 2))
        return 0.0


def _aims(brief: ProposalBrief, rng: random.Random, count: int) -> list[FailureMode | None]:
    """Different modes, sampled in proportion to how often they occur."""
    modes = list(brief.failures.worth_an_edit)
    aims: list[FailureMode | None] = []
    while modes and len(aims) < count:
        [mode] = rng.choices(modes, weights=[mode.count for mode in modes])
        modes.remove(mode)
        aims.append(mode)
    return aims or [None]
