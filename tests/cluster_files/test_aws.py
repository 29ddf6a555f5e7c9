"""aws.yaml, as Ray prepares and launches it, against a simulated AWS."""

import re

import pytest

from tests.cluster_files.files import FOLDER, header, load

AWS = FOLDER / "aws.yaml"


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """The security group that Ray makes, and the machines by kind."""
    moto = pytest.importorskip("moto")
    home = tmp_path_factory.mktemp("home")
    (home / ".ssh").mkdir()
    with pytest.MonkeyPatch.context() as patch, moto.mock_aws():
        patch.setenv("HOME", str(home))  # Ray writes the key pair there
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("MOTO_IAM_LOAD_MANAGED_POLICIES", "true")
        import boto3
        from ray.autoscaler._private.aws import config as rays
        from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
        from ray.autoscaler._private.util import prepare_config, validate_config

        patch.setattr(rays.time, "sleep", lambda _: None)  # for AWS to propagate what it was told
        config = prepare_config(load(AWS))
        validate_config(config)
        config = AWSNodeProvider.bootstrap_config(config)
        provider = AWSNodeProvider(config["provider"], config["cluster_name"])
        ec2 = boto3.client("ec2")
        machines = {}
        for name, kind in config["available_node_types"].items():
            (made,) = provider.create_node(kind["node_config"], {"ray-user-node-type": name}, 1)
            (found,) = ec2.describe_instances(InstanceIds=[made])["Reservations"]
            machines[name] = found["Instances"][0]
        (group,) = ec2.describe_security_groups(GroupNames=["tune-ddvae"])["SecurityGroups"]
        yield group, machines


def test_only_ssh_is_open_to_the_outside(launched):
    group, _ = launched
    open_ports = [
        (rule["FromPort"], rule["ToPort"]) for rule in group["IpPermissions"] if rule["IpRanges"]
    ]
    assert open_ports == [(22, 22)]


def test_everything_else_is_open_to_members_only(launched):
    group, _ = launched
    (inside,) = [rule for rule in group["IpPermissions"] if not rule["IpRanges"]]
    assert [pair["GroupId"] for pair in inside["UserIdGroupPairs"]] == [group["GroupId"]]


def test_all_machines_are_in_that_group(launched):
    group, machines = launched
    for machine in machines.values():
        assert [other["GroupId"] for other in machine["SecurityGroups"]] == [group["GroupId"]]


def test_workers_are_spot_and_the_head_is_not(launched):
    _, machines = launched
    kinds = {name: machine.get("InstanceLifecycle") for name, machine in machines.items()}
    assert kinds == {"head": None, "gpu": "spot"}


def test_credentials_are_not_handed_out_to_whoever_asks_on_a_machine(launched):
    _, machines = launched
    for machine in machines.values():
        assert machine["MetadataOptions"]["HttpTokens"] == "required"


def test_workers_need_nothing_that_the_heads_role_may_not_do(launched):
    """The head starts them, by the role that Ray makes for it: no look-ups, no role passed on."""
    import boto3

    iam = boto3.client("iam")
    attached = iam.list_attached_role_policies(RoleName="ray-autoscaler-v1")["AttachedPolicies"]
    assert attached
    allowed = set()
    for arn in [policy["PolicyArn"] for policy in attached]:
        version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
        found = iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]
        for statement in found["Document"]["Statement"]:
            actions = statement["Action"]
            allowed |= {actions} if isinstance(actions, str) else set(actions)
    assert "ec2:*" in allowed
    assert not allowed & {"*", "iam:*", "iam:PassRole"}
    assert not any(action.startswith("ssm:") for action in allowed)
    for kind in load(AWS)["available_node_types"].values():
        assert re.fullmatch(r"ami-[0-9a-f]{17}", kind["node_config"]["ImageId"])
        assert "IamInstanceProfile" not in kind["node_config"]


def test_what_finds_the_image_and_what_the_role_lacks_for_a_bucket_is_said():
    text = AWS.read_text(encoding="utf-8")
    (command,) = [line for line in header(AWS) if line.startswith("aws ssm get-parameter ")]
    assert f"--region {load(AWS)['provider']['region']} " in command
    assert re.search(r"IamInstanceProfile.*iam:PassRole", text, re.DOTALL)
