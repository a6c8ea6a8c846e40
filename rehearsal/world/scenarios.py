"""What kind of world is rehearsed: how fast its systems are and what goes wrong in it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scenario:
    """Numbers of one kind of world. Quotas are in requests a second of real time."""

    name: str
    title: str
    runbook: str = "rehearsal"
    """Which runbook of the recovery tool fits this world."""
    platform_per_second: float = 300.0
    platform_concurrent: int = 32
    sms_per_second: float = 200.0
    attacker_rate: float = 80.0
    traffic_scale: float = 1.0
    clients: int = 14


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("mass-reset", "the playbook's own case, everything works"),
        Scenario(
            "tight-quota",
            "the same, with a platform that allows a quarter of the rate",
            runbook="rehearsal-tight-quota",
            platform_per_second=50.0,
            platform_concurrent=8,
            sms_per_second=25.0,
        ),
        Scenario(
            "kills",
            "a small case for the kill harness",
            runbook="rehearsal-kills",
            attacker_rate=10.0,
            traffic_scale=0.2,
            clients=4,
        ),
        Scenario("busy-siem", "the same, with twice the ordinary traffic", traffic_scale=2.0),
    )
}
