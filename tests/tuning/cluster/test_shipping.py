import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import tune_ddvae
from tune_ddvae.catalogue import SEARCH_SPACES, known_studies
from tune_ddvae.errors import ConfigError
from tune_ddvae.tuning.cluster import shipping

SHOWS = (
    "from tune_ddvae.tuning.cluster import shipping; print(shipping.__file__, shipping.digest())"
)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A copy of our packages in which a test may leave anything."""
    root = tmp_path / "project"
    shipping.stage(root)
    monkeypatch.setattr(tune_ddvae, "__file__", str(root / "tune_ddvae" / "__init__.py"))
    monkeypatch.setattr(shipping, "SEARCH_SPACES", root / "search_spaces")
    shipping.digest.cache_clear()
    yield root
    shipping.digest.cache_clear()


def shown_by(folder: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SHOWS], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_what_is_staged_runs_by_itself_and_is_the_same_version(tmp_path):
    package = shipping.stage(tmp_path)
    file, digest = shown_by(tmp_path)
    assert Path(file).is_relative_to(tmp_path)
    assert digest == shipping.digest()
    assert package.bytes < 2_000_000


def test_every_study_is_sent(tmp_path):
    package = shipping.stage(tmp_path)
    assert {f"search_spaces/{name}.py" for name in known_studies()} <= package.files.keys()
    assert (tmp_path / "tune_ddvae" / "py.typed").exists()


def test_sizes_are_those_of_the_copies(tmp_path):
    package = shipping.stage(tmp_path)
    copies = {
        path.relative_to(tmp_path).as_posix(): path.stat().st_size
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    assert copies == dict(package.files)
    assert package.bytes == sum(copies.values())


def test_data_results_databases_git_and_caches_stay_where_they_are(project, tmp_path):
    before = shipping.stage(tmp_path / "before")
    for name in (
        "tune_ddvae/data/images.npz",
        "tune_ddvae/.git/objects/pack.py",
        "tune_ddvae/__pycache__/study.py",
        "search_spaces/studies/sparsity/record.db",
        "search_spaces/results.csv",
        "search_spaces/2026-01/old.py",
        "data/raw.bin",
        "studies/mlflow.db",
    ):
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(700_000_000)  # sparse
    assert shipping.stage(tmp_path / "after").files == before.files


def test_too_much_is_refused_naming_the_largest_files(project, tmp_path):
    for name, size in (("huge", 30_000_000), ("large", 2_000_000)):
        with (project / "search_spaces" / f"{name}.py").open("wb") as file:
            file.truncate(size)
    with pytest.raises(ConfigError) as refused:
        shipping.stage(tmp_path / "staged")
    assert "at most 20 MB" in str(refused.value)
    assert "search_spaces/huge.py (30 MB), search_spaces/large.py (2 MB), " in str(refused.value)
    assert not (tmp_path / "staged").exists()


def test_a_study_file_from_elsewhere_goes_along(tmp_path):
    study = tmp_path / "mine.py"
    study.write_text("STUDY = 1")
    package = shipping.stage(tmp_path / "staged", {"mine.py": study})
    assert package.files["mine.py"] == 9
    assert (tmp_path / "staged" / "mine.py").read_text() == "STUDY = 1"


@pytest.mark.parametrize("name", ["/etc/x.py", "../x.py", "", "tune_ddvae/config.py"])
def test_a_file_that_would_lie_elsewhere_or_replace_ours_is_refused(name, tmp_path):
    study = tmp_path / "mine.py"
    study.write_text("")
    with pytest.raises(ConfigError, match="relative path that none of our own files has"):
        shipping.stage(tmp_path / "staged", {name: study})


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        shipping.stage(tmp_path / "staged", {"mine.py": tmp_path / "mine.py"})


def test_any_change_of_our_code_is_another_version(project):
    before = shipping.digest()
    shipping.digest.cache_clear()
    assert shipping.digest() == before
    (project / "tune_ddvae" / "errors.py").write_text("# changed")
    shipping.digest.cache_clear()
    assert shipping.digest() != before


def test_a_study_file_of_the_users_does_not_make_another_version(project):
    before = shipping.digest()
    (project / "search_spaces" / "mine.py").write_text("STUDY = 1")
    shipping.digest.cache_clear()
    assert shipping.digest() == before


def test_an_installed_wheel_sends_what_a_checkout_does(tmp_path):
    """A wheel's packages lie side by side as in a checkout, beside other people's."""
    site = tmp_path / "site-packages"
    shipping.stage(site)
    (site / "numpy.py").write_text("raise ImportError")
    sent = tmp_path / "sent"
    sent.mkdir()
    code = (
        "from pathlib import Path; from tune_ddvae.tuning.cluster import shipping; "
        f"shipping.stage(Path({str(sent)!r})); print(shipping.digest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.append({str(site)!r}); {code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == shipping.digest()
    assert not (sent / "numpy.py").exists()
    assert (sent / "search_spaces" / SEARCH_SPACES.joinpath("sparsity.py").name).exists()


def test_source_is_small_enough_to_be_sent_with_every_study(tmp_path):
    package = shipping.stage(tmp_path / "staged")
    archive = tmp_path / "package.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name in package.files:
            zipped.write(tmp_path / "staged" / name, name)
    assert archive.stat().st_size < 1_000_000
