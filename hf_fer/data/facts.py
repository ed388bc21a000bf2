"""What somebody who shares a model has to know of its data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataFacts:
    """
    What a model's card says of its data.

    Args:
        license: The Hub's name of a licence that the model can be given; `None` leaves it to whoever shares it.
        limits: Sentences on what scores on this data do not say; empty if there is nothing to add.
    """

    license: str | None = None
    limits: str = ""
