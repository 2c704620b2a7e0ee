"""Install mmdefect; the exact versions that were measured together are in constraints.txt.

Plain ``mmdefect`` is what a machine on the line needs; with ``mmdefect[runtime]`` it predicts from exported files,
without torch. Training needs ``mmdefect[train]`` and OpenMMLab, of which two alternative distributions provide the same
modules: a requirement on one of them would put it beside the other. ``mmdefect[mm]`` names the maintained one
(``onedl-*``) and brings ``train``; who has upstream OpenMMLab installs ``mmdefect[train]``. ``mmdefect doctor`` says
what is missing.
"""

from pathlib import Path
from shutil import copy2, copytree, ignore_patterns, rmtree

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent

#: What prediction on the line imports, and nothing else.
CORE = ['numpy>=1.26', 'opencv-python>=4.8']
TRAIN = [
    'filelock>=3.12',
    'jinja2>=3.1',
    'matplotlib>=3.7',
    'pillow>=10',
    'prettytable>=3.9',
    'rich>=13',
    'scipy>=1.11',
    'threadpoolctl>=3.3',
    'torch>=2.2',
    'torchvision>=0.17',
]
MM = [
    'onedl-mmcv>=2.3.6,<3',
    'onedl-mmengine>=0.10.12,<1',
    'onedl-mmpretrain>=1.3.6,<2',
    'onedl-mmsegmentation>=1.4.2,<2',
]
RUNTIME = ['onnxruntime>=1.17']
EXTRAS = {
    'train': TRAIN,
    'mm': [*TRAIN, *MM],
    'pretrain': [*TRAIN, 'scikit-learn>=1.4', 'tensorboard>=2.15', 'timm>=1.0'],
    'generation': [
        *TRAIN,
        'accelerate>=1.0',
        'diffusers>=0.32',
        'kornia>=0.8',
        'pyyaml>=6',
        'safetensors>=0.4',
        'transformers>=4.48',
    ],
    'runtime': RUNTIME,
    'export': [*TRAIN, *RUNTIME, 'onnx>=1.16', 'onnxscript>=0.5'],
    'serve': [*RUNTIME, 'fastapi>=0.110', 'prometheus-client>=0.20', 'python-multipart>=0.0.20', 'uvicorn>=0.27'],
    'ray': ['pandas>=2.2', 'pyarrow>=17', 'ray>=2.40'],
    'dev': [
        *TRAIN,
        'hypothesis>=6.100',
        'kornia>=0.8',
        'packaging>=23',
        'pytest>=8',
        'pytest-xdist>=3.5',
        'pyyaml>=6',
        'scikit-learn>=1.4',
        'ruff>=0.14',
        'setuptools>=64',
        'wheel>=0.41',
    ],
}


class BuildWithConfigs(build_py):
    """Ship bash/, configs/, tools/ and the pins inside the package: ``mmdefect::``, mim and doctor look there."""

    def run(self):
        super().run()
        if self.editable_mode:  # they are read from the checkout
            return
        target = Path(self.build_lib) / 'mmdefect' / '.mim'
        rmtree(target, ignore_errors=True)
        for name in ('bash', 'configs', 'tools'):
            copytree(HERE / name, target / name, ignore=ignore_patterns('__pycache__'))
        copy2(HERE / 'constraints.txt', target)


def read_version():
    lines = (HERE / 'mmdefect' / '__init__.py').read_text(encoding='utf-8').splitlines()
    return next(line.split("'")[1] for line in lines if line.startswith('__version__'))


setup(
    name='mmdefect',
    version=read_version(),
    description='Defects made on the fly, with exact labels, for any MMSegmentation model',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8') if (HERE / 'README.md').is_file() else '',
    long_description_content_type='text/markdown',
    python_requires='>=3.10',
    packages=find_packages(include=['mmdefect', 'mmdefect.*']),
    include_package_data=True,
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={'console_scripts': ['mmdefect = mmdefect.__main__:main']},
    cmdclass={'build_py': BuildWithConfigs},
)
