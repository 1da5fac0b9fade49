"""A CSV or Parquet file becomes a header and rows of text. Knows nothing of what the columns mean."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ptune.errors import ManifestError

#: Line of a CSV file, or row of a Parquet table, with its cells.
Records = list[tuple[int, list[str]]]


def read_rows(path: Path, required: Sequence[str]) -> tuple[str, list[str], Records]:
    """Returns what its rows are counted in ("line" or "row"), the header and the rows that are not empty.

    Args:
        path: CSV (UTF-8, commas), or Parquet by its suffix.
        required: columns to name where there are none.

    Raises:
        ManifestError: no table can be read.
    """
    if path.suffix.lower() in (".parquet", ".pq"):
        return "row", *_read_parquet(path)
    return "line", *_read_csv(path, required)


def _read_csv(path: Path, required: Sequence[str]) -> tuple[list[str], Records]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ManifestError(path.name, ["there is no such file"], "Check the path.") from None
    except OSError as error:
        raise ManifestError(path.name, [f"cannot be read ({error.strerror})"], "Check the path.") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ManifestError(path.name, [f"line {line}: found bytes that are no text, expected UTF-8"]) from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[int, list[str]]] = []
    start = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append((start, [cell.strip() for cell in cells]))
            start = reader.line_num + 1
    except csv.Error as error:
        raise ManifestError(path.name, [f"line {start}: found broken quoting ({error}), expected CSV"]) from None
    if not rows:
        raise ManifestError(path.name, [f"the file is empty; expected a header with {', '.join(required)}"])
    header = rows[0][1]
    if len(header) == 1 and set(";\t") & set(header[0]):
        mark = "semicolons" if ";" in header[0] else "tabs"
        raise ManifestError(path.name, [f"line {rows[0][0]}: found columns split by {mark}, expected commas"])
    return header, rows[1:]


def _read_parquet(path: Path) -> tuple[list[str], Records]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path).read()
    except FileNotFoundError:
        raise ManifestError(path.name, ["there is no such file"], "Check the path.") from None
    except (OSError, pa.ArrowException) as error:
        raise ManifestError(path.name, [f"found no Parquet table ({type(error).__name__})"]) from None
    columns = [column.to_pylist() for column in table.columns]
    cells = ([_text(value) for value in row] for row in zip(*columns, strict=True))
    return list(table.column_names), list(enumerate(cells, 1))


def _text(value: Any) -> str:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value).strip()
