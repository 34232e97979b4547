"""A generator that fills pictures with one colour in a moment, and changes pictures likewise."""

from collections.abc import Sequence

from PIL import Image

from lens_reasoner import Capabilities, GeneratedImage, GenerationSettings, StepCallback
from lens_reasoner.blocking import BlockingGenerator


class PlainGenerator(BlockingGenerator):
    """Honours every setting in form; the seed is the colour."""

    name = "plain"
    capabilities = Capabilities(
        seed=True,
        negative_prompt=True,
        steps=True,
        guidance=True,
        native_size=(64, 64),
        sizes=None,
        multiple_of=16,
        max_images=4,
        image_input=True,
        mask=True,
        extra=("strength", "mask_feather"),
    )

    def editing(self, image: bytes, *, mask: bytes | None = None) -> "PlainGenerator":
        return self

    def draw(
        self,
        prompt: str,
        *,
        seeds: Sequence[int],
        settings: GenerationSettings,
        on_step: StepCallback,
    ) -> list[GeneratedImage]:
        size = settings.width or 64, settings.height or 64
        return [
            GeneratedImage.from_pil(
                Image.new("RGB", size, (seed % 256, seed // 256 % 256, 0)),
                prompt=prompt,
                seed=seed,
                settings=settings,
                generator=self.name,
            )
            for seed in seeds
        ]
