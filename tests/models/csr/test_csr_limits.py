"""Images that stand for more pixels than are read are refused by their header."""

import tracemalloc
import warnings
import zlib

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian
from transformers import ViTImageProcessor

from hf_fer.data import loading
from hf_fer.models.csr.decoding_csr import UnusableImageError, as_rgb, image_facts, load_image
from hf_fer.models.csr.processing_csr import CsrProcessor
from hf_fer.models.csr.train.images import drop_unusable, image_check
from hf_fer.models.csr.train.preprocessing import ImageSettings
from hf_fer.task.find import build_task


def large_png(path, side: int):
    """A grey PNG of few bytes, written row by row: deflate takes zeros a thousand to one."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    packer, packed = zlib.compressobj(9), b""
    for _ in range(side):
        packed += packer.compress(bytes(1 + (side + 7) // 8))
    header = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    data = chunk(b"IHDR", header) + chunk(b"IDAT", packed + packer.flush()) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    return path


def large_dicom(path, side: int):
    data = pydicom.Dataset()
    data.SOPClassUID, data.SOPInstanceUID = pydicom.uid.SecondaryCaptureImageStorage, pydicom.uid.generate_uid()
    data.Rows = data.Columns = side
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelData = 7, bytes(4)
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("read", [load_image, image_facts, as_rgb])
@pytest.mark.parametrize(("name", "side"), [("a.png", 12000), ("b.png", 20000), ("c.dcm", 12000)])
def test_a_small_file_of_too_many_pixels(tmp_path, read, name, side):
    path = (large_dicom if name.endswith("dcm") else large_png)(tmp_path / name, side)
    assert path.stat().st_size < 100_000
    if read is image_facts and name.endswith("dcm"):
        assert read(path).width == side
        return
    tracemalloc.start()
    with pytest.raises(UnusableImageError, match=r"pixels.*, over max_pixels = 50000000: make it smaller, or raise"):
        read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 2**20


def test_a_limit_that_is_raised_holds_against_pillow_s_own(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    path = large_png(tmp_path / "x.png", 60)
    with pytest.raises(UnusableImageError, match="60 x 60 pixels, over max_pixels = 2000"):
        load_image(path, 2000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_image(path, 3600).shape == (60, 60, 3)


def test_the_limit_is_the_processor_s_saved_and_set_by_the_recipe(tmp_path):
    path = large_png(tmp_path / "x.png", 60)
    small = CsrProcessor(ViTImageProcessor(), max_pixels=3000)
    with Image.open(path) as picture, pytest.raises(UnusableImageError, match="max_pixels = 3000"):
        small(picture)
    with pytest.raises(UnusableImageError, match="max_pixels = 3000"):
        small(path)
    assert small(np.zeros((60, 60), np.uint8))["pixel_values"].shape == (1, 3, 224, 224)
    small.save_pretrained(tmp_path / "model")
    assert CsrProcessor.from_pretrained(tmp_path / "model").max_pixels == 3000
    recipe = {"task": "csr", "dataset": "demo", "output_dir": str(tmp_path / "out")}
    for given, limit in (({}, 3000), ({"max_pixels": 4000}, 4000)):
        task = build_task({**recipe, **given}, "recipe", [])
        task.model_args.model_name_or_path = str(tmp_path / "model")
        assert ImageSettings.of(task).max_pixels == task.build_processor(None).max_pixels == limit
    with pytest.raises(ValueError, match="must be positive"):
        CsrProcessor(ViTImageProcessor(), max_pixels=0)


def test_in_training_data_such_a_file_is_left_out_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "HF_HOME", tmp_path / "home")
    paths = [str(large_png(tmp_path / f"{side}.png", side)) for side in (20, 60)]
    rows = pd.DataFrame({"path": paths, "image": ["a", "b"], "boxes": [{}, {}]})
    assert len(drop_unusable(rows, [], 1, ImageSettings())[0]) == 2
    kept, skipped, _ = drop_unusable(rows, [], 1, ImageSettings(max_pixels=3000))
    assert kept["image"].tolist() == ["a"]
    assert [entry["path"] for entry in skipped] == paths[1:]
    assert "60 x 60 pixels, over max_pixels = 3000" in skipped[0]["reason"]
    checks = [image_check(ImageSettings(max_pixels=limit)) for limit in (3000, 4000)]
    assert checks[0].settings != checks[1].settings
