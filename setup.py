"""Packaging: pure Python, version ranges instead of pins, configs inside the wheel."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


def version() -> str:
    namespace = {}
    exec((ROOT / 'lip_mmdet' / 'version.py').read_text(encoding='utf-8'), namespace)
    return namespace['__version__']


class BuildWithConfigs(build_py):
    """Carry configs, tools and model index in ``lip_mmdet/.mim``, as OpenMMLab packages do."""

    def run(self):
        super().run()
        # An editable install reads them from the checkout.
        if getattr(self, 'editable_mode', False):
            return
        target = Path(self.build_lib) / 'lip_mmdet' / '.mim'
        shutil.rmtree(target, ignore_errors=True)
        # What only a checkout needs stays out.
        ignore = shutil.ignore_patterns('__pycache__', '*.pyc', 'demo.py', 'shapes.py')
        for folder in ('configs', 'tools'):
            shutil.copytree(ROOT / folder, target / folder, ignore=ignore)
        shutil.copy(ROOT / 'model-index.yml', target / 'model-index.yml')


setup(
    name='lip-mmdet',
    version=version(),
    description='Local Importance-based Pooling (LIP) backbones for MMDetection',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['lip_mmdet', 'lip_mmdet.*']),
    package_data={'lip_mmdet': ['evaluation/data/*']},
    python_requires='>=3.8',
    # Ranges that any MMDetection 3.x environment already meets, so that installing the plugin
    # upgrades and rebuilds nothing. mmcv, mmengine and mmdet are not among them: OneDL's forks have
    # other names, and pip would put the originals over them. The plugin checks what it finds.
    install_requires=[
        'torch>=1.13',
        'packaging',
        'msgspec',
        'pycocotools',
        'rich',
        'matplotlib>=3.7',
    ],
    extras_require={
        # What tools/export_onnx.py needs.
        'export': ['onnx', 'onnxscript', 'onnxruntime'],
        # What `mim install` adds to the requirements.
        'mim': (ROOT / 'requirements' / 'mminstall.txt').read_text(encoding='utf-8').split(),
    },
    cmdclass={'build_py': BuildWithConfigs},
)
