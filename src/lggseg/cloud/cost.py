"""What a plan costs, from a dated table of example prices, before anything billable is started."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

HOURS_A_MONTH = 730


@dataclass(frozen=True)
class Plan:
    """What is going to be started.

    instance, hours, jobs, spot: trainings of at most so many hours each, each of them on
    instance_count instances, which train together; endpoint_instance and endpoints: servers that
    run until they are deleted; stored_gb: in S3; volume_gb: disk of each instance. What is zero or
    empty is not counted.
    """

    instance: str = ""
    instance_count: int = 1
    hours: float = 0
    jobs: int = 1
    spot: bool = False
    endpoint_instance: str = ""
    endpoints: int = 1
    stored_gb: float = 0
    volume_gb: float = 30


@dataclass(frozen=True)
class CostEstimate:
    """US dollars: of the training at most, of the storage per month, of the endpoint per hour and
    per month. ``str`` is one sentence."""

    train: float
    storage_month: float
    endpoint_hour: float
    prices: dict[str, Any] = field(repr=False)

    @property
    def endpoint_month(self) -> float:
        """Of the endpoint, if nobody deletes it."""
        return self.endpoint_hour * HOURS_A_MONTH

    def __str__(self) -> str:
        prices = {
            "training at most ${:,.2f}": self.train,
            "storage ${:,.2f} a month": self.storage_month,
            "the endpoint ${:,.2f} an hour": self.endpoint_hour,
            "which is ${:,.0f} a month until it is deleted": self.endpoint_month,
        }
        items = ", ".join(text.format(price) for text, price in prices.items() if price)
        where = f"example prices of {self.prices['region']}, {self.prices['date']}"
        return f"Cost: {items or 'nothing'} ({where}: check them)."


def prices() -> dict[str, Any]:
    """The table ``prices.json``: its date, region, source and prices."""
    return dict(json.loads(resources.files(__package__).joinpath("prices.json").read_text()))


def estimate_cost(plan: Plan) -> CostEstimate:
    """What the plan costs at the example prices; ``ValueError`` for an instance not in the table.

    A training is counted with its full time limit, so it cannot cost more; with ``spot`` by the
    usual share of the price, which is a guess since spot prices move.

    >>> print(estimate_cost(Plan(instance="ml.g4dn.xlarge", hours=1)))
    Cost: training at most $0.74 (example prices of us-east-1, ...: check them).
    """
    table = prices()
    share = table["spot_share"] if plan.spot else 1
    hour = _hour(plan.instance, table) * share
    disk = plan.volume_gb * table["volume_gb_month"] / HOURS_A_MONTH if plan.instance else 0
    return CostEstimate(
        train=plan.jobs * plan.hours * plan.instance_count * (hour + disk),
        storage_month=plan.stored_gb * table["s3_gb_month"],
        endpoint_hour=plan.endpoints * _hour(plan.endpoint_instance, table),
        prices=table,
    )


def _hour(instance: str, table: dict[str, Any]) -> float:
    if not instance:
        return 0
    if instance not in table["instances"]:
        known = ", ".join(table["instances"])
        raise ValueError(
            f"instance {instance!r}: found no price of it; expected one of {known}. "
            "Choose one of them, or add its price to cloud/prices.json."
        )
    return float(table["instances"][instance]["hour"])


def confirm(estimate: CostEstimate, confirmed: bool) -> None:
    """Print what it costs; raise ``RuntimeError`` unless the reader has confirmed it."""
    print(estimate)
    if not confirmed:
        raise RuntimeError(
            "CONFIRM_COST is not set, so nothing was started. "
            "Read the cost above, then set CONFIRM_COST = True and run this again."
        )
