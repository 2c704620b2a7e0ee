"""Install mmdefect; the exact versions that were measured together are in constraints.txt."""

from pathlib import Path
from shutil import copytree, rmtree

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent


class BuildWithConfigs(build_py):
    """Ship configs/ and tools/ inside the package, where ``mmdefect::`` bases and mim look for them."""

    def run(self):
        super().run()
        if self.editable_mode:  # configs are read from the checkout
            return
        for name in ('configs', 'tools'):
            target = Path(self.build_lib) / 'mmdefect' / '.mim' / name
            rmtree(target, ignore_errors=True)
            copytree(HERE / name, target)


version = next(line.split("'")[1] for line in (HERE / 'mmdefect' / '__init__.py').read_text().splitlines()
               if line.startswith('__version__'))

setup(
    name='mmdefect',
    version=version,
    description='Defects made on the fly, with exact labels, for any MMSegmentation model',
    python_requires='>=3.10',
    packages=find_packages(include=['mmdefect', 'mmdefect.*']),
    install_requires=[
        'torch>=2.0', 'torchvision', 'kornia>=0.7', 'numpy', 'opencv-python', 'scipy', 'pillow', 'matplotlib', 'rich',
        'prettytable',
    ],
    cmdclass={'build_py': BuildWithConfigs},
)
