"""Where an object that is carried through a stack ends is told in a sentence."""

from __future__ import annotations

from napari_interformer.gaps import Ended, Reason, where_it_ends


def test_where_an_object_ends_comes_first_and_then_why():
    unlike, gone = Ended((8,), Reason.UNLIKE), Ended((15,), Reason.VANISHED)
    assert where_it_ends([]) == ""
    assert where_it_ends([unlike]) == "Ends before plane 8: what is there looks like the surroundings."
    assert where_it_ends([unlike, Ended((9,), Reason.UNLIKE)]).startswith("Ends before planes 8 and 9: what")
    assert where_it_ends([unlike, gone]) == (
        "Ends before planes 8 and 15. Plane 8: what is there looks like the surroundings. "
        "Plane 15: almost nothing is left of it."
    )
    many = [Ended((0, z), Reason.UNLIKE) for z in range(9)]
    assert "(0, 0), (0, 1), (0, 2) and (0, 3) and others" in where_it_ends(many)
    assert where_it_ends([unlike] * 2) == where_it_ends([unlike]), "two clicked planes have one between them"
