"""What the tests of screens share: studies, plans and summaries, and text as a console prints it."""

import io
from pathlib import Path

from rich.console import Console, RenderableType

from search_spaces import sparsity
from tests.tuning.simulated import metrics_at
from tune_ddvae.tuning.cluster.resources import Slots
from tune_ddvae.tuning.planning.plan import Plan
from tune_ddvae.tuning.record.opening import record_url
from tune_ddvae.tuning.reporting.summary import Summary, summarise
from tune_ddvae.tuning.running.live import LiveStudy
from tune_ddvae.tuning.trials import Report

COMMAND = "python -m tune_ddvae.study simulated --trials 15"
QUICK = sparsity.STUDY.resized(sparsity.STUDY.quick)


def first_step(study: LiveStudy) -> None:
    """One more trial has begun and been evaluated once."""
    assignment = study.next_assignment()
    metrics = metrics_at(dict(assignment.config), 1)
    study.take(assignment.attempt, Report(1, metrics))


def printed(content: RenderableType, width: int = 120, height: int | None = None) -> str:
    console = Console(file=io.StringIO(), width=width, height=height)
    console.print(content)
    return console.file.getvalue()


def make_plan(**changes) -> Plan:
    facts = {
        "name": "sparsity-quick",
        "study_file": "search_spaces/sparsity.py",
        "doc": sparsity.__doc__,
        "spec": QUICK,
        "trials": 12,
        "slots": Slots(concurrent=2, num_cpus=1.0, num_gpus=0.0),
        "data_place": "/usr/share/datasets/fashion-mnist",
        "folder": Path("/studies/sparsity-quick"),
        "record": "sqlite:////studies/sparsity-quick/record.db",
        "tracking": "sqlite:////studies/tracking.db",
        "free_bytes": 10**10,
        "num_parameters": 1_000_000,
        "seconds_per_epoch": 2.0,
    }
    return Plan(**{**facts, **changes})


def summed_up(study: LiveStudy, **changes) -> Summary:
    folder = study.conditions.storage
    facts = {
        "name": "simulated",
        "folder": folder,
        "record": record_url(folder),
        "tracking_uri": f"sqlite:///{folder}/tracking.db",
        "outcome": "complete",
        "command": COMMAND,
        "hours": 0.5,
    }
    return summarise(study, **{**facts, **changes})
