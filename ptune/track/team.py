"""Several teams share one MLflow: the names of experiments and models begin with a team's, as in `neuro.hand`."""

from __future__ import annotations

import os
import re

from ptune.errors import BadInput

TEAM = r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}"


def in_team(name: str) -> str:
    """Returns what MLflow calls an experiment or a model of the team in PTUNE_TEAM; a name that says the team stays.

    Raises:
        BadInput: PTUNE_TEAM is no name.
    """
    team = os.environ.get("PTUNE_TEAM", "")
    if not team or name.startswith(f"{team}."):
        return name
    if not re.fullmatch(TEAM, team):
        allowed = "at most 32 letters, digits, dashes and underscores, a letter or digit first"
        raise BadInput("PTUNE_TEAM", f"is {team!r}", allowed, "Choose another.")
    return f"{team}.{name}"
