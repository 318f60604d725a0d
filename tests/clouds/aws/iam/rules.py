"""What IAM answers under given policies: actions, resources and the few condition keys that ours use.

Moto neither knows the resources of most services nor looks at conditions. A key or an operator
that is not known here raises, so that no policy can lean on one that no test weighs.
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Document = Mapping[str, Any]

KEYS = re.compile(
    r"aws:(ResourceTag|RequestTag)/sojourn:lease|aws:ResourceTag/Name|aws:SourceAccount|aws:SecureTransport"
    r"|iam:PassedToService|iam:AWSServiceName|ec2:CreateAction|s3:prefix"
)


@dataclass(frozen=True)
class Request:
    """One thing that somebody wants to do to one resource; `context` holds the condition keys that are known of it."""

    action: str
    resource: str = "*"
    context: Mapping[str, str] = field(default_factory=dict)


def allowed(policies: Iterable[Document], request: Request) -> bool:
    """Whether the policies together allow it: something must, and nothing may deny it."""
    effects = {one["Effect"] for one in matching(policies, request)}
    return "Allow" in effects and "Deny" not in effects


def matching(policies: Iterable[Document], request: Request) -> Iterator[Document]:
    """The statements that speak of the request."""
    for policy in policies:
        for statement in policy["Statement"]:
            if _speaks_of(statement, request):
                yield statement


def actions(policy: Document) -> set[str]:
    """Every action that a policy allows."""
    return {action for one in policy["Statement"] if one["Effect"] == "Allow" for action in _list(one["Action"])}


def _speaks_of(statement: Document, request: Request) -> bool:
    return (
        any(_like(pattern.lower(), request.action.lower()) for pattern in _list(statement["Action"]))
        and any(_like(pattern, request.resource) for pattern in _list(statement["Resource"]))
        and all(
            _holds(operator, key, _list(values), request.context)
            for operator, test in statement.get("Condition", {}).items()
            for key, values in test.items()
        )
    )


def _holds(operator: str, key: str, values: list[str], context: Mapping[str, str]) -> bool:
    if not KEYS.fullmatch(key):
        raise AssertionError(f"no test weighs the condition key {key}")
    if key not in context:
        return False
    if operator == "StringLike":
        return any(_like(value, context[key]) for value in values)
    if operator in ("StringEquals", "Bool"):
        return context[key] in values
    raise AssertionError(f"no test weighs the condition operator {operator}")


def _like(pattern: str, value: str) -> bool:
    """`*` is any characters, `?` is exactly one, a slash or a line's end too.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html
    """
    parts = re.split(r"([*?])", pattern)
    meant = "".join({"*": ".*", "?": "."}.get(part, re.escape(part)) for part in parts)
    return re.fullmatch(meant, value, re.DOTALL) is not None


def _list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
