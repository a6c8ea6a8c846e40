"""The draw of the kill harness: the same for a seed, all over an incident, every victim."""

import re

import pytest

from rehearsal.kill_points import ACTS, FROZEN_EVERY, Edge, Trigger, Victim, by_incident, draw
from rehearsal.world.world import COUNTED


def test_the_same_seed_draws_the_same_points() -> None:
    assert draw(7, 50) == draw(7, 50)
    assert draw(7, 50) != draw(8, 50)


@pytest.mark.parametrize("seed", range(5))
def test_fifty_points_reach_every_victim_and_every_part(seed: int) -> None:
    points = draw(seed, 50)
    assert [p.number for p in points] == list(range(1, 51))
    of = {victim: [p for p in points if p.victim is victim] for victim in Victim}
    for victim in (Victim.FLOW, Victim.WORKER, Victim.SERVER):
        assert len(of[victim]) >= 8, victim
    assert len(of[Victim.FROZEN]) >= 50 // FROZEN_EVERY // 2
    assert {p.edge for p in points} == set(Edge)
    places = sorted(p.place for p in points)
    assert places[0] < 0.2
    assert places[-1] > 0.8
    assert sum(p.trigger is Trigger.ACT for p in points) >= 8


def test_a_waiting_run_has_no_process_to_kill() -> None:
    for seed in range(20):
        for point in draw(seed, 50):
            if point.trigger in (Trigger.GATE, Trigger.RESUMED):
                assert point.victim in (Victim.WORKER, Victim.SERVER)


def test_an_incident_meets_its_points_in_their_order() -> None:
    points = draw(3, 13)
    groups = by_incident(points, 5)
    assert [len(group) for group in groups] == [5, 5, 3]
    assert {p.number for group in groups for p in group} == {p.number for p in points}
    for group in groups:
        assert [p.place for p in group] == sorted(p.place for p in group)


@pytest.mark.parametrize("kind", ACTS)
def test_every_kind_of_act_is_one_that_the_world_counts(kind: str) -> None:
    example = {
        "search the SIEM": "siem POST /logs-*/_search",
        "revoke": "platform DELETE /admin/accounts/u-1/sessions",
        "banner": "platform POST /admin/accounts/u-1/banners",
        "email batch": "sendgrid POST /v3/mail/send",
        "text message": "twilio POST /2010-04-01/Accounts/AC1/Messages.json",
        "create secret": "platform POST /admin/clients/app-1/secrets",
        "restart a consumer": "jenkins POST /job/restart-consumer/buildWithParameters",
        "deactivate secret": "platform POST /admin/clients/app-1/secrets/s-1/deactivate",
        "delete secret": "platform DELETE /admin/clients/app-1/secrets/s-1",
        "bind authenticator": "platform POST /admin/accounts/u-1/authenticators",
    }[kind]
    assert re.search(COUNTED, example)
    assert re.search(ACTS[kind].pattern, example)
