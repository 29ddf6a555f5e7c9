"""How a session ends that something breaks off in the middle."""

import pytest
from sqlalchemy.exc import OperationalError

from tune_ddvae.errors import (
    BrokenOffError,
    RecordLostError,
    StorageAwayError,
    StorageFullError,
    StudyLockedError,
)
from tune_ddvae.tuning.session import _work_left

LOCKED = OperationalError("INSERT", {}, Exception("database is locked"))


@pytest.mark.parametrize(
    "error", [RecordLostError("gone"), StudyLockedError("gone"), StorageAwayError("gone")]
)
def test_what_refuses_a_study_at_its_start_breaks_it_off_in_the_middle(error):
    with pytest.raises(BrokenOffError, match="^gone$"), _work_left():
        raise error


def test_a_record_that_cannot_be_written_to_is_told_in_one_line_with_what_goes_on():
    told = r"the record could not be written to \(database is locked\).* the same command goes on"
    with pytest.raises(BrokenOffError, match=told), _work_left():
        raise LOCKED


@pytest.mark.parametrize("error", [StorageFullError("full"), KeyError("a fault of ours")])
def test_everything_else_stays_what_it_is(error):
    with pytest.raises(type(error)), _work_left():
        raise error
