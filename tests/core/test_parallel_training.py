"""Training on two processes, against the same training in one."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lens_core.errors import ParameterError
from lens_core.training.muon import orthogonalised
from lens_core.training.network import Denoiser
from lens_core.training.parallel import ReplicatedWeights, drawn_layers, place_weights
from lens_core.training.workers import Workers
from tiny_training import launch, losses, run, tiny_config

JOBS = {
    "muon": {"validate_every": 2, "sample_every": 4, "activation_checkpointing": "selective"},
    "adamw": {
        "optimizer": "adamw",
        "global_batch": 16,
        "steps": 2,
        "activation_checkpointing": "full",
    },
    "bfloat16": {"precision": "bfloat16", "accumulate": 2, "steps": 2},
    "copies": {"sharding": 1, "steps": 2},
    "odd": {"poisoned": [1], "textless": [2], "steps": 2},
    "from_one": {},
}
"""What two processes do; one process does the same with twice the batches per step."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Every job, by one process and by two. `from_one` goes on from a state of one process."""
    root = tmp_path_factory.mktemp("parallel")
    one, two = root / "one", root / "two"
    for name, job in JOBS.items():
        settings = dict(job)
        data = {key: settings.pop(key) for key in ("poisoned", "textless") if key in settings}
        settings.pop("sharding", None)
        if "global_batch" not in settings:
            settings["accumulate"] = 2 * settings.get("accumulate", 1)
        run(one / name, Workers(), tiny_config(**settings), **data)
    run(two / "from_one", Workers(), tiny_config(accumulate=2, steps=2))
    launch(JOBS, two)
    return one, two


@pytest.mark.parametrize(
    ("name", "share"), [("muon", 0.1), ("adamw", 1e-4), ("copies", 0.1), ("odd", 0.1)]
)
def test_two_processes_learn_what_one_does(
    folders: tuple[Path, Path], name: str, share: float
) -> None:
    """Losses agree step by step, weights at the end up to the order of sums.

    They are apart by a share of the way they went: Newton-Schulz in bfloat16 enlarges the last
    digits of small singular values, how far depends on the processor.
    """
    one, two = (folder / name for folder in folders)
    assert losses(two) == pytest.approx(losses(one), rel=1e-5, nan_ok=True)
    alone, together = state(one), state(two)
    assert alone.keys() == together.keys()
    torch.manual_seed(tiny_config().seed)
    for key, start in Denoiser(tiny_config()).named_parameters():
        moved = alone[f"average.{key}"] - start
        apart = together[f"average.{key}"] - alone[f"average.{key}"]
        assert apart.norm() <= share * moved.norm(), key


def test_two_processes_agree_in_bfloat16(folders: tuple[Path, Path]) -> None:
    one, two = (losses(folder / "bfloat16") for folder in folders)
    assert two == pytest.approx(one, rel=2e-3)


def test_weights_lie_in_parts(folders: tuple[Path, Path]) -> None:
    """Each process writes its half of a matrix, and only that."""
    parts = sorted((folders[1] / "muon" / "checkpoints" / "step-00000004").glob("*.safetensors"))
    shapes = [load_file(part)["master.model.img_in.weight"].shape for part in parts]
    assert shapes == [(16, 16), (16, 16)]
    copies = sorted((folders[1] / "copies" / "checkpoints" / "step-00000002").glob("*.safetensors"))
    whole = [name for part in copies for name in load_file(part)]
    assert len(whole) == len(set(whole))


def test_the_average_is_put_together_for_samples(folders: tuple[Path, Path]) -> None:
    folder = folders[1] / "muon"
    drawn, saved = load_file(folder / "samples" / "000004.safetensors"), state(folder)
    for name, tensor in drawn.items():
        assert torch.equal(tensor, saved[f"average.model.{name}"]), name


def test_validation_loss_is_the_same_on_two_processes(folders: tuple[Path, Path]) -> None:
    looks = []
    for folder in folders:
        records = [json.loads(x) for x in (folder / "muon" / "log.jsonl").read_text().splitlines()]
        looks.append([r["validation"]["loss"] for r in records if "validation" in r])
    assert len(looks[0]) == 2
    assert looks[1] == pytest.approx(looks[0], rel=1e-5)


def test_a_poisoned_step_is_skipped_by_all(folders: tuple[Path, Path]) -> None:
    """One process sees the NaN; both leave the step out, and both count it."""
    for folder in folders:
        lines = (folder / "odd" / "log.jsonl").read_text().splitlines()
        assert [json.loads(line)["skipped"] for line in lines] == [1, 1]


def test_a_run_of_one_process_goes_on_in_two(folders: tuple[Path, Path]) -> None:
    one, two = folders
    assert losses(two / "from_one") == pytest.approx(losses(one / "muon"), rel=1e-5)


def test_a_run_of_two_processes_goes_on_in_one(folders: tuple[Path, Path], tmp_path: Path) -> None:
    one, two = folders
    saved = two / "muon" / "checkpoints" / "step-00000002"
    (tmp_path / "checkpoints").mkdir()
    saved.rename(tmp_path / "checkpoints" / saved.name)
    run(tmp_path, Workers(), tiny_config(accumulate=2))
    assert losses(tmp_path) == pytest.approx(losses(one / "muon")[2:], rel=1e-5)


@pytest.mark.parametrize("shape", [(12, 7), (7, 12), (9, 9)])
def test_orthogonalisation_is_that_of_the_whole_optimiser(shape: tuple[int, int]) -> None:
    """To the bit, read off a step of `torch.optim.Muon` from zero without momentum."""
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weight = torch.zeros(shape, requires_grad=True)
    weight.grad = gradient.clone()
    torch.optim.Muon([weight], lr=1.0, weight_decay=0.0, momentum=0.0, nesterov=False).step()
    scale = max(1, shape[0] / shape[1]) ** 0.5
    expected = torch.zeros(shape).add_(orthogonalised(gradient.bfloat16()), alpha=-scale)
    assert torch.equal(weight.detach(), expected)


def test_sharded_weights_are_drawn_as_whole_ones_are() -> None:
    """Layers draw one by one in the order in which a whole model draws them."""
    config = tiny_config()
    torch.manual_seed(config.seed)
    whole = dict(Denoiser(config).named_parameters())
    drawn = dict(drawn_layers(config))
    assert drawn.keys() == whole.keys()
    assert all(torch.equal(drawn[name], whole[name]) for name in whole)


def test_processes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ParameterError, match="sharding 2 does not divide the 3 processes"):
        place_weights(tiny_config(sharding=2), Workers(0, 3), torch.device("cpu"))


def test_one_process_holds_whole_weights() -> None:
    weights = place_weights(tiny_config(), Workers(), torch.device("cpu"))
    assert isinstance(weights, ReplicatedWeights)


def state(folder: Path) -> dict[str, Tensor]:
    """The last state, its parts put together by rows."""
    newest = max((folder / "checkpoints").glob("step-*"))
    found: dict[str, list[Tensor]] = {}
    for file in sorted(newest.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            found.setdefault(name, []).append(tensor)
    return {name: torch.cat(parts) if parts[0].ndim else parts[0] for name, parts in found.items()}
