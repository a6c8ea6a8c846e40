"""Which CI restarts a consumer, and under which id."""

import pytest

from recovery.app_clients import (
    AppClient,
    Consumer,
    restart_id,
    split_ci_job,
    untouched_reason,
    with_known_ci,
)


@pytest.mark.parametrize(
    ("ci_job", "expected"),
    [
        ("restart-consumer", ("default", "restart-consumer")),
        ("folder/restart", ("default", "folder/restart")),
        ("github:restart.yml@main", ("github", "restart.yml@main")),
        ("kubernetes:shop/deployment/web", ("kubernetes", "shop/deployment/web")),
        ("", ("default", "")),
        ("Not A Name:job", ("default", "Not A Name:job")),
        ("github:", ("github", "")),
    ],
)
def test_a_job_names_its_ci(ci_job: str, expected: tuple[str, str]) -> None:
    assert split_ci_job(ci_job) == expected


def test_a_consumer_of_a_ci_that_the_runbook_does_not_name_is_left_to_a_person() -> None:
    consumers = (
        Consumer("a", "https://a.example/health", "github:restart.yml"),
        Consumer("b", "https://b.example/health", "restart"),
    )
    client = AppClient("app-1", "one", "team", "low", 3, 2, consumers)
    assert with_known_ci(client, {"default", "github"}) == client
    assert untouched_reason(client) == ""
    changed = with_known_ci(client, {"default"})
    assert [c.ci_job for c in changed.consumers] == ["", "restart"]
    assert "CI job" in untouched_reason(changed)


def test_a_restart_has_one_id_that_every_ci_takes() -> None:
    parts = ("INC-2026-0142", "app-1", "rotate.deploy.restart", "1", "sec-1", "web-api")
    assert restart_id(*parts) == restart_id(*parts)
    others = {restart_id(*parts[:i], "x", *parts[i + 1 :]) for i in range(len(parts))}
    assert len(others | {restart_id(*parts)}) == len(parts) + 1
    # Joined parts must not run into each other.
    assert restart_id("ab", "c") != restart_id("a", "bc")
    assert restart_id(*parts).startswith("recovery-")
    assert len(restart_id(*parts)) == 25
