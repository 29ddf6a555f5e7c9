"""Whether the machine that an attempt was placed on can take part in its study; asked by its worker.

A node that was there before the first trial has been checked already; one that joins later has not.
"""

import platform
import time
import uuid
from pathlib import Path

from tune_ddvae.errors import UnfitNodeError
from tune_ddvae.training.device import choose_device
from tune_ddvae.tuning.cluster import shipping
from tune_ddvae.tuning.trials import Assignment

MARK = ".session-"  # how the name of the file begins that a driver leaves in the study's folder
PATIENCE_S = 20.0  # a machine that has just been started may mount its shared folders late
RETRY_S = 0.5


def check_node(assignment: Assignment) -> None:
    """Refuse a machine with other code, no GPU where one is due, or no sight of the study's folder.

    Args:
        assignment: What is asked of it; what it does not name is not checked.

    Raises:
        UnfitNodeError: Names the host and the mend.
    """
    if assignment.code and shipping.digest() != assignment.code:
        raise UnfitNodeError(
            f"{platform.node()} runs other code of tune_ddvae than the driver: "
            f"{shipping.digest()[:8]} from {Path(shipping.__file__).parent.parent}, not "
            f"{assignment.code[:8]}; take that folder away from PYTHONPATH there"
        )
    if assignment.num_gpus and choose_device().type == "cpu":
        raise UnfitNodeError(
            f"{platform.node()} gives out a GPU that torch cannot compute on: install a torch that fits "
            "it and its driver there, or start Ray there with --num-gpus=0"
        )
    if not assignment.mark:
        return
    mark = Path(assignment.storage, assignment.mark)
    until = time.monotonic() + PATIENCE_S
    while not mark.is_file():
        if time.monotonic() > until:
            raise UnfitNodeError(
                f"{platform.node()} does not see the study's folder {assignment.storage} as the driver "
                "does: mount it there, or keep the study in one that every machine sees"
            )
        time.sleep(RETRY_S)


def leave_mark(folder: Path) -> str:
    """Leave a file that tells this folder from any other of its name; its name.

    Those of earlier drivers are removed: their workers must not go on here.

    Raises:
        OSError: It cannot be written.
    """
    remove_marks(folder)
    name = f"{MARK}{uuid.uuid4().hex[:12]}"
    (folder / name).touch()
    return name


def remove_marks(folder: Path) -> None:
    """Take away what drivers have left.

    Raises:
        OSError: One cannot be removed.
    """
    for path in folder.glob(f"{MARK}*"):
        path.unlink(missing_ok=True)
