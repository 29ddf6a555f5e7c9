"""The thin shell that Ray Tune knows a ``Worker`` by; workers are reused from trial to trial."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ray import tune

from tune_ddvae.tuning.cluster.fetching import fetching
from tune_ddvae.tuning.running.worker import Worker
from tune_ddvae.tuning.storage.arrival import complete_copy
from tune_ddvae.tuning.storage.folders import TEMPORARY
from tune_ddvae.tuning.trials import Assignment

ASSIGNMENT = "assignment"  # key of the config that Tune hands over
FILES = "files"  # key of Ray's reference to the data's files, where there are any
REPORT = "report"  # key of the result that Tune hands back


class TrialTrainable(tune.Trainable):
    """Ray's view of one trial; the config is one ``Assignment``, a result is one ``Report``."""

    def setup(self, config: dict[str, Any]) -> None:
        """Take up the first assignment."""
        self._worker = Worker()
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take up another assignment in the same process; nothing of the last one stays."""
        assignment: Assignment = new_config[ASSIGNMENT]
        self._worker.assign(assignment, fetching(new_config.get(FILES)))
        return True

    def step(self) -> dict[str, Any]:
        """Train to the next evaluation."""
        report = self._worker.step()
        return {REPORT: report, "epoch": report.epoch, "done": report.is_last}

    def save(self, checkpoint_dir: str | None = None) -> Any:  # Ray's type is not public
        """Save, and copy to the storage, under the eye of the watchdog: a storage may hang.

        Raises:
            OSError: The storage does not answer, or does not take it. Ray then counts this worker as
                lost, and announces no checkpoint that is not there.
        """
        with self._worker.watched(), TemporaryDirectory(prefix=TEMPORARY) as own:
            folder = checkpoint_dir or own
            saved = super().save(folder)
            copy: Any = saved.checkpoint  # its type allows for none
            complete_copy(Path(folder), copy.filesystem, copy.path)
            return saved

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the checkpoint of the step just reported."""
        self._worker.save(Path(checkpoint_dir))
