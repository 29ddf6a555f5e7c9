import shlex
from pathlib import Path

import pytest

from tests.studies import write_tiny
from tune_ddvae.catalogue import find_study
from tune_ddvae.data import sources
from tune_ddvae.errors import ConfigError, DdvaeError, StorageError, TrackingError
from tune_ddvae.tuning import order as ordering
from tune_ddvae.tuning.order import make_order, plan_json

HEAD = "http://head:8265"
OURS = find_study("sparsity")


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in (ordering.TRACKING_VARIABLE, ordering.DATA_VARIABLE):
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


@pytest.mark.parametrize("storage", ["./studies", "studies", "~/studies", ""])
def test_a_place_that_only_this_machine_knows_is_refused(storage):
    with pytest.raises(StorageError, match="every node of the cluster sees.*bucket with --record"):
        order_of(storage=storage)


def test_the_same_storage_is_the_same_however_it_is_written():
    assert order_of(storage="/shared/").cargo == order_of(storage="/shared").cargo


def test_a_bucket_needs_a_database():
    with pytest.raises(ConfigError, match="--record postgresql://"):
        order_of(storage="s3://bucket/studies")
    order = order_of(storage="s3://bucket/studies/", record="postgresql://u@h/d")
    assert order.cargo.place == ("sparsity", "postgresql+psycopg2://u@h/d")


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
    assert ordering.DATA_VARIABLE == sources.DATA_VARIABLE
    monkeypatch.setenv(ordering.TRACKING_VARIABLE, "http://mlflow:5000")
    monkeypatch.setenv(ordering.DATA_VARIABLE, "/data")
    assert order_of().environment == {
        ordering.TRACKING_VARIABLE: "http://mlflow:5000",
        ordering.DATA_VARIABLE: "/data",
    }
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
