import shlex
import sys
from pathlib import Path

import pytest

from tests.studies import write_tiny
from tune_ddvae.catalogue import find_study
from tune_ddvae.data import sources
from tune_ddvae.errors import ConfigError, DdvaeError, StorageError, TrackingError
from tune_ddvae.tuning.jobs import order as ordering
from tune_ddvae.tuning.jobs.order import make_order, plan_json

HEAD = "http://head:8265"
OURS = find_study("sparsity")
SERVERS = {"record": "postgresql://u@h/d", "tracking_uri": "http://mlflow:5000"}


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in (ordering.TRACKING_VARIABLE, sources.DATA_VARIABLE):
        monkeypatch.delenv(name, raising=False)


def order_of(file=OURS, study="sparsity", options=(), **places):
    return make_order(file, study, options, **{"submit": HEAD, "storage": "/shared", **places})


def entry_words(order) -> list[str]:
    """The study command's words, as the head's shell splits them."""
    words = shlex.split(order.entrypoint)
    assert words[: len(ordering.PYTHON)] == list(ordering.PYTHON)
    assert words[len(ordering.PYTHON)] == "tune_ddvae.study"
    return words[len(ordering.PYTHON) + 1 :]


def test_the_job_is_the_same_command_joining_the_cluster_that_it_is_on():
    options = ("--quick", "--set", "a/b=c d", "--storage", "/shared")
    order = order_of(options=options)
    assert entry_words(order) == ["sparsity", *options, "--address", "auto"]
    assert order.cargo.words == ("sparsity", *options)
    assert shlex.split(order.command)[-2:] == ["--submit", HEAD]


def test_words_of_the_user_never_reach_the_heads_shell_as_more_than_words():
    options = ("--name", "a; touch /tmp/x $(id) `id` 'b")
    assert entry_words(order_of(options=options))[1:3] == list(options)


def test_a_study_file_from_elsewhere_goes_along(tmp_path):
    file = find_study(str(write_tiny(tmp_path)))
    order = order_of(file, "tiny")
    (tmp_path / "sent").mkdir()
    package = order.pack(tmp_path / "sent")
    name = entry_words(order)[0]
    assert name in package.files
    assert (tmp_path / "sent" / name).read_text() == Path(file.path).read_text()
    assert order.cargo.words[0] == file.path
    assert find_study(str(tmp_path / "sent" / name)).name == "tiny"


def test_a_study_of_ours_takes_nothing_else_along(tmp_path):
    assert set(order_of().weigh().files) < set(order_of(_tiny(tmp_path)).weigh().files)


def _tiny(tmp_path):
    return find_study(str(write_tiny(tmp_path)))


def test_a_study_module_that_cannot_be_read_by_itself_is_refused_here(tmp_path, monkeypatch):
    (tmp_path / "lab_of_tests").mkdir()
    (tmp_path / "lab_of_tests" / "__init__.py").write_text("")
    (tmp_path / "lab_of_tests" / "wide.py").write_text("from . import missing\n")
    (tmp_path / "lab_of_tests" / "missing.py").write_text("")
    (tmp_path / "lab_of_tests" / "wide.py").write_text(
        "from . import missing\nfrom search_spaces.sparsity import STUDY\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    file = find_study("lab_of_tests.wide")
    with pytest.raises(ConfigError, match="relative import"):
        order_of(file, "wide")


IMPORTING = "import {what}\nfrom search_spaces.sparsity import STUDY\n"
READING = """from pathlib import Path
from search_spaces.sparsity import STUDY
(Path(__file__).parent / "beside_the_tests.py").read_text()
"""
ENDING = "import os\nfrom search_spaces.sparsity import STUDY\nif {here!r} not in __file__: os._exit(7)\n"


@pytest.mark.parametrize("how", ["sys.path", "PYTHONPATH", "read", "ended"])
def test_a_study_file_that_needs_what_lies_beside_it_is_refused_here(tmp_path, monkeypatch, how):
    (tmp_path / "beside_the_tests.py").write_text("")
    if how == "sys.path":
        monkeypatch.syspath_prepend(tmp_path)
    else:
        monkeypatch.setattr("sys.path", [*sys.path, str(tmp_path)])
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    text, said = {
        "read": (READING, "FileNotFoundError"),
        "ended": (ENDING.format(here=str(tmp_path)), "exit code 7"),
    }.get(how, (IMPORTING.format(what="beside_the_tests"), "No module named 'beside_the_tests'"))
    (tmp_path / "wide.py").write_text(text)
    file = find_study(str(tmp_path / "wide.py"))
    with pytest.raises(ConfigError, match=said) as refused:
        order_of(file, "wide")
    assert str(tmp_path / "wide.py") in str(refused.value)
    assert "Put what it needs into the study file, or into a package" in str(refused.value)


def test_a_study_file_may_use_what_is_installed_and_what_is_ours(tmp_path):
    (tmp_path / "wide.py").write_text(IMPORTING.format(what="numpy, tune_ddvae.config"))
    assert not order_of(find_study(str(tmp_path / "wide.py")), "wide").is_ours


def test_a_study_file_that_never_ends_loading_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "wide.py"
    path.write_text(IMPORTING.format(what="os"))
    file = find_study(str(path))
    path.write_text("import threading\nthreading.Event().wait()\n")
    monkeypatch.setattr(ordering, "LOADING_S", 0.5)
    with pytest.raises(ConfigError, match="takes more than 0.5 s"):
        order_of(file, "wide")


@pytest.mark.parametrize("storage", ["./studies", "studies", "~/studies", ""])
def test_a_place_that_only_this_machine_knows_is_refused(storage):
    with pytest.raises(StorageError, match="every node of the cluster sees.*bucket with --record"):
        order_of(storage=storage)


def test_the_same_storage_is_the_same_however_it_is_written():
    assert order_of(storage="/shared/").cargo == order_of(storage="/shared").cargo


def test_a_bucket_needs_a_database():
    with pytest.raises(ConfigError, match="--record postgresql://"):
        order_of(storage="s3://bucket/studies")
    order = order_of(storage="s3://bucket/studies/", **SERVERS)
    assert order.cargo.place == ("sparsity", "postgresql+psycopg2://u@h/d")


@pytest.mark.parametrize("of_this_machine", [None, "", "sqlite:////home/me/mlflow.db"])
def test_a_bucket_needs_a_tracking_address_that_outlives_the_job(monkeypatch, of_this_machine):
    if of_this_machine is not None:
        monkeypatch.setenv(ordering.TRACKING_VARIABLE, of_this_machine)
    places = {"storage": "s3://bucket/studies", "record": SERVERS["record"]}
    with pytest.raises(ConfigError, match="--tracking-uri or MLFLOW_TRACKING_URI"):
        order_of(**places)
    order_of(**places, tracking_uri="sqlite:////shared/mlflow.db")
    order_of(record=SERVERS["record"])  # beside the studies, in a folder that all see
    monkeypatch.setenv(ordering.TRACKING_VARIABLE, "http://mlflow:5000")
    assert order_of(**places).environment[ordering.TRACKING_VARIABLE] == "http://mlflow:5000"


@pytest.mark.parametrize("storage", ["s3:/bucket/studies", "s3:bucket", "gs:/bucket", "s3//bucket"])
def test_a_mistyped_bucket_is_refused_as_one(storage):
    with pytest.raises(StorageError, match="a folder or a bucket, s3://…"):
        order_of(storage=storage, **SERVERS)


@pytest.mark.parametrize(
    "places",
    [
        {"record": "postgresql://u:hidden@h/d"},
        {"record": "postgresql://h/d?password=hidden"},
        {"tracking_uri": "http://u:hidden@h:5000"},
        {"tracking_uri": "postgresql://u:hidden@h/d"},
    ],
)
def test_a_password_is_not_sent_and_not_shown(places):
    with pytest.raises(ConfigError, match=r"holds a password.*~/\.(pgpass|mlflow)") as refused:
        order_of(**places)
    assert "hidden" not in str(refused.value)


def test_a_password_in_the_environment_is_not_sent_either(monkeypatch):
    monkeypatch.setenv(ordering.TRACKING_VARIABLE, "http://u:hidden@h:5000")
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI http://u:"):
        order_of()


def test_of_the_environment_goes_what_means_the_same_there(monkeypatch):
    monkeypatch.setenv(ordering.TRACKING_VARIABLE, "http://mlflow:5000")
    monkeypatch.setenv(sources.DATA_VARIABLE, "/data")  # of this machine: the nodes have their own
    assert order_of().environment == {ordering.TRACKING_VARIABLE: "http://mlflow:5000"}
    monkeypatch.setenv(ordering.TRACKING_VARIABLE, "sqlite:////home/me/mlflow.db")
    assert ordering.TRACKING_VARIABLE not in order_of().environment
    monkeypatch.setenv(ordering.TRACKING_VARIABLE, "http://mlflow:5000")
    assert ordering.TRACKING_VARIABLE not in order_of(tracking_uri="http://other:5000").environment


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ({"address": "head:6379"}, "--address head:6379"),
        ({"data_dir": "data"}, "--data-dir must be a whole path"),
        (
            {"tracking_uri": "sqlite:///mlflow.db"},
            "--tracking-uri must name a file by its whole path",
        ),
        ({"record": "mysql://h/d"}, "--record must be the address of a PostgreSQL database"),
        ({"submit": "head:8265"}, "http://HEAD:8265"),
        ({"study": ""}, "--name must have 1 to"),
    ],
)
def test_what_would_mean_something_else_there_is_refused(places, said):
    with pytest.raises(ConfigError, match=said):
        order_of(**places)


def test_a_tracking_folder_is_refused_as_it_is_without_sending():
    with pytest.raises(TrackingError):
        order_of(tracking_uri="./mlruns")


def test_data_results_and_history_stay_here(tmp_path, monkeypatch):
    """700 MB of them, in the folder that the command is typed in and beside the study's file."""
    for name in ("data/images.npz", "studies/big/record.db", ".git/objects/pack"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(250_000_000)
    monkeypatch.chdir(tmp_path)
    package = order_of(find_study(str(write_tiny(tmp_path))), "tiny").weigh()
    assert package.bytes < 20_000_000
    assert {name.rpartition(".")[2] for name in package.files} == {"py", "typed"}


def test_a_plan_says_what_would_be_sent():
    order = order_of(options=("--quick",))
    plan = plan_json(order, order.weigh())
    assert plan["address"] == HEAD
    assert plan["package"]["files"] == len(order.weigh().files)
    assert plan["package"]["bytes"] == order.weigh().bytes
    assert plan["entrypoint"] == order.entrypoint
    assert plan["environment"] == order.job_environment


def test_every_refusal_is_the_projects_own():
    with pytest.raises(DdvaeError):
        order_of(submit="ray://head:10001")
