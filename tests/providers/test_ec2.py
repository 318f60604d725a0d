"""EC2 under the contract, and what only Amazon can do to it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.contract.provider", "tests.providers.ec2_world")

from clouds.aws_cloud import REGION, AwsCloud  # noqa: E402

from sojourn.clouds.aws.clients import Clients  # noqa: E402
from sojourn.errors import AccessError, CapacityError, QuotaError, SojournError, SpecError, TransientError  # noqa: E402
from sojourn.names import LeaseName  # noqa: E402
from sojourn.providers.contract import Provider, Request  # noqa: E402
from sojourn.providers.ec2.provider import Ec2Provider  # noqa: E402
from sojourn.renting import Boot, Offer  # noqa: E402
from tests.contract.provider import NAME, ProviderCase, ProviderContract  # noqa: E402
from tests.providers.ec2_world import Ec2World, set_up  # noqa: E402

MakeRequest = Callable[..., Request]


class Amazon(ProviderCase):
    """The world of an account that was set up."""

    @pytest.fixture
    def world(self, aws: AwsCloud) -> Ec2World:
        aws.timing(boot_s=0.1, shutdown_s=0.1)
        set_up(aws)
        return Ec2World(aws)

    @pytest.fixture
    def request_for(self, world: Ec2World, provider: Provider) -> MakeRequest:
        def make(nodes: int = 1, seconds: float = 60.0, attempt: int = 1, **changes: object) -> Request:
            offer = provider.offers(self.need(machine="t3.micro", nodes=nodes)).fitting[0]
            boot = self.boot(world.now() + seconds, nodes, attempt)
            world.let_minute_end(boot.deadline_at + boot.grace_s)
            return provider.request(boot, offer.model_copy(update=changes))

        return make

    def boot(self, deadline_at: float, nodes: int = 1, attempt: int = 1) -> Boot:
        plain = super().boot(deadline_at, nodes, attempt)
        return plain.model_copy(update={"store": "s3://acme-sojourn", "store_region": REGION, "life_s": 7260.0})

    @staticmethod
    def offer(provider: Provider) -> Offer:
        return Offer(
            provider=provider.name,
            machine="t3.micro",
            place="us-east-1b",
            price=0.02,
            cpus=2,
            memory=2**30,
            region=REGION,
            market="spot",
            details={
                "image": "ami-0123456789abcdef0",
                "root_device": "/dev/sda1",
                "disk": 30,
                "subnet": "subnet-1",
                "group": "sg-1",
                "profile": "sojourn-machine-digits",
                "scheduler_role": "arn:aws:iam::123456789012:role/sojourn-scheduler",
            },
        )


def one_timer_for_all(request: Request) -> Request:
    """A request as it stands in the ledger of a run that an earlier version began."""
    lease = request["token"]
    timer = {
        **request["create_schedules"][0],
        "Name": lease,
        "ClientToken": lease,
        "ScheduleExpression": f"at({datetime.fromtimestamp(request['ends_at'], UTC):%Y-%m-%dT%H:%M:%S})",
    }
    kept = {name: value for name, value in request.items() if name not in ("ends_at", "create_schedules")}
    volumes = [one for one in request["parts"] if one["kind"] == "volume"]
    return {**kept, "parts": [*volumes, {"kind": "schedule", "name": lease}], "create_schedule": timer}


class TestContract(Amazon, ProviderContract):
    module = "sojourn.providers.ec2.provider"
    golden = Path(__file__).with_name("golden") / "ec2_request.json"

    def test_a_stale_create_after_release_starts_nothing(
        self, world: Ec2World, request_for: MakeRequest
    ) -> None:  # EC2 keeps no record of what never was, so it starts; but nothing of it is lost from sight
        self.release(world)
        world.provider().create(request_for())
        assert [lease.name for lease in world.provider().leases()] == [str(NAME)]
        assert world.schedules() == [NAME.machine(0)]


class TestAmazon(Amazon):
    @pytest.fixture
    def near(self, world: Ec2World, provider: Provider) -> MakeRequest:
        """The request for two machines near each other."""
        offer = provider.offers(self.need(machine="c6i.large", nodes=2, cluster=True)).fitting[0]
        ends_at = world.now() + 60
        return lambda: provider.request(self.boot(ends_at, 2), offer)

    def test_machine_volume_and_interface_carry_the_tags(self, world: Ec2World, request_for: MakeRequest) -> None:
        world.provider().create(request_for())
        ec2 = world.cloud.client("ec2")
        wanted = [{"Name": "tag:sojourn:lease", "Values": [str(NAME)]}]
        assert len(ec2.describe_instances(Filters=wanted)["Reservations"]) == 1
        assert len(ec2.describe_volumes(Filters=wanted)["Volumes"]) == 1
        assert len(ec2.describe_network_interfaces(Filters=wanted)["NetworkInterfaces"]) == 1

    def test_the_schedule_is_armed_by_create_and_goes_with_release(
        self, world: Ec2World, request_for: MakeRequest
    ) -> None:
        request = request_for(nodes=2)
        world.provider().create(request)
        scheduler, machines = world.cloud.client("scheduler"), self.lease(world).machines
        for one in machines:
            schedule = scheduler.get_schedule(Name=one.name, GroupName="sojourn")
            assert json.loads(schedule["Target"]["Input"]) == {"InstanceIds": [one.identity]}
        assert len(machines) == len(world.schedules()) == 2
        self.release(world)
        assert world.schedules() == []

    def test_a_machine_that_nobody_remembers_keeps_no_other_from_its_end_at_the_deadline(
        self, world: Ec2World, request_for: MakeRequest
    ) -> None:
        world.cloud.timing(remembered_s=0.1)
        world.provider().create(request_for(nodes=3, seconds=4.0))
        world.cloud.end_from_inside(str(world.ours()[1]["id"]))
        world.wait(lambda: len(world.cloud.fired()) == 3)
        world.wait(lambda: world.billable() == 0)
        assert [one["error"] is None for one in world.cloud.fired()].count(True) == 2

    @pytest.mark.parametrize("code", ["InvalidInstanceID.NotFound", "OperationNotPermitted", "UnauthorizedOperation"])
    def test_a_machine_that_cannot_be_ended_keeps_no_other_from_its_release(
        self, world: Ec2World, request_for: MakeRequest, code: str
    ) -> None:
        world.provider().create(request_for(nodes=3))
        self.wait_until_running(world)
        world.cloud.fault("ec2", "TerminateInstances", "error", code=code, status=400, count=2)  # of all, of the first
        with suppress(SojournError):
            world.provider().release(str(NAME))
        world.wait(lambda: world.billable() == 1)
        self.release(world)
        assert world.billable() == 0

    def test_several_spot_machines_have_names_of_their_own(self, world: Ec2World, request_for: MakeRequest) -> None:
        world.provider().create(request_for(nodes=3, market="spot"))
        names = [(one.name, one.identity) for one in self.lease(world).machines]
        assert [name for name, _ in names] == [NAME.machine(node) for node in range(3)]
        for name, identity in names:
            schedule = world.cloud.client("scheduler").get_schedule(Name=name, GroupName="sojourn")
            assert json.loads(schedule["Target"]["Input"]) == {"InstanceIds": [identity]}
        self.release(world)

    def test_of_a_half_made_lease_that_lost_a_machine_the_others_are_armed_by_the_same_create(
        self, world: Ec2World, request_for: MakeRequest
    ) -> None:
        request = request_for(nodes=3)
        world.half_make(request)
        self.wait_until_running(world)
        dead = str(world.ours()[0]["id"])
        world.cloud.end_from_inside(dead)
        world.cloud.wait_for(dead, "terminated")
        for _ in range(2):
            world.provider().create(request)
        targets = [
            world.cloud.client("scheduler").get_schedule(Name=one, GroupName="sojourn") for one in world.schedules()
        ]
        armed = sorted(json.loads(one["Target"]["Input"])["InstanceIds"][0] for one in targets)
        assert armed == sorted(world.cloud.running()) and len(armed) == 2 and world.rented() == 3

    def test_a_request_that_an_earlier_version_wrote_is_armed_and_ended_all_the_same(
        self, world: Ec2World, request_for: MakeRequest
    ) -> None:
        written = one_timer_for_all(request_for(nodes=2))
        for _ in range(2):
            world.provider().create(written)
        assert sorted(world.schedules()) == [NAME.machine(node) for node in range(2)]
        self.wait_until_running(world)
        dead = str(world.ours()[0]["id"])
        world.cloud.end_from_inside(dead)
        world.cloud.wait_for(dead, "terminated")
        world.provider().create(written)
        assert len(self.lease(world).machines) == world.rented() == 2
        self.release(world)
        assert world.schedules() == [] and world.billable() == 0

    def test_a_lease_that_an_earlier_version_armed_with_one_timer_goes_with_its_timer(
        self, world: Ec2World, request_for: MakeRequest
    ) -> None:
        written = one_timer_for_all(request_for(nodes=2))
        made = world.cloud.client("ec2").run_instances(**written["run_instances"])["Instances"]
        machines = [one["InstanceId"] for one in made]
        target = {**written["create_schedule"]["Target"], "Input": json.dumps({"InstanceIds": machines})}
        world.cloud.client("scheduler").create_schedule(**{**written["create_schedule"], "Target": target})
        assert {one.identity for one in self.lease(world).machines} == {*machines}
        self.release(world)
        assert world.schedules() == [] and world.billable() == 0
        assert world.provider().observe(str(NAME)) is None or self.lease(world).parts == ()

    def test_a_spot_machine_whose_own_timer_was_not_armed_is_of_its_lease_by_its_tags(
        self, world: Ec2World, request_for: MakeRequest
    ) -> None:
        request = request_for(nodes=2, market="spot")
        world.cloud.fault("scheduler", "CreateSchedule", "error", code="AccessDeniedException", status=403, skip=1)
        with pytest.raises(AccessError):
            world.provider().create(request)
        assert len(world.schedules()) == 1 and len(self.lease(world).machines) == 2
        self.release(world)
        assert world.billable() == 0

    def test_the_timer_is_for_the_first_full_minute_after_deadline_and_grace(self, provider: Provider) -> None:
        for deadline, said in ((0, "03:34:00"), (38.5, "03:34:00"), (39, "03:34:00"), (40, "03:35:00")):
            (call,) = provider.request(self.boot(2e9 + deadline), self.offer(provider))["create_schedules"]
            assert call["ScheduleExpression"] == f"at(2033-05-18T{said})", deadline

    def test_a_timer_that_was_armed_before_is_left_as_it_is(self, world: Ec2World, request_for: MakeRequest) -> None:
        request = request_for()
        world.provider().create(request)
        world.provider().create(request)
        assert world.schedules() == [NAME.machine(0)]

    def test_a_lost_reply_to_the_schedule_is_no_harm(self, world: Ec2World, request_for: MakeRequest) -> None:
        world.cloud.fault("scheduler", "CreateSchedule", "drop_after", count=2)
        request = request_for()
        with pytest.raises(TransientError):
            world.provider().create(request)
        world.provider().create(request)
        assert world.schedules() == [NAME.machine(0)] and world.rented() == 1

    def test_what_is_not_shown_yet_is_not_rented_twice(self, world: Ec2World, request_for: MakeRequest) -> None:
        world.cloud.timing(visible_after_s=3.0)
        request = request_for()
        world.provider().create(request)
        assert self.states(world) == {"starting"}
        world.provider().create(request)
        self.wait_until_running(world)
        self.assert_rented_once(world)

    def test_what_is_not_shown_yet_can_be_released(self, world: Ec2World, request_for: MakeRequest) -> None:
        world.cloud.timing(visible_after_s=2.0)
        world.provider().create(request_for(nodes=2))
        assert world.provider().release(str(NAME)) is False
        self.release(world)
        assert world.billable() == 0 and world.rented() == 2 and world.schedules() == []

    def test_a_volume_whose_machine_nobody_remembers_is_found_and_removed(self, world: Ec2World) -> None:
        tags = [{"Key": "sojourn:lease", "Value": str(NAME)}]
        specification = [{"ResourceType": "volume", "Tags": tags}]
        ec2 = world.cloud.client("ec2")
        ec2.create_volume(AvailabilityZone=f"{REGION}a", Size=8, TagSpecifications=specification)
        assert [lease.name for lease in world.provider().leases()] == [str(NAME)]
        world.provider().release(str(NAME))
        assert world.provider().leases() == [] and ec2.describe_volumes()["Volumes"] == []

    def test_a_machine_with_every_tag_of_a_lease_is_none_of_it_unless_its_request_made_it(
        self, world: Ec2World, request_for: MakeRequest
    ) -> None:
        world.provider().create(request_for())
        (ours,) = world.ours()
        copy = world.copy(ours)
        (lease,) = world.provider().leases()
        assert [one.identity for one in lease.machines] == [ours["id"]]
        assert [(one.identity, one.lease) for one in world.provider().lookalikes()] == [(copy, str(NAME))]
        self.release(world)
        assert world.cloud.running() == [copy] and world.strangers_untouched()
        assert world.provider().leases() == [] and world.provider().observe(str(NAME)) is not None

    def test_a_machine_that_the_lease_s_own_schedule_names_is_of_it_whatever_its_token(
        self, world: Ec2World, request_for: MakeRequest
    ) -> None:
        armed = world.copy({"tags": {"sojourn:lease": str(NAME)}})
        assert world.provider().leases() == []
        (call,) = request_for()["create_schedules"]
        call["Target"]["Input"] = json.dumps({"InstanceIds": [armed]})
        world.cloud.client("scheduler").create_schedule(**call)
        assert [one.identity for one in self.lease(world).machines] == [armed] and not world.provider().lookalikes()
        self.release(world)
        assert world.cloud.running() == [] and world.schedules() == []

    def test_a_spot_machine_is_of_a_lease_by_its_tags_unless_the_schedule_names_others(
        self, world: Ec2World, request_for: MakeRequest
    ) -> None:
        spot = {"InstanceMarketOptions": {"MarketType": "spot"}}
        alone = world.copy({"tags": {"sojourn:lease": str(NAME)}}, **spot)
        assert [one.identity for one in self.lease(world).machines] == [alone] and not world.provider().lookalikes()
        (call,) = request_for()["create_schedules"]
        call["Target"]["Input"] = json.dumps({"InstanceIds": ["i-0123456789abcdef0"]})
        world.cloud.client("scheduler").create_schedule(**call)
        assert not any(one.identity for one in self.lease(world).machines if one.identity == alone)
        time.sleep(1.1)  # Amazon tells to the second when a machine was launched
        later = world.copy({"tags": {"sojourn:lease": str(NAME)}}, **spot)
        assert {one.identity for one in world.provider().lookalikes()} == {alone, later}

    def test_a_volume_and_a_group_with_the_tags_of_a_lease_stay_with_whose_they_are(
        self, world: Ec2World, near: MakeRequest
    ) -> None:
        world.provider().create(near())
        copy = world.copy(world.ours()[0], kinds=("volume",))
        tags = [{"Key": key, "Value": value} for key, value in world.ours()[0]["tags"].items()]
        world.cloud.client("ec2").create_placement_group(
            GroupName="somebodys",
            Strategy="cluster",
            TagSpecifications=[{"ResourceType": "placement-group", "Tags": tags}],
        )
        self.release(world)
        assert [one["GroupName"] for one in world.groups()] == ["somebodys"] and world.cloud.running() == [copy]
        assert world.provider().leases() == []

    def test_a_reclaimed_machine_says_so(self, world: Ec2World, request_for: MakeRequest) -> None:
        world.provider().create(request_for(market="spot"))
        self.wait_until_running(world)
        world.cloud.interrupt(str(world.ours()[0]["id"]), notice_s=0.1)
        world.wait(lambda: self.states(world) == {"gone"})
        machine = self.lease(world).machines[0]
        assert machine.ended_by == "spot reclaim" and machine.taken_back

    def test_a_machine_that_switched_itself_off_says_so(self, world: Ec2World, request_for: MakeRequest) -> None:
        world.provider().create(request_for())
        self.wait_until_running(world)
        world.end_machines(str(NAME))
        world.wait(lambda: self.states(world) == {"gone"})
        assert self.lease(world).machines[0].ended_by == "machine"

    def test_what_the_schedule_ended_says_so(self, world: Ec2World, request_for: MakeRequest) -> None:
        world.provider().create(request_for(seconds=1.0))
        world.wait(lambda: self.states(world) == {"gone"})
        assert self.lease(world).machines[0].ended_by == "cloud timer"

    def test_machines_that_must_stand_near_each_other_share_a_group_that_goes_after_them(
        self, world: Ec2World, near: MakeRequest
    ) -> None:
        request = near()
        assert request["parts"][-1] == {"kind": "placement group", "name": str(NAME)}
        world.provider().create(request)
        world.provider().create(request)
        assert [one["GroupName"] for one in world.groups()] == [str(NAME)]
        found = world.cloud.client("ec2").describe_instances()["Reservations"]
        assert {one["Placement"]["GroupName"] for each in found for one in each["Instances"]} == {str(NAME)}
        assert world.provider().release(str(NAME)) is False and world.groups(), "it is in use"
        self.release(world)
        assert (world.billable(), world.groups(), world.schedules()) == (0, [], [])

    def test_a_group_whose_create_died_is_shown_with_its_run_and_released(
        self, world: Ec2World, near: MakeRequest
    ) -> None:
        world.cloud.fault("ec2", "RunInstances", "error", code="InvalidParameterValue", status=400)
        with pytest.raises(SpecError):
            world.provider().create(near())
        (lease,) = world.provider().leases()
        assert (lease.name, lease.project, lease.store) == (str(NAME), "digits", "s3://acme-sojourn")
        assert lease.deadline_at == pytest.approx(world.now() + 60, abs=30)
        self.release(world)
        assert world.provider().leases() == [] and world.groups() == []

    @pytest.mark.parametrize(
        ("action", "code"),
        [("RunInstances", "InsufficientInstanceCapacity"), ("CreatePlacementGroup", "PlacementGroupLimitExceeded")],
    )
    def test_a_place_without_room_for_them_is_the_next_offers_turn_and_leaves_no_group(
        self, world: Ec2World, near: MakeRequest, action: str, code: str
    ) -> None:
        world.cloud.fault("ec2", action, "error", code=code, status=400, count=None)
        with pytest.raises((CapacityError, QuotaError)):
            world.provider().create(near())
        assert world.groups() == [] and world.provider().leases() == []

    def test_a_group_that_its_machines_do_not_see_yet_is_worth_another_call(
        self, world: Ec2World, near: MakeRequest
    ) -> None:
        world.cloud.fault("ec2", "RunInstances", "error", code="InvalidPlacementGroup.Unknown", status=400)
        with pytest.raises(TransientError):
            world.provider().create(near())
        world.provider().create(near())
        assert world.rented() == 2

    def test_a_replay_after_the_release_leaves_no_group_behind(self, world: Ec2World, near: MakeRequest) -> None:
        request = near()
        world.provider().create(request)
        self.release(world)
        world.provider().create(request)
        assert world.groups() == [] and world.rented() == 2

    def test_a_region_that_an_organization_closed_hides_no_lease_in_another(
        self, world: Ec2World, request_for: MakeRequest
    ) -> None:
        world.provider().create(request_for())
        world.cloud.close_region("eu-west-1")
        account = Clients()  # each of its 34 regions has clients of its own
        assert [one.name for one in Ec2Provider(account).leases()] == [str(NAME)]
        assert Ec2Provider(account).observe(str(NAME)) is not None
        assert Ec2Provider(account).lookalikes() == []
        world.wait(lambda: Ec2Provider(account).release(str(NAME)))
        assert Ec2Provider(account).observe("sojourn-calm-panda-a2e3-1-0-e4b3") is None

    @pytest.mark.slow
    def test_leases_are_found_in_every_region(self, world: Ec2World, request_for: MakeRequest) -> None:
        set_up(world.cloud, "digits", "us-west-2")
        provider = Ec2Provider(Clients())
        offer = provider.offers(self.need(machine="t3.micro", regions=("us-west-2",))).fitting[0]
        provider.create(provider.request(self.boot(world.now() + 60.0), offer))
        reaper = Ec2Provider(Clients())
        assert [lease.name for lease in reaper.leases()] == [str(NAME)]
        world.wait(lambda: Ec2Provider(Clients()).release(str(NAME)), limit_s=60.0)
        assert reaper.leases() == []

    @pytest.mark.parametrize(
        ("code", "decision"),
        [
            ("InsufficientInstanceCapacity", CapacityError),
            ("Unsupported", CapacityError),
            ("VcpuLimitExceeded", QuotaError),
            ("InsufficientVolumeCapacity", CapacityError),
            ("InsufficientCapacity", CapacityError),
            ("ReservationCapacityExceeded", CapacityError),
            ("VolumeTypeNotAvailableInZone", CapacityError),
            ("MaxSpotInstanceCountExceeded", QuotaError),
            ("RequestResourceCountExceeded", QuotaError),
            ("ResourceLimitExceeded", QuotaError),
            ("AuthFailure.ServiceLinkedRoleCreationNotPermitted", AccessError),
            ("TagPolicyViolation", AccessError),
            ("PendingVerification", AccessError),
            ("AccountDisabled", AccessError),
            ("OptInRequired", AccessError),
            ("IncompleteSignature", AccessError),
            ("InvalidSecurity.RequestHasExpired", AccessError),
            ("ConcurrentTagAccess", TransientError),
            ("RequestThrottled", TransientError),
            ("OperationNotPermitted", SpecError),
            ("DependencyViolation", SpecError),
            ("UnauthorizedOperation", AccessError),
            ("RequestLimitExceeded", TransientError),
            ("InvalidParameterValue", SpecError),
            ("NobodyHasEverHeardOfThis", SojournError),
        ],
    )
    def test_each_of_amazons_words_is_a_decision(
        self, world: Ec2World, request_for: MakeRequest, code: str, decision: type[SojournError]
    ) -> None:
        request = request_for()
        world.cloud.fault("ec2", "RunInstances", "error", code=code, status=400, count=None)
        with pytest.raises(SojournError) as raised:
            world.provider().create(request)
        assert type(raised.value) is decision and code in raised.value.message
        assert raised.value.__cause__ is not None and world.rented() == 0

    def test_a_profile_that_ec2_does_not_know_yet_is_worth_another_call(
        self, world: Ec2World, request_for: MakeRequest
    ) -> None:
        request = request_for()
        world.cloud.timing(profile_known_after_s=60.0)
        with pytest.raises(TransientError, match="Invalid IAM Instance Profile"):
            world.provider().create(request)
        roleless = "IAM Instance Profile 'arn:aws:iam::1:instance-profile/p' has no associated IAM Roles"
        world.cloud.timing(profile_known_after_s=0.0)
        world.cloud.fault("ec2", "RunInstances", "error", code="InvalidParameterValue", status=400, message=roleless)
        with pytest.raises(TransientError, match="no associated IAM Roles"):
            world.provider().create(request)
        world.provider().create(request)
        assert world.rented() == 1

    def test_the_request_asks_for_a_machine_that_listens_to_nobody(self, request_for: MakeRequest) -> None:
        call = request_for()["run_instances"]
        metadata = {"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1}
        assert call["MetadataOptions"] == metadata
        assert call["InstanceInitiatedShutdownBehavior"] == "terminate"
        assert "KeyName" not in call and call["BlockDeviceMappings"][0]["Ebs"]["Encrypted"]

    def test_the_request_gives_no_address_where_the_offer_says_so(self, provider: Provider) -> None:
        boot, offer = self.boot(2e9), self.offer(provider)
        shut = offer.model_copy(update={"details": {**offer.details, "address": False}})
        given = [provider.request(boot, one)["run_instances"]["NetworkInterfaces"] for one in (offer, shut)]
        assert [one["AssociatePublicIpAddress"] for (one,) in given] == [True, False]

    def test_an_account_that_was_not_set_up_names_the_command(self, aws: AwsCloud) -> None:
        with pytest.raises(SpecError, match="sojourn setup aws"):
            Ec2Provider(Clients()).offers(Amazon.need(machine="t3.micro"))

    def test_the_name_of_a_lease_is_a_client_token(self) -> None:
        assert len(str(LeaseName("merry-bittern-ffff", 99, 11))) <= 63
