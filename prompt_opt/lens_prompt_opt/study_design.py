"""Everything that determines a study, in one value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lens_prompt_opt.budget import Budget, Ledger
from lens_prompt_opt.errors import require
from lens_prompt_opt.evaluation import EvaluationContext, Evaluator, EvaluatorFactory
from lens_prompt_opt.failures import ByKind, FailureClusterer
from lens_prompt_opt.gate import PairedSequentialGate
from lens_prompt_opt.guards import GuardRules
from lens_prompt_opt.journal import MemoryJournal
from lens_prompt_opt.proposer import Proposer
from lens_prompt_opt.requests import DEFAULT_SHARES, PromptSet, Splits
from lens_prompt_opt.statistics.intervals import ClusterBootstrap, IntervalMethod
from lens_prompt_opt.strategies.protocol import Strategy
from lens_reasoner.parts import fingerprint
from lens_reasoner.prompts import SystemPrompt


@dataclass(frozen=True, kw_only=True)
class StudyDesign:
    """The parts and settings of a study, with any evaluator.

    Attributes:
        evaluator: Creates what turns prompts and cells into scores.
        prompts: The requests.
        proposer: Suggests edits.
        strategy: How to search.
        gate: How a prompt is accepted.
        guards: Limits for every candidate.
        clusterer: Sorts failures into modes.
        interval: Method for the final confidence interval.
        confidence: Confidence of the final interval.
        test_pictures: Images per test request, prompt and generator.
        calibration_requests: Requests of the first block, from which the variance ledger is
            computed: two rewrites each, two images per rewrite, two judgements of one of them.
            Below 2 the block is skipped.
        shares: Shares of the search, selection and test split.
        own_share: With several generators, the share of the search images for the searches per
            generator, which start from the shared prompt; 0 skips these and the comparison across
            generators.
        show_pictures: Whether to show failed images to the proposer.

    Raises:
        StudyConfigError: A number is invalid.
    """

    evaluator: EvaluatorFactory
    prompts: PromptSet
    proposer: Proposer
    strategy: Strategy
    gate: PairedSequentialGate = field(default_factory=PairedSequentialGate)
    guards: GuardRules = field(default_factory=GuardRules)
    clusterer: FailureClusterer = field(default_factory=ByKind)
    interval: IntervalMethod = field(default_factory=ClusterBootstrap)
    confidence: float = 0.95
    test_pictures: int = 2
    calibration_requests: int = 8
    shares: Sequence[float] = DEFAULT_SHARES
    own_share: float = 0.5
    show_pictures: bool = False

    def __post_init__(self) -> None:
        """Check the numbers now, because otherwise a study would only fail at its end."""
        shares = self.shares
        for name, fine, rule in (
            ("confidence", 0 < self.confidence < 1, "between 0 and 1"),
            ("test_pictures", self.test_pictures >= 1, "at least 1"),
            ("own_share", 0 <= self.own_share < 1, "from 0 to below 1"),
            ("shares", len(shares) == 3 and min(shares) >= 0, "three shares, none below 0"),
        ):
            require(name, getattr(self, name), fine, rule)

    def data_hashes(self, splits: Splits) -> dict[str, str]:
        """SHA-256 of all requests and of each split."""
        return {"all": self.prompts.sha256, **splits.hashes()}

    def models(self, evaluator: Evaluator) -> dict[str, str]:
        """Names of all parts, by stage."""
        return {**evaluator.names, "propose": self.proposer.name}

    def idle_evaluator(self) -> Evaluator:
        """An evaluator for looking up names and numbers; it is never used to evaluate."""
        requests = {request.id: request for request in self.prompts.requests}
        ledger = Ledger(Budget(calls=1))
        return self.evaluator(EvaluationContext(requests, MemoryJournal(), ledger))

    def description(
        self, seed: SystemPrompt, splits: Splits, random_seed: int
    ) -> Mapping[str, Any]:
        """Everything that a study's result depends on except its budget, as JSON."""
        gate = self.gate
        return {
            "schema": 1,
            "seed_prompt": seed.model_dump(mode="json"),
            "data": self.data_hashes(splits),
            "models": self.models(self.idle_evaluator()),
            "strategy": {"name": self.strategy.name, **self.strategy.description},
            "gate": {
                "alpha": gate.alpha,
                "min_gain": gate.min_gain,
                "block_requests": gate.block_requests,
                "pictures": gate.pictures,
                "guard_requests": gate.guard_requests,
                "method": repr(gate.method),
                "sharing": repr(gate.sharing),
            },
            "guards": self.guards.model_dump(mode="json"),
            "proposer": fingerprint(self.proposer) or self.proposer.name,
            "clusterer": fingerprint(self.clusterer) or type(self.clusterer).__name__,
            "show_pictures": self.show_pictures,
            "interval": self.interval.name,
            "confidence": self.confidence,
            "test_pictures": self.test_pictures,
            "calibration_requests": self.calibration_requests,
            "shares": list(self.shares),
            "own_share": self.own_share,
            "random_seed": random_seed,
        }
