"""A trial's reason of failure becomes text that may leave the home: withheld whole when it names a file or subject."""

from __future__ import annotations

import re
from collections.abc import Iterable

WITHHELD = "withheld, it names a file or a subject; the study's ledger has it"
_FILE = re.compile(
    r"[/\\]\w|\bsubject\s+\S|\.(mp4|m4v|avi|mov|mkv|webm|mpe?g|wmv|mts|csv|parquet|arrow|npy|ya?ml|json)\b",
    re.IGNORECASE,
)
LONGEST = 200


def public_reason(reason: str, subjects: Iterable[str]) -> str:
    """Returns the first line of `reason`, at most 200 characters, or `WITHHELD`.

    Args:
        reason: as the ledger has it.
        subjects: pseudonyms of the study; one that is a bare number counts only after the word subject.
    """
    lowered = reason.lower()
    if _FILE.search(reason) or any(name.lower() in lowered for name in subjects if not name.isdigit()):
        return WITHHELD
    return reason.split("\n", 1)[0][:LONGEST]
