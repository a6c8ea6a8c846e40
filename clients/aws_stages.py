"""Which version of an AWS secret carries which staging label, and what a move makes of that.

AWS Secrets Manager User Guide, "Secret versions". Pure: the calls are made in `aws_secrets`.
"""

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from recovery.errors import Refused

CURRENT, PENDING, PREVIOUS = "AWSCURRENT", "AWSPENDING", "AWSPREVIOUS"
_LABELS = (CURRENT, PENDING, PREVIOUS)
_TOKENS = uuid.UUID("8f6b0e0e-6d0b-5a0e-9a0c-3c1f0d5e7b21")


@dataclass(frozen=True, slots=True)
class Stages:
    """Every version that AWS still has, those without a label too: what a secret went through is
    part of its state, or a label that went and came back would look as if nothing had been."""

    path: str
    versions: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, path: str, listed: Mapping[str, frozenset[str]]) -> "Stages":
        return cls(path, {v: labels & frozenset(_LABELS) for v, labels in listed.items()})

    @property
    def version(self) -> str:
        """The state in one text, for check-and-set; empty where there is no secret."""
        if not self.versions:
            return ""
        lines = (f"{v} {' '.join(sorted(labels))}" for v, labels in sorted(self.versions.items()))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]

    @property
    def token(self) -> str:
        """The id of the version that is written next. Whoever writes on top of this state writes
        under this id, and AWS takes one content for an id: that makes it a check-and-set."""
        return str(uuid.uuid5(_TOKENS, f"{self.path}\n{self.version}"))

    @property
    def current(self) -> str | None:
        return self._holder(CURRENT)

    @property
    def pending(self) -> str | None:
        """AWS lets AWSPENDING stay beside AWSCURRENT after a promotion; that is no rotation."""
        holder = self._holder(PENDING)
        return holder if holder != self.current else None

    @property
    def previous(self) -> str | None:
        return self._holder(PREVIOUS)

    def need(self, label: str, holder: str | None, attempted: str) -> str:
        if holder is None:
            name = label.removeprefix("AWS").lower()
            raise Refused(
                attempted,
                code=f"no_{name}",
                subject=self.path,
                expected=f"a secret under {name.upper()}",
                got="none",
                advice="Look again: somebody else has moved the labels.",
            )
        return holder

    def with_pending(self, version: str) -> "Stages":
        """After PutSecretValue: the label is on the new version alone."""
        return self._moved({PENDING: version})

    def with_current(self, version: str) -> "Stages":
        """After a move of AWSCURRENT: AWS puts AWSPREVIOUS where it came from, by itself."""
        return self._moved({CURRENT: version, PREVIOUS: self.current})

    def without(self, label: str) -> "Stages":
        return self._moved({label: None})

    def _holder(self, label: str) -> str | None:
        return next((v for v, labels in self.versions.items() if label in labels), None)

    def _moved(self, to: Mapping[str, str | None]) -> "Stages":
        versions = {v: set(labels) - to.keys() for v, labels in self.versions.items()}
        for label, version in to.items():
            if version is not None:
                versions.setdefault(version, set()).add(label)
        return Stages(self.path, {v: frozenset(labels) for v, labels in versions.items()})
