"""Operations counted against torch's counter, memory against what training keeps, and plans."""

import json
from collections.abc import Callable

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from lens_core.errors import ParameterError
from lens_core.training.blocks import prepare_blocks
from lens_core.training.config import PostTrainingConfig
from lens_core.training.dry_run import dry_run, encoding_flops
from lens_core.training.flops import forward_flops, training_flops
from lens_core.training.network import Denoiser
from lens_core.training.plan import plan_training, planned_config
from lens_core.training.post_plan import plan_post_training
from lens_sdk.cli import app
from tiny_training import MODEL, tiny_config

GRID = (8, 10)
TEXT = 24


def network() -> Denoiser:
    torch.manual_seed(0)
    config = tiny_config(align_block=None, model={**MODEL, "num_layers": 4})
    made = Denoiser(config)
    prepare_blocks(made.blocks, config)
    return made


def forward(made: Denoiser, text: int = TEXT, batch: int = 2) -> torch.Tensor:
    return made(
        torch.randn(batch, GRID[0] * GRID[1], 16),
        torch.rand(batch),
        torch.randn(2, batch, text, 16),
        torch.ones(batch, text, dtype=torch.bool),
        GRID,
        None,
    )[0]


def test_operations_are_those_that_run() -> None:
    """Forward to the last operation; backward twice that, but for the first layers' inputs."""
    made = network()
    with FlopCounterMode(display=False) as counter:
        velocity = forward(made)
    counted = counter.get_total_flops()
    model = {**MODEL, "num_layers": 4}
    assert counted == 2 * forward_flops(model, 80, TEXT)
    with FlopCounterMode(display=False) as counter:
        velocity.square().mean().backward()
    total = counted + counter.get_total_flops()
    assert total == pytest.approx(2 * training_flops(model, 80, TEXT), rel=0.01)


def test_operations_without_text() -> None:
    made = network()
    with FlopCounterMode(display=False) as counter:
        made.model(torch.randn(1, 80, 16), None, None, torch.rand(1), [(1, *GRID)], False)
    assert counter.get_total_flops() == forward_flops({**MODEL, "num_layers": 4}, 80, 0)


@pytest.mark.parametrize(("layers", "batch"), [(4, 2), (7, 3)])
def test_dry_run_counts_as_the_formula_does(layers: int, batch: int) -> None:
    model = {**MODEL, "num_layers": layers}
    run = dry_run(model, GRID, TEXT, batch)
    assert run.forward_flops == forward_flops(model, 80, TEXT)
    assert run.blocks == layers
    made = Denoiser(tiny_config(align_block=None, model=model))
    assert run.parameters == sum(p.numel() for p in made.parameters())


def test_activations_are_what_training_keeps() -> None:
    """Bytes that a real pass keeps, with another attention kernel, lie near the dry run's."""
    made, kept = network(), {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    for block in made.blocks:
        block.attn.backend = None
    for parameter in made.parameters():
        kept[parameter.untyped_storage()._cdata] = parameter
    weights = set(kept)
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        forward(made)
    real = sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in weights)
    run = dry_run({**MODEL, "num_layers": 4}, GRID, TEXT, 2, torch.float32)
    assert run.activation_bytes["none"] == pytest.approx(real, rel=0.1)
    sizes = run.activation_bytes
    assert sizes["full"] < sizes["selective"] < sizes["none"]


def test_the_reports_hours_fit_the_operations() -> None:
    """192K A100 hours for both stages mean an MFU that such trainings reach."""
    plans = []
    for preset in ("lens-512", "lens-mixed"):
        stage, config = planned_config(preset, None)
        plans.append(plan_training(config, stage, 128, "a100"))
    low, mixed = plans
    assert low.kinds[0].run.parameters == 4_104_225_152
    assert low.pictures == 400_000 * 3072
    assert low.accumulate == 1
    both = low.mfu_of(192_000) + mixed.mfu_of(192_000)
    assert 0.1 < both < 0.5
    assert mixed.batch_flops == pytest.approx(low.batch_flops, rel=0.15)


def test_days_memory_and_accumulation_follow_the_gpus() -> None:
    stage, config = planned_config("nano", "pretrain", {"steps": "100", "optimizer": "adamw"})
    few, many = (plan_training(config, stage, gpus, "A100") for gpus in (2, 64))
    assert few.total_flops == many.total_flops
    assert few.days == pytest.approx(32 * many.days)
    assert (few.accumulate, many.accumulate) == (64, 2)
    parameters = few.kinds[0].run.parameters
    assert few.memory.held["master weights"] == pytest.approx(4 * parameters / 2 / 1e9)
    assert few.memory.held["optimiser"] == pytest.approx(8 * parameters / 2 / 1e9)
    masters = [plan.memory.held["master weights"] for plan in (few, many)]
    assert masters[0] == pytest.approx(32 * masters[1])
    assert few.memory.activations == many.memory.activations
    assert few.gpu_hours * 3600 * 312e12 * 0.4 == pytest.approx(few.total_flops)


def test_a_stage_is_planned_on_the_denoiser_that_it_starts_from() -> None:
    """It was planned on the released one wherever the settings held no shape of their own."""
    stage, config = planned_config("nano-mixed", None, {"start": "lens-nano"})
    assert plan_training(config, stage, 1, "a100").kinds[0].run.parameters < 10_000_000


def _post(preset: str, **changes: str) -> PostTrainingConfig:
    config = planned_config(preset, None, changes)[1]
    assert isinstance(config, PostTrainingConfig)
    return config


def test_post_training_is_planned_at_full_size() -> None:
    """Weights, moments and adapters by hand."""
    few = plan_post_training(_post("lens-turbo"), 2, "h100")
    size, held = 4_104_225_152 / 1e9, few.memory.held
    assert few.parameters == 4_104_225_152
    assert held["master weights: student, fake score"] == pytest.approx(2 * 4 * size / 2)
    assert held["optimisers"] == pytest.approx(2 * 8 * size / 2)
    assert held["frozen teacher"] == pytest.approx(2 * size / 2)
    assert held["gradients of several batches, whole"] == pytest.approx(4 * size)
    assert not few.fits("full")
    policy = plan_post_training(_post("lens-rl", sharding="1"), 64, "a100")
    # Rank 64 on queries, keys and values (1536 to 4608) and outputs, of both streams.
    adapters = 48 * 2 * 64 * (1536 + 4608 + 2 * 1536) / 1e9
    assert policy.memory.held["frozen weights"] == pytest.approx(2 * size)
    assert policy.memory.held["optimiser"] == pytest.approx(8 * adapters)
    sizes = policy.memory.activations
    assert sizes["full"] < sizes["selective"] < sizes["none"]
    forward = forward_flops({}, 64 * 64, 150)
    assert policy.step_flops == pytest.approx(1152 * (10 + 9 * 4) * forward, rel=0.03)


def test_the_autoencoder_is_counted_by_area() -> None:
    assert encoding_flops((512, 512)) == pytest.approx(4 * encoding_flops((256, 256)), rel=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: planned_config("rl.json", None), "name its stage with --stage"),
        (lambda: planned_config("nano", "lora"), "stage 'lora' cannot be planned"),
        (lambda: plan_post_training(_post("lens-rl", sharding="3"), 8, "a100"), "sharding 3"),
        (lambda: plan_training(tiny_config(sharding=3), "x", 8, "a100"), "sharding 3"),
        (lambda: plan_training(tiny_config(), "x", 1, "v100"), "gpu 'v100' is not known"),
        (lambda: plan_training(tiny_config(), "x", 0, "a100"), "gpus 0"),
        (lambda: plan_training(tiny_config(), "x", 1, "a100", mfu=40), "mfu 40"),
    ],
)
def test_impossible_plans_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        call()


def test_the_command_prints_the_plan() -> None:
    result = CliRunner().invoke(
        app, ["train", "plan", "--config", "lens-512", "--gpus", "8", "--gpu", "h100"]
    )
    assert result.exit_code == 0, result.output
    for part in ("4,104,225,152", "1.229e+09", "batches of a step", "full (set)"):
        assert part in result.output
    told = json.loads(CliRunner().invoke(app, ["train", "plan", "--json"]).stdout)
    assert (told["parameters"], told["gpus"]) == (4104225152, 128)
    assert set(told["fits"]) == set(told["memory_gb"]["total"])
