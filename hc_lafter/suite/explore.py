"""A figure with sliders, for a notebook: they wrap where the page is narrow, and the picture is drawn in its place."""

from __future__ import annotations

import io
from collections.abc import Callable

import ipywidgets
import matplotlib.pyplot as plt
from IPython.display import Image, display
from matplotlib.figure import Figure

DPI = 110  # of the picture on the page: a third of the time of a printed one


def explore(draw: Callable[..., Figure], **sliders: ipywidgets.Widget) -> None:
    """Show the sliders and, below them, ``draw(**values)``; moving one draws the picture anew, in its place.

    Without a live kernel the first picture stays. A slider fills its row up to 26 em and wraps below that, so that its
    track is never shorter than a narrow page allows.

    Args:
        sliders: argument of ``draw`` -> a widget with a ``value``; its name is the slider's description unless it has
            one.
    """
    for name, slider in sliders.items():
        slider.description = slider.description or name
        slider.continuous_update = False  # once, when the mouse lets go
        slider.style.description_width = "initial"
        slider.layout = ipywidgets.Layout(flex="1 1 26em", min_width="14em", max_width="100%", width="auto")
    page = ipywidgets.Layout(display="flex", flex_flow="row wrap", width="100%")
    display(ipywidgets.Box(list(sliders.values()), layout=page))

    def drawn() -> Image:
        figure, buffer = draw(**{name: slider.value for name, slider in sliders.items()}), io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI)
        plt.close(figure)
        return Image(buffer.getvalue())

    picture = display(drawn(), display_id=True)
    for slider in sliders.values():
        slider.observe(lambda _: picture.update(drawn()), names="value")
