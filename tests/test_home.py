"""Where MLflow's embedded database may lie: on a disk, and not where its locks do not hold."""

import os
import sqlite3

import pytest

from ptune import home as homes
from ptune.errors import HomeError
from ptune.home import Home, network_filesystem
from ptune.track.writer import projection


@pytest.fixture
def mounted(tmp_path, monkeypatch):
    """Returns what shows processes a file system of some type at a folder, as Linux describes it."""

    def mount(folder, kind):
        lines = [
            "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw",
            f"60 22 0:50 / {str(folder).replace(' ', chr(92) + '040')} rw,relatime shared:9 - {kind} server:/export rw",
        ]
        (tmp_path / "mountinfo").write_text("\n".join(lines) + "\n")
        monkeypatch.setattr(homes, "MOUNTS", str(tmp_path / "mountinfo"))
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    return mount


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "lustre", "fuse.s3fs"])
def test_sqlite_on_a_network_file_system_is_refused_with_the_remedy(tmp_path, mounted, monkeypatch, kind):
    home = Home.open(tmp_path / "shared disk" / "home")
    mounted(tmp_path / "shared disk", kind)
    with pytest.raises(HomeError, match=rf"network file system \({kind}\).*MLFLOW_TRACKING_URI"):
        home.tracking_uri  # noqa: B018
    with pytest.raises(HomeError), projection(home, "hand"):
        raise AssertionError("a study began")
    assert not (home.root / "mlflow.db").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://head:5000")
    assert home.tracking_uri == "http://head:5000"


@pytest.mark.parametrize("kind", ["ext4", "xfs", "overlay", "tmpfs", "fuse.fuse-overlayfs"])
def test_sqlite_on_a_disk_is_welcome(tmp_path, mounted, kind):
    mounted(tmp_path, kind)
    home = Home.open(tmp_path / "home")
    assert home.tracking_uri == f"sqlite:///{home.root}/mlflow.db"


def test_the_innermost_file_system_counts(tmp_path, mounted):
    mounted(tmp_path / "shared", "nfs4")
    assert network_filesystem(tmp_path / "shared" / "a" / "b") == "nfs4"
    assert network_filesystem(tmp_path / "shared2") == ""
    (tmp_path / "shared").mkdir()
    os.symlink(tmp_path / "shared", tmp_path / "link")
    assert network_filesystem(tmp_path / "link" / "home") == "nfs4"


def test_this_machines_own_table_of_mounts_is_read(tmp_path):
    assert network_filesystem(tmp_path) == ""
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("create table works (here integer)")
