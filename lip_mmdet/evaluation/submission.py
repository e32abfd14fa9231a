"""Results for COCO's test-dev server: written if it would take them, refused if it would not."""

from __future__ import annotations

import io
import json
import math
import os
import re
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

from lip_mmdet.errors import InputError
from lip_mmdet.evaluation.ground_truth import GroundTruth
from lip_mmdet.evaluation.json_file import parse_json, read_json
from lip_mmdet.files import replace_on_success, write_bytes, write_text

_NAME = 'detections_test-dev2017_{}_results'
_NAME_PATTERN = re.compile(r'detections_test-dev2017_[\w.-]+_results')
_ALGORITHM_PATTERN = re.compile(r'[\w.-]+')
_MAX_PER_IMAGE = 100
_KEYS = ('image_id', 'category_id', 'bbox', 'score')


def submission_problems(
    results: Any, ground_truth: GroundTruth, allow_missing: bool = False
) -> dict[str, int]:
    """Count what the server would refuse; empty if nothing.

    Args:
        results: the parsed results file.
        ground_truth: images and categories, from test-dev's ``image_info_test-dev2017.json``.
        allow_missing: accept images without any detection.
    """
    if not isinstance(results, list):
        return {'a file that is not a list of detections': 1}
    images = set(ground_truth.image_ids.tolist())
    categories = set(ground_truth.category_ids.tolist())
    problems: Counter = Counter()
    per_image: Counter = Counter()
    for result in results:
        if not _is_well_formed(result):
            problems['detections without numeric image_id, category_id, score and four bbox'] += 1
            continue
        image, box, score = result['image_id'], result['bbox'], result['score']
        per_image[image] += 1
        problems['detections in unknown images'] += image not in images
        problems['detections of unknown categories'] += result['category_id'] not in categories
        if not all(abs(number) < math.inf for number in box):
            problems['boxes that are not finite'] += 1
        elif min(box) < 0:
            problems['boxes with a negative number'] += 1
        # Not the other way round: NaN is outside too.
        problems['scores outside [0, 1]'] += not 0 <= score <= 1
    problems[f'images with more than {_MAX_PER_IMAGE} detections'] = sum(
        count > _MAX_PER_IMAGE for count in per_image.values()
    )
    if not allow_missing:
        problems['images without detections'] = len(images - per_image.keys())
    return {problem: count for problem, count in problems.items() if count}


def check_submission(
    path: str | os.PathLike, ground_truth: GroundTruth, allow_missing: bool = False
) -> int:
    """Check a results file, or the zip that holds one, as the server would.

    Args:
        path: ``detections_test-dev2017_[alg]_results.json``, or a zip of that name with it inside.
        ground_truth: images and categories of test-dev.
        allow_missing: accept images without any detection.

    Returns:
        The number of detections.

    Raises:
        InputError: it would be refused; the message counts each reason.
    """
    path = Path(path)
    if not _NAME_PATTERN.fullmatch(path.stem) or path.suffix not in ('.json', '.zip'):
        raise InputError(
            f'submission {path}: the server wants a file named {_NAME.format("[alg]")}.json, zipped'
        )
    results = _read_zip(path) if path.suffix == '.zip' else read_json(path, 'submission')
    _refuse_problems(results, ground_truth, f'submission {path}', allow_missing)
    return len(results)


def write_submission(
    folder: str | os.PathLike,
    algorithm: str,
    results: list[dict],
    ground_truth: GroundTruth,
    source: str,
    allow_missing: bool = False,
) -> tuple[Path, Path]:
    """Write the results under the server's name, and the zip it wants.

    Args:
        folder: where to.
        algorithm: the ``[alg]`` in the name; letters, digits, ``.``, ``-`` and ``_``.
        results: parsed COCO results; of each detection the server's four fields are kept.
        ground_truth: images and categories of test-dev.
        source: how messages name the results.
        allow_missing: accept images without any detection.

    Returns:
        The JSON file and the zip.

    Raises:
        InputError: the server would refuse them; nothing is written.
    """
    if not _ALGORITHM_PATTERN.fullmatch(algorithm):
        raise InputError(f'algorithm name {algorithm!r}: use letters, digits, ".", "-" and "_"')
    _refuse_problems(results, ground_truth, source, allow_missing)
    name = _NAME.format(algorithm)
    text = json.dumps([{key: result[key] for key in _KEYS} for result in results])
    json_path, zip_path = Path(folder) / f'{name}.json', Path(folder) / f'{name}.zip'
    with replace_on_success(json_path) as json_file, replace_on_success(zip_path) as zip_file:
        write_text(json_file, text, json_path)
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, 'w', zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f'{name}.json', text)
        write_bytes(zip_file, packed.getvalue(), zip_path)
    return json_path, zip_path


def _refuse_problems(
    results: Any, ground_truth: GroundTruth, source: str, allow_missing: bool
) -> None:
    problems = submission_problems(results, ground_truth, allow_missing)
    if problems:
        listed = ', '.join(f'{count} {problem}' for problem, count in problems.items())
        raise InputError(f'{source} would be refused: {listed}')


def _is_well_formed(result: Any) -> bool:
    return (
        isinstance(result, dict)
        and type(result.get('image_id')) is int
        and type(result.get('category_id')) is int
        and type(result.get('score')) in (int, float)
        and isinstance(result.get('bbox'), list)
        and len(result['bbox']) == 4
        and all(type(number) in (int, float) for number in result['bbox'])
    )


def _read_zip(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            if members != [f'{path.stem}.json']:
                listed = ', '.join(members[:3]) or 'nothing'
                raise InputError(
                    f'submission {path} holds {listed}; it has to hold {path.stem}.json alone'
                )
            content = archive.read(members[0])
    except FileNotFoundError:
        raise InputError(f'submission {path} does not exist; check the path') from None
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f'submission {path} is not a whole zip archive: {error}') from None
    return parse_json(content, f'submission {path}')
