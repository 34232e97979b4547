"""Rewrite, generate, judge and revise, for any image generator."""

from lens_reasoner.blocking import BlockingGenerator, FunctionGenerator, GenerationCancelled
from lens_reasoner.cache import Cache
from lens_reasoner.calibration import (
    Agreement,
    CalibrationReport,
    Distrusted,
    HumanLabel,
    Rate,
    TrustRule,
    calibrate,
    load_labels,
    recorded_verdicts,
)
from lens_reasoner.chat import ChatModel, ChatReply, ImagePart, Message, TextPart
from lens_reasoner.decisions import Decision, DecisionModel, DecisionReply, Question
from lens_reasoner.diagnosis import diagnose, prompt_problems
from lens_reasoner.errors import (
    CalibrationError,
    ChatError,
    GenerationRefusedError,
    GeneratorError,
    ImageFileError,
    ImageServiceError,
    JudgeError,
    LoopConfigError,
    MissingKeyError,
    MissingPackagesError,
    ModelNotFoundError,
    PriceTableError,
    PromptFileError,
    ProtectedSectionError,
    QuotaError,
    RateLimitedError,
    ReasonerError,
    RubricFileError,
    RunRecordError,
    TextOnlyError,
    UnsupportedSettingError,
    UnsupportedSettingWarning,
)
from lens_reasoner.events import (
    Diagnosed,
    Event,
    FidelityChecked,
    Finished,
    ImageReady,
    Judged,
    Revised,
    RewriteDone,
    RubricDone,
    StageFailed,
    StageFailure,
    Started,
    Step,
)
from lens_reasoner.fidelity import LexicalFidelity, LLMFidelity
from lens_reasoner.generator import (
    Capabilities,
    Generator,
    ImageEditor,
    OnUnsupported,
    SettingsChecker,
    SizeLimits,
    StepCallback,
    StepProgress,
)
from lens_reasoner.generators.diffusers import DiffusersGenerator
from lens_reasoner.generators.diffusers_presets import DiffusersPreset
from lens_reasoner.generators.image_prices import ImagePrice, ImagePriceTable
from lens_reasoner.generators.image_server import ImageServer, ServerDialect
from lens_reasoner.generators.openai_images import OpenAIImages
from lens_reasoner.gguf_chat import GgufChat, GgufReasoner
from lens_reasoner.gguf_model import GgufModel
from lens_reasoner.hints import RewriteHints
from lens_reasoner.image import GeneratedImage
from lens_reasoner.judge import Judge, RubricJudge
from lens_reasoner.judging import Ballot, ByDecisions, ExtraVotes, JudgeMode, OneCall, PerCriterion
from lens_reasoner.judging.view import ImageCost
from lens_reasoner.limits import Limits
from lens_reasoner.local_judges import (
    SAFE_CONTENT,
    SOUND_PICTURE,
    CompositeJudge,
    ImageStatistics,
    NsfwJudge,
    OcrJudge,
    StatisticsJudge,
    image_statistics,
)
from lens_reasoner.loop import AgentLoop
from lens_reasoner.loop_limits import LoopLimits
from lens_reasoner.moderation import Moderator
from lens_reasoner.openai_chat import OpenAIChat
from lens_reasoner.openai_decisions import OpenAIDecisions
from lens_reasoner.openai_moderation import OpenAIModerator
from lens_reasoner.parts import Fingerprinted
from lens_reasoner.prices import DECISION_PRICES, OPENAI_PRICES, Price, PriceTable
from lens_reasoner.prompts import (
    BUILTIN_PROMPTS,
    GENERAL_PROMPT,
    GENEVAL_PROMPT,
    ONEIG_PROMPT,
    REVISION_PROMPT,
    TEXT_PROMPT,
    PromptSection,
    SystemPrompt,
)
from lens_reasoner.reasoner import LLMReasoner, PassThrough, Reasoner
from lens_reasoner.record import RunHeader, RunRecord, RunStore
from lens_reasoner.retry import RetryPolicy
from lens_reasoner.reviser import LLMReviser
from lens_reasoner.revision import (
    FidelityChecker,
    FidelityFinding,
    FidelityReport,
    Problem,
    Reviser,
)
from lens_reasoner.rubric import STRUCTURE, LLMRubricWriter, RubricWriter
from lens_reasoner.rubric_files import load_rubric, save_rubric
from lens_reasoner.run_state import Candidate, LoopResult, RunState, fold_events
from lens_reasoner.settings import check_seeds, check_settings, settings_for
from lens_reasoner.shutdowns import ModelShutdownWarning, Shutdown, ShutdownWatch
from lens_reasoner.sync import run_sync
from lens_reasoner.types import (
    Criterion,
    GenerationSettings,
    ImageRequest,
    Refused,
    Rewrite,
    RewriteIssue,
    Rubric,
    Usage,
)
from lens_reasoner.verdict import CriterionVerdict, Opinion, Verdict, View

__all__ = [
    "BUILTIN_PROMPTS",
    "DECISION_PRICES",
    "GENERAL_PROMPT",
    "GENEVAL_PROMPT",
    "ONEIG_PROMPT",
    "OPENAI_PRICES",
    "REVISION_PROMPT",
    "SAFE_CONTENT",
    "SOUND_PICTURE",
    "STRUCTURE",
    "TEXT_PROMPT",
    "AgentLoop",
    "Agreement",
    "Ballot",
    "BlockingGenerator",
    "ByDecisions",
    "Cache",
    "CalibrationError",
    "CalibrationReport",
    "Candidate",
    "Capabilities",
    "ChatError",
    "ChatModel",
    "ChatReply",
    "CompositeJudge",
    "Criterion",
    "CriterionVerdict",
    "Decision",
    "DecisionModel",
    "DecisionReply",
    "Diagnosed",
    "DiffusersGenerator",
    "DiffusersPreset",
    "Distrusted",
    "Event",
    "ExtraVotes",
    "FidelityChecked",
    "FidelityChecker",
    "FidelityFinding",
    "FidelityReport",
    "Fingerprinted",
    "Finished",
    "FunctionGenerator",
    "GeneratedImage",
    "GenerationCancelled",
    "GenerationRefusedError",
    "GenerationSettings",
    "Generator",
    "GeneratorError",
    "GgufChat",
    "GgufModel",
    "GgufReasoner",
    "HumanLabel",
    "ImageCost",
    "ImageEditor",
    "ImageFileError",
    "ImagePart",
    "ImagePrice",
    "ImagePriceTable",
    "ImageReady",
    "ImageRequest",
    "ImageServer",
    "ImageServiceError",
    "ImageStatistics",
    "Judge",
    "JudgeError",
    "JudgeMode",
    "Judged",
    "LLMFidelity",
    "LLMReasoner",
    "LLMReviser",
    "LLMRubricWriter",
    "LexicalFidelity",
    "Limits",
    "LoopConfigError",
    "LoopLimits",
    "LoopResult",
    "Message",
    "MissingKeyError",
    "MissingPackagesError",
    "ModelNotFoundError",
    "ModelShutdownWarning",
    "Moderator",
    "NsfwJudge",
    "OcrJudge",
    "OnUnsupported",
    "OneCall",
    "OpenAIChat",
    "OpenAIDecisions",
    "OpenAIImages",
    "OpenAIModerator",
    "Opinion",
    "PassThrough",
    "PerCriterion",
    "Price",
    "PriceTable",
    "PriceTableError",
    "Problem",
    "PromptFileError",
    "PromptSection",
    "ProtectedSectionError",
    "Question",
    "QuotaError",
    "Rate",
    "RateLimitedError",
    "Reasoner",
    "ReasonerError",
    "Refused",
    "RetryPolicy",
    "Revised",
    "Reviser",
    "Rewrite",
    "RewriteDone",
    "RewriteHints",
    "RewriteIssue",
    "Rubric",
    "RubricDone",
    "RubricFileError",
    "RubricJudge",
    "RubricWriter",
    "RunHeader",
    "RunRecord",
    "RunRecordError",
    "RunState",
    "RunStore",
    "ServerDialect",
    "SettingsChecker",
    "Shutdown",
    "ShutdownWatch",
    "SizeLimits",
    "StageFailed",
    "StageFailure",
    "Started",
    "StatisticsJudge",
    "Step",
    "StepCallback",
    "StepProgress",
    "SystemPrompt",
    "TextOnlyError",
    "TextPart",
    "TrustRule",
    "UnsupportedSettingError",
    "UnsupportedSettingWarning",
    "Usage",
    "Verdict",
    "View",
    "calibrate",
    "check_seeds",
    "check_settings",
    "diagnose",
    "fold_events",
    "image_statistics",
    "load_labels",
    "load_rubric",
    "prompt_problems",
    "recorded_verdicts",
    "run_sync",
    "save_rubric",
    "settings_for",
]
