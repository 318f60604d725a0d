"""The question for spot prices, held against botocore's model of it and what the model's own text says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import boto3
import pytest

from sojourn.clouds.aws.clients import Clients
from sojourn.providers.ec2.prices import spot


@pytest.fixture(scope="module")
def asked() -> Any:
    """The client that it asks, and the question as it would be sent."""
    client = boto3.client("ec2", "us-east-1", aws_access_key_id="nobody", aws_secret_access_key="none")
    questions: list[dict[str, Any]] = []

    def answer(params: dict[str, Any], **_: Any) -> None:
        questions.append(params)

    def say_nothing(**_: Any) -> tuple[Any, dict[str, Any]]:
        return SimpleNamespace(status_code=200), {"SpotPriceHistory": []}

    client.meta.events.register("provide-client-params.ec2.DescribeSpotPriceHistory", answer)
    client.meta.events.register("before-call.ec2.DescribeSpotPriceHistory", say_nothing)
    clients: Clients = SimpleNamespace(client=lambda *_: client)  # type: ignore[assignment]
    assert spot(clients, "us-east-1", ["t3.micro"]) == {}
    (question,) = questions
    return client, question


def test_every_product_that_prices_are_asked_for_is_one_of_amazons(asked: Any) -> None:
    client, question = asked
    model = client.meta.service_model.operation_model("DescribeSpotPriceHistory")
    answered = model.output_shape.members["SpotPriceHistory"].member.members["ProductDescription"].enum
    assert set(question["ProductDescriptions"]) <= set(answered)
    # A zone whose prices are for machines in a network alone is none that has no machines.
    assert {one for one in answered if one.startswith("Linux/UNIX")} == set(question["ProductDescriptions"])


def test_prices_are_asked_from_a_moment_that_has_been_by_any_clock_that_is_about_right(asked: Any) -> None:
    client, question = asked
    text = client.meta.service_model.operation_model("DescribeSpotPriceHistory").input_shape.members["StartTime"]
    assert "past 90 days" in text.documentation
    ago = datetime.now(UTC) - question["StartTime"]
    assert timedelta(minutes=10) < ago < timedelta(days=1)
