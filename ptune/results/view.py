"""Studies of the ledger become tables for notebooks. Reads only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ptune.home import Home
from ptune.ledger import Ledger
from ptune.replay import out_of_fold
from ptune.results.status import require_study

if TYPE_CHECKING:
    import pandas as pd


class HomeView:
    """The studies of a home."""

    def __init__(self, home: str | Path | None = None) -> None:
        self.home = Home.open(home)

    def studies(self) -> list[str]:
        """Returns the names of all studies."""
        return Ledger(self.home.ledger).studies()

    def study(self, name: str) -> StudyView:
        """Returns one study.

        Raises:
            BadInput: there is none of that name.
        """
        return StudyView(self.home, name)


class StudyView:
    """One study as it was when the view was made."""

    def __init__(self, home: Home, name: str) -> None:
        self.facts = require_study(home, name)
        self.ledger = Ledger(home.ledger)

    def trials(self) -> pd.DataFrame:
        """Returns one row per trial: number, group, state, value, seconds, reason, one column per searched setting."""
        import pandas as pd

        rows = [
            {
                "trial": trial.number,
                "group": trial.group,
                "state": trial.state,
                "value": trial.value,
                "seconds": trial.seconds,
                "reason": trial.reason,
                **trial.params,
            }
            for trial in self.facts.trials.values()
        ]
        return pd.DataFrame(rows)

    def predictions(self) -> pd.DataFrame:
        """Returns one row per finished trial and video: trial, then the columns of `ptune.replay.out_of_fold`."""
        import pandas as pd

        frames = [out_of_fold(self.ledger, trial).assign(trial=trial.number) for trial in self.facts.finished()]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
