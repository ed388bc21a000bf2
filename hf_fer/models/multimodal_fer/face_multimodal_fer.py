"""Crops a clip to the face: the whole frame, a centred square, or the box that YuNet finds."""

import threading
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np
from huggingface_hub import HfApi, hf_hub_download, is_offline_mode
from huggingface_hub.errors import LocalEntryNotFoundError

FACE_CROPS = ("none", "center", "yunet")

YUNET_REPOSITORY = "opencv/face_detection_yunet"
YUNET_FIXED = "face_detection_yunet_2023mar.onnx"
# OpenCV 5 reads YuNet with dynamic input only; the file of 2023 has a fixed one.
YUNET_FILE = "face_detection_yunet_2026may.onnx" if int(cv2.__version__.split(".")[0]) >= 5 else YUNET_FIXED

HUB_TIMEOUT = 5.0
"""Seconds to wait for the Hub's first answer."""

# Fraction of the face's width and height added on every side, to keep chin, forehead and ears in the picture.
FACE_MARGIN = 0.25


class NoFaceError(ValueError):
    """YuNet found no face in any of the sampled frames."""


def find_yunet(path: str | None) -> Path:
    """
    YuNet's ONNX file: the given one, or else the Hub's, which is cached.

    Raises:
        FileNotFoundError: the path does not exist, or the file is not cached and cannot be downloaded.
    """
    if path is not None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"yunet_path: {path} does not exist. Download {YUNET_FILE} and give its path.")
        return Path(path)
    try:
        return Path(hf_hub_download(YUNET_REPOSITORY, YUNET_FILE, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    try:
        if not is_offline_mode():
            # Ask first, because a download without a network retries for minutes.
            HfApi().model_info(YUNET_REPOSITORY, timeout=HUB_TIMEOUT)
        return Path(hf_hub_download(YUNET_REPOSITORY, YUNET_FILE))
    except Exception as error:  # the HTTP client and its errors differ between versions of huggingface_hub
        raise FileNotFoundError(
            f"face_crop 'yunet' needs {YUNET_FILE}, and it could not be downloaded from the Hub repository "
            f"{YUNET_REPOSITORY} ({type(error).__name__}). Download it elsewhere and give yunet_path, or set "
            "face_crop to 'center' or 'none'."
        ) from error


# A detector holds its input size and buffers, so threads that check files take turns.
_detector_lock = threading.Lock()


@lru_cache(maxsize=1)
def _detector(model: Path) -> "cv2.FaceDetectorYN":
    return cv2.FaceDetectorYN.create(str(model), "", (320, 320))


def _largest_face(frame: np.ndarray, model: Path) -> np.ndarray | None:
    with _detector_lock:
        try:
            detector = _detector(model)
            detector.setInputSize((frame.shape[1], frame.shape[0]))
            _, faces = detector.detect(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        except cv2.error as error:
            raise RuntimeError(
                f"{model} does not run in OpenCV {cv2.__version__}, which needs {YUNET_FILE}: "
                "give its path as yunet_path."
            ) from error
    if faces is None or not len(faces):
        return None
    return faces[np.argmax(faces[:, 2] * faces[:, 3]), :4]


def _whole_frame(frames: np.ndarray) -> np.ndarray:
    return frames


def _crop_center(frames: np.ndarray) -> np.ndarray:
    height, width = frames.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return frames[:, top : top + side, left : left + side]


def _crop_yunet(frames: np.ndarray, model: Path) -> np.ndarray:
    boxes = [box for box in (_largest_face(frame, model) for frame in frames) if box is not None]
    if not boxes:
        raise NoFaceError(f"YuNet finds no face in any of the {len(frames)} sampled frames")
    x, y, w, h = np.median(boxes, axis=0)
    side = max(w, h) * (1 + 2 * FACE_MARGIN)
    left, top = max(round(x + w / 2 - side / 2), 0), max(round(y + h / 2 - side / 2), 0)
    right, bottom = round(x + w / 2 + side / 2), round(y + h / 2 + side / 2)
    return frames[:, top:bottom, left:right]


def face_cropper(kind: str, yunet_path: str | None = None) -> Callable[[np.ndarray], np.ndarray]:
    """
    A function that crops a clip, `(frames, height, width, 3)` `uint8` RGB; all frames get the same box.

    Args:
        kind: `"none"`, `"center"` (the largest centred square) or `"yunet"` (the median box of the largest face,
            with a margin; OpenCV's `FaceDetectorYN`, https://doi.org/10.1007/s11633-023-1423-y).
        yunet_path: YuNet's ONNX file; downloaded from the Hub if not given.

    Raises:
        ValueError: the kind is unknown. The returned function raises `NoFaceError` where there is no face.
        FileNotFoundError: YuNet's model does not exist or cannot be downloaded.
    """
    if kind == "none":
        return _whole_frame
    if kind == "center":
        return _crop_center
    if kind == "yunet":
        return partial(_crop_yunet, model=find_yunet(yunet_path))
    raise ValueError(f"Unknown face_crop {kind!r}; choose one of {FACE_CROPS}.")


__all__ = ["FACE_CROPS", "NoFaceError", "face_cropper", "find_yunet"]
