"""Measures one case on the components of a pipeline."""

import copy
import gc
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from diffusers.models.attention_processor import Attention
from PIL import Image
from torch import Tensor

from lens_core.bench import flops, kernels
from lens_core.bench.accuracy import Accuracy, measure_accuracy
from lens_core.bench.cases import (
    IN_DECODER,
    ONE_BY_ONE,
    PAIRED_GUIDANCE,
    PAIRED_STEPS,
    SAMPLING,
    Case,
)
from lens_core.bench.configs import PROMPT, BenchConfig, random_pipeline, shorter_prompts
from lens_core.bench.forward import branch_forward
from lens_core.bench.split import encode_png, sampling_settings, split_stages, time_stages
from lens_core.bench.timing import Comparison, Timing, Work, compare, measure, measure_on_host
from lens_core.chat import DEFAULT_DATE, MAX_SEQUENCE_LENGTH, encode_prompts
from lens_core.errors import ParameterError
from lens_core.grouped_experts import grouped_problem
from lens_core.pipeline import LensPipeline
from lens_core.speed import accelerate, named_plan
from lens_core.text_encoder import LensTextEncoder
from lens_core.transformer import LensTransformer2DModel


@dataclass(frozen=True)
class Measured:
    """Result of a case.

    Attributes:
        timing: Time samples; None for a comparison.
        flops: Operations of one call; None if not meaningful.
        peak_bytes: Peak memory of torch on the device, weights included; None on a CPU.
        kernels: Attention kernels that ran.
        comparison: Result of a `paired` case.
        accuracy: Result of an `accuracy` case.
        parts: Median seconds of each stage of a `split` case.
        notes: Further values, such as numbers of tokens.
    """

    timing: Timing | None
    flops: int | None = None
    peak_bytes: int | None = None
    kernels: tuple[str, ...] = ()
    comparison: Comparison | None = None
    accuracy: Accuracy | None = None
    parts: dict[str, float] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)


class Stages:
    """Measures cases, creating the models when a case first needs them.

    Args:
        config: Models and sizes.
        device: Where to compute.
        dtype: bfloat16 or float32.
        warmup: Number of unmeasured calls of each case, at least 1.
        repeats: Number of measured calls; for `paired` cases, of pairs.
    """

    def __init__(
        self,
        config: BenchConfig,
        device: torch.device,
        dtype: torch.dtype,
        warmup: int,
        repeats: int,
    ) -> None:
        self._config, self._device, self._dtype = config, device, dtype
        self._warmup, self._repeats = warmup, repeats
        self._made: LensPipeline | None = None
        self._embeds: tuple[Tensor, Tensor] | None = None
        self._speed = ""

    def measure(self, case: Case) -> Measured:
        """Run a case.

        Raises:
            LensCoreError: It cannot run here, for instance if an attention kernel is missing.
            torch.OutOfMemoryError: The device is too small.
        """
        run: dict[str, Callable[[Case], Measured]] = {
            "ceiling": self._ceiling,
            "attention": self._attention,
            "encode": self._encode,
            "denoise": self._denoise,
            "decode": self._decode,
            "png": self._png,
            "generate": self._generate,
            "split": self._split,
            "prompts": self._prompts,
            "accuracy": self._accuracy,
            "paired": self._paired,
        }
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
        with torch.no_grad():
            return run[case.kind](case)

    def _time(self, work: Work) -> Timing:
        return measure(work, self._device, self._warmup, self._repeats)

    def _peak(self) -> int | None:
        if self._device.type != "cuda":
            return None
        return int(torch.cuda.max_memory_allocated(self._device))

    def _pipeline(self, speed: str = "") -> LensPipeline:
        if self._made is None:
            self._made = random_pipeline(self._config, self._device, self._dtype)
        if speed and speed != self._speed:
            accelerate(self._made, speed)
            self._speed = speed
        return self._made

    def _encoder(self) -> LensTextEncoder:
        encoder = self._pipeline().text_encoder
        assert encoder is not None
        return encoder

    def _features(self) -> tuple[Tensor, Tensor]:
        """Features `[layers, 1, S, width]` of the prompt, and their mask."""
        if self._embeds is None:
            self._embeds = self._pipeline().encode_prompt(PROMPT)
        return self._embeds

    def _token_count(self) -> int:
        """Number of tokens the encoder reads."""
        pipeline = self._pipeline()
        pad = self._encoder().config.pad_token_id
        encoded = encode_prompts(
            pipeline.tokenizer, [PROMPT], DEFAULT_DATE, MAX_SEQUENCE_LENGTH, pad
        )
        return len(encoded.input_ids[0])

    def _grid(self, size: int) -> tuple[int, int]:
        multiple = self._pipeline().size_multiple
        return size // multiple, size // multiple

    def _ceiling(self, case: Case) -> Measured:
        side, calls = self._config.ceiling, (self._warmup, self._repeats)
        if case.what == "fp8":
            timing = kernels.time_fp8_ceiling(side, self._device, *calls)
        else:
            timing = kernels.time_ceiling(side, self._device, self._dtype, *calls)
        return Measured(timing, 2 * side**3, self._peak(), notes={"side": side})

    def _attention(self, case: Case) -> Measured:
        in_decoder = case.what.startswith(IN_DECODER)
        tokens, heads, dim = (self._decoder_heads if in_decoder else self._joint_heads)(case.size)
        timing = kernels.time_attention(
            case.what.removeprefix(IN_DECODER),
            (case.batch, tokens, heads, dim),
            self._device,
            self._dtype,
            self._warmup,
            self._repeats,
        )
        operations = 4 * case.batch * heads * dim * tokens**2
        return Measured(timing, operations, self._peak(), notes={"tokens": tokens})

    def _joint_heads(self, size: int) -> tuple[int, int, int]:
        """Number of tokens, number of heads and head width in a block of the denoiser."""
        rows, columns = self._grid(size)
        config = self._pipeline().transformer.config
        tokens = rows * columns + self._features()[0].shape[2]
        return tokens, config.num_attention_heads, config.attention_head_dim

    def _decoder_heads(self, size: int) -> tuple[int, int, int]:
        """The same for the attention in the middle of the decoder."""
        vae = self._pipeline().vae
        side = size // 2 ** (len(vae.config.block_out_channels) - 1)
        found = next(one for one in vae.decoder.modules() if isinstance(one, Attention))
        return side * side, found.heads, found.inner_dim // found.heads

    def _encode(self, case: Case) -> Measured:
        pipeline, encoder = self._pipeline(), self._encoder()
        problem = grouped_problem(self._device, self._dtype)
        if case.what == ONE_BY_ONE and problem is not None:
            raise ParameterError(f"text is read with one expert at a time anyway: {problem}")
        encoder.unpack_one_by_one(case.what == ONE_BY_ONE)
        try:
            timing = self._time(lambda: pipeline.encode_prompt([PROMPT] * case.batch))
        finally:
            encoder.unpack_one_by_one(False)
        tokens = self._token_count()
        operations = flops.encoder_flops(encoder.config, tokens, case.batch)
        notes = {"tokens": tokens, "experts_at_once": int(not case.what and problem is None)}
        return Measured(timing, operations, self._peak(), notes=notes)

    def _denoise(self, case: Case) -> Measured:
        transformer = self._pipeline(case.speed).transformer
        grid, features = self._grid(case.size), None
        if case.what == "cond":
            embeds = self._features()[0].expand(-1, case.batch, -1, -1)
            features = [layer.contiguous() for layer in embeds]
        tokens, text_tokens = grid[0] * grid[1], 0 if features is None else features[0].shape[1]
        forward = branch_forward(transformer, features, grid, case.batch, self._device)
        timing = self._time(forward)
        peak = self._peak()
        operations = flops.denoiser_flops(transformer, tokens, text_tokens, case.batch)
        ran = kernels.attention_kernels(forward, self._device)
        notes = {"image_tokens": tokens, "text_tokens": text_tokens}
        return Measured(timing, operations, peak, ran, notes=notes)

    def _decode(self, case: Case) -> Measured:
        pipeline = self._pipeline(case.speed)
        work = self._decoding(pipeline, case)
        operations = flops.decoder_flops(pipeline.vae, case.size**2, case.batch)
        timing, peak = self._time(work), self._peak()
        return Measured(timing, operations, peak, kernels.attention_kernels(work, self._device))

    def _decoding(self, pipeline: LensPipeline, case: Case) -> Work:
        rows, columns = self._grid(case.size)
        channels = pipeline.transformer.config.in_channels
        tokens = torch.randn(case.batch, rows * columns, channels, device=self._device)
        return lambda: pipeline.decode(tokens, case.size, case.size)

    def _png(self, case: Case) -> Measured:
        pixels = torch.randint(0, 256, (case.size // 8, case.size // 8, 3), dtype=torch.uint8)
        # Smooth with a little noise, like real images; pure noise would not compress at all.
        picture = Image.fromarray(pixels.numpy()).resize((case.size, case.size))
        level = int(case.what.removeprefix("level "))
        host = torch.device("cpu")
        timing = measure(lambda: encode_png(picture, level), host, self._warmup, self._repeats)
        return Measured(timing, notes={"bytes": len(encode_png(picture, level))})

    def _generate(self, case: Case) -> Measured:
        pipeline = self._pipeline(case.speed)
        settings = sampling_settings(case)
        steps, guidance = SAMPLING[case.what]

        def call() -> object:
            return pipeline(PROMPT, num_images_per_prompt=case.batch, **settings)

        timing = measure_on_host(call, self._device, self._warmup, self._repeats)
        peak, text_tokens = self._peak(), self._features()[0].shape[2]
        operations = flops.generation_flops(
            pipeline.transformer,
            self._encoder().config,
            pipeline.vae,
            case.size**2,
            self._token_count(),
            text_tokens,
            steps,
            guidance > 1,
            case.batch,
        )
        notes = {"steps": steps, "text_tokens": text_tokens}
        return Measured(timing, operations, peak, notes=notes)

    def _split(self, case: Case) -> Measured:
        pipeline = self._pipeline(case.speed)
        draw = split_stages(pipeline, case)
        timing, parts = time_stages(draw, self._device, self._warmup, self._repeats)
        return Measured(timing, None, self._peak(), parts=parts)

    def _prompts(self, case: Case) -> Measured:
        """Generate images from prompts of new lengths, as a user's next prompt would have.

        Every sample thus includes what kernels prepare for each length.
        """
        pipeline, settings = self._pipeline(case.speed), sampling_settings(case)
        prompts = shorter_prompts()

        def call() -> object:
            return pipeline(next(prompts), **settings)

        timing = measure_on_host(call, self._device, self._warmup, self._repeats)
        return Measured(timing, None, self._peak(), notes={"steps": SAMPLING[case.what][0]})

    def _accuracy(self, case: Case) -> Measured:
        transformer = self._pipeline("plain").transformer
        layers, grid = [*self._features()[0]], self._grid(case.size)

        def run(model: LensTransformer2DModel) -> Tensor:
            return branch_forward(model, layers, grid, 1, self._device)()

        found = measure_accuracy(transformer, named_plan(case.speed), run)
        return Measured(None, accuracy=found)

    def _paired(self, case: Case) -> Measured:
        """Compare a plain pipeline with one under a plan, alternating calls on equal weights."""
        features = self._features()
        plain = self._pipeline("plain")
        other = copy.copy(plain)
        other.transformer = copy.deepcopy(plain.transformer)
        other.vae = copy.deepcopy(plain.vae)
        accelerate(other, case.speed)
        found = compare(
            self._paired_work(plain, features, case),
            self._paired_work(other, features, case),
            self._device,
            self._repeats,
            self._warmup,
        )
        return Measured(None, comparison=found, notes={"steps": PAIRED_STEPS})

    def _paired_work(
        self, pipeline: LensPipeline, features: tuple[Tensor, Tensor], case: Case
    ) -> Work:
        if case.what == "decode":
            return self._decoding(pipeline, case)
        return lambda: pipeline(
            prompt_embeds=features[0],
            prompt_embeds_mask=features[1],
            height=case.size,
            width=case.size,
            num_inference_steps=PAIRED_STEPS,
            guidance_scale=PAIRED_GUIDANCE,
            output_type="latent",
            seed=0,
        )
