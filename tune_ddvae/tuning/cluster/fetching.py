"""Files that Ray carries to a node."""

from collections.abc import Callable
from typing import Any

import ray

from tune_ddvae.data.placing import Parcel


def fetching(files: Any | None) -> Callable[[], Parcel] | None:
    """What brings the files that Ray's reference stands for; None if there is no reference."""
    if files is None:
        return None

    def fetch() -> Parcel:
        parcel: Parcel = ray.get(files)
        return parcel

    return fetch
