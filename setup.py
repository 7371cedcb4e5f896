"""Installs the package cifar10, and its scripts as commands."""

import pathlib
import runpy

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent

setup(
    name="cifar10",
    version=runpy.run_path(str(HERE / "cifar10" / "version.py"))["__version__"],
    description="TensorFlow's CIFAR-10 tutorial, in graph mode, on today's TensorFlow",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["cifar10", "cifar10.*"]),
    package_data={"cifar10": ["pretrained/*"]},
    scripts=[
        "scripts/cifar10_train.py",
        "scripts/cifar10_eval.py",
        "scripts/cifar10_multi_gpu_train.py",
        "scripts/cifar10_import_images.py",
        "scripts/cifar10_predict.py",
        "scripts/cifar10_export.py",
        "scripts/cifar10_distributed_train.py",
        "scripts/cifar10_compare.py",
        "scripts/cifar10_benchmark.py",
        "scripts/cifar10_profile.py",
        "scripts/cifar10_plot.py",
        "scripts/benchmark_contenders.py",  # which these import
        "scripts/benchmark_peers.py",
    ],
    install_requires=["tensorflow>=2.21,<2.22", "tensorboard>=2.20", "numpy", "six"],
    extras_require={
        "svhn": ["scipy"],
        "onnx": ["onnx", "onnxruntime"],
        "plot": ["matplotlib"],
        "test": ["pytest", "pytest-xdist", "ruff", "scipy", "onnx", "onnxruntime", "matplotlib", "jax"],
        "benchmark": ["torch", "jax"],
    },
)
