"""The Hub is asked once, with a short limit, before libraries ask it many times with long ones."""

from typing import Literal

from datasets import DatasetDict, load_dataset
from huggingface_hub import HfApi, constants, is_offline_mode
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import get_session

from hf_fer.data.loading import DataError

TIMEOUT = 5.0
"""Seconds for each part of a request: to connect, to send, to hear something."""


def unreachable() -> str | None:
    """Why there is no Hub to speak to, or `None`; under `HF_HUB_OFFLINE` nothing is asked."""
    if is_offline_mode():
        return None
    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT)
    except Exception as error:  # of the HTTP client, which differs from one version of huggingface_hub to the next
        return _no_answer(error)
    return None


def trouble(name: str, kind: Literal["model", "dataset"] = "model") -> str | None:
    """
    Why a repository cannot be had from the Hub, or `None`; under `HF_HUB_OFFLINE` nothing is asked.

    Args:
        name: `owner/name`, or an old name without an owner.
        kind: Of the repository.
    """
    if is_offline_mode():
        return None
    try:
        HfApi().repo_info(name, repo_type=kind, timeout=TIMEOUT)
    except HFValidationError:
        return f"that is no name of a {kind} on the Hub"
    except GatedRepoError:
        return f"its authors ask that one agrees to their terms, on {constants.ENDPOINT}, and runs `hf auth login`"
    except RepositoryNotFoundError:
        return f"the Hub has no such {kind}, or none that this account may read; a private one needs `hf auth login`"
    except HfHubHTTPError as error:
        return f"the Hub says: {_first_line(error)}"
    except Exception as error:  # of the HTTP client
        return _no_answer(error)
    return None


def read_dataset(name: str) -> DatasetDict:
    """
    A data set of the Hub, with its splits.

    Raises:
        DataError: it cannot be had; in seconds where the Hub cannot be reached or has no such data set.
    """
    reason = trouble(name, "dataset")
    if reason is None:
        try:
            return load_dataset(name)
        except Exception as error:  # whatever a data set's files bring about
            reason = str(error)
    raise DataError(
        f"{name}: neither 'demo', nor an existing folder or file, nor a Hub data set that loads ({reason})."
    )


def _no_answer(error: Exception) -> str:
    return (
        f"{constants.ENDPOINT} cannot be reached: {_first_line(error)}. What was downloaded before is used where "
        "HF_HUB_OFFLINE=1 is set"
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
