"""Post-training: sharded over two processes against one, killed runs, older states."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lens_core import LensPipeline
from lens_core.errors import CheckpointError
from lens_core.training.config import load_config
from lens_core.training.distill.config import DistillConfig
from lens_core.training.distill.models import Models
from lens_core.training.nft.config import RLConfig
from lens_core.training.nft.policy import Policy
from lens_core.training.nft.rollout import plan
from lens_core.training.prompts import FilePrompts
from lens_core.training.role_states import RoleStates
from lens_core.training.roles import Role
from lens_core.training.stages import setting_value
from lens_core.training.workers import Workers
from tiny_components import tiny_pipeline, tiny_transformer
from tiny_stages import DISTILL, RL, apart, run, write_shard

PROMPTS = ("a cup", "a secret", "a star")
UNEVEN = {
    **RL,
    "groups": "3",
    "images_per_prompt": "2",
    "batch_size": "2",
    "sizes": "[[48, 64], [32, 32], [64, 48]]",
    "reward_options": '{"unscored": "secret"}',
    "steps": "2",
    "save_every": "1",
    "sample_every": "0",
    "evaluate_every": "2",
    "evaluate_prompts": "3",
    "evaluate_guidance": "[5.0]",
    "activation_checkpointing": "full",
}
PAIRS = {
    **DISTILL,
    "steps": "2",
    "critic_updates": "2",
    "save_every": "1",
    "activation_checkpointing": "full",
}
HALF = {"precision": "bfloat16", "activation_checkpointing": "selective", "steps": "1"}
JOBS: dict[str, dict[str, str]] = {
    "plain/rl": UNEVEN,
    "from_one/rl": {**UNEVEN, "sharding": "1"},
    "plain/distill": PAIRS,
    "from_one/distill": PAIRS,
    "spoilt/distill": {**PAIRS, **HALF},
    "gone/poisoned": {},
}
"""What two processes do. `from_one` goes on from a state of one process; `spoilt` meets a NaN."""


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """The jobs with what they start from."""
    root = tmp_path_factory.mktemp("start")
    tiny_pipeline().save_pretrained(root / "pipeline")
    prompts = root / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in PROMPTS))
    files = {"prompts": str(prompts), "held_out_prompts": str(prompts)}
    start = {"start": str(root / "pipeline")}
    return {
        name: {**job, **start, **(files if name.endswith("rl") else {})}
        for name, job in JOBS.items()
    }


@pytest.fixture(scope="module")
def root(jobs: dict[str, dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every job by one process in `one` and by two in `two`; plain ones, unended, in `killed`."""
    root = tmp_path_factory.mktemp("post")
    for name in ("one/plain", "two/plain", "two/from_one", "killed"):
        write_shard(root / name / "shards")
    for name in ("one/spoilt", "two/spoilt"):
        write_shard(root / name / "shards", spoilt=3)
    begun = {name: {**jobs[name], "steps": "1"} for name in ("from_one/rl", "from_one/distill")}
    run(root / "two", begun)
    alone = ("plain/rl", "plain/distill", "spoilt/distill")
    run(root / "one", {name: jobs[name] for name in alone})
    apart(root, jobs, {stage: jobs[f"plain/{stage}"] for stage in ("rl", "distill")})
    return root


@pytest.mark.parametrize("name", ["plain/rl", "from_one/rl", "plain/distill", "from_one/distill"])
def test_two_processes_learn_what_one_does(root: Path, name: str) -> None:
    """Every measure agrees step by step, weights at the end up to the order of sums.

    Also from a state of one process, and with copies instead of parts (`from_one/rl`).
    """
    alone, together = root / "one" / f"plain/{Path(name).name}", root / "two" / name
    assert records(together) == pytest.approx(records(alone), rel=1e-3, abs=1e-5)
    one, two = state(alone), state(together)
    assert one.keys() == two.keys()
    step = float(JOBS[name]["learning_rate"]) * int(JOBS[name]["steps"])
    # A bias before a norm of its channel alone has no gradient but rounding, which Adam enlarges.
    loose = {f"discriminator.parameter.heads.{head}.0.bias" for head in range(2)}
    for key in (key for key in one if "optimizer" not in key and key not in loose):
        # Adam turns rounding of tiny gradients into a small share of a whole step.
        torch.testing.assert_close(two[key], one[key], atol=0.05 * step, rtol=1e-4, msg=key)


def test_processes_share_unevenly_and_keep_pace(jobs: dict[str, dict[str, str]]) -> None:
    """The jobs have an odd number of batches, and some of them nothing to train on."""
    values = {name: json.loads(UNEVEN[name]) for name in ("groups", "images_per_prompt")}
    config = load_config(RLConfig, "nano", "rl", {**values, "batch_size": 2})
    source = FilePrompts(Path(jobs["plain/rl"]["prompts"]), None, config.seed)
    idle = 0
    for step in range(2):
        prompts, batches = source.draw(step, 3), plan(config, step)
        assert len(batches) == 3
        silent = {number for number, prompt in enumerate(prompts) if "secret" in prompt.text}
        idle += sum({image // 2 for image in batch.images} <= silent for batch in batches)
    assert idle > 0
    assert [Workers(rank, 4).deal("abcdef") for rank in (1, 2)] == [
        [("b", True), ("f", True)],
        [("c", True), ("a", False)],
    ]


def test_weights_lie_in_parts_and_adapters_once(root: Path) -> None:
    parts = list(stored(root / "two/plain/distill"))
    for name in ("student.parameter", "fake.optimizer", "average"):
        tail = ".img_in.weight" + (".exp_avg" if "optimizer" in name else "")
        assert [part[name + tail].shape for part in parts] == [(16, 16), (16, 16)]
    assert [p["discriminator.parameter.heads.0.0.weight"].shape[0] for p in parts] == [8, 8]
    whole = [name for part in stored(root / "two/plain/rl") for name in part]
    assert len(whole) == len(set(whole))
    assert {name.split(".")[0] for name in whole} == {"policy", "old", "average"}


def test_a_picture_with_nan_spoils_an_update_of_the_discriminator_for_all(root: Path) -> None:
    """In bfloat16; one process has the picture, both leave the update out and count it."""
    alone, together = (records(root / name / "spoilt/distill") for name in ("one", "two"))
    for found in (alone, together):
        assert [found[f"1.skipped.{role}"] for role in range(3)] == [0, 0, 1]
    for name in ("fake_loss", "matching_norm", "student_norm", "x0_std"):
        assert together[f"1.{name}"] == pytest.approx(alone[f"1.{name}"], rel=2e-2)
    weights = state(root / "two/spoilt/distill")
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_a_policy_gradient_with_nan_is_skipped_by_all(root: Path) -> None:
    folder = root / "two/gone/poisoned"
    outcomes = [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert outcomes == [[[False, 0, 1], [True, 1, 1]]] * 2
    assert_same_bits(*(load_file(folder / f"{rank}.safetensors") for rank in (0, 1)))


@pytest.mark.parametrize("stage", ["rl", "distill"])
def test_a_killed_run_ends_with_the_same_bits(
    root: Path, jobs: dict[str, dict[str, str]], stage: str
) -> None:
    """SIGKILL at whatever it was doing after its first state."""
    killed = root / "killed" / stage
    assert not (killed / "pipeline").exists()
    run(root / "killed", {stage: jobs[f"plain/{stage}"]})
    assert_same_bits(state(killed), state(root / "one/plain" / stage))


@pytest.mark.parametrize("stage", ["rl", "distill"])
def test_states_of_two_processes_and_of_the_older_form_are_read_by_one(
    root: Path, jobs: dict[str, dict[str, str]], stage: str, tmp_path: Path
) -> None:
    """The older form is one file in `state/`, with optimiser states numbered as parameters."""
    saved = state(root / "two/plain" / stage)
    roles, others = made(stage, jobs[f"plain/{stage}"])
    old = {}
    for name, tensor in saved.items():
        role, kind, rest = f"{name}..".split(".", 2)
        if kind == "optimizer":
            owner, _, entry = rest.rstrip(".").rpartition(".")
            (order,) = [list(r.parameters) for r in roles if r.name == role]
            old[f"{role}.optimizer.{order.index(owner)}.{entry}"] = tensor
        else:
            old[name] = tensor
    assert len(old) == len(saved)
    (tmp_path / "state").mkdir()
    save_file(old, tmp_path / "state" / "state.safetensors")
    (tmp_path / "state" / "state.json").write_text('{"step": 2}')
    for folder in (root / "two/plain" / stage, tmp_path):
        roles, others = made(stage, jobs[f"plain/{stage}"])
        states = RoleStates(folder, roles, others, Workers(), keep=2, fixed={})
        assert states.resume() == 2
        found = dict(others) | {n: t for role in roles for n, t in role.tensors().items()}
        assert_same_bits({name: tensor.detach() for name, tensor in found.items()}, saved)
        assert roles[0].updates == 2


def test_a_state_that_does_not_fit_is_refused(root: Path, jobs: dict[str, dict[str, str]]) -> None:
    roles, others = made("rl", {**jobs["plain/rl"], "rank": "2"})
    states = RoleStates(root / "one/plain/rl", roles, others, Workers(), keep=2, fixed={})
    with pytest.raises(CheckpointError, match="give the settings it was saved with"):
        states.resume()


def made(stage: str, settings: dict[str, str]) -> tuple[list[Role], dict[str, Tensor]]:
    """A stage's roles and other tensors as they are before the first step."""
    values = {name: setting_value(text) for name, text in settings.items()}
    if stage == "rl":
        policy = Policy.create(load_config(RLConfig, "nano", "rl", values), tiny_transformer())
        return [policy.role], policy.others()
    start = Path(settings["start"])
    config = load_config(DistillConfig, "nano", "distill", values)
    models = Models.create(config, start, LensPipeline.from_pretrained(start), Workers())
    return list(models.roles.values()), models.others()


def assert_same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def records(folder: Path) -> dict[str, float]:
    """The numbers of a log but its times, by step and name; of a step told twice, the last."""
    found: dict[str, float] = {}
    for line in (folder / "log.jsonl").read_text().splitlines():
        record = json.loads(line)
        found |= dict(numbers(str(record["step"]), record))
    return found


def numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, part in value.items():
            if "seconds" not in key:
                yield from numbers(f"{name}.{key}", part)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from numbers(f"{name}.{index}", part)
    elif value is not None:
        yield name, value


def stored(folder: Path, step: int | None = None) -> Iterator[dict[str, Tensor]]:
    """The files of a state, by default the last."""
    states = sorted((folder / "checkpoints").glob("step-*"))
    chosen = states[-1] if step is None else folder / "checkpoints" / f"step-{step:08d}"
    for file in sorted(chosen.glob("*.safetensors")):
        yield load_file(file)


def state(folder: Path, step: int | None = None) -> dict[str, Tensor]:
    """A state, its parts put together by rows."""
    found: dict[str, list[Tensor]] = {}
    for part in stored(folder, step):
        for name, tensor in part.items():
            found.setdefault(name, []).append(tensor)
    return {name: torch.cat(parts) if parts[0].ndim else parts[0] for name, parts in found.items()}
