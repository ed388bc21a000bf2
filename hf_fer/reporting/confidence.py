"""How far a classifier's confidence can be relied on: its temperature, when to abstain, and what that costs."""

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
    What turns logits into confidences, and the confidence below which an answer is better withheld.

    Args:
        temperature: Logits are divided by it before the softmax; 1 leaves them.
        abstention_threshold: In [0, 1]; 0 never abstains.
        remark: Where both come from, for the report.
    """

    temperature: float
    abstention_threshold: float
    remark: str

    @classmethod
    def fit(cls, scored: Scored, coverage: float, risk: float | None) -> "Calibration":
        """
        Fit both on validation.

        Args:
            scored: The validation split.
            coverage: Share of it that is to be answered.
            risk: If given, the error rate that the answers may have; `coverage` then does not count.
        """
        temperature, origin = fitted_temperature(scored)
        confidence = scored.confidence(temperature)
        if risk is None:
            threshold = calibration.acceptance_threshold(confidence, coverage)
            meaning = f"The abstention threshold answers {coverage:.0%} of validation."
        else:
            threshold = calibration.threshold_for_risk(confidence, scored.correct, risk)
            meaning = f"Of validation's answers that reach the abstention threshold, at most {risk:g} are wrong."
        if threshold is None:
            threshold, meaning = 0.0, f"No abstention threshold: no part of validation has a risk of {risk:g}."
        return cls(temperature, threshold, f"{origin} {meaning}")

    @classmethod
    def stored(cls, config: PreTrainedConfig, trained: bool) -> "Calibration":
        """
        What a model has without being fitted here.

        Args:
            config: Of the model; has `temperature` and `abstention_threshold`.
            trained: Whether it was trained in this run.
        """
        remark = "Temperature and abstention threshold are those stored with the checkpoint."
        if config.temperature == 1 and not config.abstention_threshold:
            why = "validation, on which they are fitted, was not scored" if trained else "the checkpoint has none"
            remark = f"Confidences are not calibrated: no temperature and no abstention threshold, because {why}."
        return cls(config.temperature, config.abstention_threshold, remark)

    @property
    def is_fitted(self) -> bool:
        """Whether there is anything but the defaults."""
        return self.temperature != 1 or self.abstention_threshold > 0

    def put(self, config: PreTrainedConfig) -> None:
        """Store both in a model's configuration."""
        config.temperature, config.abstention_threshold = self.temperature, self.abstention_threshold

    def metrics(self, scored: Scored) -> dict[str, Any]:
        """
        Returns:
            `calibration` with ECE and mean confidence before and, where fitted, after the temperature; `abstention`
            with `aurc`, and, where there is a threshold, with it, the `coverage` it leaves and their `accuracy`.
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
    """The temperature fitted on validation, 1 where none can be fitted, and a sentence on it for the report."""
    temperature = calibration.fit_temperature(validation.log_probs, validation.labels)
    if temperature is not None:
        return temperature, (
            f"The temperature ({temperature:.3f}) was fitted on validation, whose ECE after it is optimistic."
        )
    low, high = calibration.TEMPERATURE_BOUNDS
    why = (
        f"all {len(validation.labels)} validation examples are answered correctly"
        if validation.correct.all()
        else "validation is answered no better than by chance, or by almost no error"
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
    axes.set(xlabel="coverage: share that is answered", ylabel="risk: error rate of the answers")
    axes.set(xlim=(0, 1), ylim=(0, None), title="risk and coverage")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=130)
