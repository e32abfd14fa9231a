"""Where LIP chooses in an image: a picture, and a page with a slider for many. No torch.

Colours are those of cividis and inferno, which eyes of all kinds see as dark to bright.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave

from lip_mmdet.files import replace_on_success, write_text
from lip_mmdet.visualization.boxes import draw_boxes, shrunk
from lip_mmdet.visualization.report_style import STYLE
from lip_mmdet.visualization.theme import names_as_written, shortened

# Trained networks hardly ever go past it, and one scale for all makes pictures comparable.
BRIGHTEST = 50
MOST_LABELS = 12  # More would hide the image.
_COLOURS = 'inferno'
_LEGEND = (
    '0 %: averages; 100 % would be one position of a window taken and the rest left. '
    f'Colours end at {BRIGHTEST} %. Borders are warm where convolutions see the zeros beyond them.'
)


@dataclass(frozen=True)
class ImportanceView:
    """An image, what a detector found in it and where its LIP layers chose.

    Attributes:
        image: RGB pixels, (height, width, 3), uint8.
        boxes: [x, y, width, height] of the detections in pixels of the image, (N, 4).
        labels: their texts, N.
        levels: label -> selectivity in percent of the largest possible, (h, w) of any size; it
            covers the image and nothing else. Finest first.
        channels: label -> logit of a channel, likewise.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: list[str]
    levels: dict[str, np.ndarray]
    channels: dict[str, np.ndarray] = field(default_factory=dict)


def cut_padding(
    values: np.ndarray, canvas: tuple[float, float], content: tuple[float, float]
) -> np.ndarray:
    """Bring a map of a padded canvas to the pixels of its content; the nearest value is taken.

    Args:
        values: (h, w), a grid over the canvas.
        canvas: height and width that it covers, in pixels.
        content: height and width of what lies at the top left of it.

    Returns:
        (height, width) of the content, rounded.
    """
    rows, columns = (
        np.minimum((np.arange(max(1, round(c))) + 0.5) * n / whole, n - 1).astype(int)
        for n, whole, c in zip(values.shape, canvas, content)
    )
    return values[rows[:, None], columns]


@names_as_written()
def draw_importance(view: ImportanceView) -> Figure:
    """Draw an image with its detections, the selectivity of each level, and channels of a logit."""
    panels = 1 + len(view.levels) + len(view.channels)
    high = min(view.image.shape[0] / view.image.shape[1], 3)
    columns = min(panels, 4 if high > 0.4 else 2 if high > 0.15 else 1)  # of panoramas fewer
    rows = -(-panels // columns)
    width = 3.2 * 4 / columns if high <= 0.4 else 3.2  # of a panel, in inches
    height = max(width * high, 0.9)
    # A bar takes an eighth of a panel's width, and titles their lines.
    size = (width * columns, (0.88 * height + 0.3) * rows + 0.3)
    figure = Figure(figsize=size, layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis('off')
    extent = (0, view.image.shape[1], view.image.shape[0], 0)
    axes[0].imshow(draw_pixels(_detections(view, width)), extent=extent)
    axes[0].set_title(f'detections: {len(view.labels)}', fontsize=8)
    grey = shrunk(view.image).mean(-1)
    for axis, (label, values) in zip(axes[1:], view.levels.items()):
        axis.imshow(grey, cmap='gray', vmin=0, vmax=255, extent=extent)
        shown = axis.imshow(values, cmap=_COLOURS, vmin=0, vmax=BRIGHTEST, alpha=0.8, extent=extent)
        _finish(axis, f'selectivity (%), {shortened(label, 30)}', shown, extend='max')
    for axis, (label, values) in zip(axes[1 + len(view.levels) :], view.channels.items()):
        _finish(axis, f'logit, {label}', axis.imshow(values, cmap='cividis', extent=extent))
    figure.supxlabel(_LEGEND, fontsize=8)
    return figure


@names_as_written()
def draw_pixels(figure: Figure, dpi: int = 130) -> np.ndarray:
    """Render a figure to RGB pixels, (height, width, 3), uint8."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _finish(axis: Axes, title: str, shown, **options) -> None:
    axis.set_title(title, fontsize=8)
    bar = axis.figure.colorbar(shown, ax=axis, shrink=0.8, pad=0.02, **options)
    bar.ax.tick_params(labelsize=7)


def _detections(view: ImportanceView, width: float = 6) -> Figure:
    count = len(view.boxes)
    labels = view.labels if count <= MOST_LABELS else [''] * count
    # The best come first, and are drawn on top.
    return draw_boxes(view.image, view.boxes[::-1], ['hit'] * count, labels[::-1], width)


class ImportancePage:
    """A page over many images, whose slider fades from an image to where LIP chose in it.

    Args:
        folder: gets ``index.html`` and, for each image, a picture and the page's layers of it.
        title: of the page.
    """

    def __init__(self, folder: str | Path, title: str) -> None:
        self.folder = Path(folder)
        self.title = title
        self._figures: list[str] = []
        self._levels: dict[str, None] = {}  # in order

    @names_as_written()
    def add(self, name: str, view: ImportanceView) -> Path:
        """Write an image's picture, whose path is returned, and put the image on the page.

        Args:
            name: of the image, shown and, with what a file name may hold, that of its files.
            view: what there is to see.

        Raises:
            InputError: the folder cannot be written to.
        """
        stem = self._free_stem(name)
        path = self.folder / f'{stem}.png'
        with replace_on_success(path) as file:
            draw_importance(view).savefig(file, dpi=130)
        pieces = [self._layer(f'{stem}_image', draw_pixels(_detections(view)), '')]
        for number, (label, values) in enumerate(view.levels.items()):
            self._levels.setdefault(label)
            colours = colormaps[_COLOURS](np.clip(values / BRIGHTEST, 0, 1), bytes=True)
            pieces.append(self._layer(f'{stem}_level{number}', colours, label))
        self._figures.append(
            f'<figure><div class="stack">{"".join(pieces)}</div>'
            f'<figcaption>{escape(name)}, detections: {len(view.labels)}; '
            f'<a href="{escape(path.name)}">all maps</a></figcaption></figure>'
        )
        return path

    def write(self) -> Path:
        """Write the page of what was added and return its path."""
        page = self.folder / 'index.html'
        options = ''.join(f'<option>{escape(label)}</option>' for label in self._levels)
        with replace_on_success(page) as file:
            write_text(
                file,
                _PAGE.format(
                    title=escape(self.title),
                    style=STYLE + _STYLE,
                    options=options,
                    legend=escape(_LEGEND),
                    bar=_bar(),
                    brightest=BRIGHTEST,
                    figures=''.join(self._figures),
                ),
                page,
            )
        return page

    def _layer(self, name: str, pixels: np.ndarray, level: str) -> str:
        path = self.folder / 'layers' / f'{name}.png'
        with replace_on_success(path) as file:
            imsave(file, pixels)
        kind = f'class="level" data-level="{escape(level)}"' if level else ''
        return f'<img {kind} src="layers/{path.name}" alt="{escape(level or name)}" loading="lazy">'

    def _free_stem(self, name: str) -> str:
        """Return a file name for an image, another for each."""
        stem = ''.join(c if c.isalnum() or c in '-_.' else '_' for c in Path(name).stem) or 'image'
        # A file's name may have 255 bytes, and what is added takes some.
        return f'{len(self._figures):03d}_{stem.encode()[:150].decode(errors="ignore")}'


def _bar() -> str:
    """Return the colours as an image for the page."""
    buffer = io.BytesIO()
    imsave(buffer, np.linspace(0, 1, 128)[None].repeat(8, 0), cmap=_COLOURS, format='png')
    return base64.b64encode(buffer.getvalue()).decode('ascii')


_STYLE = """
.controls { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; gap: 8px 22px;
  align-items: center; padding: 12px 0; background: var(--page); }
.controls label { display: flex; gap: 8px; align-items: center; }
.controls input { width: 220px; }
select { font: inherit; max-width: 260px; }
.bar { display: flex; gap: 8px; align-items: center; font-size: 13px; }
.bar img { width: 140px; height: 12px; }
.stack { position: relative; }
.stack img { width: 100%; display: block; border-radius: 6px; }
.stack .level { position: absolute; inset: 0; height: 100%; opacity: var(--shown, .6);
  image-rendering: pixelated; }
.stack .level.off { display: none; }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head>
<body><header><p class="kicker">What LIP looks at</p><h1>{title}</h1>
<p class="summary">Selectivity: how much of a choice LIP makes among the positions of a window.
{legend}</p></header><main>
<div class="controls">
<label>image <input id="fade" type="range" min="0" max="100" value="60"> LIP</label>
<label>level <select id="level">{options}</select></label>
<span class="bar">0 % <img alt="dark to bright" src="data:image/png;base64,{bar}">
{brightest} % and more</span>
</div>
<div class="grid">{figures}</div></main><footer></footer>
<script>
const fade = document.getElementById('fade'), level = document.getElementById('level');
function show() {{
  document.body.style.setProperty('--shown', fade.value / 100);
  for (const image of document.querySelectorAll('.level'))
    image.classList.toggle('off', image.dataset.level !== level.value);
}}
fade.oninput = level.onchange = show;
show();
</script></body></html>
"""
