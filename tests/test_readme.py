import re
import tomllib
from pathlib import Path

import pytest

from tune_ddvae import exit_codes
from tune_ddvae.catalogue import known_studies
from tune_ddvae.config import METRICS
from tune_ddvae.study import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
BETTER = {"max": "up", "min": "down", None: "–"}


def test_every_option_is_documented_and_has_help():
    for parameter in main.params:
        for option in parameter.opts:
            if option.startswith("--"):
                assert f"`{option}" in README, option
                assert parameter.help, option


def test_every_exit_code_is_documented():
    codes = [value for name, value in vars(exit_codes).items() if name.isupper()]
    table = README.split("| exit code |")[1].split("\n\n")[0]
    listed = [int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)]
    assert listed == codes


def test_every_metric_is_listed_with_unit_and_direction():
    rows = re.findall(r"^\| `([a-z_/]+)` \| (.*?) \| (.*?) \| (.*?) \|$", README, re.MULTILINE)
    listed = {name: (unit, better, meaning) for name, unit, better, meaning in rows}
    assert set(listed) == set(METRICS)
    for name, facts in METRICS.items():
        unit, better, meaning = (cell.replace("\\|", "|") for cell in listed[name])
        assert (unit, better) == (facts.unit, BETTER[facts.direction])
        assert meaning.startswith(facts.meaning)


def test_every_make_target_that_is_named_exists():
    for target in set(re.findall(r"`make ([a-z-]+)`|^make ([a-z-]+)", README, re.MULTILINE)):
        name = next(filter(None, target))
        assert re.search(rf"^{name}:", MAKEFILE, re.MULTILINE), name


def test_the_tree_names_every_file_of_the_package_and_no_other():
    tree = README.split("## How it is built")[1].split("```")[1]
    named, folders = set(), []
    for indent, name, is_folder in re.findall(r"^( *)([\w.]+)(/?)(?:\s|$)", tree, re.MULTILINE):
        del folders[len(indent) // 2 :]
        if is_folder:
            folders.append(name)
        elif folders and folders[0] == "tune_ddvae":
            named.add("/".join((*folders, name)))
    paths = (path.relative_to(ROOT) for path in (ROOT / "tune_ddvae").rglob("*.py"))
    assert named == {str(path) for path in paths if not path.name.startswith("__")}


def test_every_study_is_named():
    for name in known_studies():
        assert name in README


@pytest.mark.parametrize("name", ["torch", "torchvision", "ray", "optuna", "mlflow", "numpy"])
def test_the_tested_version_lies_in_the_stated_range(name):
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {r.name: r for r in map(Requirement, project["dependencies"])}
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    assert needed[name].specifier.contains(pins[name])


def test_no_placeholder_is_left():
    assert not re.search(r"@[A-Z_]+@", README)
