"""DICOM as old machines write it: padded, and without the preamble."""

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

from hf_fer.models.csr.decoding_csr import UnusableImageError, image_facts, load_image


def write_dicom(path, pixels: np.ndarray, kind: str = "MONOCHROME2", preamble: bool = True, meta: bool = True, **tags):
    """A grey image; `preamble` and `meta` say whether it has them."""
    facts = FileMetaDataset()
    facts.TransferSyntaxUID = ExplicitVRLittleEndian if meta else ImplicitVRLittleEndian
    facts.MediaStorageSOPClassUID, facts.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", generate_uid()
    data = FileDataset(None, {}, file_meta=facts, preamble=b"\0" * 128)
    data.SOPClassUID = facts.MediaStorageSOPClassUID
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, kind
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, int(pixels.dtype.kind == "i")
    for name, value in tags.items():
        setattr(data, name, value)
    data.PixelData = pixels.tobytes()
    data.save_as(path, enforce_file_format=True)
    if not meta:
        data.file_meta = FileMetaDataset()
        data.preamble = None
        pydicom.dcmwrite(path, data, implicit_vr=True, little_endian=True, enforce_file_format=False, overwrite=True)
    elif not preamble:
        path.write_bytes(path.read_bytes()[132:])
    return path


def ramp(dtype=np.int16) -> np.ndarray:
    return np.linspace(100, 4180, 64 * 64).reshape(64, 64).astype(dtype)


@pytest.mark.parametrize("kind", ["MONOCHROME2", "MONOCHROME1"])
def test_padding_is_no_part_of_the_range_and_is_shown_black(tmp_path, kind):
    padded = ramp()
    padded[:, :4] = -2000
    shown = load_image(write_dicom(tmp_path / "p.dcm", padded, kind, PixelPaddingValue=-2000))[..., 0]
    assert (shown[:, :4] == 0).all()
    real = np.abs(shown - (1 if kind == "MONOCHROME1" else 0))[:, 4:]
    expected = (padded[:, 4:] - padded[0, 4]) / (4180.0 - padded[0, 4])
    np.testing.assert_allclose(real, expected, atol=1e-3)


def test_a_range_of_padding(tmp_path):
    padded = ramp(np.uint16)
    padded[:, :4] = np.array([60000, 61000, 62000, 65535])
    tags = {"PixelPaddingValue": 65535, "PixelPaddingRangeLimit": 60000}
    shown = load_image(write_dicom(tmp_path / "p.dcm", padded, **tags))[..., 0]
    assert (shown[:, :4] == 0).all()
    assert shown[:, 4:].max() == 1


def test_an_image_of_padding_alone_is_black(tmp_path):
    path = write_dicom(tmp_path / "p.dcm", np.full((8, 8), -5, np.int16), PixelPaddingValue=-5)
    assert (load_image(path) == 0).all()


@pytest.mark.parametrize("name", ["x.dcm", "1.2.3.4"])
@pytest.mark.parametrize("missing", [{"preamble": False}, {"meta": False}])
def test_a_file_without_preamble_reads_as_with_it(tmp_path, name, missing):
    whole = load_image(write_dicom(tmp_path / "whole.dcm", ramp()))
    path = write_dicom(tmp_path / name, ramp(), **missing)
    np.testing.assert_array_equal(load_image(path), whole)
    assert image_facts(path) == (64, 64, 16)


def test_what_is_no_dicom_at_all_is_still_refused(tmp_path):
    (tmp_path / "x.dcm").write_bytes(b"hello, this is text " * 20)
    with pytest.raises(UnusableImageError, match="not readable as DICOM"):
        load_image(tmp_path / "x.dcm")
