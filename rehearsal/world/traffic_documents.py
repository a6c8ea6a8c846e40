"""ECS documents as a SIEM holds them: Elastic's Okta integration and a portal's plain ECS.

Shapes follow the public integration's ingest pipeline: user.* is the actor, user.target.* and the
entry of okta.target[] whose type contains "user" are the person acted on, user.target.email is
absent, and the address in alternate_id may be the literal "unknown".
"""

import random
from datetime import datetime, timedelta
from typing import Any, TypeAlias

Person: TypeAlias = tuple[str, str, str | None]
"""account id, handle, e-mail address (None: not known)"""
Actor: TypeAlias = tuple[str, str, str]
"""id, display name, login"""

BURST_ADMIN: Actor = ("00usvcprovisioning01", "svc-provisioning", "svc-provisioning@corp.example")
HUMAN_ADMINS: tuple[Actor, ...] = (
    ("00uadminhelpdesk0001", "Helpdesk One", "helpdesk.one@corp.example"),
    ("00uadminhelpdesk0002", "Helpdesk Two", "helpdesk.two@corp.example"),
)
_OKTA = {"type": "logs", "dataset": "okta.system", "namespace": "default"}
_PORTAL = {"type": "logs", "dataset": "account.audit", "namespace": "default"}
_API = {"type": "logs", "dataset": "platform.api", "namespace": "default"}
_NETWORKS = ("203.0.113", "198.51.100", "192.0.2")
_COUNTRIES = ("DE", "US", "FR", "GB", "BR", "IN", "JP", "NG")
_AGENTS = tuple(
    {"original": text}
    for text in (
        "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) Mobile/15E148 Safari/604.1",
        "PlatformApp/7.4.1 (Android 16)",
    )
)
_SERVICE_AGENT = {"original": "provisioning-sync/3.2"}
_SERVICE_SOURCE = {"ip": "10.20.0.7"}
_IAM, _AUTHENTICATION, _WEB = ["iam"], ["authentication"], ["web"]
_USER_CHANGE, _START, _ACCESS = ["user", "change"], ["start"], ["access"]


def in_whole_ms(moment: datetime) -> datetime:
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")[:-6] + "Z"


class DocumentMaker:
    """Every chance (ids, addresses of machines, lag of the pipeline) comes from `rng`."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._sources = [
            {
                "ip": f"{rng.choice(_NETWORKS)}.{rng.randrange(1, 255)}",
                "geo": {"country_iso_code": rng.choice(_COUNTRIES)},
            }
            for _ in range(400)
        ]

    def stamp_ingested(self, document: dict[str, Any], ingested: datetime) -> None:
        document["event"]["ingested"] = iso(ingested)

    def _event(
        self, at: datetime, action: str, category: list[str], types: list[str], outcome: str
    ) -> dict[str, Any]:
        lag = timedelta(milliseconds=1_500 + int(self._rng.expovariate(1 / 6_000)))
        return {
            "id": f"{self._rng.getrandbits(96):024x}",
            "kind": "event",
            "action": action,
            "category": category,
            "type": types,
            "outcome": outcome,
            "created": iso(at + timedelta(milliseconds=400)),
            "ingested": iso(at + lag),
        }

    def okta_reset(
        self, actor: Actor, person: Person | None, at: datetime, outcome: str = "success"
    ) -> dict[str, Any]:
        """A reset as Okta logs it. Without a person the event names an application only."""
        document = self._okta(actor, at, "user.account.reset_password", _IAM, outcome)
        document["event"]["type"] = _USER_CHANGE
        targets: list[dict[str, Any]] = document["okta"]["target"]
        if person is None:
            targets.append({"id": "0oaprovisioning00001", "type": "AppInstance"})
            return document
        self._aim_at(document, person)
        if self._rng.random() < 0.3:
            targets.append({"id": "0oaprovisioning00001", "type": "AppInstance"})
        return document

    def portal_reset(
        self, person: Person | None, at: datetime, outcome: str = "success"
    ) -> dict[str, Any]:
        """A self-service reset in plain ECS. Without a person it has no user at all."""
        event = self._event(at, "user-password-reset", _IAM, _USER_CHANGE, outcome)
        document = self._portal(event, at, person)
        document["event"]["reason"] = "forgot_password"
        return document

    def ordinary(self, kind: str, person: Person, at: datetime) -> dict[str, Any]:
        """A document that is no reset: login, login_failed, api, mfa, password_change."""
        if kind == "mfa":
            actor = (person[0], person[1], person[2] or "unknown")
            action = "user.authentication.auth_via_mfa"
            return self._okta(actor, at, action, _AUTHENTICATION, "success")
        if kind == "password_change":
            actor = (person[0], person[1], person[2] or "unknown")
            document = self._okta(actor, at, "user.account.update_password", _IAM, "success")
            self._aim_at(document, person)
            return document
        if kind == "api":
            ok = self._rng.random() < 0.97
            outcome = "success" if ok else "failure"
            document = self._portal(
                self._event(at, "api-access", _WEB, _ACCESS, outcome), at, person
            )
            document["data_stream"] = _API
            document["event"]["dataset"] = "platform.api"
            document["http"] = {"response": {"status_code": 200 if ok else 401}}
            return document
        outcome = "success" if kind == "login" else "failure"
        return self._portal(
            self._event(at, "user-login", _AUTHENTICATION, _START, outcome), at, person
        )

    def _portal(self, event: dict[str, Any], at: datetime, person: Person | None) -> dict[str, Any]:
        event["dataset"] = "account.audit"
        event["provider"] = "account-portal"
        source = self._rng.choice(self._sources)
        document: dict[str, Any] = {
            "@timestamp": iso(at),
            "ecs": {"version": "8.17.0"},
            "data_stream": _PORTAL,
            "event": event,
            "source": source,
            "user_agent": self._rng.choice(_AGENTS),
        }
        if person is not None:
            user: dict[str, Any] = {"id": person[0], "name": person[1]}
            if person[2] is not None:
                user["email"] = person[2]
            document["user"] = user
            document["related"] = {"ip": [source["ip"]], "user": [person[1]]}
        return document

    def _okta(
        self, actor: Actor, at: datetime, action: str, category: list[str], outcome: str
    ) -> dict[str, Any]:
        is_service = actor == BURST_ADMIN
        source: dict[str, Any] = _SERVICE_SOURCE if is_service else self._rng.choice(self._sources)
        event = self._event(at, action, category, ["info"], outcome)
        event |= {"module": "okta", "provider": "okta", "dataset": "okta.system"}
        actor_id, name, login = actor
        return {
            "@timestamp": iso(at),
            "ecs": {"version": "8.17.0"},
            "data_stream": _OKTA,
            "event": event,
            "okta": {
                "event_type": action,
                "actor": {"id": actor_id, "type": "User", "alternate_id": login},
                "outcome": {"result": outcome.upper()},
                "target": [],
            },
            "user": {"id": actor_id, "name": login, "full_name": name},
            "source": {**source, "user": {"id": actor_id, "full_name": name}},
            "client": {"ip": source["ip"], "user": {"id": actor_id, "full_name": name}},
            "user_agent": _SERVICE_AGENT if is_service else self._rng.choice(_AGENTS),
            "related": {"ip": [source["ip"]], "user": [name]},
        }

    def _aim_at(self, document: dict[str, Any], person: Person) -> None:
        account_id, handle, email = person
        if email is None or self._rng.random() < 0.1:
            email = "unknown"
        document["user"]["target"] = {"id": account_id, "full_name": handle}
        document["okta"]["target"].append(
            {"id": account_id, "type": "User", "alternate_id": email, "display_name": handle}
        )
        document["related"]["user"].append(handle)
