"""What the stand-in mends of moto, one test for each repair.

Each fails on bare moto; `test_every_repair_is_needed` (slow) runs this file so, to see that none of
these tests would pass without its repair: `STAND_IN_BARE=1 pytest tests/clouds/test_aws_repairs.py`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from clouds.account import LEARNING, UBUNTU, Account, refused
from clouds.aws_cloud import ACCOUNT, AwsCloud


@pytest.fixture
def account(aws: AwsCloud) -> Account:
    return Account(aws)


def test_the_same_client_token_is_the_same_instance(account: Account) -> None:
    (first,) = account.run(ClientToken="t1")
    (again,) = account.run(ClientToken="t1")
    (other,) = account.run(ClientToken="t2")
    assert first["InstanceId"] == again["InstanceId"] != other["InstanceId"]


def test_a_client_token_with_other_parameters_is_refused(account: Account) -> None:
    account.run(ClientToken="t1")
    with refused("IdempotentParameterMismatch"):
        account.run(ClientToken="t1", InstanceType="t3.small")


def test_a_client_token_whose_request_found_no_room_is_bound_to_it_all_the_same(account: Account) -> None:
    account.cloud.capacity(0)
    with refused("InsufficientInstanceCapacity"):
        account.run(ClientToken="t1", InstanceType="t3.micro")
    account.cloud.capacity(5)
    with refused("IdempotentParameterMismatch"):
        account.run(ClientToken="t1", InstanceType="t3.small")
    assert len(account.run(ClientToken="t1", InstanceType="t3.micro")) == 1


def test_a_client_token_of_which_an_instance_has_ended_is_refused(account: Account) -> None:
    first, _ = account.run(ClientToken="t1", MinCount=2, MaxCount=2)
    account.ec2.terminate_instances(InstanceIds=[first["InstanceId"]])
    account.until(first["InstanceId"], "terminated")
    with refused("IdempotentInstanceTerminated"):
        account.run(ClientToken="t1", MinCount=2, MaxCount=2)


def test_a_client_token_over_64_characters_is_refused(account: Account) -> None:
    with refused("InvalidParameterValue"):
        account.run(ClientToken="t" * 65)


def test_no_spot_instance_has_a_launch_index_of_its_own(account: Account) -> None:
    spot = {"InstanceMarketOptions": {"MarketType": "spot"}}
    for more, indexes in ((spot, [0, 0, 0]), ({}, [0, 1, 2])):
        made = account.run(MinCount=3, MaxCount=3, **more)
        assert (
            sorted(one["AmiLaunchIndex"] for one in account.describe(*(one["InstanceId"] for one in made))) == indexes
        )


def test_an_ended_instance_is_forgotten_and_keeps_others_from_being_ended_with_it(account: Account) -> None:
    account.cloud.timing(remembered_s=0.2)
    dead, alive = (one["InstanceId"] for one in account.run(MinCount=2, MaxCount=2))
    account.ec2.terminate_instances(InstanceIds=[dead])
    account.until_forgotten(dead)
    with refused("InvalidInstanceID.NotFound"):
        account.ec2.terminate_instances(InstanceIds=[alive, dead])
    assert account.state(alive) == "running"


def test_as_many_start_as_max_count_says(account: Account) -> None:
    assert len(account.run(MinCount=1, MaxCount=3)) == 3


def test_every_instance_has_the_profile(account: Account) -> None:
    account.profile()
    started = account.run(MinCount=2, MaxCount=2, IamInstanceProfile={"Name": "machine"})
    shown = account.describe(*[one["InstanceId"] for one in started])
    assert [one["IamInstanceProfile"]["Arn"][-24:] for one in shown] == [":instance-profile/machine"[1:]] * 2


def test_an_unknown_profile_is_an_invalid_parameter(account: Account) -> None:
    with refused("InvalidParameterValue"):
        account.run(IamInstanceProfile={"Name": "nobody"})


def test_without_a_subnet_it_is_the_default_one_with_the_default_group(account: Account) -> None:
    (one,) = account.run(Placement={"AvailabilityZone": "us-east-1b"})
    (subnet,) = account.ec2.describe_subnets(SubnetIds=[one["SubnetId"]])["Subnets"]
    assert (subnet["AvailabilityZone"], subnet["DefaultForAz"]) == ("us-east-1b", True)
    assert [group["GroupName"] for group in one["SecurityGroups"]] == ["default"]


def test_the_default_group_lets_its_own_members_in(account: Account) -> None:
    (group,) = account.ec2.describe_security_groups(GroupNames=["default"])["SecurityGroups"]
    (rule,) = group["IpPermissions"]
    assert (rule["IpProtocol"], rule["UserIdGroupPairs"][0]["GroupId"]) == ("-1", group["GroupId"])


def test_an_instance_is_pending_until_it_is_up(account: Account) -> None:
    account.cloud.timing(boot_s=1.0)
    (one,) = account.run()
    assert account.state(one["InstanceId"]) == "pending"
    account.until(one["InstanceId"], "running")


def test_an_instance_shuts_down_before_it_is_terminated(account: Account) -> None:
    account.cloud.timing(shutdown_s=1.0)
    (one,) = account.run()
    account.until(one["InstanceId"], "running")
    account.ec2.terminate_instances(InstanceIds=[one["InstanceId"]])
    assert account.state(one["InstanceId"]) == "shutting-down"
    ended = account.until(one["InstanceId"], "terminated")
    assert ended["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    assert re.fullmatch(r"User initiated \(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d GMT\)", ended["StateTransitionReason"])


def test_a_new_instance_can_be_unknown_for_a_while(account: Account) -> None:
    account.cloud.timing(visible_after_s=1.0)
    (one,) = account.run(ClientToken="t1")
    assert account.describe() == []
    with refused("InvalidInstanceID.NotFound"):
        account.describe(one["InstanceId"])
    with refused("InvalidInstanceID.NotFound"):
        account.ec2.terminate_instances(InstanceIds=[one["InstanceId"]])
    time.sleep(1.0)
    assert account.describe()[0]["InstanceId"] == one["InstanceId"]


def test_instances_are_found_by_client_token_and_by_lifecycle(account: Account) -> None:
    (spot,) = account.run(ClientToken="t1", InstanceMarketOptions={"MarketType": "spot"})
    (other,) = account.run(ClientToken="t2")
    for name, value, wanted in (("client-token", "t2", other), ("instance-lifecycle", "spot", spot)):
        found = account.describe(Filters=[{"Name": name, "Values": [value]}])
        assert [one["InstanceId"] for one in found] == [wanted["InstanceId"]], name


def test_an_unknown_filter_is_an_invalid_parameter(account: Account) -> None:
    account.run()
    with refused("InvalidParameterValue"):
        account.describe(Filters=[{"Name": "colour", "Values": ["red"]}])


def test_a_security_group_in_use_is_not_deleted(account: Account) -> None:
    group = account.ec2.create_security_group(GroupName="g", Description="d")["GroupId"]
    (one,) = account.run(SecurityGroupIds=[group])
    with refused("DependencyViolation"):
        account.ec2.delete_security_group(GroupId=group)
    account.ec2.terminate_instances(InstanceIds=[one["InstanceId"]])
    account.until(one["InstanceId"], "terminated")
    account.ec2.delete_security_group(GroupId=group)


def test_a_terminated_instance_leaves_no_interface_and_no_volume(account: Account) -> None:
    disk = {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 30, "VolumeType": "gp3", "Encrypted": True}}
    (one,) = account.run(BlockDeviceMappings=[disk])
    account.ec2.terminate_instances(InstanceIds=[one["InstanceId"]])
    account.until(one["InstanceId"], "terminated")
    assert account.ec2.describe_network_interfaces()["NetworkInterfaces"] == []
    assert account.ec2.describe_volumes()["Volumes"] == []


def test_interfaces_and_spot_requests_carry_their_tags(account: Account) -> None:
    kinds = ("instance", "volume", "network-interface", "spot-instances-request")
    tags = [{"ResourceType": kind, "Tags": [{"Key": "kind", "Value": kind}]} for kind in kinds]
    account.run(TagSpecifications=tags, InstanceMarketOptions={"MarketType": "spot"})
    (interface,) = account.ec2.describe_network_interfaces()["NetworkInterfaces"]
    (request,) = account.ec2.describe_spot_instance_requests()["SpotInstanceRequests"]
    assert interface["TagSet"] == [{"Key": "kind", "Value": "network-interface"}]
    assert request["Tags"] == [{"Key": "kind", "Value": "spot-instances-request"}]


def test_a_spot_instance_has_a_request_that_follows_it(account: Account) -> None:
    (one,) = account.run(InstanceMarketOptions={"MarketType": "spot"})

    def request() -> tuple[str, str]:
        answer = account.ec2.describe_spot_instance_requests(SpotInstanceRequestIds=[one["SpotInstanceRequestId"]])
        (found,) = answer["SpotInstanceRequests"]
        assert found["InstanceId"] == one["InstanceId"]
        return found["State"], found["Status"]["Code"]

    assert request() == ("active", "fulfilled")
    account.until(one["InstanceId"], "running")
    account.cloud.interrupt(one["InstanceId"], notice_s=0.6)
    assert request() == ("active", "marked-for-termination")
    ended = account.until(one["InstanceId"], "terminated")
    assert ended["StateReason"]["Code"] == "Server.SpotInstanceTermination"
    assert request() == ("closed", "instance-terminated-no-capacity")


def test_spot_prices_differ_by_type_zone_and_time(account: Account) -> None:
    def prices(instance_type: str, **more: Any) -> dict[str, list[float]]:
        rows = account.ec2.describe_spot_price_history(
            InstanceTypes=[instance_type], ProductDescriptions=["Linux/UNIX"], **more
        )["SpotPriceHistory"]
        found: dict[str, list[float]] = {}
        for row in rows:
            found.setdefault(row["AvailabilityZone"], []).append(float(row["SpotPrice"]))
        return found

    now = datetime.now(UTC)
    g6 = prices("g6.xlarge", StartTime=now)
    assert len({price for (price,) in g6.values()}) > 1
    assert all(0.2 * 0.8048 < price < 0.7 * 0.8048 for (price,) in g6.values())
    assert min(min(zone) for zone in prices("p5.48xlarge").values()) > 10
    day = prices("g6.xlarge", StartTime=now - timedelta(days=1), EndTime=now)
    assert all(len(set(zone)) > 3 for zone in day.values())
    account.cloud.spot_price("g6.xlarge", "us-east-1a", 0.01)
    assert prices("g6.xlarge", StartTime=now)["us-east-1a"] == [0.01]


def test_a_spot_bid_below_the_price_is_refused(account: Account) -> None:
    options = {"MarketType": "spot", "SpotOptions": {"MaxPrice": "0.0001"}}
    with refused("SpotMaxPriceTooLow"):
        account.run(InstanceMarketOptions=options)
    assert account.cloud.running() == [] and account.describe() == []


def test_no_capacity_in_a_zone_is_said_and_another_zone_has_some(account: Account) -> None:
    account.cloud.capacity(0, type="g6.*", zone="us-east-1a")
    with refused("InsufficientInstanceCapacity") as caught:
        account.run(InstanceType="g6.xlarge", Placement={"AvailabilityZone": "us-east-1a"})
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500
    (elsewhere,) = account.run(InstanceType="g6.xlarge")
    assert elsewhere["Placement"]["AvailabilityZone"] != "us-east-1a"


def test_machines_come_all_or_none_when_min_count_is_max_count(account: Account) -> None:
    account.cloud.capacity(2, type="t3.micro")
    with refused("InsufficientInstanceCapacity"):
        account.run(MinCount=3, MaxCount=3)
    assert account.describe() == []
    assert len(account.run(MinCount=1, MaxCount=3)) == 2


def test_a_quota_of_vcpus_is_enforced_by_family_and_market(account: Account) -> None:
    account.cloud.quota("L-DB2E81BA", 4)
    account.cloud.quota("L-3819A6DF", 0)
    account.run(InstanceType="g6.xlarge")
    with refused("VcpuLimitExceeded"):
        account.run(InstanceType="g6.xlarge")
    with refused("MaxSpotInstanceCountExceeded"):
        account.run(InstanceType="g6.xlarge", InstanceMarketOptions={"MarketType": "spot"})
    account.run(InstanceType="m6i.xlarge")


def test_quotas_can_be_read(account: Account) -> None:
    quotas = account.cloud.client("service-quotas")
    account.cloud.quota("L-417A185B", 96)
    assert quotas.get_service_quota(ServiceCode="ec2", QuotaCode="L-417A185B")["Quota"]["Value"] == 96
    listed = quotas.list_service_quotas(ServiceCode="ec2")["Quotas"]
    assert {"L-1216C47A", "L-34B43A08", "L-DB2E81BA", "L-3819A6DF"} < {one["QuotaCode"] for one in listed}


def test_a_type_that_a_zone_has_not_is_unsupported(account: Account) -> None:
    with refused("Unsupported"):
        account.run(InstanceType="t3.micro", Placement={"AvailabilityZone": "us-east-1e"})


def test_unknown_types_and_images_are_refused(account: Account) -> None:
    with refused("InvalidParameterValue"):
        account.run(InstanceType="zz9.huge")
    with refused("InvalidAMIID.NotFound"):
        account.run(ImageId="ami-0123456789abcdef0")


def test_an_image_of_another_architecture_is_refused(account: Account) -> None:
    with refused("InvalidParameterValue"):
        account.run(InstanceType="t4g.micro")


def test_a_disk_smaller_than_the_image_is_refused(account: Account) -> None:
    with refused("InvalidBlockDeviceMapping"):
        account.run(BlockDeviceMappings=[{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 4}}])


def test_a_disk_under_another_name_comes_beside_the_root_disk(account: Account) -> None:
    (one,) = account.run(BlockDeviceMappings=[{"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 100}}])
    assert {disk["DeviceName"] for disk in one["BlockDeviceMappings"]} == {"/dev/sda1", "/dev/sdf"}


def test_user_data_over_16_kb_is_refused(account: Account) -> None:
    account.run(UserData="#!/bin/sh\n" + "x" * (16 * 1024 - 10))
    with refused("InvalidParameterValue"):
        account.run(UserData="#!/bin/sh\n" + "x" * (16 * 1024 - 9))


@pytest.mark.parametrize("parameter", (UBUNTU, LEARNING))
def test_public_parameters_name_an_image_of_their_region(account: Account, parameter: str) -> None:
    images = {}
    for region in ("us-east-1", "eu-west-1"):
        images[region] = account.cloud.client("ssm", region).get_parameter(Name=parameter)["Parameter"]["Value"]
        account.cloud.client("ec2", region).describe_images(ImageIds=[images[region]])
    with refused("InvalidAMIID.NotFound"):
        account.ec2.describe_images(ImageIds=[images["eu-west-1"]])


def test_machines_of_two_regions_share_no_address(account: Account) -> None:
    (one,) = account.run()
    there = account.cloud.client("ec2", "us-west-2")
    image = there.describe_images(Filters=[{"Name": "architecture", "Values": ["x86_64"]}])["Images"][0]["ImageId"]
    asked = {"ImageId": image, "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1}
    (subnet, *_) = there.describe_subnets(Filters=[{"Name": "cidr-block", "Values": ["172.31.0.0/20"]}])["Subnets"]
    (two,) = there.run_instances(**asked, SubnetId=subnet["SubnetId"])["Instances"]
    (three,) = account.run(SubnetId=one["SubnetId"])
    assert len({one["PrivateIpAddress"], two["PrivateIpAddress"], three["PrivateIpAddress"]}) == 3


def test_a_dry_run_only_says_whether_one_may(account: Account) -> None:
    with refused("DryRunOperation"):
        account.ec2.describe_instance_types(DryRun=True)


def test_an_expired_presigned_url_is_refused(account: Account) -> None:
    s3 = account.cloud.client("s3")
    s3.create_bucket(Bucket="box")
    s3.put_object(Bucket="box", Key="k", Body=b"v")
    clients = s3, account.cloud.client("s3", signature_version="s3v4")
    asked = {"Bucket": "box", "Key": "k"}
    long, short = (
        [client.generate_presigned_url("get_object", Params=asked, ExpiresIn=seconds) for client in clients]
        for seconds in (600, 1)
    )
    assert [urllib.request.urlopen(url, timeout=60).read() for url in long] == [b"v", b"v"]
    time.sleep(2.1)
    for url in short:
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(url, timeout=10)


def test_placement_groups_are_made_used_and_deleted(account: Account) -> None:
    account.ec2.create_placement_group(GroupName="near", Strategy="cluster")
    with refused("InvalidPlacementGroup.Duplicate"):
        account.ec2.create_placement_group(GroupName="near", Strategy="cluster")
    (one,) = account.run(InstanceType="c6i.large", Placement={"GroupName": "near"})
    assert account.describe(one["InstanceId"])[0]["Placement"]["GroupName"] == "near"
    with refused("InvalidPlacementGroup.InUse"):
        account.ec2.delete_placement_group(GroupName="near")
    with refused("InvalidParameterCombination"):
        account.run(InstanceType="t3.micro", Placement={"GroupName": "near"})
    account.ec2.terminate_instances(InstanceIds=[one["InstanceId"]])
    account.until(one["InstanceId"], "terminated")
    account.ec2.delete_placement_group(GroupName="near")
    assert account.ec2.describe_placement_groups()["PlacementGroups"] == []
    with refused("InvalidPlacementGroup.Unknown"):
        account.run(Placement={"GroupName": "near"})


def test_the_price_list_knows_what_a_machine_costs_on_demand(account: Account) -> None:
    def price(region: str) -> float:
        fields = {"instanceType": "g6.xlarge", "regionCode": region, "operatingSystem": "Linux", "tenancy": "Shared"}
        filters = [{"Type": "TERM_MATCH", "Field": name, "Value": value} for name, value in fields.items()]
        answer = account.cloud.client("pricing").get_products(ServiceCode="AmazonEC2", Filters=filters)
        (product,) = (json.loads(one) for one in answer["PriceList"])
        (term,) = product["terms"]["OnDemand"].values()
        (dimension,) = term["priceDimensions"].values()
        assert dimension["unit"] == "Hrs"
        return float(dimension["pricePerUnit"]["USD"])

    assert price("us-east-1") == 0.8048
    assert price("eu-west-1") > price("us-east-1")


def test_regions_of_separate_clouds_are_not_listed(account: Account) -> None:
    names = [one["RegionName"] for one in account.ec2.describe_regions(AllRegions=True)["Regions"]]
    assert "eu-west-1" in names and not [one for one in names if one.startswith(("cn-", "us-gov-", "us-iso"))]


class TestSchedules:
    """EventBridge Scheduler, as far as it ends instances."""

    def arm(self, account: Account, instance_id: str, at: datetime, role: str, **more: Any) -> None:
        account.cloud.client("scheduler").create_schedule(
            **{
                "Name": "end",
                "ScheduleExpression": f"at({at:%Y-%m-%dT%H:%M:%S})",
                "FlexibleTimeWindow": {"Mode": "OFF"},
                "ActionAfterCompletion": "DELETE",
                "Target": {
                    "Arn": "arn:aws:scheduler:::aws-sdk:ec2:terminateInstances",
                    "RoleArn": role,
                    "Input": json.dumps({"InstanceIds": [instance_id]}),
                },
            }
            | more
        )

    def test_a_one_time_schedule_ends_the_instance_and_itself(self, account: Account) -> None:
        role = account.profile("timer", "scheduler.amazonaws.com")
        (one,) = account.run()
        assert account.until(one["InstanceId"], "running")
        self.arm(account, one["InstanceId"], datetime.now(UTC) + timedelta(seconds=4), role)
        assert account.state(one["InstanceId"]) == "running"
        account.until(one["InstanceId"], "terminated")
        assert account.cloud.client("scheduler").list_schedules()["Schedules"] == []

    def test_a_schedule_is_exact_to_the_minute_and_may_act_before_its_second(self, account: Account) -> None:
        role = account.profile("timer", "scheduler.amazonaws.com")
        (one,) = account.run()
        while (now := datetime.now(UTC)).second > 50:
            time.sleep(0.5)
        self.arm(account, one["InstanceId"], now.replace(second=59), role)
        account.until(one["InstanceId"], "terminated")
        assert datetime.now(UTC) < now.replace(second=59)

    def test_a_schedule_of_two_instances_ends_neither_where_one_is_forgotten(self, account: Account) -> None:
        account.cloud.timing(remembered_s=0.2)
        role = account.profile("timer", "scheduler.amazonaws.com")
        dead, alive = (one["InstanceId"] for one in account.run(MinCount=2, MaxCount=2))
        account.ec2.terminate_instances(InstanceIds=[dead])
        account.until_forgotten(dead)
        both = {
            "Arn": "arn:aws:scheduler:::aws-sdk:ec2:terminateInstances",
            "RoleArn": role,
            "Input": json.dumps({"InstanceIds": [dead, alive]}),
        }
        self.arm(account, alive, datetime.now(UTC), role, Target=both)
        while not account.cloud.fired():
            time.sleep(0.1)
        assert dead in account.cloud.fired()[0]["error"] and account.state(alive) == "running"

    def test_a_garbled_time_is_refused(self, account: Account) -> None:
        role = account.profile("timer", "scheduler.amazonaws.com")
        for expression in ("at(tomorrow)", "at(2030-01-01T00:00:00Z)", "2030-01-01T00:00:00", "rate(5 minutes)"):
            with refused("ValidationException"):
                self.arm(account, "i-1", datetime.now(UTC), role, ScheduleExpression=expression)

    def test_a_role_that_does_not_trust_the_scheduler_is_refused(self, account: Account) -> None:
        role = account.profile("machine", "ec2.amazonaws.com")
        for one in (role, f"arn:aws:iam::{ACCOUNT}:role/nobody"):
            with refused("ValidationException"):
                self.arm(account, "i-1", datetime(2030, 1, 1), one)

    def test_an_unknown_group_is_not_found(self, account: Account) -> None:
        role = account.profile("timer", "scheduler.amazonaws.com")
        with refused("ResourceNotFoundException"):
            self.arm(account, "i-1", datetime(2030, 1, 1), role, GroupName="nobody")

    def test_the_same_request_again_is_the_same_schedule(self, account: Account) -> None:
        role = account.profile("timer", "scheduler.amazonaws.com")
        for _ in range(2):
            self.arm(account, "i-1", datetime(2030, 1, 1), role, ClientToken="t1")
        with refused("ConflictException"):
            self.arm(account, "i-2", datetime(2030, 1, 1), role, ClientToken="t2")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_repair_is_needed() -> None:
    """On bare moto each of the tests above fails: a repair that moto has come to need no more is to go."""
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "-m", "not slow", __file__]
    done = subprocess.run(command, env=_bare(), capture_output=True, text=True, timeout=500)
    passed = re.findall(r"^PASSED .*::(.*)$", done.stdout, re.MULTILINE)
    assert passed == [], done.stdout[-2000:]
    assert len(re.findall(r"^FAILED ", done.stdout, re.MULTILINE)) >= 40, done.stdout[-2000:]


def _bare() -> dict[str, str]:
    import os

    return dict(os.environ) | {"STAND_IN_BARE": "1"}


def test_an_object_says_when_a_rule_of_its_bucket_removes_it(aws: AwsCloud) -> None:
    s3 = aws.client("s3")
    s3.create_bucket(Bucket="digits-runs")
    rule = {"ID": "old", "Status": "Enabled", "Filter": {"Prefix": "control/"}, "Expiration": {"Days": 30}}
    s3.put_bucket_lifecycle_configuration(Bucket="digits-runs", LifecycleConfiguration={"Rules": [rule]})
    for key in ("control/digits/plan.json", "other/plan.json"):
        s3.put_object(Bucket="digits-runs", Key=key, Body=b"x")
    said = s3.head_object(Bucket="digits-runs", Key="control/digits/plan.json")["Expiration"]
    assert 'rule-id="old"' in said and said.startswith('expiry-date="')
    assert "Expiration" not in s3.head_object(Bucket="digits-runs", Key="other/plan.json")
