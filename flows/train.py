"""The round trip: send a script out, bring its results home, leave nothing behind."""

from prefect import flow

from sojourn.journey import raise_for
from sojourn.report import Report
from sojourn.spec import Launch
from tasks.lease import confirm, provision, release
from tasks.plan import plan, run_id
from tasks.run import collect, publish
from tasks.run import train as follow
from tasks.session import guarded
from tasks.source import build, bundle, push, upstream


@flow(name="train", flow_run_name=run_id, validate_parameters=True)
def train(launch: Launch, directory: str = ".") -> Report:
    """Run a script or a DVC stage on rented machines.

    Args:
        launch: What to run, where, and for how long at most.
        directory: The project's directory on the host that runs this flow.
    """
    journey = plan(launch, directory)
    with guarded(journey), journey.held():
        with journey.leased():
            upstream(journey)
            for sent in [bundle.submit(journey), push.submit(journey), build.submit(journey)]:
                sent.result()
            provision(journey)
            outcome = follow(journey)
            collect(journey)
            release(journey)
        confirm(journey)
        report = publish(journey)
    raise_for(report, outcome)
    return report
