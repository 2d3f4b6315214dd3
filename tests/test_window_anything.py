"""A person who does anything in any order: what undo brings back, and what saved clicks say, is what was there."""

from __future__ import annotations

import random

import numpy as np
import pytest

from napari_interformer import Session
from panel import THEIRS
from window import squares

pytest_plugins = ("panel",)
pytestmark = THEIRS

ACTIONS = 60
PLANES = 3  # of a stack


class Person:
    """Somebody at the mouse and the keys."""

    def __init__(self, window, seed, stack):
        self.window, self.random, self.stack = window, random.Random(seed), stack
        image, self.centres = squares()
        window.open(np.stack([image] * PLANES) if stack else image)
        self.done = []  # shown where a test fails

    def act(self):
        """Do something, and wait for the answer, or go on at once."""
        keys = ("C", "M", "T", "Shift+C", "Ctrl+Z", "Ctrl+Z", "Ctrl+Shift+Z")
        actions = [self.click] * 9 + [self.choose, self.draw, self.move, self.flip, self.remove, self.switch]
        actions += [lambda: self.key(self.random.choice(keys))] * 7
        if self.stack:
            actions += [self.slide, self.slide, lambda: self.key("Shift+S")]
        self.random.choice(actions)()
        if self.random.random() < 0.8:
            self.wait()

    def wait(self):
        self.window.rest(0.01)  # what the mouse did is told a moment later
        self.window.idle()

    def place(self):
        """Return a pixel, more often of a square than not."""
        if self.random.random() < 0.3:
            return self.random.randint(1, 94), self.random.randint(1, 158)
        y, x = self.random.choice(self.centres)
        return y + self.random.randint(-9, 8), x + self.random.randint(-9, 8)

    def key(self, name):
        self.done.append(name)
        self.window.key(name)

    def click(self):
        place, button = self.place(), self.random.choice(("Left", "Left", "Left", "Right"))
        self.done.append((button, place))
        self.window.click(place, button)

    def choose(self):
        """Edit or delete what lies somewhere."""
        self.key(self.random.choice("EEX"))
        self.window.rest(0.02)
        self.click()
        self.key("2")  # nothing was there, or the object is chosen

    def draw(self):
        """Draw a box or a line."""
        self.key(self.random.choice("BL"))
        self.window.rest(0.02)
        ends = self.place(), self.place()
        self.done.append(ends)
        self.window.drag(*ends)

    def point(self):
        """Return the number of a point that is there, or None."""
        self.wait()
        count = len(self.window.points.data)
        return self.random.randrange(count) if count else None

    def move(self):
        if (number := self.point()) is not None:
            self.key("3")
            self.window.rest(0.02)
            ends = tuple(self.window.points.data[number][-2:]), self.place()
            self.done.append(ends)
            self.window.drag(*ends)
            self.window.rest(0.02)
            self.key("2")

    def flip(self):
        if (number := self.point()) is not None:
            self.key("3")
            self.window.points.selected_data = {number}
            self.key("F")
            self.key("2")

    def remove(self):
        if (number := self.point()) is not None:
            self.done.append(("remove", number))
            self.window.points.selected_data = {number}
            self.window.points.remove_selected()

    def slide(self):
        self.done.append("slide")
        self.window.viewer.dims.set_current_step(0, self.random.randrange(PLANES))

    def switch(self):
        """Let objects take pixels from others, or no longer."""
        self.done.append("overwrite")
        self.window.form.overwrite.click()

    # ------------------------------------------------------------------------------------- what holds

    def check_points(self):
        """Check that the points shown are the session's clicks."""
        shown = sorted(map(tuple, np.rint(self.window.points.data).astype(int).tolist()))
        clicks = self.window.panel.annotator.session.clicks
        assert shown == sorted((*one.plane, one.y, one.x) for one in clicks), self.done

    def check_undo(self):
        """Check that what is taken back is made again step by step."""
        annotator, states = self.window.panel.annotator, [self.window.labels.copy()]
        while annotator.can_undo and len(states) < 6:
            self.window.key_and_wait("Ctrl+Z")
            states.append(self.window.labels.copy())
        for state in states[-2::-1]:
            assert annotator.can_redo, self.done
            self.window.key_and_wait("Ctrl+Shift+Z")
            np.testing.assert_array_equal(self.window.labels, state, str(self.done))

    def check_saved(self, path):
        """Check that saved clicks give the same labels."""
        session = self.window.panel.annotator.session
        other = Session(self.window.panel.features, session.model, live=True)
        other.load_prompts(session.save_prompts(path))
        np.testing.assert_array_equal(other.labels, self.window.labels, str(self.done))


@pytest.mark.parametrize("stack", [False, True], ids=["plane", "stack"])
@pytest.mark.parametrize("seed", [0, 1])
def test_whatever_is_done_is_undone_exactly_and_saved_whole(window, tmp_path, seed, stack):
    person = Person(window, seed, stack)
    for number in range(ACTIONS):
        person.act()
        if number % 6 == 5:
            person.wait()
            person.check_points()
            person.check_undo()
            person.check_saved(tmp_path / f"{number}.json")
    assert window.labels.any()
