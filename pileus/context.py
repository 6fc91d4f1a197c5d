"""Who asks: the caller of one request, as every rule sees it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Context:
    """The caller. `roles` already holds the implied ones (admin ⊃ member ⊃ reader); `project_id` is None without a project scope."""

    user_id: str
    user_name: str = ""
    user_domain_id: str = "default"
    project_id: str | None = None
    project_name: str = ""
    domain_id: str | None = None
    roles: frozenset[str] = field(default_factory=frozenset)
    expires_at: float = 0.0
    request_id: str = ""

    @property
    def is_admin(self) -> bool:
        return "admin" in self.roles

    @property
    def project(self) -> str:
        """The scoping project. Routes that need one are declared so, hence it is there."""
        assert self.project_id is not None
        return self.project_id

    def sees(self, project_id: str | None) -> bool:
        """May this caller see something of that project?"""
        return self.is_admin or (project_id is not None and project_id == self.project_id)


SYSTEM = Context(user_id="pileus", roles=frozenset({"admin", "member", "reader", "service"}))
"""Pileus itself, where no request is behind the work."""
