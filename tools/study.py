"""Train and compare the arms of a study, going on where it was.

tools/study.py configs/study/dsb2018.py                train what is missing, score, write tables
tools/study.py configs/study/dsb2018.py --dry-run      say what is left; check what is there
tools/study.py configs/study/dsb2018.py --only lip-resnet18:3   one run; others do the rest
tools/study.py configs/study/dsb2018.py --costs        measure the arms' backbones, write tables
"""

import argparse

from lip_mmdet.command_line import run_tool


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('study', metavar='CONFIG', help='of the study')
    parser.add_argument('--dry-run', action='store_true', help='train nothing')
    parser.add_argument('--only', metavar='ARM:SEED', help='do this run alone, and no tables')
    parser.add_argument('--costs', action='store_true', help='train nothing, time the backbones')
    args = parser.parse_args()
    # Says first what is missing of MMDetection.
    import lip_mmdet.plugin  # noqa: F401
    from lip_mmdet.study import carry_out, check_figures, read_study, write_costs, write_results

    study = read_study(args.study)
    check_figures(study)
    if args.dry_run:
        print('\n'.join(study.outlook()))
        return
    if args.costs:
        write_costs(study)
    else:
        carry_out(study, args.only)
    if args.only is None and any(run.record() for run in study.runs):
        print(f'wrote {write_results(study)}')


if __name__ == '__main__':
    run_tool(main)
