"""Rewrite, generate, judge and revise, for any image generator."""

from lens_reasoner.blocking import BlockingGenerator, FunctionGenerator, GenerationCancelled
from lens_reasoner.chat import ChatModel, ChatReply, ImagePart, Message, TextPart
from lens_reasoner.decisions import Decision, DecisionModel, DecisionReply, Question
from lens_reasoner.errors import (
    ChatError,
    GenerationRefusedError,
    GeneratorError,
    ImageFileError,
    ImageServiceError,
    JudgeError,
    LoopConfigError,
    MissingKeyError,
    QuotaError,
    RateLimitedError,
    ReasonerError,
    UnsupportedSettingError,
    UnsupportedSettingWarning,
)
from lens_reasoner.events import (
    Candidate,
    Event,
    Finished,
    ImageReady,
    Judged,
    LoopResult,
    RewriteDone,
    RubricDone,
    RunState,
    StageFailed,
    StageFailure,
    Started,
    Step,
    fold_events,
)
from lens_reasoner.generator import (
    Capabilities,
    Generator,
    OnUnsupported,
    SizeLimits,
    StepCallback,
    StepProgress,
)
from lens_reasoner.image import GeneratedImage
from lens_reasoner.judge import Judge, RubricJudge
from lens_reasoner.loop import AgentLoop
from lens_reasoner.moderation import Moderator
from lens_reasoner.openai_chat import OpenAIChat
from lens_reasoner.prices import OPENAI_PRICES, Price, PriceTable
from lens_reasoner.prompts import GENERAL_PROMPT, PromptSection, SystemPrompt
from lens_reasoner.reasoner import LLMReasoner, PassThrough, Reasoner
from lens_reasoner.retry import RetryPolicy
from lens_reasoner.rubric import STRUCTURE, LLMRubricWriter, RubricWriter
from lens_reasoner.settings import check_seeds, check_settings, settings_for
from lens_reasoner.sync import run_sync
from lens_reasoner.types import (
    Criterion,
    GenerationSettings,
    ImageRequest,
    Refused,
    Rewrite,
    Rubric,
    Usage,
)
from lens_reasoner.verdict import CriterionVerdict, Verdict

__all__ = [
    "GENERAL_PROMPT",
    "OPENAI_PRICES",
    "STRUCTURE",
    "AgentLoop",
    "BlockingGenerator",
    "Candidate",
    "Capabilities",
    "ChatError",
    "ChatModel",
    "ChatReply",
    "Criterion",
    "CriterionVerdict",
    "Decision",
    "DecisionModel",
    "DecisionReply",
    "Event",
    "Finished",
    "FunctionGenerator",
    "GeneratedImage",
    "GenerationCancelled",
    "GenerationRefusedError",
    "GenerationSettings",
    "Generator",
    "GeneratorError",
    "ImageFileError",
    "ImagePart",
    "ImageReady",
    "ImageRequest",
    "ImageServiceError",
    "Judge",
    "JudgeError",
    "Judged",
    "LLMReasoner",
    "LLMRubricWriter",
    "LoopConfigError",
    "LoopResult",
    "Message",
    "MissingKeyError",
    "Moderator",
    "OnUnsupported",
    "OpenAIChat",
    "PassThrough",
    "Price",
    "PriceTable",
    "PromptSection",
    "Question",
    "QuotaError",
    "RateLimitedError",
    "Reasoner",
    "ReasonerError",
    "Refused",
    "RetryPolicy",
    "Rewrite",
    "RewriteDone",
    "Rubric",
    "RubricDone",
    "RubricJudge",
    "RubricWriter",
    "RunState",
    "SizeLimits",
    "StageFailed",
    "StageFailure",
    "Started",
    "Step",
    "StepCallback",
    "StepProgress",
    "SystemPrompt",
    "TextPart",
    "UnsupportedSettingError",
    "UnsupportedSettingWarning",
    "Usage",
    "Verdict",
    "check_seeds",
    "check_settings",
    "fold_events",
    "run_sync",
    "settings_for",
]
