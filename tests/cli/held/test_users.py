"""`persona show` without a user: who is there, page by page."""

from __future__ import annotations

from tests.cli.conftest import Run


def test_users_are_listed_with_their_records(stocked: Run) -> None:
    assert stocked("show").out.splitlines() == [
        "mara  8 records",
        "ops-team  8 records",
        "tomás  7 records",
        "yuki-雪  6 records",
        "4 users and 29 records in the store",
    ]


def test_page_by_page(stocked: Run) -> None:
    first = stocked("show", "--limit", "2", "--json").json
    assert [each["user_id"] for each in first["users"]] == ["mara", "ops-team"]
    second = stocked("show", "--limit", "2", "--after", first["after"], "--json").json
    assert ([each["user_id"] for each in second["users"]], second["after"]) == (["tomás", "yuki-雪"], None)
    assert stocked("show", "--limit", "1").out.endswith("in the store; more: persona show --after 'mara'\n")
    assert stocked("show", "--after", "z", "--json").json["users"] == []
