"""The real YuNet, where it is."""

import cv2
import numpy as np
import pytest

from hf_fer.models.multimodal_fer.decoding_multimodal_fer import load_video
from hf_fer.models.multimodal_fer.face_multimodal_fer import YUNET_FILE, YUNET_FIXED, face_cropper, find_yunet
from hf_fer.models.multimodal_fer.train.source import file_check
from hf_fer.recipe.arguments import RecipeError
from hf_fer.task.find import parse_task


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


NEEDED = f"does not run in OpenCV {cv2.__version__}, which needs {YUNET_FILE}: give its path as yunet_path"


def test_a_network_that_opencv_cannot_read_is_refused_with_the_one_it_needs(tmp_path):
    wrong = tmp_path / "face.onnx"
    wrong.write_bytes(b"no network")
    with pytest.raises(RuntimeError) as caught:
        face_cropper("yunet", str(wrong))(np.zeros((1, 64, 64, 3), np.uint8))
    assert str(wrong) in str(caught.value)
    assert NEEDED in str(caught.value)


def test_a_path_that_is_not_there_names_the_file_to_get(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"does not exist. Download {YUNET_FILE}"):
        find_yunet(str(tmp_path / "none.onnx"))


def test_the_network_of_2023_is_refused_where_opencv_reads_it_no_more(real_data):
    fixed = real_data / "yunet" / YUNET_FIXED
    if YUNET_FILE == YUNET_FIXED or not fixed.is_file():
        pytest.skip("this OpenCV reads the file of 2023, or it is not in the real data")
    with pytest.raises(RuntimeError) as caught:
        face_cropper("yunet", str(fixed))(np.zeros((1, 240, 320, 3), np.uint8))
    assert NEEDED in str(caught.value)


def test_a_run_with_a_network_that_does_not_run_ends_with_one_message(tmp_path):
    (tmp_path / "face.onnx").write_bytes(b"no network")
    arguments = ["--task", "multimodal_fer", "--dataset", "demo", "--output_dir", str(tmp_path / "out")]
    task = parse_task([*arguments, "--face_crop", "yunet", "--yunet_path", str(tmp_path / "face.onnx")])
    with pytest.raises(RecipeError, match="needs face_detection_yunet"):
        file_check(task)
