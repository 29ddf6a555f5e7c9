"""The files of a study's report, and the small one among them that says what they are."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = "report"  # below the study's own
CONTENTS = "contents.json"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was made of a study.

    Attributes:
        folder: Where it lies.
        made_from: Digest of the trials as they stood.
        study: Files of the study's figures.
        trials: Files of some trials' own figures, by trial.
        problems: What went wrong or was left out, a line each.
        logged: By tracking address, the runs that hold these files there.
    """

    folder: Path
    made_from: str
    study: list[Path]
    trials: dict[int, list[Path]]
    problems: list[str] = field(default_factory=list)
    logged: dict[str, list[str]] = field(default_factory=dict)

    @property
    def files(self) -> list[Path]:
        """All of them."""
        return [*self.study, *(file for files in self.trials.values() for file in files)]


def read_report(study_folder: Path) -> Report | None:
    """The report that lies in a study's folder; None where there is none that can be read."""
    folder = study_folder / FOLDER
    try:
        facts = json.loads((folder / CONTENTS).read_text(encoding="utf-8"))
        return Report(
            folder=folder,
            made_from=facts["made_from"],
            study=[folder / name for name in facts["study"]],
            trials={
                int(number): [folder / name for name in names]
                for number, names in facts["trials"].items()
            },
            problems=facts["problems"],
            logged=facts["logged"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # it is made anew


def write_report(report: Report) -> None:
    """Say in the folder what the report consists of; last, so that half a report counts for nothing."""
    report.folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "made_from": report.made_from,
        "study": _names(report, report.study),
        "trials": {number: _names(report, files) for number, files in report.trials.items()},
        "problems": report.problems,
        "logged": report.logged,
    }
    aside = report.folder / f".{CONTENTS}.part"
    aside.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    aside.replace(report.folder / CONTENTS)


def _names(report: Report, files: Sequence[Path]) -> list[str]:
    return [file.relative_to(report.folder).as_posix() for file in files]
