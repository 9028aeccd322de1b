"""Names in figures."""

import os
import warnings

import pytest

from visionbench.figures import figure
from visionbench.figures.figure import Figure, cut, new_canvas

pytestmark = pytest.mark.fast


@pytest.fixture
def own_font(monkeypatch):
    """Only the font of matplotlib, as on a machine without others."""
    default = figure.font_manager.findfont("DejaVu Sans")
    monkeypatch.setattr(figure, "_fonts", lambda: [default])
    figure.has_glyph.cache_clear()
    yield
    figure.has_glyph.cache_clear()


@pytest.mark.parametrize(
    ("name", "drawn"),
    [
        ("caf\u00e9", "caf\u00e9"),
        ("\u0643\u0644\u0628", "\u0643\u0644\u0628"),
        ("\u732b", r"\u732b"),
        ("cat \u732b\u72ac", r"cat \u732b\u72ac"),
        ("\U0001f9a5", r"\U0001f9a5"),
        (os.fsdecode(b"caf\xe9"), r"caf\udce9"),
        ("a\x07b", r"a\x07b"),
        ("$a$", r"\$a\$"),
        ("\u732b" * 40, r"\u732b...\u732b"),
        ("a" * 20 + "b" * 20, "a" * 11 + "..." + "b" * 10),
    ],
)
def test_a_name_is_drawn_without_a_warning(name, drawn, own_font):
    text = cut(name, 24)
    assert text == drawn
    canvas = new_canvas(3, 2)
    axes = canvas.subplots()
    axes.set_title(text)
    axes.set_yticks([0], [text])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for is_curve in (True, False):
            Figure("name", canvas, [], [], is_curve).picture()


def test_another_font_is_used_where_it_has_the_glyph(monkeypatch):
    """Of matplotlib's own fonts, since no other needs to be installed: one that has a letter which the first lacks."""
    fonts = [figure.font_manager.findfont(name) for name in ("cmr10", "DejaVu Sans")]
    monkeypatch.setattr(figure, "_fonts", lambda: fonts)
    monkeypatch.setattr(figure, "FONTS", ["cmr10"])
    figure.has_glyph.cache_clear()
    assert cut("\u0436", 24) == "\u0436"
    assert figure.FONTS == ["cmr10", "DejaVu Sans"]
    figure.has_glyph.cache_clear()
