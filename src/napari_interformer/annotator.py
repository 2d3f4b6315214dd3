"""Carries what a person does, in order, from a layer of clicks to a session. No Qt, no napari.

Enters: edits of the clicks (boxes among them, here and below), and actions such as undo and commit, at any speed. Leaves:
calls of the session, one after another. Slow work goes to a worker thread and comes back; until then everything else waits
in line, so that no click is lost and none is applied to the wrong object.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from napari_interformer.files import of_system
from napari_interformer.prompts import Click, NotEncodedError, in_order, planes_are

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from napari_interformer.decoding import Steps
    from napari_interformer.gaps import Carried, Ended
    from napari_interformer.geometry import Box
    from napari_interformer.image import Plane
    from napari_interformer.painting import Stroke
    from napari_interformer.prompts import Given
    from napari_interformer.records import Saved
    from napari_interformer.replay import Replay
    from napari_interformer.session import Session

log = logging.getLogger(__name__)

TURN = 0.02  # seconds of writing, after which the window does what else there is


class ClickList(Protocol):
    """Where the clicks of the current object are shown and edited."""

    def read(self) -> tuple[Given, ...]:
        """Return them in order."""

    def write(self, clicks: Iterable[Given]) -> None:
        """Show these."""


class Worker(Protocol):
    """Something that works elsewhere and reports in the main thread."""

    def run(
        self, work: Callable[[], Any], done: Callable[[Any], None], failed: Callable[[Exception], None]
    ) -> None:
        """Call `done` with what `work` returns, or `failed` with what it raises."""

    def later(self, call: Callable[[], None]) -> None:
        """Call something in the main thread, after what has come up there meanwhile."""


@dataclass(frozen=True)
class Edit:
    """An edit of the clicks, which were `before` and are now `after`."""

    before: tuple[Given, ...]
    after: tuple[Given, ...]


# Changes nothing, so that clicks that wait for their planes are tried again.
AGAIN = Edit((), ())


@dataclass(frozen=True)
class Action:
    """Something to do once everything before it is done: `work` in the worker, then `then` in the main thread.

    If `work` raises, `failed`, if given, is called with the error; it may raise the error to show.
    """

    then: Callable[[Any], Any]
    work: Callable[[], Any] | None = None
    failed: Callable[[Exception], Any] | None = None


class Once:
    """Work that is done once, by the thread that comes first; another one waits for it. What fails may be tried again."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work, self._lock = work, threading.Lock()
        self._results: list[Any] = []

    def __call__(self) -> Any:
        """Return what the work returns."""
        with self._lock:
            if not self._results:
                self._results.append(self._work())
            return self._results[0]


@dataclass(frozen=True)
class Answer:
    """The answer to a list of clicks: the steps of those that could be answered, and the others."""

    steps: Steps
    refused: tuple[tuple[Given, Exception], ...]


@dataclass
class Ahead:
    """The answer to clicks that have not been made yet; None until the worker has it."""

    clicks: tuple[Given, ...]
    expected_size: float | None  # as the session had it
    answer: Answer | None = None

    def serves(self, session: Session, clicks: Sequence[Given]) -> bool:
        """Whether its answer, once there, is the answer to these clicks."""
        return self.clicks == tuple(clicks) and self.expected_size == session.expected_size


class Annotator:
    """Keeps a session and a layer of clicks in step.

    All methods are called from the main thread.

    Parameters
    ----------
    session : Session
        Where objects live.
    clicks : ClickList
        Edited by a person; written to when an action changes what it should show.
    worker : Worker
        Decodes.
    tell : callable
        Called with one sentence when something cannot be done; the state is then as before.
    changed : callable
        Called after every change.
    """

    def __init__(
        self,
        session: Session,
        clicks: ClickList,
        worker: Worker,
        *,
        tell: Callable[[str], None],
        changed: Callable[[], None],
    ) -> None:
        self.session, self.clicks = session, clicks
        self.waiting: tuple[Given, ...] = ()  # on planes that are not encoded yet
        self._worker, self._tell, self._changed = worker, tell, changed
        self._line: deque[Edit | Action] = deque()
        self._sure: list[Action] = []  # those in line, or at work, that are done whatever happens
        self._busy = False
        self._ahead: Ahead | None = None
        self._seen = clicks.read()  # what the layer showed when it was last looked at
        # As they came, with how many changes the session had then; and what was taken back since, None for one of these.
        self._since: dict[Given, int] = {}
        self._undone: list[tuple[Given, int] | None] = []
        self._taken = 0  # the highest label that no object may get, though the session knows nothing of it
        self._generation = 0  # results that were asked for in an earlier one are dropped

    @property
    def busy(self) -> bool:
        """Whether anything is being worked on or waits in line."""
        return self._busy or bool(self._line)

    @property
    def has_object(self) -> bool:
        """Whether there is an object that is neither committed nor cleared: clicked on, edited, or waiting for its plane."""
        return self.session.unfinished or bool(self.waiting)

    @property
    def noted(self) -> Saved:
        """What a journal notes, as the session's, with the current object's prompts that wait for their plane or in line."""
        noted, given = self.session.noted, self._current
        for one in self._line:
            if not isinstance(one, Edit):
                break  # what comes after it may be another object's
            given = merge(given, one.before, one.after)
        if given == self.session.given:
            return noted
        return replace(noted, current=replace(noted.current, prompts=in_order((*self.session.masks, *given))))

    @property
    def can_undo(self) -> bool:
        """Whether `undo` may change anything."""
        return self.session.can_undo or bool(self.waiting) or self.busy

    @property
    def can_redo(self) -> bool:
        """Whether `redo` may change anything."""
        return self.session.can_redo or bool(self._undone) or self.busy

    @property
    def _undoes(self) -> bool:
        """Whether there is something to undo or to redo, as far as what is in line does not change that."""
        session = self.session
        return session.can_undo or session.can_redo or bool(self.waiting or self._undone)

    @property
    def can_commit(self) -> bool:
        """Whether there may be an object to commit."""
        return bool(self.session.prompts) or self.busy

    @property
    def highest(self) -> int:
        """The highest label that is or was in the label image, except for the current object; 0 if there is none."""
        return max(self.session.highest, self._taken)

    @property
    def can_adapt(self) -> bool:
        """Whether there may be finished objects for a model to learn from."""
        return self.highest > 0 and bool(self.session.features.ready_planes().any())

    @property
    def can_find_similar(self) -> bool:
        """Whether there may be an object to use as an example."""
        return self.highest > 0 or self.can_commit

    @property
    def _current(self) -> tuple[Given, ...]:
        """The current object's clicks, including those that are still waiting."""
        return in_order((*self.session.given, *self.waiting))

    # --------------------------------------------------------------------------------- what people do

    def expect(self, click: Given) -> None:
        """Expect a click, because the mouse rests there or is pressed: the worker answers it ahead of time."""
        if self.busy or self.waiting:
            return
        clicks = (*self._current, click)
        if self._ahead is not None and self._ahead.serves(self.session, clicks):
            return
        ahead = self._ahead = Ahead(clicks, self.session.expected_size)

        def work() -> None:
            if self._ahead is ahead:  # the mouse may have moved on meanwhile
                ahead.answer = answer(self.session, ahead.clicks)

        # Nothing is shown and nobody is told: if the click comes, it asks again.
        self._worker.run(work, lambda _: None, lambda _: None)

    def edited(self) -> None:
        """Note that clicks were added, removed, moved or flipped."""
        now = self.clicks.read()
        if now != self._seen:
            self._line.append(Edit(self._seen, now))
            self._seen = now
            self._next()

    def undo(
        self, otherwise: Callable[[], Any] | None = None, nothing: Callable[[], Any] | None = None
    ) -> None:
        """Take back the last change: a click that still waits, or the session's last.

        `otherwise` is called instead where there is nothing to undo or to redo, once it is known, and `nothing` where there is
        nothing to undo.
        """

        def then(_: None) -> None:
            if otherwise is not None and not self._undoes:
                otherwise()
                return
            last = next(reversed(self._since), None)
            if last is not None and self._since[last] >= self.session.changes:
                self._undone.append((last, self._since.pop(last)))
                self.waiting = tuple(click for click in self.waiting if click != last)
            elif self.session.undo():
                self._undone.append(None)
            elif otherwise is not None and not self.session.unfinished:
                # On to the objects before: what was taken back of this one cannot be made again after that.
                self.session.clear()
                self._forget_undone()
                otherwise()
            elif nothing is not None:
                nothing()

        self.act(then)

    def redo(self, otherwise: Callable[[], Any] | None = None) -> None:
        """Make the change again that was undone; `otherwise` as in `undo`."""

        def then(_: None) -> None:
            if otherwise is not None and not self._undoes:
                otherwise()
                return
            again = self._undone.pop() if self._undone else None
            if again is None:
                self.session.redo()
                return
            click, since = again
            self._since[click] = since
            self.waiting = in_order((*self.waiting, click))
            self._line.append(AGAIN)

        self.act(then)

    def commit(self) -> None:
        """Write the object and start the next one."""

        def then(_: None) -> None:
            self._none_waits("commit")
            if rival := self.session.rival:
                raise ValueError(
                    f"Not committed: object {rival} is already there. Press Edit object and click on it to correct it, "
                    "check Overwrite other objects to take its pixels, or clear the clicks [Shift+C]."
                )
            self.session.commit()
            self._wait_for(())
            self._forget_undone()

        self.act(then)

    def new(self) -> None:
        """Start the next object; the current one is committed unless its mask is empty."""

        def then(_: None) -> None:
            self._none_waits("new object")
            self._leave()

        self.act(then)

    def clear(self) -> None:
        """Drop the current object's clicks; an object being edited becomes what it was."""

        def then(_: None) -> None:
            self._wait_for(())
            self.session.clear()
            self._forget_undone()

        self.act(then)

    def edit(
        self, label: int, *, new: bool = False, failed: Callable[[Exception], Any] | None = None
    ) -> None:
        """Continue a committed object, or one that is `new`; the current one is committed first unless its mask is empty.

        `failed` is called, if given, where there is no such object; see `Action`.
        """
        session = self.session
        adopt = partial(session.adopt_edit, new=new)
        self._once_left("edit", adopt, partial(session.compute_edit, label), failed)

    def delete(self, label: int) -> None:
        """Remove an object from the labels; the current one is committed first unless its mask is empty."""
        session = self.session
        self._once_left("delete", session.adopt_delete, partial(session.compute_delete, label))

    def propagate(
        self,
        told: Callable[[Sequence[Ended]], None],
        progress: Callable[[int, int], None],
        cancelled: Callable[[], bool],
    ) -> None:
        """Carry the object through the stack in the worker; `told` gets the planes before which it ends, and why."""
        ends: list[Ended] = []

        def work() -> Carried:
            self._none_waits("propagate")  # here, since what was asked before is done by now
            return self.session.compute_propagate(progress=progress, cancelled=cancelled, ended=ends.append)

        def then(carried: Carried) -> None:
            self.session.adopt_propagate(carried)
            told(ends)

        self.act(then, work)

    def find_similar(
        self,
        plane: Plane,
        box: Box,
        told: Callable[[int], None],
        progress: Callable[[int, int], None],
        cancelled: Callable[[], bool],
    ) -> None:
        """Finish the current object, and find similar ones in the worker; `told` gets how many there are."""
        session = self.session
        work = partial(session.compute_similar, plane, box, progress=progress, cancelled=cancelled)
        self._once_left("find similar", lambda similar: told(len(session.adopt_similar(similar))), work)

    def check_finished(self, asked: str, remedy: str = "commit or clear it first") -> None:
        """Refuse what would be mixed up with an unfinished object; the sentence begins with what was `asked`."""
        if self.has_object:
            raise ValueError(
                f"{asked} needs every object to be finished; object {self.session.label} is not: {remedy}."
            )

    def load(self, path: Path, told: Callable[[set[int]], Any]) -> None:
        """Replay saved clicks in the worker, if no object is open; `told` gets the labels of the objects that were finished."""

        def work() -> Replay:
            self.check_finished("Load clicks")  # what was asked before is done by now
            return self.session.compute_saved(path)

        def then(loaded: Replay) -> None:
            self.session.adopt_saved(loaded)
            told({record.label for record, _ in loaded.finished} & self.session.objects.keys())

        self.act(then, work)

    def encoded(self, plane: Plane | None = None) -> None:
        """Note that part of a plane was encoded, or that another process may have encoded some."""
        ready = self.session.features.ready
        if any(click.plane == plane or ready(click.plane) for click in self.waiting):
            self._line.append(AGAIN)
            self._next()

    def give_up(self, *, failed: bool) -> None:
        """Take back the clicks that wait, because nothing will be encoded for them: encoding has `failed`, or was stopped."""

        def then(_: None) -> None:
            if self.waiting:
                count, kinds = len(self.waiting), {type(click) for click in self.waiting}
                what = "click" if kinds == {Click} else "prompt"
                why = "" if failed else ", and encoding was stopped; click there again to encode it"
                were = "s were" if count > 1 else " was"
                self._tell(f"{count} {what}{were} taken back: {planes_are(self.waiting)} not encoded{why}.")
                self._wait_for(())
                self._forget_undone()

        self.act(then)

    def painted(self, label: int, stroke: Stroke) -> None:
        """Note a brush stroke with a label: no later object gets that label, and `undo` takes the stroke back in turn."""
        self.found(label)
        late = self.busy
        # Where its click is still being answered, nothing of the object is painted yet: it can have another number.
        if label == self.session.label:
            self.session.number_from(label + 1)

        def then(_: None) -> None:
            self.session.painted(stroke, late=late)
            self._undone.clear()

        self.act(then)

    def found(self, label: int) -> None:
        """Note that a label is in use: no object that begins later gets it, or a lower one."""
        self._taken = max(self._taken, label)

    def act(
        self,
        then: Callable[[Any], Any],
        work: Callable[[], Any] | None = None,
        failed: Callable[[Exception], Any] | None = None,
    ) -> None:
        """Do something once everything before it is done; see `Action`."""
        self._line.append(Action(then, work, failed))
        self._next()

    def make_sure(self, then: Callable[[Any], Any], work: Callable[[], Any]) -> None:
        """Do something as `act` does, and when this is closed before its turn comes, at once: what people want saved."""

        def done(call: Callable[[Any], Any], result: Any) -> None:
            self._sure.remove(action)
            call(result)

        def failed(error: Exception) -> None:
            raise error  # to be told, once it is no longer among those to be done

        action = Action(partial(done, then), Once(work), partial(done, failed))
        self._sure.append(action)
        self._line.append(action)
        self._next()

    def show_on(self, clicks: ClickList) -> None:
        """Continue with another layer of clicks; it shows what the old one did."""
        clicks.write(self.clicks.read())
        self.clicks = clicks
        self.act(lambda _: None)  # look at it when nothing waits in line

    def close(self) -> None:
        """Forget what waits in line and drop results that are still to come; finish writing what is done, and save."""
        self._generation += 1
        self._line.clear()
        self._busy = False
        try:
            self.session.backlog.work_off()
        except Exception as error:
            self._refuse(error)
        for action in tuple(self._sure):
            assert action.work is not None
            try:
                action.then(action.work())
            except Exception as error:
                self._refuse(error)

    def gone(self) -> None:
        """Do at once what people want saved: the window is gone, and nobody can be told."""
        for action in self._sure:
            assert action.work is not None
            try:
                action.work()
            except Exception as error:
                log.error("%s", error, exc_info=error)

    # --------------------------------------------------------------------------------------- the line

    def _next(self) -> None:
        while self._line and not self._busy:  # an action may put others in line, or begin them
            ahead, self._ahead = self._ahead, None  # what is done next may change the answer
            if isinstance(self._line[0], Edit):
                target = self._current
                former: dict[Given, Given] = {}
                while self._line and isinstance(edit := self._line[0], Edit):
                    target = merge(target, edit.before, edit.after)
                    former |= moved(edit.before, edit.after)
                    self._line.popleft()
                work = partial(answer, self.session, target, ahead, former)
                self._run(work, partial(self._do, partial(self._adopt, target != self._current)))
                continue
            action = self._line.popleft()
            assert isinstance(action, Action)
            if action.work is not None:
                failed = None if action.failed is None else partial(self._do, action.failed)
                self._run(action.work, partial(self._do, action.then), failed)
            else:
                self._do(action.then, None)
        if not self._busy:
            self._settle()

    def _do(self, then: Callable[[Any], Any], result: Any) -> None:
        session, self._busy = self.session, True  # what is asked for meanwhile comes after it
        try:
            with session.backlog.waiting():
                then(result)
        except Exception as error:
            self._refuse(error)
        session.number_from(self._taken + 1)
        self._write()

    def _write(self) -> None:
        """Write to the labels for as long as nobody notices, and the rest later; what is next in line waits for it."""
        try:
            self._busy = not self.session.backlog.work_off(TURN)
        except Exception as error:
            # What is left is tried again with the next change, and before the object is committed.
            self._busy = False
            self._refuse(error)
        if self._busy:
            self._worker.later(partial(self._go_on, self._generation))

    def _go_on(self, generation: int) -> None:
        if generation == self._generation:
            self._write()
            self._next()

    def _adopt(self, edited: bool, answer: Answer) -> None:
        """Take over an answer; where nobody `edited` anything, a plane was encoded, and what was undone can be redone."""
        waiting: list[Given] = []
        told: list[str] = []
        for click, error in answer.refused:
            if isinstance(error, NotEncodedError):
                waiting.append(click)
            elif str(error) not in told:  # many points pasted on one bad plane: one sentence
                told.append(str(error))
                self._refuse(error)
        if any(self.session.features.ready(click.plane) for click in waiting):
            self._line.append(AGAIN)  # the plane was finished while the click was being tried
        before, after = self.session.prompts, tuple(step.prompt for step in answer.steps)
        if after != before or not self._since.keys() >= {*waiting}:
            self._undone = [] if edited else [taken for taken in self._undone if taken is not None]
        self._wait_for(waiting)
        # Clicks that were answered together are still undone one by one.
        added = len(after) - len(before) if after[: len(before)] == before else 0
        for count in range(len(after) - max(added - 1, 0), len(after) + 1):
            self.session.adopt(answer.steps[:count])
        self._forget_undone()

    def _wait_for(self, clicks: Sequence[Given]) -> None:
        """Have these wait for their planes, from now on if they did not before."""
        self.waiting = tuple(clicks)
        came = {click: since for click, since in self._since.items() if click in clicks}
        self._since = came | {click: self.session.changes for click in clicks if click not in came}

    def _forget_undone(self) -> None:
        """Forget which clicks that waited were undone, if their object has none left."""
        if not self.waiting and not self.session.prompts:
            self._undone.clear()

    def _run(
        self,
        work: Callable[[], Any],
        done: Callable[[Any], None],
        failed: Callable[[Exception], None] | None = None,
    ) -> None:
        generation, self._busy = self._generation, True

        def finish(call: Callable[[Any], None], result: Any) -> None:
            if generation != self._generation:
                return
            self._busy = False
            call(result)
            self._next()

        self._worker.run(work, partial(finish, done), partial(finish, failed or self._refuse))
        self._changed()

    def _settle(self) -> None:
        """Let the layer show the current state, now that nothing waits in line."""
        shown = self.clicks.read()
        if shown != self._current:
            self.clicks.write(self._current)
            shown = self.clicks.read()
        self._seen = shown
        self._changed()

    def _refuse(self, error: Exception) -> None:
        if not isinstance(error, ValueError | TypeError | NotEncodedError | OSError):
            log.error("%s", error, exc_info=error)  # ours to mend; the person gets a sentence all the same
        self._tell(sentence(error))

    def _once_left(
        self,
        name: str,
        then: Callable[[Any], Any],
        work: Callable[[], Any],
        failed: Callable[[Exception], Any] | None = None,
    ) -> None:
        """Leave the current object, then do something with the finished ones, which are looked through in the worker."""

        def leave(_: None) -> None:
            self._none_waits(name)
            self._leave()
            self._line.appendleft(Action(then, work, failed))  # next in line

        self.act(leave)

    def _leave(self) -> None:
        """Commit the current object, or drop it if its mask is empty, or hardly more than what another object leaves of it."""
        self._undone.clear()
        if rival := self.session.rival:
            self._tell(f"Object {self.session.label} was dropped: nearly all of it is object {rival}.")
            self.session.clear()
        elif not self.session.empty:
            self.session.commit()
        elif self.session.prompts or self.session.can_undo:
            self.session.clear()  # though its clicks may be gone: somebody may have painted it, and its number is taken

    def _none_waits(self, name: str) -> None:
        if self.waiting:
            raise ValueError(
                f"{name.capitalize()} needs an answer to every click; {planes_are(self.waiting)} still being encoded: wait for "
                "that, or undo those clicks."
            )


def answer(
    session: Session,
    clicks: Sequence[Given],
    ahead: Ahead | None = None,
    former: Mapping[Given, Given] = MappingProxyType({}),
) -> Answer:
    """Compute an object from its clicks, unless that was done ahead; those that cannot be answered are left out and named.

    One that was moved (see `moved`) to where it cannot be answered is where it was before. Pure, for the worker thread.
    """
    if ahead is not None and ahead.answer is not None and ahead.serves(session, clicks):
        if not ahead.answer.refused:  # what was not encoded may be now
            return ahead.answer
    masks = session.masks_beside(clicks)
    try:
        return Answer(session.compute((*masks, *clicks)), ())
    except (ValueError, NotEncodedError):
        pass  # which ones? one at a time, the good ones before kept
    masks = session.masks_beside((*clicks, *former.values()))
    kept: list[Given] = []
    refused = []
    steps = session.compute(masks)
    for click in clicks:
        for place in _places(click, former):
            try:
                steps = session.compute((*masks, *kept, place), steps)
                kept.append(place)
                break
            except (ValueError, NotEncodedError) as error:
                refused.append((place, error))
                if isinstance(error, NotEncodedError):
                    break  # it waits there
    return Answer(steps, tuple(refused))


def _places(click: Given, former: Mapping[Given, Given]) -> Iterator[Given]:
    """Yield where a click is and where it was before, newest first."""
    tried: set[Given] = set()
    while click not in tried:
        yield click
        tried.add(click)
        click = former.get(click, click)


def moved(before: Sequence[Given], after: Sequence[Given]) -> dict[Given, Given]:
    """Return {click now: click before} of an edit that only changed clicks; empty if it added or removed some."""
    if len(before) != len(after):
        return {}
    return {now: old for old, now in zip(before, after, strict=True) if now != old}


def merge(current: Sequence[Given], before: Sequence[Given], after: Sequence[Given]) -> tuple[Given, ...]:
    """Apply the edit that led from `before` to `after` to another list of clicks.

    This is for edits made while an earlier action (an undo, say) is still being worked on: what was removed is
    removed from `current`, and what was added goes to its end.
    """
    if tuple(current) == tuple(before):
        return tuple(after)
    removed, added = Counter(before) - Counter(after), Counter(after) - Counter(before)
    kept = [click for click in current if not _take(removed, click)]
    return (*kept, *(click for click in after if _take(added, click)))


def sentence(error: Exception) -> str:
    """Return what an error says, in one line that begins as sentences do."""
    if said := of_system(error):
        return said
    # KeyError quotes what it says.
    told = error.args[0] if isinstance(error, KeyError) and error.args else error
    text = next(iter(str(told).splitlines()), "")
    if text.partition(" ")[0].isalpha():  # and not the name of a file
        text = text[0].upper() + text[1:]
    return text or f"{type(error).__name__}: an unexpected error; the log has the details."


def _take(counts: Counter[Given], click: Given) -> bool:
    """Use up one of `click`, if there is one left."""
    if counts[click] <= 0:
        return False
    counts[click] -= 1
    return True
