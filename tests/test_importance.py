"""What LIP looks at, as pictures: the tool's page, the hook's images, padding cut off."""

import re
import shutil

import mmcv
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from test_recording import randomised
from tiny_detector import run_tool, write_tiny_project

import lip_mmdet.plugin  # noqa: F401
from lip_mmdet.engine import importance
from lip_mmdet.engine.detector import image_files, load_detector
from lip_mmdet.engine.importance import importance_views
from lip_mmdet.errors import InputError
from lip_mmdet.layers import ImportanceMap
from lip_mmdet.visualization.importance import cut_padding, draw_importance, draw_pixels


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """A tiny detector without training, whose LIP layers choose."""
    folder = tmp_path_factory.mktemp('see')
    config = Config.fromfile(write_tiny_project(folder))
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = randomised(MODELS.build(config.model))
    torch.save(dict(state_dict=model.state_dict(), meta={}), folder / 'weights.pth')
    return folder


def test_padding_is_cut_off_and_pixels_stay_where_they_are():
    grid = np.arange(12.0).reshape(3, 4)  # over a canvas of 24 x 32 pixels, 8 each
    cut = cut_padding(grid, (24, 32), (20, 17))
    assert cut.shape == (20, 17)
    expected = grid.repeat(8, 0).repeat(8, 1)[:20, :17]
    np.testing.assert_array_equal(cut, expected)
    # A canvas that is no multiple of the grid's cells: the nearest.
    assert cut_padding(grid, (23, 30), (23, 30)).shape == (23, 30)


def test_the_tool_draws_what_is_an_image_and_names_what_is_not(project):
    images = project / 'images'
    images.mkdir()
    shutil.copy(project / 'data' / 'images' / 'val_0000.png', images)
    (images / 'broken.png').write_bytes(b'no image')
    mmcv.imwrite(np.full((40, 150, 3), 90, np.uint8), str(images / 'a <wide> & grey one.jpg'))
    args = ('tiny.py', 'weights.pth', 'images', '--out', 'seen')
    done = run_tool('show_importance.py', *args, folder=project)
    out = project / 'seen'
    assert done.stdout.splitlines()[-1] == 'open seen/index.html'
    lines = [line for line in done.stderr.splitlines() if 'broken' in line]
    assert lines == ['left out: images/broken.png cannot be read as an image']
    assert 'Traceback' not in done.stderr
    assert len(list(out.glob('*.png'))) == 2  # a picture of each
    page = (out / 'index.html').read_text(encoding='utf-8')
    assert 'a &lt;wide&gt; &amp; grey one.jpg' in page and '<wide>' not in page
    assert '://' not in page  # nothing from elsewhere
    for source in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert source.startswith('data:') or (out / source).is_file()
    # As many levels as strides.
    assert page.count('<option>') == 4


def test_levels_and_channels_cover_the_image(project):
    model = load_detector(Config.fromfile(project / 'tiny.py'), project / 'weights.pth')
    wide = project / 'wide.png'
    mmcv.imwrite(np.random.default_rng(0).integers(0, 256, (40, 150, 3), np.uint8), str(wide))
    ((_, view),) = importance_views(model, [wide])
    assert [label.split(' (')[0] for label in view.levels] == [
        f'stride {s}' for s in (4, 8, 16, 32)
    ]
    # Resized to 128 x 34 pixels, padded to 128 x 64: none of the padding is shown.
    assert {values.shape for values in view.levels.values()} == {(34, 128)}
    assert all(v.min() >= 0 and v.max() <= 100 for v in view.levels.values())
    assert len(view.channels) == 3
    assert draw_pixels(draw_importance(view)).dtype == np.uint8


def test_levels_are_named_by_stride_on_canvases_that_are_no_multiple_of_it():
    maps = {
        f'layer{n}.0.shortcut_logit': ImportanceMap(torch.zeros(0), torch.zeros(1, *size), 2.2)
        for n, size in {2: (54, 33), 4: (14, 9)}.items()
    }
    labels = [label for label, _ in importance._levels(maps, 0, (427, 260))]
    assert labels == [
        'stride 8 (layer2.0.shortcut_logit)',
        'stride 32 (layer4.0.shortcut_logit)',
    ]


def test_what_does_not_fit_or_is_not_there_is_refused(project):
    with pytest.raises(InputError, match='missing does not exist'):
        list(image_files([project / 'missing']))
    (project / 'empty').mkdir()
    with pytest.raises(InputError, match='holds no images'):
        list(image_files([project / 'empty']))
    config = Config.fromfile(project / 'tiny.py')
    config.model.backbone.type = 'ResNet'
    with pytest.raises(InputError, match='fits the model in part'):
        load_detector(config, project / 'weights.pth')
    model = MODELS.build(config.model).eval()
    model.cfg, model.dataset_meta = config, dict(classes=())
    with pytest.raises(InputError, match='no LIP layer ran'):
        list(importance_views(model, sorted((project / 'data' / 'images').iterdir())[:1]))


def test_the_hook_shows_the_first_images_of_a_validation(project, monkeypatch):
    monkeypatch.chdir(project)
    config = Config.fromfile('tiny.py')
    config.default_hooks.importance = dict(type='LIPVisualizationHook', num_images=3, min_score=0.0)
    config.val_dataloader.batch_size = 2
    config.work_dir, config.load_from = 'hook', 'weights.pth'
    runner = Runner.from_cfg(config)
    scores = runner.val()
    shown = sorted(path.name for path in (project / 'hook').rglob('importance_*.png'))
    assert [name.split('_')[1] for name in shown] == ['0', '1', '2']
    # It looks on only.
    runner._hooks = [hook for hook in runner._hooks if 'LIPVisu' not in type(hook).__name__]
    assert runner.val() == scores
