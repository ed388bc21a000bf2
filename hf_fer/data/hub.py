"""Checks with one short request whether the Hub answers, before libraries try many long ones."""

from typing import Literal

from datasets import DatasetDict, load_dataset
from huggingface_hub import HfApi, constants, is_offline_mode
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import get_session

from hf_fer.data.loading import DataError

TIMEOUT = 5.0
"""Time limit in seconds for each phase of a request: to connect, to send, to receive."""


def unreachable() -> str | None:
    """Why the Hub cannot be reached, or `None` if it can; with `HF_HUB_OFFLINE` set, no request is sent."""
    if is_offline_mode():
        return None
    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT)
    except Exception as error:  # its class depends on the HTTP client of the installed huggingface_hub
        return _no_answer(error)
    return None


def trouble(name: str, kind: Literal["model", "dataset"] = "model") -> str | None:
    """
    Why a repository cannot be downloaded from the Hub, or `None`; with `HF_HUB_OFFLINE` set, no request is sent.

    Args:
        name: `owner/name`, or an old name without an owner.
        kind: Kind of the repository.
    """
    if is_offline_mode():
        return None
    try:
        HfApi().repo_info(name, repo_type=kind, timeout=TIMEOUT)
    except HFValidationError:
        return f"that is not a valid name of a {kind} on the Hub"
    except GatedRepoError:
        return f"it is gated: agree to its authors' terms on {constants.ENDPOINT}, and run `hf auth login`"
    except RepositoryNotFoundError:
        return f"the Hub has no such {kind}, or none that this account may read; a private one needs `hf auth login`"
    except HfHubHTTPError as error:
        return f"the Hub says: {_first_line(error)}"
    except Exception as error:  # a network error; see `unreachable`
        return _no_answer(error)
    return None


def read_dataset(name: str) -> DatasetDict:
    """
    Load a data set of the Hub, with its splits.

    Raises:
        DataError: it cannot be loaded; within seconds if the Hub cannot be reached or has no such data set.
    """
    reason = trouble(name, "dataset")
    if reason is None:
        try:
            return load_dataset(name)
        except Exception as error:  # a data set's files may raise anything
            reason = str(error)
    raise DataError(
        f"{name}: neither 'demo', nor an existing folder or file, nor a Hub data set that loads ({reason})."
    )


def _no_answer(error: Exception) -> str:
    return (
        f"{constants.ENDPOINT} cannot be reached: {_first_line(error)}. Set HF_HUB_OFFLINE=1 to use what was "
        "downloaded before"
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
