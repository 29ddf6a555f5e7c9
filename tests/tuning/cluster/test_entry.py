"""Who else could read the token that opens a cluster; the rest of entry.py is in test_cluster.py."""

import os
import stat
from types import SimpleNamespace

import pytest

from tune_ddvae.errors import ResourceError
from tune_ddvae.tuning.cluster import cluster, entry
from tune_ddvae.tuning.cluster.entry import check_token_is_private, keep_own_token

VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder without a token, in a process that uses one, where files are open to be read."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    use_token(monkeypatch, True)
    before = os.umask(0o022)
    yield tmp_path
    os.umask(before)


def use_token(monkeypatch, does: bool) -> None:
    modes = entry.AuthenticationMode
    mode = modes.TOKEN if does else modes.DISABLED
    monkeypatch.setattr(entry, "get_authentication_mode", lambda: mode)


def default_path(home):
    return home / ".ray" / "auth_token"


def write(path, mode):
    path.parent.mkdir(exist_ok=True)
    path.write_text("secret")
    path.chmod(mode)
    return path


def mode_of(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- one that is used ----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o666])
@pytest.mark.parametrize("is_default", [True, False])
def test_a_token_that_others_can_read_is_refused_with_its_mend(mode, is_default, home, monkeypatch):
    path = write(default_path(home) if is_default else home / "token", mode)
    if not is_default:
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    with pytest.raises(ResourceError) as refused:
        check_token_is_private()
    said = str(refused.value)
    assert f"the token file {path} can be read by other accounts (mode {mode:o})" in said
    assert said.endswith(f"chmod 600 {path}")
    assert "secret" not in said
    path.chmod(0o600)
    check_token_is_private()


def test_a_token_that_is_not_read_from_the_open_file_is_no_matter(home, monkeypatch):
    write(default_path(home), 0o644)
    with monkeypatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(write(home / "token", 0o400)))
        check_token_is_private()
    with monkeypatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN", "given")
        check_token_is_private()
    use_token(monkeypatch, False)
    check_token_is_private()


def test_a_token_of_another_account_is_theirs_to_close(home, monkeypatch):
    """Such as root's, which Kubernetes mounts: chmod would be refused."""
    write(default_path(home), 0o644)
    ours = os.geteuid()
    monkeypatch.setattr(entry.os, "geteuid", lambda: ours + 1)
    check_token_is_private()


def test_a_token_that_is_not_there_is_left_to_the_message_about_that(home, monkeypatch):
    check_token_is_private()
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "nothing"))
    check_token_is_private()


def test_a_cluster_is_not_asked_with_an_open_token(home, monkeypatch):
    asked = []
    client = SimpleNamespace(standalone=lambda *words: asked.append(words))
    monkeypatch.setattr(entry, "InnerGcsClient", client)
    path = write(default_path(home), 0o644)
    with pytest.raises(ResourceError, match="can be read by other accounts"):
        entry._head("h0:6379", "10.0.0.1:6379")
    assert asked == []
    path.chmod(0o600)
    entry._head("h0:6379", "10.0.0.1:6379")
    assert len(asked) == 1


# -- one of a Ray of our own ---------------------------------------------------------------------


def test_the_token_of_a_ray_of_our_own_is_for_this_account_alone(home):
    keep_own_token()
    path = default_path(home)
    token = path.read_text()
    assert mode_of(path) == 0o600
    assert len(token) >= 32
    keep_own_token()
    assert path.read_text() == token
    check_token_is_private()


def test_one_that_another_study_makes_at_that_moment_stays(home, monkeypatch):
    path = default_path(home)

    def slow() -> str:
        write(path, 0o600)
        return "late"

    monkeypatch.setattr(entry, "generate_new_authentication_token", slow)
    keep_own_token()
    assert path.read_text() == "secret"
    assert list(path.parent.iterdir()) == [path]


def test_one_that_ray_has_left_open_is_closed_and_kept(home):
    path = write(default_path(home), 0o644)
    keep_own_token()
    assert mode_of(path) == 0o600
    assert path.read_text() == "secret"


@pytest.mark.parametrize(
    ("name", "value"),
    [("RAY_AUTH_TOKEN", "given"), ("RAY_AUTH_TOKEN_PATH", "/else"), ("RAY_AUTH_MODE", "disabled")],
)
def test_no_token_is_made_that_is_not_used(name, value, home, monkeypatch):
    monkeypatch.setenv(name, value)
    keep_own_token()
    assert not default_path(home).exists()


def test_one_that_cannot_be_closed_is_refused(home, monkeypatch):
    path = write(default_path(home), 0o644)

    def read_only(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(type(path), "chmod", read_only)
    with pytest.raises(
        ResourceError, match=f"{path} cannot be kept from other accounts .*Read-only"
    ):
        keep_own_token()


def test_it_is_there_before_ray_starts_which_would_write_it_for_all(home, monkeypatch):
    for name in (*cluster.ENVIRONMENT, *cluster.EXPORTERS_OFF):
        monkeypatch.setenv(name, "")  # to be as they were afterwards
    seen = []
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster.ray, "init", lambda **_: seen.append(mode_of(default_path(home))))
    cluster.start_ray()
    assert seen == [0o600]
