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
from hf_fer.models.csr.train.images import unusable_reason
from hf_fer.models.csr.train.task import CsrTask

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


def voi_lut(entries: np.ndarray, first: int = 0, bits: int = 16, vr: str = "US") -> dict:
    """The fields of a VOI LUT of `entries`, for the values from `first` on."""
    table = pydicom.Dataset()
    table.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries), first, bits])
    table.add_new("LUTData", vr, entries.tobytes() if vr == "OW" else entries.tolist())
    return {"VOILUTSequence": pydicom.Sequence([table])}


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

    def test_empty_rescale_tags_change_nothing(self, tmp_path):
        fields = {"RescaleSlope": None, "RescaleIntercept": None, "WindowCenter": 1024, "WindowWidth": 512}
        plain = write_dicom(tmp_path / "b.dcm", RAMP, WindowCenter=1024, WindowWidth=512)
        np.testing.assert_array_equal(grey(write_dicom(tmp_path / "a.dcm", RAMP, **fields)), grey(plain))

    def test_voi_lut(self, tmp_path):
        entries = (np.sqrt(np.arange(4096) / 4095) * 65535).round().astype(np.uint16)
        path = write_dicom(tmp_path / "a.dcm", RAMP, **voi_lut(entries))
        np.testing.assert_allclose(grey(path), np.sqrt(RAMP / 4095), atol=1e-4)

    def test_a_voi_lut_of_negative_values(self, tmp_path):
        """From -1000 to 1000 black to white; beyond, its ends."""
        entries = np.linspace(0, 65535, 2001).round().astype(np.uint16)
        stored = np.array([[-3000, -1000, -750, -500, 0, 1000, 3000]], np.int16)
        path = write_dicom(tmp_path / "a.dcm", stored, bits=16, **voi_lut(entries, first=-1000))
        np.testing.assert_allclose(grey(path)[0], [0, 0, 0.125, 0.25, 0.5, 1, 1], atol=1e-4)

    def test_a_voi_lut_after_fractional_rescaling(self, tmp_path):
        fields = {"RescaleSlope": 0.5, "RescaleIntercept": -1024, **voi_lut(np.arange(2048, dtype=np.uint16), -1024)}
        path = write_dicom(tmp_path / "a.dcm", RAMP, **fields)
        np.testing.assert_allclose(grey(path), RAMP / 4095, atol=1 / 2047)

    @pytest.mark.parametrize(("vr", "kind"), [("US", np.uint16), ("OW", np.uint16), ("OW", np.uint8)])
    def test_a_voi_lut_of_more_entries_than_its_bits_count(self, tmp_path, vr, kind):
        """4096 entries of 8 bits; in bytes they have one or two each."""
        path = write_dicom(tmp_path / "a.dcm", RAMP, **voi_lut((RAMP.ravel() // 16).astype(kind), bits=8, vr=vr))
        np.testing.assert_allclose(grey(path), RAMP // 16 / 255, atol=1e-6)

    def test_a_voi_lut_that_falls(self, tmp_path):
        path = write_dicom(tmp_path / "a.dcm", RAMP, **voi_lut(4095 - RAMP.ravel()))
        np.testing.assert_allclose(grey(path), 1 - RAMP / 4095, atol=1e-6)

    def test_a_voi_lut_comes_before_a_window(self, tmp_path):
        path = write_dicom(tmp_path / "a.dcm", RAMP, WindowCenter=9, WindowWidth=2, **voi_lut(RAMP.ravel()))
        np.testing.assert_allclose(grey(path), RAMP / 4095, atol=1e-6)

    def test_a_voi_lut_that_is_too_short(self, tmp_path):
        fields = voi_lut(RAMP.ravel())
        fields["VOILUTSequence"][0].LUTData = [1, 2, 3]
        with pytest.raises(UnusableImageError, match="has 3 entries where its descriptor says 4096"):
            load_image(write_dicom(tmp_path / "a.dcm", RAMP, **fields))

    def test_a_modality_lut_of_negative_values(self, tmp_path):
        table = voi_lut(np.arange(0, 2000, 2, dtype=np.uint16), first=-500)["VOILUTSequence"]
        table[0].ModalityLUTType = "US"
        stored = np.array([[-900, -500, 0, 499, 900]], np.int16)
        path = write_dicom(tmp_path / "a.dcm", stored, bits=16, ModalityLUTSequence=table)
        np.testing.assert_allclose(grey(path)[0], np.array([0, 0, 1000, 1998, 1998]) / 1998, atol=1e-6)

    @pytest.mark.parametrize(
        "fields",
        [
            {"WindowWidth": 100},
            {"WindowCenter": 100},
            {"WindowCenter": 100, "WindowWidth": None},
            {"WindowCenter": 100, "WindowWidth": 0},
            {"WindowCenter": 100, "WindowWidth": 0, "VOILUTFunction": "LINEAR_EXACT"},
            {"VOILUTSequence": pydicom.Sequence([])},
            {"VOILUTSequence": pydicom.Sequence([pydicom.Dataset()])},
            voi_lut(np.full(4096, 7, np.uint16)),
        ],
    )
    def test_incomplete_tags_are_as_none(self, tmp_path, fields):
        path = write_dicom(tmp_path / "a.dcm", RAMP, **fields)
        np.testing.assert_allclose(grey(path), RAMP / 4095, atol=1e-6)
        assert unusable_reason(str(path), "image") is None

    def test_a_window_where_the_lut_is_incomplete(self, tmp_path):
        fields = {"VOILUTSequence": pydicom.Sequence([]), "WindowCenter": 1024.5, "WindowWidth": 513}
        path = write_dicom(tmp_path / "a.dcm", RAMP, **fields)
        np.testing.assert_allclose(grey(path), ((RAMP - 768.0) / 512).clip(0, 1), atol=1e-5)

    @pytest.mark.parametrize(
        ("function", "expected"),
        [
            ("LINEAR_EXACT", lambda x: (x - 924) / 200),
            ("SIGMOID", lambda x: 1 / (1 + np.exp(-4 * (x - 1024) / 200))),
        ],
    )
    def test_other_windows(self, tmp_path, function, expected):
        fields = {"WindowCenter": 1024, "WindowWidth": 200, "VOILUTFunction": function}
        path = write_dicom(tmp_path / "a.dcm", RAMP, **fields)
        np.testing.assert_allclose(grey(path), expected(RAMP.astype(float)).clip(0, 1), atol=1e-6)

    def test_a_window_of_one_value(self, tmp_path):
        path = write_dicom(tmp_path / "a.dcm", RAMP, WindowCenter=1024, WindowWidth=1)
        np.testing.assert_array_equal(grey(path), RAMP > 1023.5)

    def test_an_unknown_function(self, tmp_path):
        fields = {"WindowCenter": 1024, "WindowWidth": 200, "VOILUTFunction": "CUBIC"}
        with pytest.raises(UnusableImageError, match="unknown VOI LUT function 'CUBIC'"):
            load_image(write_dicom(tmp_path / "a.dcm", RAMP, **fields))

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

    @pytest.mark.parametrize("name", ["a", "1.2.826.0.1.3680043.8"])
    def test_no_ending(self, tmp_path, name):
        """The last number of a UID is no ending."""
        path = write_dicom(tmp_path / name, RAMP)
        assert grey(path).max() == 1
        assert image_facts(path) == (64, 64, 12)
        assert CsrTask.inspect(str(tmp_path))[0]["path"].tolist() == [str(path)]

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

    def test_more_pixels_than_the_header_says(self, tmp_path):
        path = write_dicom(tmp_path / "a.dcm", np.concatenate([RAMP, RAMP]), Rows=RAMP.shape[0])
        with pytest.raises(UnusableImageError, match="do not fit pixels of shape"):
            load_image(path)

    def test_compression_that_is_not_there(self, tmp_path):
        path = write_dicom(tmp_path / "a.dcm", RAMP)
        data = pydicom.dcmread(path)
        data.file_meta.TransferSyntaxUID = JPEG2000Lossless
        data.PixelData = pydicom.encaps.encapsulate([b"not jpeg 2000 at all"])
        data["PixelData"].is_undefined_length = True
        data.save_as(path)
        with pytest.raises(UnusableImageError, match="no decoder of their compression"):
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

    @pytest.mark.parametrize("name", ["a.tif", "a.webp", "a.png", "a.gif"])
    def test_several_pictures(self, tmp_path, name):
        first, second = (Image.fromarray(np.full((8, 8), grey, np.uint8)) for grey in (10, 200))
        first.save(tmp_path / name, save_all=True, append_images=[second])
        with pytest.raises(UnusableImageError, match="has 2 frames; give one image per file"):
            load_image(tmp_path / name)

    @pytest.mark.parametrize("kind", ["preview", "camera"])
    def test_a_second_picture_that_is_no_page(self, tmp_path, kind):
        path = tmp_path / {"preview": "a.tif", "camera": "a.jpg"}[kind]
        first, second = (Image.fromarray(np.full((8, 8, 3), grey, np.uint8)) for grey in (51, 204))
        if kind == "preview":
            second.encoderinfo = {"tiffinfo": {254: 1}}
            first.save(path, save_all=True, append_images=[second])
        else:
            first.save(path, format="MPO", save_all=True, append_images=[second])
        with Image.open(path) as opened:
            assert opened.n_frames == 2
        np.testing.assert_allclose(load_image(path), 0.2, atol=0.01)

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


def damaged(whole: bytes, generator: np.random.Generator) -> bytes:
    """A file cut short, or with up to twenty bits turned, most of them in its first part."""
    if generator.random() < 0.4:
        return whole[: generator.integers(1, len(whole))]
    data = bytearray(whole)
    for place in (generator.random(generator.integers(1, 21)) ** 3 * len(data)).astype(int):
        data[place] ^= 1 << generator.integers(8)
    return bytes(data)


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_unusable_or_work(tmp_path):
    """Nothing but UnusableImageError comes out of the decoders, and nothing but shares out of what they decode."""
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (24, 24, 3), dtype=np.uint8)
    window = {"WindowCenter": 1024, "WindowWidth": 200, "RescaleSlope": 1, "RescaleIntercept": -4}
    write_dicom(tmp_path / "window.dcm", RAMP[:24, :24], **window)
    write_dicom(tmp_path / "lut.dcm", RAMP[:24, :24], **voi_lut(RAMP.ravel()[:600], first=-20))
    write_dicom(tmp_path / "colour.dcm", noise, bits=8, photometric="RGB")
    Image.fromarray(noise).save(tmp_path / "8.png")
    Image.fromarray(RAMP).save(tmp_path / "16.png", exif=Image.Exif())
    outcomes = {"works": 0, "unusable": 0}
    for source in sorted(tmp_path.iterdir()):
        whole = source.read_bytes()
        for _ in range(20):
            path = tmp_path / f"damaged{source.suffix}"
            path.write_bytes(damaged(whole, generator))
            for read in (image_facts, load_image):
                try:
                    found = read(path)
                    assert read is image_facts or (found.shape[2] == 3 and 0 <= found.min() <= found.max() <= 1)
                    outcomes["works"] += 1
                except UnusableImageError:
                    outcomes["unusable"] += 1
    assert min(outcomes.values()) > 20, outcomes


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

    def test_16_bits_and_turned_images_agree_with_their_files(self, processor, tmp_path):
        turned = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
        turned.getexif()[0x0112] = 6
        for picture in (Image.fromarray(RAMP * 3 + 900), turned):
            picture.save(tmp_path / "a.png", exif=picture.getexif())
            with Image.open(tmp_path / "a.png") as opened:
                assert opened.mode == ("RGB" if picture is turned else "I;16")
                for given in (opened, picture):
                    assert torch.equal(processor.load_image(given), processor.load_image(tmp_path / "a.png"))
        assert processor.load_image(tmp_path / "a.png").shape == (3, 30, 20)

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

    def test_tensors_and_masks(self, processor):
        expected = processor(np.ones((4, 4)))["pixel_values"]
        for given in (
            np.ones((4, 4), bool),
            torch.ones(4, 4, requires_grad=True),
            torch.ones(4, 4, dtype=torch.bfloat16),
            torch.full((4, 4), 255, dtype=torch.uint8),
        ):
            torch.testing.assert_close(processor(given)["pixel_values"], expected)

    def test_bad_arrays(self, processor):
        with pytest.raises(ValueError, match="shape"):
            processor(np.zeros((4, 4, 2), np.uint8))
        with pytest.raises(ValueError, match=r"in \[0, 1\]"):
            processor(np.full((4, 4), 2.0))
        for kind in (complex, object):
            with pytest.raises(ValueError, match="are of integers, floats or booleans"):
                processor(np.zeros((4, 4), kind))
        with pytest.raises(ValueError, match="at least one"):
            processor([])

    def test_an_image_processor_that_rescales_does_so_alone(self, processor):
        pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        rescaling = CsrProcessor(ViTImageProcessor(size={"height": 16, "width": 16}))
        assert torch.equal(rescaling(pixels)["pixel_values"], processor(pixels)["pixel_values"])
