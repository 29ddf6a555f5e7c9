import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from tune_ddvae import exit_codes
from tune_ddvae.catalogue import find_study, known_studies
from tune_ddvae.config import METRICS, to_flat, with_overrides
from tune_ddvae.errors import ConfigError
from tune_ddvae.tuning.search.sampling import searched_params

ROOT = Path(__file__).parents[1]
# A study file that is right; each mistake is one more line at its end.
RIGHT = """
import dataclasses, functools
from optuna.distributions import FloatDistribution
from tune_ddvae.catalogue import find_study
from tune_ddvae.config import *
from tune_ddvae.spec import Choice, StudySize
STUDY = find_study("clustering").spec
but = functools.partial(dataclasses.replace, STUDY)
"""
LINE = len(RIGHT.splitlines()) + 1
MISTAKES = {
    "{}['k']": "cannot be read: KeyError: 'k'",
    "1/0": "cannot be read: ZeroDivisionError: division by zero",
    "assert False": "cannot be read: AssertionError",
    "def f(): f()\nf()": "cannot be read: RecursionError",
    "raise OSError('no disk')": "cannot be read: OSError: no disk",
    "import sys; sys.exit(0)": "cannot be read: SystemExit: 0",
    "exit()": "cannot be read: SystemExit",
    "STUDY = None": "must define STUDY = StudySpec(...), got None",
    "StudySize(trials='15', first_rung=1)": "trials must be int or none, got '15' of type str",
    "StudySize(trials=True, first_rung=1)": "trials must be int or none, got True of type bool",
    "StudySize(trials=1, first_rung=1.0)": "first_rung must be int or none, got 1.0 of type float",
    "StudySize(trials=1, first_rung=1, overrides=[])": "overrides must be a mapping",
    "OptimiserConfig(learning_rate='1e-3')": "optimiser/learning_rate must be float, got '1e-3'",
    "DataConfig(name=['digits'])": "data/name must be str, got ['digits'] of type list",
    "ModelConfig(latent_dim=2.0)": "model/latent_dim must be int, got 2.0 of type float",
    "PriorConfig(kind='sparse', gamma='x')": "prior/gamma must be float or none, got 'x'",
    "TrialConfig(data={'name': 'digits'})": "data must be a DataConfig, got {'name': 'digits'}",
    "but(base=dict(a=1))": "base must be TrialConfig, got {'a': 1} of type dict",
    "but(size={})": "size must be StudySize, got {} of type dict",
    "but(rank_by=['sparsity/hoyer'])": "rank_by must be a mapping (name: value), got ['sparsity",
    "but(rank_by={'sparsity/hoyer': 1})": "sparsity/hoyer in rank_by must be str, got 1 of type int",
    "but(space={'objective/beta': (0, 1)})": "objective/beta in space must be a distribution of",
    "but(space={1: FloatDistribution(0, 1)})": "a key of space must be str, got 1 of type int",
    "but(space={'prior/kind': Choice(['normal'])})": "options of prior/kind must be a mapping",
    "but(space={'prior/kind': Choice({'sparse': {'prior/gamma': 1}})})": (
        "prior/gamma in option 'sparse' of prior/kind must be a distribution of"
    ),
    "but(published={'a': 1})": "a in published must be a mapping",
    "but(first='beta_1_alpha_0')": "first must be tuple, got 'beta_1_alpha_0' of type str",
    "but(sampler=None)": "sampler must be str, got None of type NoneType",
}
# As the command loads them: the type checks of the tests would come first here.
LOADER = """
import json, sys
from tune_ddvae.catalogue import find_study
from tune_ddvae.errors import ConfigError
said = []
for name in sys.argv[1:]:
    try:
        said.append(repr(find_study(name)))
    except ConfigError as error:
        said.append(str(error))
print(json.dumps(said))
"""


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
    assert quick.size.startup_trials < quick.size.trials - len(_unseen(quick))
    assert spec.base.has_validation
    assert "sparsity/hoyer_all" not in spec.rank_by
    assert set(spec.rank_by) <= set(METRICS)


def _unseen(spec) -> list[str]:
    """First settings that lie outside the search space: the sampler learns nothing from them."""
    configs = {
        name: to_flat(with_overrides(spec.base, spec.published[name])) for name in spec.first
    }
    return [name for name, config in configs.items() if searched_params(spec, config) is None]


def test_a_misspelt_name_lists_the_known_ones():
    with pytest.raises(
        ConfigError, match=r"clustering, independence, sparsity; did you mean sparsity\? A path"
    ):
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


def said_of(*names: str, cwd: Path = ROOT) -> list[str]:
    """What loading each of these studies is refused with."""
    done = subprocess.run(
        [sys.executable, "-c", LOADER, *names], cwd=cwd, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def refusals(tmp_path_factory) -> dict[str, str]:
    """What each of the mistakes is refused with, all in one process."""
    folder = tmp_path_factory.mktemp("mistakes")
    paths = [folder / f"study_{number}.py" for number in range(len(MISTAKES))]
    for path, mistake in zip(paths, MISTAKES, strict=True):
        path.write_text(f"{RIGHT}{mistake}\n")
    return dict(zip(MISTAKES, said_of(*map(str, paths)), strict=True))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_study_file_is_one_message_with_file_line_and_what_is_wrong(
    mistake, refusals
):
    message = refusals[mistake]
    assert MISTAKES[mistake] in message
    assert "\n" not in message
    assert "study_" in message
    if "STUDY =" not in mistake:
        assert f".py, line {LINE}" in message


def test_a_study_file_may_write_an_int_where_a_float_is_meant(tmp_path):
    path = tmp_path / "ints.py"
    path.write_text(f"{RIGHT}raise ConfigError(repr(ObjectiveConfig(beta=2, alpha=0)))")
    (message,) = said_of(str(path))
    assert "beta=2.0, alpha=0.0," in message


def test_a_study_file_that_ends_the_process_is_refused_by_the_command(tmp_path):
    path = tmp_path / "ends.py"
    path.write_text("import sys\nsys.exit(0)\n")
    done = subprocess.run(
        [sys.executable, "-m", "tune_ddvae.study", str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (exit_codes.REFUSED, "")
    assert done.stderr == f"error: {path}, line 2, cannot be read: SystemExit: 0\n"


def test_a_module_with_a_mistake_is_refused_with_its_line(tmp_path):
    contents = {
        "syntax": "x = 1\nSTUDY = (",
        "zero": "\n\n1 / 0",
        "misses": "import nonsense_xyz",
        "deeper": "import studies.zero",
        "rule": "from tune_ddvae.config import PriorConfig\nPriorConfig(kind='x')",
    }
    (tmp_path / "studies").mkdir()
    for name, content in contents.items():
        (tmp_path / "studies" / f"{name}.py").write_text(content)
    names = [f"studies.{name}" for name in (*contents, "nothing", "zero.more")]
    said = dict(zip(names, said_of(*names, cwd=tmp_path), strict=True))
    assert said["studies.syntax"].startswith(
        "study module 'studies.syntax', syntax.py line 2, cannot be read: SyntaxError: "
    )
    assert ", line 3, cannot be read: ZeroDivisionError: " in said["studies.zero"]
    assert ", line 1, cannot be read: ModuleNotFoundError: " in said["studies.misses"]
    assert ", line 1, cannot be read: ZeroDivisionError: " in said["studies.deeper"]
    assert "'studies.rule', line 2: prior/kind must be one of" in said["studies.rule"]
    assert said["studies.nothing"] == "there is no study module 'studies.nothing'"
    assert ", line 3, cannot be read: ZeroDivisionError: " in said["studies.zero.more"]


@pytest.mark.parametrize("name", [".", "..x", "a..b", "x.", "", "zzz"])
def test_a_name_that_is_none_lists_the_known_ones_in_whole_sentences(name):
    with pytest.raises(ConfigError) as refused:
        find_study(name)
    assert str(refused.value) == (
        f"unknown study {name!r}; known: clustering, independence, sparsity. "
        "A path to a .py file or a dotted module works too"
    )


@pytest.mark.parametrize("name", ["~nobody-of-that-name/x.py", f"{'x' * 300}.py"])
def test_a_path_that_cannot_be_looked_at_is_refused(name):
    with pytest.raises(ConfigError, match="no study file at "):
        find_study(name)


def test_a_missing_file_names_the_full_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"no study file at {tmp_path}/nowhere.py"):
        find_study("nowhere.py")
