"""Optimise a reasoner's system prompt on many requests, without training."""

from lens_prompt_opt.budget import Budget, BudgetExhaustedError, SpendRow
from lens_prompt_opt.card import GainClaim, PromptCard, load_system_prompt
from lens_prompt_opt.cells import Cell, Outcome
from lens_prompt_opt.decisions import Decision
from lens_prompt_opt.desk import Desk
from lens_prompt_opt.edits import Candidate, Hypothesis, SectionEdit
from lens_prompt_opt.errors import (
    BudgetError,
    EditError,
    PromptOptError,
    PromptSetError,
    ProposalError,
    RunDirectoryError,
    StudyConfigError,
    StudyInterruptedError,
    StudyMismatchError,
    UnknownCostError,
)
from lens_prompt_opt.estimate import StudyEstimate, UnitPrices
from lens_prompt_opt.failures import ByKind, Failure, FailureClusterer, FailureMode, FailureReport
from lens_prompt_opt.gate import PairedSequentialGate
from lens_prompt_opt.guards import GuardRules
from lens_prompt_opt.library_proposer import LibraryEntry, LibraryProposer
from lens_prompt_opt.llm_clusterer import LLMClusterer
from lens_prompt_opt.llm_proposer import LLMProposer
from lens_prompt_opt.progress import ProgressCallback, StudyProgress
from lens_prompt_opt.proposer import ProposalBrief, Proposals, Proposer
from lens_prompt_opt.reasoners import PromptedReasoner
from lens_prompt_opt.requests import PromptSet, Splits, StudyRequest
from lens_prompt_opt.result import StudyResult
from lens_prompt_opt.statistics.intervals import BettingInterval, ClusterBootstrap, IntervalMethod
from lens_prompt_opt.statistics.multiplicity import EqualShares, ErrorSharing, OnlineFallback
from lens_prompt_opt.statistics.sequential import (
    BettingTest,
    Expectation,
    SequentialTest,
    SpendingTest,
    TestMethod,
)
from lens_prompt_opt.statistics.variance import VarianceLedger
from lens_prompt_opt.stopping import StopSwitch
from lens_prompt_opt.strategies.bootstrapped import BootstrappedExamples
from lens_prompt_opt.strategies.factorial import FactorialSearch
from lens_prompt_opt.strategies.gepa_engine import GepaEngine
from lens_prompt_opt.strategies.pareto import ParetoSearch
from lens_prompt_opt.strategies.protocol import Strategy
from lens_prompt_opt.strategies.random_search import RandomSearch
from lens_prompt_opt.strategies.rewrite_from_failures import RewriteFromFailures
from lens_prompt_opt.study import PromptStudy
from lens_prompt_opt.transfer import GeneratorMatrix, GeneratorPrompt, MatrixEntry, TransferLoss

__all__ = [
    "BettingInterval",
    "BettingTest",
    "BootstrappedExamples",
    "Budget",
    "BudgetError",
    "BudgetExhaustedError",
    "ByKind",
    "Candidate",
    "Cell",
    "ClusterBootstrap",
    "Decision",
    "Desk",
    "EditError",
    "EqualShares",
    "ErrorSharing",
    "Expectation",
    "FactorialSearch",
    "Failure",
    "FailureClusterer",
    "FailureMode",
    "FailureReport",
    "GainClaim",
    "GeneratorMatrix",
    "GeneratorPrompt",
    "GepaEngine",
    "GuardRules",
    "Hypothesis",
    "IntervalMethod",
    "LLMClusterer",
    "LLMProposer",
    "LibraryEntry",
    "LibraryProposer",
    "MatrixEntry",
    "OnlineFallback",
    "Outcome",
    "PairedSequentialGate",
    "ParetoSearch",
    "ProgressCallback",
    "PromptCard",
    "PromptOptError",
    "PromptSet",
    "PromptSetError",
    "PromptStudy",
    "PromptedReasoner",
    "ProposalBrief",
    "ProposalError",
    "Proposals",
    "Proposer",
    "RandomSearch",
    "RewriteFromFailures",
    "RunDirectoryError",
    "SectionEdit",
    "SequentialTest",
    "SpendRow",
    "SpendingTest",
    "Splits",
    "StopSwitch",
    "Strategy",
    "StudyConfigError",
    "StudyEstimate",
    "StudyInterruptedError",
    "StudyMismatchError",
    "StudyProgress",
    "StudyRequest",
    "StudyResult",
    "TestMethod",
    "TransferLoss",
    "UnitPrices",
    "UnknownCostError",
    "VarianceLedger",
    "load_system_prompt",
]
