import pytest

from tune_ddvae.tuning.running.troubles import Troubles, gist

OUT_OF_MEMORY = (
    "CUDA out of memory. Tried to allocate {}. GPU 0 has a total capacity of 139.80 GiB of which {} is "
    "free. Process {} has {} memory in use. (vae.py:{})"
)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            OUT_OF_MEMORY.format("20.00 MiB", "12.5 MiB", 1000, "1.20 GiB", 7),
            OUT_OF_MEMORY.format("1.25 GiB", "900 MiB", 99, "512.00 MiB", 12),
        ),
        (
            "[Errno 13] Permission denied: '/tmp/tmpa_bxyz/state.pt'",
            "[Errno 13] Permission denied: '/tmp/tmpqq/deep/er/state.pt'",
        ),
        ("cannot write into /tmp/tmpx: no", "cannot write into /scratch/y: no"),
        ("lost s3://bucket/a/00001-0a1b2c3d4e5f", "lost s3://other/b"),
        ("object c1afbcc6dd69 at 0x7f00ab is gone", "object 01aeff00bb12 at 0x1 is gone"),
        (
            "task 184f1bcd-729b-41e3-82eb-dd6b5bb071f9 failed",
            "task aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee failed",
        ),
        ("loss 1e-05 at step 3", "loss 2.75E+10 at step 12,345"),
    ],
)
def test_numbers_ids_and_paths_make_no_other_error(one, other):
    assert one != other
    assert gist(one) == gist(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("prior/kind must be one of", "objective/beta must be one of"),
        ("/data/x: no space left", "/data/x: permission denied"),
        ("added 3 rows", "faced 3 rows"),
        ("KL is nan at epoch 1", "KL is inf at epoch 1"),
        ("out of memory", "out of patience"),
    ],
)
def test_other_words_are_another_error(one, other):
    assert gist(one) != gist(other)


def test_errors_of_another_kind_are_not_the_same_whatever_they_say():
    troubles = Troubles()
    for kind in ("OSError", "OSError", "KeyError"):
        troubles.failed(kind, "7")
    assert troubles.reason_to_stop == ""


def test_failures_with_a_success_between_are_not_in_a_row():
    troubles = Troubles()
    for _ in range(2):
        troubles.failed("OSError", "gone")
    troubles.went_well()
    troubles.failed("OSError", "gone")
    assert troubles.reason_to_stop == ""
    for number in (1, 2):
        troubles.failed("OSError", f"gone {number}")
    assert troubles.reason_to_stop == ""
