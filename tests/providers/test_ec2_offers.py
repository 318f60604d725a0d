"""Which machines of EC2 meet a need, where and at what price, against the stand-in for Amazon."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from clouds.aws_cloud import AwsCloud

from sojourn.clouds.account import differences
from sojourn.clouds.aws.clients import Clients
from sojourn.clouds.aws.setup.pieces import pieces
from sojourn.errors import AccessError, QuotaError, SpecError
from sojourn.providers.catalogue import known
from sojourn.providers.ec2.images import Image
from sojourn.providers.ec2.offers import OFFERS, list_offers
from sojourn.renting import Need, Offer, Offers
from sojourn.shorthand import parse_gpu, parse_size

G_ON_DEMAND, G_SPOT = "L-DB2E81BA", "L-3819A6DF"
BESIDES = 0.005 + 58 * 0.08 / 730  # a public address, and the disk of an image of 8 GiB
Find = Callable[..., Offers]


@pytest.fixture
def find(aws: AwsCloud, clients: Clients) -> Find:
    """The offers for a need in words."""

    def look(gpu: str | None = None, disk: str | None = None, **need: Any) -> Offers:
        asked = {"gpu": parse_gpu(gpu) if gpu else None, "disk": int(parse_size(disk)) if disk else None}
        return list_offers(Need(**asked, **need), clients)

    return look


def refused(find: Find, kind: type[SpecError | QuotaError], **need: Any) -> tuple[str, str]:
    """What such a need is told, and the hint."""
    with pytest.raises(kind) as caught:
        find(**need)
    return caught.value.message, caught.value.hint or ""


def denied(aws: AwsCloud, service: str, action: str) -> None:
    aws.fault(service, action, "error", code="AccessDeniedException", status=403, message="not you", count=None)


def micro(offers: Offers, market: str = "on-demand") -> Offer:
    return next(one for one in offers.fitting if one.market == market)


# --- what is offered ----------------------------------------------------------------------


def test_nothing_asked_for_is_a_small_plain_machine_and_nothing_is_made(find: Find, aws: AwsCloud) -> None:
    offers = find().fitting

    assert {one.machine for one in offers} <= {"m6a.large", "m6i.large", "m7i.large", "m8i.large"}
    assert [one.price for one in offers] == sorted(one.price for one in offers)
    assert {call["action"][:3] for call in aws.calls()} == {"Des", "Get"}


def test_a_gpu_comes_from_several_types_zones_and_both_markets_within_a_bound(find: Find) -> None:
    offers = find(gpu="L4").fitting

    assert len(offers) == OFFERS
    kinds = Counter((one.machine, one.market) for one in offers)
    assert kinds == {("g6.xlarge", "spot"): 5, ("g6.2xlarge", "spot"): 3, ("g6.xlarge", "on-demand"): 4}
    assert len({one.place for one in offers}) == 5
    first = offers[0]
    assert (first.gpus, first.gpu_memory, first.market, first.region) == (("L4",), 24 * 10**9, "spot", "us-east-1")
    assert first.quota == "4 of 1000000 vCPUs"


def test_a_whole_price_is_that_of_instance_disk_and_address(find: Find, aws: AwsCloud) -> None:
    aws.spot_price("t3.micro", "us-east-1b", 0.002)
    offers = find(machine="t3.micro")

    assert offers.fitting[0].price == pytest.approx(0.002 + BESIDES, abs=1e-5)
    assert (offers.fitting[0].place, offers.fitting[0].market) == ("us-east-1b", "spot")
    assert micro(offers).price == pytest.approx(0.0104 + BESIDES, abs=1e-5)
    assert {one.price_note for one in offers.fitting} == {None}


def test_a_market_is_asked_for_alone(find: Find) -> None:
    assert {one.market for one in find(machine="t3.micro", market="spot").fitting} == {"spot"}
    assert {one.market for one in find(machine="t3.micro", market="on-demand").fitting} == {"on-demand"}


def test_regions_are_compared_by_price(find: Find, aws: AwsCloud) -> None:
    aws.spot_price("t3.micro", "eu-west-1a", 0.0001)
    offers = find(machine="t3.micro", regions=("us-east-2", "eu-west-1")).fitting

    assert (offers[0].place, offers[0].region) == ("eu-west-1a", "eu-west-1")
    assert {one.region for one in offers} == {"us-east-2", "eu-west-1"}
    assert len({one.details["image"] for one in offers}) == 2, "an image's id is of one region"


def test_the_python_of_an_image_is_told_by_the_release_in_its_name() -> None:
    releases, name = ("24.04", "26.04", "28.04"), "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu {}) 20260901"
    names = [name.format(one) for one in releases]
    assert [Image("ami-1", name, "x86_64", "/dev/sda1", 8).python for name in names] == ["3.12", "3.14", None]


def test_a_type_that_the_catalogue_lacks_is_described_by_amazon(find: Find) -> None:
    assert "r6i.large" not in known("aws")
    offer = find(machine="r6i.large").fitting[0]
    assert (offer.cpus, offer.memory, offer.architecture) == (2, 16 * 2**30, "x86_64")


def test_the_catalogue_agrees_with_amazon(aws: AwsCloud) -> None:
    # Amazon's own description of every type, which moto keeps a copy of.
    pages = aws.client("ec2").get_paginator("describe_instance_types").paginate()
    told = {one["InstanceType"]: one for page in pages for one in page["InstanceTypes"]}
    for row in known("aws").values():
        gpus = told[row.name].get("GpuInfo", {}).get("Gpus", [{"Count": 0}])
        assert row.cpus == told[row.name]["VCpuInfo"]["DefaultVCpus"], row
        assert row.memory == told[row.name]["MemoryInfo"]["SizeInMiB"] * 2**20, row
        assert row.architecture in told[row.name]["ProcessorInfo"]["SupportedArchitectures"], row
        name = gpus[0].get("Name", "").replace("RTX PRO Server 6000", "RTX PRO 6000").replace(" ", "-")
        assert (row.gpu, row.gpus) == (name or None, gpus[0]["Count"]), row


def test_machines_near_each_other_are_of_types_that_amazon_puts_so(find: Find) -> None:
    offer = find(machine="c6i.large", nodes=2, cluster=True).fitting[0]
    assert (offer.makes, offer.details["cluster"]) == (("placement group",), True)
    message, hint = refused(find, SpecError, machine="t3.micro", nodes=2, cluster=True)
    assert "cluster: Amazon does not put t3.micro into a cluster placement group" in message and "--no-cluster" in hint


def test_one_machine_has_nothing_to_stand_near_to_and_is_rented_all_the_same(find: Find) -> None:
    offers = find(machine="t3.micro", cluster=True)
    assert offers.remarks[0] == "cluster: there is one machine, and nothing to put near it"
    assert offers.fitting[0].makes == () and "cluster" not in offers.fitting[0].details


def gateway(aws: AwsCloud) -> dict[str, Any]:
    """A gateway to S3 for the default subnets; the main route table."""
    ec2 = aws.client("ec2")
    vpc = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"][0]["VpcId"]
    tables = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["RouteTables"]
    main = next(one for one in tables if any(link.get("Main") for link in one["Associations"]))
    ec2.create_vpc_endpoint(
        VpcId=vpc,
        ServiceName="com.amazonaws.us-east-1.s3",
        VpcEndpointType="Gateway",
        RouteTableIds=[main["RouteTableId"]],
    )
    return dict(main)


def test_a_machine_without_a_network_has_an_address_only_where_nothing_else_leads_to_the_store(
    find: Find, aws: AwsCloud
) -> None:
    plain = find(machine="t3.micro", network="none")
    assert "address" not in plain.fitting[0].details
    assert any(one.startswith("network: machines keep a public address") for one in plain.remarks)
    main = gateway(aws)
    shut = find(machine="t3.micro", network="none")
    assert shut.fitting[0].details["address"] is False and shut.remarks == ()
    assert micro(shut).price == pytest.approx(micro(plain).price - 0.005, abs=1e-6)
    assert "address" not in find(machine="t3.micro").fitting[0].details, "with a network they have one"

    # A subnet with a table of its own is not served, nor is what lies in no bucket, or in one of another region.
    ec2 = aws.client("ec2")
    (subnet,) = ec2.describe_subnets(Filters=[{"Name": "availability-zone", "Values": ["us-east-1b"]}])["Subnets"]
    table = ec2.create_route_table(VpcId=main["VpcId"])["RouteTable"]["RouteTableId"]
    ec2.associate_route_table(RouteTableId=table, SubnetId=subnet["SubnetId"])
    kept = {one.place for one in find(machine="t3.micro", network="none").fitting if "address" not in one.details}
    assert kept == {"us-east-1b"}
    ec2.disassociate_route_table(
        AssociationId=next(
            link["RouteTableAssociationId"]
            for one in ec2.describe_route_tables(RouteTableIds=[table])["RouteTables"]
            for link in one["Associations"]
        )
    )
    abroad = {"Bucket": "abroad", "CreateBucketConfiguration": {"LocationConstraint": "eu-west-1"}}
    aws.client("s3", "eu-west-1").create_bucket(**abroad)
    for offer in find(machine="t3.micro", network="none", data=("s3://abroad/x",)).fitting:
        assert "address" not in offer.details


# --- images -------------------------------------------------------------------------------


def test_a_machine_with_a_gpu_boots_with_its_driver_and_another_plain_ubuntu(find: Find) -> None:
    assert "Nvidia Driver" in find(machine="g6.xlarge").fitting[0].details["image_name"]
    assert "ubuntu-noble-24.04-amd64" in find(machine="t3.micro").fitting[0].details["image_name"]
    assert "ubuntu-noble-24.04-arm64" in find(machine="t4g.micro").fitting[0].details["image_name"]
    assert "ubuntu-noble" in find(machine="g6.xlarge", boot_image="ubuntu").fitting[0].details["image_name"]


def test_an_image_is_named_by_its_id_or_by_owner_and_name(find: Find) -> None:
    plain = find(machine="t3.micro").fitting[0].details
    assert find(machine="t3.micro", boot_image=plain["image"]).fitting[0].details == plain
    named = find(machine="t3.micro", boot_image="ubuntu@099720109477:x86_64:*ubuntu-jammy-22.04*").fitting[0].details
    assert "jammy" in named["image_name"]


def test_an_image_is_found_by_name_where_parameters_may_not_be_read(find: Find, aws: AwsCloud) -> None:
    published = find(machine="t3.micro").fitting[0].details["image"]
    denied(aws, "ssm", "GetParameters")
    assert find(machine="t3.micro").fitting[0].details["image"] == published


@pytest.mark.parametrize(
    ("need", "message", "hint"),
    [
        (
            {"boot_image": "ubunut"},
            "boot_image: 'ubunut' is none, did you mean 'ubuntu'?",
            "user@owner:architecture:name",
        ),
        (
            {"boot_image": "ami-0123456789abcdef0"},
            "does not exist, or is not yours to use (us-east-1)",
            "of one region",
        ),
        (
            {"boot_image": "me@self:x86_64:mine*"},
            "boot_image: there is no 'me@self:x86_64:mine*'",
            "aws ec2 describe-images",
        ),
        (
            {"boot_image": "u@099720109477:arm64:*noble*"},
            "is for arm64, and the machine is x86_64",
            "leave boot_image out",
        ),
        ({"disk": "7GB"}, "disk: 7GB is smaller than the image", "--disk 9GB"),
    ],
)
def test_what_cannot_boot_is_refused(find: Find, need: dict[str, str], message: str, hint: str) -> None:
    told = refused(find, SpecError, machine="t3.micro", **need)
    assert message in told[0] and hint in told[1]


def test_a_disk_has_room_beside_the_image_or_what_was_asked_for(find: Find) -> None:
    assert find(machine="t3.micro").fitting[0].details["disk"] == 58
    assert find(machine="t3.micro", disk="130GB").fitting[0].details["disk"] == 122, "in GiB, as EC2 counts"


# --- what is not there --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("need", "message", "hint"),
    [
        ({"machine": "g66.xlarge"}, "machine: 'g66.xlarge' is no machine type of EC2 in us-east-1, did you mean "
         "'g6.xlarge'?", "--gpu L4"),
        ({"regions": ("us-eest-1",)}, "regions: 'us-eest-1' is no region of EC2, did you mean 'us-west-1'?", ""),
        ({"gpu": "V100"}, "gpu: the V100 is being withdrawn", "--gpu A10G"),
        ({"machine": "p5e.48xlarge"}, "there is no p5e.48xlarge (us-east-1)", "describe-instance-type-offerings"),
    ],
)  # fmt: skip
def test_what_amazon_does_not_have_is_refused(find: Find, need: dict[str, Any], message: str, hint: str) -> None:
    told = refused(find, SpecError, **need)
    assert message in told[0] and hint in told[1]


def test_a_zone_without_a_default_subnet_is_left_out_and_said(find: Find, aws: AwsCloud) -> None:
    ec2 = aws.client("ec2")
    subnets = ec2.describe_subnets(Filters=[{"Name": "availability-zone", "Values": ["us-east-1a", "us-east-1b"]}])
    for one in subnets["Subnets"]:
        ec2.delete_subnet(SubnetId=one["SubnetId"])
    offers = find(machine="t3.micro")

    assert not {"us-east-1a", "us-east-1b"} & {one.place for one in offers.fitting}
    assert "there is no default subnet (us-east-1a, us-east-1b)" in offers.remarks


def test_a_region_without_subnets_is_told_how_to_get_them(find: Find, aws: AwsCloud) -> None:
    ec2 = aws.client("ec2")
    for one in ec2.describe_subnets()["Subnets"]:
        ec2.delete_subnet(SubnetId=one["SubnetId"])
    message, hint = refused(find, SpecError, machine="t3.micro")
    assert "no default subnet" in message and "aws ec2 create-default-vpc --region us-east-1" in hint


# --- quotas -------------------------------------------------------------------------------


def test_an_offer_beyond_the_quota_is_left_out_and_said(find: Find, aws: AwsCloud) -> None:
    aws.quota(G_SPOT, 3)
    aws.quota(G_ON_DEMAND, 8)
    offers = find(machine="g6.xlarge", nodes=2)

    assert {one.market for one in offers.fitting} == {"on-demand"}
    assert offers.fitting[0].quota == "8 of 8 vCPUs"
    assert offers.remarks == (
        "quota L-3819A6DF: the account may have 3 vCPUs of this kind as spot, and 2 × g6.xlarge need 8 (us-east-1)",
    )


def test_nothing_within_the_quota_names_it_and_the_command_that_raises_it(find: Find, aws: AwsCloud) -> None:
    aws.quota(G_SPOT, 0)
    aws.quota(G_ON_DEMAND, 4)
    message, hint = refused(find, QuotaError, machine="g6.2xlarge")

    assert "quota L-DB2E81BA: the account may have 4 vCPUs of this kind on demand" in message
    assert "--quota-code L-DB2E81BA --desired-value 8 --region us-east-1" in hint


def test_what_the_account_has_already_is_taken_off_its_quota(find: Find, aws: AwsCloud) -> None:
    aws.quota(G_ON_DEMAND, 8)
    image = find(machine="g6.xlarge").fitting[0].details["image"]
    aws.client("ec2").run_instances(ImageId=image, InstanceType="g6.xlarge", MinCount=1, MaxCount=1)

    message, hint = refused(find, QuotaError, machine="g6.2xlarge", market="on-demand")
    assert "8 vCPUs of this kind on demand, 4 of them in use, and 1 × g6.2xlarge need 8" in message
    assert "--desired-value 12" in hint
    assert find(machine="g6.xlarge", market="on-demand").fitting[0].quota == "4 of 4 vCPUs"


# --- rights that are missing ----------------------------------------------------------------


def test_without_the_right_to_prices_the_catalogues_figure_stands_in_as_an_estimate(find: Find, aws: AwsCloud) -> None:
    denied(aws, "pricing", "GetProducts")
    offers = find(machine="m7i.large", market="on-demand")

    assert offers.fitting[0].price == pytest.approx(0.1008 + BESIDES, abs=1e-5)
    assert offers.fitting[0].price_note == f"that of us-east-1 in {known('aws')['m7i.large'].priced}"
    assert any(one.startswith("prices on demand are guesses: ") for one in offers.remarks)


def test_without_the_right_to_spot_prices_spot_costs_what_on_demand_does(find: Find, aws: AwsCloud) -> None:
    aws.fault("ec2", "DescribeSpotPriceHistory", "error", code="UnauthorizedOperation", status=403, count=None)
    offers = find(machine="t3.micro")

    assert micro(offers, "spot").price == micro(offers).price
    assert micro(offers, "spot").price_note == "that on demand, which spot never exceeds"
    assert offers.fitting[0].market == "spot"


def test_without_any_price_nothing_is_offered(find: Find, aws: AwsCloud) -> None:
    denied(aws, "pricing", "GetProducts")
    message, _ = refused(find, SpecError, machine="r6i.large", market="on-demand")
    assert "its price is not known without the right pricing:GetProducts" in message


def test_without_the_right_to_quotas_everything_is_offered_and_said(find: Find, aws: AwsCloud) -> None:
    aws.quota(G_ON_DEMAND, 0)
    denied(aws, "servicequotas", "GetServiceQuota")
    offers = find(machine="g6.xlarge")

    assert {one.quota for one in offers.fitting} == {None}
    assert any(one.startswith("quotas are unknown: ") for one in offers.remarks)


def test_without_valid_credentials_nothing_is_guessed(find: Find, aws: AwsCloud) -> None:
    aws.fault("ec2", ".*", "error", code="RequestExpired", status=400, count=None)
    with pytest.raises(AccessError, match="RequestExpired"):
        find(machine="t3.micro")


# --- what of ours stands there --------------------------------------------------------------


def test_an_offer_names_all_that_its_request_needs(find: Find, aws: AwsCloud, clients: Clients) -> None:
    for change in differences(pieces(clients, "digits", regions=["eu-west-1"])):
        change.apply()
    home, abroad = (
        find(machine="t3.micro", project="digits", regions=(region,)).fitting[0].details
        for region in ("us-east-1", "eu-west-1")
    )

    assert home["profile"] == abroad["profile"] == "sojourn-machine-digits"
    assert home["scheduler_role"].endswith(":role/sojourn-scheduler")
    assert home["group"].startswith("sg-") and abroad["group"] != home["group"]


def test_an_account_without_setup_is_told_to_set_it_up(find: Find) -> None:
    message, hint = refused(find, SpecError, machine="t3.micro", project="digits")
    assert "instance profile sojourn-machine-digits" in message and "sojourn setup aws" in hint


def test_data_in_another_region_has_its_price(find: Find, aws: AwsCloud) -> None:
    aws.client("s3").create_bucket(Bucket="near")
    data = ("s3://near/dvc", "s3://near/store", "s3://nobodys", "file:///srv")
    here = find(machine="t3.micro", data=data)
    there = find(machine="t3.micro", data=data, regions=("us-east-2",))

    assert (here.fitting[0].transfer, here.remarks) == (0.0, ())
    assert there.fitting[0].transfer == 0.02
    assert there.remarks == (
        "s3://near is in us-east-1: what a machine in us-east-2 reads of it costs about $0.02 a GB (us-east-2)",
    )


def test_a_few_seconds_are_enough(find: Find, aws: AwsCloud) -> None:
    find(gpu="L4")
    for service in ("ec2", "ssm", "pricing", "servicequotas"):
        aws.fault(service, ".*", "delay", seconds=0.5, count=None)
    began = time.monotonic()
    find(gpu="L4")
    assert time.monotonic() - began < 5, "a dozen questions, asked side by side"
