"""Loading, lending and freeing a pipeline's text encoder under a memory plan."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from transformers import GptOssConfig

from lens_core.memory.encoder_file import EncoderFile
from lens_core.text_encoder import LensTextEncoder


class EncoderKeeper:
    """Lends the text encoder, loading it when it is not in memory.

    Args:
        encoder: The encoder, if it is in memory.
        file: Where it can be loaded from; needed if it is not, or is to be freed.
        frees: Whether to let go of it after every use.
        place: Told of an encoder that was loaded, before it is used.
        leave: Told after every use.
    """

    def __init__(
        self,
        encoder: LensTextEncoder | None,
        file: EncoderFile | None,
        frees: bool,
        place: Callable[[LensTextEncoder], None],
        leave: Callable[[], None],
    ) -> None:
        self._encoder = encoder
        self._file = file
        self._frees = frees
        self._place = place
        self._leave = leave

    @property
    def config(self) -> GptOssConfig:
        """The encoder's configuration."""
        if self._encoder is not None:
            return self._encoder.config
        assert self._file is not None
        return self._file.config

    @contextmanager
    def lend(self) -> Iterator[LensTextEncoder]:
        """The encoder; errors as in `EncoderFile.load`."""
        encoder = self._encoder
        if encoder is None:
            assert self._file is not None
            encoder = self._file.load()
            self._place(encoder)
            self._encoder = None if self._frees else encoder
        try:
            yield encoder
        finally:
            self._leave()
            if self._frees:
                self._encoder = None
