"""Where the checkpoints of a tracked trial lie, by the tags of its run and its study's."""

from collections.abc import Mapping

from tune_ddvae.analysis.model import Found, find_checkpoints
from tune_ddvae.tuning.storage.bucket import Bucket, names_in
from tune_ddvae.tuning.storage.folders import TRIALS_FOLDER, slug
from tune_ddvae.tuning.storage.place import Place, absolute, kept_copies, place_at
from tune_ddvae.tuning.tracking.client import sqlite_path
from tune_ddvae.tuning.tracking.view import FOLDER_TAG, REPEATED, TRIAL_TAG


def last_epoch_of(history: Mapping[str, Mapping[int, float]]) -> int:
    """Newest epoch that training measured anything at; 0 if there is none."""
    own = (values for key, values in history.items() if not key.startswith(REPEATED))
    return max((epoch for values in own for epoch in values), default=0)


def folder_of(uri: str, tags: Mapping[str, str], storage: Place | None) -> Place | None:
    """Where checkpoints lie: as asked, else as tagged, else beside the database of a moved storage.

    Args:
        uri: Tracking address, absolute.
        tags: Of the trial's run, and of its study's where there is one.
        storage: The studies' storage as asked for.

    Returns:
        A place that need not be there; None where nothing says which.
    """
    study = tags.get("study")
    if storage is not None and study is not None:
        return absolute(storage) / slug(study)
    tagged = place_at(tags[FOLDER_TAG]) if FOLDER_TAG in tags else None
    if isinstance(tagged, Bucket):
        return tagged
    database = sqlite_path(uri)
    if (tagged is None or not tagged.is_dir()) and database is not None and study is not None:
        beside = database.parent / slug(study)
        return beside if beside.is_dir() else tagged
    return tagged


def found_in(folder: Place | None, tags: Mapping[str, str], last_epoch: int) -> Found:
    """The trial's checkpoints in the folder, of epochs that are recorded; none where it is not there.

    Of those in a bucket there are copies here as long as this process lasts, each in a folder of its
    own name below one of its attempt's.

    Args:
        folder: Of its study, or of its own training.
        tags: Of its run.
        last_epoch: Newest recorded.

    Raises:
        StorageAwayError: The bucket does not answer.
    """
    number = tags.get(TRIAL_TAG, "")
    attempt = f"{int(number):05d}-" if number.isdecimal() else ""
    if isinstance(folder, Bucket):
        trials = folder / TRIALS_FOLDER
        here = kept_copies(trials / name for name in names_in(trials) if name.startswith(attempt))
        found = find_checkpoints(*here.iterdir())
        problems = tuple(text.replace(str(here), trials.plain) for text in found.problems)
    elif folder is not None and folder.is_dir():
        found = find_checkpoints(
            *((folder / TRIALS_FOLDER).glob(f"{attempt}*") if attempt else [folder])
        )
        problems = found.problems
    else:
        return Found()
    # One that is newer than the record belongs to nothing: its epochs are trained again.
    recorded = {epoch: path for epoch, path in found.by_epoch.items() if epoch <= last_epoch}
    return Found(recorded, problems)
