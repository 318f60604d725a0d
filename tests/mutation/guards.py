"""The guards that keep machines from staying behind and secrets with their owner, and how to take each away.

A guard is a piece of source, and what it is replaced by to be gone; `tests` are those that
should notice, a fast choice. `python tests/mutation/run.py` takes them away one by one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Guard:
    """Something that must not be missing."""

    name: str
    file: str
    is_now: str
    without: str
    tests: str


AMAZON = "sojourn/providers/ec2/lease.py"
CALLS = "sojourn/providers/ec2/calls.py"
ANSWERS = "sojourn/providers/ec2/answers.py"
INVENTORY = "sojourn/providers/ec2/inventory.py"
SWEEP = "tests/providers/test_sweep.py"
RACES = "tests/providers/test_races.py"
EC2 = "tests/providers/test_ec2.py"
USER = "tests/security/test_user.py"

GUARDS = (
    Guard(
        "the ledger entry comes before the create",
        "sojourn/orchestrator.py",
        '        self.ledger.append("intent", attempt',
        '        self.provider.create(request)\n        self.ledger.append("intent", attempt',
        f"{RACES} -k without_its_ledger",
    ),
    Guard(
        "a term that is over cannot write",
        "sojourn/ledger.py",
        "        if lost:\n",
        "        if False:\n",
        "tests/test_ledger.py",
    ),
    Guard(
        "an owner that lives is not replaced",
        "sojourn/ledger.py",
        "and not take_over and self._alive()",
        "and not take_over and False",
        "tests/test_ledger.py",
    ),
    Guard(
        "ClientToken",
        CALLS,
        '        "ClientToken": boot.lease,\n        "MinCount"',
        '        "MinCount"',
        f"{EC2} -k 'lost_create_response or create_twice'",
    ),
    Guard("the lease's tag", CALLS, '        f"{TAG}lease": boot.lease,\n', "", f"{EC2} -k 'tags or create_twice'"),
    Guard(
        "the deadline's tag",
        CALLS,
        '        f"{TAG}deadline": str(int(boot.deadline_at)),\n',
        "",
        f"{EC2} -k 'tells_what_it_was_asked_for'",
    ),
    Guard("the store's tag", CALLS, '        f"{TAG}store": boot.store,\n', "", f"{SWEEP} -k cannot_be_read"),
    Guard(
        "the cloud's timer",
        AMAZON,
        "        for identity in standing:\n",
        "        for identity in ():\n",
        f"{EC2} -k 'schedule or deadline_and_grace'",
    ),
    Guard(
        "a cloud's timer for each machine alone",
        AMAZON,
        "numbers[identity]], [identity])",
        "numbers[identity]], standing)",
        f"{EC2} -k nobody_remembers",
    ),
    Guard(
        "a machine that cannot be ended keeps no other from its end",
        AMAZON,
        "            if len(identities) > 1 and ",
        "            if False and ",
        f"{EC2} -k cannot_be_ended",
    ),
    Guard(
        "power-off terminates",
        CALLS,
        '        "InstanceInitiatedShutdownBehavior": "terminate",\n',
        "",
        f"{EC2} -k 'listens_to_nobody or golden'",
    ),
    Guard(
        "the machine's timer by the clock of its init",
        "sojourn/providers/ec2/boot.py",
        '  systemd-run --quiet --unit=sojourn-end --on-active="${{left}}s" ',
        '  true "${{left}}s" ',
        "tests/providers/test_ec2_boot.py",
    ),
    Guard(
        "the machine's timer of its own",
        "sojourn/providers/ec2/boot.py",
        '[ "$(up)" -lt "$last" ]; do sleep 1; done\n  end\n',
        '[ "$(up)" -lt "$last" ]; do sleep 1; done\n',
        "tests/providers/test_ec2_boot.py",
    ),
    Guard(
        "what is not shown yet counts",
        ANSWERS,
        "    young = [one for one in schedules if now",
        "    young = [one for one in () if now",
        f"{EC2} -k not_shown",
    ),
    Guard(
        "a release is sent",
        "sojourn/orchestrator.py",
        "            self._until_it_works(lambda: self.provider.release(name))\n",
        "            pass\n",
        f"{RACES} -k 'moment_of_creation'",
    ),
    Guard(
        "a release that fails is told",
        "sojourn/proof.py",
        "        raise still_standing(orchestrator.plan, receipt, because=error.message) from error\n",
        "        return\n",
        f"{RACES} -k 500",
    ),
    Guard(
        "what is not confirmed gone fails the run",
        "sojourn/journey.py",
        '        if receipt.state != "closed":\n            raise still_standing(self.plan, receipt)\n',
        "",
        f"{RACES} -k closing",
    ),
    Guard(
        "gone is what the provider says",
        "sojourn/receipt.py",
        '    gone = rented.gone_at if machine is None or machine.state == "gone" else None\n',
        "    gone = rented.released_at\n",
        "tests/test_receipt.py",
    ),
    Guard(
        "what it rented ends with its run's error before the order",
        "sojourn/journey.py",
        "                self.orchestrator.release()\n                self.orchestrator.confirm()\n",
        "                pass\n",
        "tests/e2e/test_dying.py -k without_a_word",
    ),
    Guard(
        "the sweep looks in every region",
        AMAZON,
        "            return [Ec2Provider(self.clients, [region], self._agent, self.clock) for region in self.regions]",
        "            return [Ec2Provider(self.clients, self.regions[:1], self._agent, self.clock)]",
        f"{SWEEP} -k fresh_machine",
    ),
    Guard(
        "the sweep finds the account's own stores",
        AMAZON,
        "            return find_bucket(self.clients, names)\n",
        "            return False\n",
        f"{SWEEP} -k closed_though",
    ),
    Guard(
        "the sweep ends what is past its deadline",
        "sojourn/reap.py",
        '        return f"its deadline passed {format_duration(now - lease.deadline_at)} ago", True\n',
        '        return f"its deadline passed {format_duration(now - lease.deadline_at)} ago", False\n',
        f"{SWEEP} -k fresh_machine",
    ),
    Guard(
        "the sweep ends what its run gave back",
        "sojourn/reap.py",
        '        return "its run gave it back", True\n',
        '        return "its run gave it back", False\n',
        "tests/simulation/test_release.py -k gave_back",
    ),
    Guard(
        "the sweep leaves what goes on",
        "sojourn/reap.py",
        '    return f"its run goes on; {left} to its deadline", False\n',
        '    return f"its run goes on; {left} to its deadline", True\n',
        f"{SWEEP} -k fresh_machine",
    ),
    Guard(
        "the sweep leaves what is young and unknown",
        "sojourn/reap.py",
        "        return known, age > STRANGER_GRACE_S\n",
        "        return known, True\n",
        f"{SWEEP} -k fresh_machine",
    ),
    Guard(
        "the sweep leaves what it cannot judge",
        "sojourn/reap.py",
        '        return _verdict(lease, [], now) if late else (f"its ledger cannot be read: {error.message}", False)\n',
        '        return _verdict(lease, [], now) if late else (f"its ledger cannot be read: {error.message}", True)\n',
        f"{SWEEP} -k cannot_be_read",
    ),
    Guard(
        "the sweep rents nothing",
        "sojourn/journey.py",
        "    journey.orchestrator.rent_no_more()\n",
        "",
        "tests/simulation/test_regressions.py",
    ),
    Guard(
        "one that cannot be ended is an error",
        "sojourn/reap.py",
        '        yield _found(one.lease.name, one.lease.run, "ended" if one.gone else "failed", why)\n',
        '        yield _found(one.lease.name, one.lease.run, "ended", why)\n',
        f"{SWEEP} -k cannot_be_ended",
    ),
    Guard(
        "the checksum in a name",
        "sojourn/names.py",
        "        return name if ours == text else None\n",
        "        return name\n",
        "tests/test_names.py",
    ),
    Guard(
        "a machine with another token is not ours",
        INVENTORY,
        "        if others:\n",
        "        others = []\n        if others:\n",
        f"{SWEEP} -k every_tag",
    ),
    Guard(
        "a machine that a schedule of the lease names is ours",
        INVENTORY,
        'one["InstanceId"] not in armed and ',
        "",
        f"{EC2} -k own_schedule",
    ),
    Guard(
        "a spot machine that no schedule tells of is ours by its tags",
        INVENTORY,
        " and not _may_be(one, len(armed))",
        "",
        f"{EC2} -k spot_machine",
    ),
    Guard(
        "the reaper in the cloud spares another token",
        "sojourn/providers/ec2/reaper.py",
        "tags, end if made_by_us or may_be else spare\n",
        "tags, end\n",
        "tests/providers/test_reaper.py -k outlived",
    ),
    Guard(
        "the agent's deadline",
        "sojourn/agent/interrupts.py",
        "        if self._deadline.left() <= 0:\n",
        "        if False:\n",
        "tests/agent/test_agent.py -k earlier_deadline",
    ),
    Guard(
        "the supervisor's timer",
        "sojourn/agent/supervisor.py",
        '            if self.overdue():\n                return "supervisor timer"\n            if',
        "            if",
        "tests/agent/test_supervisor.py -k 'dies_at_deadline'",
    ),
    Guard(
        "a machine without an order ends itself",
        "sojourn/agent/agent.py",
        "                raise Refused(f\"no order came within {self._boot['order_wait_s']:g} s\")\n",
        "                pass\n",
        "tests/agent/test_agent.py -k no_order",
    ),
    Guard(
        "a checkpoint counts when every node has it",
        "sojourn/checkpoint.py",
        '        complete = mailbox.manifests(attempt, nodes[0], "commit") if nodes else []\n',
        '        complete = mailbox.manifests(attempt, nodes[0], "ckpt") if nodes else []\n',
        "tests/test_checkpoint.py",
    ),
    Guard(
        "another user's server is passed over",
        "cli/server.py",
        "there is not None and there.is_mine and _is_prefect(f",
        "there is not None and _is_prefect(f",
        f"{USER} -k another_user_s_server",
    ),
    Guard(
        "a proxy is not told the password",
        "cli/server.py",
        "    refused = _past_proxy(address) or server_refusal(",
        "    refused = server_refusal(",
        f"{USER} -k proxy",
    ),
    Guard(
        "the password goes to our process alone",
        "cli/server.py",
        "return there is not None and there.is_held_by(pid)",
        "return there is not None",
        f"{USER} -k very_process",
    ),
    Guard(
        "the server wants a password",
        "cli/server.py",
        ', "PREFECT_SERVER_API_AUTH_STRING": login}',
        "}",
        f"{USER} -k told_to_take",
    ),
    Guard(
        "a page needs a token of its own",
        "cli/server.py",
        '        defaults["PREFECT_SERVER_CSRF_PROTECTION_ENABLED"] = "true"\n',
        "        pass\n",
        f"{USER} -k told_to_take",
    ),
    Guard(
        "the server's pages alone may ask it",
        "cli/server.py",
        '        defaults["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] = origins\n',
        "        pass\n",
        f"{USER} -k told_to_take",
    ),
    Guard(
        "a machine that is this host keeps what it needs",
        "sojourn/providers/local.py",
        "env={**kept, MARK",
        "env={**os.environ, MARK",
        "tests/providers/test_local.py -k key_of_the_terminal",
    ),
    Guard(
        "a secret is not cut in two",
        "sojourn/agent/mask.py",
        "        cut = self._cut(text, present)\n",
        "        cut = len(text)\n",
        "tests/agent/test_mask.py -k 'whatever_the_value or many_lines'",
    ),
    Guard(
        "metrics are shown without secrets",
        "sojourn/agent/veil.py",
        '        return {**entry, "shown": key}\n',
        "        return entry\n",
        "tests/agent/test_veil.py",
    ),
    Guard(
        "a file that is named after a secret stays",
        "sojourn/agent/commit.py",
        "            del found[path]\n            self.left_out[self._veil",
        "            self.left_out[self._veil",
        "tests/agent/test_veil.py",
    ),
    Guard(
        "a link out of the project leads to no secret",
        "sojourn/inputs.py",
        "            refuse_secret(name, path, _VALUES, outside)\n",
        "            refuse_secret(name, path, _VALUES)\n",
        "tests/test_secret_files.py -k link_out",
    ),
    Guard(
        "no secret in old content",
        "sojourn/history.py",
        "    yield from (name for name in small if name not in secret)\n",
        "    yield from small\n",
        "tests/test_secret_files.py -k history",
    ),
    Guard(
        "a project from git gets no secret by itself",
        "sojourn/ceilings.py",
        "secrets=frozenset() if names is None and from_git else names",
        "secrets=names",
        "tests/test_ceilings.py -k from_git",
    ),
    Guard(
        "a budget above this host's is refused",
        "sojourn/ceilings.py",
        "    if allowed is not None and asked > allowed:\n",
        "    if False:\n",
        "tests/test_ceilings.py -k asks_for_more",
    ),
)
