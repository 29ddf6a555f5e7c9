"""The files of cluster/, read once."""

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster"
ALL = sorted(path for path in FOLDER.iterdir() if path.is_file())
RAY_FILES = [FOLDER / name for name in ("on-prem.yaml", "aws.yaml", "gcp.yaml")]
CLOUD_FILES = RAY_FILES[1:]
KUBERAY_FILES = [FOLDER / name for name in ("kuberay-cluster.yaml", "kuberay-rayjob.yaml")]
COMPOSE = FOLDER / "mlflow.compose.yaml"
DOCKERFILE = FOLDER / "Dockerfile"
SLURM = FOLDER / "slurm.sh"
STOP = FOLDER / "on-prem-stop.sh"


class _StrictLoader(yaml.CSafeLoader):
    """Refuses a key given twice, which YAML's readers take the last one of."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        assert not twice, f"given twice: {twice}"
        return super().construct_mapping(node, deep)


def load(path: Path) -> Any:
    """The only document of a YAML file."""
    return yaml.load(path.read_text(encoding="utf-8"), _StrictLoader)  # noqa: S506 (a safe loader)


def commands(config: dict[str, Any]) -> list[str]:
    """Every shell command of a file for `ray up`."""
    return [
        command for key, value in config.items() if key.endswith("_commands") for command in value
    ]


def start_commands(config: dict[str, Any]) -> list[str]:
    """Its commands that start Ray: the head's, the workers'."""
    return [command for command in commands(config) if re.search(r"\bray start\b", command)]


def making_a_token() -> str:
    """The command that README.md gives for it."""
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^.*ray get-auth-token --generate.*$", text, re.MULTILINE)
    return command.partition("#")[0].strip()


def header(path: Path) -> list[str]:
    """Commands that a file shows at its top, without the comments behind them."""
    text = path.read_text(encoding="utf-8")
    top = re.split(r"^[^#\n]", text, maxsplit=1, flags=re.MULTILINE)[0]
    shown = re.findall(r"^#   (\S.*)$", top, re.MULTILINE)
    return [re.split(r"\s{2,}#", line)[0].strip() for line in shown]
