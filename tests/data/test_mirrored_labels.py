"""Labels that a horizontal flip would exchange: pairs of left and right in many languages, and what looks like one."""

import pytest

from timesformer_hf import read_labels
from timesformer_hf.data.mirrored_labels import find_mirrored_labels


PAIRS = [
    ("moves left", "moves right"),
    ("turnLeft", "turnRight"),
    ("TURN_LEFT", "TURN_RIGHT"),
    ("pan_left", "tilt_up", "right pan"),
    ("clockwise", "counterclockwise"),
    ("roll_counter-clockwise", "roll_clockwise"),
    ("cw", "ccw"),
    ("links", "rechts"),
    ("Linkskurve", "Rechtskurve"),
    ("linke Hand", "rechte Hand"),
    ("im Uhrzeigersinn", "gegen den Uhrzeigersinn"),
    ("à gauche", "à droite"),
    ("sens horaire", "sens anti-horaire"),
    ("hacia la izquierda", "hacia la derecha"),
    ("sinistra", "destra"),
    ("esquerda", "direita"),
    ("w lewo", "w prawo"),
    ("lewa ręka", "prawa ręka"),
    ("влево", "вправо"),
    ("левый", "правый"),
    ("по часовой стрелке", "против часовой стрелки"),
    ("vlevo", "vpravo"),
    ("vänster", "höger"),
    ("venstre", "høyre"),
    ("向左", "向右"),
    ("左", "右"),
    ("顺时针", "逆时针"),
    ("時計回り", "反時計回り"),
    ("왼쪽으로", "오른쪽으로"),
    ("αριστερά", "δεξιά"),
    ("sola dön", "sağa dön"),
    ("يسار", "يمين"),
    ("שמאלה", "ימינה"),
    ("linksom", "rechtsom"),
    ("ліворуч", "праворуч"),
    ("trái", "phải"),
    ("बाएं", "दाएं"),
    ("ซ้าย", "ขวา"),
    ("stânga", "dreapta"),
    ("vasen", "oikea"),
    ("balra", "jobbra"),
    ("lefthand", "righthand"),
    ("from left to right", "from right to left"),
    ("left", "right", "static"),
    ("swipe-left", "swipe-right"),
]
OTHERS = [
    ("copyright", "left"),
    ("all right", "turn left"),
    ("bright", "left"),
    ("left", "jump"),
    ("right", "wrong"),
    ("from left to right", "jump"),
    ("counterclockwise", "jump"),
    ("cat", "dog"),
    ("clockwise", "still"),
    ("theft", "fright"),
    ("soleil", "sage"),
    ("逆时针", "跳"),
    ("balance", "job"),
    ("lev", "praha"),
    ("левка", "правда"),
    ("up", "down"),
    (),
]


@pytest.mark.parametrize("names", PAIRS)
def test_left_and_right_are_found_in_any_language(names):
    assert set(find_mirrored_labels(names)) <= set(names)
    assert find_mirrored_labels(names[::-1]) is not None


@pytest.mark.parametrize("names", OTHERS)
def test_what_only_looks_like_a_pair_is_none(names):
    assert find_mirrored_labels(names) is None


def test_the_pair_that_differs_in_nothing_else_is_named():
    names = ["walk left", "jump right", "look left", "look right"]
    assert find_mirrored_labels(names) == ("look left", "look right")


def test_of_the_public_data_sets_only_ssv2_has_directions():
    """The authors flip in training on Kinetics, and not on Something-Something."""
    names = ("kinetics400", "kinetics600", "ssv2", "diving48", "hmdb51", "ucf101")
    assert [name for name in names if find_mirrored_labels(read_labels(name))] == ["ssv2"]
