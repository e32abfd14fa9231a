"""Pictures and tables show what there is, whatever the images, the names and their number."""

import io
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

from lip_mmdet.errors import InputError
from lip_mmdet.evaluation import detections_from, ground_truth_from, tables
from lip_mmdet.visualization import boxes, curves, plot_detections_beside_truth, theme
from lip_mmdet.visualization.importance import ImportancePage, ImportanceView, draw_importance
from lip_mmdet.visualization.study import draw_cost

LONG = 'faster-rcnn_lip-r50_fpn_1x_coco_seed{}_epoch_12_val'


@pytest.mark.parametrize('how', ['RGB', 'RGBA', 'L', 'P', 'exif', '16 bits'])
def test_a_picture_is_read_as_mmdetection_reads_it(tmp_path, how):
    pixels = np.full((30, 50, 3), 60, np.uint8)
    pixels[5:10, 40:48] = 250  # at the top right
    image, path, options = Image.fromarray(pixels), tmp_path / 'image.png', {}
    if how == 'exif':  # turned when it is shown, as a camera stores it
        image, exif = image.transpose(Image.ROTATE_90), Image.Exif()
        exif[0x0112] = 6
        path, options = tmp_path / 'image.jpg', dict(exif=exif, quality=95)
    elif how == '16 bits':
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 16)
    else:
        image = image.convert(how)
    image.save(path, **options)
    read = boxes.read_picture(path)
    assert read.shape == (30, 50, 3) and read.dtype == np.uint8
    assert read[7, 44].min() > 240 and read[20, 10].max() < 70
    path.write_bytes(path.read_bytes()[:60])
    assert boxes.read_picture(path) is boxes.read_picture(tmp_path / 'missing.png') is None


def test_a_large_image_is_drawn_at_the_size_that_is_seen():
    assert boxes.shrunk(np.zeros((2000, 3100, 3), np.uint8)).shape == (667, 1034, 3)
    figure = boxes.draw_boxes(
        np.zeros((2000, 3100, 3), np.uint8), np.array([[2900.0, 0, 100, 90]]), ['error'], ['x' * 99]
    )
    (axes,) = figure.axes
    assert axes.get_xlim() == (0, 3100) and axes.images[0].get_extent() == [0, 3100, 2000, 0]
    # A label at the right border lies within the image.
    box = axes.texts[0].get_window_extent(FigureCanvasAgg(figure).get_renderer())
    assert box.x1 <= figure.bbox.x1 and len(axes.texts[0].get_text()) < 70


def evaluation_of(precision):
    shape = (10, 101, 3, 4, 3)
    return SimpleNamespace(
        precision=np.full(shape, precision),
        iou_thresholds=np.linspace(0.5, 0.95, 10),
        recall_levels=np.linspace(0, 1, 101),
    )


def legend_of(figure: Figure):
    FigureCanvasAgg(figure).draw()
    (legend,) = figure.legends or [figure.axes[-1].get_legend()]
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1
    assert box.y0 >= 0 and box.y1 <= figure.bbox.y1
    assert figure.axes[0].get_window_extent().height > 150
    return [text.get_text() for text in legend.get_texts()]


def test_every_detector_has_a_name_in_the_legend_and_a_colour_of_its_own():
    names = ['measured', *(LONG.format(n) for n in range(5)), 'x' * 300]
    figure = curves.ap_over_iou({name: evaluation_of(0.3) for name in names})
    shown = legend_of(figure)
    assert shown[:-1] == names[:-1] and len(shown[-1]) <= 60
    colours = {line.get_color() for line in figure.axes[0].lines}
    assert len(colours) == len(names) and not any(colour.startswith('C') for colour in colours)
    assert legend_of(curves.ap_over_iou({'a': evaluation_of(0.0)})) == ['a']


def test_letters_that_matplotlibs_font_lacks_are_drawn_by_another(monkeypatch, recwarn, caplog):
    drawn = []
    for fonts in ((), ('no such font', 'STIXGeneral')):
        monkeypatch.setattr(theme, 'OTHER_LETTERS', fonts)
        with theme.names_as_written():
            figure = Figure(figsize=(1, 1))
            figure.text(0.2, 0.2, 'a\u2a5e', fontsize=30)
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
        drawn.append(np.asarray(canvas.buffer_rgba()))
    assert not np.array_equal(*drawn)
    assert not len(recwarn) and not caplog.records


@pytest.mark.parametrize('count', [1, 40])
def test_every_arm_of_a_study_has_a_place_in_the_legend(count):
    arms = [f'arm {n}' for n in range(count)]
    costs = {arm: {'mega_multiply_adds': 9.0, 'milliseconds': 9.0} for arm in arms}
    assert legend_of(draw_cost({arm: {'AP': [0.4]} for arm in arms}, costs)) == arms


def test_axes_of_ap_begin_at_0_and_of_many_classes_the_extremes_are_drawn():
    summary = SimpleNamespace(
        label='a',
        comparisons=[],
        reference=None,
        breakdown=SimpleNamespace(
            figures=dict(APS=0.0, APM=0.0, APL=None),
            per_class=[dict(id=i, name=f'class {i}', AP=i / 4000) for i in range(3000)],
        ),
    )
    for figure in (curves.ap_by_area(summary), curves.ap_over_iou({'a': evaluation_of(0.0)})):
        low, high = figure.axes[0].get_ylim()
        assert low == 0 and high >= 1
    figure = curves.ap_per_class(summary)
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == [f'class {i}' for i in (*range(50), *range(2950, 3000))]
    assert figure.get_figheight() < 25


@pytest.mark.parametrize('width', [80, 140])
def test_no_figure_is_cut_where_a_table_is_wider_than_the_terminal(width):
    columns = [f'over {LONG.format(n)}' for n in range(4)]
    rows = [(f'class {n} ' * 20, [f'{n}{c}.{c}' for c in range(4)]) for n in range(1, 3)]
    text = io.StringIO()
    console = Console(file=text, width=width)
    tables.print_tables([tables.Table('By class', columns, rows)], console)
    for _, cells in rows:
        assert any(all(cell in line for cell in cells) for line in text.getvalue().splitlines())
    assert all(column in text.getvalue() for column in columns)
    tables.print_tables([tables.Table('Nothing', ['AP'], [])], console)


def test_importance_of_odd_names_and_shapes(tmp_path):
    view = ImportanceView(
        np.zeros((20, 400, 3), np.uint8),
        np.array([[5.0, 5, 10, 10]]),
        ['$x^$ 細 0.50'],
        {f'stride {s} ({"stage2.0.fuse_layers.1" * 3})': np.zeros((20, 400)) for s in (4, 8)},
    )
    page = ImportancePage(tmp_path, 'odd')
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # of letters that the font lacks
        path = page.add('長' * 84 + '.png', view)
        again = page.add('$a^$ #1%20.png', view)
    assert path.is_file() and again.name == '001__a____1_20.png'
    # A panorama is as wide as the picture, not a quarter of it.
    figure = draw_importance(view)
    FigureCanvasAgg(figure).draw()
    assert figure.axes[0].get_window_extent().width > 0.8 * figure.bbox.width
    square = ImportanceView(np.zeros((90, 90, 3), np.uint8), view.boxes, view.labels, view.levels)
    figure = draw_importance(square)
    FigureCanvasAgg(figure).draw()
    titles = [axes.title.get_window_extent() for axes in figure.axes[:3]]
    assert titles[0].x0 >= 0 and titles[-1].x1 <= figure.bbox.x1
    assert all(left.x1 < right.x0 for left, right in zip(titles, titles[1:]))


def test_detections_beside_truth_need_their_images(tmp_path):
    content = dict(
        images=[dict(id=1, file_name='turned.jpg', width=50, height=30)],
        categories=[dict(id=1, name='a')],
        annotations=[dict(id=1, image_id=1, category_id=1, bbox=[5, 5, 9, 9], area=81, iscrowd=0)],
    )
    truth = ground_truth_from(content, 'truth')
    found = detections_from([], truth, 'results')
    with pytest.raises(InputError, match='is not there, or no image'):
        plot_detections_beside_truth(truth, found, tmp_path, tmp_path / 'out.png')
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (30, 50)).save(tmp_path / 'turned.jpg', exif=exif)
    plot_detections_beside_truth(truth, found, tmp_path, tmp_path / 'out.png')
    width, height = Image.open(tmp_path / 'out.png').size
    # Of a high image the two would be a picture more than three times as high as wide.
    assert height < 2.5 * width
