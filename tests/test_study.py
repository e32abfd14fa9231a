"""A study counts what is done, checks its figures, and tells what is compared."""

import gzip
import json
import shutil

import pytest
from tiny_detector import run_tool, write_tiny_project

import lip_mmdet.plugin  # noqa: F401
from lip_mmdet.errors import InputError
from lip_mmdet.study import carry_out, check_figures, plan, read_study, write_costs, write_results
from lip_mmdet.study.results import score

STUDY = """
name = 'tiny'
results = '{folder}/kept'
truth = 'val.json'
arms = [
    dict(name='plain', config='tiny.py', seeds=[0, 1], changes={{'model.backbone.type': 'ResNet'}}),
    dict(name='lip', label='with LIP', config='tiny.py', seeds=[0, 1]),
    dict(
        name='more',
        config='tiny.py',
        seeds=[0],
        starts_from='lip',
        changes={{'optim_wrapper.optimizer.lr': 0.0}},
    ),
    dict(name='as is', config='tiny.py', seeds=[1], tests='lip'),
    dict(name='none', label='an arm for later', config='tiny.py', seeds=[]),
]
compared = [('lip', 'plain'), ('none', 'plain')]
planned = ['something else']
"""


@pytest.fixture
def study(tmp_path):
    write_tiny_project(tmp_path)
    (tmp_path / 'kept').mkdir()
    shutil.copy(tmp_path / 'data/val.json', tmp_path / 'kept/val.json')
    (tmp_path / 'study.py').write_text(STUDY.format(folder=tmp_path.as_posix()))
    return tmp_path / 'study.py'


def pretend(run, study, shift):
    """Keep what a training would: the true boxes, off by some pixels."""
    truth = json.loads(run.truth.read_text())
    found = [
        dict(
            image_id=a['image_id'],
            category_id=a['category_id'],
            bbox=[a['bbox'][0] + shift, *a['bbox'][1:]],
            score=0.9 - 0.001 * a['id'],
        )
        for a in truth['annotations']
    ]
    run.detections.write_bytes(gzip.compress(json.dumps(found).encode()))
    record = dict(key=run.key(), code=plan.code_digest(), data={}, seconds=3600)
    record.update(figures=score(study, run))
    run.record_file.write_text(json.dumps(record))


def test_runs_that_are_done_are_counted_and_told(study):
    plain, other, lip, *_ = (one := read_study(study)).runs
    names = ['plain:0', 'plain:1', 'lip:0', 'lip:1', 'more:0', 'as is:1']
    assert [run.name for run in one.left()] == names
    pretend(plain, one, 2)
    pretend(other, one, 3)
    pretend(lip, one, 1)
    lines = read_study(study).outlook()
    assert lines == [
        '3 of 6 runs are done',
        'left: lip:1',
        'left: more:0',
        'left: as is:1',
        'about 3.0 hours, by the runs so far',
        'compared: with LIP over plain',
        'planned: an arm for later',
        'planned: something else',
    ]
    page = write_results(one, resamples=50).read_text()
    assert f'| with LIP | 1 | {100 * lip.record()["figures"]["AP"]:.1f} |' in page
    mean = 50 * sum(run.record()['figures']['AP'] for run in (plain, other))
    assert f'| plain | 2 | {mean:.1f} ± ' in page
    assert '| with LIP over plain | +' in page
    assert 'To be done: lip:1 more:0 as is:1.' in page
    assert {path.name for path in one.results.glob('*.png')} == {'arms.png', 'differences.png'}


def test_costs_are_measured_apart(study):
    one = read_study(study)
    for run in (one.runs[0], one.runs[-1]):  # the last one trains nothing, and costs nothing
        pretend(run, one, 1)
    write_costs(one, repeats=1)
    arms = json.loads(one.costs_file.read_text())['arms']
    assert list(arms) == ['plain', 'lip', 'more']
    assert arms['lip'] != arms['plain']
    adds = [arms[name]['mega_multiply_adds'] for name in arms]
    assert adds[0] < adds[1] == adds[2]
    page = write_results(one, resamples=50).read_text()
    assert f'| {adds[0]:,.0f} |' in page
    assert '![AP against cost](cost.png)' in page
    assert (one.results / 'cost.png').is_file()


def test_another_config_is_another_run_and_older_code_is_told(study):
    one = read_study(study)
    for run in one.runs:
        pretend(run, one, 1)
    assert 'nothing left' in read_study(study).outlook()
    record = json.loads(one.runs[0].record_file.read_text())
    one.runs[0].record_file.write_text(json.dumps({**record, 'code': 'another'}))
    assert read_study(study).outlook()[-3] == 'by older code than there is now: plain:0'
    config = study.with_name('tiny.py')
    text = config.read_text()
    config.write_text(text + "\nwork_dir = 'elsewhere'\n")  # decides nothing
    assert not read_study(study).left()
    config.write_text(text + '\ntrain_cfg = dict(max_epochs=2)\n')
    longer = read_study(study)
    assert len(longer.left()) == 6
    # What is kept is not written over, and no run goes on with the other's checkpoints.
    assert 'left: plain:1, whose place the results of another config have' in longer.outlook()
    with pytest.raises(InputError, match=r'plain-0\.json has the results of plain:0 by another'):
        carry_out(longer)
    assert longer.runs[0].work_dir != one.runs[0].work_dir
    config.write_text(text)
    changed = "label='with LIP', changes=CHANGED"
    study.write_text(study.read_text().replace("label='with LIP'", changed))
    changed = "CHANGED = {'optim_wrapper.optimizer.lr': 1.0}\n"
    study.write_text(changed + study.read_text())
    # The arm that starts from it, too, and the one that tests it.
    names = ['lip:0', 'lip:1', 'more:0', 'as is:1']
    assert [run.name for run in read_study(study).left()] == names


def test_figures_that_are_not_those_of_the_detections_are_refused(study):
    one = read_study(study)
    pretend(one.runs[0], one, 1)
    check_figures(one)
    record = json.loads(one.runs[0].record_file.read_text())
    record['figures']['AP'] += 0.001
    one.runs[0].record_file.write_text(json.dumps(record))
    with pytest.raises(InputError, match='figures of plain:0 are not those'):
        check_figures(one)


def test_data_and_records_that_are_not_the_studys_are_refused(study, monkeypatch):
    monkeypatch.chdir(study.parent)
    kept = study.parent / 'kept/val.json'
    text = kept.read_text()
    truth = json.loads(text)
    truth['annotations'][0]['bbox'][0] += 1
    kept.write_text(json.dumps(truth))
    with pytest.raises(InputError, match=r'val\.json has other annotations than .*data/val\.json'):
        carry_out(read_study(study), only='lip:1')
    kept.write_text(text)
    config = study.with_name('tiny.py')
    wrapped = "train_dataloader = dict(dataset=dict(_delete_=True, type='RepeatDataset', times=2,"
    wrapped += "dataset=dict(type='CocoDataset', data_root='nowhere', ann_file='train.json')))"
    config.write_text(f'{config.read_text()}\n{wrapped}\n')
    with pytest.raises(InputError, match=r'no data at nowhere/train\.json'):
        carry_out(read_study(study), only='lip:1')
    (study.parent / 'kept/lip-1.json').write_text('[]')
    (study.parent / 'kept/lip-1.bbox.json.gz').write_text('')
    with pytest.raises(InputError, match=r'lip-1\.json is no record of a run'):
        check_figures(read_study(study))


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ("name = 'tiny'", '', 'lacks name'),
        ("('lip', 'plain')", "('lip', 'plane')", 'compares plane'),
        ("('lip', 'plain')", "'lip'", "'lip', which is no pair"),
        ("label='with LIP'", "label='with LIP', truth='its.json'", 'have different truths'),
        ("{'model.backbone.type': 'ResNet'}", '{}', 'lip and plain are one and the same detector'),
        ('model.backbone.type', 'modle.backbone.type', 'has none'),
        ("'model.backbone.type'", "'train_cfg.max_epochs.x'", 'plain cannot change train_cfg'),
        ("changes={'optim", "chages={'optim", r'arms\[2\] has chages; an arm may have name, '),
        ("name='lip'", "name='plain'", 'two arms of the name plain'),
        ("name='lip'", "name='l/ip'", "'l/ip' cannot be that of a file"),
        ('seeds=[0, 1], changes', 'seeds=[0, -1], changes', 'the seed -1 is not a whole number'),
        ('seeds=[1]', 'seeds=1', r'arms\[3\]: seeds is 1, and should be a list'),
        ("starts_from='lip'", "starts_from='lipp'", 'no lipp:0 before more:0'),
        (
            'seeds=[0, 1])',
            "seeds=[0, 1]), dict(name='no', config='tine.py', seeds=[])",
            'no config at',
        ),
    ],
)
def test_a_study_at_fault_is_refused(study, old, new, message):
    text = study.read_text()
    assert old in text
    study.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=message):
        read_study(study)


@pytest.mark.slow
def test_a_study_is_carried_out(study, tmp_path):
    study.write_text(study.read_text().replace("truth = 'val.json'", ''))
    run_tool('study.py', study, '--only', 'lip:1', folder=tmp_path)
    one = read_study(study)
    assert 'lip:1' not in [run.name for run in one.left()]
    run_tool('study.py', study, folder=tmp_path)
    one = read_study(study)
    assert not one.left()
    kept = gzip.decompress((tmp_path / 'kept/truth.json.gz').read_bytes())
    assert kept == (tmp_path / 'data/val.json').read_bytes()
    output = run_tool('study.py', study, '--dry-run', folder=tmp_path)
    assert 'nothing left' in output.stdout
    figures = {run.name: run.record()['figures'] for run in one.runs}
    # At a learning rate of zero it stays the detector that it starts from.
    assert figures['more:0'] == figures['lip:0']
    assert figures['as is:1'] == figures['lip:1']
    assert figures['lip:0'] != figures['lip:1']
