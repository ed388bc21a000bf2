"""Images as the csr processor reads them: PNG, JPEG and DICOM with windows, LUTs and bad files."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, JPEG2000Lossless, generate_uid
from transformers import AutoProcessor, ViTImageProcessor

from hf_fer.models.csr import CsrProcessor
from hf_fer.models.csr.decoding_csr import UnusableImageError, image_facts, load_image

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def write_dicom(path: Path, pixels: np.ndarray, bits: int = 12, photometric: str = "MONOCHROME2", **fields) -> Path:
    """A DICOM file of grey or RGB pixels; `fields` are attributes such as WindowCenter."""
    data = pydicom.Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    if pixels.ndim == 3:
        data.PlanarConfiguration = 0
    data.PhotometricInterpretation = photometric
    data.BitsAllocated = 8 * pixels.dtype.itemsize
    data.BitsStored, data.HighBit, data.PixelRepresentation = bits, bits - 1, int(pixels.dtype.kind == "i")
    data.PixelData = pixels.tobytes()
    for name, value in fields.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path


def grey(path: Path) -> np.ndarray:
    image = load_image(path)
    assert image.dtype == np.float32
    assert (image == image[..., :1]).all()
    return image[..., 0]


class TestDicom:
    def test_window(self, tmp_path):
        """Center 1024, width 513: from 768 to 1280 (DICOM PS3.3 C.11.2.1.2), black below and white above."""
        path = write_dicom(tmp_path / "a.dcm", RAMP, WindowCenter=1024.5, WindowWidth=513)
        expected = ((RAMP - 768.0) / 512).clip(0, 1)
        np.testing.assert_allclose(grey(path), expected, atol=1e-5)

    def test_the_first_of_several_windows(self, tmp_path):
        path = write_dicom(tmp_path / "a.dcm", RAMP, WindowCenter=[1024.5, 3000], WindowWidth=[513, 10])
        np.testing.assert_allclose(grey(path), ((RAMP - 768.0) / 512).clip(0, 1), atol=1e-5)

    def test_rescaled_signed_values(self, tmp_path):
        """Hounsfield units: the window is in the units after slope and intercept."""
        stored = (RAMP.astype(np.int32) - 2048).astype(np.int16)
        fields = {"RescaleSlope": 2, "RescaleIntercept": -100, "WindowCenter": 0.5, "WindowWidth": 1001}
        path = write_dicom(tmp_path / "a.dcm", stored, **fields)
        np.testing.assert_allclose(grey(path), ((stored * 2.0 - 100 + 500) / 1000).clip(0, 1), atol=1e-5)

    def test_voi_lut(self, tmp_path):
        table = pydicom.Dataset()
        table.LUTDescriptor = [4096, 0, 16]
        table.add_new("LUTData", "US", (np.sqrt(np.arange(4096) / 4095) * 65535).round().astype(np.uint16).tolist())
        path = write_dicom(tmp_path / "a.dcm", RAMP, VOILUTSequence=pydicom.Sequence([table]))
        np.testing.assert_allclose(grey(path), np.sqrt(RAMP / 4095), atol=1e-4)

    def test_monochrome1_is_inverted(self, tmp_path):
        fields = {"WindowCenter": 2048, "WindowWidth": 4096}
        plain = grey(write_dicom(tmp_path / "a.dcm", RAMP, **fields))
        inverted = grey(write_dicom(tmp_path / "b.dcm", RAMP, photometric="MONOCHROME1", **fields))
        np.testing.assert_allclose(inverted, 1 - plain, atol=1e-6)

    def test_without_a_window_from_lowest_to_highest(self, tmp_path):
        path = write_dicom(tmp_path / "a.dcm", RAMP // 2 + 100)
        np.testing.assert_allclose(grey(path), (RAMP // 2) / 2047, atol=1e-5)

    @pytest.mark.parametrize("bits", [12, 14, 16])
    def test_bit_depths(self, tmp_path, bits):
        pixels = (RAMP.astype(np.float64) / 4095 * (2**bits - 1)).round().astype(np.uint16)
        half = 2 ** (bits - 1)
        path = write_dicom(tmp_path / "a.dcm", pixels, bits=bits, WindowCenter=half, WindowWidth=2 * half)
        np.testing.assert_allclose(grey(path), RAMP / 4095, atol=2e-3)
        assert image_facts(path) == (64, 64, bits)

    def test_colour(self, tmp_path):
        pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
        path = write_dicom(tmp_path / "a.dcm", pixels, bits=8, photometric="RGB")
        np.testing.assert_allclose(load_image(path), pixels / 255, atol=1e-6)

    def test_no_ending(self, tmp_path):
        assert grey(write_dicom(tmp_path / "a", RAMP)).max() == 1

    def test_truncated(self, tmp_path):
        path = write_dicom(tmp_path / "a.dcm", RAMP)
        path.write_bytes(path.read_bytes()[:-3000])
        with pytest.raises(UnusableImageError, match="truncated"):
            load_image(path)

    def test_truncated_in_the_header(self, tmp_path):
        path = write_dicom(tmp_path / "a.dcm", RAMP)
        path.write_bytes(path.read_bytes()[:400])
        with pytest.raises(UnusableImageError, match="truncated"):
            load_image(path)

    def test_not_dicom(self, tmp_path):
        (tmp_path / "a.dcm").write_bytes(b"no such thing" * 30)
        with pytest.raises(UnusableImageError, match="not readable as DICOM"):
            load_image(tmp_path / "a.dcm")

    def test_several_frames(self, tmp_path):
        path = write_dicom(tmp_path / "a.dcm", RAMP, NumberOfFrames=2)
        with pytest.raises(UnusableImageError, match="2 frames"):
            load_image(path)

    def test_compression_that_is_not_there(self, tmp_path):
        path = write_dicom(tmp_path / "a.dcm", RAMP)
        data = pydicom.dcmread(path)
        data.file_meta.TransferSyntaxUID = JPEG2000Lossless
        data.PixelData = pydicom.encaps.encapsulate([b"not jpeg 2000 at all"])
        data["PixelData"].is_undefined_length = True
        data.save_as(path)
        with pytest.raises(UnusableImageError, match="compressed"):
            load_image(path)


class TestPictures:
    def test_colour_png(self, tmp_path):
        pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "a.png")
        np.testing.assert_allclose(load_image(tmp_path / "a.png"), pixels / 255, atol=1e-6)
        assert image_facts(tmp_path / "a.png") == (7, 5, 8)

    def test_turned_by_exif(self, tmp_path):
        picture = Image.fromarray(np.zeros((5, 7, 3), np.uint8))
        exif = picture.getexif()
        exif[0x0112] = 6
        picture.save(tmp_path / "a.jpg", exif=exif)
        assert load_image(tmp_path / "a.jpg").shape == (7, 5, 3)
        assert image_facts(tmp_path / "a.jpg")[:2] == (5, 7)

    def test_8_bits_among_16_look_alike(self, tmp_path):
        Image.fromarray((RAMP * 16).astype(np.uint16)).save(tmp_path / "16.png")
        Image.fromarray((RAMP // 16).astype(np.uint8)).save(tmp_path / "8.png")
        Image.fromarray(RAMP).save(tmp_path / "12.png")
        np.testing.assert_allclose(grey(tmp_path / "16.png"), grey(tmp_path / "8.png"), atol=1 / 255)
        np.testing.assert_allclose(grey(tmp_path / "12.png"), grey(tmp_path / "8.png"), atol=1 / 255)
        assert [image_facts(tmp_path / f"{name}.png").bits for name in ("8", "16")] == [8, 16]

    def test_constant_16_bits(self, tmp_path):
        Image.fromarray(np.full((4, 4), 900, np.uint16)).save(tmp_path / "a.png")
        assert not grey(tmp_path / "a.png").any()

    @pytest.mark.parametrize("name", ["a.png", "a.jpg"])
    def test_truncated(self, tmp_path, name):
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UnusableImageError, match="does not decode"):
            load_image(tmp_path / name)

    @pytest.mark.parametrize(("content", "reason"), [(None, "not found"), (b"", "0 bytes"), (b"text", "not readable")])
    def test_no_image(self, tmp_path, content, reason):
        path = tmp_path / "a.png"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UnusableImageError, match=reason):
            load_image(path)


class TestProcessor:
    @pytest.fixture
    def processor(self) -> CsrProcessor:
        return CsrProcessor(ViTImageProcessor(size={"height": 16, "width": 16}, do_rescale=False))

    def test_files_images_and_arrays_agree(self, processor, tmp_path):
        pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "a.png")
        batch = processor([tmp_path / "a.png", Image.fromarray(pixels), pixels, pixels.astype(np.float32) / 255])
        assert batch["pixel_values"].shape == (4, 3, 16, 16)
        for other in batch["pixel_values"][1:]:
            torch.testing.assert_close(other, batch["pixel_values"][0], rtol=0, atol=0)

    def test_white_and_black(self, processor):
        assert processor(np.full((4, 4), 255, np.uint8))["pixel_values"].unique().tolist() == [1]
        assert processor(np.zeros((4, 4), np.uint8))["pixel_values"].unique().tolist() == [-1]

    def test_saved_and_loaded(self, processor, tmp_path):
        processor.save_pretrained(tmp_path)
        from hf_fer.models.csr import CsrConfig

        CsrConfig(num_concepts=2).save_pretrained(tmp_path)
        loaded = AutoProcessor.from_pretrained(tmp_path)
        pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        assert torch.equal(loaded(pixels)["pixel_values"], processor(pixels)["pixel_values"])

    def test_bad_arrays(self, processor):
        with pytest.raises(ValueError, match="shape"):
            processor(np.zeros((4, 4, 2), np.uint8))
        with pytest.raises(ValueError, match=r"in \[0, 1\]"):
            processor(np.full((4, 4), 2.0))
        with pytest.raises(ValueError, match="at least one"):
            processor([])

    def test_an_image_processor_that_rescales(self):
        with pytest.raises(ValueError, match="do_rescale=False"):
            CsrProcessor(ViTImageProcessor())
