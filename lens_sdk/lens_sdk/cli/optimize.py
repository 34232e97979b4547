"""`lens optimize`: improves a reasoner's system prompt for a generator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lens_sdk.cli.choices import Strategy
from lens_sdk.cli.console import (
    GuidanceOption,
    JsonOption,
    StepsOption,
    err,
    parse_size,
    print_json,
    reports_errors,
)
from lens_sdk.cli.optimize_follow import follow_study, tell_study
from lens_sdk.cli.optimize_options import (
    AlphaOption,
    BudgetCallsOption,
    BudgetImagesOption,
    BudgetSecondsOption,
    BudgetUsdOption,
    ConcurrencyOption,
    EstimateOption,
    GatePicturesOption,
    ImageUsdOption,
    MinGainOption,
    ModelsOption,
    ProposerOption,
    RequestsOption,
    ResumeOption,
    SeedPromptOption,
    ShowPicturesOption,
    StrategyOption,
    StudyFolderOption,
    StudyJudgeOption,
    StudyReasonerOption,
    StudySeedOption,
    TestPicturesOption,
    UsualSizeOption,
)
from lens_sdk.cli.options import ExtraOption, checked_options, extra_settings
from lens_sdk.cli.saving import check_output

if TYPE_CHECKING:
    from lens_prompt_opt import PromptSet


@reports_errors
def optimize(
    requests: RequestsOption = None,
    models: ModelsOption = None,
    output: StudyFolderOption = None,
    resume: ResumeOption = None,
    budget_images: BudgetImagesOption = None,
    budget_usd: BudgetUsdOption = None,
    budget_seconds: BudgetSecondsOption = None,
    budget_calls: BudgetCallsOption = None,
    seed_prompt: SeedPromptOption = None,
    reasoner: StudyReasonerOption = None,
    judge: StudyJudgeOption = None,
    proposer: ProposerOption = None,
    strategy: StrategyOption = Strategy.FACTORIAL,
    alpha: AlphaOption = 0.05,
    min_gain: MinGainOption = 0.0,
    seed: StudySeedOption = 0,
    size: UsualSizeOption = None,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    extra: ExtraOption = None,
    gate_pictures: GatePicturesOption = 1,
    test_pictures: TestPicturesOption = 2,
    show_pictures: ShowPicturesOption = False,
    image_usd: ImageUsdOption = None,
    concurrency: ConcurrencyOption = 8,
    only_estimate: EstimateOption = False,
    as_json: JsonOption = False,
) -> None:
    """Improve the system prompt that rewrites requests.

    Edits are suggested, tried on some of the requests, and accepted only if images
    get better. The gain is then measured on unseen requests. Needs at least 16
    requests.

    Example: lens optimize --requests r.jsonl --out a --budget-images 900
    """
    from lens_prompt_opt import Budget
    from lens_sdk.optimize_run import OptimizeRun, StudyOrder
    from lens_sdk.settings import Settings

    limits = {
        "usd": budget_usd,
        "images": budget_images,
        "seconds": budget_seconds,
        "calls": budget_calls,
    }
    if resume is not None:
        if any((requests, models, output, seed_prompt, reasoner, judge, proposer)):
            raise typer.BadParameter("--resume only takes limits; the rest comes from the folder")
        run = OptimizeRun.resume(resume, budget=limits, provider=Settings.load().provider)
    else:
        if requests is None or output is None:
            raise typer.BadParameter("give --requests and --out, or --resume with a folder")
        if not any(limits.values()):
            raise typer.BadParameter("give a limit, such as --budget-images 1000")
        check_output(output)
        prompts = _requests(requests, size, steps, guidance, extra)
        settings = Settings.load(reasoner=reasoner, judge=judge, proposer=proposer)
        with checked_options():
            order = StudyOrder(
                generators=tuple(models or [settings.model]),
                reasoner=settings.reasoner,
                judge=settings.judge,
                rubric=settings.rubric,
                proposer=settings.proposer,
                strategy=strategy.value,
                budget=Budget.model_validate(limits),
                random_seed=seed,
                alpha=alpha,
                min_gain=min_gain,
                gate_pictures=gate_pictures,
                test_pictures=test_pictures,
                show_pictures=show_pictures,
                image_usd=image_usd,
                concurrency=concurrency,
            )
        run = OptimizeRun.begin(
            order,
            output,
            prompts=prompts,
            seed=seed_prompt or settings.prompt_for(settings.reasoner),
            provider=settings.provider,
        )
    with err.status("Looking at the parts"):
        estimate = run.estimate()
    err.print(str(estimate), markup=False, soft_wrap=True)
    if only_estimate:
        if as_json:
            print_json(estimate.model_dump(mode="json"))
        return
    with err.status("Loading"):
        run.load()
    tell_study(run, follow_study(run), as_json=as_json)


def _requests(
    path: Path,
    size: str | None,
    steps: int | None,
    guidance: float | None,
    extra: list[str] | None,
) -> PromptSet:
    """Read the requests of a file; the settings apply to those that do not set them."""
    from lens_prompt_opt import PromptSet

    prompts = PromptSet.load(path)
    if prompts.duplicates:
        err.print(f"{prompts.duplicates} duplicate requests were left out.")
    width, height = parse_size(size)
    wanted = {
        "width": width,
        "height": height,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "extra": extra_settings(extra) or None,
    }
    with checked_options():
        return prompts.with_defaults({name: v for name, v in wanted.items() if v is not None})
