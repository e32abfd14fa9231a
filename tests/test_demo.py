"""The demo's page leads to what the demo writes, and its bar reads MMEngine's lines."""

import re
from pathlib import Path

import demo
import pytest

from lip_mmdet.evaluation import AP_FIGURES

WRITTEN = (
    'report/index.html', 'importance/index.html', 'importance/000_val_0000.png', 'epoch_6.pth',
    'scores.json', 'scores.txt', 'train.log', 'eval.log', 'importance.log', 'predictions.png',
    'loss.png',
)  # fmt: skip


def test_the_page_leads_to_files_of_the_demo_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in WRITTEN:
        path = demo.OUT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    figures = {name: 0.5 + i / 100 for i, name in enumerate(AP_FIGURES)}
    page = demo.write_page(figures, Path('somewhere/epoch_6.pth'))
    text = page.read_text(encoding='utf-8')
    links = set(re.findall(r'(?:href|src)="([^"]+)"', text))
    assert links and links <= set(WRITTEN)
    assert all(word in text for word in ('51.0', demo.CONFIG))
    assert '://' not in text
    sources = (demo.ROOT / 'README.md').read_text(encoding='utf-8')
    for heading in re.findall(r'README\.md, (?:&quot;|")([^"&]+)', text):
        assert f'## {heading}\n' in sources


@pytest.mark.parametrize(
    ('line', 'position'),
    [
        ('INFO - Epoch(train) [2][ 10/50]  lr: 2e-04', ('2', '10', '50')),
        ('INFO - Epoch(test) [20/20]    data_time: 0.1', (None, '20', '20')),
        ('[3/8] work_dirs/demo/importance/002_val_0002.png', (None, '3', '8')),
    ],
)
def test_the_bar_knows_how_far_a_command_is(line, position):
    assert demo._POSITION.search(line).groups() == position
