"All settings are in settings.ini; edit there, not here"
import shlex
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(root/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
lib = cfg['lib_path']
# extras = name=requirement[,requirement] ...
extras = {k: v.split(',') for k, v in
          (e.split('=', 1) for e in shlex.split(cfg.get('extras', '')))}
extras['dev'] = shlex.split(cfg.get('dev_requirements', ''))

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'],
    keywords=cfg['keywords'], author=cfg['author'], author_email=cfg['author_email'],
    url=cfg['git_url'], license='Apache-2.0',
    python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=[lib, f'{lib}.*']), include_package_data=True,
    package_data={f'{lib}.recipes': ['options.json']},
    install_requires=shlex.split(cfg.get('requirements', '')),
    extras_require=extras,
    long_description=(root/'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    entry_points={'console_scripts': cfg.get('console_scripts', '').split('\n'),
                  'nbdev': [f'{lib}={lib}._modidx:d']},
)
