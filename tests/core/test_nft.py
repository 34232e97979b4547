"""DiffusionNFT: closed forms of its parts, and short runs of the whole stage."""

import asyncio
import gc
import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lens_core import ParameterError
from lens_core.checkpoints.header import read_header
from lens_core.errors import NonFiniteError
from lens_core.nano import TASKS, render, sample_scene
from lens_core.training.nft.advantages import reward_targets
from lens_core.training.nft.loss import nft_loss
from lens_core.training.nft.policy import Policy, old_policy_decay
from lens_core.training.nft.rollout import plan
from lens_core.training.parallel import ReplicatedWeights
from lens_core.training.prompts import FilePrompts, NanoPrompts, Prompt, scene_facts
from lens_core.training.rewards import (
    FunctionReward,
    RewardQueue,
    Score,
    detector_score,
    load_reward,
)
from lens_core.training.roles import Role
from lens_core.training.workers import Workers
from tiny_components import tiny_transformer
from tiny_stages import tiny_rl

NAN = float("nan")


def test_targets_follow_the_formula() -> None:
    rewards = torch.tensor([0.0, 1.0, 0.5, 0.5])
    targets = reward_targets(rewards, 2, clip=5.0)
    deviation = np.std([0, 1, 0.5, 0.5]) + 1e-4
    expected = [0.5 - 0.05 / deviation, 0.5 + 0.05 / deviation, 0.5, 0.5]
    assert targets.values.tolist() == pytest.approx(expected)
    assert (targets.mean, targets.flat_groups) == (0.5, 0.5)


def test_missing_rewards_are_left_out_of_every_statistic() -> None:
    """A missing reward changes nothing for the others, neither their mean nor the deviation."""
    with_gap = reward_targets(torch.tensor([0.1, NAN, 0.9, 0.4, 0.2, NAN]), 3, clip=2.0)
    without = reward_targets(torch.tensor([0.1, 0.9, 0.4, 0.2]), 2, clip=2.0)
    assert with_gap.known.tolist() == [True, False, True, True, True, False]
    torch.testing.assert_close(with_gap.values[with_gap.known], without.values)
    assert with_gap.spread == pytest.approx(without.spread)
    assert with_gap.mean == pytest.approx(0.4)


def test_targets_are_clipped_to_the_unit_interval() -> None:
    targets = reward_targets(torch.tensor([1.0] + [0.0] * 199), 200, clip=5.0)
    assert targets.values[0] == 1.0
    assert targets.values[1:].min() > 0.45


def test_deviation_may_be_that_of_each_group() -> None:
    """Then a group's scale is of no importance."""
    rewards = torch.tensor([0.0, 1.0, 0.0, 0.01])
    targets = reward_targets(rewards, 2, clip=5.0, spread="group")
    assert targets.values[3] - 0.5 == pytest.approx(0.1, rel=0.05)
    assert targets.values[1] - 0.5 == pytest.approx(0.1, rel=0.05)


def test_step_without_any_reward_has_no_targets() -> None:
    targets = reward_targets(torch.tensor([NAN, NAN]), 2, clip=5.0)
    assert not targets.known.any()
    assert targets.values.tolist() == [0.5, 0.5]


# The loss.


def _problem(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    clean, noise, old = (torch.randn(3, 4, 2, generator=generator) for _ in range(3))
    timesteps = torch.tensor([0.2, 0.6, 1.0])
    t = timesteps[:, None, None]
    return {
        "old": old,
        "noisy": (1 - t) * clean + t * noise,
        "timesteps": timesteps,
        "clean": clean,
    }


def _gradient(velocity: Tensor, target: float, beta: float, **problem: Tensor) -> Tensor:
    leaf = velocity.clone().requires_grad_()
    targets = torch.full((3,), target)
    nft_loss(leaf, reference=None, targets=targets, beta=beta, **problem).policy.sum().backward()
    assert leaf.grad is not None
    return leaf.grad


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_gradient_vanishes_at_an_indifferent_target(beta: float) -> None:
    problem = _problem()
    gradient = _gradient(problem["old"], 0.5, beta, **problem)
    assert gradient.abs().max() < 1e-6


def test_gradient_is_antisymmetric_in_the_target() -> None:
    problem = _problem()
    up = _gradient(problem["old"], 0.8, 0.5, **problem)
    down = _gradient(problem["old"], 0.2, 0.5, **problem)
    torch.testing.assert_close(up, -down)
    assert up.abs().max() > 0.1


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_gradient_at_the_old_policy_has_its_closed_form(beta: float) -> None:
    """`(2 r - 1) * 2 (clean prediction - clean) * (-t) / (mean |error| * elements)`, any beta."""
    problem = _problem()
    t = problem["timesteps"][:, None, None]
    error = problem["noisy"] - t * problem["old"] - problem["clean"]
    scale = error.abs().mean(dim=(1, 2), keepdim=True) * error[0].numel()
    expected = (2 * 0.9 - 1) * 2 * error * -t / scale
    torch.testing.assert_close(_gradient(problem["old"], 0.9, beta, **problem), expected)


def test_positive_velocity_at_beta_one_is_the_policy_itself() -> None:
    """With target 1 the rollout policy has no part in the loss."""
    problem, velocity = _problem(), torch.ones(3, 4, 2)
    other = {**problem, "old": problem["old"] + 1}
    ones = torch.ones(3)
    first = nft_loss(velocity, reference=None, targets=ones, beta=1.0, **problem).policy
    second = nft_loss(velocity, reference=None, targets=ones, beta=1.0, **other).policy
    torch.testing.assert_close(first, second, atol=0, rtol=0)


def test_negative_velocity_at_beta_one_mirrors_the_policy() -> None:
    """With target 0, `v` counts as `2 old - v` does with target 1."""
    problem, velocity = _problem(), torch.ones(3, 4, 2)
    mirrored = 2 * problem["old"] - velocity
    low = nft_loss(velocity, reference=None, targets=torch.zeros(3), beta=1.0, **problem)
    high = nft_loss(mirrored, reference=None, targets=torch.ones(3), beta=1.0, **problem)
    torch.testing.assert_close(low.policy, high.policy)


def test_loss_grows_linearly_with_the_latents() -> None:
    problem, velocity = _problem(), torch.ones(3, 4, 2)
    larger = {n: x if n == "timesteps" else 3 * x for n, x in problem.items()}
    targets = torch.full((3,), 0.7)
    one = nft_loss(velocity, reference=None, targets=targets, beta=0.5, **problem).policy
    three = nft_loss(3 * velocity, reference=None, targets=targets, beta=0.5, **larger).policy
    torch.testing.assert_close(three, 3 * one)


def test_distances_to_reference_and_old_policy() -> None:
    problem, velocity = _problem(), torch.zeros(3, 4, 2)
    terms = nft_loss(
        velocity, reference=velocity + 2, targets=torch.full((3,), 0.5), beta=1.0, **problem
    )
    assert terms.kl.tolist() == [4.0, 4.0, 4.0]
    torch.testing.assert_close(terms.old_deviation, problem["old"].square().mean(dim=(1, 2)))


# The policy.


@pytest.mark.parametrize(
    ("kind", "updates", "decay"),
    [
        ("copy", 500, 0.0),
        ("linear_to_0_5", 0, 0.0),
        ("linear_to_0_5", 180, 0.18),
        ("linear_to_0_5", 900, 0.5),
        ("delayed_linear_to_0_999", 74, 0.0),
        ("delayed_linear_to_0_999", 95, 0.15),
        ("delayed_linear_to_0_999", 1000, 0.999),
    ],
)
def test_old_policy_decay(kind: str, updates: int, decay: float) -> None:
    assert old_policy_decay(kind, updates) == pytest.approx(decay)  # type: ignore[arg-type]


def test_policy_speaks_as_three_and_the_old_one_follows() -> None:
    policy = Policy.create(tiny_rl(), tiny_transformer())
    field = policy.field((2, 2))
    x, t = torch.randn(1, 4, 16), torch.tensor([0.5])
    base = tiny_transformer()(x, None, None, t, [(1, 2, 2)], False)[0]
    torch.testing.assert_close(field(x, t, None), base)
    with torch.no_grad():
        for parameter in policy.role.parameters.values():
            parameter.add_(0.1)
    changed = field(x, t, None)
    with policy.using("reference"):
        torch.testing.assert_close(field(x, t, None), base)
    with policy.using("old"):
        torch.testing.assert_close(field(x, t, None), base)
    assert (changed - base).abs().max() > 1e-3
    name = next(iter(policy.old))
    before = policy.old[name].detach().clone()
    policy.role.counts[0] = 250
    assert policy.advance() == 0.25
    expected = 0.25 * before + 0.75 * policy.role.parameters[name]
    torch.testing.assert_close(policy.old[name], expected)


def test_only_attention_gets_adapters_unless_asked() -> None:
    names = Policy.create(tiny_rl(), tiny_transformer()).role.parameters
    assert all(".attn." in name for name in names)
    more = tiny_rl(target_modules='["img_qkv", "w1", "w2", "w3"]')
    assert any("img_mlp.w1" in name for name in Policy.create(more, tiny_transformer()).old)
    with pytest.raises(ParameterError, match="nothing_like_it"):
        Policy.create(tiny_rl(target_modules='["nothing_like_it"]'), tiny_transformer())


def test_equal_adapters_give_equal_files(tmp_path: Path) -> None:
    """Whatever order the file's own writer and Python's sets would put things in."""
    policy = Policy.create(tiny_rl(), tiny_transformer())
    files = []
    for name in "abcdef":
        policy.save_adapter(tmp_path / name)
        files.append((tmp_path / name / "pytorch_lora_weights.safetensors").read_bytes())
    assert len(set(files)) == 1
    stated = read_header(tmp_path / "a" / "pytorch_lora_weights.safetensors").metadata
    modules = json.loads(stated["lora_adapter_metadata"])["target_modules"]
    assert modules == sorted(modules)


# Prompts, rewards and the plan of a step.


def test_facts_of_a_scene_hold_on_its_picture() -> None:
    rng = np.random.default_rng(1)
    scenes = [sample_scene(rng, task) for task in TASKS for _ in range(2)]
    scores = [detector_score(render(scene), scene_facts(scene)) for scene in scenes]
    assert np.mean([score.parts["strict"] for score in scores]) >= 0.9
    other = detector_score(render(scenes[0]), scene_facts(scenes[-1]))
    assert other.value < 0.7


def test_held_out_prompts_are_others() -> None:
    source = NanoPrompts(seed=3, brief_share=0.0)
    drawn = {prompt.text for step in range(5) for prompt in source.draw(step, 8)}
    assert len(drawn) == 40
    assert not drawn & {prompt.text for prompt in source.held_out(40)}
    assert source.draw(2, 8) == source.draw(2, 8)


def test_prompts_of_a_file_come_once_per_pass(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"p{i}", "n": i}) + "\n" for i in range(6)))
    source = FilePrompts(path, None, seed=0)
    passes = [[p.text for step in (2 * n, 2 * n + 1) for p in source.draw(step, 3)] for n in (0, 1)]
    assert [sorted(texts) for texts in passes] == [[f"p{i}" for i in range(6)]] * 2
    assert passes[0] != passes[1]
    assert source.draw(0, 1)[0].facts == {"n": int(passes[0][0][1:])}


def test_a_file_of_prompts_is_json_lines_in_utf8(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    for line in ('{"text": "no prompt"}', '{"prompt": ["a"]}', '{"prompt": " "}', r'"\ud800"'):
        path.write_text(line + "\n")
        with pytest.raises(ParameterError, match="line 1"):
            FilePrompts(path, None, seed=0)
    path.write_bytes(b'{"prompt": "\xff"}\n')
    with pytest.raises(ParameterError, match="is not UTF-8"):
        FilePrompts(path, None, seed=0)
    path.write_text("[" * 100_000)
    with pytest.raises(ParameterError, match="line 1"):
        FilePrompts(path, None, seed=0)
    # Signs that end a line for Python but not for JSON.
    path.write_bytes('{"prompt": "one\u2028two\x85three"}\n'.encode("utf-8-sig"))
    assert FilePrompts(path, None, seed=0).draw(0, 1)[0].text == "one\u2028two\x85three"


def test_rewards_are_asked_for_side_by_side_and_failures_stay_missing() -> None:
    async def score(image: Image.Image, prompt: Prompt) -> float | None:
        await asyncio.sleep(5.0 if prompt.text == "slow" else 0.1)
        if prompt.text == "bad":
            raise ValueError("unreadable")
        if prompt.text == "endless":
            return math.inf
        return None if prompt.text == "unsure" else 1.0

    queue = RewardQueue(FunctionReward(score), concurrency=20, timeout=1.0)
    started = time.monotonic()
    for index, text in enumerate(["good"] * 16 + ["bad", "unsure", "slow", "endless"]):
        queue.submit(index, Image.new("RGB", (8, 8)), Prompt(text))
    submitted = time.monotonic() - started
    scores = queue.collect()
    assert time.monotonic() - started < 4
    assert submitted < 1
    queue.close()
    assert [scores.by_index[i] for i in range(16)] == [Score(1.0)] * 16
    assert [scores.by_index[i] for i in (16, 17, 18, 19)] == [None] * 4
    assert scores.errors[0] == "ValueError: unreadable"
    assert "TimeoutError" in scores.errors[1]
    assert scores.errors[2] == "ValueError: the reward gave inf"


def test_calls_under_way_end_with_their_queue(caplog: pytest.LogCaptureFixture) -> None:
    """A run that fails drowned its error in remarks on calls that nobody waited for any more."""

    async def score(image: Image.Image, prompt: Prompt) -> float:
        await asyncio.sleep(60)
        return 1.0

    queue = RewardQueue(FunctionReward(score), concurrency=2, timeout=60)
    for index in range(4):
        queue.submit(index, Image.new("RGB", (8, 8)), Prompt("cup"))
    time.sleep(0.1)
    queue.close()
    del queue
    gc.collect()
    assert not caplog.records


def test_a_reward_may_be_anything_that_gives_an_awaitable() -> None:
    """Objects and functions that only return one were called, and never waited for."""

    class Judge:
        async def __call__(self, image: Image.Image, prompt: Prompt) -> float | None:
            return None if prompt.text == "unsure" else 0.5

    picture = Image.new("RGB", (8, 8))
    for function in (Judge(), lambda image, prompt: Judge()(image, prompt)):
        reward = FunctionReward(function)
        assert asyncio.run(reward.score(picture, Prompt("cup"))) == Score(0.5)
        assert asyncio.run(reward.score(picture, Prompt("unsure"))) is None


def test_detector_may_run_in_processes() -> None:
    rng = np.random.default_rng(4)
    scene = sample_scene(rng, "single_object")
    queue = RewardQueue(load_reward("nano", {"processes": 1}), concurrency=4, timeout=60)
    queue.submit(0, render(scene), Prompt("", scene_facts(scene)))
    assert queue.collect().by_index[0] == detector_score(render(scene), scene_facts(scene))
    queue.close()


@pytest.mark.parametrize("name", ["nowhere:factory", "tiny_rewards:nothing", "tiny_rewards"])
def test_reward_that_cannot_be_made_is_named(name: str) -> None:
    with pytest.raises(ParameterError, match=f"reward '{name}'"):
        load_reward(name, {})


def test_plan_deals_every_picture_once_and_mixes_sizes() -> None:
    config = tiny_rl(groups="12", images_per_prompt="12", batch_size="8")
    batches = plan(config, 7)
    assert sorted(i for batch in batches for i in batch.images) == list(range(144))
    assert {len(batch.images) for batch in batches} == {8}
    sizes = {batch.size for batch in batches for image in batch.images if image < 12}
    assert sizes == {(48, 64), (64, 48)}
    assert plan(config, 7) == batches
    assert plan(config, 8) != batches


def test_update_with_nan_changes_nothing_and_is_counted() -> None:
    network = torch.nn.Linear(2, 1, bias=False)
    weights = ReplicatedWeights.of(network, Workers(), torch.device("cpu"), torch.bfloat16)
    weight = weights.masters["weight"]
    before = weight.tolist()
    role = Role("policy", weights, torch.optim.AdamW([weight], lr=0.1), clip=1.0)
    role.learn(network(torch.tensor([[NAN, 1.0]], dtype=torch.bfloat16)).sum(), last=True)
    assert role.update()[1] is False
    assert weight.tolist() == before
    assert (role.updates, role.skipped) == (0, 1)
    role.learn(network(torch.ones(1, 2, dtype=torch.bfloat16)).sum(), last=True)
    assert role.update() == (pytest.approx(2**0.5), True)
    assert (weight.dtype, network.weight.dtype) == (torch.float32, torch.bfloat16)
    assert torch.equal(network.weight, weight.bfloat16())
    assert weight.tolist() != before


def test_only_updates_with_nan_in_a_row_stop_a_run() -> None:
    network = torch.nn.Linear(2, 1, bias=False)
    weights = ReplicatedWeights.of(network, Workers(), torch.device("cpu"), torch.float32)
    weight = weights.masters["weight"]
    role = Role("policy", weights, torch.optim.AdamW([weight], lr=0.1), clip=1.0)
    for value in (*[NAN] * 20, 1.0, *[NAN] * 20):
        weight.grad = torch.tensor([[value, 1.0]])
        role.update()
    assert (role.updates, role.skipped) == (1, 40)
    weight.grad = torch.tensor([[NAN, 1.0]])
    with pytest.raises(NonFiniteError, match="21 updates of policy in a row"):
        role.update()
