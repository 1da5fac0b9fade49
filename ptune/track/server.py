"""A server of MLflow becomes a sentence about what keeps its callers out, and its version."""

from __future__ import annotations

from typing import NamedTuple

import mlflow
import requests
from mlflow.exceptions import MlflowException

from ptune.cluster import stay_quiet

stay_quiet()

TIMEOUT_SECONDS = 10


class ServerAnswer(NamedTuple):
    """What a server said: its version, or what is wrong and what to do."""

    version: str = ""
    problem: str = ""
    remedy: str = ""


def ask_server(uri: str) -> ServerAnswer:
    """Returns what a server of MLflow answers to this process, which brings the credentials of its environment."""
    try:
        answer = requests.get(f"{uri.rstrip('/')}/version", timeout=TIMEOUT_SECONDS)
    except requests.exceptions.SSLError:
        return ServerAnswer("", "its certificate is not trusted here", "Name its authority in REQUESTS_CA_BUNDLE.")
    except requests.RequestException as error:
        problem = f"does not answer ({type(error).__name__})"
        return ServerAnswer("", problem, "Start it (docs/cluster.md), and check MLFLOW_TRACKING_URI and firewalls.")
    try:
        mlflow.MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
    except MlflowException as error:
        if "Invalid Host header" in str(error):
            host = uri.partition("://")[2].partition("/")[0]
            remedy = f"Start it with `--allowed-hosts {host}` among others."
            return ServerAnswer("", "does not answer to this name", remedy)
        if error.get_http_status_code() in (401, 403) or "401" in str(error):
            remedy = "Set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
            return ServerAnswer("", "wants other credentials", remedy)
        return ServerAnswer("", f"refuses ({type(error).__name__})", "Look at its log.")
    return ServerAnswer(answer.text.strip() if answer.ok else "an unknown version")
