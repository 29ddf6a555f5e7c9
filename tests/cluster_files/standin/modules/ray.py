"""What slurm.sh asks of Ray, for the tests: who has joined is who has left a file."""

import os
from pathlib import Path

_state = {"is_initialized": False}


def is_initialized() -> bool:
    return _state["is_initialized"]


def init(*, address: str, **_: object) -> None:
    if not nodes():
        raise ConnectionError(f"nothing at {address}")
    _state["is_initialized"] = True


def nodes() -> list[dict[str, object]]:
    joined = sorted(Path(os.environ["STANDIN_JOINED"]).iterdir())
    return [{"NodeManagerHostname": path.name, "Alive": True} for path in joined]
