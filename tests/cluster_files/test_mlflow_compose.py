"""mlflow.compose.yaml: what it opens, what it asks for, and that its MLflow takes the settings."""

import re
import warnings

import pytest
from sqlalchemy import create_engine

from tests.cluster_files.files import COMPOSE, DOCKERFILE, FOLDER, header, load

CONFIG = load(COMPOSE)
DATABASE, SERVER = CONFIG["services"]["postgres"], CONFIG["services"]["mlflow"]
VARIABLE = re.compile(r"\$\{(\w+)(?:(:[-?])([^}]*))?\}")
KEYS = {  # of Compose's file format, as far as they are used
    "": {"name", "services", "networks", "volumes"},
    "services": {
        *("image", "build", "restart", "depends_on", "environment", "command", "ports"),
        *("volumes", "networks", "healthcheck", "cap_drop", "security_opt"),
    },
    "build": {"context", "dockerfile", "target"},
    "healthcheck": {"test", "interval", "timeout", "retries", "start_period"},
}


def filled(text: str, **variables: str) -> str:
    """A value as Compose fills it in."""

    def value(match: re.Match[str]) -> str:
        name, how, default = match.groups()
        if variables.get(name):
            return variables[name]
        if how == ":?":
            raise KeyError(name)
        return default or ""

    return VARIABLE.sub(value, text)


def test_it_has_no_key_that_compose_does_not_know():
    assert set(CONFIG) <= KEYS[""]
    for service in CONFIG["services"].values():
        assert set(service) <= KEYS["services"]
        for part in ("build", "healthcheck"):
            assert set(service.get(part, ())) <= KEYS[part]


def test_networks_and_volumes_that_are_used_are_declared():
    for service in CONFIG["services"].values():
        assert set(service["networks"]) <= {"default", *CONFIG["networks"]}
        assert {volume.partition(":")[0] for volume in service["volumes"]} <= set(CONFIG["volumes"])


def test_it_listens_on_loopback_unless_it_is_told_otherwise():
    (port,) = SERVER["ports"]
    assert filled(port) == "127.0.0.1:5000:5000"
    assert filled(port, MLFLOW_BIND="10.0.0.5", MLFLOW_PORT="80") == "10.0.0.5:80:5000"


def test_the_database_is_reached_by_the_server_only():
    assert "ports" not in DATABASE
    assert DATABASE["networks"] == ["database"]
    assert CONFIG["networks"]["database"] == {"internal": True}


def test_the_password_comes_from_the_environment_and_has_no_default():
    for value in (
        DATABASE["environment"]["POSTGRES_PASSWORD"],
        SERVER["environment"]["PGPASSWORD"],
    ):
        with pytest.raises(KeyError, match="POSTGRES_PASSWORD"):
            filled(value)
        assert filled(value, POSTGRES_PASSWORD="given") == "given"  # noqa: S106


def test_no_secret_is_written_into_it():
    for service in CONFIG["services"].values():
        for name, value in service["environment"].items():
            if re.search("PASSWORD|SECRET|KEY", name):
                assert value is None or VARIABLE.fullmatch(value), name


def test_the_password_is_on_no_command_line_and_in_no_address():
    assert "PASSWORD" not in repr(SERVER["command"])
    address = SERVER["environment"]["MLFLOW_BACKEND_STORE_URI"]
    assert address == "postgresql+psycopg2://mlflow@postgres/mlflow"


def test_the_database_driver_is_one_that_is_installed():
    """SQLAlchemy takes another one where the address names none."""
    driver = create_engine(SERVER["environment"]["MLFLOW_BACKEND_STORE_URI"]).dialect.driver
    assert driver == "psycopg2"
    assert f"{driver}-binary" in DOCKERFILE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def mlflow_server():
    """The command `mlflow server`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's, about type hints of its own
        from mlflow.cli import server
    return server


def test_mlflow_takes_every_option_of_its_command(mlflow_server):
    assert SERVER["command"][:2] == ["mlflow", "server"]
    words = [filled(word) for word in SERVER["command"][2:]]
    with mlflow_server.make_context("server", words) as context:
        options = context.params
    assert options["serve_artifacts"] is True
    assert options["artifacts_destination"] == "/artifacts"
    assert options["port"] == 5000


def test_mlflow_takes_its_settings_from_the_environment(mlflow_server, monkeypatch):
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "postgresql://mlflow@postgres/mlflow")
    with mlflow_server.make_context("server", []) as context:
        assert context.params["backend_store_uri"] == "postgresql://mlflow@postgres/mlflow"


@pytest.mark.parametrize(
    ("host", "is_allowed"),
    [
        ("localhost:5000", True),
        ("127.0.0.1:5000", True),
        ("attacker.example", False),
        ("attacker.example:5000", False),
        ("10.0.0.5:5000", False),  # not before it is named
    ],
)
def test_it_answers_to_this_machines_names_only(host, is_allowed, monkeypatch):
    from mlflow.server import security_utils

    allowed = filled(SERVER["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"])
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", allowed)
    hosts = security_utils.get_allowed_hosts_from_env()
    assert security_utils.is_allowed_host_header(hosts, host) is is_allowed


def test_its_other_names_can_be_given():
    value = SERVER["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"]
    assert filled(value, MLFLOW_ALLOWED_HOSTS="10.0.0.5:5000") == "10.0.0.5:5000"


def test_artifacts_may_go_to_a_bucket():
    (word,) = [word for word in SERVER["command"] if "--artifacts-destination" in word]
    assert filled(word, MLFLOW_ARTIFACTS="s3://bucket/path").endswith("=s3://bucket/path")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MLFLOW_S3_ENDPOINT_URL"):
        assert SERVER["environment"][name] is None  # passed on where it is set


def test_the_server_waits_for_its_database_and_both_say_whether_they_are_well():
    assert SERVER["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for service in (DATABASE, SERVER):
        assert service["healthcheck"]["test"][0] == "CMD"
        assert service["healthcheck"]["retries"] > 1


def test_the_server_is_built_from_the_constraints():
    build = SERVER["build"]
    assert (FOLDER / build["context"]).resolve() == FOLDER.parent
    assert (FOLDER.parent / build["dockerfile"]).resolve() == DOCKERFILE
    assert f"AS {build['target']}\n" in DOCKERFILE.read_text(encoding="utf-8")


def test_data_outlive_the_containers():
    assert DATABASE["volumes"] == ["postgres:/var/lib/postgresql/data"]
    assert SERVER["volumes"] == ["artifacts:/artifacts"]
    (stop,) = [line for line in header(COMPOSE) if line.endswith(" down")]
    assert "--volumes" not in stop
