"""A report's figures in MLflow: the study's with its run, a trial's with its own."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tune_ddvae.errors import TrackingError
from tune_ddvae.tuning.addresses import without_password
from tune_ddvae.tuning.record.ledger import Ledger
from tune_ddvae.tuning.reporting.files import FOLDER, Report, read_report, write_report
from tune_ddvae.tuning.storage.place import Place, working_copy
from tune_ddvae.tuning.tracking.backlog import STUDY, Backlog, Mark
from tune_ddvae.tuning.tracking.check import absolute_uri
from tune_ddvae.tuning.tracking.client import Server, plain_message

OF_STUDY, OF_TRIAL = "report", "figures"  # folders among the artifacts of their runs
TIME_LIMIT_S = 60.0  # after which no further file is sent


def log_once(
    study_folder: Place,
    ledger: Ledger,
    uri: str,
    experiment: str,
    tell: Callable[[str], None],
    time_limit_s: float = TIME_LIMIT_S,
) -> None:
    """Send the report in a study's folder, if there is one, unless these very runs hold it already.

    What goes wrong is told in a line: the files stay where they are, and are sent another time.

    Args:
        study_folder: The study's own.
        ledger: The study's record, open.
        uri: Tracking address, which shows the whole study.
        experiment: MLflow's.
        tell: Takes lines for the person watching.
        time_limit_s: After which no further file is sent.
    """
    address = without_password(absolute_uri(uri))
    try:
        with working_copy(study_folder, FOLDER) as folder:
            report = read_report(folder)
            if report is None:
                return
            backlog = Backlog(ledger, absolute_uri(uri))
            parts = [*_parts(report, backlog)]
            runs = [run_id for run_id, _, _ in parts]
            if report.logged.get(address) == runs:
                return
            _log(parts, backlog, uri, experiment, time.monotonic() + time_limit_s)
            write_report(dataclasses.replace(report, logged={**report.logged, address: runs}))
    except Exception as error:  # noqa: BLE001 - told just below
        tell(f"the report in {study_folder / FOLDER} is not in MLflow: {plain_message(error)}")


def _parts(report: Report, backlog: Backlog) -> Iterator[tuple[str, Sequence[Path], str]]:
    """Run, files, and the folder that they are kept in there; no run where none is known."""
    marks = backlog.marks()
    yield marks.get(STUDY, Mark()).run_id, report.study, OF_STUDY
    for number, files in report.trials.items():
        yield marks.get(number, Mark()).run_id, files, OF_TRIAL


def _log(
    parts: Sequence[tuple[str, Sequence[Path], str]],
    backlog: Backlog,
    uri: str,
    experiment: str,
    until: float,
) -> None:
    server = Server(absolute_uri(uri), experiment, backlog.check_held)
    for run_id, files, folder in parts:
        if not run_id:
            raise TrackingError("a run that its figures belong to is missing there")
        for file in files:
            if time.monotonic() > until:
                raise TrackingError("the server was too slow; the same command goes on with it")
            server.store_file(run_id, file, folder)
