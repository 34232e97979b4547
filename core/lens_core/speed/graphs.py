"""CUDA graphs: a whole forward pass that is launched at once.

What the graph reads lies in buffers of its own. Before each replay, the image, the time and the
modulations are copied there, and the text and its tables when they are not those of the call
before. Guidance and the sampler's step stay outside, so nothing of them is recorded.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from lens_core.branch import Branch
from lens_core.modulation import layer_state
from lens_core.prediction import predict_plainly
from lens_core.transformer import LensTransformer2DModel

MOST_RECORDINGS = 8
"""Shapes (size, length of the text, batch) that are kept, the latest ones."""

Replay = Callable[[], Tensor]
"""Does the work again on what is in its buffers now; its result is overwritten by the next."""


class Recorder(Protocol):
    """Makes work repeatable without Python."""

    def can_record(self, device: torch.device) -> bool:
        """Whether work on a device can be recorded."""
        ...

    def record(self, work: Callable[[], Tensor], device: torch.device) -> Replay:
        """Record work on a device that reads and writes the same memory every time."""
        ...


class CudaRecorder:
    """Records with `torch.cuda.CUDAGraph`; all recordings share their working memory."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy has working memory of its own."""
        return {"_pool": None}

    def can_record(self, device: torch.device) -> bool:
        """Whether it is a CUDA device."""
        return device.type == "cuda"

    def record(self, work: Callable[[], Tensor], device: torch.device) -> Replay:
        """Run the work once aside, so that libraries have what they need, then record it."""
        # Streams and graphs are those of the current device, which need not be this one.
        with torch.cuda.device(device):
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                work()
            torch.cuda.current_stream().wait_stream(side)
            graph: Any = torch.cuda.CUDAGraph()
            # Other threads may go on using CUDA meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                result = work()

        def replay() -> Tensor:
            with torch.cuda.device(device):
                graph.replay()
            return result

        return replay


class StepGraphs:
    """A `Prediction` that records each shape at its second call and replays it from then on.

    The first call of a shape runs plainly, so that what is asked for once is never recorded.

    Args:
        transformer: Whose forward passes are recorded.
        recorder: How.
        most: Shapes that are kept.
    """

    def __init__(
        self,
        transformer: LensTransformer2DModel,
        recorder: Recorder | None = None,
        most: int = MOST_RECORDINGS,
    ) -> None:
        self._transformer = transformer
        self._recorder = recorder or CudaRecorder()
        self._most = most
        self._recordings: OrderedDict[Any, _Recording | None] = OrderedDict()
        self._state = self._current()

    def __call__(
        self,
        model: LensTransformer2DModel,
        image: Tensor,
        timestep: Tensor,
        modulations: Tensor | None,
        branch: Branch,
    ) -> Tensor:
        """As `predict_plainly`; with gradients, or where nothing can be recorded, by it."""
        if torch.is_grad_enabled() or not self._recorder.can_record(image.device):
            return predict_plainly(model, image, timestep, modulations, branch)
        changing = (image, timestep, modulations)
        key = tuple(_shape(tensor) for tensor in (*changing, *_tensors(branch)))
        is_new = key not in self._recordings
        recording = self._recordings.get(key)
        if not is_new and recording is None:
            recording = _Recording(self._recorder, model, changing, branch)
        self._recordings[key] = recording
        self._recordings.move_to_end(key)
        while len(self._recordings) > self._most:
            self._recordings.popitem(last=False)
        if recording is None:
            return predict_plainly(model, image, timestep, modulations, branch)
        return recording(changing, branch)

    def refresh(self) -> None:
        """Forget all recordings if weights or LoRAs are no longer where they were."""
        if (now := self._current()) != self._state:
            self._recordings.clear()
            self._state = now

    def __getstate__(self) -> dict[str, Any]:
        """A copy records anew: a recording is of this process's memory."""
        return {**self.__dict__, "_recordings": OrderedDict(), "_state": None}

    def _current(self) -> tuple[Any, ...]:
        return tuple(layer_state(module) for module in self._transformer.modules())


class _Recording:
    """One shape: its buffers and how to do it again."""

    @torch.inference_mode(False)
    @torch.no_grad()
    def __init__(
        self,
        recorder: Recorder,
        model: LensTransformer2DModel,
        changing: tuple[Tensor | None, ...],
        branch: Branch,
    ) -> None:
        self._changing = [_buffer(tensor) for tensor in changing]
        self._kept = [_buffer(tensor) for tensor in _tensors(branch)]
        self._branch: Branch | None = None
        self._feed(changing, branch)
        image, timestep, modulations = self._changing
        assert image is not None
        assert timestep is not None
        own = _branch_of(self._kept)
        self._replay = recorder.record(
            lambda: predict_plainly(model, image, timestep, modulations, own), image.device
        )

    def __call__(self, changing: tuple[Tensor | None, ...], branch: Branch) -> Tensor:
        self._feed(changing, branch)
        return self._replay().clone()

    def _feed(self, changing: tuple[Tensor | None, ...], branch: Branch) -> None:
        _copy(changing, self._changing)
        if branch is not self._branch:
            _copy(tuple(_tensors(branch)), self._kept)
            self._branch = branch


def _tensors(branch: Branch) -> Iterator[Tensor | None]:
    yield branch.text
    yield branch.mask
    yield from branch.image_rotary
    yield from branch.text_rotary or (None, None)


def _branch_of(tensors: list[Tensor | None]) -> Branch:
    text, mask, cosines, sines, text_cosines, text_sines = tensors
    assert cosines is not None
    assert sines is not None
    rotary = None
    if text_cosines is not None and text_sines is not None:
        rotary = (text_cosines, text_sines)
    return Branch(text, mask, (cosines, sines), rotary)


def _shape(tensor: Tensor | None) -> Any:
    return None if tensor is None else (tuple(tensor.shape), tensor.dtype, tensor.device)


def _buffer(tensor: Tensor | None) -> Tensor | None:
    return (
        None if tensor is None else torch.empty_like(tensor, memory_format=torch.contiguous_format)
    )


def _copy(sources: tuple[Tensor | None, ...], targets: list[Tensor | None]) -> None:
    for source, target in zip(sources, targets, strict=True):
        if source is not None and target is not None:
            target.copy_(source)
