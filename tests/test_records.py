"""The file of what was said about each object: what is no such file is told in a sentence."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from napari_interformer.prompts import Click
from napari_interformer.records import Record, Saved


@pytest.fixture
def file(tmp_path):
    record = Record(1, (Click((), 3, 4),), size=None, overwrite=False, edited=False)
    return Saved("image", "model", (), record).write(tmp_path / "clicks.json")


def test_a_file_that_is_not_there_or_a_folder_is_told(tmp_path):
    for path, told in ((tmp_path / "none.json", "does not exist"), (tmp_path, "is a folder")):
        with pytest.raises(
            FileNotFoundError,
            match=rf"^Saved clicks must be a file .*{path.name}', which {told}: check it\.$",
        ):
            Saved.read(path)


def test_a_file_that_may_not_be_read_is_told(file, monkeypatch):
    def refused(_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(OSError, match=r"^clicks\.json could not be read \(Permission denied\): check"):
        Saved.read(file)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff\xfe\x00", b'{"format": 1}'])
def test_a_file_of_something_else_is_told(file, content):
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"clicks\.json is something else or damaged: choose another"):
        Saved.read(file)
