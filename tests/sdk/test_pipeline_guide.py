"""The guide to the pipeline runs as it is written."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

GUIDE = Path(__file__).parents[2] / "docs" / "pipeline.md"


def test_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 8
    scope: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(GUIDE), "exec"), scope)
    picture, three, filled = (np.asarray(scope[name]) for name in ("picture", "three", "filled"))
    assert np.abs(picture.astype(int) - three[0]).max() <= 2
    assert (filled[:, : 64 - 6] == picture[:, : 64 - 6]).all()
    assert (filled[:, 64:] != picture[:, 64:]).any()
    assert scope["wide"].size == (144, 112)
    assert Image.open("step-5.png").size == (32, 32)
    assert Image.open("so-far.png").size == (128, 128)
    assert scope["reproduce"]("edited.png").identical
