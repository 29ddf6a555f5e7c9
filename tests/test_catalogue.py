import pickle
from pathlib import Path

import pytest

from tune_ddvae.catalogue import find_study, known_studies
from tune_ddvae.config import METRICS
from tune_ddvae.errors import ConfigError


@pytest.mark.parametrize("name", known_studies())
def test_every_study_says_how_to_run_it_and_where_it_is_from(name):
    study = find_study(name)
    assert f"python -m tune_ddvae.study {name}\n" in study.doc
    for heading in ("Source", "Expect"):
        assert heading in study.doc
    assert study.question.endswith("?")
    assert pickle.loads(pickle.dumps(study.spec)) == study.spec  # noqa: S301 - our own bytes


@pytest.mark.parametrize("name", known_studies())
def test_every_study_has_rungs_and_a_quick_size_that_stops_early(name):
    spec = find_study(name).spec
    quick = spec.resized(spec.quick)
    assert spec.rungs
    assert quick.rungs
    assert quick.base.training.epochs < spec.base.training.epochs
    assert quick.size.trials < spec.size.trials
    assert quick.size.startup_trials < quick.size.trials - len(quick.first)
    assert spec.base.has_validation
    assert "sparsity/hoyer_all" not in spec.rank_by
    assert set(spec.rank_by) <= set(METRICS)


def test_a_misspelt_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"'sparcity'; known: clustering, sparsity; .* sparsity"):
        find_study("sparcity")


def test_a_path_and_a_dotted_module_work_too(tmp_path):
    text = "search_spaces.clustering"
    by_module = find_study(text)
    copy = tmp_path / "my_study.py"
    copy.write_text(Path(by_module.path).read_text())
    by_path = find_study(str(copy))
    assert by_path.name == "my_study"
    assert by_path.spec == by_module.spec == find_study("clustering").spec


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x = 1", "must define STUDY"),
        ("import nonsense_xyz", "cannot be read: ModuleNotFoundError"),
        ("STUDY = (", "cannot be read: SyntaxError"),
        ("from tune_ddvae.config import *\nPriorConfig(kind='x')", "prior/kind must be one of"),
    ],
)
def test_a_broken_study_file_is_refused_in_one_message(tmp_path, content, message):
    path = tmp_path / "broken.py"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        find_study(str(path))


def test_a_missing_file_names_the_full_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"no study file at {tmp_path}/nowhere.py"):
        find_study("nowhere.py")
