"""Files for KubeRay, against its published schemas and against each other."""

import copy
import re
import shlex

import jsonschema
import pytest

from tests.cluster_files import crds
from tests.cluster_files.files import ALL, FOLDER, KUBERAY_FILES, load
from tune_ddvae.catalogue import find_study, known_studies
from tune_ddvae.study import main

each_file = pytest.mark.parametrize("path", KUBERAY_FILES, ids=lambda path: path.name)
STORAGE = FOLDER / "kuberay-storage.yaml"


def check(document):
    version = document["apiVersion"].removeprefix("ray.io/")
    schema = crds.schema_for(document["kind"], version)
    jsonschema.Draft202012Validator(schema).validate(document)
    return schema


def cluster_of(document):
    """The cluster that a file describes."""
    return document["spec"].get("rayClusterSpec", document["spec"])


def pods_of(document):
    cluster = cluster_of(document)
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


@each_file
def test_kuberay_accepts_it(path):
    document = load(path)
    schema = check(document)
    assert list(crds.rules(schema, document)) == []


@each_file
@pytest.mark.parametrize(
    "place",
    [
        (),
        ("authOptions",),
        ("autoscalerOptions",),
        ("headGroupSpec",),
        ("headGroupSpec", "template", "spec"),
        ("headGroupSpec", "template", "spec", "containers", 0),
        ("headGroupSpec", "template", "spec", "securityContext"),
        ("workerGroupSpecs", 0),
        ("workerGroupSpecs", 0, "template", "spec", "containers", 0, "env", 0),
    ],
    ids=lambda place: ".".join(map(str, place)) or "top",
)
def test_a_misspelt_field_is_refused_wherever_it_stands(path, place):
    document = copy.deepcopy(load(path))
    part = cluster_of(document)
    for step in place:
        part = part[step]
    part["misspelt"] = "1"
    with pytest.raises(jsonschema.ValidationError, match="misspelt"):
        check(document)


@each_file
def test_a_value_of_the_wrong_kind_is_refused(path):
    document = copy.deepcopy(load(path))
    cluster_of(document)["authOptions"]["mode"] = "on"
    with pytest.raises(jsonschema.ValidationError, match="'on' is not one of"):
        check(document)
    document = copy.deepcopy(load(path))
    cluster_of(document)["workerGroupSpecs"][0]["maxReplicas"] = "4"
    with pytest.raises(jsonschema.ValidationError, match="'4' is not of type 'integer'"):
        check(document)


@each_file
def test_it_asks_for_the_token_and_is_not_reached_from_outside(path):
    cluster = cluster_of(load(path))
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert not cluster["headGroupSpec"].get("enableIngress")


@each_file
def test_workers_come_when_trials_wait_and_go_when_idle(path):
    cluster = cluster_of(load(path))
    assert cluster["enableInTreeAutoscaling"] is True
    assert 0 < cluster["autoscalerOptions"]["idleTimeoutSeconds"] <= 900
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] == 0
        assert 0 < group["maxReplicas"] <= 16


@each_file
def test_no_trial_is_placed_on_the_head(path):
    options = cluster_of(load(path))["headGroupSpec"]["rayStartParams"]
    assert options["num-cpus"] == options["num-gpus"] == "0"


@each_file
def test_no_container_can_become_more_than_its_user(path):
    document = load(path)
    for pod in pods_of(document):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 1000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@each_file
def test_every_container_says_what_it_takes(path):
    document = load(path)
    for pod in pods_of(document):
        for container in pod["containers"]:
            resources = container["resources"]
            assert {"cpu", "memory"} <= resources["limits"].keys()
            assert resources["limits"] == resources["requests"]
    (worker,) = pods_of(document)[1:]
    assert worker["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


@each_file
def test_all_pods_see_the_storage_at_one_path(path):
    claim = load(STORAGE)
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod in pods_of(load(path)):
        (volume,) = [one["name"] for one in pod["volumes"] if "persistentVolumeClaim" in one]
        (named,) = [one for one in pod["volumes"] if one["name"] == volume]
        assert named["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        for container in pod["containers"]:
            paths = [one["mountPath"] for one in container["volumeMounts"] if one["name"] == volume]
            assert paths == ["/shared"]


@each_file
def test_deleting_a_cluster_deletes_no_study(path):
    assert "kind: PersistentVolumeClaim" not in path.read_text(encoding="utf-8")


def test_both_describe_the_same_cluster():
    first, second = map(load, KUBERAY_FILES)
    assert cluster_of(first) == cluster_of(second)


def test_a_job_is_one_attempt_and_leaves_nothing_running():
    spec = load(FOLDER / "kuberay-rayjob.yaml")["spec"]
    assert spec["backoffLimit"] == 0
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] <= 3600


def test_a_study_ends_by_itself_before_its_job_is_ended():
    spec = load(FOLDER / "kuberay-rayjob.yaml")["spec"]
    program, *flags, limit = (words := shlex.split(spec["entrypoint"]))[:4]
    assert program == "timeout"
    assert sorted(flags) == [
        "--preserve-status",
        "--signal=TERM",
    ]  # the study's own code, its own end
    (hours,) = re.fullmatch(r"(\d+)h", limit).groups()
    assert 0 < int(hours) * 3600 <= spec["activeDeadlineSeconds"] - 1800
    assert words[4:7] == ["python", "-m", "tune_ddvae.study"]
    with main.make_context("study", words[7:], resilient_parsing=False) as context:
        options = context.params
    assert options["name"] in known_studies()
    assert options["storage"].startswith("/shared/")
    # Or it would have no number of trials, never be complete, and count the hours of earlier jobs too.
    assert options["hours"] is None
    assert (options["trials"] or find_study(options["name"]).spec.size.trials) > 0


def test_no_file_tells_a_study_to_end_by_hours_alone():
    """Such a study has no number of trials: it is never complete, and its job never succeeds."""
    for path in ALL:
        for line in path.read_text(encoding="utf-8").splitlines():
            if re.search(r"^(?!\s*#).*--hours", line):
                assert "--trials" in line, (path.name, line)
