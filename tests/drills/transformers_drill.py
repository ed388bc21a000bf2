"""Runs transformers' own common tests of models, configurations and processors on every model here:

python tests/drills/transformers_drill.py FOLDER [-k NAME] [--json OUT]

FOLDER is transformers' source distribution, unpacked, or a checkout of it, of the installed version:

pip download --no-deps --no-binary transformers transformers==VERSION
"""

import argparse
import collections
import importlib
import importlib.util
import json
import os
import sys
import types
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

FOLDER = "TRANSFORMERS_FOLDER"
PACKAGE = "transformers_own_tests"

# Modules that the common tests import and a source distribution lacks; none of them tests the models here.
MISSING = {
    f"{PACKAGE}.exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    f"{PACKAGE}.generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    f"{PACKAGE}.utils.test_configuration_utils": {"config_common_kwargs": {}},
    "fetch_hub_objects_for_ci": {"url_to_local_path": staticmethod(lambda url: url)},
}


def common(name: str, folder: Path) -> types.ModuleType:
    """A module of transformers' folder `tests`, imported under another package name than that of the tests here."""
    package = sys.modules.setdefault(PACKAGE, types.ModuleType(PACKAGE))
    package.__path__ = [str(folder / "tests")]
    (folder / "tests" / "__init__.py").touch()
    for module_name, content in MISSING.items():
        path = folder / ("utils" if "." not in module_name else "tests") / Path(*module_name.split(".")[-2:])
        if module_name in sys.modules or path.with_suffix(".py").exists():
            continue
        parent = module_name.rpartition(".")[0]
        if parent:
            sys.modules.setdefault(parent, types.ModuleType(parent)).__path__ = []
        sys.modules[module_name] = types.ModuleType(module_name)
        vars(sys.modules[module_name]).update(content)
    return importlib.import_module(f"{PACKAGE}.{name}")


if FOLDER in os.environ:  # pytest reads this file
    from drills.transformers_cases import cases

    globals().update(cases(lambda name: common(name, Path(os.environ[FOLDER]))))


class Count:
    """A plugin of pytest that records the outcome of each test."""

    def __init__(self) -> None:
        self.results: dict[str, dict[str, str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record one phase of a test, or one of its subtests, which counts only if it fails."""
        if report.when != "call" and report.passed:
            return
        case, _, name = report.nodeid.split("::", 1)[1].partition("::")
        outcomes = self.results.setdefault(case, {})
        if report.failed or (not hasattr(report, "context") and outcomes.get(name) != "failed"):
            outcomes[name] = report.outcome


def main() -> None:
    """Command line; prints how many passed, failed and were skipped, for each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("-k", default="", metavar="NAME", help="passed on to pytest")
    parser.add_argument("--json", type=Path, help="file for the outcome of each test")
    args = parser.parse_args()
    os.environ[FOLDER] = str(args.folder.resolve())
    count = Count()
    options = [
        "-q",
        "--tb=short",
        "-c",
        os.devnull,
        "--noconftest",
        "--rootdir",
        str(Path(__file__).parent),
        "-p",
        "no:cacheprovider",
        "-W",
        "ignore",
        "-k",
        args.k,
    ]
    pytest.main([__file__, *options], plugins=[count])
    total = collections.Counter()
    for case, outcomes in count.results.items():
        counted = collections.Counter(outcomes.values())
        total += counted
        print(f"{case}: {counted['passed']} passed, {counted['failed']} failed, {counted['skipped']} skipped")
    print(f"all: {total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped")
    if args.json:
        args.json.write_text(json.dumps(count.results, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
