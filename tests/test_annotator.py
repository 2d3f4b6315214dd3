"""The order of things between clicks and session, without a window: what is asked while something is worked on waits."""

from __future__ import annotations

import numpy as np
import pytest

import napari_interformer as ni
from conftest import blobs
from napari_interformer.annotator import Annotator, answer, merge, sentence
from napari_interformer.encoding import encode_tiles, room_for
from napari_interformer.geometry import Box
from napari_interformer.image import Planes
from napari_interformer.prompts import BoxPrompt, Click
from window import BrightModel, squares


class ByHand:
    """A worker that works when it is told to."""

    def __init__(self):
        self.jobs = []

    def run(self, work, done, failed):
        self.jobs.append((work, done, failed))

    def later(self, call):
        self.run(lambda: None, lambda _: call(), None)

    def step(self):
        work, done, failed = self.jobs.pop(0)
        try:
            result = work()
        except Exception as error:
            failed(error)
        else:
            done(result)

    def all(self):
        while self.jobs:
            self.step()


class Paper:
    """A list of clicks as a layer of points would be."""

    def __init__(self):
        self.clicks = ()

    def read(self):
        return self.clicks

    def write(self, clicks):
        self.clicks = tuple(clicks)


class Stroke:
    """One that leaves no pixel."""

    def take_back(self):
        pass

    def make(self):
        pass

    def parts(self):
        return ()


class Desk:
    def __init__(self, image=None, *, encoded=True, **kwargs):
        field, self.centres = squares()
        self.image = field if image is None else image
        self.model = BrightModel()
        features = ni.encode(self.image, self.model, contrast=(0, 255)) if encoded else self.room()
        self.paper, self.worker, self.told, self.changes = Paper(), ByHand(), [], 0
        self.session = ni.Session(features, self.model, live=True, **kwargs)
        self.annotator = Annotator(
            self.session, self.paper, self.worker, tell=self.told.append, changed=self._count
        )

    def room(self):
        return room_for(Planes.of(self.image, contrast=(0, 255)), self.model)

    def encode(self, plane):
        planes = Planes.of(self.image, contrast=(0, 255))
        for step in encode_tiles(planes, self.session.features, self.model, device="cpu", only=[(plane,)]):
            self.annotator.encoded(step.plane)
            self.worker.all()

    def _count(self):
        self.changes += 1

    def click(self, *position, positive=True):
        self.paper.clicks += (Click.at(position, positive),)
        self.annotator.edited()

    def at(self, index):
        return int(self.session.labels[self.centres[index]])


def test_a_click_is_answered_while_the_button_is_down():
    desk = Desk()
    desk.annotator.expect(Click.at(desk.centres[0]))
    desk.worker.all()
    assert desk.model.decoded == 1
    assert not desk.session.prompts and desk.at(0) == 0 and not desk.annotator.busy
    desk.click(*desk.centres[0])
    desk.worker.all()
    assert desk.model.decoded == 1
    assert desk.session.clicks == (Click.at(desk.centres[0]),) and desk.at(0) == 1
    desk.annotator.undo()
    assert desk.at(0) == 0


@pytest.mark.parametrize("meanwhile", ["elsewhere", "negative", "undo"])
def test_an_answer_ahead_is_dropped_when_something_else_comes(meanwhile):
    desk = Desk()
    desk.click(*desk.centres[0])
    desk.worker.all()
    desk.annotator.expect(Click.at(desk.centres[1]))
    if meanwhile == "undo":
        desk.annotator.undo()
    desk.click(*desk.centres[2 if meanwhile == "elsewhere" else 1], positive=meanwhile != "negative")
    desk.worker.all()
    alone = Desk()
    for click in desk.paper.clicks:
        alone.click(*click.position, positive=click.positive)
        alone.worker.all()
    assert desk.session.clicks == desk.paper.clicks
    np.testing.assert_array_equal(desk.session.labels, alone.session.labels)


def test_what_is_expected_twice_is_decoded_once_and_what_no_longer_is_not_at_all():
    desk = Desk()
    first, second = (Click.at(centre) for centre in desk.centres[:2])
    desk.annotator.expect(first)  # the mouse moves on before the worker comes to it
    desk.annotator.expect(second)
    desk.annotator.expect(second)
    assert len(desk.worker.jobs) == 2
    desk.worker.all()
    desk.annotator.expect(second)
    desk.click(*second.position)
    desk.worker.all()
    assert desk.model.decoded == 1 and desk.at(1) == 1


def test_an_answer_ahead_is_dropped_when_another_size_is_told():
    desk = Desk()
    desk.annotator.expect(Click.at(desk.centres[0]))
    desk.worker.all()
    desk.session.object_size = 20
    desk.annotator.expect(Click.at(desk.centres[0]))
    desk.worker.all()
    assert desk.model.decoded == 2
    desk.session.object_size = None
    desk.click(*desk.centres[0])
    desk.worker.all()
    assert desk.model.decoded == 3 and desk.at(0) == 1


def test_a_click_expected_before_its_plane_is_encoded_is_answered_after_it():
    desk = Desk(encoded=False)
    desk.annotator.expect(Click.at(desk.centres[0]))
    desk.worker.all()
    assert not desk.told and not desk.annotator.waiting
    desk.click(*desk.centres[0])
    desk.worker.all()
    assert desk.annotator.waiting == (Click.at(desk.centres[0]),)


def test_clicks_made_while_one_is_answered_are_answered_together_and_undone_one_by_one():
    desk = Desk()
    for centre in desk.centres[:3]:
        desk.click(*centre)
    assert len(desk.worker.jobs) == 1
    desk.worker.step()
    assert len(desk.session.clicks) == 1
    desk.worker.all()
    assert len(desk.session.clicks) == 3
    for count in (2, 1, 0):
        desk.annotator.undo()
        assert len(desk.session.clicks) == len(desk.paper.clicks) == count


def test_clicks_after_commit_belong_to_the_next_object():
    desk = Desk()
    desk.click(*desk.centres[0])
    desk.annotator.commit()
    desk.click(*desk.centres[1])
    desk.annotator.commit()
    desk.click(*desk.centres[2])
    desk.worker.all()
    assert [desk.at(i) for i in range(3)] == [1, 2, 3]
    assert desk.paper.clicks == desk.session.clicks == (Click.at(desk.centres[2]),)


def test_undo_waits_for_the_click_before_it_and_keeps_the_click_after_it():
    desk = Desk()
    desk.click(*desk.centres[0])
    desk.click(*desk.centres[1])
    desk.annotator.undo()
    desk.click(*desk.centres[2])
    desk.worker.all()
    assert [desk.at(i) for i in range(3)] == [1, 0, 1]
    assert [click.position for click in desk.paper.clicks] == [desk.centres[0], desk.centres[2]]


def test_what_cannot_be_answered_is_taken_back_and_the_rest_is_kept():
    desk = Desk()
    desk.click(*desk.centres[0])
    desk.click(500, 500)
    desk.click(*desk.centres[1])
    desk.worker.all()
    assert [desk.at(i) for i in range(2)] == [1, 1]
    assert len(desk.told) == 1 and "(500, 500)" in desk.told[0]
    assert desk.paper.clicks == desk.session.clicks


def test_a_click_that_was_moved_where_it_cannot_be_is_put_back():
    desk = Desk()
    desk.click(*desk.centres[0])
    desk.worker.all()
    desk.click(*desk.centres[1])
    before = desk.paper.clicks
    for place in ((500, 500), (600, 600)):  # both while the second click is answered
        desk.paper.clicks = (Click.at(place), before[1])
        desk.annotator.edited()
    desk.worker.all()
    assert desk.paper.clicks == desk.session.clicks == before and [desk.at(i) for i in range(2)] == [1, 1]
    assert "(600, 600)" in desk.told[0]
    desk.annotator.undo()
    assert desk.paper.clicks == before[:1]  # nothing was done that could be undone


@pytest.mark.parametrize("kind", [RuntimeError, IndexError])
def test_an_unforeseen_error_is_one_sentence_and_nothing_has_changed(kind, caplog):
    desk = Desk()
    desk.click(*desk.centres[0])
    desk.worker.all()

    def broken(*_):
        raise kind("out of memory\nwith a long\ntraceback")

    desk.model.decode_logits = broken
    desk.click(*desk.centres[1])
    desk.worker.all()
    assert desk.told == ["Out of memory"]
    assert len(desk.paper.clicks) == len(desk.session.clicks) == 1
    assert "out of memory" in caplog.text  # whoever mends it finds the traceback there


def test_results_for_a_session_that_was_left_are_dropped():
    desk = Desk()
    desk.click(*desk.centres[0])
    desk.annotator.close()
    desk.worker.all()
    assert not desk.session.clicks and not np.any(desk.session.labels)


def test_clicks_wait_for_their_plane_while_it_is_encoded_and_go_when_nothing_will():
    field, centres = squares()
    desk = Desk(np.stack([field] * 3), encoded=False)
    desk.click(1, *centres[0])
    desk.worker.all()
    assert desk.annotator.waiting and desk.paper.clicks and not desk.told
    desk.annotator.commit()
    assert "still being encoded" in desk.told.pop()
    desk.annotator.propagate(lambda _: None, lambda *_: None, lambda: False)
    desk.worker.all()
    assert "plane 1 is still being encoded" in desk.told.pop() and desk.annotator.waiting
    desk.encode(1)
    assert not desk.annotator.waiting and desk.session.labels[1].sum() == 400
    desk.click(2, *centres[0])
    desk.worker.all()
    desk.annotator.undo()  # the click that waits goes first
    assert not desk.annotator.waiting and len(desk.paper.clicks) == 1
    desk.click(2, *centres[0])
    desk.worker.all()
    desk.annotator.give_up(failed=False)
    assert "plane 2 is not encoded" in desk.told.pop() and len(desk.paper.clicks) == 1
    assert not desk.annotator.waiting


def test_new_commits_what_there_is_and_edit_goes_on_with_it():
    desk = Desk()
    desk.annotator.new()
    assert desk.session.label == 1 and not desk.told
    desk.click(*desk.centres[0])
    desk.annotator.new()
    desk.worker.all()
    assert desk.session.label == 2
    desk.click(*desk.centres[1])
    desk.annotator.edit(1)
    desk.worker.all()
    assert desk.session.label == 1 and [desk.at(i) for i in range(2)] == [1, 2]
    desk.annotator.edit(77)
    assert not desk.told  # all labels are looked through, which is the worker's
    desk.worker.all()
    assert "77" in desk.told[-1]


def test_labels_that_somebody_painted_are_not_given_again():
    desk = Desk()
    desk.annotator.painted(5, Stroke())
    assert desk.session.label == 6
    desk.click(*desk.centres[0])
    desk.annotator.painted(9, Stroke())
    desk.annotator.commit()
    desk.worker.all()
    assert desk.at(0) == 6 and desk.session.label == 10


def test_where_somebody_painted_the_highest_number_there_is_clicks_are_refused_and_nothing_hangs():
    desk = Desk(labels=np.zeros(squares()[0].shape, np.uint8))
    desk.annotator.painted(255, Stroke())
    desk.click(*desk.centres[0])
    desk.worker.all()
    assert "cannot hold label 256" in desk.told[-1] and not desk.annotator.busy
    assert not desk.session.prompts and not desk.paper.clicks and not desk.session.labels.any()


def test_a_large_object_is_written_in_turns_and_what_comes_next_waits(monkeypatch):
    monkeypatch.setattr(
        "napari_interformer.annotator.TURN", 0
    )  # one plane at a time would do; here, none at once
    desk = Desk(np.stack([squares()[0]] * 3))
    (y, x), told = desk.centres[0], []
    desk.click(1, y, x)
    desk.annotator.act(lambda _: told.append((desk.session.prompts, desk.session.labels.sum())))
    desk.worker.step()
    assert desk.session.prompts and not desk.session.labels.any() and desk.annotator.busy and not told
    monkeypatch.setattr("napari_interformer.annotator.TURN", 1)
    desk.worker.step()
    assert desk.session.labels.sum() == 400 and not desk.annotator.busy
    assert told == [(desk.session.prompts, 400)]


def test_a_full_disk_does_not_keep_anybody_from_closing():
    desk = Desk()
    desk.click(*desk.centres[0])

    def write(*_, **__):
        raise OSError("No space left on device")

    desk.session._objects.current.painting.paint = write
    desk.worker.all()
    desk.annotator.close()
    assert desk.told == ["No space left on device"] * 2 and not desk.annotator.busy


@pytest.mark.parametrize("way", ["painted", "closed", "committed by a script"])
def test_what_is_not_written_yet_is_when_it_has_to_be(way, monkeypatch):
    monkeypatch.setattr("napari_interformer.annotator.TURN", 0)
    desk = Desk()
    desk.click(*desk.centres[0])
    desk.worker.step()
    assert desk.at(0) == 0
    if way == "painted":
        desk.session.painted(Stroke())
    elif way == "closed":
        desk.annotator.close()
    else:
        desk.session.commit()
    assert desk.at(0) == 1
    desk.worker.all()
    assert not desk.annotator.busy


def test_what_a_full_disk_did_not_take_is_written_before_the_object_is_committed():
    desk = Desk()
    paint, full = desk.session._objects.current.painting.paint, True

    def write(*args, **kwargs):
        if full:
            raise OSError("No space left on device")
        paint(*args, **kwargs)

    desk.session._objects.current.painting.paint = write
    desk.click(*desk.centres[0])
    desk.worker.all()
    assert desk.told == ["No space left on device"] and desk.at(0) == 0
    desk.annotator.commit()
    desk.worker.all()
    assert desk.told == ["No space left on device"] * 3 and not desk.session.records and desk.session.clicks
    full = False
    desk.annotator.commit()
    desk.worker.all()
    assert desk.session.records and desk.at(0) == 1


def test_undo_goes_by_the_order_of_changes_those_that_wait_for_a_plane_included():
    desk = Desk(np.stack([squares()[0]] * 3), encoded=False)
    desk.encode(0)
    first, *others = desk.centres
    desk.click(1, *first)
    desk.click(0, *first)
    desk.annotator.painted(1, Stroke())
    desk.click(1, *others[0])
    desk.worker.all()
    left = []
    for _ in range(4):
        desk.annotator.undo()
        desk.worker.all()
        left.append((len(desk.annotator.waiting), desk.session.changes))
    assert left == [(1, 2), (1, 1), (1, 0), (0, 0)] and not desk.annotator.can_undo


def test_what_waits_is_taken_back_in_the_order_in_which_it_came_and_brought_back():
    desk = Desk(np.stack([squares()[0]] * 3), encoded=False)
    first, second = (Click.at((1, *centre)) for centre in desk.centres[:2])
    box = BoxPrompt((1,), Box(10, 10, 30, 30))
    for given in (first, box, second):
        desk.paper.clicks = (*desk.paper.clicks, given)
        desk.annotator.edited()
        desk.worker.all()
    assert desk.annotator.waiting == (box, first, second)
    seen = []
    for action in (
        desk.annotator.undo,
        desk.annotator.undo,
        desk.annotator.redo,
        desk.annotator.undo,
        desk.annotator.undo,
    ):
        action()
        desk.worker.all()
        seen.append(desk.paper.clicks)
    assert seen == [(box, first), (first,), (box, first), (first,), ()]
    for _ in range(4):
        desk.annotator.redo()
        desk.worker.all()
    assert desk.annotator.waiting == (box, first, second) and not desk.annotator.can_redo
    desk.annotator.undo()
    desk.encode(1)
    assert set(desk.session.given) == {box, first}
    desk.annotator.clear()
    desk.annotator.redo()
    desk.worker.all()
    assert not desk.paper.clicks and not desk.annotator.can_redo


def test_a_stroke_is_taken_back_after_what_was_asked_for_before_it():
    desk, undone = Desk(), []

    class Named(Stroke):
        def __init__(self, name):
            self.name = name

        def take_back(self):
            undone.append(self.name)

    desk.annotator.painted(1, Named("first"))
    desk.annotator.act(lambda _: None, lambda: None)  # something long
    desk.annotator.undo()
    desk.annotator.painted(1, Named("second"))
    desk.worker.all()
    assert undone == ["first"] and desk.session.changes == 1


def test_clicks_that_wait_are_saved_too():
    desk = Desk(np.stack([squares()[0]] * 2), encoded=False)
    desk.click(1, *desk.centres[0])
    desk.worker.all()
    assert not desk.session.saved.current.prompts
    assert desk.annotator.noted.current.prompts == desk.annotator.waiting == desk.paper.clicks


def test_what_an_action_puts_in_line_is_done_one_after_the_other():
    desk = Desk()
    order = []

    def begin(_):
        desk.annotator.act(lambda _: order.append("slow"), lambda: None)
        desk.annotator.act(lambda _: order.append("quick"))

    desk.annotator.act(begin)
    assert len(desk.worker.jobs) == 1 and not order
    desk.worker.all()
    assert order == ["slow", "quick"]


def test_an_object_that_is_brought_back_has_the_number_that_it_had():
    desk = Desk()
    desk.click(*desk.centres[0])
    desk.worker.all()
    desk.annotator.painted(9, Stroke())
    for action in (desk.annotator.undo, desk.annotator.undo, desk.annotator.redo, desk.annotator.redo):
        action()
    desk.worker.all()
    assert desk.at(0) == desk.session.label == 1 and not desk.session.can_redo


def test_propagation_is_one_step_and_what_is_asked_meanwhile_waits():
    field, centres = squares()
    desk = Desk(np.stack([field] * 4))
    desk.click(1, *centres[0])
    reached = []
    desk.annotator.propagate(lambda _: None, lambda done, most: reached.append((done, most)), lambda: False)
    desk.annotator.commit()
    desk.worker.all()
    assert (desk.session.labels == 1).sum() == 4 * 400 and reached[-1][0] == 3
    assert desk.session.label == 2


def test_an_object_is_deleted_after_the_one_at_hand_is_finished_even_if_it_is_that_one():
    desk = Desk()
    desk.click(*desk.centres[0])
    desk.annotator.commit()
    desk.click(*desk.centres[1])
    desk.annotator.delete(1)
    desk.worker.all()
    assert (desk.at(0), desk.at(1), desk.session.label) == (0, 2, 3)
    desk.annotator.undo()
    desk.worker.all()
    assert (desk.at(0), desk.at(1)) == (1, 2)
    desk.click(*desk.centres[2])
    desk.annotator.delete(3)
    desk.worker.all()
    assert desk.at(2) == 0 and not desk.session.prompts and not desk.told
    desk.annotator.delete(9)
    desk.worker.all()
    assert "Delete needs a label" in desk.told[0] and (desk.at(0), desk.at(1)) == (1, 2)


def test_similar_objects_are_found_after_the_one_at_hand_is_finished_and_what_is_asked_meanwhile_waits():
    desk, told = Desk(), []
    assert not desk.annotator.can_find_similar
    desk.click(*desk.centres[0])
    box = Box.of(desk.image.shape)
    desk.annotator.find_similar((), box, told.append, lambda *_: None, lambda: False)
    desk.click(2, 2)  # on the ground: an object of one pixel
    desk.worker.all()
    assert told == [7] and sorted(map(desk.at, range(8))) == list(range(1, 9))
    assert desk.session.label == 9 and desk.session.clicks == (Click.at((2, 2)),)
    for _ in range(2):
        desk.annotator.undo()
        desk.worker.all()
    assert [desk.at(n) for n in range(8)] == [1, 0, 0, 0, 0, 0, 0, 0] and desk.session.label == 2


@pytest.mark.parametrize("edit", ["removed", "moved"])
def test_what_was_carried_goes_with_the_click_it_came_from(edit):
    field, centres = squares()
    desk = Desk(np.stack([field] * 9))
    desk.click(1, *centres[0])
    desk.click(4, *centres[0])
    desk.annotator.propagate(lambda _: None, lambda *_: None, lambda: False)
    desk.worker.all()
    carried = desk.session.labels.copy()
    desk.click(4, *centres[1])  # beside the first one, which stays
    desk.worker.all()
    assert (carried > 0).sum() == 9 * 400 and (desk.session.labels > 0).sum() == 10 * 400
    desk.annotator.undo()
    moved = (Click.at((4, *centres[2])),) if edit == "moved" else ()
    desk.paper.clicks = (desk.paper.clicks[0], *moved)
    desk.annotator.edited()
    desk.worker.all()
    there = [0, 1, 4] if moved else [0, 1]
    assert [z for z in range(9) if desk.session.labels[z].any()] == there
    desk.annotator.undo()
    np.testing.assert_array_equal(desk.session.labels, carried)
    desk.paper.clicks = (desk.paper.clicks[0], Click.at((4, 500, 500)))  # put back, so nothing goes
    desk.annotator.edited()
    desk.worker.all()
    np.testing.assert_array_equal(desk.session.labels, carried)


@pytest.mark.parametrize(
    ("current", "before", "after", "merged"),
    [
        ("ab", "ab", "abc", "abc"),
        ("a", "ab", "abc", "ac"),
        ("", "ab", "abc", "c"),
        ("abc", "abc", "ac", "ac"),
        ("ab", "abc", "ac", "a"),
        ("ab", "", "", "ab"),
        ("aab", "aab", "ab", "ab"),
        ("xaab", "aab", "ab", "xab"),
    ],
)
def test_edits_apply_to_what_there_is_by_then(current, before, after, merged):
    assert merge(tuple(current), tuple(before), tuple(after)) == tuple(merged)


def test_errors_are_told_in_one_line():
    assert sentence(KeyError("no such label")) == "No such label"
    assert sentence(RuntimeError("one\ntwo")) == "One"
    assert sentence(RuntimeError()).startswith("RuntimeError")
    assert sentence(PermissionError(13, "Permission denied", "a.json")) == "a.json: Permission denied."
    assert sentence(OSError("a.json could not be written.")) == "a.json could not be written."


def test_a_click_that_is_refused_does_not_have_the_others_answered_again(blob_model):
    image, _ = blobs()
    session = ni.Session(ni.encode(image, blob_model, device="cpu"), blob_model)
    good = [Click((), 20 + 4 * n, 30) for n in range(6)]
    wrong = Click((), 500, 500)
    blob_model.decoded = 0
    found = answer(session, [good[0], wrong, *good[1:]])
    assert [click for click, _ in found.refused] == [wrong]
    assert [step.prompt for step in found.steps] == good and blob_model.decoded == len(good)
    session.adopt(found.steps)
    assert answer(session, [*good, wrong]).steps == found.steps and blob_model.decoded == len(good)


@pytest.mark.parametrize("end", ["close", "gone"])
def test_what_is_to_be_saved_is_saved_once_whoever_ends_first(end):
    desk = Desk()
    saved, told = [], []
    for name in "ab":
        desk.annotator.make_sure(told.append, lambda name=name: saved.append(name) or name)
    if end == "close":
        desk.annotator.close()
        assert (saved, told) == (["a", "b"], ["a", "b"])
    else:
        desk.annotator.gone()
        assert (saved, told) == (["a", "b"], [])
    desk.worker.all()
    assert saved == ["a", "b"]


def test_what_cannot_be_saved_is_told_once_and_not_tried_for_ever():
    desk = Desk()

    def full():
        raise OSError("The disk is full.")

    desk.annotator.make_sure(lambda _: pytest.fail("it was not saved"), full)
    desk.worker.all()
    assert desk.told == ["The disk is full."]
    desk.annotator.close()
    assert desk.told == ["The disk is full."]


def test_a_click_on_another_object_is_not_committed_and_dropped_with_the_next():
    desk = Desk()
    desk.click(*desk.centres[0])
    desk.annotator.commit()
    desk.worker.all()
    desk.paper.clicks = ()
    desk.annotator.edited()
    desk.click(*desk.centres[0])
    desk.annotator.commit()
    desk.worker.all()
    assert desk.told.pop().startswith("Not committed: object 1 is already there. Press Edit object")
    assert len(desk.session.records) == 1 and desk.session.clicks
    desk.annotator.new()
    desk.worker.all()
    assert desk.told == ["Object 2 was dropped: nearly all of it is object 1."]
    assert len(desk.session.records) == 1 and not desk.session.unfinished and not desk.paper.clicks


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        (lambda annotator: annotator.commit(), "Commit"),
        (lambda annotator: annotator.new(), "New object"),
        (lambda annotator: annotator.edit(1), "Edit"),
        (lambda annotator: annotator.delete(1), "Delete"),
    ],
)
def test_nothing_leaves_an_object_while_one_of_its_clicks_waits(asked, name):
    desk = Desk(np.stack([squares()[0]] * 2), encoded=False)
    desk.encode(0)
    desk.click(0, *desk.centres[0])
    desk.click(1, *desk.centres[0])
    desk.worker.all()
    asked(desk.annotator)
    desk.worker.all()
    assert desk.told[-1].startswith(f"{name} needs an answer to every click; plane 1 is still being encoded")
    assert len(desk.annotator.waiting) == 1 and len(desk.session.clicks) == 1 and not desk.session.records


def test_what_can_be_done_is_known_though_the_only_click_waits():
    desk = Desk(np.stack([squares()[0]] * 2), encoded=False)
    annotator = desk.annotator
    assert not (
        annotator.can_undo or annotator.can_redo or annotator.has_object or annotator.can_find_similar
    )
    desk.click(1, *desk.centres[0])
    desk.worker.all()
    assert annotator.can_undo and annotator.has_object and not annotator.can_redo
    annotator.undo()
    desk.worker.all()
    assert annotator.can_redo and not annotator.can_undo and not annotator.has_object
    annotator.found(3)
    annotator.found(2)
    assert annotator.highest == 3 and annotator.can_find_similar and not annotator.can_adapt


def test_an_object_of_red_clicks_alone_is_given_up_with_the_next_and_keeps_its_number():
    desk = Desk()
    desk.click(*desk.centres[0], positive=False)
    desk.annotator.new()
    desk.worker.all()
    assert not desk.session.clicks and not desk.session.records and not desk.told
    assert not desk.paper.clicks and desk.session.label == 2


def two_planes():
    """Return a desk with a click that is answered, and one that waits for its plane."""
    desk = Desk(np.stack([squares()[0]] * 2), encoded=False)
    desk.encode(0)
    desk.click(0, *desk.centres[0])
    desk.click(1, *desk.centres[1])
    desk.worker.all()
    assert len(desk.session.clicks) == len(desk.annotator.waiting) == 1
    return desk


def test_clearing_drops_the_clicks_that_wait_too():
    desk = two_planes()
    desk.annotator.clear()
    desk.worker.all()
    assert not desk.annotator.waiting and not desk.paper.clicks and not desk.annotator.has_object


def test_one_sentence_for_many_clicks_on_one_bad_pixel():
    desk = Desk()
    desk.paper.clicks = (Click((), 500, 500),) * 3
    desk.annotator.edited()
    desk.worker.all()
    assert len(desk.told) == 1 and not desk.paper.clicks


def test_a_click_whose_plane_is_finished_while_it_is_tried_is_answered():
    desk = Desk(np.stack([squares()[0]] * 2), encoded=False)
    desk.click(1, *desk.centres[0])
    work, done, _ = desk.worker.jobs.pop()
    tried = work()
    planes = Planes.of(desk.image, contrast=(0, 255))
    list(encode_tiles(planes, desk.session.features, desk.model, device="cpu", only=[(1,)]))
    done(tried)
    desk.worker.all()
    assert not desk.annotator.waiting and desk.session.labels[1].sum() == 400


@pytest.mark.parametrize(
    "go_on", [Annotator.new, Annotator.commit, lambda annotator: annotator.painted(1, Stroke())]
)
def test_a_click_that_was_taken_back_while_it_waited_does_not_come_to_another_object(go_on):
    desk = two_planes()
    desk.annotator.undo()
    assert desk.annotator.can_redo and not desk.annotator.waiting
    go_on(desk.annotator)
    desk.worker.all()
    assert not desk.annotator.can_redo
    desk.annotator.redo()
    desk.worker.all()
    assert not desk.annotator.waiting


def test_after_giving_up_nothing_can_be_redone():
    desk = Desk(np.stack([squares()[0]] * 2), encoded=False)
    for centre in desk.centres[:2]:
        desk.click(1, *centre)
        desk.worker.all()
    desk.annotator.undo()
    desk.annotator.give_up(failed=False)
    desk.worker.all()
    assert not desk.annotator.can_redo


def test_where_there_was_nothing_to_undo_there_is_nothing_to_redo():
    desk = Desk()
    desk.annotator.undo()
    assert not desk.annotator.can_redo


def test_another_model_answers_the_click_that_was_expected():
    desk, other = Desk(), BrightModel()
    desk.annotator.expect(Click.at(desk.centres[0]))
    desk.worker.all()
    desk.annotator.act(lambda _: desk.session.change_model(other))
    desk.click(*desk.centres[0])
    desk.worker.all()
    assert other.decoded == 1 and desk.at(0) == 1


def test_a_new_click_that_waits_takes_the_place_of_what_was_undone():
    desk = Desk(np.stack([squares()[0]] * 2), encoded=False)
    desk.click(1, *desk.centres[0])
    desk.worker.all()
    assert desk.annotator.can_undo
    desk.annotator.undo()
    assert desk.annotator.can_redo and not desk.annotator.can_undo
    desk.click(1, *desk.centres[1])
    desk.worker.all()
    assert not desk.annotator.can_redo


def test_what_waits_is_noted_in_its_order():
    desk = Desk(np.stack([squares()[0]] * 2), encoded=False)
    desk.encode(0)
    desk.click(0, *desk.centres[0])
    desk.paper.clicks += (BoxPrompt((1,), Box(10, 10, 30, 30)),)
    desk.annotator.edited()
    desk.worker.all()
    assert [type(one) for one in desk.annotator.noted.current.prompts] == [BoxPrompt, Click]


def test_a_click_is_answered_when_another_process_has_encoded_its_plane():
    desk = Desk(np.stack([squares()[0]] * 2), encoded=False)
    desk.click(1, *desk.centres[0])
    desk.worker.all()
    assert desk.annotator.waiting
    planes = Planes.of(desk.image, contrast=(0, 255))
    for _ in encode_tiles(planes, desk.session.features, desk.model, device="cpu", only=[(1,)]):
        pass
    desk.annotator.encoded((0,))
    desk.worker.all()
    assert not desk.annotator.waiting and desk.session.labels[1].sum() == 400


def test_clicks_that_wait_for_long_work_are_noted():
    desk = Desk()
    desk.click(*desk.centres[0])
    desk.worker.all()
    desk.annotator.find_similar((), Box.of(desk.image.shape), lambda _: None, lambda *_: None, lambda: False)
    while desk.session.prompts:
        desk.worker.step()
    desk.click(*desk.centres[1])
    noted = desk.annotator.noted
    assert desk.annotator.busy and not desk.session.prompts and len(noted.finished) == 1
    assert noted.current.prompts == (Click.at(desk.centres[1]),) and noted.current.label == desk.session.label
    desk.annotator.commit()
    desk.click(*desk.centres[2])
    assert desk.annotator.noted.current.prompts == (Click.at(desk.centres[1]),), (
        "the next one is another object's"
    )


def test_a_disk_that_fails_while_an_object_is_written_leaves_nothing_of_it_after_clear():
    class Disk(np.ndarray):
        """Labels whose last planes cannot be written while it fails."""

        fails = True

        def __setitem__(self, key, value):
            if Disk.fails and key[0] >= 2:
                raise OSError("No space left on device")
            super().__setitem__(key, value)

    field, centres = squares()
    desk = Desk(np.stack([field] * 4), labels=np.zeros((4, *field.shape), np.int32).view(Disk))
    y, x = centres[0]
    desk.paper.clicks = (Click((1,), int(y), int(x)),)
    desk.annotator.edited()
    desk.worker.all()
    desk.annotator.propagate(lambda ends: None, lambda *_: None, lambda: False)
    desk.worker.all()
    assert "No space left on device" in desk.told
    Disk.fails = False
    desk.annotator.clear()
    desk.worker.all()
    assert not desk.session.unfinished and not np.asarray(desk.session.labels).any()
