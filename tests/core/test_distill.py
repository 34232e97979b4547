"""Few-step distillation: closed forms of its losses, and short runs of the whole stage."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Generator, Tensor, nn

from lens_core import ParameterError
from lens_core.noise_levels import linear_sigmas
from lens_core.sampling import compute_mu, make_sigmas
from lens_core.text_features import TextFeatures
from lens_core.training.distill import losses
from lens_core.training.distill.config import StudentSampler
from lens_core.training.distill.discriminator import Discriminator, Teacher, feature_maps
from lens_core.training.distill.schedule import StudentSchedule
from lens_core.training.distill.simulation import Simulation
from lens_core.training.fields import LensField, VelocityField, add_noise
from lens_core.training.renderer import Renderer
from tiny_components import tiny_pipeline, tiny_transformer

FLOOR = 1e3
"""A floor above every distance: gradients are then divided by it and nothing else."""


class Mixture:
    """The exact velocity where clean latents `[B, 1, 2]` are a mixture of round normals."""

    def __init__(self, centres: list[list[float]], weights: list[float], spread: float) -> None:
        self.centres, self.weights = torch.tensor(centres), torch.tensor(weights)
        self.spread = spread

    def __call__(self, latents: Tensor, timesteps: Tensor, text: TextFeatures | None) -> Tensor:
        t = timesteps[:, None, None]
        variance = (1 - t) ** 2 * self.spread**2 + t**2
        offset = latents - (1 - t) * self.centres
        odds = self.weights.log()[:, None] - offset.square().sum(-1, keepdim=True) / (2 * variance)
        clean = self.centres + (1 - t) * self.spread**2 / variance * offset
        return (latents - (odds.softmax(1) * clean).sum(1, keepdim=True)) / t

    def sample(self, count: int, generator: Generator) -> Tensor:
        which = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, 2, generator=generator)
        return (self.centres[which] + self.spread * noise)[:, None]


def _normal(m: float, s: float) -> Mixture:
    return Mixture([[m, m]], [1.0], s)


TEACHER = Mixture([[-1.5, 0.0], [1.5, 0.5]], [0.7, 0.3], 0.3)


def _schedule(mu: float = 0.5) -> StudentSchedule:
    plain = StudentSchedule.create(64, linear_sigmas(4))
    shifted = replace(plain, mu=mu).shift(torch.tensor(plain.levels)).tolist()
    return replace(plain, mu=mu, sigmas=(*shifted, 0.0))


# Noise levels.


@pytest.mark.parametrize("tokens", [64, 4096, 4232])
def test_student_steps_where_inference_steps(tokens: int) -> None:
    schedule = StudentSchedule.create(tokens, linear_sigmas(4))
    assert schedule.sigmas == tuple(make_sigmas(4, compute_mu(tokens, 4)).tolist())
    torch.testing.assert_close(
        schedule.shift(torch.tensor(schedule.levels)), torch.tensor(schedule.sigmas[:4])
    )


def test_matching_covers_the_full_range() -> None:
    schedule = _schedule()
    times = schedule.full_times(4000, 0.02, Generator().manual_seed(0))
    assert times.min() == pytest.approx(0.02)
    assert times.max() == pytest.approx(0.98)
    level = schedule.shift(torch.tensor(0.5))
    assert (times < level).float().mean() == pytest.approx(0.5, abs=0.01)
    # Half of the levels of a shift by 3 lie below 3 * 0.5 / (1 + 2 * 0.5).
    other = replace(schedule, score_shift=3.0)
    times = other.full_times(4000, 0.02, Generator().manual_seed(0))
    assert (times < 0.75).float().mean() == pytest.approx(0.5, abs=0.01)
    assert torch.equal(
        other.cleaner_times(9, 1, 0.02, Generator().manual_seed(0)),
        schedule.cleaner_times(9, 1, 0.02, Generator().manual_seed(0)),
    )


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_augmentation_stays_on_the_cleaner_side(step: int) -> None:
    """Uniform before the shift from 0 to the student's own level."""
    schedule = _schedule()
    times = schedule.cleaner_times(4000, step, 0.02, Generator().manual_seed(0))
    assert times.max() <= schedule.sigmas[step]
    assert times.max() > 0.97 * schedule.sigmas[step]
    middle = schedule.shift(torch.tensor(schedule.levels[step] / 2))
    assert (times < middle).float().mean() == pytest.approx(0.5, abs=0.01)


# Gradients.


def test_matching_gradient_has_its_closed_form() -> None:
    """Between normals at `a` (student) and `m` (teacher), `(a - m) t^2 / variance`."""
    a, m, s = 0.8, -0.3, 0.5
    sample = torch.full((4, 1, 2), a) + torch.randn(4, 1, 2)
    times = torch.tensor([0.1, 0.4, 0.7, 0.98])
    noisy = add_noise(sample, times, torch.randn(4, 1, 2))
    real, fake = (_normal(x, s)(noisy, times, None) for x in (m, a))
    t = times[:, None, None]
    expected = (a - m) * t**2 / ((1 - t) ** 2 * s**2 + t**2)
    found = losses.matching_gradient(sample, noisy, times, real, fake, FLOOR) * FLOOR
    torch.testing.assert_close(found, expected.expand(4, 1, 2), atol=1e-5, rtol=1e-4)
    clean = noisy - t * real
    normaliser = (sample - clean).abs().mean(dim=(1, 2), keepdim=True)
    scaled = losses.matching_gradient(sample, noisy, times, real, fake, 1e-9)
    torch.testing.assert_close(scaled * normaliser, found, atol=1e-5, rtol=1e-4)


def test_augmentation_gradient_leads_to_the_prompt() -> None:
    """Between normals at `c` (with prompt) and `u` (without), `(g - 1) (u - c) t^2 / variance`."""
    c, u, s, g = 1.0, -1.0, 0.5, 5.0
    sample, times = torch.zeros(3, 1, 2), torch.tensor([0.2, 0.5, 0.8])
    noisy = add_noise(sample, times, torch.randn(3, 1, 2))
    cond, uncond = (_normal(x, s)(noisy, times, None) for x in (c, u))
    t = times[:, None, None]
    expected = (g - 1) * (u - c) * t**2 / ((1 - t) ** 2 * s**2 + t**2)
    found = losses.augmentation_gradient(sample, noisy, times, cond, uncond, g, FLOOR) * FLOOR
    torch.testing.assert_close(found, expected.expand(3, 1, 2), atol=1e-4, rtol=1e-4)
    none = losses.augmentation_gradient(sample, noisy, times, cond, uncond, 1.0, FLOOR)
    assert none.abs().max() == 0


def test_both_gradients_together_match_the_guided_teacher() -> None:
    """At one time and one normaliser they are DMD with `uncond + g (cond - uncond)`."""
    sample, times = torch.randn(2, 1, 2), torch.tensor([0.3, 0.6])
    noisy = add_noise(sample, times, torch.randn(2, 1, 2))
    cond, uncond, fake = (_normal(x, 0.7)(noisy, times, None) for x in (1.0, -0.5, 0.2))
    guided = uncond + 5.0 * (cond - uncond)
    whole = losses.matching_gradient(sample, noisy, times, guided, fake, FLOOR)
    matching = losses.matching_gradient(sample, noisy, times, cond, fake, FLOOR)
    rest = losses.augmentation_gradient(sample, noisy, times, cond, uncond, 5.0, FLOOR)
    torch.testing.assert_close(matching + rest, whole)


def test_surrogate_loss_has_the_gradient_it_is_given() -> None:
    sample = torch.randn(3, 2, 2, requires_grad=True)
    gradient = torch.randn(3, 2, 2)
    losses.surrogate_loss(sample, gradient).backward()
    assert sample.grad is not None
    torch.testing.assert_close(sample.grad, gradient / 12)


def test_normaliser_has_a_floor() -> None:
    """Where the teacher agrees with the sample, nothing is blown up."""
    sample, times = torch.zeros(1, 1, 2), torch.tensor([0.5])
    fake = torch.full((1, 1, 2), -0.02)
    found = losses.matching_gradient(sample, sample, times, torch.zeros(1, 1, 2), fake, 0.05)
    assert found.flatten().tolist() == pytest.approx([0.2, 0.2])


def test_particles_flow_to_the_mixture() -> None:
    """With both scores exact, matching finds the weights and places of a 2-D mixture's modes."""
    generator = Generator().manual_seed(0)
    particles = torch.randn(256, 1, 2, generator=generator)
    schedule = _schedule()
    for _ in range(300):
        times = schedule.full_times(256, 0.02, generator)
        noisy = add_noise(particles, times, torch.randn(256, 1, 2, generator=generator))
        own = Mixture(particles[:, 0].tolist(), [1 / 256] * 256, 1e-3)
        real, fake = TEACHER(noisy, times, None), own(noisy, times, None)
        gradient = losses.matching_gradient(particles, noisy, times, real, fake, 0.05)
        particles = particles - 0.05 * gradient
    left = particles[..., 0] < 0
    assert left.float().mean() == pytest.approx(0.7, abs=0.08)
    assert particles[left].mean(0).tolist() == pytest.approx([-1.5, 0.0], abs=0.15)
    assert particles[~left].mean(0).tolist() == pytest.approx([1.5, 0.5], abs=0.15)
    assert float(particles[left].std()) > 0.2


# Adversarial losses.


def test_adversarial_losses_pull_apart_and_together() -> None:
    logit = torch.zeros(4, 2, requires_grad=True)
    losses.discriminator_loss(logit, torch.zeros(4, 2)).backward()
    assert logit.grad is not None
    assert (logit.grad < 0).all()
    assert losses.discriminator_loss(torch.zeros(1), torch.zeros(1)) == pytest.approx(
        2 * math.log(2)
    )
    assert losses.generator_loss(torch.tensor(2.0)) == pytest.approx(math.log1p(math.exp(-2)))
    assert losses.discriminator_loss(torch.tensor(9.0), torch.tensor(-9.0)) < 1e-3


def test_approximate_r1_is_the_squared_gradient() -> None:
    """For a linear discriminator `a x`, its mean is `gamma / 2 * noise^2 * |a|^2`."""
    a = torch.tensor([1.0, -2.0, 0.5])
    x = torch.randn(20_000, 3, generator=Generator().manual_seed(0))
    noise = 0.1 * torch.randn(20_000, 3, generator=Generator().manual_seed(1))
    found = losses.approximate_r1((x @ a)[:, None], ((x + noise) @ a)[:, None], gamma=2.0)
    assert found == pytest.approx(0.01 * 5.25, rel=0.05)


def test_discriminator_reads_the_teacher_and_changes_it_not() -> None:
    model = tiny_transformer(num_layers=3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected: list[Tensor] = []
    ran: list[int] = []
    teacher = Teacher(model, (0, 1))
    head = Discriminator(teacher.width, 2)
    model.transformer_blocks[1].register_forward_hook(
        lambda module, inputs, output: expected.append(output[0])
    )
    model.transformer_blocks[2].register_forward_hook(lambda *call: ran.append(2))
    noisy = torch.randn(2, 12, 16, requires_grad=True)
    times = torch.tensor([0.3, 0.7])
    text = TextFeatures(torch.randn(2, 2, 5, 16), torch.ones(2, 5, dtype=torch.bool))
    maps = feature_maps(teacher, noisy, times, text, (4, 3), torch.float32)
    assert ran == []
    velocity = LensField(teacher, (4, 3), torch.float32)(noisy, times, text)
    assert torch.equal(velocity, LensField(model, (4, 3), torch.float32)(noisy, times, text))
    assert ran == [2, 2]
    assert maps[1].shape == (2, 32, 4, 3)
    torch.testing.assert_close(maps[1].flatten(2).transpose(1, 2), expected[1])
    losses.generator_loss(head(maps)).backward()
    assert noisy.grad is not None
    assert noisy.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in teacher.parameters())
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    wide = feature_maps(teacher, torch.randn(1, 40, 16), times[:1], None, (4, 10), torch.float32)
    assert head(wide).shape == (1, 2)
    with pytest.raises(ParameterError, match="from 0 to 2"):
        Teacher(model, (1, 3))


# Backward simulation.


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_simulation_goes_through_the_states_of_inference(step: int) -> None:
    pipeline = tiny_pipeline()
    renderer = Renderer(pipeline, torch.device("cpu"))
    noise = torch.randn(1, 12, 16, generator=Generator().manual_seed(3))
    states = [noise]
    pipeline(
        "a red cup",
        latents=noise,
        num_inference_steps=4,
        guidance_scale=1.0,
        output_type="latent",
        callback_on_step_end=lambda pipe, index, time, given: states.append(given["latents"]),
    )
    schedule = StudentSchedule.create(12, pipeline.default_sigmas(4))
    simulation = Simulation(schedule, "euler")
    field = LensField(pipeline.transformer, (4, 3), torch.float32)
    text = renderer.features(["a red cup"])
    found = simulation.reach(field, noise, text, step, Generator())
    torch.testing.assert_close(found, states[step], atol=1e-5, rtol=1e-4)
    if step == 3:
        clean = simulation.predict(field, found, text, step)
        torch.testing.assert_close(clean, states[4], atol=1e-5, rtol=1e-4)


def test_renoising_simulation_adds_fresh_noise() -> None:
    """Where all data is one point, every input is that point and noise of its level."""
    schedule = _schedule()
    simulation = Simulation(schedule, "renoise")
    generator = Generator().manual_seed(0)
    noise = torch.randn(4000, 1, 2, generator=generator)
    found = simulation.reach(_normal(2.0, 0.0), noise, None, 2, generator)
    sigma = schedule.sigmas[2]
    fresh = (found - (1 - sigma) * 2.0) / sigma
    assert fresh.std() == pytest.approx(1.0, abs=0.05)
    assert (fresh * noise).mean() == pytest.approx(0.0, abs=0.05)


class _Net(nn.Module):
    """A velocity field of 2-D points."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(6, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2)
        )

    def forward(self, latents: Tensor, timesteps: Tensor, text: TextFeatures | None) -> Tensor:
        t = timesteps[:, None, None]
        time = torch.cat((t, (3 * t).sin(), (3 * t).cos(), t.clamp(min=0.01).log()), dim=-1)
        velocity: Tensor = self.net(torch.cat((latents, time), dim=-1))
        return velocity


@pytest.mark.parametrize("sampler", ["euler", "renoise"])
def test_student_moves_to_the_teacher(sampler: StudentSampler) -> None:
    """A student of another mixture, with a learnt fake score, comes near the teacher's."""
    torch.manual_seed(0)
    generator = Generator().manual_seed(0)
    simulation = Simulation(_schedule(), sampler)
    wrong = Mixture([[-0.5, 1.0], [2.5, 1.5]], [0.7, 0.3], 0.3)
    student = _Net()
    optimizer = torch.optim.Adam(student.parameters(), 3e-3)
    for _ in range(300):
        times = simulation.schedule.full_times(256, 0.01, generator)
        noisy = add_noise(
            wrong.sample(256, generator), times, torch.randn(256, 1, 2, generator=generator)
        )
        error = student(noisy, times, None) - wrong(noisy, times, None)
        error.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    before = _energy_distance(simulation, student)
    _distill_points(simulation, student, generator)
    assert _energy_distance(simulation, student) < 0.4 * before


def _distill_points(simulation: Simulation, student: _Net, generator: Generator) -> None:
    fake = copy.deepcopy(student)
    of_student = torch.optim.Adam(student.parameters(), 1e-3, betas=(0.0, 0.9))
    of_fake = torch.optim.Adam(fake.parameters(), 2e-3, betas=(0.0, 0.9))
    for turn in range(300):
        step = int(torch.randint(4, (), generator=generator))
        noise = torch.randn(256, 1, 2, generator=generator)
        latents = simulation.reach(student, noise, None, step, generator)
        sample = simulation.predict(student, latents, None, step)
        times = simulation.schedule.full_times(256, 0.02, generator)
        if turn % 5 < 4:
            losses.fake_score_loss(fake, sample.detach(), None, times, generator).backward()
            of_fake.step()
            of_fake.zero_grad()
            continue
        noisy = add_noise(sample.detach(), times, torch.randn(256, 1, 2, generator=generator))
        with torch.no_grad():
            real, own = TEACHER(noisy, times, None), fake(noisy, times, None)
        gradient = losses.matching_gradient(sample.detach(), noisy, times, real, own, 0.05)
        losses.surrogate_loss(sample, gradient).backward()
        of_student.step()
        of_student.zero_grad()


def _energy_distance(simulation: Simulation, field: VelocityField) -> float:
    generator = Generator().manual_seed(9)
    noise = torch.randn(1000, 1, 2, generator=generator)
    latents = simulation.reach(field, noise, None, 3, generator)
    with torch.no_grad():
        made = simulation.predict(field, latents, None, 3)[:, 0]
    real = TEACHER.sample(1000, generator)[:, 0]
    across = 2 * torch.cdist(made, real).mean()
    return float(across - torch.cdist(made, made).mean() - torch.cdist(real, real).mean())
