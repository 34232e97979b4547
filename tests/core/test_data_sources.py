"""Where pictures and captions come from: folders, tables, files that are none."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lens_core.data.digests import listing_hash
from lens_core.data.errors import MissingCaptionError, UnreadableImageError
from lens_core.data.fitting import decode_image
from lens_core.data.policy import DataPolicy
from lens_core.data.sources import folder_images, table_images
from lens_core.data.writing import ShardSettings, write_shards
from lens_core.errors import ParameterError
from tiny_shards import TABLE, picture


def test_captions_and_pictures_come_from_folders_and_tables(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(picture(64, 64, i))
        (tmp_path / f"{i}.txt").write_text(f" text {i}\n")
    (tmp_path / "2.txt").unlink()
    found = list(folder_images(tmp_path))
    assert [image.captions for image in found] == [
        {"caption": "text 0"},
        {"caption": "text 1"},
        {},
    ]
    rows = [{"file_name": "1.png", "text": "one", "caption_brief": "1"}, {"image": "0.png"}]
    rows[1]["captions"] = {"dense": "nought", "none": ""}  # type: ignore[assignment]
    table = tmp_path / "table.jsonl"
    table.write_text("\n".join(json.dumps(row) for row in rows))
    listed = list(table_images(table))
    assert [dict(image.captions) for image in listed] == [
        {"caption": "one", "brief": "1"},
        {"dense": "nought"},
    ]
    assert listed[0].read() == picture(64, 64, 1)
    (tmp_path / "metadata.csv").write_text("path,caption\n0.png,zero\n")
    assert [image.name for image in folder_images(tmp_path)] == ["0.png"]
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    columns = {"image": ["2.png"], "caption": ["two"]}
    (tmp_path / "none.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(ParameterError, match="cannot be read as Parquet"):
        list(table_images(tmp_path / "none.parquet"))
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    assert [image.captions for image in table_images(tmp_path / "t.parquet")] == [
        {"caption": "two"}
    ]
    (tmp_path / "bad.jsonl").write_text('{"caption": "x"}\n')
    with pytest.raises(ParameterError, match="row 1 names no picture"):
        list(table_images(tmp_path / "bad.jsonl"))


def test_what_file_managers_leave_in_a_folder_does_not_count(tmp_path: Path) -> None:
    """A look at it in the Finder must not make it another one; nor are these files pictures."""
    (tmp_path / "a.png").write_bytes(picture(64, 64))
    before = listing_hash(tmp_path)
    for name in (".DS_Store", "._a.png", "Thumbs.db", "Desktop.ini", ".old/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\0\0\1Bud1")
    assert listing_hash(tmp_path) == before
    assert [image.name for image in folder_images(tmp_path)] == ["a.png"]
    (tmp_path / "a.txt").write_text("a cup", encoding="utf-8")
    assert listing_hash(tmp_path) != before


def test_a_caption_that_is_not_utf8_is_skipped_or_refused_by_name(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name, text in (("marked", b"\xef\xbb\xbfa cup"), ("western", b"caf\xe9")):
        (pictures / f"{name}.png").write_bytes(picture(64, 64))
        (pictures / f"{name}.txt").write_bytes(text)
    assert next(folder_images(pictures)).captions == {"caption": "a cup"}
    made = write_shards(folder_images(pictures), tmp_path / "a", ShardSettings(TABLE), {})
    assert (made.samples, made.skipped) == (1, {"missing_caption": 1})
    refusing = ShardSettings(TABLE, policy=DataPolicy(missing_caption="refuse"))
    with pytest.raises(MissingCaptionError, match=r"western\.txt is not UTF-8 .* save it as UTF-8"):
        write_shards(folder_images(pictures), tmp_path / "b", refusing, {})


def test_rows_that_no_file_or_text_can_have_are_skipped(tmp_path: Path) -> None:
    """Half a surrogate pair is no text, and neither a path nor a caption."""
    (tmp_path / "a.png").write_bytes(picture(64, 64))
    rows = [
        {"image": "a.png", "caption": "\ud800"},
        {"image": "a\0.png", "caption": "x"},
        {"image": "\ud800.png", "caption": "x"},
        {"image": "a.png", "caption": "a cup"},
    ]
    table = tmp_path / "t.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = write_shards(table_images(table), tmp_path / "shards", ShardSettings(TABLE), {})
    assert manifest.samples == 1
    assert manifest.skipped == {"missing_caption": 1, "unreadable_image": 2}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.jsonl", b"[" * 100_000, "is not JSON"),
        ("t.csv", b"image,caption\na.png," + b"x" * 200_000, "cannot be read as CSV"),
    ],
)
def test_tables_that_are_none_are_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ParameterError, match=message):
        list(table_images(tmp_path / name))


def test_a_picture_that_leads_its_reader_astray_is_unreadable() -> None:
    """Pillow answers a TIFF whose data begins at a fraction of a byte with a TypeError."""
    damaged = picture(8, 8, kind="TIFF").replace(b"\x11\x01\x04\x00", b"\x11\x01\x0c\x00")
    with pytest.raises(UnreadableImageError, match="cannot be read as a picture: 'float' object"):
        decode_image(damaged, "x")


@pytest.mark.parametrize(
    ("name", "text"),
    [("t.csv", "path,caption\n0.png,café\n"), ("t.jsonl", '{"path": "0.png", "caption": "café"}')],
)
def test_a_table_is_utf8_with_a_mark_or_without(tmp_path: Path, name: str, text: str) -> None:
    table = tmp_path / name
    for encoding in ("utf-8", "utf-8-sig"):
        table.write_text(text, encoding=encoding)
        (found,) = table_images(table)
        assert (found.name, found.captions) == ("0.png", {"caption": "café"})
    table.write_text(text, encoding="latin-1")
    with pytest.raises(ParameterError, match=f"{name} is not UTF-8 .* save it as UTF-8"):
        list(table_images(table))


def test_pictures_are_turned_upright_and_freed_of_transparency() -> None:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20), "red").save(buffer, "JPEG", exif=exif)
    assert decode_image(buffer.getvalue(), "turned").size == (20, 30)
    buffer = io.BytesIO()
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(buffer, "PNG")
    assert decode_image(buffer.getvalue(), "clear").getpixel((0, 0)) == (255, 255, 255)
    deep = Image.fromarray(np.full((4, 4), 65535 // 2, dtype=np.uint16))
    buffer = io.BytesIO()
    deep.save(buffer, "PNG")
    assert decode_image(buffer.getvalue(), "deep").getpixel((0, 0)) == (127, 127, 127)
    with pytest.raises(UnreadableImageError, match="half"):
        decode_image(picture(64, 64, kind="JPEG")[:300], "half")
