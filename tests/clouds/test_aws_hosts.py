"""Machines that run: what user data finds on a host, and what becomes of a host that is broken."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clouds.account import Account, refused
from clouds.aws.hosts import obstacle
from clouds.aws_cloud import MACHINES, AwsCloud

pytestmark = [pytest.mark.root, pytest.mark.skipif(obstacle() is not None, reason=str(obstacle()))]

IMDS = """
imds() { curl -sf -H "X-aws-ec2-metadata-token: $token" "http://169.254.169.254/latest/$1"; }
token=$(curl -sf -X PUT http://169.254.169.254/latest/api/token -H 'X-aws-ec2-metadata-token-ttl-seconds: 60')
"""
TICKING = "while :; do echo tick; sleep 0.1; done"
SOON_S = 60.0


@pytest.fixture
def account(aws_hosts: AwsCloud) -> Account:
    account = Account(aws_hosts)
    account.profile()
    return account


def run(account: Account, script: str, **more: Any) -> str:
    asked = {
        "UserData": f"#!/bin/bash\n{script}\n",
        "IamInstanceProfile": {"Name": "machine"},
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {"HttpTokens": "required"},
    }
    (one,) = account.run(**asked | more)
    return str(one["InstanceId"])


def until(what: Callable[[], object], limit_s: float = SOON_S) -> None:
    deadline = time.monotonic() + limit_s
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def printed(account: Account, instance_id: str, words: str) -> None:
    """Wait for words on the console."""
    deadline = time.monotonic() + SOON_S
    while words not in account.cloud.console(instance_id):
        assert time.monotonic() < deadline, account.cloud.console(instance_id)
        time.sleep(0.05)


def test_user_data_runs_with_the_role_and_reaches_s3_by_its_real_name(account: Account) -> None:
    s3 = account.cloud.client("s3")
    s3.create_bucket(Bucket="box")
    s3.put_object(Bucket="box", Key="in", Body=b"from the bucket")
    one = run(
        account,
        f"""{IMDS}
        test "$(imds meta-data/iam/security-credentials/)" = machine || exit
        cat > /work.py <<'END'
import boto3
s3 = boto3.client("s3", region_name="us-east-1")
s3.put_object(Bucket="box", Key="out", Body=s3.get_object(Bucket="box", Key="in")["Body"].read() + b", seen")
print(boto3.client("sts", region_name="us-east-1").get_caller_identity()["Arn"])
END
        python /work.py
        curl -s -o /dev/null -w 'unsigned=%{{http_code}}' https://box.s3.us-east-1.amazonaws.com/in
        shutdown -h now""",
    )
    ended = account.cloud.wait_for(one, "terminated")
    console = account.ec2.get_console_output(InstanceId=one)["Output"]
    assert ended["reason"] == "Client.InstanceInitiatedShutdown", console
    assert s3.get_object(Bucket="box", Key="out")["Body"].read() == b"from the bucket, seen"
    assert f"assumed-role/machine/{one}" in console and "unsigned=403" in console
    assert {call["source"] for call in account.cloud.calls("s3", "PutObject")} == {"127.0.0.1", ended["address"]}


def test_the_metadata_service_wants_a_token_of_the_machine_itself(account: Account) -> None:
    first = run(account, f"{IMDS} echo token=$token; sleep 60")
    printed(account, first, "token=")
    token = account.cloud.console(first).split("token=")[1].split()[0]
    second = run(
        account,
        f"""{IMDS}
        at=http://169.254.169.254/latest/meta-data/instance-id
        code() {{ curl -s -o /dev/null -w "$1=%{{http_code}}\\n" "${{@:2}}" $at; }}
        code none; code own -H "X-aws-ec2-metadata-token: $token"; code foreign -H "X-aws-ec2-metadata-token: {token}"
        echo $(imds meta-data/instance-id) $(imds meta-data/local-ipv4) $(imds meta-data/ami-launch-index) end""",
    )
    printed(account, second, " end")
    console = account.cloud.console(second)
    assert "none=401\nown=200\nforeign=401\n" in console
    assert f"{second} {account.describe(second)[0]['PrivateIpAddress']} 0 end" in console


@pytest.mark.parametrize(("hops", "answer"), ((1, "nothing"), (2, "a token")))
def test_a_container_gets_a_token_only_when_it_may_be_a_hop_away(account: Account, hops: int, answer: str) -> None:
    script = """
        unshare --net sleep 60 & sleep 0.3
        inside() { nsenter -t $! -n "$@"; }
        ip link add outer type veth peer name inner netns $!
        ip addr add 10.9.0.1/24 dev outer && ip link set outer up
        inside ip addr add 10.9.0.2/24 dev inner && inside ip link set inner up
        inside ip route add default via 10.9.0.1
        echo 1 > /proc/sys/net/ipv4/ip_forward
        iptables -t nat -A POSTROUTING -s 10.9.0.0/24 -j MASQUERADE
        ttl='X-aws-ec2-metadata-token-ttl-seconds: 60'
        inside curl -sf -m 2 -o /dev/null -X PUT -H "$ttl" http://169.254.169.254/latest/api/token \\
          && echo got a token || echo got nothing"""
    one = run(account, script, MetadataOptions={"HttpTokens": "required", "HttpPutResponseHopLimit": hops})
    printed(account, one, f"got {answer}")


def test_machines_reach_each_other_only_as_their_group_says(account: Account) -> None:
    group = account.ec2.create_security_group(GroupName="mine", Description="d")["GroupId"]
    server = run(account, "cd /etc && python3 -m http.server 8000", SecurityGroupIds=[group])
    account.cloud.wait_for(server, "running")
    name = account.describe(server)[0]["PrivateDnsName"]
    asking = (
        f"while :; do curl -s -m 1 -o /dev/null -w 'got=%{{http_code}}\\n' http://{name}:8000/hostname; sleep 0.1; done"
    )
    inside = run(account, asking, SecurityGroupIds=[group])
    outside = run(account, asking)
    printed(account, inside, "got=000")
    rule = {"IpProtocol": "tcp", "FromPort": 0, "ToPort": 65535, "UserIdGroupPairs": [{"GroupId": group}]}
    account.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
    printed(account, inside, "got=200")
    assert "got=200" not in account.cloud.console(outside)


def test_a_host_knows_nothing_of_the_developer(account: Account, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    here = Path(__file__).resolve()
    places = [str(here), str(tmp_path / "secret"), str(Path.home() / ".aws"), str(Path.home() / ".ssh")]
    one = run(account, f"for at in {' '.join(places)}; do test -e $at && echo SEEN $at; done; env; ps ax; echo end")
    printed(account, one, "end")
    console = account.cloud.console(one)
    assert "SEEN" not in console and "AWS_ACCESS_KEY_ID" not in console and "pytest" not in console


@pytest.mark.parametrize("words", ("shutdown -h now", "poweroff", "poweroff -f", "systemctl poweroff -f", "/sbin/halt"))
def test_a_host_switches_itself_off(account: Account, words: str) -> None:
    one = run(account, f"trap 'echo asked; exit' TERM; {words}; while :; do sleep 0.1; done")
    account.cloud.wait_for(one, "terminated")
    assert ("asked" in account.cloud.console(one)) == ("-f" not in words)


def test_a_timer_of_systemd_switches_the_host_off(account: Account) -> None:
    timer = "systemd-run --quiet --unit={} --on-active={}s --timer-property=AccuracySec=1s {}"
    script = [timer.format("end", 2, "systemctl poweroff -f"), timer.format("not", 1, "touch /ran")]
    one = run(account, "\n".join([*script, "systemctl stop not.timer", "sleep 1.5; ls /ran; echo looked; sleep 60"]))
    printed(account, one, "looked")
    assert "cannot access '/ran'" in account.cloud.console(one)
    account.cloud.wait_for(one, "terminated")


def test_a_stopped_host_keeps_its_disk_and_does_not_run_its_user_data_again(account: Account) -> None:
    one = run(account, "echo first; shutdown -h now", InstanceInitiatedShutdownBehavior="stop")
    account.cloud.wait_for(one, "stopped")
    account.ec2.start_instances(InstanceIds=[one])
    account.cloud.wait_for(one, "running")
    until(lambda: account.cloud.console(one).count("is up") == 2)
    time.sleep(0.5)
    assert account.cloud.console(one).count("first") == 1


def test_terminating_ends_processes_in_order_or_by_force(account: Account) -> None:
    polite = run(account, "trap 'echo asked; exit' TERM; echo ready; while :; do sleep 0.1; done")
    deaf = run(account, "trap '' TERM; echo ready; while :; do sleep 0.1; done")
    for one in (polite, deaf):
        printed(account, one, "ready")
    account.ec2.terminate_instances(InstanceIds=[polite, deaf])
    for one in (polite, deaf):
        account.cloud.wait_for(one, "terminated")
    assert "asked" in account.cloud.console(polite)


def test_a_spot_machine_is_told_before_it_is_taken(account: Account) -> None:
    spot = {"MarketType": "spot"}
    watching = f"{IMDS} until imds meta-data/spot/instance-action; do sleep 0.1; done; echo; sleep 60"
    one = run(account, f"echo ready; {watching}", InstanceMarketOptions=spot)
    printed(account, one, "ready")
    account.cloud.interrupt(one, notice_s=2)
    printed(account, one, '"action": "terminate"')
    assert account.cloud.wait_for(one, "terminated")["reason"] == "Server.SpotInstanceTermination"


def test_a_frozen_host_stands_still_and_can_be_terminated(account: Account) -> None:
    one = run(account, TICKING)

    def ticks() -> int:
        return account.cloud.console(one).count("tick")

    until(lambda: ticks() > 2)
    account.cloud.freeze(one)
    time.sleep(0.3)
    before = ticks()
    time.sleep(0.6)
    assert ticks() == before
    account.cloud.thaw(one)
    until(lambda: ticks() > before)
    account.cloud.freeze(one)
    account.ec2.terminate_instances(InstanceIds=[one])
    account.cloud.wait_for(one, "terminated")


def test_a_partitioned_host_runs_on_without_a_network(account: Account) -> None:
    asking = "curl -s -m 1 -o /dev/null https://sts.us-east-1.amazonaws.com/ && echo reached || echo cut"
    one = run(account, f"while :; do {asking}; sleep 0.1; done")
    printed(account, one, "reached")
    account.cloud.partition(one)
    printed(account, one, "cut")
    account.cloud.heal(one)
    seen = account.cloud.console(one).count("reached")
    until(lambda: account.cloud.console(one).count("reached") > seen)


def test_a_crashed_host_runs_on_as_far_as_ec2_knows(account: Account) -> None:
    one = run(account, TICKING)
    printed(account, one, "tick")
    account.cloud.crash(one)
    time.sleep(0.5)
    ticks = account.cloud.console(one).count("tick")
    time.sleep(0.5)
    assert (account.cloud.console(one).count("tick"), account.state(one)) == (ticks, "running")
    account.ec2.terminate_instances(InstanceIds=[one])
    account.cloud.wait_for(one, "terminated")


def test_without_a_public_address_the_services_are_out_of_reach_but_for_an_endpoint(account: Account) -> None:
    account.cloud.client("s3").create_bucket(Bucket="box")
    ask = "curl -s -m 1 -o /dev/null -w '{0}=%{{http_code}}\\n' https://{0}.us-east-1.amazonaws.com/"
    (subnet, *_) = account.ec2.describe_subnets()["Subnets"]
    inside = [{"DeviceIndex": 0, "SubnetId": subnet["SubnetId"], "AssociatePublicIpAddress": False}]
    one = run(
        account, f"while :; do {ask.format('sts')}; {ask.format('s3')}; sleep 0.1; done", NetworkInterfaces=inside
    )
    printed(account, one, "s3=000")
    account.ec2.create_vpc_endpoint(VpcId=subnet["VpcId"], ServiceName="com.amazonaws.us-east-1.s3")
    until(lambda: "s3=000" not in account.cloud.console(one).splitlines()[-2:])
    printed(account, one, "s3=4" if "s3=4" in account.cloud.console(one) else "s3=2")
    assert "sts=000" in account.cloud.console(one) and "sts=2" not in account.cloud.console(one)


@pytest.mark.slow
def test_the_keys_of_a_machine_end_and_are_renewed(account: Account) -> None:
    account.cloud.timing(credentials_s=2)
    account.cloud.client("s3").create_bucket(Bucket="box")
    one = run(
        account,
        """cat > /work.py <<'END'
import time, boto3
def client(*keys):
    return boto3.Session(*keys).client("s3", region_name="us-east-1")
old = client(*boto3.Session().get_credentials().get_frozen_credentials()[:3])
old.list_objects_v2(Bucket="box")
time.sleep(2.5)
try:
    old.list_objects_v2(Bucket="box")
except Exception as error:
    print(error)
client().list_objects_v2(Bucket="box")
print("renewed")
END
        python /work.py""",
    )
    printed(account, one, "renewed")
    assert "ExpiredToken" in account.cloud.console(one)


def test_a_fault_can_meet_the_calls_of_machines_alone(account: Account) -> None:
    account.cloud.fault("s3", "ListBuckets", "error", status=418, source=MACHINES, count=None)
    one = run(account, "curl -s -o /dev/null -w 'got=%{http_code}' https://s3.us-east-1.amazonaws.com/")
    printed(account, one, "got=418")
    account.cloud.client("s3").list_buckets()


def test_a_reset_ends_every_host(account: Account) -> None:
    one = run(account, "trap '' TERM; exec -a left-by-a-reset sleep 60")
    account.cloud.wait_for(one, "running")
    until(lambda: processes("left-by-a-reset"))
    account.cloud.reset()
    assert not processes("left-by-a-reset")
    with refused("InvalidInstanceID.NotFound"):
        account.describe(one)


@pytest.mark.parametrize("how", (pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL))
def test_nothing_is_left_when_the_cloud_ends(how: signal.Signals) -> None:
    mark = f"left-by-{how.name}"
    cloud = AwsCloud(hosts=True)
    cloud.start()
    account = Account(cloud)
    account.profile()
    run(account, f"trap '' TERM; exec -a {mark} sleep 60")
    until(lambda: processes(mark))
    assert traces(cloud.pid) != []
    os.kill(cloud.pid, how)
    until(lambda: not processes(mark) and traces(cloud.pid) == [])
    cloud.stop()


def processes(mark: str) -> list[str]:
    """Command lines on this machine that carry the mark."""
    found = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, timeout=20).stdout
    return [line for line in found.splitlines() if line.startswith(mark)]


def traces(pid: int) -> list[str]:
    """What a cloud leaves on this machine: control groups, mounts, files."""
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/sojourn-aws-{pid}")]
    mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if f"sojourn-aws-{pid}-" in line]
    files = [str(path) for path in Path("/tmp").glob(f"sojourn-aws-{pid}-*")]
    return groups + mounts + files
