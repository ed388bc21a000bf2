"""The report of an export: differences, metrics, size and latency, and the reasons to refuse it."""

import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hf_fer.data.loading import write_atomically, write_json_atomically

JSON, MARKDOWN = "export_report.json", "export_report.md"
TOLERANCES = {"fp32": 1e-3, "fp16": 2e-2, "int8": 2e-1}
"""Type of weights -> largest accepted difference of logits, as a share of the largest logit or of 1 if larger."""


@dataclass
class Report:
    """
    Comparison of an export with its model.

    Args:
        model: Name of the model's folder, or its name on the Hub.
        pipeline_task: Pipeline task of the model's system.
        form, dtype: Format of the graph, and type of its weights.
        examples: Description of the inputs that model and export were given.
        differences: Result of `parity.compare`.
        tolerance: Largest accepted difference of logits, as a share of the largest logit.
        max_metric_drop: Largest accepted loss of a metric.
        same_answers: Result of `parity.same_answers`.
        metrics: Name -> `before`, `after` and `loss`; empty if no example has a label.
        bytes: Size of the weights, `before` and `after`.
        latency: `batch` and `length` of the timed inputs, `before_ms`, `after_ms`, `runs` and `threads`.
        accepted: Reasons to refuse the export that the user overrode.
    """

    model: str
    pipeline_task: str
    form: str
    dtype: str
    examples: str
    differences: dict[str, Any]
    tolerance: float
    max_metric_drop: float
    same_answers: tuple[int, int]
    metrics: dict[str, dict[str, float]]
    bytes: dict[str, int]
    latency: dict[str, float]
    accepted: list[str] = field(default_factory=list)

    @property
    def allowed(self) -> float:
        """Largest difference of logits that is accepted."""
        return self.tolerance * max(1.0, self.differences["largest_logit"])

    @property
    def difference(self) -> float:
        """Largest difference of logits that was found."""
        return self.differences["outputs"]["logits"]

    def reasons(self) -> list[str]:
        """Reasons to refuse the export; empty if there is none."""
        found = []
        if not self.difference <= self.allowed:  # so that NaN is a reason, too
            found.append(f"logits differ by {self.difference:.3g}, more than {self.allowed:.3g} (--max_difference).")
        found += [
            f"{name} goes from {one['before']:.4f} to {one['after']:.4f}, worse by more than "
            f"{self.max_metric_drop} (--max_metric_drop)."
            for name, one in self.metrics.items()
            if not one["loss"] <= self.max_metric_drop
        ]
        return found

    def write(self, folder: Path) -> None:
        """Write the report as JSON and as Markdown."""
        versions = {name: version(name) for name in ("torch", "transformers", *_onnx(self.form))}
        facts = {**asdict(self), "allowed_difference": self.allowed, "versions": versions}
        write_json_atomically(folder / JSON, facts | {"processor": platform.machine()}, indent=2)
        write_atomically(folder / MARKDOWN, self.page().encode())

    def page(self) -> str:
        """The report as Markdown."""
        same, count = self.same_answers
        rows = [
            ("largest difference of logits", f"{self.difference:.3g} (allowed: {self.allowed:.3g})"),
            ("same class or text", f"{same} of {count} inputs"),
            *((name, f"{one['before']:.4f} before, {one['after']:.4f} after") for name, one in self.metrics.items()),
            ("size of the weights", f"{_mib(self.bytes['before'])} before, {_mib(self.bytes['after'])} after"),
            (
                f"latency, batch of {self.latency['batch']}{_of_length(self.latency['length'])}, CPU, "
                f"{self.latency['threads']} threads",
                f"{self.latency['before_ms']:.2f} ms with torch, {self.latency['after_ms']:.2f} ms as exported "
                f"(fastest of {self.latency['runs']})",
            ),
        ]
        batches = self.differences["batches"]
        lines = [
            f"# {self.model} as {self.form}, {self.dtype}",
            "",
            f"Compared on {self.examples}.",
            "",
            *([f"**Exported in spite of this:** {' '.join(self.accepted)}", ""] if self.accepted else []),
            "| | |",
            "| --- | --- |",
            *(f"| {name} | {value} |" for name, value in rows),
            "",
            "| batch | length | difference of logits |",
            "| --- | --- | --- |",
            *(f"| {one['batch']} | {one['length'] or ''} | {one['logits']:.3g} |" for one in batches),
            "",
            "| output | largest difference |",
            "| --- | --- |",
            *(f"| {name} | {value:.3g} |" for name, value in self.differences["outputs"].items()),
        ]
        return "\n".join(lines) + "\n"


def _onnx(form: str) -> tuple[str, ...]:
    return ("onnx", "onnxruntime", "onnxscript") if form == "onnx" else ()


def _of_length(length: int | None) -> str:
    return "" if length is None else f" x {length}"


def _mib(size: int) -> str:
    return f"{size / 2**20:.2f} MiB"
