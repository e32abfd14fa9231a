"""A study counts what is done, checks its figures, and tells what is compared."""

import gzip
import json
import shutil
import subprocess
import threading
from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from tiny_detector import run_tool, write_tiny_project

import lip_mmdet.plugin  # noqa: F401
from lip_mmdet.errors import InputError
from lip_mmdet.study import (
    carry_out,
    check_figures,
    plan,
    read_study,
    training,
    write_costs,
    write_results,
)
from lip_mmdet.study.machine import machine
from lip_mmdet.study.results import score
from lip_mmdet.visualization import study as study_plots

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


def edit(study, *changes):
    text = study.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    study.write_text(text)


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Let trainings save a checkpoint at once, which says when, and find one thing."""
    monkeypatch.chdir(tmp_path)
    done = SimpleNamespace(commands=[], status=0, score=0.05)

    def train(command, **_):
        done.commands.append(command)
        if not done.status:
            folder = tmp_path / command[command.index('--work-dir') + 1]
            torch.save({'when': len(done.commands)}, folder / 'epoch_1.pth')
        return subprocess.CompletedProcess(command, done.status)

    def detect(config, checkpoint, work_dir):
        truth = json.loads((tmp_path / 'data/val.json').read_text())['annotations'][0]
        found = {name: truth[name] for name in ('image_id', 'category_id', 'bbox')}
        results = tmp_path / 'found.json'
        results.write_text(
            json.dumps([{**found, 'score': s} for s in (done.score, 0.049, float('nan'))])
        )
        return SimpleNamespace(results=results)

    monkeypatch.setattr(training.subprocess, 'run', train)
    monkeypatch.setattr(training, 'detect', detect)
    return done


# One class of the file's three.
CLASSES = "'test_dataloader.dataset.metainfo.classes': ('square',)"


@pytest.fixture
def study(tmp_path):
    write_tiny_project(tmp_path)
    (tmp_path / 'kept').mkdir()
    shutil.copy(tmp_path / 'data/val.json', tmp_path / 'kept/val.json')
    (tmp_path / 'study.py').write_text(STUDY.format(folder=tmp_path.as_posix()))
    return tmp_path / 'study.py'


def pretend(run, study, shift, seconds=3600, where='another'):
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
    record = dict(key=run.key(), code=plan.code_digest(), data={}, seconds=seconds, machine=where)
    record.update(figures=score(study, run), max_dets=study.max_dets)
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
        'about 2.0 hours, by the runs elsewhere',  # a test takes no time to speak of
        'compared: with LIP over plain',
        'planned: an arm for later',
        'planned: something else',
    ]
    pretend(lip, one, 1, 7200, machine())
    assert 'about 4.0 hours, by the runs here' in read_study(study).outlook()
    page = write_results(one, resamples=50).read_text()
    assert f'| with LIP | 1 | {100 * lip.record()["figures"]["AP"]:.1f} |' in page
    mean = 50 * sum(run.record()['figures']['AP'] for run in (plain, other))
    assert f'| plain | 2 | {mean:.1f} ± ' in page
    assert '| with LIP over plain | +' in page
    assert 'To be done: lip:1 more:0 as is:1.' in page
    assert {path.name for path in one.results.glob('*.png')} == {'arms.png', 'differences.png'}


def test_costs_are_measured_apart(study, monkeypatch):
    edit(study, ("starts_from='lip',", "starts_from='lip', truth='other.json',"))
    edit(study, ("label='with LIP'", "label='LIP $x^$'"))  # which is no formula
    shutil.copy(study.with_name('kept') / 'val.json', study.with_name('kept') / 'other.json')
    one = read_study(study)
    *_, more, tested = one.runs
    for run in (one.runs[0], more, tested):  # the last one trains nothing, and costs nothing
        pretend(run, one, 1)
    write_costs(one, repeats=1)
    arms = json.loads(one.costs_file.read_text())['arms']
    assert list(arms) == ['plain', 'lip', 'more']
    assert arms['lip'] != arms['plain'] and arms['lip'] == arms['more']
    adds = [arms[name]['mega_multiply_adds'] for name in arms]
    assert adds[0] < adds[1] == adds[2]
    drawn = []
    draw = study_plots.draw_cost
    monkeypatch.setattr(
        study_plots, 'draw_cost', lambda *args: drawn.append(list(args[0])) or draw(*args)
    )
    page = write_results(one, resamples=50).read_text()
    assert f'| {adds[0]:,.0f} |' in page
    assert '![AP against cost](cost.png)' in page
    assert (one.results / 'cost.png').is_file()
    assert drawn == [['plain']]  # AP by other annotations has no place beside it
    # What another backbone of the arm cost is no longer its cost.
    edit(study, ("'model.backbone.type': 'ResNet'", "'model.backbone.style': 'caffe'"))
    one = read_study(study)
    pretend(one.runs[0], one, 1)
    page = write_results(one, resamples=50).read_text()
    (row,) = [line for line in page.splitlines() if line.startswith('| plain |')]
    assert row.endswith('| - | - | - |')
    assert 'cost.png' not in page  # none of those that are left is on the same annotations
    wrapped = "dict(type='LIPBackbone', backbone=dict(type='ResNet', depth=18), _delete_=True)"
    wrapped = f"'model.backbone': {wrapped}"
    edit(study, ("'model.backbone.style': 'caffe'", wrapped))
    write_costs(read_study(study), repeats=1)
    assert 'LIPBackbone' in json.loads(one.costs_file.read_text())['arms']['plain']['backbone']
    edit(study, (wrapped, "'model.backbone.in_channels': 1"))
    with pytest.raises(InputError, match='no costs of plain: its backbone does not run: '):
        write_costs(read_study(study))


def test_another_config_is_another_run_and_older_code_is_told(study):
    one = read_study(study)
    for run in one.runs:
        pretend(run, one, 1)
    assert 'nothing left' in read_study(study).outlook()
    record = json.loads(one.runs[0].record_file.read_text())
    one.runs[0].record_file.write_text(json.dumps({**record, 'code': 'another'}))
    assert read_study(study).outlook()[-3] == 'by older code than there is now: plain:0'
    for run in one.runs:
        record = json.loads(run.record_file.read_text())
        run.record_file.write_text(json.dumps({**record, 'code': 'another'}))
    assert read_study(study).outlook()[-3] == 'by older code than there is now: all'
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
    config.write_text(text + "\ndefault_hooks = dict(ema=dict(type='EMAHook'))\n")
    assert len(read_study(study).left()) == 6
    config.write_text(text)
    added = "{'experiment_name': 'one', 'optim_wrapper.optimizer.lr'"  # which tiny.py has not
    edit(study, ("{'optim_wrapper.optimizer.lr'", added))
    assert 'experiment_name' in read_study(study).runs[4].config
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
    # They can be counted to another number without training again.
    edit(study, ('planned =', 'max_dets = 1\nplanned ='))
    check_figures(read_study(study))
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
        ("name = 'tiny'", "name = 'tiny'\nmax_dets = 0", 'should be at least 1'),
        ("('lip', 'plain')", "('lip', 'plane')", 'compares plane'),
        ("('lip', 'plain')", "'lip'", "'lip', which is no pair"),
        ("label='with LIP'", "label='with LIP', truth='its.json'", 'have different truths'),
        ("label='with LIP'", "label='plain'", 'two arms of the name lip or the label plain'),
        ("label='with LIP'", f"label='LIP', changes={{{CLASSES}}}", 'which detect other classes'),
        ("tests='lip'", "tests='lip', starts_from='lip'", 'starts from one; leave one out'),
        ("name = 'tiny'", 'name = tiny', 'cannot be read: name .tiny. is not defined'),
        ("name='plain'", "name='..'", 'cannot be that of a file'),
        ("{'model.backbone.type': 'ResNet'}", '{}', 'lip and plain are one and the same detector'),
        ('model.backbone.type', 'modle.backbone.type', 'has none'),
        ('model.backbone.type', 'custom_imports.imports', 'custom_imports of plain: .*ResNet'),
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


def test_what_is_close_to_an_option_is_told(study, capsys):
    edit(study, ("planned = ['something else']", 'max_detections = 400\nhelper = 3'))
    assert read_study(study).max_dets == 100
    assert capsys.readouterr().err.splitlines() == [
        f'{study}: nothing reads max_detections; is it max_dets?'
    ]


def test_an_arm_may_import_a_backbone_of_its_own(study, tmp_path, monkeypatch):
    (tmp_path / 'backbone_of_an_arm.py').write_text(
        'from mmdet.models import ResNet\n'
        'from mmdet.registry import MODELS\n'
        '@MODELS.register_module()\n'
        'class BackboneOfAnArm(ResNet):\n'
        '    pass\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    imports = "'custom_imports.imports': ['lip_mmdet.plugin', 'backbone_of_an_arm'], "
    edit(
        study,
        ("'model.backbone.type': 'ResNet'", imports + "'model.backbone.type': 'BackboneOfAnArm'"),
    )
    (run,) = [run for run in read_study(study).runs if run.name == 'plain:0']
    assert type(MODELS.build(run.config.model.backbone)).__name__ == 'BackboneOfAnArm'


def test_only_what_is_detected_counts(study):
    edit(study, ('changes={', f'changes={{{CLASSES}, '), ("[('lip', 'plain'), ", '['))
    one = read_study(study)
    run = one.runs[0]
    truth = json.loads(run.truth.read_text())
    truth['annotations'] = [a for a in truth['annotations'] if a['category_id'] == 1]
    found = [{**a, 'score': 0.9} for a in truth['annotations']]
    run.detections.write_bytes(gzip.compress(json.dumps(found).encode()))
    assert score(one, run)['AP'] == 1


def test_all_arms_are_trained_with_one_seed_before_the_next(study, quick):
    one = read_study(study)
    carry_out(one)
    folders = [c[c.index('--work-dir') + 1].split('/')[-2:] for c in quick.commands]
    order = [f'{arm}:{seed[0]}' for arm, seed in folders]
    assert order == ['plain:0', 'lip:0', 'more:0', 'plain:1', 'lip:1']
    kept = json.loads(gzip.decompress(one.runs[0].detections.read_bytes()))
    assert [found['score'] for found in kept] == [quick.score]  # not below it, and a number
    assert not one.left()


def test_nothing_starts_from_a_detector_that_is_not_the_recorded_one(study, quick):
    edit(
        study,
        ("tests='lip'", "tests='lip'), dict(name='it', config='tiny.py', seeds=[1], tests='as is'"),
    )
    one = read_study(study)
    lip = one.runs[3]
    lip.work_dir.mkdir(parents=True)
    torch.save({}, lip.work_dir / 'epoch_1.pth')  # half trained, for all that is known
    for only in ('as is:1', 'it:1'):
        with pytest.raises(InputError, match='the detector of lip:1 is not on this machine, whole'):
            carry_out(one, only)
    (lip.work_dir / 'epoch_1.pth').unlink()
    carry_out(one, 'lip:1')
    carry_out(one, 'it:1')
    torch.save({}, lip.work_dir / 'epoch_1.pth')
    with pytest.raises(InputError, match='the detector of lip:1 is not on this machine, whole'):
        carry_out(one, 'as is:1')


def test_a_run_goes_on_alone_with_its_own_data(study, quick, capsys):
    one = read_study(study)
    run, quick.status = one.runs[0], 1
    with pytest.raises(InputError, match='plain:0 failed'):
        carry_out(one, 'plain:0')
    torch.save({}, run.work_dir / 'epoch_1.pth')
    fcntl = pytest.importorskip('fcntl')
    other = open(run.work_dir / 'log')  # noqa: SIM115
    fcntl.flock(other, fcntl.LOCK_EX)
    threading.Timer(1, other.close).start()
    with pytest.raises(InputError, match='plain:0 failed'):
        carry_out(one, 'plain:0')
    assert 'plain:0: waiting for another process that trains it' in capsys.readouterr().out
    assert quick.commands[-1][-1] == '--resume'
    file = study.with_name('data') / 'train.json'
    file.write_text(file.read_text() + ' ')
    with pytest.raises(InputError, match='plain:0 began to train on other data'):
        carry_out(one, 'plain:0')


def test_a_training_can_go_on_whatever_its_config_says(study, quick):
    with open(study.with_name('tiny.py'), 'a') as config:
        config.write("""
custom_hooks = []
resume = True
default_hooks = dict(checkpoint=dict(save_optimizer=False, save_last=False))
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=4, val_interval=2)
""")
    one = read_study(study)
    carry_out(one, 'plain:0')
    config = Config.fromfile(one.runs[0].work_dir / 'config.py')
    assert config.resume is False
    assert config.default_hooks.resume.type == 'LIPResumeHook'
    saving = config.default_hooks.checkpoint
    assert saving.save_optimizer and saving.save_last and not saving.by_epoch


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ("'model.backbne.depth': 18", 'the model of plain cannot be built: .*backbne'),
        ("'test_dataloader.dataset.data_prefix.img': 'none/'", 'no image folder .*none'),
        ("'load_from': 'none.pth'", 'no data at none.pth'),
    ],
)
def test_what_would_fail_later_is_said_first(study, quick, changes, message):
    with open(study.with_name('tiny.py'), 'a') as config:
        config.write('load_from = None\n')
    edit(study, ("'model.backbone.type': 'ResNet'", changes))
    with pytest.raises(InputError, match=message):
        carry_out(read_study(study))
    assert not quick.commands


def test_detections_that_the_config_does_not_keep_are_missed_aloud(study, quick, capsys):
    edit(study, ('planned =', 'max_dets = 101\nplanned ='))
    carry_out(read_study(study), 'plain:0')
    assert 'plain keeps at most 100 detections of an image' in capsys.readouterr().err
    edit(study, ('max_dets = 101', 'max_dets = 100'))
    carry_out(read_study(study), 'plain:1')
    assert 'keeps at most' not in capsys.readouterr().err


def test_a_page_of_the_users_is_not_written_over(study):
    (study.parent / 'kept/README.md').write_text('my notes')
    with pytest.raises(InputError, match=r'README\.md is another page'):
        check_figures(read_study(study))


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
