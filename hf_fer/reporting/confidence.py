"""Calibration of a classifier: softmax temperature, abstention threshold, and their effect on a split."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from transformers import PreTrainedConfig

from hf_fer.metrics import calibration
from hf_fer.metrics.scored import Scored


@dataclass
class Calibration:
    """
    Softmax temperature of a classifier, and the confidence below which it abstains.

    Args:
        temperature: Logits are divided by it before the softmax; 1 does not change them.
        abstention_threshold: Confidence in [0, 1]; at 0 the classifier never abstains.
        remark: Sentences for the report that say where both come from.
    """

    temperature: float
    abstention_threshold: float
    remark: str

    @classmethod
    def fit(cls, scored: Scored, coverage: float, risk: float | None) -> "Calibration":
        """
        Fit temperature and threshold on the validation split.

        Args:
            scored: Predictions on the validation split.
            coverage: Fraction of the split that the threshold answers.
            risk: Highest error rate of the answers; if given, it replaces `coverage`.
        """
        temperature, origin = fitted_temperature(scored)
        confidence = scored.confidence(temperature)
        if risk is None:
            threshold = calibration.acceptance_threshold(confidence, coverage)
            meaning = f"The abstention threshold answers {coverage:.0%} of validation."
        else:
            threshold = calibration.threshold_for_risk(confidence, scored.correct, risk)
            meaning = f"At the abstention threshold, the error rate of the answers on validation is at most {risk:g}."
        if threshold is None:
            threshold, meaning = 0.0, f"No abstention threshold: the risk on validation always exceeds {risk:g}."
        return cls(temperature, threshold, f"{origin} {meaning}")

    @classmethod
    def stored(cls, config: PreTrainedConfig, trained: bool) -> "Calibration":
        """
        The calibration stored in a model's configuration.

        Args:
            config: Configuration with `temperature` and `abstention_threshold`.
            trained: Whether the model was trained in this run.
        """
        remark = "Temperature and abstention threshold are those stored with the checkpoint."
        if config.temperature == 1 and not config.abstention_threshold:
            why = "validation, on which they are fitted, was not scored" if trained else "the checkpoint has none"
            remark = f"Confidences are not calibrated: no temperature and no abstention threshold, because {why}."
        return cls(config.temperature, config.abstention_threshold, remark)

    @property
    def is_fitted(self) -> bool:
        """Whether temperature or threshold differs from its default."""
        return self.temperature != 1 or self.abstention_threshold > 0

    def put(self, config: PreTrainedConfig) -> None:
        """Store temperature and threshold in a model's configuration."""
        config.temperature, config.abstention_threshold = self.temperature, self.abstention_threshold

    def metrics(self, scored: Scored) -> dict[str, Any]:
        """
        Figures of the calibration on a split.

        Returns:
            `calibration`, with ECE and mean confidence before and, if the model is calibrated, after division by the
            temperature; `abstention`, with `aurc` and, if there is a threshold, `threshold`, `coverage` and
            `accuracy_of_answered`.
        """
        ece = calibration.calibration_report(scored.log_probs, scored.labels, self.temperature)
        if not self.is_fitted:
            ece = {name: value for name, value in ece.items() if name.endswith("_before")}
        confidence = scored.confidence(self.temperature)
        answered = confidence >= self.abstention_threshold
        abstention = {"aurc": calibration.aurc(calibration.risk_coverage(confidence, scored.correct))}
        if self.abstention_threshold > 0:
            abstention |= {"threshold": self.abstention_threshold, "coverage": float(answered.mean())}
            if answered.any():
                abstention["accuracy_of_answered"] = float(scored.correct[answered].mean())
        return {"calibration": ece, "abstention": abstention}


def fitted_temperature(validation: Scored) -> tuple[float, str]:
    """The temperature fitted on validation, or 1 where none can be fitted, and a sentence about it for the report."""
    temperature = calibration.fit_temperature(validation.log_probs, validation.labels)
    if temperature is not None:
        return temperature, (
            f"The temperature ({temperature:.3f}) was fitted on validation, so that its ECE there is optimistic."
        )
    low, high = calibration.TEMPERATURE_BOUNDS
    why = (
        f"all {len(validation.labels)} validation examples are answered correctly"
        if validation.correct.all()
        else "the answers on validation are no better than chance, or almost free of errors"
    )
    return 1.0, (
        f"No temperature was fitted: the likelihood has no optimum between {low:g} and {high:g}, because {why}. "
        "Confidences are not calibrated; fit them on more, or harder, validation data."
    )


def plot_risk_coverage(path: Path, curves: dict[str, pd.DataFrame]) -> None:
    """
    Draw risk over coverage.

    Args:
        path: PNG to write.
        curves: From `calibration.risk_coverage`, by split.
    """
    figure = Figure(figsize=(5.5, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for split, curve in curves.items():
        label = f"{split}, AURC {calibration.aurc(curve):.3f}"
        axes.plot(curve["coverage"], curve["risk"], drawstyle="steps-post", label=label)
    axes.set(xlabel="coverage: fraction answered", ylabel="risk: error rate of the answers")
    axes.set(xlim=(0, 1), ylim=(0, None), title="risk and coverage")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=130)
