"""Commands about the ledger itself: check, gc."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ptune.cli.options import as_json, example, show, with_home

if TYPE_CHECKING:
    from ptune.home import Home


@click.group()
def ledger() -> None:
    """Verify and clean the ledger, which holds all fits and study events."""


@ledger.command(epilog=example("ptune ledger check", "ptune ledger check --ledger s3://bucket/ptune --json"))
@as_json
@with_home
def check(home: Home, as_json: bool) -> int:
    """Verify every fit and every study: checksums, identities, and that what events name is there."""
    from ptune.ledger import Ledger
    from ptune.upkeep.check import check

    health = check(Ledger(home.ledger))
    show(health.facts(), health.text(), as_json)
    return 1 if health.problems else 0


@ledger.command(epilog=example("ptune ledger gc", "ptune ledger gc --delete"))
@click.option("--delete", is_flag=True, help="Remove it; without this, only show it.")
@as_json
@with_home
def gc(home: Home, delete: bool, as_json: bool) -> int:
    """Show what no study and no registered model refers to, with its size, and remove it with --delete."""
    from ptune.ledger import Ledger
    from ptune.upkeep.collect import find_garbage, remove_garbage

    garbage = (remove_garbage if delete else find_garbage)(Ledger(home.ledger))
    show(garbage.facts(delete), garbage.text(delete), as_json)
    return 0


COMMANDS = (ledger,)
