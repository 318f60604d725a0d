"""The round trip: send a script out, bring its results home, leave nothing behind."""

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Cancelled
from pydantic.json_schema import SkipJsonSchema

from blocks.base import ProviderBlock
from blocks.local import LocalProvider
from blocks.registry import load_provider
from sojourn.results.report import Report
from sojourn.shorthand import Duration
from sojourn.spec.launch import Launch
from tasks.lease import confirm, provision, release
from tasks.plan import plan, run_id
from tasks.run import collect, publish
from tasks.run import train as follow
from tasks.session import guarded
from tasks.source import bundle, data, environment, upstream
from tasks.step import over
from tasks.timetable import too_late

FROM_PARAMS = Launch()  # nothing asked for here: the project's own launch: section


@flow(name="train", flow_run_name=run_id, validate_parameters=True)
def train(
    launch: Launch = FROM_PARAMS,
    project: str = ".",
    provider: LocalProvider | SkipJsonSchema[ProviderBlock] | str | None = None,
    skip_after: Duration | None = None,
) -> Report | State[Any]:
    """Run a script or a DVC stage on rented machines.

    Args:
        launch: What to run, where, and for how long at most. What is left out here is taken from the
            `launch:` section of the project's params.yaml.
        project: A directory on the host that runs this flow, or git:URL@REF with a branch, tag or commit.
        provider: A saved provider block, or its name like sojourn-aws-provider/NAME; it answers what `launch`
            leaves open.
        skip_after: A run that starts later than this after its scheduled time is cancelled; like 1h.
    """
    if late := too_late(skip_after):
        return Cancelled(message=late)
    block = load_provider(provider) if isinstance(provider, str) else provider
    journey = plan(launch, project, block)
    with guarded(journey), journey.held():
        with journey.leased():
            upstream(journey)
            sent = [bundle.submit(journey), data.submit(journey), environment.submit(journey)]
            for one in sent:
                one.result()
            provision(journey, wait_for=sent)
            follow(journey)
            collect(journey)
            release(journey)
        confirm(journey)
        report = publish(journey)
    return report if report.state == "succeeded" else over(report, journey.outcome)
