"""What was clicked is found again by another run, and by nobody whom it does not concern."""

import errno
import os
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from conftest import BlobModel, blobs
from napari_interformer import journal
from napari_interformer.by_hand import Piece
from napari_interformer.encoding import encode
from napari_interformer.geometry import Box
from napari_interformer.journal import Journal, Offer, offer
from napari_interformer.prompts import Click, Mask
from napari_interformer.records import Record, Saved
from napari_interformer.session import Session

IMAGE = "sha256:one"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "folder", lambda: tmp_path / "journal")
    return tmp_path / "journal"


def record(label, *, prompts=None, edited=False):
    given = (Click((), 3, label),) if prompts is None else prompts
    return Record(label, given, size=None, overwrite=False, edited=edited)


def saved(*finished, current=None, image=IMAGE):
    return Saved(image, "model", finished, current or record(len(finished) + 1, prompts=()))


def note(*versions, image=IMAGE, told=None):
    """Write as a run does that has ended since, and return the file."""
    one = Journal(image, (told if told is not None else []).append)
    for version in versions:
        one.write(version)
    one.close(lambda: False)
    one._thread.shutdown(wait=True)
    return one.path


def test_objects_that_were_only_painted_are_offered_too():
    piece = Piece((), Box(0, 0, 2, 2), b"\xf0", (0, 1, 1, 1, 7, 2))
    note(replace(saved(record(1)), by_hand=(piece,)))
    found = offer(IMAGE, 0)
    assert found.objects == 2 and Saved.read(found.path).by_hand == (piece,)
    assert offer(IMAGE, 5).objects == 1 and offer(IMAGE, 7) is None
    note(replace(saved(image="another"), by_hand=(piece,)), image="another")
    assert offer("another", 0).objects == 2


def test_what_was_noted_last_is_offered_once_its_session_is_over():
    mask = Mask((), Box(0, 0, 3, 2), np.array([[1, 0, 1], [0, 1, 0]], bool))
    one = Journal(IMAGE, [].append)
    for version in (saved(record(1)), saved(record(1), record(2, prompts=(mask,)), current=record(3))):
        one.write(version)
    one._thread.submit(int).result()
    path = one.path
    assert path.exists() and offer(IMAGE, 0) is None  # a panel has it on screen
    one.close(lambda: False)
    found = offer(IMAGE, 0)
    assert (found.path, found.objects) == (path, 3)
    assert abs((datetime.now() - found.when).total_seconds()) < 60
    again = Saved.read(path)
    assert [one.label for one in again.finished] == [1, 2] and again.current.prompts == record(3).prompts
    np.testing.assert_array_equal(again.finished[1].prompts[0].mask, mask.mask)


def test_what_another_process_has_on_screen_is_offered_when_it_ends(folder):
    program = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_journal as t
t.journal.folder = lambda: Path({str(folder)!r})
one = t.Journal(t.IMAGE, [].append)
one.write(t.saved(t.record(1)))
one._thread.submit(int).result()
print(one.path, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        path = Path(other.stdout.readline().strip())
        assert path.exists() and offer(IMAGE, 0) is None
        other.kill()
        other.wait()
    assert offer(IMAGE, 0).path == path


def test_what_is_on_no_screen_any_more_is_offered_to_other_processes(folder):
    one = Journal(IMAGE, [].append)
    one.write(saved(record(1)))
    one.close()
    one._thread.shutdown(wait=True)
    program = f"""
from pathlib import Path
from napari_interformer import journal
journal.folder = lambda: Path({str(folder)!r})
print(journal.offer({IMAGE!r}, 0).path)
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert Path(told.stdout.strip()) == one.path


def test_the_newest_is_offered():
    old, new = note(saved(record(1))), note(saved(record(1), record(2)))
    os.utime(old, (time.time() - 60,) * 2)
    assert offer(IMAGE, 0).path == new


@pytest.mark.parametrize(
    ("content", "highest", "offered"),
    [
        (saved(record(1), record(2)), 0, 2),
        (saved(record(1), record(2)), 2, 0),  # the labels were saved, and opened again
        (saved(record(5), record(6)), 4, 2),  # they were saved before
        (saved(record(5), record(6)), 5, 1),  # and in between
        (saved(record(1), record(2), current=record(3)), 2, 1),
        (saved(record(1), record(2), current=record(2, edited=True)), 2, 0),
        (saved(record(1), record(2), current=record(2, edited=True)), 1, 1),
        (saved(record(1), current=record(2)), 2, 0),  # the window shows the current object in the labels
        (saved(record(3, edited=True)), 3, 0),
        (saved(record(3, edited=True), record(4)), 3, 2),
        (
            saved(record(1), record(1, edited=True), record(2), record(3)),
            2,
            1,
        ),  # edited before they were saved
        (saved(record(1), record(2), record(1, edited=True), record(3)), 2, 2),  # before or after
        (saved(record(1), record(2), record(3), record(1, edited=True)), 2, 2),  # after
        (saved(record(1), record(2), record(2, edited=True)), 1, 1),
        (saved(current=record(1)), 0, 1),
    ],
)
def test_what_the_labels_hold_already_is_not_offered(content, highest, offered):
    note(content)
    found = offer(IMAGE, highest)
    assert (0 if found is None else found.objects) == offered


@pytest.fixture
def again():
    """Return a function that makes a session on six bright squares."""
    model, (image, _) = BlobModel(), blobs()
    features = encode(image, model, contrast=(0, 255), device="cpu")

    def session(labels=None):
        return Session(features, model, labels)

    return session


def test_what_labels_that_were_saved_in_between_do_not_hold_is_restored(folder, again):
    before = again()
    for centre in ((32, 32), (32, 96)):
        before.click(centre)
        before.commit()
    saved_labels, image = before.labels.copy(), before.features.image_fingerprint
    before.edit(1)
    before.click((112, 32))
    before.commit()
    edited_labels = before.labels.copy()
    before.click((32, 160))
    before.commit()
    before.click((112, 96))
    path = note(before.saved, image=image)
    for labels in (saved_labels, edited_labels):
        after = again(labels.copy())
        found = offer(image, after.highest)
        assert found.objects == 3  # 1, whose edit the labels may hold, and 3 and 4
        after.load_prompts(found.path)
        np.testing.assert_array_equal(after.labels, before.labels)
        np.testing.assert_array_equal(after.mask, before.mask)
        assert after.label == before.label == 4
    one = Journal(image, [].append)
    one.supersede(found.path)
    one.write(after.saved)
    one.close(lambda: False)
    one._thread.shutdown(wait=True)
    assert sorted(folder.glob("*.json")) == sorted([path, one.path])  # the first has objects 1 and 2
    assert len(Saved.read(path).finished) == len(before.saved.finished)


def test_only_the_last_file_of_an_image_is_offered_in_part():
    old = note(saved(record(1), record(2), record(3)))
    os.utime(old, (time.time() - 60,) * 2)
    new = note(saved(record(1), record(2)))  # somebody began anew
    assert offer(IMAGE, 2) is None and offer(IMAGE, 0).path == new
    new.unlink()
    assert offer(IMAGE, 2).objects == 1 and offer(IMAGE, 0).path == old
    assert Saved.read(offer(IMAGE, 1).path).finished == (record(2), record(3))
    note(saved(record(1), record(2)))  # this run did
    assert offer(IMAGE, 2) is None


def test_another_image_is_not_offered_it():
    path = note(saved(record(1)))
    os.rename(note(saved(record(1), image="sha256:two")), path)  # even if the short hash were the same
    assert offer(IMAGE, 0) is None and offer("sha256:two", 0) is None


def test_red_clicks_alone_are_no_object_to_be_restored():
    red = (Click((), 3, 4, False),)
    note(saved(record(1, prompts=red)))
    assert offer(IMAGE, 0) is None
    note(saved(record(1, prompts=(*red, Click((), 3, 4)))))
    assert offer(IMAGE, 0).objects == 1


def test_objects_that_were_deleted_are_not_offered():
    gone = replace(record(1), prompts=(), edited=True)
    note(saved(record(1), gone))
    assert offer(IMAGE, 0) is None
    note(saved(record(1), record(2), gone))
    assert offer(IMAGE, 0).objects == 1
    note(saved(record(1), gone, record(1)))  # its number was free
    assert offer(IMAGE, 0).objects == 1
    note(saved(record(1), gone, current=record(1)))
    assert offer(IMAGE, 0).objects == 1


def test_nothing_is_kept_of_a_session_without_objects(folder):
    note(saved())
    assert not list(folder.glob("*"))
    note(saved(record(1)), saved())
    assert not list(folder.glob("*.json"))


def test_files_go_when_they_are_old_or_superseded(folder):
    old, taken = note(saved(record(1))), note(saved(record(1)))
    os.utime(old, (time.time() - 31 * 86400,) * 2)
    assert offer(IMAGE, 0).path == taken
    assert not old.exists()
    one = Journal(IMAGE, [].append)
    one.supersede(taken)
    assert taken.exists()  # until there is something in its place
    one.write(saved(record(1)))
    one.close(lambda: False)
    one._thread.shutdown(wait=True)
    assert list(folder.glob("*.json")) == [one.path]


def test_an_old_file_of_a_session_that_is_open_stays(folder):
    one = Journal(IMAGE, [].append)
    one.write(saved(record(1)))
    one._thread.submit(lambda: None).result()  # once it is written
    os.utime(one.path, (time.time() - 31 * 86400,) * 2)
    assert offer("another image", 0) is None and one.path.exists()
    one.close(lambda: False)
    one._thread.shutdown(wait=True)
    os.utime(one.path, (time.time() - 31 * 86400,) * 2)
    assert offer("another image", 0) is None and not one.path.exists()


def test_an_old_file_that_cannot_be_deleted_yet_ends_nothing(folder, monkeypatch):
    taken, told = note(saved(record(1))), []
    unlink = Path.unlink

    def refused(path, **options):
        if path == taken:  # as where another program has it open
            raise PermissionError(errno.EACCES, "Permission denied")
        unlink(path, **options)

    one = Journal(IMAGE, told.append)
    one.supersede(taken)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refused)
        one.write(saved(record(1)))
        one._thread.submit(int).result()
    assert taken.exists()
    one.write(saved(record(1), record(2)))
    one.close(lambda: False)
    one._thread.shutdown(wait=True)
    assert not told and len(Saved.read(one.path).finished) == 2
    assert list(folder.glob("*.json")) == [one.path]


def test_a_damaged_file_is_passed_over():
    good, bad = note(saved(record(1))), note(saved(record(1), record(2)))
    bad.write_bytes(bad.read_bytes()[:-20])
    assert offer(IMAGE, 0).path == good
    # As programs that share folders leave them.
    newer = good.with_name(f"{good.stem} (conflicted copy).json")
    newer.write_bytes(good.read_bytes())
    good.with_name("open").touch()
    assert offer(IMAGE, 0).path == good


def test_a_folder_that_cannot_be_written_to_is_told_once(folder):
    folder.write_text("a file")
    told = []
    note(saved(record(1)), told=told)
    assert len(told) == 1
    one = Journal(IMAGE, told.append)
    for number in range(2, 5):
        one.write(saved(record(number)))
        one._thread.submit(int).result()
    assert len(told) == 2
    assert offer(IMAGE, 0) is None


def test_an_offer_says_how_many_objects_there_are_of_when(tmp_path):
    when = datetime(2024, 3, 5, 9, 7)
    assert str(Offer(tmp_path, 1, when)) == "1 object of 05 Mar, 09:07"
    assert str(Offer(tmp_path, 2, when)) == "2 objects of 05 Mar, 09:07"
