"""The real YuNet, where it is."""

import cv2
import pytest

from hf_fer.models.multimodal_fer.decoding_multimodal_fer import load_video
from hf_fer.models.multimodal_fer.face_multimodal_fer import YUNET_FILE, face_cropper


def test_the_file_is_the_one_that_this_opencv_reads():
    assert ("2026may" in YUNET_FILE) == (int(cv2.__version__.split(".")[0]) >= 5)


def test_yunet_finds_the_face_of_real_frames(real_data):
    model = real_data / "yunet" / YUNET_FILE
    if not model.is_file():
        pytest.skip(f"{YUNET_FILE} is not in the real data")
    frames = load_video(sorted((real_data / "grid_s1" / "video").glob("*.mpg"))[0], 4)
    crop = face_cropper("yunet", str(model))(frames)
    assert crop.shape[0] == 4
    assert 80 < crop.shape[1] <= 288
    assert 80 < crop.shape[2] < 300
