from __future__ import annotations

import datetime

import pytest

from lggseg.cloud.cost import HOURS_A_MONTH, Plan, confirm, estimate_cost, prices


def test_training_costs_its_hours_on_every_job_with_its_disk() -> None:
    table = prices()
    one = estimate_cost(Plan("ml.g5.xlarge", hours=2, volume_gb=0)).train
    assert one == pytest.approx(2 * table["instances"]["ml.g5.xlarge"]["hour"])
    ten = Plan("ml.g5.xlarge", hours=2, jobs=10, spot=True, volume_gb=0)
    assert estimate_cost(ten).train == pytest.approx(10 * one * table["spot_share"])
    four = Plan("ml.g5.xlarge", instance_count=4, hours=2, volume_gb=0)
    assert estimate_cost(four).train == pytest.approx(4 * one)
    month = Plan("ml.g5.xlarge", hours=HOURS_A_MONTH, volume_gb=100)
    disk = estimate_cost(month).train - HOURS_A_MONTH / 2 * one
    assert disk == pytest.approx(100 * table["volume_gb_month"])


def test_an_endpoint_costs_until_it_is_deleted() -> None:
    found = estimate_cost(Plan(endpoint_instance="ml.m5.large", endpoints=2))
    assert found.endpoint_month == pytest.approx(2 * 0.115 * 730)
    assert found.train == 0


def test_the_estimate_is_one_sentence_of_what_the_plan_has() -> None:
    text = str(estimate_cost(Plan("ml.g5.xlarge", hours=1, stored_gb=100, volume_gb=0)))
    date = prices()["date"]
    assert text == (
        "Cost: training at most $1.41, storage $2.30 a month "
        f"(example prices of us-east-1, {date}: check them)."
    )
    assert "endpoint $0.12 an hour, which is $84 a month until it is deleted" in str(
        estimate_cost(Plan(endpoint_instance="ml.m5.large"))
    )
    assert str(estimate_cost(Plan())).startswith("Cost: nothing")


def test_an_instance_without_a_price_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'ml.p9.huge': found no price .* one of ml.m5.large, "):
        estimate_cost(Plan("ml.p9.huge", hours=1))


def test_nothing_starts_unconfirmed(capsys: pytest.CaptureFixture[str]) -> None:
    estimate = estimate_cost(Plan("ml.g5.xlarge", hours=1))
    with pytest.raises(RuntimeError, match="CONFIRM_COST is not set, so nothing was started"):
        confirm(estimate, confirmed=False)
    confirm(estimate, confirmed=True)
    assert capsys.readouterr().out == f"{estimate}\n" * 2


def test_the_table_says_when_and_whence() -> None:
    table = prices()
    assert datetime.date.fromisoformat(table["date"]) and "https://" in table["source"]
    assert "checked" in table["note"]
