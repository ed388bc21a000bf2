"""Facts about a data set that a model card needs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataFacts:
    """
    Facts about a data set for the model card.

    Args:
        license: The Hub's name of a licence for models trained on the data; `None` leaves the choice to the owner.
        limits: Sentences on what scores on this data do not show; empty if there is nothing to add.
    """

    license: str | None = None
    limits: str = ""
